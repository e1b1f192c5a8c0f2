"""Action distributions: log-probability, entropy, draws and modes as pure maps.

Everything is per dimension and per branch: a row's joint log-probability is the sum over
the last axis. `hybrid` puts continuous dimensions and discrete branches side by side.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from optinfra import random
from optinfra.check import require_trailing
from optinfra.types import Action, ActionSpec, Key

# ML-Agents' guards against division by zero and log 0.
VARIANCE_EPS = 1e-7
STD_EPS = 1e-7
PROB_EPS = 1e-7
FORBIDDEN_LOGIT = -1e8
ACTION_LIMIT = 3.0  # a raw continuous action is executed as clip(a, ±3)/3
LOG_ROOT_2PI = 0.5 * math.log(2 * math.pi)


class PolicyOutputs(NamedTuple):
    """What an actor says of its next action. A part the spec does not have has width 0."""

    mean: Tensor  # [*B, A]
    log_std: Tensor  # [*B, A]
    logits: Tensor  # [*B, N], the branches' logits one after another


class Distribution(NamedTuple):
    """The distribution of an action spec: pure functions and nothing else."""

    sample: Callable[[PolicyOutputs, Key], tuple[Action, Tensor]]  # with log_prob [*B, A + K]
    mode: Callable[[PolicyOutputs], Action]
    log_prob: Callable[[PolicyOutputs, Action], Tensor]  # [*B, A + K]
    entropy: Callable[[PolicyOutputs], Tensor]  # [*B], in nats
    executed: Callable[[Action], Action]  # what the environment takes, in [−1, 1]
    executed_log_prob: Callable[[PolicyOutputs, Action], Tensor]  # [*B, A + K], of what it takes


# --- Gaussian -----------------------------------------------------------------------------


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


# --- tanh-Gaussian ------------------------------------------------------------------------


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


# --- categorical branches -----------------------------------------------------------------


def mask_logits(logits: Tensor, action_mask: Tensor) -> Tensor:
    """Forbid choices.

    Args:
      logits: `[*B, N]`.
      action_mask: `[*B, N]` bool, True where the choice is allowed.

    Returns:
      `[*B, N]`, −1e8 where forbidden. A branch without any allowed choice is uniform.
    """
    require_trailing("action_mask", action_mask, logits.shape[-1:])
    return torch.where(action_mask, logits, FORBIDDEN_LOGIT)


def categorical_log_probs(logits: Tensor) -> Tensor:
    """Log-probability of every choice of one branch, in nats.

        ln(softmax(logits) + 1e-7)

    Args:
      logits: `[*B, n]`.

    Returns:
      `[*B, n]`, at least ln 1e-7 ≈ −16.1.

    Differs: from the plain log-softmax by the guard, as ML-Agents has it.
    """
    return torch.log(torch.softmax(logits, -1) + PROB_EPS)


def branches_log_prob(logits: Tensor, choices: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Log-probability of the choice taken in each branch, in nats; memory O(rows · N).

    Args:
      logits: `[*B, N]`, the branches' logits one after another.
      choices: `[*B, K]` int64.
      sizes: n_k of each of the K branches, Σ n_k = N.

    Returns:
      `[*B, K]`.

    Raises:
      ValueError: the last axis of `logits` or `choices` disagrees with `sizes`.
    """
    require_trailing("logits", logits, (sum(sizes),))
    require_trailing("choices", choices, (len(sizes),))
    return torch.cat(
        [
            categorical_log_probs(branch).gather(-1, choices[..., k : k + 1])
            for k, branch in enumerate(logits.split(sizes, -1))
        ],
        -1,
    )


