"""MountainCar-v0 as pure functions."""

from typing import NamedTuple

import torch
from torch import Tensor

from optinfra import random
from optinfra.check import require_number, require_trailing
from optinfra.envs.environment import Env, EnvStep
from optinfra.types import Action, ActionSpec, Key, Obs, Spec

FORCE = 0.001  # per step², what the engine adds to the velocity, either way
GRAVITY = 0.0025  # per step², where the slope is steepest
MIN_POSITION, MAX_POSITION = -1.2, 0.6  # a wall stands at the left end
MAX_SPEED = 0.07  # per step
GOAL_POSITION = 0.5  # the top of the right hill
START_LOW, START_HIGH = -0.6, -0.4  # an episode starts between them, at rest
TIME_LIMIT = 200  # steps
WORST_RETURN = -200.0  # of an episode that never sees the goal; -`time_limit` with another


class MountainCarState(NamedTuple):
    """A car in a valley."""

    position: Tensor  # [] in [−1.2, 0.6], the valley's bottom is at −π/6
    velocity: Tensor  # [] in [−0.07, 0.07] per step
    steps: Tensor  # [] int64, steps of this episode so far


def observe(state: MountainCarState) -> Obs:
    """What is seen of a state: everything but the steps, one observation `[2]`."""
    return (torch.stack(state[:2], dim=-1),)


def mountaincar(*, time_limit: int = TIME_LIMIT) -> Env:
    """Rock a car out of a valley with an engine that is too weak; Gymnasium's `MountainCar-v0`.

        v ← clip(v + (a − 1)·f − g·cos 3x, −0.07, 0.07)      x ← clip(x + v, −1.2, 0.6)
        v ← max(v, 0) where x has reached the wall
        r = −1,  terminated = x ≥ 0.5 and v ≥ 0,  truncated = steps ≥ limit

    One observation `[2]` = (x, v), one discrete branch: 0 accelerates left, 1 not at all,
    2 right. Every policy that never sees the goal earns the same. `step` also takes states
    and actions with leading axes.

    Args:
      time_limit: ≥ 1, steps after which an episode is truncated.

    Returns:
      An `Env` over `MountainCarState`.

    Raises:
      ValueError: `time_limit` lies below 1; an action has not one discrete branch.

    Source: Moore 1990, https://www.cl.cam.ac.uk/techreports/UCAM-CL-TR-209.pdf, in the version
      of https://gymnasium.farama.org/environments/classic_control/mountain_car.
    """
    require_number("time_limit", time_limit, low=1)

    def reset(key: Key) -> tuple[MountainCarState, Obs]:
        position = random.uniform(key, (), minval=START_LOW, maxval=START_HIGH)
        steps = torch.zeros((), dtype=torch.int64, device=key.device)
        state = MountainCarState(position, torch.zeros_like(position), steps)
        return state, observe(state)

    def step(state: MountainCarState, action: Action, key: Key) -> EnvStep:
        del key  # nothing is random but the start
        require_trailing("action.discrete", action.discrete, (1,))
        direction = action.discrete[..., 0].to(state.position.dtype) - 1
        pull = GRAVITY * (3 * state.position).cos()
        velocity = (state.velocity + FORCE * direction - pull).clamp(-MAX_SPEED, MAX_SPEED)
        position = state.position + velocity
        velocity = torch.where(position <= MIN_POSITION, velocity.clamp(min=0), velocity)
        position = position.clamp(MIN_POSITION, MAX_POSITION)
        state = MountainCarState(position, velocity, state.steps + 1)
        terminated = (position >= GOAL_POSITION) & (velocity >= 0)
        reward = -torch.ones_like(position)
        return EnvStep(state, observe(state), reward, terminated, state.steps >= time_limit)

    return Env(Spec(obs=((2,),), action=ActionSpec(branches=(3,))), reset, step)
