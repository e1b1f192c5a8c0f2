"""What the lifts promise: members apart, epochs in order, compiled or not the same."""

import importlib
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import NamedTuple

import chex
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from optinfra import moments, random, tree
from optinfra.iteration import iteration
from optinfra.learners import ppo
from optinfra.lift import TooManyShapesError, compiled, ensemble, epochs, members
from optinfra.signals import extrinsic
from optinfra.types import Learner
from tests import examples

LEARNER = examples.learner()
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


def states(*seeds):
    return tree.stack([examples.state(seed, LEARNER) for seed in seeds])


# --- ensemble -----------------------------------------------------------------------------


def test_ensemble_of_a_learner_is_a_learner_whose_members_equal_single_ones():
    many = ensemble(LEARNER)
    assert isinstance(many, Learner)
    state = many.init(random.split(random.key(1), 3))
    batches = examples.stacked(lambda seed: examples.batch(seed, 9), 1, 2, 3)
    state_after, stats = many.update(state, batches)
    alone = [LEARNER.update(s, b) for s, b in zip(members(state), members(batches))]
    chex.assert_trees_all_close((state_after, stats), tree.stack(alone), **CLOSE)


def test_an_ensemble_values_trajectories_member_by_member():
    def arguments(seed):
        rows, following = examples.trajectory(seed, 6, 2), examples.batch(seed + 1, 2)
        return examples.state(seed, LEARNER).params, rows, following.obs, following.mask

    each = [arguments(seed) for seed in (1, 2, 3)]
    together = ensemble(LEARNER).trajectory_values(*tree.stack(each))
    alone = tree.stack([LEARNER.trajectory_values(*one) for one in each])
    chex.assert_trees_all_close(together, alone, **CLOSE)


def test_ensemble_sweeps_every_hyperparameter():
    hyper = [name for name in tree.named_leaves(states(0)) if name.startswith("hyper/")]
    assert len(hyper) == 4
    numbers = torch.tensor([1e-3, 0.05, 0.3])
    batch = examples.batch(3, 9)
    start = examples.state(0, LEARNER)
    for name in hyper:
        alone = [tree.replace(start, {name: x}) for x in numbers.unbind()]
        swept, _ = ensemble(LEARNER).update(tree.stack(alone), tree.stack([batch] * 3))
        expected = tree.stack([LEARNER.update(state, batch)[0] for state in alone])
        chex.assert_trees_all_close(swept, expected, **CLOSE)
        # One by one, since members of one batched product may differ by rounding alone.
        moved = [(w[0] != w[2]).any() for w in expected.params.weights.values()]
        assert any(moved), f"{name} made no difference"


def test_iteration_sweeps_gamma_lambda_and_strength():
    one = examples.small_iteration()
    start, rollout = one.init(random.key(0)), examples.rollout(5, 6, 2)

    names = ("signals/extrinsic/gamma", "signals/extrinsic/strength", "gae_lambda")
    sweep = torch.tensor([[0.9, 1.0, 0.95], [0.5, 1.0, 0.95], [0.9, 3.0, 0.95], [0.9, 1.0, 0.1]])
    alone = [tree.replace(start, dict(zip(names, row.unbind()))) for row in sweep.unbind()]
    swept = ensemble(one).update(tree.stack(alone), tree.stack([rollout] * 4))
    expected = tree.stack([one.update(state, rollout) for state in alone])
    chex.assert_trees_all_close(swept, expected, **CLOSE)
    critic = expected[0].learner.params.weights["critic.head.heads.extrinsic.weight"]
    assert all((critic[0] != critic[i]).any() for i in (1, 2, 3))


