"""Layers that remember under vmap and grad, in any order and of any argument."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.func import grad, jacrev, vmap

from optinfra import tree
from optinfra.lift import compiled
from optinfra.testing import assert_trees_close
from tests import plain_recurrent as plain
from tests.recurrent_layers import CLOSE, KINDS, D, H, inputs, run, slopes


def loss(kind, own, x, memory, reset):
    outputs, last = run(kind, own, x, memory, reset)
    return slopes(outputs, last)


PARTS = ("own", "x", "memory", "reset")
SUBSETS = [s for n in range(1, 5) for s in itertools.combinations(PARTS, n)]
GRADIENTS = (0, 1, 2)  # with respect to everything but resets


def lifted_arguments(kind, batched, size=2, resets=True):
    """Arguments of `loss`, those named with a leading axis, and their `in_dims`."""
    leading = {name: (size,) if name in batched else () for name in PARTS}
    own = plain.weights(0, kind, D, H, members=leading["own"])
    made = [inputs(20, 3, (2,), kind=kind, members=leading[name])[i]
            for i, name in enumerate(PARTS[1:])]  # fmt: skip
    made[2] = made[2] if resets else torch.zeros_like(made[2])
    return (own, *made), tuple(0 if name in batched else None for name in PARTS)


def looped(function, arguments, in_dims, size=2):
    def member(k):
        return [y if dim is None else tree.take(y, k) for y, dim in zip(arguments, in_dims)]

    return tree.stack([function(*member(k)) for k in range(size)])


@pytest.mark.parametrize("batched", SUBSETS, ids="+".join)
@pytest.mark.parametrize("kind", KINDS)
def test_any_part_may_be_the_one_that_differs_between_members(kind, batched):
    """Warnings are errors: no fallback of vmap is taken."""
    for resets in (True, False):
        arguments, dims = lifted_arguments(kind, batched, resets=resets)
        for function in (
            lambda *args: run(kind, *args),
            lambda *args: run(kind, *args, every=True),
            grad(lambda *args: loss(kind, *args), argnums=GRADIENTS),
        ):
            lifted = vmap(function, in_dims=dims)(*arguments)
            assert_trees_close(lifted, looped(function, arguments, dims), **CLOSE)


@pytest.mark.parametrize("name", plain.PARTS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_single_parameter_may_be_all_that_differs(kind, name):
    own, (x, memory, reset) = plain.weights(0, kind, D, H), inputs(0, 3, (2,), kind=kind)
    several = torch.stack([own[name], 2 * own[name]])
    for function in (
        lambda one: run(kind, own | {name: one}, x, memory, reset),
        grad(lambda one: loss(kind, own | {name: one}, x, memory, reset)),
    ):
        expected = tree.stack([function(one) for one in several])
        assert_trees_close(vmap(function)(several), expected, **CLOSE)


@pytest.mark.parametrize("batched", SUBSETS, ids="+".join)
@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_of_a_sum_over_members_is_the_sum_of_theirs(kind, batched):
    for resets in (True, False):
        arguments, dims = lifted_arguments(kind, batched, resets=resets)

        def total(*args, dims=dims):
            return vmap(lambda *each: loss(kind, *each), in_dims=dims)(*args).sum()

        def one_by_one(*args, dims=dims):
            return looped(lambda *each: loss(kind, *each), args, dims).sum()

        gradients = (grad(f, argnums=GRADIENTS)(*arguments) for f in (total, one_by_one))
        assert_trees_close(*gradients, **CLOSE)


@pytest.mark.parametrize("kind", KINDS)
@given(st.sampled_from([0, 1]), st.sampled_from([0, 1, -1]), st.booleans())
def test_agents_may_lie_on_any_axis_in_and_out(kind, axis, of_reset, shared):
    own = plain.weights(3, kind, D, H, members=() if shared else (2,))
    x, memory, reset = inputs(3, 4, (3,), kind=kind, members=(2,))
    expected = looped(
        lambda *a: run(kind, *a), (own, x, memory, reset), (None if shared else 0, 0, 0, 0)
    )
    moved = x.movedim(0, axis), memory.movedim(0, axis), reset.movedim(0, of_reset)
    dims = (None if shared else 0, axis, axis, of_reset)
    got = vmap(lambda *a: run(kind, *a), in_dims=dims, out_dims=(axis, 0))(own, *moved)
    assert_trees_close((got[0].movedim(axis, 0), got[1]), expected, **CLOSE)


@pytest.mark.parametrize("own_weights", ["outer", "inner", "both", "neither"])
@pytest.mark.parametrize("kind", KINDS)
def test_lifts_nest_around_gradients_within_and_without(kind, own_weights):
    """Two members of two agents; either axis may have weights of its own."""
    outer, inner = own_weights in ("outer", "both"), own_weights in ("inner", "both")
    own = plain.weights(1, kind, D, H, members=(2,) * (outer + inner))
    arguments = (own, *inputs(1, 3, (2,), kind=kind, members=(2, 2)))
    dims = [(0 if each else None, 0, 0, 0) for each in (outer, inner)]

    def f(*args):
        return loss(kind, *args)

    def g(*args):
        return grad(f, argnums=GRADIENTS)(*args)

    def nested(function):
        return vmap(vmap(function, in_dims=dims[1]), in_dims=dims[0])(*arguments)

    def loops(function):
        return looped(lambda *a: looped(function, a, dims[1]), arguments, dims[0])

    assert_trees_close(nested(f), loops(f), **CLOSE)
    assert_trees_close(nested(g), loops(g), **CLOSE)

    def of_agents(*args):  # the gradient of each member's sum over its agents
        return vmap(f, in_dims=dims[1])(*args).sum()

    between = grad(of_agents, argnums=GRADIENTS)
    assert_trees_close(
        vmap(between, in_dims=dims[0])(*arguments), looped(between, arguments, dims[0]), **CLOSE
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_jacobian_is_the_gradient_of_every_output(kind):
    own, (x, memory, reset) = plain.weights(2, kind, D, H), inputs(2, 3, kind=kind)
    for now in (reset, torch.zeros_like(reset)):
        jacobian = jacrev(lambda x, now=now: run(kind, own, x, memory, now)[0].flatten())(x)
        by_one = [
            grad(lambda x, i=i, now=now: run(kind, own, x, memory, now)[0].flatten()[i])(x)
            for i in range(3 * H)
        ]
        torch.testing.assert_close(jacobian, torch.stack(by_one), **CLOSE)


@pytest.mark.parametrize("kind", KINDS)
def test_agents_without_rows_are_no_trouble(kind):
    own, columns = plain.weights(0, kind, D, H), inputs(0, 3, (0,), kind=kind, members=(2,))
    outputs, last = vmap(lambda *each: run(kind, own, *each))(*columns)
    assert outputs.shape == (2, 3, 0, H) and last.shape == columns[1].shape


@pytest.mark.thorough
@pytest.mark.inductor
def test_compiled_gradients_of_members_equal_the_eager_ones():
    kind = "lstm"
    arguments, dims = lifted_arguments(kind, PARTS)
    function = vmap(grad(lambda *args: loss(kind, *args), argnums=GRADIENTS), in_dims=dims)
    assert_trees_close(compiled(function)(*arguments), function(*arguments), **CLOSE)


@pytest.mark.parametrize("kind", KINDS)
def test_second_derivatives_are_refused(kind):
    own, (x, memory, reset) = plain.weights(0, kind, D, H), inputs(0, 3, kind=kind)
    first = grad(lambda x: loss(kind, own, x, memory, reset))
    with pytest.raises(RuntimeError, match="A recurrent layer has first derivatives only"):
        grad(lambda x: first(x).sum())(x)


def test_a_gradient_through_every_memory_is_refused():
    own, (x, memory, reset) = plain.weights(0, "lstm", D, H), inputs(0, 3)
    with pytest.raises(RuntimeError, match="`memories` of every step are not differentiable"):
        grad(lambda x: run("lstm", own, x, memory, reset, every=True)[0].sum())(x)
