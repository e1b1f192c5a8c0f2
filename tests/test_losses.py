"""Laws of optinfra.losses. Parity with ML-Agents is that of whole PPO updates, tested there."""

import math

import chex
import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch.func import grad, vmap

from optinfra import losses

CLIP_RANGES = st.floats(0.05, 0.9)
SEEDS = st.integers(0, 2**32 - 1)
JUNK = [math.nan, math.inf, -math.inf, 1e30]


def normal(seed, *shape, scale=1.0):
    """Float64, so that laws can be tight."""
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape, scale=scale))


@st.composite
def masks(draw, *shapes):
    shape = draw(st.sampled_from(shapes))
    flags = draw(st.lists(st.booleans(), min_size=math.prod(shape), max_size=math.prod(shape)))
    return torch.tensor(flags, dtype=torch.bool).reshape(shape)


ROWS = masks((1,), (6,), (3, 2))


def policy_arguments(mask, seed):
    """Ratios on both sides of every clip range, advantages of both signs."""
    shape = (*mask.shape, 3)
    return (
        normal(seed, *shape),
        normal(seed, *shape) + normal(seed + 1, *shape, scale=0.4),
        normal(seed + 2, *mask.shape),
    )


def value_arguments(mask, seed):
    return tuple(normal(seed + k, *mask.shape) for k in range(3))


def mean_over_valid(terms, mask):
    """Plain Python average of the terms `[*N, *D]` whose row is valid."""
    chosen = [x for row, valid in zip(terms, mask.flatten().tolist()) if valid for x in row]
    return torch.tensor(sum(chosen) / len(chosen) if chosen else 0.0, dtype=torch.float64)


def surrogate_term(ratio, advantage, clip_range):
    """The objective of one ratio, by cases instead of min and clip."""
    if advantage >= 0:
        return -advantage * min(ratio, 1 + clip_range)
    return -advantage * max(ratio, 1 - clip_range)


# masked_mean


@given(masks((1,), (4,), (3, 2), (2, 1, 2)), st.sampled_from([(), (3,), (2, 2)]), SEEDS)
def test_masked_mean_is_the_mean_of_all_numbers_in_valid_rows(mask, inner, seed):
    x = normal(seed, *mask.shape, *inner)
    expected = mean_over_valid(x.reshape(mask.numel(), -1).tolist(), mask)
    chex.assert_trees_all_close(losses.masked_mean(x, mask), expected, rtol=1e-12, atol=1e-12)


def test_masked_mean_without_a_valid_row_is_zero():
    assert losses.masked_mean(torch.ones(3, 2), torch.zeros(3, dtype=torch.bool)) == 0


def test_masked_mean_of_rows_of_width_zero_is_zero():
    assert losses.masked_mean(torch.ones(3, 0), torch.ones(3, dtype=torch.bool)) == 0


# A row that does not count


LOSSES = {
    "masked_mean": (losses.masked_mean, lambda mask, seed: policy_arguments(mask, seed)[:1]),
    "clipped_surrogate_per_dimension": (
        lambda *a: losses.clipped_surrogate_per_dimension(*a[:3], 0.2, a[3]),
        policy_arguments,
    ),
    "clipped_surrogate": (
        lambda *a: losses.clipped_surrogate(*a[:3], 0.2, a[3]),
        policy_arguments,
    ),
    "trust_region_value_loss": (
        lambda *a: losses.trust_region_value_loss(*a[:3], 0.2, a[3]),
        value_arguments,
    ),
    "squared_value_loss": (
        lambda *a: losses.squared_value_loss(*a[:3], 0.2, a[3]),
        value_arguments,
    ),
    "approx_kl": (losses.approx_kl, lambda mask, seed: policy_arguments(mask, seed)[:1]),
    "clip_fraction": (
        lambda log_ratio, mask: losses.clip_fraction(log_ratio, 0.2, mask),
        lambda mask, seed: policy_arguments(mask, seed)[:1],
    ),
    "explained_variance": (
        losses.explained_variance,
        lambda mask, seed: value_arguments(mask, seed)[:2],
    ),
}


