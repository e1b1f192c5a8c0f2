"""Laws of optinfra.transforms. Parity and states have files of their own."""

import math

import chex
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch.func import grad, vmap

from optinfra import transforms as t
from optinfra import tree
from tests.cases.transforms import TRANSFORMS, normals, with_nan

LR = 2**-7  # exact in float32
REALS = st.floats(-100, 100, width=32)
NONFINITE = st.sampled_from([math.nan, math.inf, -math.inf])


@st.composite
def trees(draw, elements=REALS, dtype=np.float32):
    """A pytree of tensors: nested, with a 0-d leaf."""
    leaf = lambda *shape: torch.from_numpy(
        np.asarray(draw(arrays(dtype, shape, elements=elements)))
    )
    return {"head": leaf(2), "body": {"weight": leaf(3, 2), "bias": leaf(3)}, "scalar": leaf()}


WIDE = trees(st.floats(-100, 100), np.float64)
LINKS = [
    t.clip_by_global_norm(1.0), t.clip_by_value(0.5), t.scale(3.0), t.trace(0.5),
    t.add_decayed_weights(0.1), t.scale_by_adam(), t.scale_by_rms(), t.scale_by_learning_rate(0.1),
]  # fmt: skip


def last_updates(transform, sequence, params):
    state = transform.init(params)
    for grads in sequence:
        state, updates = transform.update(state, grads, params)
    return updates


@given(trees(), trees(), trees(), st.tuples(*3 * [st.sampled_from(LINKS)]))
def test_chain_is_associative(first, second, params, links):
    a, b, c = links
    flat, left, right = t.chain(a, b, c), t.chain(t.chain(a, b), c), t.chain(a, t.chain(b, c))
    expected = last_updates(flat, (first, second), params)
    for nested in (left, right):
        chex.assert_trees_all_equal(last_updates(nested, (first, second), params), expected)


@given(trees(), trees())
def test_chain_of_nothing_is_the_identity(grads, params):
    empty = t.chain()
    assert empty.init(params) == () and empty.update((), grads, params) == ((), grads)


def test_chain_applies_from_left_to_right():
    grads = {"x": torch.tensor(5.0)}
    ten = last_updates(t.chain(t.clip_by_value(1.0), t.scale(10.0)), [grads], grads)
    one = last_updates(t.chain(t.scale(10.0), t.clip_by_value(1.0)), [grads], grads)
    assert (ten["x"], one["x"]) == (10.0, 1.0)


def test_chain_shows_the_parameters_to_every_link():
    grads, params = {"x": torch.tensor(1.0)}, {"x": torch.tensor(3.0)}
    twice = t.chain(t.add_decayed_weights(0.5), t.add_decayed_weights(0.5))
    assert last_updates(twice, [grads], params)["x"] == 4.0


@given(WIDE)
def test_global_norm_is_the_length_of_all_leaves_as_one_vector(xs):
    vector = torch.cat([x.reshape(-1) for x in tree.leaves(xs)])
    chex.assert_trees_all_close(t.global_norm(xs), vector.square().sum().sqrt(), rtol=1e-12)


def test_global_norm_has_derivative_zero_at_zero():
    zeros = {"x": torch.zeros(3)}
    chex.assert_trees_all_equal(grad(t.global_norm)(zeros), zeros)


@given(WIDE, st.floats(0.01, 100))
def test_clip_by_global_norm_bounds_the_length_and_keeps_the_direction(grads, max_norm):
    updates = last_updates(t.clip_by_global_norm(max_norm), [grads], grads)
    before, after = t.global_norm(grads), t.global_norm(updates)
    expected = torch.minimum(before, torch.tensor(max_norm, dtype=torch.float64))
    chex.assert_trees_all_close(after, expected, rtol=1e-12)
    for g, u in zip(tree.leaves(grads), tree.leaves(updates)):
        assert (u.abs() <= g.abs()).all()
        chex.assert_trees_all_close(u * before, g * after, rtol=1e-12, atol=1e-12)
    if before <= max_norm:
        chex.assert_trees_all_equal(updates, grads)


def test_clip_by_global_norm_of_a_nan_is_nan_everywhere():
    updates = last_updates(t.clip_by_global_norm(1.0), [with_nan(normals(0))], normals(0))
    assert all(u.isnan().all() for u in tree.leaves(updates))


@given(trees(), st.floats(0, 100, width=32))
def test_clip_by_value_is_a_clamp(grads, limit):
    updates = last_updates(t.clip_by_value(limit), [grads], grads)
    chex.assert_trees_all_equal(updates, tree.map(lambda g: g.clamp(-limit, limit), grads))


