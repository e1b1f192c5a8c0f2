"""Recorded calls of ML-Agents through the classes that have its names."""

from collections.abc import Mapping

import torch

from optinfra import mlagents
from optinfra.mlagents import (
    ActionSpec,
    AgentBuffer,
    BehaviorSpec,
    DimensionProperty,
    ObservationSpec,
    ObservationType,
    TrainerSettings,
)
from optinfra.mlagents.buffer import is_group as is_group
from optinfra.mlagents.keys import key_of
from optinfra.mlagents.keys import text_of as text_of
from tests import golden_cases

AXES = {
    1: (DimensionProperty.NONE,),
    2: (DimensionProperty.VARIABLE_SIZE, DimensionProperty.NONE),
    3: (DimensionProperty.NONE, *[DimensionProperty.TRANSLATIONAL_EQUIVARIANCE] * 2),
}
OPTIMIZERS = {
    "ppo": mlagents.TorchPPOOptimizer,
    "sac": mlagents.TorchSACOptimizer,
    "poca": mlagents.TorchPOCAOptimizer,
}
NO_COLUMNS = ("group_count", "next_obs_last", "next_group_obs_last")
SQUASHED = {"conditional_sigma": True, "tanh_squash": True}


def behavior_spec(meta: Mapping) -> BehaviorSpec:
    seen = [
        ObservationSpec(tuple(x["shape"]), AXES[len(x["shape"])], ObservationType[x["type"]], "x")
        for x in meta["obs"]
    ]
    return BehaviorSpec(seen, ActionSpec(meta["continuous"], tuple(meta["discrete"])))


def trainer_settings(meta: Mapping, kind: str) -> TrainerSettings:
    network = {
        "normalize": meta["normalize"],
        "hidden_units": meta["hidden_units"],
        "num_layers": meta["num_layers"],
        "vis_encode_type": meta["network"]["vis_encode_type"],
        "goal_conditioning_type": meta["network"]["goal_conditioning_type"],
    }
    if meta["recurrent"]:
        memory = {name: meta[name] for name in ("sequence_length", "memory_size")}
        network["memory"] = memory
    document = {
        "trainer_type": kind,
        "network_settings": network,
        "max_steps": meta["max_steps"],
        "reward_signals": {name: signal(x) for name, x in meta["streams"].items()},
    }
    if "hyperparameters" in meta:
        document["hyperparameters"] = meta["hyperparameters"]
    return TrainerSettings.model_validate(document)


def signal(recorded: Mapping) -> dict:
    """Settings of a signal without what upstream has given up."""
    return {name: x for name, x in recorded.items() if name != "encoding_size"}


def buffer(golden, prefix: str = "batch/") -> AgentBuffer:
    columns = AgentBuffer()
    for name, array in golden.arrays.items():
        text = name.removeprefix(prefix)
        if name.startswith(prefix) and text.partition(":")[0] not in NO_COLUMNS:
            columns[key_of(text)] = array
    return columns


def modules(golden, moment: str) -> dict[str, dict[str, torch.Tensor]]:
    found: dict[str, dict[str, torch.Tensor]] = {}
    for path, x in golden.tensors(f"{moment}/").items():
        module, _, name = path.partition("/")
        found.setdefault(module, {})[name] = x
    return found


def policy_of(meta: Mapping, kind: str, settings: TrainerSettings) -> mlagents.TorchPolicy:
    shared = bool(meta.get("shared_critic"))
    actor = mlagents.SharedActorCritic if shared else mlagents.SimpleActor
    given: dict = SQUASHED if kind == "sac" else {}
    if shared:
        given = {"stream_names": list(settings.reward_signals.streams)}
    return mlagents.TorchPolicy(0, behavior_spec(meta), settings.network_settings, actor, given)


def optimizer(golden, kind: str, **options) -> mlagents.TorchOptimizer:
    """An optimizer of the recorded settings with the recorded weights."""
    settings = trainer_settings(golden.meta, kind)
    one = OPTIMIZERS[kind](policy_of(golden.meta, kind, settings), settings, **options)
    mlagents.import_modules(one, modules(golden, "before"))
    one.policy.set_step(golden.meta["step"])
    return one


def load(name: str, kind: str):
    golden = golden_cases.load(name)
    return golden, optimizer(golden, kind)
