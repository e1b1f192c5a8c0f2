"""Laws of optinfra.moments, and ML-Agents' recorded normaliser."""

import math
from pathlib import Path

import chex
import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from optinfra import moments

GOLDEN = Path(__file__).parent / "golden" / "normalizer.npz"
SEEDS = st.integers(0, 2**32 - 1)
SHAPES = st.sampled_from([(), (3,), (2, 2)])
JUNK = st.sampled_from([math.nan, math.inf, -math.inf, 1e30])


def normal(seed, *shape, loc=0.0, scale=1.0):
    """Float64, so that laws can be tight."""
    return torch.from_numpy(np.asarray(np.random.default_rng(seed).normal(loc, scale, shape)))


def valid(*shape):
    return torch.ones(shape, dtype=torch.bool)


def seen(*batches, dtype=torch.float64):
    """Moments after the given batches, all rows valid."""
    state = moments.init(batches[0].shape[1:], dtype=dtype)
    for x in batches:
        state = moments.update(state, x, valid(len(x)))
    return state


# Running moments


@pytest.mark.parametrize("number", [0, 1])
def test_moments_follow_the_recorded_normalizer_of_ml_agents(number):
    recorded = np.load(GOLDEN, allow_pickle=False)
    batches = [torch.from_numpy(recorded[f"batch/{k}/obs:{number}"]) for k in range(3)]
    assert [len(x) for x in batches] == [7, 1, 30]
    state = seen(*batches, dtype=torch.float32)
    after = f"after/Policy/network_body.processors.{number}.normalizer."
    expected = moments.Moments(
        *(torch.from_numpy(np.asarray(recorded[after + name]))
          for name in ("normalization_steps", "running_mean", "running_variance"))
    )  # fmt: skip
    chex.assert_trees_all_close(state, expected, rtol=1e-5, atol=1e-6)
    assert [x.dtype for x in state] == [x.dtype for x in expected]


