"""CartPole-v1 as pure functions."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from optinfra import random
from optinfra.check import require_number, require_trailing
from optinfra.envs.environment import Env, EnvStep
from optinfra.types import Action, ActionSpec, Key, Obs, Spec

GRAVITY = 9.8  # m/s²
POLE_MASS = 0.1  # kg
TOTAL_MASS = 1.1  # kg, cart and pole
HALF_LENGTH = 0.5  # m, from the joint to the pole's centre
FORCE = 10.0  # N, either way
TIME_STEP = 0.02  # s
MAX_POSITION = 2.4  # m, beyond it the cart has left the track
MAX_ANGLE = math.radians(12.0)  # beyond it the pole has fallen
START_RANGE = 0.05  # every component starts within ± this
TIME_LIMIT = 500  # steps


class CartPoleState(NamedTuple):
    """A cart on its track and the pole that stands on it."""

    position: Tensor  # [] m from the middle of the track
    velocity: Tensor  # [] m/s
    angle: Tensor  # [] rad from upright
    angular_velocity: Tensor  # [] rad/s
    steps: Tensor  # [] int64, steps of this episode so far


def observe(state: CartPoleState) -> Obs:
    """What is seen of a state: everything but the steps, one observation `[4]`."""
    return (torch.stack(state[:4], dim=-1),)


def accelerations(state: CartPoleState, force: Tensor) -> tuple[Tensor, Tensor]:
    """Accelerations of cart and pole under a force on the cart, in m/s² and rad/s².

        μ = (F + m·l·θ̇²·sin θ) / M
        θ̈ = (g·sin θ − μ·cos θ) / (l·(4/3 − m·cos²θ / M))
        ẍ = μ − m·l·θ̈·cos θ / M

    Args:
      state: m, M and l are the pole's mass, the total mass and half the pole's length.
      force: `[]` F in N, positive to the right.

    Returns:
      ẍ `[]` and θ̈ `[]`.

    Source: Florian 2007, https://coneural.org/florian/papers/05_cart_pole.pdf, no friction.
    """
    sin, cos = state.angle.sin(), state.angle.cos()
    moment = POLE_MASS * HALF_LENGTH
    push = (force + moment * state.angular_velocity.square() * sin) / TOTAL_MASS
    inertia = HALF_LENGTH * (4.0 / 3.0 - POLE_MASS * cos.square() / TOTAL_MASS)
    angular = (GRAVITY * sin - cos * push) / inertia
    return push - moment * angular * cos / TOTAL_MASS, angular


def cartpole(*, time_limit: int = TIME_LIMIT) -> Env:
    """Balance a pole on a cart; Gymnasium's `CartPole-v1`.

        x ← x + τẋ      ẋ ← ẋ + τẍ      θ ← θ + τθ̇      θ̇ ← θ̇ + τθ̈
        r = 1,  terminated = |x| > 2.4 or |θ| > 12°,  truncated = steps ≥ limit

    One observation `[4]` = (x, ẋ, θ, θ̇), one discrete branch: 0 pushes left, 1 right.
    `step` also takes states and actions with leading axes.

    Args:
      time_limit: ≥ 1, steps after which an episode is truncated.

    Returns:
      An `Env` over `CartPoleState`.

    Raises:
      ValueError: `time_limit` lies below 1; an action has not one discrete branch.

    Differs: the reward stays 1 beyond termination, where Gymnasium gives 0 and a warning.
    Source: Barto, Sutton & Anderson 1983, in the version of
      https://gymnasium.farama.org/environments/classic_control/cart_pole.
    """
    require_number("time_limit", time_limit, low=1)

    def reset(key: Key) -> tuple[CartPoleState, Obs]:
        start = random.uniform(key, (4,), minval=-START_RANGE, maxval=START_RANGE)
        steps = torch.zeros((), dtype=torch.int64, device=key.device)
        position, velocity, angle, angular_velocity = start.unbind()
        state = CartPoleState(position, velocity, angle, angular_velocity, steps)
        return state, observe(state)

    def step(state: CartPoleState, action: Action, key: Key) -> EnvStep:
        del key  # nothing is random but the start
        require_trailing("action.discrete", action.discrete, (1,))
        direction = 2 * action.discrete[..., 0].to(state.position.dtype) - 1
        acceleration, angular_acceleration = accelerations(state, FORCE * direction)
        state = CartPoleState(
            position=state.position + TIME_STEP * state.velocity,
            velocity=state.velocity + TIME_STEP * acceleration,
            angle=state.angle + TIME_STEP * state.angular_velocity,
            angular_velocity=state.angular_velocity + TIME_STEP * angular_acceleration,
            steps=state.steps + 1,
        )
        terminated = (state.position.abs() > MAX_POSITION) | (state.angle.abs() > MAX_ANGLE)
        reward = torch.ones_like(state.position)
        return EnvStep(state, observe(state), reward, terminated, state.steps >= time_limit)

    return Env(Spec(obs=((4,),), action=ActionSpec(branches=(2,))), reset, step)
