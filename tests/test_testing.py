"""Each assertion lets right functions pass, and says what is wrong with the others."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from torch._dynamo.testing import CompileCounter
from torch.func import vmap

from optinfra import tree
from optinfra.returns import gae
from optinfra.testing import (
    advance_state,
    assert_compiles_once,
    assert_lifts,
    assert_pure,
    assert_trees_close,
    assert_trees_equal,
    strategies,
)
from optinfra.types import Action
from tests import examples

X = torch.tensor([[0.5, -1.5, 2.0], [1.0, 0.0, -3.0]])


# --- comparing trees ----------------------------------------------------------------------


@pytest.mark.parametrize("same", [assert_trees_equal, assert_trees_close])
def test_equal_trees_are_equal_with_their_nans_infinities_and_other_leaves(same):
    def make():
        numbers = torch.tensor([1.0, float("nan"), float("inf"), -0.0])
        return {"x": (numbers, numbers.to(torch.complex64)), "name": "a", "flag": X > 0, "no": ()}

    same(make(), make())


@pytest.mark.parametrize("same", [assert_trees_equal, assert_trees_close])
@pytest.mark.parametrize(
    ("actual", "expected", "message"),
    [
        ({"a": X}, {"b": X}, r"The structure is .*'a'.*expected.*'b'"),
        ({"a": X}, {"a": X[0]}, r"`a` is torch.float32 \[2, 3\] on cpu, expected .* \[3\] on cpu"),
        (X, X.double(), r"`result` is torch.float32 .*, expected torch.float64"),
        ((X, 1), (X, 1.0), r"`1` is a int, expected a float"),
        ((X, "a"), (X, "b"), r"`1` is 'a', expected 'b'"),
        ((X > 0,), (X >= 0,), r"`0\[1, 1\]` is False, expected True \(1 of 6 numbers differ\)"),
        ((torch.tensor(7),), (torch.tensor(8),), r"`0` is 7, expected 8"),
        (torch.tensor(2**60), torch.tensor(2**60 + 1), r"is 1152921504606846976, expected"),
        (
            Action(X, X + 0),
            Action(X, X + torch.tensor([0, 0, 0.25])),
            r"`discrete\[0, 2\]` is 2, expected 2.25 \(2 of 6 numbers differ\)",
        ),
    ],
)
def test_a_difference_is_told_by_leaf_index_and_both_numbers(same, actual, expected, message):
    with pytest.raises(AssertionError, match=message):
        same(actual, expected)


@pytest.mark.parametrize(
    ("actual", "expected", "message"),
    [
        (
            torch.tensor(0.1),
            torch.tensor(0.1).nextafter(X[0, 2]),
            "is 0.100000001, expected 0.1000",
        ),
        (torch.tensor(0.1).double(), torch.tensor(0.1), "float64"),
        (torch.tensor(0.0), torch.tensor(-0.0), "is 0, expected -0"),
        (torch.tensor(1j), torch.tensor(1j + 1e-7), "expected"),
        (torch.tensor(float("nan")), torch.tensor(0.0), "is nan, expected 0"),
    ],
)
def test_equal_means_bit_for_bit(actual, expected, message):
    with pytest.raises(AssertionError, match=message):
        assert_trees_equal(actual, expected)


def test_close_means_within_the_sum_of_both_tolerances():
    assert_trees_close(torch.tensor([10.0, 0.0]), torch.tensor([10.25, 0.03]), rtol=0.02, atol=0.05)
    for rtol, atol in ((0.02, 0.01), (0.0, 0.05)):
        with pytest.raises(AssertionError, match=r"`result\[0\]` is 10, expected 10.25"):
            assert_trees_close(
                torch.tensor([10.0, 0.0]), torch.tensor([10.25, 0.0]), rtol=rtol, atol=atol
            )
    with pytest.raises(AssertionError, match=r"is 1, expected 1\.0001"):
        assert_trees_close(torch.tensor(1.0), torch.tensor(1.0001))


# --- purity -------------------------------------------------------------------------------


LEARNER = examples.learner()


@given(strategies.keys(), strategies.batches(examples.SPEC, junk=True))
def test_an_update_of_ours_is_pure(key, batch):
    assert_pure(LEARNER.update, LEARNER.init(key), batch)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x,
        lambda x: x.T,
        lambda x: x.clone().add_(1),
        lambda x: {"x": x.sum(), "name": "a"},
    ],
)
def test_purity_lets_arguments_be_returned_and_copies_be_written(function):
    assert_pure(function, X.clone())
    assert_pure(function, X.clone().requires_grad_())
    assert_pure(function, torch.full((2, 2), float("nan")))


def copied(x):
    return x.detach().clone().requires_grad_(x.requires_grad)


def numpy_of(x):
    return x.numpy()


def rebinds(params):
    params["w"] = params["w"] * 1
    return params["w"]


def pops(params):
    return params.pop("w", X)


def accumulates(x):
    x.sum().backward()
    return x.detach()


def requires(x):
    return x.requires_grad_().detach()


def counts(x, calls=[]):  # noqa: B006
    calls.append(x)
    return x + len(calls)


def overwrites_its_result(x, buffer=torch.zeros(2, 3)):  # noqa: B008
    return buffer.add_(x)


def draws_and_forgets(x):
    torch.rand(())
    return x


def draws_from_numpy_and_forgets(x):
    np.random.rand()
    return x


@pytest.mark.parametrize(
    ("function", "argument", "message"),
    [
        (lambda x: x.add_(1), X, r"not write into argument 0. .*`result\[0, 0\]` is 2.5, expected"),
        (lambda x: x.mul_(1), X, "not write into argument 0, not even what it held"),
        (lambda x: numpy_of(x).fill(0) or x, X, "not write into argument 0"),
        (lambda s: s["w"][0].add_(1), {"v": X, "w": (X,)}, "argument 0, leaf `w/0`"),
        (rebinds, {"w": X}, "not write into argument 0, leaf `w`, not even"),
        (pops, {"w": X}, "not add or remove leaves of arguments: 0/w"),
        (accumulates, X.clone().requires_grad_(), "not change `requires_grad` or `grad` of arg"),
        (requires, X, "not change `requires_grad` or `grad` of argument 0"),
        (torch.rand_like, X, "not draw from torch's global generator"),
        (draws_and_forgets, X, "not draw from torch's global generator"),
        (lambda x: x + np.random.normal(), X, "not draw from numpy's global generator"),
        (draws_from_numpy_and_forgets, X, "not draw from numpy's global generator"),
        (counts, X, r"same call must .* `result\[0, 0\]` is 2.5, expected 1.5"),
        (overwrites_its_result, X, r"same call must .* `result\[0, 0\]` is 1, expected 0.5"),
    ],
)
def test_impurity_is_told(function, argument, message):
    with pytest.raises(AssertionError, match=message):
        assert_pure(function, tree.map(copied, argument))


# --- lifting ------------------------------------------------------------------------------


@given(*[strategies.trajectories(examples.SPEC, min_steps=4, max_steps=4, min_agents=2)] * 2)
def test_generalised_advantages_lift(one, other):
    if one.terminated.shape != other.terminated.shape:
        other = one

    def advantages(trajectory):
        rewards, values = trajectory.obs[0][..., 0], trajectory.obs[1][..., 0]
        ends = trajectory.terminated, trajectory.truncated
        return gae(rewards, values, values, *ends, discount=0.9, gae_lambda=0.8)

    assert_lifts(advantages, (one,), (other,))


class Halved(torch.autograd.Function):
    """Under vmap by way of float16: wrong by up to 5e-4 of the value."""

    @staticmethod
    def forward(x):
        return x / 2

    @staticmethod
    def setup_context(ctx, inputs, output): ...

    @staticmethod
    def vmap(info, in_dims, x):
        return (x.half() / 2).float(), in_dims[0]


class Centred(Halved):
    """Under vmap one member's result depends on the others."""

    @staticmethod
    def vmap(info, in_dims, x):
        return (x - x.mean(in_dims[0], keepdim=True)) / 2, in_dims[0]