def branches_entropy(logits: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Entropy of each branch, in nats.

        H_k = −Σ_j p_kj · ln(p_kj + 1e-7)

    Args:
      logits: `[*B, N]`.
      sizes: n_k of each of the K branches.

    Returns:
      `[*B, K]`.

    Raises:
      ValueError: the last axis of `logits` disagrees with `sizes`.
    """
    require_trailing("logits", logits, (sum(sizes),))
    probs = [torch.softmax(branch, -1) for branch in logits.split(sizes, -1)]
    return torch.stack([-(p * torch.log(p + PROB_EPS)).sum(-1) for p in probs], -1)


def branches_sample(logits: Tensor, sizes: tuple[int, ...], key: Key) -> Tensor:
    """Draw one choice per branch.

    Args:
      logits: `[*B, N]`.
      sizes: n_k of each of the K branches.
      key: `[2]`; branch k draws with `fold_in(key, k)`, a single branch with `key` itself.

    Returns:
      `[*B, K]` int64.

    Raises:
      ValueError: the last axis of `logits` disagrees with `sizes`.
    """
    require_trailing("logits", logits, (sum(sizes),))
    branches = logits.split(sizes, -1)
    if len(sizes) == 1:
        return random.categorical(key, branches[0])[..., None]
    draws = [random.categorical(random.fold_in(key, k), b) for k, b in enumerate(branches)]
    return torch.stack(draws, -1)


def branches_mode(logits: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Most probable choice of each branch.

    Args:
      logits: `[*B, N]`.
      sizes: n_k of each of the K branches.

    Returns:
      `[*B, K]` int64.

    Raises:
      ValueError: the last axis of `logits` disagrees with `sizes`.
    """
    require_trailing("logits", logits, (sum(sizes),))
    return torch.stack([branch.argmax(-1) for branch in logits.split(sizes, -1)], -1)


# --- continuous and discrete side by side ---------------------------------------------------


def hybrid(spec: ActionSpec) -> Distribution:
    """Put a diagonal Gaussian and categorical branches side by side, as ML-Agents does.

    Log-probabilities have one column per continuous dimension, then one per branch. The
    entropy is the mean over the dimensions plus the sum over the branches. The continuous
    part is drawn unbounded and executed as clip(a, ±3)/3.

    Args:
      spec: sizes; at least one dimension or branch.

    Returns:
      A `Distribution` whose functions take and give tensors of width 0 for a part that
      `spec` does not have.

    Raises:
      ValueError: `spec` is empty or a size is not positive; or, from `log_prob`, the width
        of an action is not the spec's.
    """
    continuous, sizes = spec.continuous > 0, spec.branches
    if min(spec.continuous, *sizes, 0) < 0 or 0 in sizes or not (continuous or sizes):
        raise ValueError(f"`spec` must have a dimension or a branch, all sizes ≥ 1, got {spec}.")

    def mode(outputs: PolicyOutputs) -> Action:
        if not sizes:
            return Action(outputs.mean, _no_choices(outputs))
        return Action(outputs.mean, branches_mode(outputs.logits, sizes))

    def sample(outputs: PolicyOutputs, key: Key) -> tuple[Action, Tensor]:
        if continuous and sizes:
            key_continuous, key_discrete = random.split(key).unbind()
        else:
            key_continuous = key_discrete = key
        raw, choices = outputs.mean, _no_choices(outputs)
        if continuous:
            raw = gaussian_sample(outputs.mean, outputs.log_std, key_continuous)
        if sizes:
            choices = branches_sample(outputs.logits, sizes, key_discrete)
        action = Action(raw, choices)
        return action, log_prob(outputs, action)

    def per_column(
        density: Callable[[Tensor, Tensor, Tensor], Tensor], outputs: PolicyOutputs, action: Action
    ) -> Tensor:
        columns = []
        if continuous:
            # A narrower action would be broadcast without a word.
            require_trailing("action.continuous", action.continuous, (spec.continuous,))
            columns.append(density(action.continuous, outputs.mean, outputs.log_std))
        if sizes:
            columns.append(branches_log_prob(outputs.logits, action.discrete, sizes))
        return torch.cat(columns, -1) if len(columns) > 1 else columns[0]

    def log_prob(outputs: PolicyOutputs, action: Action) -> Tensor:
        return per_column(gaussian_log_prob, outputs, action)

    def executed_log_prob(outputs: PolicyOutputs, action: Action) -> Tensor:
        return per_column(clipped_gaussian_log_prob, outputs, action)

    def entropy(outputs: PolicyOutputs) -> Tensor:
        parts = []
        if continuous:
            parts.append(gaussian_entropy(outputs.log_std).mean(-1))
        if sizes:
            parts.append(branches_entropy(outputs.logits, sizes).sum(-1))
        return sum(parts[1:], parts[0])

    def executed(action: Action) -> Action:
        limited = action.continuous.clamp(-ACTION_LIMIT, ACTION_LIMIT) / ACTION_LIMIT
        return Action(limited, action.discrete)

    return Distribution(sample, mode, log_prob, entropy, executed, executed_log_prob)


def _no_choices(outputs: PolicyOutputs) -> Tensor:
    return outputs.mean.new_zeros((*outputs.mean.shape[:-1], 0), dtype=torch.int64)
