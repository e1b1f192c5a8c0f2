"""Environments that show a part of what they observe: the rest must be inferred and remembered."""

from collections.abc import Sequence

import torch

from optinfra.check import require_number
from optinfra.envs.cartpole import TIME_LIMIT as CARTPOLE_TIME_LIMIT
from optinfra.envs.cartpole import cartpole
from optinfra.envs.environment import Env, EnvStep
from optinfra.envs.pendulum import TIME_LIMIT as PENDULUM_TIME_LIMIT
from optinfra.envs.pendulum import pendulum
from optinfra.types import Action, Key, Obs, PyTree

CARTPOLE_SHOWN = (0, 2)  # x and θ of (x, ẋ, θ, θ̇)
PENDULUM_SHOWN = (0, 1)  # cos θ and sin θ of (cos θ, sin θ, θ̇)


def observe_only(env: Env, indices: Sequence[int]) -> Env:
    """Show some dimensions of an environment's observation and hide the others.

        o′ = (o_i for i in indices)

    Nothing else changes: states, rewards and ends are those of `env`, bit for bit.

    Args:
      env: has one observation, a vector `[D]`.
      indices: I dimensions in [0, D), each once, in the order in which they are shown.

    Returns:
      An `Env` over the states of `env` whose one observation is `[I]`.

    Raises:
      ValueError: `env` observes something else than one vector; `indices` is empty, repeats a
        dimension or leaves [0, D).
    """
    if [len(shape) for shape in env.spec.obs] != [1]:
        raise ValueError(f"`env` must have one observation, a vector, got shapes {env.spec.obs}.")
    ((dimensions,),) = env.spec.obs
    if not indices or len(set(indices)) < len(indices):
        raise ValueError(f"`indices` must name dimensions, each once, got {list(indices)}.")
    for i in indices:
        require_number("indices", i, low=0, high=dimensions - 1)

    def shown(obs: Obs) -> Obs:
        (x,) = obs
        return (torch.stack([x[..., i] for i in indices], dim=-1),)

    def reset(key: Key) -> tuple[PyTree, Obs]:
        state, obs = env.reset(key)
        return state, shown(obs)

    def step(state: PyTree, action: Action, key: Key) -> EnvStep:
        after = env.step(state, action, key)
        return after._replace(obs=shown(after.obs))

    return Env(env.spec._replace(obs=((len(indices),),)), reset, step)


def cartpole_without_velocity(*, time_limit: int = CARTPOLE_TIME_LIMIT) -> Env:
    """Balance a pole on a cart while its two velocities are hidden: one observation (x, θ).

    Args:
      time_limit: ≥ 1, steps after which an episode is truncated.

    Returns:
      An `Env` as `cartpole` makes it, but for the observation `[2]`.

    Raises:
      ValueError: as `cartpole`.

    Differs: RL Zoo's `CartPoleNoVel-v1` sets the velocities to 0, here they are left out.
    Source: https://github.com/DLR-RM/rl-baselines3-zoo, `MaskVelocityWrapper`.
    """
    return observe_only(cartpole(time_limit=time_limit), CARTPOLE_SHOWN)


def pendulum_without_velocity(*, time_limit: int = PENDULUM_TIME_LIMIT) -> Env:
    """Swing a rod up while its speed is hidden: one observation (cos θ, sin θ).

    Args:
      time_limit: ≥ 1, steps after which an episode is truncated.

    Returns:
      An `Env` as `pendulum` makes it, but for the observation `[2]`.

    Raises:
      ValueError: as `pendulum`.

    Differs: RL Zoo's `PendulumNoVel-v1` sets the speed to 0, here it is left out.
    Source: https://github.com/DLR-RM/rl-baselines3-zoo, `MaskVelocityWrapper`.
    """
    return observe_only(pendulum(time_limit=time_limit), PENDULUM_SHOWN)
