"""Losses and the statistics reported beside them: pure maps from tensors to one number.

Rows may have any number of axes `*N`; `mask` `[*N]` says which count. A row that does not
count reaches neither the result nor a gradient, whatever it holds. Losses are minimised.
Bounds (`clip_range`) are numbers or 0-d tensors.
"""

import math
from collections.abc import Mapping
from functools import reduce
from operator import add

import torch
from torch import Tensor

from optinfra.check import require_dtype, require_shape
from optinfra.moments import mean_and_variance


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Average over the valid rows and over all axes within a row; 0 where no row is valid.

        Σ m·x / max(Σ m, 1)

    Args:
      x: `[*N, *D]`.
      mask: `[*N]` bool, m. True counts.

    Returns:
      `[]`, in the unit of `x`.

    Raises:
      ValueError: `x` does not begin with the axes of `mask`.
      TypeError: `mask` is not bool.

    Differs: in ML-Agents a NaN in a masked row makes the mean NaN.
    Source: ML-Agents' ModelUtils.masked_mean,
    https://github.com/Unity-Technologies/ml-agents/blob/release_22/ml-agents/mlagents/trainers/torch_entities/utils.py.
    """
    width = math.prod(x.shape[mask.ndim :])
    return _valid(x, mask).sum() / (mask.sum() * width).clamp(min=1)


def live_mean(xs: Mapping[str, Tensor], live: Mapping[str, Tensor]) -> Tensor:
    """Average over the reward streams that are live; 0 where none is.

        Σ_s l_s·x_s / max(Σ_s l_s, 1)

    One after the other, so that a stream that is not live changes not a bit of the others' mean.

    Args:
      xs: x_s by stream, `[*N]` each.
      live: l_s by stream, `[*N]` or `[]` bool each.

    Returns:
      `[*N]`, in the unit of `xs`; what the others hold, NaN included, does not matter.
    """
    total = reduce(add, (torch.where(live[name], x, 0.0) for name, x in xs.items()))
    number = reduce(add, (live[name].to(total.dtype) for name in xs))
    return total / number.clamp(min=1)


def clipped_surrogate_per_dimension(
    log_prob: Tensor,
    old_log_prob: Tensor,
    advantages: Tensor,
    clip_range: float | Tensor,
    mask: Tensor,
) -> Tensor:
    """Compute PPO's policy loss with one ratio for each action dimension and branch.

        rᵢ = exp(log πᵢ − log πᵢ_old)
        L = −mean min(rᵢ·A, clip(rᵢ, 1 − ε, 1 + ε)·A)      over valid rows and dimensions i

    Args:
      log_prob: `[*N, A + K]`. log πᵢ under the policy that learns.
      old_log_prob: `[*N, A + K]`. The same under the policy that acted.
      advantages: `[*N]`. A, normalised as a rule.
      clip_range: ε > 0.
      mask: `[*N]` bool. True counts.

    Returns:
      `[]`, in the unit of the advantages.

    Raises:
      ValueError: a shape disagrees; the message names which.
      TypeError: `mask` is not bool.

    Differs: the paper has one joint ratio a row; see `clipped_surrogate`.
    Source: ML-Agents' ModelUtils.trust_region_policy_loss,
    https://github.com/Unity-Technologies/ml-agents/blob/release_22/ml-agents/mlagents/trainers/torch_entities/utils.py.
    """
    log_ratio = _log_ratio(log_prob, old_log_prob, advantages, mask)
    return _surrogate(log_ratio, advantages[..., None], clip_range, mask)


def clipped_surrogate(
    log_prob: Tensor,
    old_log_prob: Tensor,
    advantages: Tensor,
    clip_range: float | Tensor,
    mask: Tensor,
) -> Tensor:
    """Compute PPO's policy loss with the ratio of the whole actions' probabilities.

        r = exp Σᵢ (log πᵢ − log πᵢ_old)
        L = −mean min(r·A, clip(r, 1 − ε, 1 + ε)·A)      over valid rows

    Args:
      log_prob: `[*N, A + K]`. log πᵢ under the policy that learns.
      old_log_prob: `[*N, A + K]`. The same under the policy that acted.
      advantages: `[*N]`. A, normalised as a rule.
      clip_range: ε > 0.
      mask: `[*N]` bool. True counts.

    Returns:
      `[]`, in the unit of the advantages.

    Raises:
      ValueError: a shape disagrees; the message names which.
      TypeError: `mask` is not bool.

    Differs: ML-Agents has a ratio per dimension; see `clipped_surrogate_per_dimension`.
    Source: Schulman et al. 2017, eq. 7, https://arxiv.org/abs/1707.06347.
    """
    log_ratio = _log_ratio(log_prob, old_log_prob, advantages, mask)
    return _surrogate(log_ratio.sum(-1), advantages, clip_range, mask)


def trust_region_value_loss(
    values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    clip_range: float | Tensor,
    mask: Tensor,
) -> Tensor:
    """Compute the squared error of values that gain nothing by leaving the trust region.

        V_clip = V_old + clip(V − V_old, −ε, ε)
        L = mean max((R − V)², (R − V_clip)²)      over valid rows

    Args:
      values: `[*N]`. V, by the critic that learns.
      old_values: `[*N]`. V_old, by the critic at the time of the rollout.
      returns: `[*N]`. R, what the values should be.
      clip_range: ε > 0, in the unit of the returns.
      mask: `[*N]` bool. True counts.

    Returns:
      `[]`, in the squared unit of the returns; one reward stream, without a factor ½.

    Raises:
      ValueError: a shape disagrees with `values`; the message names which.
      TypeError: `mask` is not bool.

    Source: ML-Agents' ModelUtils.trust_region_value_loss,
    https://github.com/Unity-Technologies/ml-agents/blob/release_22/ml-agents/mlagents/trainers/torch_entities/utils.py.
    """
    require_shape("mask", mask, values.shape, "*N")
    require_shape("old_values", old_values, values.shape, "*N")
    require_shape("returns", returns, values.shape, "*N")
    values = _valid(values, mask)
    clipped_values = old_values + _clip(values - old_values, -clip_range, clip_range)
    errors = torch.maximum((returns - values).square(), (returns - clipped_values).square())
    return masked_mean(errors, mask)


def squared_value_loss(
    values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    clip_range: float | Tensor,
    mask: Tensor,
) -> Tensor:
    """Compute the squared error of values, wherever they go.

        L = mean (R − V)²      over valid rows

    A trust region of ε holds values of far larger returns back: they move by ε a rollout.

    Args:
      values: `[*N]`. V, by the critic that learns.
      old_values: not read; here so that either value loss can be chosen.
      returns: `[*N]`. R, what the values should be.
      clip_range: not read, likewise.
      mask: `[*N]` bool. True counts.

    Returns:
      `[]`, in the squared unit of the returns; one reward stream, without a factor ½.

    Raises:
      ValueError: a shape disagrees with `values`; the message names which.
      TypeError: `mask` is not bool.
    """
    del old_values, clip_range
    require_shape("mask", mask, values.shape, "*N")
    require_shape("returns", returns, values.shape, "*N")
    return masked_mean((returns - _valid(values, mask)).square(), mask)


def approx_kl(log_ratio: Tensor, mask: Tensor) -> Tensor:
    """Estimate the divergence KL(π_old ‖ π) from actions that π_old took.

        mean (r − 1) − log r,   r = π / π_old

    Never negative and of low variance. On joint ratios (`.sum(-1)` of the log-probabilities'
    difference) it is the divergence of whole actions, on single ones the mean over dimensions.

    Args:
      log_ratio: `[*N, *D]`. log r.
      mask: `[*N]` bool. True counts.

    Returns:
      `[]`, nats.

    Raises:
      ValueError: `log_ratio` does not begin with the axes of `mask`.
      TypeError: `mask` is not bool.

    Source: Schulman 2020, estimator k3, http://joschu.net/blog/kl-approx.html.
    """
    log_ratio = _valid(log_ratio, mask)
    return masked_mean(torch.expm1(log_ratio) - log_ratio, mask)


def clip_fraction(log_ratio: Tensor, clip_range: float | Tensor, mask: Tensor) -> Tensor:
    """Count the share of ratios outside the trust region, whichever way the advantage points.

        mean [|r − 1| > ε]

    Args:
      log_ratio: `[*N, *D]`. log r, joint or per dimension, as the loss beside it has it.
      clip_range: ε > 0.
      mask: `[*N]` bool. True counts.

    Returns:
      `[]`, between 0 and 1.

    Raises:
      ValueError: `log_ratio` does not begin with the axes of `mask`.
      TypeError: `mask` is not bool.
    """
    outside = torch.expm1(log_ratio).abs() > clip_range
    return masked_mean(outside.to(log_ratio.dtype), mask)


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """Compute the share of the returns' variance that the values account for.

        1 − Var(R − V) / Var(R)

    1 is a perfect critic up to a constant, 0 one that knows no more than the mean, and a
    negative one knows less. Where the returns do not vary there is nothing to explain: 0.

    Args:
      values: `[*N]`. V.
      returns: `[*N]`. R.
      mask: `[*N]` bool. True counts.

    Returns:
      `[]`, at most 1.

    Raises:
      ValueError: a shape disagrees with `values`; the message names which.
      TypeError: `mask` is not bool.
    """
    require_shape("returns", returns, values.shape, "*N")
    _, unexplained = mean_and_variance(returns - values, mask)
    _, total = mean_and_variance(returns, mask)
    varies = total > 0
    return torch.where(varies, 1 - unexplained / torch.where(varies, total, 1.0), 0.0)


def _valid(x: Tensor, mask: Tensor) -> Tensor:
    """Blank the rows `[*N, *D]` that do not count, and so the gradients that flow into them.

    Multiplying by the mask would keep a NaN, in the sum or in the gradient.
    """
    require_dtype("mask", mask, torch.bool)
    require_shape("mask", mask, x.shape[: mask.ndim], "*N")
    return torch.where(mask.reshape(mask.shape + (1,) * (x.ndim - mask.ndim)), x, 0.0)


def _log_ratio(log_prob: Tensor, old_log_prob: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
    """Compare the two policies dimension by dimension `[*N, A + K]`; 0 in rows that do not count.

    Blanked already here: in `exp`'s gradient a masked row's overflow would meet its 0.
    """
    require_shape("mask", mask, log_prob.shape[:-1], "*N")
    require_shape("old_log_prob", old_log_prob, log_prob.shape, "*N, A + K")
    require_shape("advantages", advantages, log_prob.shape[:-1], "*N")
    return _valid(log_prob - old_log_prob, mask)


def _surrogate(
    log_ratio: Tensor, advantages: Tensor, clip_range: float | Tensor, mask: Tensor
) -> Tensor:
    """Average the pessimistic one of the plain and the clipped objective, to be minimised."""
    ratio = log_ratio.exp()
    clipped_ratio = _clip(ratio, 1 - clip_range, 1 + clip_range)
    return -masked_mean(torch.minimum(ratio * advantages, clipped_ratio * advantages), mask)


def _clip(x: Tensor, low: float | Tensor, high: float | Tensor) -> Tensor:
    """Clip to bounds that are two numbers or two tensors; torch's stubs see no "or"."""
    return x.clamp(low, high)  # type: ignore[arg-type]