def test_clip_by_value_bounds_an_infinity_and_leaves_nan():
    grads = {"x": torch.tensor([math.inf, -math.inf, math.nan])}
    updates = last_updates(t.clip_by_value(2.0), [grads], grads)["x"]
    assert updates[:2].tolist() == [2.0, -2.0] and updates[2].isnan()


# skip_nonfinite


def spoilt(grads, leaf, entry, value):
    """`grads` with one number that is not finite."""
    leaves = [x.clone() for x in tree.leaves(grads)]
    flat = leaves[leaf % len(leaves)].view(-1)
    flat[entry % len(flat)] = value
    return tree.unflatten(grads, leaves)


def assert_same_bits(actual, expected):
    for x, y in zip(tree.leaves(actual), tree.leaves(expected)):
        assert x.dtype == y.dtype and torch.equal(x, y)


@given(trees(), trees(), st.integers(0, 3), st.integers(0, 5), NONFINITE)
def test_skip_nonfinite_leaves_state_and_params_bit_for_bit(params, grads, leaf, entry, value):
    guarded = t.skip_nonfinite(t.chain(t.clip_by_global_norm(1.0), t.adamw(LR)))
    before, _ = guarded.update(guarded.init(params), grads, params)
    after, updates = guarded.update(before, spoilt(grads, leaf, entry, value), params)
    assert_same_bits(after.inner, before.inner)
    assert_same_bits(t.apply_updates(params, updates), params)
    assert all(not u.any() for u in tree.leaves(updates))
    assert (before.skipped, after.skipped) == (0, 1) and after.skipped.dtype == torch.int64


@given(trees(), st.lists(trees(), min_size=1, max_size=4), st.data())
def test_skip_nonfinite_equals_the_transform_on_the_steps_that_are_left(params, sequence, data):
    bad = data.draw(st.lists(st.booleans(), min_size=len(sequence), max_size=len(sequence)))
    plain, guarded = t.adam(LR), t.skip_nonfinite(t.adam(LR))
    expected, state = plain.init(params), guarded.init(params)
    for grads, is_bad in zip(sequence, bad):
        if is_bad:
            state, _ = guarded.update(state, with_nan(grads), params)
            continue
        state, updates = guarded.update(state, grads, params)
        expected, expected_updates = plain.update(expected, grads, params)
        assert_same_bits(updates, expected_updates)
    assert_same_bits(state.inner, expected)
    assert state.skipped == sum(bad)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("transform", [t.chain(), t.clip_by_value(1.0)])
def test_skip_nonfinite_sees_a_gradient_whatever_the_transform_makes_of_it(transform, value):
    guarded, params = t.skip_nonfinite(transform), {"x": torch.ones(3)}
    grads = {"x": torch.tensor([1.0, value, 1.0])}
    state, updates = guarded.update(guarded.init(params), grads, params)
    assert state.skipped == 1 and not updates["x"].any()


def test_skip_nonfinite_sees_an_update_that_overflows():
    guarded = t.skip_nonfinite(t.chain(t.scale(1e30), t.scale(1e30)))
    params = {"x": torch.ones(3)}
    state, updates = guarded.update(guarded.init(params), params, params)
    assert state.skipped == 1 and not updates["x"].any()


def test_skip_nonfinite_sees_a_state_that_overflows():
    """The square of 1e20 is infinite, the update m/∞ is not: Adam would stand still for ever."""
    guarded, params = t.skip_nonfinite(t.adam(LR)), {"x": torch.ones(3)}
    state = guarded.init(params)
    state, _ = guarded.update(state, {"x": torch.tensor([1.0, 1e20, 1.0])}, params)
    state, updates = guarded.update(state, params, params)
    assert state.skipped == 1 and (updates["x"] < -0.9 * LR).all()


@given(st.lists(st.booleans(), min_size=3, max_size=3), NONFINITE)
def test_skip_nonfinite_decides_member_by_member(bad, value):
    guarded = t.skip_nonfinite(t.chain(t.clip_by_global_norm(1.0), t.adam(LR)))
    params = tree.stack([normals(k) for k in range(3)])
    clean = [normals(10 + k) for k in range(3)]
    mixed = [spoilt(g, k, k, value) if b else g for k, (g, b) in enumerate(zip(clean, bad))]
    states = vmap(guarded.init)(params)
    states, _ = vmap(guarded.update)(states, tree.stack(clean), params)
    after, updates = vmap(guarded.update)(states, tree.stack(mixed), params)
    alone, alone_updates = vmap(guarded.update)(states, tree.stack(clean), params)
    assert after.skipped.tolist() == bad
    for k in range(3):
        expected = tree.take(states.inner if bad[k] else alone.inner, k)
        zeros = tree.map(torch.zeros_like, clean[k])
        assert_same_bits(tree.take(after.inner, k), expected)
        assert_same_bits(tree.take(updates, k), zeros if bad[k] else tree.take(alone_updates, k))


