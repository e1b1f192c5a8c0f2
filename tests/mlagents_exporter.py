"""Run by ML-Agents' interpreter: its own files of policies, and the weights that are in them.

python mlagents_exporter.py FOLDER CASES.json
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from mlagents.trainers.policy.torch_policy import TorchPolicy
from mlagents.trainers.settings import NetworkSettings
from mlagents.trainers.torch_entities.model_serialization import ModelSerializer
from mlagents.trainers.torch_entities.networks import SimpleActor
from mlagents_envs.base_env import (
    ActionSpec,
    BehaviorSpec,
    DimensionProperty,
    ObservationSpec,
    ObservationType,
)

SAME, MOVED, MANY = (
    DimensionProperty.NONE, DimensionProperty.TRANSLATIONAL_EQUIVARIANCE,
    DimensionProperty.VARIABLE_SIZE,
)  # fmt: skip
AXES = {1: (SAME,), 2: (MANY, SAME), 3: (SAME, MOVED, MOVED)}


def policy_of(case):
    """A policy whose weights and moments are random."""
    torch.manual_seed(case["seed"])
    kinds = {True: ObservationType.GOAL_SIGNAL, False: ObservationType.DEFAULT}
    seen = [
        ObservationSpec(tuple(shape), AXES[len(shape)], kinds[i in case["goals"]], f"sensor {i}")
        for i, shape in enumerate(case["obs"])
    ]
    memory = None
    if case["memory"]:
        memory = NetworkSettings.MemorySettings(sequence_length=4, memory_size=case["memory"])
    settings = NetworkSettings(normalize=True, hidden_units=8, num_layers=1, memory=memory)
    spec = BehaviorSpec(seen, ActionSpec(case["continuous"], tuple(case["branches"])))
    soft = case["trainer"] == "sac"
    kwargs = {"conditional_sigma": soft, "tanh_squash": soft}
    policy = TorchPolicy(0, spec, settings, SimpleActor, kwargs)
    with torch.no_grad():
        for weight in policy.actor.parameters():
            if weight.requires_grad:
                weight += 0.1 * torch.randn_like(weight)
        for name, moment in policy.actor.named_buffers():
            if name.endswith("running_mean"):
                moment += torch.randn_like(moment)
            elif name.endswith("running_variance"):
                moment += 30 * torch.rand_like(moment)
            elif name.endswith("normalization_steps"):
                moment += 20
    return policy


if __name__ == "__main__":
    folder, cases = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
    for name, case in cases.items():
        policy = policy_of(case)
        ModelSerializer(policy).export_policy_model(str(folder / name))
        state = {key: x.numpy() for key, x in policy.actor.state_dict().items()}
        np.savez(folder / f"{name}.npz", **state)
