"""Stable-Baselines3's PPO and SAC: one update, and whole training."""

from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.env_util import make_vec_env
from torch import nn


class Noise(gymnasium.Env):
    """Observations that mean nothing, to fill a buffer with."""

    def __init__(self, obs: int, actions: int) -> None:
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (obs,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (actions,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        return self._observation(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        return self._observation(), self.np_random.normal(), False, False, {}

    def _observation(self) -> np.ndarray:
        return self.np_random.standard_normal(self.observation_space.shape, dtype=np.float32)


def ppo_update(*, rows: int, obs: int, actions: int, units: int) -> Callable[[], Any]:
    """`PPO.train` with one epoch of one minibatch."""
    agent = PPO(
        "MlpPolicy",
        Noise(obs, actions),
        n_steps=rows,
        batch_size=rows,
        n_epochs=1,
        policy_kwargs={"net_arch": [units, units], "activation_fn": nn.SiLU},
        device="cpu",
    )
    agent.learn(rows)
    return agent.train


def training(
    *, env: str, num_envs: int, num_steps: int, steps: int, units: int, settings: dict[str, Any]
) -> Callable[[], Any]:
    """Train for so many steps more at each call."""
    agent = PPO(
        "MlpPolicy",
        make_vec_env(env, n_envs=num_envs, seed=0),
        n_steps=num_steps,
        policy_kwargs={"net_arch": [units, units], "activation_fn": nn.Tanh},
        device="cpu",
        **settings,
    )
    return lambda: agent.learn(steps, reset_num_timesteps=False)


def sac_update(
    *, rows: int, held: int, obs: int, actions: int, units: int, activation: str
) -> Callable[[], Any]:
    """`SAC.train` with one gradient step on `rows` of the rows held, its drawing of them included.

    Two Qs and two targets of them; a value network it has not.
    """
    agent = SAC(
        "MlpPolicy",
        Noise(obs, actions),
        buffer_size=held,
        learning_starts=held,
        policy_kwargs={"net_arch": [units, units], "activation_fn": getattr(nn, activation)},
        device="cpu",
    )
    agent.learn(held)
    return partial(agent.train, 1, rows)


def sac_training(
    *, env: str, steps: int, units: int, layers: int, activation: str, settings: dict[str, Any]
) -> Callable[[], Any]:
    """Train for so many steps more at each call, with one gradient step after each."""
    agent = SAC(
        "MlpPolicy",
        make_vec_env(env, n_envs=1, seed=0),
        policy_kwargs={"net_arch": [units] * layers, "activation_fn": getattr(nn, activation)},
        device="cpu",
        **settings,
    )
    return lambda: agent.learn(steps, reset_num_timesteps=False)
