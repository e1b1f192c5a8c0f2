"""SB3-contrib's recurrent PPO."""

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.vec_env import DummyVecEnv

SEEN = [0, 2]  # position and angle


class WithoutVelocities(gymnasium.ObservationWrapper):
    """CartPole that shows where the cart and the pole are, and not how they move."""

    def __init__(self) -> None:
        super().__init__(gymnasium.make("CartPole-v1"))
        whole = self.env.observation_space
        assert isinstance(whole, gymnasium.spaces.Box)
        self.observation_space = gymnasium.spaces.Box(whole.low[SEEN], whole.high[SEEN])

    def observation(self, observation: np.ndarray) -> np.ndarray:
        return observation[SEEN]


def recurrent_training(
    *, num_envs: int, steps: int, units: int, settings: dict[str, Any]
) -> Callable[[], Any]:
    """Train for so many steps more at each call."""
    agent = RecurrentPPO(
        "MlpLstmPolicy",
        DummyVecEnv([WithoutVelocities] * num_envs),
        policy_kwargs={"lstm_hidden_size": units},
        device="cpu",
        **settings,
    )
    return lambda: agent.learn(steps, reset_num_timesteps=False)