@pytest.mark.parametrize("name", LOSSES)
@given(mask=ROWS, seed=SEEDS, junk=st.sampled_from(JUNK), which=st.integers(0, 2))
def test_masked_row_changes_neither_result_nor_gradient_whatever_it_holds(
    name, mask, seed, junk, which
):
    loss, draw = LOSSES[name]
    arguments = draw(mask, seed)
    spoilt = list(arguments)
    x = spoilt[which % len(spoilt)]
    spoilt[which % len(spoilt)] = torch.where(
        mask.reshape(mask.shape + (1,) * (x.ndim - mask.ndim)), x, junk
    )
    assert torch.equal(loss(*spoilt, mask), loss(*arguments, mask))
    gradient = grad(loss)(*spoilt, mask)
    assert torch.equal(gradient, grad(loss)(*arguments, mask))
    assert not gradient[~mask].any()


@pytest.mark.parametrize("name", LOSSES)
@given(mask=masks((6,)), seed=SEEDS)
def test_order_of_rows_does_not_matter(name, mask, seed):
    loss, draw = LOSSES[name]
    arguments = (*draw(mask, seed), mask)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(mask)))
    shuffled = loss(*(x[order] for x in arguments))
    chex.assert_trees_all_close(shuffled, loss(*arguments), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", LOSSES)
@given(mask=masks((3, 2)), seed=SEEDS)
def test_leading_axes_are_rows(name, mask, seed):
    loss, draw = LOSSES[name]
    arguments = (*draw(mask, seed), mask)
    flat = loss(*(x.flatten(0, 1) for x in arguments))
    chex.assert_trees_all_close(flat, loss(*arguments), rtol=1e-12, atol=1e-12)


# Policy losses


@given(ROWS, SEEDS, CLIP_RANGES)
def test_surrogate_per_dimension_clips_every_ratio_by_itself(mask, seed, clip_range):
    log_prob, old, advantages = policy_arguments(mask, seed)
    ratios = (log_prob - old).exp().reshape(-1, 3).tolist()
    terms = [
        [surrogate_term(ratio, advantage, clip_range) for ratio in row]
        for row, advantage in zip(ratios, advantages.flatten().tolist())
    ]
    actual = losses.clipped_surrogate_per_dimension(log_prob, old, advantages, clip_range, mask)
    chex.assert_trees_all_close(actual, mean_over_valid(terms, mask), rtol=1e-9, atol=1e-12)


@given(ROWS, SEEDS, CLIP_RANGES)
def test_surrogate_clips_the_ratio_of_whole_actions(mask, seed, clip_range):
    log_prob, old, advantages = policy_arguments(mask, seed)
    ratios = (log_prob - old).exp().prod(-1).flatten().tolist()
    terms = [
        [surrogate_term(ratio, advantage, clip_range)]
        for ratio, advantage in zip(ratios, advantages.flatten().tolist())
    ]
    actual = losses.clipped_surrogate(log_prob, old, advantages, clip_range, mask)
    chex.assert_trees_all_close(actual, mean_over_valid(terms, mask), rtol=1e-9, atol=1e-12)


def test_the_two_surrogates_differ_where_dimensions_do():
    log_prob = torch.tensor([[1.5, 1 / 1.5]]).log()
    arguments = (log_prob, torch.zeros(1, 2), torch.ones(1), 0.2, torch.ones(1, dtype=torch.bool))
    joint = losses.clipped_surrogate(*arguments)
    single = losses.clipped_surrogate_per_dimension(*arguments)
    chex.assert_trees_all_close(joint, torch.tensor(-1.0))
    chex.assert_trees_all_close(single, torch.tensor(-(1.2 + 1 / 1.5) / 2))


SURROGATES = [losses.clipped_surrogate, losses.clipped_surrogate_per_dimension]


@pytest.mark.parametrize("surrogate", SURROGATES)
def test_surrogate_at_the_old_policy_has_the_policy_gradient(surrogate):
    log_prob, advantages = normal(0, 4, 1), normal(1, 4)
    mask = torch.tensor([True, True, True, False])
    gradient = grad(surrogate)(log_prob, log_prob, advantages, 0.2, mask)
    expected = torch.where(mask, -advantages / 3, 0.0)[:, None]
    chex.assert_trees_all_close(gradient, expected, rtol=1e-12)


@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize(
    ("ratio", "advantage", "moves"),
    [(1.3, 1, False), (1.3, -1, True), (0.7, 1, True), (0.7, -1, False), (1.1, 1, True)],
)
def test_surrogate_pulls_only_towards_the_trust_region(surrogate, ratio, advantage, moves):
    log_prob = torch.tensor([[math.log(ratio)]])
    arguments = torch.zeros(1, 1), torch.tensor([float(advantage)]), 0.2
    gradient = grad(surrogate)(log_prob, *arguments, torch.ones(1, dtype=torch.bool))
    assert gradient.item() == pytest.approx(-advantage * ratio if moves else 0.0)


# Value loss


@given(ROWS, SEEDS, CLIP_RANGES)
def test_value_loss_takes_the_worse_of_plain_and_clipped_error(mask, seed, clip_range):
    values, old, returns = value_arguments(mask, seed)
    terms = []
    for v, v_old, r in zip(*(x.flatten().tolist() for x in (values, old, returns))):
        nearest = min(max(v, v_old - clip_range), v_old + clip_range)
        terms.append([max((r - v) ** 2, (r - nearest) ** 2)])
    actual = losses.trust_region_value_loss(values, old, returns, clip_range, mask)
    chex.assert_trees_all_close(actual, mean_over_valid(terms, mask), rtol=1e-9, atol=1e-12)


@given(ROWS, SEEDS, CLIP_RANGES)
def test_value_loss_whose_old_values_are_the_returns_is_the_squared_error(mask, seed, clip_range):
    values, _, returns = value_arguments(mask, seed)
    actual = losses.trust_region_value_loss(values, returns, returns, clip_range, mask)
    expected = losses.masked_mean((returns - values) ** 2, mask)
    chex.assert_trees_all_close(actual, expected, rtol=1e-12)


@pytest.mark.parametrize(("value", "slope"), [(0.1, -1.8), (0.5, 0.0), (-0.5, -3.0), (3.0, 4.0)])
def test_value_loss_rewards_no_step_out_of_the_trust_region(value, slope):
    """Old value 0, return 1: beyond 0.2 nothing is gained, overshooting and retreating cost."""
    valid = torch.ones(1, dtype=torch.bool)
    old, returns = torch.zeros(1), torch.ones(1)
    loss = losses.trust_region_value_loss
    gradient = grad(loss)(torch.tensor([value]), old, returns, 0.2, valid)
    assert gradient.item() == pytest.approx(slope)


@given(ROWS, SEEDS)
def test_squared_value_loss_is_the_mean_squared_error_whatever_the_old_values(mask, seed):
    values, old, returns = value_arguments(mask, seed)
    pairs = zip(values.flatten().tolist(), returns.flatten().tolist())
    expected = mean_over_valid([[(r - v) ** 2] for v, r in pairs], mask)
    actual = losses.squared_value_loss(values, old, returns, 0.2, mask)
    chex.assert_trees_all_close(actual, expected, rtol=1e-9, atol=1e-12)


# Statistics


@given(st.integers(2, 6), SEEDS)
def test_approx_kl_over_all_outcomes_is_the_divergence(choices, seed):
    """Uniform old policy: every outcome once is its exact expectation."""
    log_p = normal(seed, choices).log_softmax(0)
    log_q = torch.full((choices,), -math.log(choices), dtype=torch.float64)
    expected = (log_q.exp() * (log_q - log_p)).sum()
    actual = losses.approx_kl(log_p - log_q, torch.ones(choices, dtype=torch.bool))
    chex.assert_trees_all_close(actual, expected, rtol=1e-9, atol=1e-12)


@given(st.floats(-20, 20, width=32))
@example(-1.0)
def test_approx_kl_of_any_single_ratio_is_not_negative(log_ratio):
    kl = losses.approx_kl(torch.tensor([log_ratio]), torch.ones(1, dtype=torch.bool))
    assert kl >= 0 and (kl > 0 or abs(log_ratio) < 1e-3)


def test_approx_kl_keeps_its_digits_near_zero():
    log_ratio = torch.tensor([1e-3])
    kl = losses.approx_kl(log_ratio, torch.ones(1, dtype=torch.bool))
    assert kl.item() == pytest.approx(0.5e-6, rel=2e-3)


@given(ROWS, SEEDS, CLIP_RANGES)
def test_clip_fraction_counts_the_ratios_outside(mask, seed, clip_range):
    log_prob, old, _ = policy_arguments(mask, seed)
    ratios = (log_prob - old).exp().reshape(-1, 3).tolist()
    terms = [[float(not 1 - clip_range <= ratio <= 1 + clip_range) for ratio in r] for r in ratios]
    actual = losses.clip_fraction(log_prob - old, clip_range, mask)
    chex.assert_trees_all_close(actual, mean_over_valid(terms, mask), rtol=1e-12)


@given(masks((5,), (3, 2)), SEEDS)
def test_explained_variance_is_one_minus_the_unexplained_share(mask, seed):
    values, returns, _ = value_arguments(mask, seed)
    actual = losses.explained_variance(values, returns, mask)
    v, r = values[mask].numpy(), returns[mask].numpy()
    expected = 1 - np.var(r - v) / np.var(r) if len(r) > 1 else 0.0
    chex.assert_trees_all_close(actual, torch.tensor(expected, dtype=torch.float64))


def test_explained_variance_forgives_an_offset_but_no_ignorance():
    returns = torch.tensor([1.0, 2.0, 4.0])
    valid = torch.ones(3, dtype=torch.bool)
    assert losses.explained_variance(returns + 8, returns, valid) == 1
    assert losses.explained_variance(torch.full((3,), 5.0), returns, valid) == 0
    assert losses.explained_variance(-returns, returns, valid) == -3


@given(st.floats(-1e6, 1e6, width=32), st.integers(1, 300))
@example(0.1, 10)
def test_explained_variance_of_returns_that_do_not_vary_is_zero(value, rows):
    returns, valid = torch.full((rows,), value), torch.ones(rows, dtype=torch.bool)
    assert losses.explained_variance(torch.arange(rows) * 1.0, returns, valid) == 0


# Hyperparameters and bad input


@pytest.mark.parametrize(
    ("function", "arguments"),
    [(losses.clipped_surrogate, policy_arguments),
     (losses.clipped_surrogate_per_dimension, policy_arguments),
     (losses.trust_region_value_loss, value_arguments),
     (lambda log_prob, old, _, clip_range, mask:
      losses.clip_fraction(log_prob - old, clip_range, mask), policy_arguments)],
)  # fmt: skip
def test_clip_range_sweeps_under_vmap(function, arguments):
    mask = torch.tensor([True, True, False, True])
    fixed = arguments(mask, 7)
    swept = vmap(lambda clip_range: function(*fixed, clip_range, mask))(torch.tensor([0.1, 0.5]))
    alone = torch.stack([function(*fixed, clip_range, mask) for clip_range in (0.1, 0.5)])
    assert swept[0] != swept[1]
    chex.assert_trees_all_close(swept, alone, rtol=1e-7)


@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize(
    ("position", "name", "axes"),
    [(1, "old_log_prob", r"\[\*N, A \+ K\] = \[5, 2\]"), (2, "advantages", r"\[\*N\] = \[5\]"),
     (3, "mask", r"\[\*N\] = \[5\]")],
)  # fmt: skip
def test_surrogate_names_the_argument_whose_shape_is_wrong(surrogate, position, name, axes):
    arguments = [torch.zeros(5, 2), torch.zeros(5, 2), torch.zeros(5)]
    arguments.append(torch.ones(5, dtype=torch.bool))
    arguments[position] = arguments[position][:4]
    with pytest.raises(ValueError, match=rf"`{name}` must have shape {axes}, got \[4"):
        surrogate(*arguments[:3], 0.2, arguments[3])


@pytest.mark.parametrize(
    ("loss", "position", "name"),
    [(losses.trust_region_value_loss, 1, "old_values"),
     (losses.trust_region_value_loss, 2, "returns"), (losses.trust_region_value_loss, 3, "mask"),
     (losses.squared_value_loss, 2, "returns"), (losses.squared_value_loss, 3, "mask")],
)  # fmt: skip
def test_value_loss_names_the_argument_whose_shape_is_wrong(loss, position, name):
    arguments = [torch.zeros(5), torch.zeros(5), torch.zeros(5), torch.ones(5, dtype=torch.bool)]
    arguments[position] = arguments[position][:4]
    with pytest.raises(ValueError, match=rf"`{name}` must have shape \[\*N\] = \[5\], got \[4\]"):
        loss(*arguments[:3], 0.2, arguments[3])


def test_explained_variance_names_the_argument_whose_shape_is_wrong():
    valid = torch.ones(5, dtype=torch.bool)
    with pytest.raises(
        ValueError, match=r"`returns` must have shape \[\*N\] = \[5\], got \[5, 1\]"
    ):
        losses.explained_variance(torch.zeros(5), torch.zeros(5, 1), valid)
    with pytest.raises(ValueError, match="`mask` must have shape"):
        losses.explained_variance(torch.zeros(5), torch.zeros(5), valid[:4])


def test_mask_must_be_boolean_and_lead():
    with pytest.raises(TypeError, match=r"`mask` must have dtype torch.bool, got torch.float32"):
        losses.masked_mean(torch.zeros(5, 2), torch.ones(5))
    with pytest.raises(ValueError, match=r"`mask` must have shape \[\*N\] = \[5\], got \[2\]"):
        losses.masked_mean(torch.zeros(5, 2), torch.ones(2, dtype=torch.bool))


# --- over streams -----------------------------------------------------------------------------


@given(SEEDS, st.lists(st.booleans(), min_size=1, max_size=5), st.integers(0, 4))
def test_live_mean_is_the_mean_of_the_live_streams_and_no_bit_else(seed, flags, rows):
    xs = {f"s{k}": normal(seed + k, rows) for k in range(len(flags))}
    live = {f"s{k}": torch.tensor(flag) for k, flag in enumerate(flags)}
    spoilt = {name: torch.where(live[name], x, math.nan) for name, x in xs.items()}
    actual = losses.live_mean(spoilt, live)
    kept = {name: x for name, x in xs.items() if live[name]}
    if not kept:
        assert torch.equal(actual, torch.zeros(rows, dtype=actual.dtype))
        return
    alone = losses.live_mean(kept, {name: live[name] for name in kept})
    assert torch.equal(actual, alone)
    torch.testing.assert_close(actual, torch.stack(list(kept.values())).mean(0))


def test_live_mean_may_differ_from_row_to_row():
    xs = {"a": torch.tensor([1.0, 1.0]), "b": torch.tensor([3.0, 3.0])}
    live = {"a": torch.tensor([True, True]), "b": torch.tensor([True, False])}
    mean = losses.live_mean(xs, live)
    assert mean.tolist() == [2.0, 1.0] and mean.dtype == torch.float32
