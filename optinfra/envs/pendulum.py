"""Pendulum-v1 as pure functions."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from optinfra import random
from optinfra.check import require_number, require_trailing
from optinfra.envs.environment import Env, EnvStep
from optinfra.types import Action, ActionSpec, Key, Obs, Spec

GRAVITY = 10.0  # m/s²
MASS = 1.0  # kg
LENGTH = 1.0  # m
MAX_TORQUE = 2.0  # N·m, what an action of ±1 exerts
MAX_SPEED = 8.0  # rad/s
TIME_STEP = 0.05  # s
SPEED_COST = 0.1  # per (rad/s)²
TORQUE_COST = 0.001  # per (N·m)²
START_SPEED = 1.0  # rad/s, an episode starts within ± this, at any angle
TIME_LIMIT = 200  # steps


class PendulumState(NamedTuple):
    """A rod that swings about its end."""

    angle: Tensor  # [] rad from upright, not wrapped
    speed: Tensor  # [] rad/s
    steps: Tensor  # [] int64, steps of this episode so far


def observe(state: PendulumState) -> Obs:
    """What is seen of a state: direction and speed, one observation `[3]`."""
    return (torch.stack([state.angle.cos(), state.angle.sin(), state.speed], dim=-1),)


def wrap(angle: Tensor) -> Tensor:
    """The same angle in [−π, π), in rad."""
    return torch.remainder(angle + math.pi, 2 * math.pi) - math.pi


def pendulum(*, time_limit: int = TIME_LIMIT) -> Env:
    """Swing a rod up and keep it there; Gymnasium's `Pendulum-v1`.

        u = 2·a,  a in [−1, 1]
        r = −(wrap(θ)² + 0.1·θ̇² + 0.001·u²)
        θ̇ ← clip(θ̇ + τ·(3g/(2l)·sin θ + 3/(m·l²)·u), −8, 8)      θ ← θ + τθ̇

    One observation `[3]` = (cos θ, sin θ, θ̇), one continuous action. An episode never
    terminates, it is truncated. `step` also takes states and actions with leading axes.

    Args:
      time_limit: ≥ 1, steps after which an episode is truncated.

    Returns:
      An `Env` over `PendulumState`.

    Raises:
      ValueError: `time_limit` lies below 1; an action has not one continuous dimension.

    Differs: takes the torque as a share of the greatest, Gymnasium takes it in N·m.
    Source: https://gymnasium.farama.org/environments/classic_control/pendulum.
    """
    require_number("time_limit", time_limit, low=1)

    def reset(key: Key) -> tuple[PendulumState, Obs]:
        angle, speed = random.uniform(key, (2,), minval=-1.0, maxval=1.0).unbind()
        steps = torch.zeros((), dtype=torch.int64, device=key.device)
        state = PendulumState(math.pi * angle, START_SPEED * speed, steps)
        return state, observe(state)

    def step(state: PendulumState, action: Action, key: Key) -> EnvStep:
        del key  # nothing is random but the start
        require_trailing("action.continuous", action.continuous, (1,))
        torque = MAX_TORQUE * action.continuous[..., 0].clamp(-1.0, 1.0)
        cost = wrap(state.angle).square() + SPEED_COST * state.speed.square()
        cost = cost + TORQUE_COST * torque.square()
        gravity = 3.0 * GRAVITY / (2.0 * LENGTH) * state.angle.sin()
        acceleration = gravity + 3.0 / (MASS * LENGTH**2) * torque
        speed = (state.speed + TIME_STEP * acceleration).clamp(-MAX_SPEED, MAX_SPEED)
        state = PendulumState(state.angle + TIME_STEP * speed, speed, state.steps + 1)
        terminated = torch.zeros_like(speed, dtype=torch.bool)
        return EnvStep(state, observe(state), -cost, terminated, state.steps >= time_limit)

    return Env(Spec(obs=((3,),), action=ActionSpec(continuous=1)), reset, step)