@given(st.integers(0, 2))
def test_what_happens_to_one_member_changes_no_bit_of_another(broken):
    update = ensemble(LEARNER).update
    state = states(1, 2, 3)
    batches = examples.stacked(lambda seed: examples.batch(seed, 9), 1, 2, 3)
    hit = torch.arange(3) == broken
    poisoned = batches._replace(
        advantages=torch.where(hit[:, None], torch.nan, batches.advantages),
        obs=tuple(torch.where(hit[:, None, None], torch.inf, x) for x in batches.obs),
    )
    healthy, sick = update(state, batches)[0], update(state, poisoned)[0]
    for k in set(range(3)) - {broken}:
        chex.assert_trees_all_equal(tree.take(healthy, k), tree.take(sick, k))
    unmoved = tree.take(state, broken).params, tree.take(sick, broken).params
    chex.assert_trees_all_equal(*unmoved)  # its own step was skipped


class Pair(NamedTuple):
    first: Callable
    second: Callable


class Nest(NamedTuple):
    pair: Pair
    last: Callable


@pytest.mark.parametrize("lift", [ensemble, compiled])
def test_lifts_reach_every_function_of_a_record_and_keep_its_shape_and_names(lift, monkeypatch):
    """Each function adds up its tensor: all of it, or each member's own."""
    compilations = []

    def compile_nothing(function, **options):
        compilations.append(options)
        return function

    monkeypatch.setattr(torch, "compile", compile_nothing)

    def add(number):
        def total(x):
            return x.sum() + number

        return total

    nest = lift(Nest(Pair(add(0), add(1)), add(2)))
    assert isinstance(nest, Nest) and isinstance(nest.pair, Pair)
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    for number, function in enumerate((*nest.pair, nest.last)):
        assert function.__name__ == "total"
        expected = torch.tensor([3.0, 7.0]) if lift is ensemble else torch.tensor(10.0)
        torch.testing.assert_close(function(x), expected + number)
    assert len(compilations) == (3 if lift is compiled else 0)
    assert all(options["fullgraph"] for options in compilations)


def test_ensemble_refuses_draws_from_the_global_generator():
    with pytest.raises(RuntimeError, match="randomness"):
        ensemble(lambda x: x + torch.rand(()))(torch.zeros(3))


def test_members_undoes_stacking():
    single = [examples.state(k) for k in range(3)]
    for alone, member in zip(single, members(tree.stack(single)), strict=True):
        chex.assert_trees_all_equal(alone, member)


# --- epochs -------------------------------------------------------------------------------


def counting_learner():
    """A learner that changes nothing but reports the rows it was given."""

    def update(state, batch):
        return state, {"rows": batch.obs[0][:, 0], "advantages": batch.advantages}

    return LEARNER._replace(update=update)


@given(st.integers(1, 3), st.integers(1, 5), st.integers(5, 17))
def test_epochs_visit_each_row_at_most_once_per_epoch(num_epochs, batch_size, rows):
    seen = []

    def update(state, batch):
        seen.append(batch.obs[0][:, 0].long())
        return state, {"nothing": torch.zeros(())}

    numbered = examples.batch(0, rows)
    numbered = numbered._replace(
        obs=(torch.arange(rows).float()[:, None].expand(rows, 3), numbered.obs[1])
    )
    epochs(LEARNER._replace(update=update), num_epochs=num_epochs, batch_size=batch_size).update(
        examples.state(0), numbered
    )
    count = rows // batch_size
    assert len(seen) == num_epochs * count
    for epoch in range(num_epochs):
        visited = torch.cat(seen[epoch * count : (epoch + 1) * count])
        assert visited.numel() == visited.unique().numel() == count * batch_size


def test_epochs_shuffle_anew_each_epoch_and_each_call():
    orders = []

    def update(state, batch):
        orders.append(batch.advantages)
        return state, {"nothing": torch.zeros(())}

    lifted = epochs(LEARNER._replace(update=update), num_epochs=2, batch_size=32)
    batch, state = examples.batch(0, 32), examples.state(0)
    state, _ = lifted.update(state, batch)
    lifted.update(state, batch)
    assert all(not torch.equal(a, b) for i, a in enumerate(orders) for b in orders[:i])


