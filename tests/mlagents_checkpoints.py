"""Checkpoints to and fro between ML-Agents and optinfra, in an interpreter that has both.

    python -m tests.mlagents_checkpoints FOLDER

For each recorded case: ML-Agents updates twice, saves and updates once more; ours loads what it
saved and updates once. Then the other way round. Prints how far the results lie apart.
"""

import json
import sys
import warnings
from pathlib import Path

import numpy as np

warnings.filterwarnings("ignore")

from mlagents.plugins.trainer_type import get_default_trainer_types  # noqa: E402

get_default_trainer_types()

from mlagents.torch_utils import torch  # noqa: E402
from mlagents.trainers import settings as theirs  # noqa: E402
from mlagents.trainers.buffer import AgentBuffer, AgentBufferField  # noqa: E402
from mlagents.trainers.model_saver.torch_model_saver import TorchModelSaver  # noqa: E402
from mlagents.trainers.poca.optimizer_torch import TorchPOCAOptimizer  # noqa: E402
from mlagents.trainers.policy.torch_policy import TorchPolicy  # noqa: E402
from mlagents.trainers.ppo.optimizer_torch import TorchPPOOptimizer  # noqa: E402
from mlagents.trainers.sac.optimizer_torch import TorchSACOptimizer  # noqa: E402
from mlagents.trainers.torch_entities.networks import SharedActorCritic, SimpleActor  # noqa: E402
from mlagents_envs import base_env  # noqa: E402

from optinfra import mlagents  # noqa: E402
from tests import golden_cases, mlagents_cases  # noqa: E402

OPTIMIZERS = {"ppo": TorchPPOOptimizer, "sac": TorchSACOptimizer, "poca": TorchPOCAOptimizer}
CASES = {  # without draws: what one side draws the other cannot
    "ppo_hybrid": "ppo", "ppo_recurrent": "ppo", "ppo_shared_normalized": "ppo",
    "ppo_streams": "ppo", "sac_discrete": "sac", "poca_continuous": "poca",
    "poca_recurrent": "poca",
}  # fmt: skip
TWICE = 2


def upstream_settings(meta, kind):
    document = mlagents_cases.trainer_settings(meta, kind).model_dump(mode="json")
    for name in ("init_path", "self_play", "behavioral_cloning"):
        document.pop(name)
    if document["network_settings"]["memory"] is None:
        del document["network_settings"]["memory"]
    for signal in document["reward_signals"].values():
        signal["network_settings"].pop("memory")
    return theirs.TrainerSettings.structure(document, theirs.TrainerSettings)


def upstream(golden, kind):
    """Their optimizer with the recorded weights."""
    meta, settings = golden.meta, upstream_settings(golden.meta, kind)
    seen = [
        base_env.ObservationSpec(
            tuple(x["shape"]), tuple(base_env.DimensionProperty(d) for d in x["dims"]),
            base_env.ObservationType[x["type"]], "x",
        )
        for x in meta["obs"]
    ]  # fmt: skip
    action = base_env.ActionSpec(meta["continuous"], tuple(meta["discrete"]))
    shared, sac = bool(meta["shared_critic"]), kind == "sac"
    given = {"conditional_sigma": sac, "tanh_squash": sac}
    if shared:
        given["stream_names"] = list(meta["streams"])
    policy = TorchPolicy(
        0, base_env.BehaviorSpec(seen, action), settings.network_settings,
        SharedActorCritic if shared else SimpleActor, given,
    )  # fmt: skip
    optimizer = OPTIMIZERS[kind](policy, settings)
    weights = mlagents_cases.modules(golden, "before")
    modules = {**policy.get_modules(), **optimizer.get_modules()}
    for name, module in modules.items():
        if name in weights:
            module.load_state_dict(weights[name], strict=True)
    policy.set_step(meta["step"])
    return optimizer, settings


def upstream_buffer(golden):
    columns = mlagents_cases.buffer(golden)
    buffer = AgentBuffer()
    counts = golden.arrays.get("batch/group_count")
    for key in columns:
        text = mlagents_cases.text_of(key)
        rows = list(np.asarray(columns[key]))
        if mlagents_cases.is_group(text) and counts is not None:
            rows = [list(row[:count]) for row, count in zip(rows, counts)]
        field = AgentBufferField()
        field.set(rows)
        buffer[AgentBuffer._decode_key(text)] = field
    return buffer


def saver(optimizer, settings, folder, load=False):
    one = TorchModelSaver(settings, str(folder), load)
    one.export = lambda *_: None  # what is compared is the .pt
    one.register(optimizer.policy)
    one.register(optimizer)
    return one


def state(optimizer):
    modules = {**optimizer.policy.get_modules(), **optimizer.get_modules()}
    return {
        f"{name}/{key}": x.detach().clone().double()
        for name, module in modules.items() if isinstance(module, torch.nn.Module)
        for key, x in module.state_dict().items()
    }  # fmt: skip


def apart(one, other):
    """The largest distance between what both have, and how many numbers moved before."""
    both = one.keys() & other.keys()
    assert len(both) > 10, (sorted(one)[:5], sorted(other)[:5])
    distances = [(one[name].double() - other[name].double()).abs().flatten() for name in both]
    return float(torch.cat(distances).max())


def exported(optimizer):
    return {f"{module}/{name}": x for module, part in mlagents.export_modules(optimizer).items()
            for name, x in part.items() if isinstance(x, torch.Tensor)}  # fmt: skip


def compare(name, kind, folder):
    golden = golden_cases.load(name)
    batch, own_batch = upstream_buffer(golden), mlagents_cases.buffer(golden)
    optimizer, settings = upstream(golden, kind)
    for _ in range(TWICE):
        optimizer.update(batch, 1)
    saver(optimizer, settings, folder / name / "theirs").save_checkpoint("x", 1)
    before = state(optimizer)
    optimizer.update(batch, 1)
    after = state(optimizer)

    own = mlagents_cases.OPTIMIZERS[kind](
        mlagents_cases.policy_of(
            golden.meta, kind, mlagents_cases.trainer_settings(golden.meta, kind)
        ),
        mlagents_cases.trainer_settings(golden.meta, kind),
    )
    mlagents.load_checkpoint(own, folder / name / "theirs" / "checkpoint.pt")
    told = {"read": apart(before, exported(own)), "moves": apart(before, after)}
    if kind == "sac":  # their coefficients are not in a checkpoint: they begin anew
        told["step"] = own.policy.get_current_step()
    else:
        own.update(own_batch, 1)
        told |= {"goes_on": apart(after, exported(own)), "step": own.policy.get_current_step()}

    own = mlagents_cases.optimizer(golden, kind)
    for _ in range(TWICE):
        own.update(own_batch, 1)
    (folder / name / "ours").mkdir(parents=True)
    mlagents.save_checkpoint(own, folder / name / "ours" / "checkpoint.pt")
    before = exported(own)
    own.update(own_batch, 1)
    after = exported(own)
    optimizer, settings = upstream(golden, kind)
    saver(optimizer, settings, folder / name / "ours", load=True).initialize_or_load()
    told["read_back"] = apart(state(optimizer), before)
    if kind != "sac":
        optimizer.update(batch, 1)
        told["goes_on_there"] = apart(state(optimizer), after)
    return told


if __name__ == "__main__":
    print(
        json.dumps({name: compare(name, kind, Path(sys.argv[1])) for name, kind in CASES.items()})
    )
