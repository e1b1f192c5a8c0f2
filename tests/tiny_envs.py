"""Environments whose returns are known, for Gymnasium and in tensors.

`tests.tiny_envs:tiny/Countdown-v0` imports this module, which registers those of Gymnasium.
"""

from typing import NamedTuple

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from optinfra import random
from optinfra.envs import Env, EnvStep
from optinfra.types import ActionSpec, Spec


class Countdown(gymnasium.Env):
    """Pays 1 a step; copy k ends after 2 + k mod 3 steps, by termination or by truncation.

    `nan_at` is the step whose observation is not a number; 0 is the reset.
    """

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Discrete(2)
    made = 0

    def __init__(self, nan_at=-1, truncates=False):
        self.limit = 2 + Countdown.made % 3
        Countdown.made += 1
        self.nan_at, self.truncates, self.steps = nan_at, truncates, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.observe(), {}

    def step(self, action):
        self.steps += 1
        ended = self.steps >= self.limit
        ends = (False, ended) if self.truncates else (ended, False)
        return self.observe(), 1.0, *ends, {}

    def observe(self):
        shown = np.nan if self.steps == self.nan_at else self.steps
        return np.full(self.observation_space.shape, shown, np.float32)


class Picture(Countdown):
    observation_space = spaces.Box(0, 255, (4, 4, 3), np.uint8)


class Words(Countdown):
    observation_space = spaces.Text(5)


class Sights(Countdown):
    """Shows its step as a number, of entities too, and as a colour; what it wants is its end."""

    observation_space = spaces.Dict(
        {
            "desired_goal": spaces.Box(0, 9, (2,), np.float32),
            "dots": spaces.Sequence(spaces.Box(-9, 9, (2,), np.float32)),
            "picture": spaces.Box(0, 255, (20, 21, 3), np.uint8),
            "step": spaces.Box(-np.inf, np.inf, (1,), np.float32),
        }
    )

    def observe(self):
        picture = np.zeros((20, 21, 3), np.uint8)
        picture[0, 1, 2] = 200 + self.steps
        dots = tuple(np.array([k, self.steps], np.float32) for k in range(self.steps))
        goal, step = np.full(2, self.limit, np.float32), np.full(1, self.steps, np.float32)
        return {"desired_goal": goal, "dots": dots, "picture": picture, "step": step}


for kind in (Countdown, Picture, Sights, Words):
    gymnasium.register(
        f"tiny/{kind.__name__}-v0", entry_point=kind, disable_env_checker=True, order_enforce=False
    )


class PlaceState(NamedTuple):
    """Where a tiny environment stands."""

    place: Tensor  # [] float32, what is seen
    steps: Tensor  # [] int64, steps of this episode so far


def tiny(reward, *, starts=(0.0,), length=1, truncates=False, stride=1.0) -> Env:
    """Walk from one of `starts` by `stride` a step, `length` steps; two choices that move nothing.

    `reward(place, choice)` is paid for each step, in tensors.
    """
    starts = torch.tensor(starts)

    def reset(key):
        place = starts[random.randint(key, (), 0, len(starts))]
        state = PlaceState(place, torch.zeros((), dtype=torch.int64, device=key.device))
        return state, (place[None],)

    def step(state, action, key):
        del key
        paid = reward(state.place, action.discrete[..., 0])
        state = PlaceState(state.place + stride, state.steps + 1)
        ended = state.steps >= length
        never = torch.zeros_like(ended)
        ends = (never, ended) if truncates else (ended, never)
        return EnvStep(state, (state.place[None],), paid, *ends)

    return Env(Spec(obs=((1,),), action=ActionSpec(branches=(2,))), reset, step)
