"""Diagonal Gaussians: as they are, clipped by the environment, and squashed by tanh."""

import math

import torch
from torch import Tensor
from torch.nn.functional import softplus

from optinfra import random
from optinfra.types import Key

# ML-Agents' guards against division by zero and log 0.
VARIANCE_EPS = 1e-7
STD_EPS = 1e-7
ACTION_LIMIT = 3.0  # a raw continuous action is executed as clip(a, ±3)/3
LOG_ROOT_2PI = 0.5 * math.log(2 * math.pi)


def gaussian_log_prob(x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Log-density of each dimension of a diagonal Gaussian, in nats.

        log p = −(x − μ)² / (2σ² + 1e-7) − ln(σ + 1e-7) − ½ ln 2π

    Args:
      x: `[*B, A]`.
      mean: `[*B, A]`. μ, in the unit of x.
      log_std: `[*B, A]`. ln σ.

    Returns:
      `[*B, A]`.

    Differs: from the textbook by the two guards, as ML-Agents has them.
    """
    std = log_std.exp()
    scaled = (x - mean).square() / (2 * std.square() + VARIANCE_EPS)
    return -scaled - torch.log(std + STD_EPS) - LOG_ROOT_2PI


def gaussian_entropy(log_std: Tensor) -> Tensor:
    """Entropy of each dimension of a diagonal Gaussian, in nats.

        H = ½ ln(2πe·σ² + 1e-7)

    Args:
      log_std: `[*B, A]`. ln σ.

    Returns:
      `[*B, A]`.
    """
    return 0.5 * torch.log(2 * math.pi * math.e * (2 * log_std).exp() + VARIANCE_EPS)


def gaussian_sample(mean: Tensor, log_std: Tensor, key: Key) -> Tensor:
    """Draw μ + σ·ε with ε standard normal, by one `random.normal` of the shape of `mean`.

    Args:
      mean: `[*B, A]`. μ.
      log_std: `[*B, A]`. ln σ.
      key: `[2]`.

    Returns:
      `[*B, A]`, differentiable in μ and σ.
    """
    return mean + log_std.exp() * random.normal(key, mean.shape)


def clipped_gaussian_log_prob(x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Log-likelihood of each dimension of an action that is drawn raw and executed clipped.

        x = clip(u, ±3)/3,  u ~ N(μ, σ²)
        log p(x) = log N(3x; μ, σ) + ln 3     where |x| < 1, a density
        log p(1) = log P(u ≥ 3) = ln Φ((μ − 3)/σ), log p(−1) = ln Φ((−3 − μ)/σ)     probabilities

    Args:
      x: `[*B, A]` in [−1, 1], as executed; what lies outside counts as the limit.
      mean: `[*B, A]`. μ, of the raw action.
      log_std: `[*B, A]`. ln σ, of the raw action.

    Returns:
      `[*B, A]`, nats.

    Source: Tobin 1958, https://doi.org/10.2307/1907382, for two limits.
    """
    inside = gaussian_log_prob(ACTION_LIMIT * x, mean, log_std) + math.log(ACTION_LIMIT)
    beyond = (torch.where(x < 0, -mean, mean) - ACTION_LIMIT) / (log_std.exp() + STD_EPS)
    return torch.where(x.abs() < 1, inside, log_normal_cdf(beyond))


def log_normal_cdf(z: Tensor) -> Tensor:
    """Compute ln Φ(z) of the standard normal distribution, far out too.

        ln(½ erfcx(−z/√2)) − ½z²   where z < −1,     ln(1 − ½ erfc(z/√2))   elsewhere

    Args:
      z: any shape.

    Returns:
      The shape of `z`, at most 0. `torch.special.log_ndtr` is the same without a vmap rule.
    """
    low, high = z.clamp(max=-1.0), z.clamp(min=-1.0)  # neither may overflow where unused
    tail = torch.log(0.5 * torch.special.erfcx(-low / math.sqrt(2))) - 0.5 * low.square()
    return torch.where(z < -1.0, tail, torch.log1p(-0.5 * torch.erfc(high / math.sqrt(2))))


def log_tanh_slope(u: Tensor) -> Tensor:
    """Compute ln(1 − tanh²u) without cancellation.

        ln(1 − tanh²u) = 2·(ln 2 − u − softplus(−2u))

    Args:
      u: any shape.

    Returns:
      The shape of `u`.

    Source: https://www.tensorflow.org/probability, `bijectors.Tanh`.
    """
    return 2 * (math.log(2) - u - softplus(-2 * u))


def tanh_gaussian_sample(mean: Tensor, log_std: Tensor, key: Key) -> tuple[Tensor, Tensor]:
    """Draw tanh(μ + σ·ε) and its log-density per dimension.

        a = tanh(u)      log p(a) = log p(u) − ln(1 − tanh²u)

    Args:
      mean: `[*B, A]`. μ, before squashing.
      log_std: `[*B, A]`. ln σ, before squashing.
      key: `[2]`.

    Returns:
      The draw `[*B, A]` in [−1, 1] and its log-density `[*B, A]`, computed from u itself.

    Source: Haarnoja et al. 2018, appendix C, https://arxiv.org/abs/1801.01290.
    """
    u = gaussian_sample(mean, log_std, key)
    return torch.tanh(u), gaussian_log_prob(u, mean, log_std) - log_tanh_slope(u)


def tanh_gaussian_log_prob(x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Log-density of each dimension of a tanh-squashed Gaussian, in nats.

    Args:
      x: `[*B, A]` in [−1, 1].
      mean: `[*B, A]`. μ, before squashing.
      log_std: `[*B, A]`. ln σ, before squashing.

    Returns:
      `[*B, A]`.

    Differs: from ML-Agents, whose atanh is infinite at ±1; here x is first pulled inside
    by one float32 rounding unit.
    """
    inside = 1 - torch.finfo(torch.float32).eps
    u = torch.atanh(x.clamp(-inside, inside))
    return gaussian_log_prob(u, mean, log_std) - log_tanh_slope(u)
