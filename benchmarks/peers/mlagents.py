"""Unity ML-Agents' own PPO optimizer on a minibatch as its trainer makes it."""

from collections.abc import Callable
from typing import Any

import numpy as np
from mlagents.trainers.buffer import (
    AgentBuffer,
    AgentBufferField,
    BufferKey,
    ObservationKeyPrefix,
    RewardSignalUtil,
)
from mlagents.trainers.policy.torch_policy import TorchPolicy
from mlagents.trainers.ppo.optimizer_torch import PPOSettings, TorchPPOOptimizer
from mlagents.trainers.settings import NetworkSettings, TrainerSettings
from mlagents.trainers.torch_entities.networks import SimpleActor
from mlagents_envs.base_env import (
    ActionSpec,
    BehaviorSpec,
    DimensionProperty,
    ObservationSpec,
    ObservationType,
)

STREAM = "extrinsic"


def ppo_update(*, rows: int, obs: int, actions: int, units: int) -> Callable[[], Any]:
    """Update on `rows` rows: `TorchPPOOptimizer.update`, its conversion to tensors included."""
    seen = ObservationSpec(
        shape=(obs,),
        dimension_property=(DimensionProperty.UNSPECIFIED,),
        observation_type=ObservationType.DEFAULT,
        name="vector",
    )
    spec = BehaviorSpec([seen], ActionSpec.create_continuous(actions))
    network = NetworkSettings(hidden_units=units, num_layers=2)
    settings = TrainerSettings(
        trainer_type="ppo",
        hyperparameters=PPOSettings(batch_size=rows),
        network_settings=network,
    )
    sigma = {"conditional_sigma": False, "tanh_squash": False}
    optimizer = TorchPPOOptimizer(TorchPolicy(0, spec, network, SimpleActor, sigma), settings)
    batch = minibatch(rows, obs, actions)
    return lambda: optimizer.update(batch, rows)


def minibatch(rows: int, obs: int, actions: int) -> AgentBuffer:
    """A buffer of random rows with all that the update reads."""
    random = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return random.standard_normal(shape).astype(np.float32)

    columns = {
        (ObservationKeyPrefix.OBSERVATION, 0): normal(rows, obs),
        BufferKey.CONTINUOUS_ACTION: normal(rows, actions),
        BufferKey.CONTINUOUS_LOG_PROBS: normal(rows, actions) - 1,
        BufferKey.ACTION_MASK: np.ones((rows, 0), np.float32),
        BufferKey.MASKS: np.ones(rows, np.float32),
        BufferKey.ADVANTAGES: normal(rows),
        RewardSignalUtil.value_estimates_key(STREAM): normal(rows),
        RewardSignalUtil.returns_key(STREAM): normal(rows),
    }
    buffer = AgentBuffer()
    for key, column in columns.items():
        buffer[key] = AgentBufferField(list(column))
    return buffer