def test_epochs_draw_each_order_and_the_next_state_with_a_key_of_its_own():
    orders = []

    def update(state, batch):
        orders.append(batch.advantages)
        return state, {"nothing": torch.zeros(())}

    rows, state = 7, examples.state(0)
    numbered = examples.batch(0, rows)._replace(mask=torch.ones(rows, dtype=torch.bool))
    numbered = numbered._replace(advantages=torch.arange(rows).float())
    lifted = epochs(LEARNER._replace(update=update), num_epochs=2, batch_size=rows)
    after, _ = lifted.update(state, numbered)
    following, *keys = random.split(state.key, 3).unbind()
    assert torch.equal(after.key, following)
    for key, order in zip(keys, orders, strict=True):
        assert torch.equal(order.argsort().argsort(), random.permutation(key, rows))


def test_epochs_normalise_advantages_over_the_valid_rows_of_the_rollout():
    batch = examples.batch(0, 16)
    lifted = epochs(counting_learner(), num_epochs=1, batch_size=16)
    _, stats = lifted.update(examples.state(0), batch._replace(obs=(batch.obs[0], batch.obs[1])))
    expected = moments.standardize(batch.advantages, batch.mask)
    torch.testing.assert_close(stats["advantages"].sort().values, expected.sort().values)
    valid = batch.advantages[batch.mask]
    torch.testing.assert_close(
        expected[batch.mask], (valid - valid.mean()) / valid.std(unbiased=False)
    )


def test_epochs_report_the_mean_over_their_minibatches():
    reports = iter(torch.tensor([1.0, 2.0, 6.0]).unbind())
    noisy = LEARNER._replace(update=lambda state, batch: (state, {"loss": next(reports)}))
    _, stats = epochs(noisy, num_epochs=1, batch_size=3).update(
        examples.state(0), examples.batch(0, 10)
    )
    assert stats["loss"] == 3.0


def test_epochs_refuse_what_cannot_be():
    with pytest.raises(ValueError, match="`num_epochs` must be at least 1, got 0"):
        epochs(LEARNER, num_epochs=0, batch_size=1)
    with pytest.raises(ValueError, match="`batch_size` must be at least 1, got -2"):
        epochs(LEARNER, num_epochs=1, batch_size=-2)
    with pytest.raises(ValueError, match="`batch` must have at least 8 rows, got 5"):
        epochs(LEARNER, num_epochs=1, batch_size=8).update(examples.state(0), examples.batch(0, 5))


@pytest.mark.parametrize("rows", [8, 10])
def test_epochs_refuse_a_column_of_other_rows_by_name(rows):
    batch, other = examples.batch(0, 9), examples.batch(0, rows)
    lifted = epochs(LEARNER, num_epochs=1, batch_size=2)
    for name in ("obs", "action", "action_mask", "log_prob", "values", "returns"):
        wrong = batch._replace(**{name: getattr(other, name)})
        message = rf"`{name}` must begin with the axes \[N\] = \[9\], got \[{rows}"
        with pytest.raises(ValueError, match=message):
            lifted.update(examples.state(0, LEARNER), wrong)


def test_epochs_replace_the_update_and_nothing_else():
    lifted = epochs(LEARNER, num_epochs=1, batch_size=2)
    assert lifted._replace(update=LEARNER.update) == LEARNER


def test_one_epoch_of_one_minibatch_is_the_update_of_normalised_rows():
    batch, state = examples.batch(0, 9), examples.state(0, LEARNER)
    lifted = epochs(LEARNER, num_epochs=1, batch_size=9)
    normalised = batch._replace(advantages=moments.standardize(batch.advantages, batch.mask))
    after, stats = lifted.update(state, batch)
    expected, expected_stats = LEARNER.update(state, normalised)
    assert not torch.equal(after.key, state.key)
    chex.assert_trees_all_close(
        (after._replace(key=state.key), stats), (expected, expected_stats), **CLOSE
    )


