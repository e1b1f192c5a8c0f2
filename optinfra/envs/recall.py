"""Recall: a cue is shown once, and asked for many steps later."""

from typing import NamedTuple

import torch
from torch import Tensor

from optinfra import random
from optinfra.check import require_integer, require_trailing
from optinfra.envs.environment import Env, EnvStep
from optinfra.types import Action, ActionSpec, Key, Obs, Spec

CUES = 4  # different cues
DELAY = 16  # blank steps between the cue and the answer
BEST_RETURN = 1.0  # of whoever remembers the cue
CHANCE_RETURN = 1.0 / CUES  # of every policy without memory; 1 / cues with other `cues`


class RecallState(NamedTuple):
    """A cue, and how long ago it was shown."""

    cue: Tensor  # [] int64 in [0, cues)
    steps: Tensor  # [] int64, steps of this episode so far


def recall(*, cues: int = CUES, delay: int = DELAY) -> Env:
    """Name at the end of an episode the cue of its beginning.

        o₀ = (onehot(c), 0)      o₁ … o_delay = 0      o_delay+1 = (0, 1): the answer is due
        r = 1 where the answer is due and a = c, else 0;  terminated = the answer was due

    One observation `[cues + 1]`, one discrete branch of `cues` choices. The answer's
    observation is the same for every cue, and cues are equally likely: without memory
    the mean return is 1 / cues, whatever the policy. An episode has `delay` + 2 steps.
    `step` also takes states and actions with leading axes.

    Args:
      cues: ≥ 2, how many different cues there are.
      delay: ≥ 0, blank steps between the cue and the answer.

    Returns:
      An `Env` over `RecallState`.

    Raises:
      ValueError: `cues` or `delay` is too small; an action has not one discrete branch.
      TypeError: `cues` or `delay` is no integer.

    Differs: bsuite's memory length tells the time and takes 1 for a wrong answer.
    Source: Osband et al. 2020, memory length, https://arxiv.org/abs/1908.03568.
    """
    require_integer("cues", cues, low=2)
    require_integer("delay", delay, low=0)
    answer = delay + 1  # the step at which the answer is due

    def observe(state: RecallState) -> Obs:
        marks = torch.arange(cues, device=state.cue.device) == state.cue[..., None]
        shown = marks & (state.steps == 0)[..., None]
        due = (state.steps == answer)[..., None]
        return (torch.cat([shown, due], dim=-1).to(torch.float32),)

    def reset(key: Key) -> tuple[RecallState, Obs]:
        steps = torch.zeros((), dtype=torch.int64, device=key.device)
        state = RecallState(random.randint(key, (), 0, cues), steps)
        return state, observe(state)

    def step(state: RecallState, action: Action, key: Key) -> EnvStep:
        del key  # nothing is random but the cue
        require_trailing("action.discrete", action.discrete, (1,))
        right = (state.steps == answer) & (action.discrete[..., 0] == state.cue)
        terminated = state.steps >= answer
        state = RecallState(state.cue, state.steps + 1)
        truncated = torch.zeros_like(terminated)
        return EnvStep(state, observe(state), right.to(torch.float32), terminated, truncated)

    return Env(Spec(obs=((cues + 1,),), action=ActionSpec(branches=(cues,))), reset, step)
