"""Discrete branches: independent categoricals, whose logits stand one after another."""

import torch
from torch import Tensor

from optinfra import random
from optinfra.check import require_trailing
from optinfra.types import Key

PROB_EPS = 1e-7  # ML-Agents' guard against log 0
FORBIDDEN_LOGIT = -1e8


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