def written_in_place(x):
    out = torch.zeros(3)
    out += x
    return out


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x if x.sum() > 0 else -x, "must run under vmap. RuntimeError: vmap: It looks"),
        (lambda x: x * x.sum().item(), "must run under vmap. RuntimeError: vmap"),
        (lambda x: x[x > 0].sum(), "must run under vmap. RuntimeError: vmap"),
        (written_in_place, "must run under vmap. RuntimeError: output with shape"),
        (lambda x: torch.histc(x, 3), "must run under vmap. UserWarning: There is a performance"),
        (Centred.apply, r"`result\[0, 0\]` is -0.125, expected 0.25"),
        (lambda x: Halved.apply(x / 3), r"`result\[0, 0\]` is"),
    ],
)
def test_what_does_not_lift_is_told(function, message):
    with pytest.raises(AssertionError, match=message):
        assert_lifts(function, (X[0],), (X[1],))


def test_lifting_takes_tolerances():
    assert_lifts(lambda x: Halved.apply(x / 3), (X[0],), (X[1],), rtol=1e-3)


def test_lifting_takes_two_members_and_lets_their_own_errors_through():
    with pytest.raises(ValueError, match="`members` must be at least 2, got 1"):
        assert_lifts(torch.sin, (X,))
    with pytest.raises(TypeError, match="must be Tensor"):
        assert_lifts(torch.sin, (1,), (2,))