@pytest.mark.inductor
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")
def test_skip_nonfinite_survives_the_compiler():
    """0·x, the shortest test of x, is folded into 0."""
    guarded, params = t.skip_nonfinite(t.scale(2.0)), {"x": torch.ones(64)}
    update = torch.compile(guarded.update, fullgraph=True)
    for value in (math.nan, math.inf, 1.0):
        bad = params | {"x": torch.ones(64).index_fill(0, torch.tensor([7]), value)}
        state, updates = update(guarded.init(params), bad, params)
        assert state.skipped == (value != 1.0) and updates["x"][0] == 2.0 * (value == 1.0)


# masked, raveled


@given(trees(), trees(), trees(), st.tuples(*4 * [st.booleans()]))
def test_masked_touches_nothing_outside_and_is_the_transform_inside(first, second, params, marks):
    mask = tree.unflatten(params, marks)
    transform = t.chain(t.clip_by_global_norm(1.0), t.adamw(LR))
    updates = last_updates(t.masked(transform, mask), (first, second), params)
    chosen = lambda xs: [x for x, mark in zip(tree.leaves(xs), marks) if mark]
    if any(marks):
        sequence = (chosen(first), chosen(second))
        chex.assert_trees_all_equal(
            chosen(updates), last_updates(transform, sequence, chosen(params))
        )
    for g, u, mark in zip(tree.leaves(second), tree.leaves(updates), marks):
        assert mark or torch.equal(g, u)


def test_masked_and_guarded_nothing_is_no_error():
    guarded = t.skip_nonfinite(t.clip_by_global_norm(1.0))
    transform, params = t.masked(guarded, {"x": False}), {"x": torch.ones(2)}
    assert torch.equal(last_updates(transform, [params], params)["x"], params["x"])


