"""What is collected between two updates, and what reward signals see of it."""

from typing import NamedTuple

import torch
from torch import Tensor

from optinfra import tree
from optinfra.check import require_dtype, require_leading, require_shape
from optinfra.types import Action, Obs, PyTree, Transitions


class Rollout(NamedTuple):
    """What was collected since the last iteration; reward t belongs to action t."""

    obs: Obs  # [T, *B, D_i] each
    next_obs: Obs  # [T, *B, D_i] each, what really followed; the final one where an episode ended
    action: Action  # [T, *B, A] and [T, *B, K], as drawn
    executed: Action  # the same as the environment took it
    action_mask: Tensor  # [T, *B, choices] bool, True where the choice is allowed
    log_prob: Tensor  # [T, *B, A + K]
    rewards: Tensor  # [T, *B], the environment's
    terminated: Tensor  # [T, *B] bool, the episode ended by its own rules
    truncated: Tensor  # [T, *B] bool, the episode was cut, by a time limit for example
    mask: Tensor  # [T, *B] bool, False for a row that is no transition
    memory: PyTree = ()  # [T, *B, M], the policy's before each step; () without one


def transitions(rollout: Rollout) -> Transitions:
    """Take from a rollout what reward signals see of it."""
    return Transitions(
        obs=rollout.obs,
        next_obs=rollout.next_obs,
        action=rollout.executed,
        rewards=rollout.rewards,
        terminated=rollout.terminated,
        truncated=rollout.truncated,
        mask=rollout.mask,
        action_mask=rollout.action_mask,
    )


def check_rollout(rollout: Rollout) -> None:
    """Raise unless every column of a rollout has its rows, and its flags are flags."""
    rows = rollout.mask.shape
    if not rows or rows[0] == 0:
        raise ValueError(f"`mask` must have shape [T, *B] with T ≥ 1, got {list(rows)}.")
    for name in ("mask", "terminated", "truncated"):
        require_dtype(name, getattr(rollout, name), torch.bool)
    for name in ("rewards", "terminated", "truncated"):
        require_shape(name, getattr(rollout, name), rows, "T, *B")
    for name, column in rollout._asdict().items():
        for x in tree.leaves(column):
            require_leading(name, x, rows, "T, *B")