def test_a_stage_lifts_the_two_functions_that_epochs_consist_of():
    lifted = []

    def stage(function):
        def call(*arguments):
            lifted.append(function.__name__)
            return function(*arguments)

        return call

    epochs(LEARNER, num_epochs=2, batch_size=4, stage=stage).update(
        examples.state(0, LEARNER), examples.batch(0, 9)
    )
    assert lifted == ["prepare"] + ["step"] * 4


@pytest.mark.parametrize("size", [1, 3])
def test_members_lie_as_an_update_leaves_them_so_that_it_compiles_once(size):
    many = ensemble(LEARNER)
    state = many.init(random.split(random.key(0), size))
    batch = examples.stacked(lambda seed: examples.batch(seed, 9), *range(size))
    after, _ = many.update(state, batch)
    for before_leaf, after_leaf in zip(tree.leaves(state), tree.leaves(after), strict=True):
        assert before_leaf.stride() == after_leaf.stride() == torch.empty(after_leaf.shape).stride()


# --- compiled -----------------------------------------------------------------------------


def lifted_iteration(stage):
    return iteration(
        examples.learner(), {"extrinsic": extrinsic()}, num_epochs=2, batch_size=4, stage=stage
    )


@pytest.mark.inductor
def test_compiled_iteration_equals_the_eager_one():
    eager, fast = examples.small_iteration(), lifted_iteration(compiled)
    state, rollout = eager.init(random.key(0)), examples.rollout(5, 4, 2)
    chex.assert_trees_all_close(fast.update(state, rollout), eager.update(state, rollout), **CLOSE)


@pytest.mark.thorough
@pytest.mark.inductor
def test_compiled_ensemble_of_stages_equals_a_loop_of_eager_iterations():
    one = examples.small_iteration()
    many = lifted_iteration(lambda f: compiled(ensemble(f)))
    starts = [one.init(random.key(k)) for k in range(3)]
    rollouts = [examples.rollout(9 * k, 4, 2) for k in range(3)]
    lifted = many.update(tree.stack(starts), tree.stack(rollouts))
    alone = tree.stack([one.update(s, r) for s, r in zip(starts, rollouts)])
    chex.assert_trees_all_close(lifted, alone, **CLOSE)


WITHOUT_COMPILER = """
import warnings
import torch
from optinfra.lift import compiled
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    double = compiled(lambda x: (2 * x).sin())
    for _ in range(3):
        assert torch.allclose(double(torch.ones(3)), torch.full((3,), 2.0).sin())
named = [str(w.message) for w in caught if "C++ compiler" in str(w.message)]
assert len(named) == 1, named
"""


def test_without_a_compiler_compiled_functions_run_eagerly_and_warn_once(tmp_path):
    env = {"PATH": str(tmp_path), "CXX": str(tmp_path / "missing"), "HOME": str(tmp_path)}
    env["TORCHINDUCTOR_CACHE_DIR"] = str(tmp_path / "cache")
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT_COMPILER], env=env, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr


@pytest.mark.inductor
def test_compiled_follows_the_structure_shapes_and_dtypes_of_its_arguments():
    """The checks that are left out before a call are those of what is static, no others."""
    total = compiled(lambda xs: sum(2 * x.sum() for x in xs.values()))
    calls = [
        {"a": torch.ones(3)},
        {"a": torch.ones(4)},
        {"a": torch.ones(4), "b": torch.ones(2)},
        {"b": torch.ones(4, dtype=torch.int64)},
    ]
    for xs in (*calls, *calls):
        assert total(xs) == 2 * sum(x.sum() for x in xs.values())


def test_compiled_passes_other_errors_on():
    def wrong(x):
        raise ValueError("`x` must be something else")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(Exception, match="`x` must be something else"):
            compiled(wrong)(torch.ones(2))


def test_what_is_no_graph_is_refused_and_not_run_eagerly():
    with pytest.raises(RuntimeError, match=r"[Dd]ata-dependent"):
        compiled(lambda x: x if x.sum() > 0 else -x)(torch.ones(2))


