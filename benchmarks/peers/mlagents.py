"""Unity ML-Agents' own optimizers and reward providers, on minibatches as its trainer makes."""

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
from mlagents.trainers.poca.optimizer_torch import POCASettings, TorchPOCAOptimizer
from mlagents.trainers.policy.torch_policy import TorchPolicy
from mlagents.trainers.ppo.optimizer_torch import PPOSettings, TorchPPOOptimizer
from mlagents.trainers.sac.optimizer_torch import SACSettings, TorchSACOptimizer
from mlagents.trainers.settings import (
    CuriositySettings,
    GAILSettings,
    NetworkSettings,
    RNDSettings,
    TrainerSettings,
)
from mlagents.trainers.torch_entities.components.reward_providers import (
    BaseRewardProvider,
    CuriosityRewardProvider,
    GAILRewardProvider,
    RNDRewardProvider,
    gail_reward_provider,
)
from mlagents.trainers.torch_entities.networks import SimpleActor
from mlagents.trainers.trajectory import GroupObsUtil
from mlagents_envs.base_env import (
    ActionSpec,
    BehaviorSpec,
    DimensionProperty,
    ObservationSpec,
    ObservationType,
)

STREAM = "extrinsic"


def ppo_update(
    *, rows: int, obs: int, actions: int, units: int, memory: int = 0, sequence: int = 1
) -> Callable[[], Any]:
    """Update on `rows` rows: `TorchPPOOptimizer.update`, its conversion to tensors included."""
    optimizer = ppo_optimizer(rows, behavior(obs, actions), units, memory, sequence)
    batch = minibatch(rows, obs, actions, memory)
    return lambda: optimizer.update(batch, rows // sequence)


def ppo_update_of_images(
    *, rows: int, shape: list[int], actions: int, units: int
) -> Callable[[], Any]:
    """Update on `rows` images, encoded by `simple`: `TorchPPOOptimizer.update`."""
    translated = DimensionProperty.TRANSLATIONAL_EQUIVARIANCE
    seen = ObservationSpec(
        shape=tuple(shape),
        dimension_property=(DimensionProperty.NONE, translated, translated),
        observation_type=ObservationType.DEFAULT,
        name="image",
    )
    spec = BehaviorSpec([seen], ActionSpec.create_continuous(actions))
    optimizer = ppo_optimizer(rows, spec, units, 0, 1)
    batch = minibatch(rows, 1, actions, 0)
    random = np.random.default_rng(2)
    for key in (ObservationKeyPrefix.OBSERVATION, ObservationKeyPrefix.NEXT_OBSERVATION):
        images = random.random((rows, *shape), dtype=np.float32)
        batch[(key, 0)] = AgentBufferField(list(images))
    return lambda: optimizer.update(batch, rows)


def sac_update(
    *, rows: int, obs: int, actions: int, units: int, memory: int = 0, sequence: int = 1
) -> Callable[[], Any]:
    """Update on `rows` rows: `TorchSACOptimizer.update`, its conversion to tensors included."""
    optimizer = sac_optimizer(rows, obs, actions, units, memory, sequence)
    batch = minibatch(rows, obs, actions, memory)
    return lambda: optimizer.update(batch, rows // sequence)


def sac_optimizer(
    rows: int, obs: int, actions: int, units: int, memory: int, sequence: int
) -> TorchSACOptimizer:
    """The optimizer, with an LSTM where `memory` is not 0."""
    spec, network = behavior(obs, actions), network_settings(units, memory, sequence)
    settings = TrainerSettings(
        trainer_type="sac",
        hyperparameters=SACSettings(batch_size=rows),
        network_settings=network,
    )
    squashed = {"conditional_sigma": True, "tanh_squash": True}
    return TorchSACOptimizer(TorchPolicy(0, spec, network, SimpleActor, squashed), settings)


def sac_trajectory_values(
    *, agents: int, steps: int, obs: int, actions: int, units: int, memory: int, sequence: int
) -> Callable[[], Any]:
    """Value one trajectory of each agent, under its own id."""
    optimizer = sac_optimizer(steps, obs, actions, units, memory, sequence)
    return valuing(optimizer, [minibatch(steps, obs, actions, memory) for _ in range(agents)], obs)


def trajectory_values(
    *, agents: int, steps: int, obs: int, actions: int, units: int, memory: int, sequence: int
) -> Callable[[], Any]:
    """Value one trajectory of each agent, under its own id."""
    optimizer = ppo_optimizer(steps, behavior(obs, actions), units, memory, sequence)
    return valuing(optimizer, [minibatch(steps, obs, actions, memory) for _ in range(agents)], obs)


def valuing(optimizer: Any, buffers: list[AgentBuffer], obs: int) -> Callable[[], Any]:
    """Value trajectories one after another, each under an id of its own."""
    following = [np.zeros(obs, np.float32)]

    def call() -> None:
        for agent, buffer in enumerate(buffers):
            optimizer.get_trajectory_value_estimates(buffer, following, False, str(agent))

    return call


def poca_update(*, rows: int, mates: int, obs: int, actions: int, units: int) -> Callable[[], Any]:
    """Update on `rows` rows: `TorchPOCAOptimizer.update`, its conversion to tensors included."""
    optimizer = poca_optimizer(rows, obs, actions, units)
    batch = with_mates(rows, mates, obs, actions)
    return lambda: optimizer.update(batch, rows)


def poca_trajectory_values(
    *, groups: int, size: int, steps: int, obs: int, actions: int, units: int
) -> Callable[[], Any]:
    """Value one trajectory of each agent of each group, under its own id."""
    optimizer = poca_optimizer(steps, obs, actions, units)
    agents = [
        (f"{group} {agent}", with_mates(steps, size - 1, obs, actions))
        for group in range(groups)
        for agent in range(size)
    ]
    following = [np.zeros(obs, np.float32)]
    following_mates = [[np.zeros(obs, np.float32)] for _ in range(size - 1)]

    def call() -> None:
        for name, buffer in agents:
            optimizer.get_trajectory_and_baseline_value_estimates(
                buffer, following, following_mates, False, name
            )

    return call


def poca_optimizer(rows: int, obs: int, actions: int, units: int) -> TorchPOCAOptimizer:
    """The optimizer for vector observations."""
    spec, network = behavior(obs, actions), network_settings(units, 0, 1)
    settings = TrainerSettings(
        trainer_type="poca",
        hyperparameters=POCASettings(batch_size=rows),
        network_settings=network,
    )
    sigma = {"conditional_sigma": False, "tanh_squash": False}
    return TorchPOCAOptimizer(TorchPolicy(0, spec, network, SimpleActor, sigma), settings)


def with_mates(rows: int, mates: int, obs: int, actions: int) -> AgentBuffer:
    """A buffer of random rows with all that POCA reads; a group's columns hold lists."""
    random = np.random.default_rng(1)
    buffer = minibatch(rows, obs, actions, 0)
    buffer[RewardSignalUtil.baseline_estimates_key(STREAM)] = AgentBufferField(
        list(random.standard_normal(rows).astype(np.float32))
    )
    for key, width in (
        (GroupObsUtil.get_name_at(0), obs),
        (BufferKey.GROUP_CONTINUOUS_ACTION, actions),
    ):
        column = random.standard_normal((rows, mates, width)).astype(np.float32)
        buffer[key] = AgentBufferField([list(row) for row in column])
    return buffer


def ppo_optimizer(
    rows: int, spec: BehaviorSpec, units: int, memory: int, sequence: int
) -> TorchPPOOptimizer:
    """The optimizer, with an LSTM where `memory` is not 0."""
    network = network_settings(units, memory, sequence)
    settings = TrainerSettings(
        trainer_type="ppo",
        hyperparameters=PPOSettings(batch_size=rows),
        network_settings=network,
    )
    sigma = {"conditional_sigma": False, "tanh_squash": False}
    return TorchPPOOptimizer(TorchPolicy(0, spec, network, SimpleActor, sigma), settings)


def network_settings(units: int, memory: int, sequence: int) -> NetworkSettings:
    """Two layers, and an LSTM where `memory` is not 0."""
    settings = NetworkSettings(hidden_units=units, num_layers=2)
    if memory:
        settings.memory = NetworkSettings.MemorySettings(
            sequence_length=sequence, memory_size=memory
        )
    return settings


def behavior(obs: int, actions: int) -> BehaviorSpec:
    """One vector observation and continuous actions."""
    seen = ObservationSpec(
        shape=(obs,),
        dimension_property=(DimensionProperty.UNSPECIFIED,),
        observation_type=ObservationType.DEFAULT,
        name="vector",
    )
    return BehaviorSpec([seen], ActionSpec.create_continuous(actions))


def signal_update(
    *, signal: str, rows: int, obs: int, actions: int, units: int, expert_rows: int
) -> Callable[[], Any]:
    """Update a reward provider, its conversion to tensors and draw of expert rows included."""
    provider = reward_provider(signal, obs, actions, units, expert_rows)
    batch = minibatch(rows, obs, actions, 0)
    return lambda: provider.update(batch)


def signal_evaluate(
    *, signal: str, rows: int, obs: int, actions: int, units: int, expert_rows: int
) -> Callable[[], Any]:
    """Evaluate a reward provider, its conversion to tensors included."""
    provider = reward_provider(signal, obs, actions, units, expert_rows)
    batch = minibatch(rows, obs, actions, 0)
    return lambda: provider.evaluate(batch)


def reward_provider(
    signal: str, obs: int, actions: int, units: int, expert_rows: int
) -> BaseRewardProvider:
    """The provider of a signal; GAIL's demonstrations are drawn instead of read from a file."""
    spec, network = behavior(obs, actions), NetworkSettings(hidden_units=units, num_layers=2)
    if signal == "curiosity":
        return CuriosityRewardProvider(spec, CuriositySettings(network_settings=network))
    if signal == "rnd":
        return RNDRewardProvider(spec, RNDSettings(network_settings=network))
    demonstrations = minibatch(expert_rows, obs, actions, 0)
    gail_reward_provider.demo_to_buffer = lambda *_: (spec, demonstrations)
    settings = GAILSettings(demo_path="none", network_settings=network)
    return GAILRewardProvider(spec, settings)


def minibatch(rows: int, obs: int, actions: int, memory: int) -> AgentBuffer:
    """A buffer of random rows with all that the updates read."""
    random = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return random.standard_normal(shape).astype(np.float32)

    columns = {
        (ObservationKeyPrefix.OBSERVATION, 0): normal(rows, obs),
        (ObservationKeyPrefix.NEXT_OBSERVATION, 0): normal(rows, obs),
        BufferKey.CONTINUOUS_ACTION: normal(rows, actions),
        BufferKey.CONTINUOUS_LOG_PROBS: normal(rows, actions) - 1,
        BufferKey.ACTION_MASK: np.ones((rows, 0), np.float32),
        BufferKey.MASKS: np.ones(rows, np.float32),
        BufferKey.DONE: np.zeros(rows, np.float32),
        BufferKey.ADVANTAGES: normal(rows),
        RewardSignalUtil.rewards_key(STREAM): normal(rows),
        RewardSignalUtil.value_estimates_key(STREAM): normal(rows),
        RewardSignalUtil.returns_key(STREAM): normal(rows),
    }
    if memory:
        columns[BufferKey.MEMORY] = 0.1 * normal(rows, memory)
        columns[BufferKey.CRITIC_MEMORY] = 0.1 * normal(rows, memory)
    buffer = AgentBuffer()
    for key, column in columns.items():
        buffer[key] = AgentBufferField(list(column))
    return buffer
