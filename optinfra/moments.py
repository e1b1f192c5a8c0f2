"""Means and variances: of the valid rows of a batch, and running ones of a stream of batches.

A row is what `mask` counts; rows may have any number of axes `*N`, so that a rollout
`[T, *B]` needs no reshaping. A row that does not count changes nothing, whatever it holds.
"""

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from optinfra.check import require_dtype, require_shape, require_trailing

NORMALIZED_LIMIT = 5.0  # observations are clipped to this many standard deviations
STANDARDIZE_EPS = 1e-10  # added to the standard deviation, in the unit of the rows


class Moments(NamedTuple):
    """Running moments of rows `[*shape]`. They start from one pseudo-row: mean 0, variance 1."""

    steps: Tensor  # [] int64, rows seen, the pseudo-row included
    mean: Tensor  # [*shape], μ, in the unit of the rows
    squared_deviations: Tensor  # [*shape], S = Σ(x − μ)² over the rows seen


Running: TypeAlias = tuple[Moments | tuple[()], ...]  # one per observation, () for no vector


def init(
    shape: Sequence[int], *, dtype: torch.dtype = torch.float32, device: torch.device | None = None
) -> Moments:
    """Create the moments of a stream that has seen nothing.

    Args:
      shape: of one row; `()` for numbers.
      dtype: of the moments, whatever the rows have that they will take in.
      device: where the moments live; torch's default device without one.

    Returns:
      `Moments` with which `normalize` only clips.
    """
    return Moments(
        steps=torch.ones((), dtype=torch.int64, device=device),
        mean=torch.zeros(tuple(shape), dtype=dtype, device=device),
        squared_deviations=torch.ones(tuple(shape), dtype=dtype, device=device),
    )


def update(state: Moments, x: Tensor, mask: Tensor) -> Moments:
    """Take in the valid rows of one batch, all at once.

        n′ = n + Σ 1
        μ′ = μ + Σ (x − μ) / n′
        S′ = S + Σ (x − μ′)(x − μ)

    Exact: two batches one after the other give what both at once give, in any order of
    rows, up to rounding (1e-5 relative in float32, 1e-12 in float64). Without a valid row
    nothing changes. A valid row that is not finite spoils the moments for good; contents
    are not looked at here, so whoever may meet such rows leaves them out by the mask.

    Args:
      state: moments so far.
      x: `[*N, *shape]`. Rows.
      mask: `[*N]` bool. True counts.

    Returns:
      `Moments` of the same shapes and dtypes.

    Raises:
      ValueError: `x` is not `mask`'s shape followed by the row's.
      TypeError: `mask` is not bool.

    Differs: ML-Agents has no mask.
    Source: Welford 1962, https://doi.org/10.1080/00401706.1962.10490022; ML-Agents' Normalizer,
    https://github.com/Unity-Technologies/ml-agents/blob/release_22/ml-agents/mlagents/trainers/torch_entities/encoders.py.
    """
    require_dtype("mask", mask, torch.bool)
    require_shape("x", x, (*mask.shape, *state.mean.shape), "*N, *shape")
    rows = x.reshape(mask.numel(), *state.mean.shape).to(state.mean.dtype)
    valid = mask.reshape(mask.numel(), *(1,) * state.mean.ndim)
    deviations = torch.where(valid, rows - state.mean, 0.0)

    steps = state.steps + mask.sum()
    shift = deviations.sum(0) / steps
    # x − μ′ is deviations − shift in a valid row; in another the factor beside it is 0.
    squares = ((deviations - shift) * deviations).sum(0)
    return Moments(steps, state.mean + shift, state.squared_deviations + squares)


