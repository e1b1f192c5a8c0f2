"""What is collected between two updates, and what reward signals see of it."""

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from optinfra import tree
from optinfra.check import require_dtype, require_leading, require_shape
from optinfra.types import Action, Mates, Obs, PyTree, Transitions


class Group(NamedTuple):
    """What a rollout of groups tells besides; the last axis of its rows are a group's agents."""

    rewards: Tensor  # [T, *B], the group's, given to each agent of it
    ended: Tensor  # [T, *B] bool, the group came to its own end with this step
    next_mask: Tensor  # [T, *B] bool, the agent was there after this step, be it new


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
    group: PyTree = ()  # Group [T, *B], where *B ends with the agents of a group; () without


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
        **_rewards_of_groups(rollout),
    )


def blanked(rollout: Rollout) -> Rollout:
    """Let zeros take the place of what rows hold that are no transitions.

    Of an agent that comes with a step it stays what its mates see of it after that step.
    """
    counted: Rollout = tree.blank(rollout.mask, rollout)
    if not isinstance(rollout.group, Group):
        return counted
    there = rollout.mask | rollout.group.next_mask
    return counted._replace(
        next_obs=tree.blank(there, rollout.next_obs),
        group=counted.group._replace(next_mask=rollout.group.next_mask),
    )


def mates_of(rollout: Rollout) -> tuple[Mates, Mates]:
    """Tell the mates of each agent of a rollout of groups, and those that followed each step."""
    if not isinstance(rollout.group, Group):
        raise ValueError("`group` must be given to a learner of groups, got ().")
    now = Mates(rollout.obs, rollout.action, rollout.mask)
    then = now._replace(obs=rollout.next_obs, present=rollout.group.next_mask)
    mates, following = tree.map(partial(_of_others, rollout.mask.ndim - 1), (now, then))
    return mates, following


def _rewards_of_groups(rollout: Rollout) -> dict[str, Tensor]:
    if not isinstance(rollout.group, Group):
        return {}
    own = torch.where(rollout.mask, rollout.rewards, 0.0)
    return {
        "group_rewards": rollout.group.rewards,
        "groupmate_rewards": _of_others(rollout.mask.ndim - 1, own),
    }


def _of_others(axis: int, x: Tensor) -> Tensor:
    """Give each agent what the others have: `[…, A, …]` becomes `[…, A, A − 1, …]`."""
    agents = x.shape[axis]
    others = [[j for j in range(agents) if j != i] for i in range(agents)]
    index = torch.tensor(others, dtype=torch.int64, device=x.device).reshape(-1)
    return x.index_select(axis, index).unflatten(axis, (agents, agents - 1))


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