class InvalidCxxCompiler(RuntimeError):
    """Bears the name of what inductor raises where there is no compiler."""


def test_a_missing_compiler_is_recognised_behind_other_errors(monkeypatch):
    def fail(*arguments):
        try:
            raise InvalidCxxCompiler
        except InvalidCxxCompiler as error:
            raise RuntimeError("a stage failed") from error

    monkeypatch.setattr(torch, "compile", lambda function, **options: fail)
    double = compiled(lambda x: 2 * x)
    with pytest.warns(RuntimeWarning, match=r"No working C\+\+ compiler was found"):
        assert double(torch.tensor(3.0)) == 6.0
    assert double(torch.tensor(4.0)) == 8.0  # a second warning would be an error


def test_too_many_shapes_are_refused_by_a_sentence_that_says_what_to_do():
    double = compiled(lambda x: 2 * x)
    refused = pytest.raises(TooManyShapesError, match=r"shapes or strides: .* `tree\.row_major`")
    with refused, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for size in range(1, 20):
            double(torch.ones(size))
    assert size == 9  # torch is ready to compile for 8


def test_many_compiled_learners_of_one_factory_do_not_share_a_recompile_limit():
    x = torch.ones(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for k in range(12):  # torch gives up after 8 variants of one code object
            add = compiled(lambda x, k=k: x + k)
            torch.testing.assert_close(add(x), x + k)


def test_every_compiled_function_leaves_out_the_checks_of_what_is_static(monkeypatch):
    filters = []

    def compile_as_torch_does(function, *, options, **keywords):
        filters.append(options.pop("guard_filter_fn", None))  # torch takes it out of the dict
        return function

    monkeypatch.setattr(torch, "compile", compile_as_torch_does)
    module = importlib.import_module("optinfra.lift.compiled")
    monkeypatch.setattr(module, "ISOLATED", True)
    for _ in range(2):
        compiled(lambda x: x)
    assert len(filters) == 2
    assert None not in filters


@pytest.mark.inductor
def test_compiled_asks_at_each_call_whether_gradients_are_recorded():
    """That has no name among torch's checks."""
    squares = compiled(lambda x: (x * x).sum())
    x = torch.ones(3, requires_grad=True)
    with torch.no_grad():
        assert not squares(x).requires_grad
    squares(x).backward()
    assert torch.equal(x.grad, 2 * x.detach())


@pytest.mark.inductor
def test_compiled_follows_the_order_of_keys_and_fields():
    def weighed(xs):
        return sum((i + 1) * x for i, x in enumerate(xs.values()))

    fast, (x, y) = compiled(weighed), (torch.ones(3), 2 * torch.ones(3))
    for xs in ({"a": x, "b": y}, {"b": y, "a": x}, {"a": y, "c": x}, {"a": x, "b": y}):
        assert torch.equal(fast(xs), weighed(xs))


@pytest.mark.inductor
def test_before_a_call_nothing_is_checked_but_what_is_given(monkeypatch):
    """A learner reaches modules, their hooks and closures: hundreds of checks if they counted."""
    module = importlib.import_module("optinfra.lift.compiled")
    checked, left_out, original = set(), set(), module._may_change

    def watched(guards):
        kept = original(guards)
        for guard, keep in zip(guards, kept):
            (checked if keep else left_out).add(guard.name)
        return kept

    monkeypatch.setattr(module, "_may_change", watched)
    monkeypatch.setattr(module, "ISOLATED", True)
    learner = ppo(examples.network(), examples.SPEC)
    compiled(learner.update)(learner.init(random.key(0)), examples.batch(0, 4))
    assert all(name == "" or ("arguments" in name and "function" not in name) for name in checked)
    assert any("function" in name for name in left_out)
    assert any("arguments" in name for name in checked)


def test_ppo_refuses_a_negative_number():
    with pytest.raises(ValueError, match=r"`learning_rate` must lie in \[0.0, inf\), got -1"):
        ppo(examples.network(), examples.SPEC, learning_rate=-1.0)
