"""Acting at the beginning of a run, when a policy knows nothing yet."""

from collections.abc import Callable
from typing import Any

import torch

from optinfra import random, tree
from optinfra.train.collect import Policy
from optinfra.types import Act, Action, ActionSpec, Key, Learner, Obs, PyTree

EVEN = 1  # what is folded into the key of even draws, so that the policy's stay what they are


def evenly(learner: Learner, action: ActionSpec) -> Policy:
    """Make what draws every action as likely as any other, and remembers as the policy does.

    Continuous actions are drawn from U[−1, 1), each branch's choices by the same chance.

    Args:
      learner: one whose continuous actions are drawn inside [−1, 1], such as SAC.
      action: sizes.
    """

    def act(params: PyTree, obs: Obs, memory: PyTree, key: Key) -> Act:
        outputs, memory = learner.policy(params, obs, memory)
        rows = outputs.mean.shape[:-1]
        key_continuous, key_discrete = random.split(key).unbind()
        inside = random.uniform(key_continuous, (*rows, action.continuous), minval=-1.0)
        sizes = torch.tensor(action.branches, dtype=torch.int64, device=key.device)
        choices = random.randint(key_discrete, (*rows, len(action.branches)), 0, sizes)
        drawn = Action(inside, choices)
        log_prob = learner.distribution.log_prob(outputs, drawn)
        return Act(drawn, learner.distribution.executed(drawn), log_prob, memory)

    return act


def evenly_at_first(learner: Learner, action: ActionSpec, steps: int) -> Policy:
    """Make what acts `evenly` until a run has taken so many steps, and then as the learner does.

    Its `params` are the learner's and the steps so far, `[]` int64, which count at the beginning
    of a rollout.
    """
    even = evenly(learner, action)

    def act(given: Any, obs: Obs, memory: PyTree, key: Key) -> Act:
        params, taken = given
        usual = learner.act(params, obs, memory, key)
        other = even(params, obs, memory, random.fold_in(key, EVEN))
        chosen: Act = tree.map(lambda x, y: torch.where(taken < steps, y, x), usual, other)
        return chosen

    return act


def params_of(state: Any) -> PyTree:
    """Give what a learner acts by."""
    return state.params


def acting(
    learner: Learner, action: ActionSpec, even_steps: int
) -> tuple[Policy, Callable[[Any], PyTree]]:
    """Make what acts in a run, and what gives its `params` by the learner's state."""
    if not even_steps:
        return learner.act, params_of
    policy = evenly_at_first(learner, action, even_steps)
    return policy, lambda state: (state.params, state.steps)
