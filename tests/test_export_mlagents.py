"""What ML-Agents itself exports: names, shapes, and numbers of the same weights."""

import json
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from optinfra import random
from optinfra.moments import Moments
from optinfra.types import ActionSpec, Spec
from tests import examples, golden_networks
from tests.export_cases import M, Policy, interface, learner_of
from tests.mlagents_python import mlagents_python
from tests.onnx_cases import session

pytestmark = pytest.mark.mlagents
CLOSE = {"atol": 1e-5, "rtol": 1e-5}
CONTINUOUS = "action_model._continuous_distribution"
DISCRETE = "action_model._discrete_distribution.branches"
VECTORS = [(4,), (2,)]


def case(trainer, continuous, branches, memory=0, obs=VECTORS, goals=()):
    return {
        "trainer": trainer, "continuous": continuous, "branches": branches, "memory": memory,
        "obs": obs, "goals": goals, "seed": 3,
    }  # fmt: skip


CASES = {
    "ppo": case("ppo", 2, (3, 2)),
    "ppo, memory": case("ppo", 2, (3, 2), M),
    "ppo, continuous": case("ppo", 3, ()),
    "ppo, discrete, memory": case("ppo", 0, (4,), M),
    "sac": case("sac", 2, (3, 2)),
    "sac, memory": case("sac", 2, (3, 2), M),
    "sac, continuous": case("sac", 1, ()),
    "image": case("ppo", 2, (3, 2), obs=[(2, 20, 23), (3,)]),
    "sets": case("ppo", 2, (3, 2), M, obs=[(4,), (3, 2), (5, 3)]),
    "goal": case("sac", 2, (), obs=[(4,), (2,)], goals=(1,)),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """ML-Agents' files of all cases."""
    interpreter = mlagents_python()
    folder = tmp_path_factory.mktemp("mlagents")
    (folder / "cases.json").write_text(json.dumps(CASES))
    script = Path(__file__).with_name("mlagents_exporter.py")
    run = subprocess.run(
        [interpreter, script, folder, folder / "cases.json"], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    return folder


def params_of(learner, spec, one, state):
    """ML-Agents' weights and moments, under our names."""
    params = learner.init(random.key(0)).params
    obs = [{"shape": shape} for shape in spec.obs]
    meta = {"num_layers": 1, "obs": obs, "network": {"vis_encode_type": "simple"}}
    weights = {f"body.{k}": x for k, x in golden_networks.body_weights(meta, state).items()}
    for part in ("weight", "bias"):
        for gate in ("ih", "hh") if one["memory"] else ():
            name = f"{part}_{gate}_l0"
            weights[f"memory.{name}"] = state[f"network_body.lstm.lstm.{name}"]
        if one["continuous"]:
            weights[f"head.mean.{part}"] = state[f"{CONTINUOUS}.mu.{part}"]
        if one["continuous"] and one["trainer"] == "sac":
            weights[f"head.log_std.{part}"] = state[f"{CONTINUOUS}.log_sigma.{part}"]
        if one["branches"]:
            branches = [state[f"{DISCRETE}.{k}.{part}"] for k in range(len(one["branches"]))]
            weights[f"head.logits.{part}"] = torch.cat(branches)
    if one["continuous"] and one["trainer"] == "ppo":
        weights["head.log_std"] = state[f"{CONTINUOUS}.log_sigma"][0]
    actor = {f"actor.{name}": x for name, x in weights.items()}
    assert actor.keys() == {name for name in params.weights if name.startswith("actor.")}
    return params._replace(
        weights={**params.weights, **actor},
        moments=tuple(
            moments_of(state, f"{golden_networks.PROCESSORS}.{i}.normalizer") if m else ()
            for i, m in enumerate(params.moments)
        ),
    )


def moments_of(state, name):
    steps = state[f"{name}.normalization_steps"].long().reshape(())
    return Moments(steps, state[f"{name}.running_mean"], state[f"{name}.running_variance"])


@pytest.mark.parametrize("name", CASES)
def test_the_same_weights_do_the_same_under_the_same_names(folder, name):
    one = CASES[name]
    actions = ActionSpec(one["continuous"], tuple(one["branches"]))
    spec = Spec(tuple(map(tuple, one["obs"])), actions, tuple(one["goals"]))
    cell = "lstm" if one["memory"] else None
    learner = learner_of(one["trainer"], spec, cell=cell, normalize=True)
    with np.load(folder / f"{name}.npz") as arrays:
        state = {key: torch.from_numpy(arrays[key]) for key in arrays.files}
    params = params_of(learner, spec, one, state)
    ours = Policy.of(learner, params, spec)
    model = onnx.load(folder / f"{name}.onnx")
    theirs = ours._replace(model=model, session=session(model))
    assert interface(ours.model) == interface(theirs.model)

    obs, memory = examples.observed(1, (7,), spec), ours.memory(2, 7)
    mask = examples.normal(3, 7, spec.action.choices) > -0.5
    for _ in range(3):
        mine, other = (each.run(obs, mask, memory) for each in (ours, theirs))
        assert list(mine) == list(other)
        if one["trainer"] == "sac":  # ML-Agents forgets to squash them
            likeliest = "deterministic_continuous_actions"
            other[likeliest] = other[likeliest].tanh()
        for key in mine:
            if key not in ("continuous_actions", "discrete_actions"):
                torch.testing.assert_close(mine[key], other[key], **CLOSE, msg=key)
        if one["memory"]:
            memory = other["recurrent_out"][:, 0]
    for key in {"continuous_actions", "discrete_actions"} & mine.keys():
        assert (mine[key].dtype, mine[key].shape) == (other[key].dtype, other[key].shape)
