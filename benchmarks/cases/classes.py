"""ML-Agents' classes here and there, on the same contents: `update` and value estimates."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from benchmarks.harness import Ours, Peer, Task
from benchmarks.ours import STREAM
from benchmarks.timing import Call
from optinfra.mlagents import (
    ActionSpec,
    AgentBuffer,
    BehaviorSpec,
    BufferKey,
    DimensionProperty,
    ObservationSpec,
    ObservationType,
    RewardSignalUtil,
    SimpleActor,
    TorchOptimizer,
    TorchPOCAOptimizer,
    TorchPolicy,
    TrainerSettings,
)
from optinfra.mlagents.trajectory import GroupObsUtil, ObsUtil

OBS, ACTIONS, UNITS, MATES = 32, 4, 128, 3
ROWS = {"ppo": 1024, "sac": 256, "poca": 1024}
AGENTS, SIZE, STEPS = 64, 4, 100
SEEN = ObservationSpec((OBS,), (DimensionProperty.NONE,), ObservationType.DEFAULT, "vector")
SPEC = BehaviorSpec([SEEN], ActionSpec.create_continuous(ACTIONS))
UPDATES = {kind: f"mlagents:{kind}_update" for kind in ROWS}
VALUES = {
    "ppo": "mlagents:trajectory_values",
    "sac": "mlagents:sac_trajectory_values",
    "poca": "mlagents:poca_trajectory_values",
}


def tasks(quick: bool) -> Iterator[Task]:
    """Of each optimizer the updates, then the values of 64 agents one by one."""
    kinds = ("ppo",) if quick else tuple(ROWS)
    told: dict[str, Any] = {"obs": OBS, "actions": ACTIONS, "units": UNITS}
    for kind in kinds:
        rows: dict[str, Any] = told | {"rows": ROWS[kind]}
        rows |= {"mates": MATES} if kind == "poca" else {}
        yield Task(
            f"{kind}: update, {ROWS[kind]:,} rows",
            ours=[
                Ours("our buffer, compiled", partial(updates, kind, True, False)),
                Ours("our buffer", partial(updates, kind, False, False)),
                Ours("lists, compiled", partial(updates, kind, True, True)),
                Ours("lists", partial(updates, kind, False, True)),
            ],
            peers=[Peer("ML-Agents", UPDATES[kind], rows)],
        )
    for kind in kinds:
        agents: dict[str, Any] = told | {"agents": AGENTS, "steps": STEPS}
        agents |= {"memory": 0, "sequence": 1}
        if kind == "poca":
            agents = told | {"groups": AGENTS // SIZE, "size": SIZE, "steps": STEPS}
        yield Task(
            f"{kind}: value estimates, {AGENTS} calls of {STEPS} steps",
            ours=[
                Ours("our buffer, compiled", partial(valued, kind, True, False)),
                Ours("our buffer", partial(valued, kind, False, False)),
                Ours("lists, compiled", partial(valued, kind, True, True)),
                Ours("lists", partial(valued, kind, False, True)),
            ],
            peers=[Peer("ML-Agents", VALUES[kind], agents)],
        )


def optimizer(kind: str, rows: int, compiled: bool) -> TorchOptimizer:
    """The optimizer of this case."""
    settings = TrainerSettings.model_validate(
        {
            "trainer_type": kind,
            "hyperparameters": {"batch_size": rows, "buffer_size": 10 * rows},
            "network_settings": {"hidden_units": UNITS, "num_layers": 2},
            "time_horizon": STEPS,
        }
    )
    squashed = {"conditional_sigma": kind == "sac", "tanh_squash": kind == "sac"}
    policy = TorchPolicy(0, SPEC, settings.network_settings, SimpleActor, squashed)
    made = TorchPOCAOptimizer if kind == "poca" else TorchOptimizer
    return made(policy, settings, compiled=compiled)


def updates(kind: str, compiled: bool, lists: bool) -> Call:
    """Update, the conversion to tensors included."""
    rows = ROWS[kind]
    own, batch = optimizer(kind, rows, compiled), contents(kind, rows, lists)
    return lambda: own.update(batch, rows)


def valued(kind: str, compiled: bool, lists: bool) -> Call:
    """Value the trajectory of each agent, under an id of its own."""
    own: Any = optimizer(kind, STEPS, compiled)
    batches = [contents(kind, STEPS, lists) for _ in range(AGENTS)]
    following = [np.zeros(OBS, np.float32)]
    mates = [[np.zeros(OBS, np.float32)] for _ in range(SIZE - 1)]

    def call() -> None:
        for agent, batch in enumerate(batches):
            if kind == "poca":
                own.get_trajectory_and_baseline_value_estimates(
                    batch, following, mates, False, str(agent)
                )
            else:
                own.get_trajectory_value_estimates(batch, following, False, str(agent))

    return call


def contents(kind: str, rows: int, lists: bool) -> Mapping[Any, Any]:
    """Columns of random rows: contiguous, or as the lists that ML-Agents' buffer consists of."""
    random = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return random.standard_normal((rows, *shape)).astype(np.float32)

    columns: dict[Any, np.ndarray] = {
        ObsUtil.get_name_at(0): normal(OBS),
        ObsUtil.get_name_at_next(0): normal(OBS),
        BufferKey.CONTINUOUS_ACTION: normal(ACTIONS).clip(-0.9, 0.9),
        BufferKey.CONTINUOUS_LOG_PROBS: normal(ACTIONS) * 0.1 - 1,
        BufferKey.MASKS: np.ones(rows, np.float32),
        BufferKey.DONE: np.zeros(rows, np.float32),
        BufferKey.ADVANTAGES: normal(),
        BufferKey.ENVIRONMENT_REWARDS: normal(),
        RewardSignalUtil.returns_key(STREAM): normal(),
        RewardSignalUtil.rewards_key(STREAM): normal(),
    }
    if kind == "poca":
        columns |= {
            RewardSignalUtil.baseline_estimates_key(STREAM): normal(),
            GroupObsUtil.get_name_at(0): normal(MATES, OBS),
            BufferKey.GROUP_CONTINUOUS_ACTION: normal(MATES, ACTIONS),
        }
    groups = {GroupObsUtil.get_name_at(0), BufferKey.GROUP_CONTINUOUS_ACTION}
    as_rows: Mapping[Any, Callable[[np.ndarray], Any]] = {key: list for key in groups}
    spread = {key: [as_rows.get(key, _itself)(row) for row in x] for key, x in columns.items()}
    if lists:
        return spread
    buffer = AgentBuffer(seed=0)
    for key, x in columns.items():
        buffer[key] = spread[key] if key in groups else x
    return buffer


def _itself(row: np.ndarray) -> np.ndarray:
    return row