def normalize(state: Moments, x: Tensor) -> Tensor:
    """Measure rows in running standard deviations from the running mean, clipped to ±5.

        z = clip((x − μ) / √(S / n), −5, 5)

    Args:
      state: running moments. Their variance is at least 1 / n: a constant row is no danger.
      x: `[*N, *shape]`. Rows.

    Returns:
      `[*N, *shape]`, without unit. NaN stays NaN.

    Raises:
      ValueError: the last axes of `x` are not the row's.

    Source: ML-Agents' Normalizer,
    https://github.com/Unity-Technologies/ml-agents/blob/release_22/ml-agents/mlagents/trainers/torch_entities/encoders.py.
    """
    require_trailing("x", x, state.mean.shape)
    deviation = (state.squared_deviations / state.steps).sqrt()
    return ((x - state.mean) / deviation).clamp(-NORMALIZED_LIMIT, NORMALIZED_LIMIT)


def init_vectors(shapes: Sequence[tuple[int, ...]], device: torch.device | None = None) -> Running:
    """Create the moments of observations: of vectors only, `()` for an image or a set.

    Args:
      shapes: of each observation; a vector has one axis.
      device: where the moments live; torch's default device without one.

    Returns:
      One `Moments` or `()` for each.
    """
    return tuple(init(shape, device=device) if len(shape) == 1 else () for shape in shapes)


def update_vectors(running: Running, obs: Sequence[Tensor], mask: Tensor) -> Running:
    """Take in the valid rows of those observations that have moments; see `update`.

    Args:
      running: moments of each; `()` altogether for none.
      obs: `[*N, *shape_i]` each.
      mask: `[*N]` bool. True counts.

    Returns:
      The same structure.
    """
    return tuple(update(m, x, mask) if m else () for m, x in zip(running, obs))


def normalize_vectors(running: Running, obs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Normalise those observations that have moments; see `normalize`.

    Args:
      running: moments of each; `()` altogether for none.
      obs: `[*N, *shape_i]` each.

    Returns:
      The same shapes.
    """
    if not running:
        return tuple(obs)
    return tuple(normalize(m, x) if m else x for m, x in zip(running, obs))


def mean_and_variance(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Compute mean and population variance of the valid numbers; both 0 where there are none.

        μ = Σ x / n      σ² = Σ (x − μ)² / n

    Equal numbers have exactly their value as mean and exactly 0 as variance: the mean is
    taken once more about its first, rounded value. Else that rounding would pass for a
    variance, and a division by it would make something of nothing.

    Args:
      x: `[*N]`. Numbers.
      mask: `[*N]` bool. True counts.

    Returns:
      `[]` and `[]`, in the unit of `x` and its square.

    Raises:
      ValueError: `mask` has another shape than `x`.
      TypeError: `mask` is not bool.
    """
    require_dtype("mask", mask, torch.bool)
    require_shape("mask", mask, x.shape, "*N")
    rows = mask.sum().clamp(min=1)
    rounded_mean = torch.where(mask, x, 0.0).sum() / rows
    deviations = torch.where(mask, x - rounded_mean, 0.0)
    mean = rounded_mean + deviations.sum() / rows
    return mean, torch.where(mask, x - mean, 0.0).square().sum() / rows


def standardize(x: Tensor, mask: Tensor) -> Tensor:
    """Shift and scale the valid numbers to mean 0 and standard deviation 1; 0 for the others.

        z = (x − μ) / (σ + 1e-10)

    Args:
      x: `[*N]`. Numbers, advantages as a rule.
      mask: `[*N]` bool. True counts.

    Returns:
      `[*N]`, without unit. All 0 where the valid numbers are equal.

    Raises:
      ValueError: `mask` has another shape than `x`.
      TypeError: `mask` is not bool.

    Differs: ML-Agents lets padded rows count in both moments.
    Source: ML-Agents' PPO trainer, normalisation of advantages,
    https://github.com/Unity-Technologies/ml-agents/blob/release_22/ml-agents/mlagents/trainers/ppo/trainer.py.
    """
    mean, variance = mean_and_variance(x, mask)
    return torch.where(mask, (x - mean) / (variance.sqrt() + STANDARDIZE_EPS), 0.0)