@given(st.lists(st.integers(0, 4), min_size=1, max_size=4), SHAPES, SEEDS)
def test_moments_are_those_of_all_rows_and_a_pseudo_row(sizes, shape, seed):
    """The pseudo-row is 0 and brings a squared deviation of 1."""
    batches = [normal(seed + k, n, *shape, loc=3, scale=2) for k, n in enumerate(sizes)]
    rows = np.concatenate([np.zeros((1, *shape)), *batches])
    expected = moments.Moments(
        torch.tensor(len(rows)),
        torch.from_numpy(np.asarray(rows.mean(0))),
        torch.from_numpy(np.asarray(1 + rows.var(0) * len(rows))),
    )
    chex.assert_trees_all_close(seen(*batches), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@given(seed=SEEDS, cut=st.integers(0, 20), loc=st.sampled_from([0.0, 10.0]))
def test_two_halves_give_what_the_whole_gives(dtype, rtol, seed, cut, loc):
    x = normal(seed, 20, 3, loc=loc).to(dtype)
    halves = seen(x[:cut], x[cut:], dtype=dtype)
    chex.assert_trees_all_close(halves, seen(x, dtype=dtype), rtol=rtol, atol=rtol)


@given(SEEDS, st.lists(st.booleans(), min_size=6, max_size=6), SHAPES, JUNK)
def test_masked_row_leaves_the_moments_alone_whatever_it_holds(seed, flags, shape, junk):
    mask, x = torch.tensor(flags), normal(seed, 6, *shape, loc=1)
    start = seen(normal(seed + 1, 4, *shape))
    spoilt = torch.where(mask.reshape(6, *(1,) * len(shape)), x, junk)
    expected = moments.update(start, x[mask], valid(sum(flags)))
    actual = moments.update(start, spoilt, mask)
    chex.assert_trees_all_close(actual, expected, rtol=1e-12, atol=1e-14)


def test_update_without_a_valid_row_changes_nothing():
    start = seen(normal(0, 7, 3))
    spoilt = torch.full((4, 3), torch.nan, dtype=torch.float64)
    chex.assert_trees_all_equal(moments.update(start, spoilt, ~valid(4)), start)
    chex.assert_trees_all_equal(moments.update(start, spoilt[:0], valid(0)), start)


def test_rows_may_have_any_number_of_axes():
    x = normal(0, 4, 2, 3)
    flat = seen(x.flatten(0, 1))
    init = moments.init((3,), dtype=torch.float64)
    chex.assert_trees_all_close(moments.update(init, x, valid(4, 2)), flat, rtol=1e-12)
    one = moments.update(init, x[0, 0], torch.tensor(True))
    chex.assert_trees_all_close(one, seen(x[0, :1]), rtol=1e-12)


def test_state_keeps_its_dtype_whatever_the_rows_have():
    state = moments.update(moments.init((2,)), normal(0, 5, 2), valid(5))
    assert [x.dtype for x in state] == [torch.int64, torch.float32, torch.float32]


def test_valid_row_that_is_not_finite_spoils_the_moments():
    """Documented: contents are not looked at. Only the column concerned is lost."""
    x = torch.tensor([[1.0, torch.nan], [2.0, 3.0]])
    state = seen(x, dtype=torch.float32)
    assert state.mean.isnan().tolist() == [False, True]


# Normalisation


@given(SEEDS, SHAPES)
def test_normalize_is_the_clipped_distance_in_standard_deviations(seed, shape):
    state = seen(normal(seed, 9, *shape, loc=-2, scale=3))
    x = normal(seed + 1, 4, 2, *shape, scale=20)
    deviation = (state.squared_deviations.numpy() / 10) ** 0.5
    expected = np.clip((x.numpy() - state.mean.numpy()) / deviation, -5, 5)
    actual = moments.normalize(state, x)
    chex.assert_trees_all_close(actual, torch.from_numpy(expected), rtol=1e-12)


def test_normalize_with_fresh_moments_only_clips():
    x = torch.tensor([[-9.0, -1.0], [0.5, 9.0]])
    expected = torch.tensor([[-5.0, -1.0], [0.5, 5.0]])
    chex.assert_trees_all_equal(moments.normalize(moments.init((2,)), x), expected)


def test_normalize_survives_a_stream_that_never_changes():
    x = torch.full((1000, 1), 7.0)
    assert moments.normalize(seen(x, dtype=torch.float32), x).isfinite().all()


# Moments of one batch


@given(SEEDS, st.lists(st.booleans(), min_size=6, max_size=6), JUNK)
def test_mean_and_variance_are_those_of_the_valid_numbers(seed, flags, junk):
    mask, x = torch.tensor(flags).reshape(3, 2), normal(seed, 3, 2, loc=5)
    chosen = x[mask].numpy() if any(flags) else np.zeros(1)
    expected = torch.tensor([chosen.mean(), chosen.var()])
    actual = torch.stack(moments.mean_and_variance(torch.where(mask, x, junk), mask))
    chex.assert_trees_all_close(actual, expected, rtol=1e-12, atol=1e-12)


@given(st.floats(-1e6, 1e6, width=32), st.integers(1, 300))
@example(0.1, 10)
def test_equal_numbers_have_no_variance_and_standardize_to_zero(value, rows):
    x = torch.full((rows,), value)
    mean, variance = moments.mean_and_variance(x, valid(rows))
    assert mean == x[0] and variance == 0
    assert not moments.standardize(x, valid(rows)).any()


def test_variance_keeps_its_digits_far_from_zero():
    x = normal(0, 4096).to(torch.float32) + 10_000
    _, variance = moments.mean_and_variance(x, valid(4096))
    assert variance.item() == pytest.approx(x.numpy().astype(np.float64).var(), rel=1e-5)


@given(SEEDS, st.lists(st.booleans(), min_size=6, max_size=6), JUNK)
def test_standardize_scales_valid_numbers_and_zeroes_the_others(seed, flags, junk):
    """Padding counted in ML-Agents (Q6): here it neither counts nor comes out."""
    mask, x = torch.tensor(flags), normal(seed, 6, loc=5, scale=3)
    actual = moments.standardize(torch.where(mask, x, junk), mask)
    chosen = x[mask].numpy()
    expected = torch.zeros(6, dtype=torch.float64)
    if len(chosen) > 1:
        expected[mask] = torch.from_numpy((chosen - chosen.mean()) / (chosen.std() + 1e-10))
    chex.assert_trees_all_close(actual, expected, rtol=1e-9, atol=1e-9)


@given(SEEDS, st.floats(0.1, 10), st.floats(-10, 10))
def test_standardize_forgets_unit_and_offset(seed, scale, offset):
    x, mask = normal(seed, 8), torch.tensor([True] * 6 + [False] * 2)
    moved = moments.standardize(scale * x + offset, mask)
    chex.assert_trees_all_close(moved, moments.standardize(x, mask), rtol=1e-7, atol=1e-7)


def test_standardize_keeps_tiny_spreads_from_exploding():
    """The constant beside σ is 1e-10: a spread as small comes out half as wide."""
    x = torch.tensor([-1e-10, 1e-10], dtype=torch.float64)
    expected = torch.tensor([-0.5, 0.5], dtype=torch.float64)
    chex.assert_trees_all_close(moments.standardize(x, valid(2)), expected, rtol=1e-9)


# Bad input


def test_update_names_rows_of_the_wrong_shape():
    with pytest.raises(ValueError, match=r"`x` must have shape \[\*N, \*shape\] = \[5, 3\]"):
        moments.update(moments.init((3,)), torch.zeros(5, 2), valid(5))


def test_normalize_names_rows_of_the_wrong_shape():
    with pytest.raises(ValueError, match=r"`x` must have shape \[\*B, 3\], got \[5, 2\]"):
        moments.normalize(moments.init((3,)), torch.zeros(5, 2))


def test_mask_must_be_boolean_and_as_long_as_the_numbers():
    for function in (moments.mean_and_variance, moments.standardize):
        with pytest.raises(ValueError, match=r"`mask` must have shape \[\*N\] = \[5\], got \[4\]"):
            function(torch.zeros(5), valid(4))
        with pytest.raises(TypeError, match="`mask` must have dtype"):
            function(torch.zeros(5), torch.ones(5))
    with pytest.raises(TypeError, match="`mask` must have dtype"):
        moments.update(moments.init(()), torch.zeros(5), torch.ones(5))