# --- compiling ----------------------------------------------------------------------------


def test_what_compiles_once_passes():
    assert_compiles_once(torch.sin, X)
    assert_compiles_once(lambda x, rate: x * rate, X, 0.5)
    assert_compiles_once(lambda x: (), X, graphs=0)
    assert_compiles_once(lambda state, x: (state + x, x), X.clone(), X, advance=advance_state)
    assert_compiles_once(vmap(torch.sin), X)


def test_every_call_goes_on_with_what_advance_made_of_the_last_one():
    seen = []

    def advance(result, arguments):
        seen.append((result, *arguments))
        return result, arguments[1]

    assert_compiles_once(lambda n, by: n * by, torch.tensor(2), torch.tensor(3), advance=advance)
    assert [[int(x) for x in call] for call in seen] == [[6, 2, 3], [18, 6, 3]]


@pytest.mark.parametrize(
    ("function", "arguments", "advance", "message"),
    [
        (lambda x: x if x.sum() > 0 else -x, (X,), None, "one graph. Unsupported: Data-dependent"),
        (lambda x: print(x.shape) or x, (X,), None, "one graph. Unsupported: .*builtin"),
        (
            lambda x, rate: x * rate, (X, 0.5), lambda _, a: (a[0], a[1] / 2),
            r"compile once, got another call to compile: arguments\[1\] == 0.5$",
        ),
        (
            lambda s, x: (s + x, x), (torch.tensor(0), X), advance_state,
            r"compile once.*'arguments\[0\]'",
        ),
        (
            lambda s, x: (torch.cat([s, x]), x), (X, X), advance_state,
            "compile once.* size mismatch at index 0. expected 2, actual 4",
        ),
        (lambda s, x: (s.T, s + x), (X[:, :2], X[:, :2]), advance_state, "stride mismatch"),
        (lambda x: (), (X,), None, "number of graphs must be 1, got 0"),
    ],
)  # fmt: skip
def test_what_breaks_or_compiles_again_is_told_with_the_reason(
    function, arguments, advance, message
):
    with pytest.raises(AssertionError, match=message):
        assert_compiles_once(function, *arguments, advance=advance)


def test_a_function_that_changes_its_own_constant_compiles_again():
    rates = [0.5]

    def decays(x):
        rates[0] /= 2
        return x * rates[0]

    with pytest.raises(AssertionError, match="compile once"):
        assert_compiles_once(decays, X)


def test_compilations_are_counted_apart_from_all_others_and_change_none():
    counter = CompileCounter()
    mine = torch.compile(scaled, backend=counter, fullgraph=True)
    mine(torch.zeros(3))
    for size in range(2 * torch._dynamo.config.recompile_limit):
        assert_compiles_once(scaled, torch.zeros(size + 2))
    mine(torch.zeros(3))
    assert counter.frame_count == 1


def scaled(x):
    return 2 * x


def test_compiling_takes_two_calls():
    with pytest.raises(ValueError, match="`calls` must be at least 2, got 1"):
        assert_compiles_once(torch.sin, X, calls=1)


# --- the rest -----------------------------------------------------------------------------


def test_importing_the_assertions_loads_neither_hypothesis_nor_the_compiler():
    heavy = {"hypothesis", "torch._inductor", "jax", "chex"}
    code = f"import sys, optinfra.testing; print({heavy} & sys.modules.keys())"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


def test_strategies_tell_how_to_install_hypothesis(monkeypatch):
    monkeypatch.delitem(sys.modules, "optinfra.testing.strategies")
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    with pytest.raises(ModuleNotFoundError, match=r"needs hypothesis. Run: pip install 'optinfra"):
        import optinfra.testing.strategies  # noqa: F401