WHOLE = {
    name: make(1)
    for name, make in TRANSFORMS.items()
    if name not in ("masked", "raveled")
}  # fmt: skip


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("second_dtype", [torch.float64, torch.float32])
def test_raveled_equals_the_transform_leaf_by_leaf(name, second_dtype):
    """Of two dtypes, an empty leaf and a 0-d one; bit for bit but for the order of a norm."""

    def mixed(seed):
        leaves = normals(seed)
        extra = {"a": leaves["head"].to(second_dtype), "none": torch.zeros(0, 3)}
        return leaves | extra | {"scalar": extra["a"][0]}

    params, sequence = mixed(0), [mixed(10 + k) for k in range(3)]
    expected = last_updates(WHOLE[name], sequence, params)
    actual = last_updates(t.raveled(WHOLE[name]), sequence, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(actual, expected)
    chex.assert_trees_all_close(actual, expected, rtol=2e-6, atol=1e-7)


@given(WIDE, WIDE, WIDE)
def test_raveled_chain_equals_the_chain(first, second, params):
    transform = t.chain(t.clip_by_global_norm(1.0), t.adamw(LR))
    expected = last_updates(transform, (first, second), params)
    actual = last_updates(t.raveled(transform), (first, second), params)
    chex.assert_trees_all_close(actual, expected, rtol=1e-12, atol=1e-15)


# ema, apply_updates


@given(WIDE, WIDE, st.floats(0, 1), st.integers(0, 20))
def test_ema_of_constant_parameters_has_a_closed_form(first, params, tau, updates):
    average = t.ema(tau)
    state = average.init(first)
    for _ in range(updates):
        state, target = average.update(state, params)
        chex.assert_trees_all_equal(target, state.average)
    gone = (1 - tau) ** updates
    expected = tree.map(lambda p, a: p + gone * (a - p), params, first)
    chex.assert_trees_all_close(state.average, expected, rtol=1e-9, atol=1e-9)


@given(trees(), trees())
def test_ema_of_tau_0_stays_and_of_tau_1_copies(first, params):
    for tau, expected in ((0.0, first), (1.0, params)):
        average = t.ema(tau)
        chex.assert_trees_all_equal(average.update(average.init(first), params)[1], expected)


def test_ema_begins_with_a_copy_without_a_graph():
    params = {"x": torch.ones(2, requires_grad=True)}
    average = t.ema(0.1).init(params).average["x"]
    assert not average.requires_grad and average.data_ptr() != params["x"].data_ptr()


def test_ema_sweeps_tau():
    members, params = [t.ema(tau) for tau in (0.1, 0.5, 0.9)], normals(1)
    states = tree.stack([member.init(normals(0)) for member in members])
    swept = vmap(members[0].update, (0, None))(states, params)[1]
    alone = tree.stack([member.update(member.init(normals(0)), params)[1] for member in members])
    chex.assert_trees_all_close(swept, alone, rtol=1e-6, atol=1e-7)


def test_apply_updates_adds_in_the_wider_dtype_and_keeps_the_parameters():
    """1 + just over half a unit in the last place rounds up; the update alone would round down."""
    params = {"x": torch.tensor([1.0, -2.0], dtype=torch.bfloat16)}
    new = t.apply_updates(params, {"x": torch.tensor([2**-8 + 2**-17, 0.25])})["x"]
    assert new.dtype == torch.bfloat16 and new.tolist() == [1 + 2**-7, -1.75]


# Refusals


BAD_NUMBERS = {
    r"`factor` must lie in .*, got nan\.": lambda: t.scale(math.nan),
    r"`learning_rate` must lie in \[0\.0, inf\), got -0\.1\.": lambda: t.adam(-0.1),
    r"`momentum` must lie in \[0\.0, 1\.0\), got 1\.": lambda: t.sgd(LR, 1.0),
    r"`b1` must lie in \[0\.0, 1\.0\), got 1\.": lambda: t.adam(LR, b1=1.0),
    r"`b2` must lie in \[0\.0, 1\.0\), got -0\.5\.": lambda: t.adamw(LR, b2=-0.5),
    r"`eps` must lie in \(0\.0, inf\), got 0\.": lambda: t.scale_by_adam(eps=0.0),
    r"`weight_decay` must lie in \[0\.0, inf\), got -1\.": lambda: t.adamw(LR, weight_decay=-1.0),
    r"`alpha` must lie in \[0\.0, 1\.0\), got 1\.": lambda: t.rmsprop(LR, 1.0),
    r"`alpha` must lie in \[0\.0, 1\.0\), got 2\.": lambda: t.centered_rmsprop(LR, 2.0),
    r"`eps` must lie in \(0\.0, inf\), got -1\.": lambda: t.scale_by_rms(eps=-1.0),
    r"`eps` must lie in \(0\.0, inf\), got -2\.": lambda: t.scale_by_stddev(eps=-2.0),
    r"`max_norm` must lie in \(0\.0, inf\), got 0\.": lambda: t.clip_by_global_norm(0.0),
    r"`limit` must lie in \[0\.0, inf\), got -1\.": lambda: t.clip_by_value(-1.0),
    r"`tau` must lie in \[0\.0, 1\.0\], got 1\.5\.": lambda: t.ema(1.5),
}


@pytest.mark.parametrize("message", BAD_NUMBERS)
def test_a_number_out_of_range_is_named(message):
    with pytest.raises(ValueError, match=message):
        BAD_NUMBERS[message]()


PAIRING = ["trace", "scale_by_adam", "scale_by_rms", "scale_by_stddev", "add_decayed_weights",
           "raveled"]  # fmt: skip


@pytest.mark.parametrize("name", PAIRING)
def test_a_gradient_that_would_broadcast_is_refused(name):
    transform, params = TRANSFORMS[name](0), normals(0)
    grads = params | {"head": torch.ones(1)}
    with pytest.raises(ValueError, match=r"`grads\[head\]` must have shape \[2\], got \[1\]\."):
        transform.update(transform.init(params), grads, params)


@pytest.mark.parametrize("name", PAIRING)
def test_a_missing_gradient_is_refused(name):
    transform, params = TRANSFORMS[name](0), normals(0)
    message = r"`grads` must have the leaves \['body/bias', 'body/weight', 'head'\], got \['head'\]"
    with pytest.raises(ValueError, match=message):
        transform.update(transform.init(params), {"head": params["head"]}, params)


def test_other_arguments_that_do_not_agree_are_named():
    params = normals(0)
    with pytest.raises(ValueError, match=r"`updates\[head\]` must have shape \[2\], got \[3\]"):
        t.apply_updates(params, params | {"head": torch.ones(3)})
    with pytest.raises(ValueError, match=r"`params\[head\]` must have shape \[2\], got \[3\]"):
        t.ema(0.5).update(t.ema(0.5).init(params), params | {"head": torch.ones(3)})
    with pytest.raises(ValueError, match=r"`params` must have the leaves of `mask` \['x'\], got"):
        t.masked(t.scale(1.0), {"x": True}).init(params)
    with pytest.raises(TypeError, match=r"`mask\[x\]` must be True or False, got int"):
        t.masked(t.scale(1.0), {"x": 1})
