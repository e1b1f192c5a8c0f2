"""Environments of a group of agents that leave it one by one, and their step with fresh starts."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from optinfra import random, tree
from optinfra.types import Action, Key, Obs, PyTree, Spec


class GroupStep(NamedTuple):
    """What the actions of a group lead to.

    An agent that leaves with this step is shown what it sees last; what an absent one is shown
    does not matter.
    """

    state: PyTree  # of the environment, after the actions
    obs: Obs  # [A, *shape] each, what followed the actions
    reward: Tensor  # [A] float, each agent's own, 0 for who was absent before the step
    group_reward: Tensor  # [] float, given to all alike, to those who have left as well
    present: Tensor  # [A] bool, who is there after the step
    terminated: Tensor  # [] bool, the group came to its own end, at the latest with nobody left
    truncated: Tensor  # [] bool, the time limit cut it; both may hold at once


class GroupEnv(NamedTuple):
    """An environment of one group: what each agent sees and does in it, and two pure functions.

    Both are written for one group, without a batch axis: vmap runs many. Every agent has a slot
    of its own and the same spec. `step` takes executed actions, `[A, ·]` with the continuous
    part in [−1, 1]; those of absent agents change nothing. It knows of no reset.
    """

    spec: Spec  # of each agent
    agents: int  # A, number of slots
    reset: Callable[[Key], tuple[PyTree, Obs, Tensor]]  # (key) -> (state, obs, present)
    step: Callable[[PyTree, Action, Key], GroupStep]  # (state, action, key)


class GroupTransition(NamedTuple):
    """What a collector keeps of one step of a group."""

    obs: Obs  # [A, *shape] each, to act on next: a new episode's first where one ended
    present: Tensor  # [A] bool, who acts next
    next_obs: Obs  # [A, *shape] each, what really followed: an episode's last where it ended
    next_present: Tensor  # [A] bool, who was really there after the step
    reward: Tensor  # [A] float
    group_reward: Tensor  # [] float
    terminated: Tensor  # [] bool
    truncated: Tensor  # [] bool


def group_autoreset(
    env: GroupEnv,
) -> Callable[[PyTree, Action, Key], tuple[PyTree, GroupTransition]]:
    """Make a step that begins a new episode where the group's ended.

        s′, o′, p′, r, r_group, terminated, truncated = step(s, a, k₁)
        s″, o″, p″ = reset(k₂) where terminated or truncated, else s′, o′, p′

    After an end nothing is left of the past: s″, o″ and p″ depend on the key alone, while
    `next_obs` and `next_present` keep o′ and p′: a truncated group is valued by its own last
    observations, and by those who were there to see them.

    Args:
      env: the environment to step.

    Returns:
      `(state, action, key) -> (state, transition)`, for one group: vmap runs many.
    """

    def step(state: PyTree, action: Action, key: Key) -> tuple[PyTree, GroupTransition]:
        step_key, reset_key = random.split(key, 2).unbind()
        after = env.step(state, action, step_key)
        fresh = env.reset(reset_key)
        ended = after.terminated | after.truncated
        following = (after.state, after.obs, after.present)
        state, obs, present = tree.where(ended, fresh, following)
        return state, GroupTransition(
            obs=obs,
            present=present,
            next_obs=after.obs,
            next_present=after.present,
            reward=after.reward,
            group_reward=after.group_reward,
            terminated=after.terminated,
            truncated=after.truncated,
        )

    return step
