"""Environments as records of pure functions, and their step with a fresh start at every end."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from optinfra import random, tree
from optinfra.types import Action, Key, Obs, PyTree, Spec


class EnvStep(NamedTuple):
    """What one action leads to."""

    state: PyTree  # of the environment, after the action
    obs: Obs  # [*shape] each, what followed the action
    reward: Tensor  # [] float
    terminated: Tensor  # [] bool, the episode came to its own end
    truncated: Tensor  # [] bool, the time limit cut it; both may hold at once


class Env(NamedTuple):
    """An environment: what is seen and done in it, and two pure functions.

    Both are written for one environment, without a batch axis: vmap runs many.
    `step` takes executed actions, the continuous part in [−1, 1], and knows of no reset.
    """

    spec: Spec
    reset: Callable[[Key], tuple[PyTree, Obs]]  # (key) -> (state, obs)
    step: Callable[[PyTree, Action, Key], EnvStep]  # (state, action, key)


class Transition(NamedTuple):
    """What a collector keeps of one step."""

    obs: Obs  # [*shape] each, to act on next: a new episode's first where one ended
    next_obs: Obs  # [*shape] each, what really followed: an episode's last where it ended
    reward: Tensor  # [] float
    terminated: Tensor  # [] bool
    truncated: Tensor  # [] bool


def autoreset(env: Env) -> Callable[[PyTree, Action, Key], tuple[PyTree, Transition]]:
    """Make a step that begins a new episode where one ended.

        s′, o′, r, terminated, truncated = step(s, a, k₁)
        s″, o″ = reset(k₂) where terminated or truncated, else s′, o′

    After an end nothing is left of the past: s″ and o″ depend on the key alone, while
    `next_obs` keeps o′, so that a truncated episode is valued by its own last observation.

    Args:
      env: the environment to step.

    Returns:
      `(state, action, key) -> (state, transition)`, for one environment: vmap runs many.
    """

    def step(state: PyTree, action: Action, key: Key) -> tuple[PyTree, Transition]:
        step_key, reset_key = random.split(key, 2).unbind()
        after = env.step(state, action, step_key)
        fresh = env.reset(reset_key)
        ended = after.terminated | after.truncated
        state, obs = tree.where(ended, fresh, (after.state, after.obs))
        return state, Transition(obs, after.obs, after.reward, after.terminated, after.truncated)

    return step
