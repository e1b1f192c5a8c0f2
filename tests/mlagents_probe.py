"""Facts from within real ML-Agents runs: what trajectories, buffers and checkpoints were.

    python -m tests.mlagents_probe ppo FOLDER

runs ML-Agents' trainer loop with the plugin twice, the second time from the first one's
checkpoint, and prints one line of JSON.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch

from optinfra.demos import Demonstrations, save
from optinfra.mlagents import export_modules
from optinfra.mlagents.keys import BufferKey, key_of
from optinfra.mlagents.optimizer import TorchOptimizer
from optinfra.mlagents.plugin.learning import Learning
from optinfra.mlagents.plugin.off_policy import SACTrainer
from optinfra.mlagents.plugin.on_policy import OnPolicy
from optinfra.mlagents.valuing import Valuer
from optinfra.types import Action, ActionSpec, Spec
from tests import mlagents_run, mlagents_world

S = 12
DEMO = "expert.demo"  # in the run's folder
CUT_OFTEN = {"hyperparameters": {"batch_size": 48, "buffer_size": 300}}
SCENARIOS = {
    "ppo": {
        "trainer_type": "optinfra_ppo", "continuous": True, "memory": True, "normalize": True,
        "steps": 2500, **CUT_OFTEN,
        "reward_signals": {
            "extrinsic": {"gamma": 0.95},
            "curiosity": {"strength": 0.01, "network_settings": {"hidden_units": 8}},
            "gail": {"strength": 0.01, "use_actions": True, "demo_path": DEMO,
                     "network_settings": {"hidden_units": 8}},
        },
        "behavioral_cloning": {"demo_path": DEMO, "strength": 0.5},
    },
    "sac": {
        "trainer_type": "optinfra_sac", "continuous": True, "memory": True, "save_replay": True,
        "steps": 1500, "hyperparameters": {"batch_size": 48, "buffer_size": 605,
                                           "buffer_init_steps": 200, "steps_per_update": 20},
    },
    "poca": {
        "trainer_type": "optinfra_poca", "continuous": False, "memory": True, "groups": True,
        "steps": 2500, **CUT_OFTEN,
    },
}  # fmt: skip


def show_how(path):
    """Record who goes straight, in three steps, to the end that is shown at the first."""
    sides = np.repeat([1.0, -1.0] * 4, 4).astype(np.float32)
    step = np.arange(len(sides)) % 4
    seen = np.stack([step * mlagents_world.STRIDE * sides, sides * (step == 0), sides**2], 1)
    rewards = np.where(step == 3, 1.0, 0.0) - mlagents_world.COST * (step > 0)
    expert = Demonstrations(
        obs=(torch.from_numpy(seen.astype(np.float32)),),
        action=Action(torch.from_numpy(sides[:, None]), torch.zeros(len(sides), 0).long()),
        action_mask=torch.ones(len(sides), 0, dtype=torch.bool),
        rewards=torch.from_numpy(rewards.astype(np.float32)),
        terminated=torch.from_numpy(step == 3),
        truncated=torch.zeros(len(sides), dtype=torch.bool),
        episode=torch.arange(len(sides)) // 4,
    )
    spec = Spec(obs=((3,),), action=ActionSpec(1))
    save(path, expert, name=mlagents_world.NAME, spec=spec)


def watched(facts):
    """Let the classes tell what they are given, while they do what they do."""
    facts.update(calls=[], advantages=[], actions=[], cuts=[], lengths=[], cut_rows=0)
    value = Valuer.value

    def valued(self, params, asked):
        agent_id, before = asked.agent_id, asked.agent_id in self.memories
        out = value(self, params, asked)
        ended = bool(np.asarray(asked.batch[BufferKey.DONE])[-1])
        after = agent_id in self.memories
        facts["calls"].append([agent_id, before, bool(asked.done), ended, after])
        return out

    Valuer.value = valued
    standardize = OnPolicy._standardize

    def standardized(self, buffer):
        standardize(self, buffer)
        advantages = np.asarray(buffer[BufferKey.ADVANTAGES])
        counts = np.asarray(buffer[BufferKey.MASKS]) > 0
        valid, rest = advantages[counts], advantages[~counts]
        told = [valid.mean(), valid.std(), np.abs(rest).max(initial=0), len(rest)]
        facts["advantages"].append([float(x) for x in told])

    OnPolicy._standardize = standardized
    executed = Learning._as_executed

    def as_executed(self, buffer):
        seen = executed(self, buffer)
        drawn, shown = (np.asarray(b[BufferKey.CONTINUOUS_ACTION]) for b in (buffer, seen))
        if drawn.size:
            told = [np.abs(drawn).max(), np.abs(shown - np.clip(drawn, -3, 3) / 3).max()]
            facts["actions"].append([float(x) for x in told])
        return seen

    Learning._as_executed = as_executed
    process = SACTrainer._process_trajectory

    def processed(self, trajectory):
        held = self.update_buffer.num_experiences
        process(self, trajectory)
        if trajectory.interrupted and self.update_buffer.num_experiences > held:
            row = held + len(trajectory.steps) - 1
            followed = np.asarray(self.update_buffer[key_of("next_obs:0")])[row]
            own = np.asarray(self.update_buffer[key_of("obs:0")])[row]
            done = np.asarray(self.update_buffer[BufferKey.DONE])[row]
            facts["cut_rows"] += 1
            facts["cuts"].append([
                bool(np.array_equal(followed, trajectory.next_obs[0])),
                bool(np.array_equal(followed, own)), float(done),
            ])  # fmt: skip
        facts["lengths"].append(self.update_buffer.num_experiences)

    SACTrainer._process_trajectory = processed
    learn = TorchOptimizer.learn

    def learnt(self, batch):
        if hasattr(batch, "values") and "clipping" not in facts:
            name = next(iter(batch.values))
            facts["clipping"] = bool(torch.equal(batch.values[name], batch.returns[name]))
        return learn(self, batch)

    TorchOptimizer.learn = learnt


def told_by(trainer):
    """Everything that a checkpoint is to hold, as text that two runs can be compared by."""
    modules = export_modules(trainer.optimizer.own)
    whole = {f"{module}/{name}": x for module, part in modules.items() for name, x in part.items()}
    numbers = {
        name: [float(x.double().sum()), float(x.double().abs().sum())]
        for name, x in whole.items() if isinstance(x, torch.Tensor)
    }  # fmt: skip
    saved = trainer._state_dict()
    numbers |= {
        f"trainer/{name}": float(x.double().nansum()) if isinstance(x, torch.Tensor) else x
        for name, x in saved.items()
    }
    acting = trainer.policy.actor.state_dict()
    own = trainer.optimizer.own.policy.actor.state_dict()
    same = all(torch.equal(acting[name], own[name]) for name in own)
    return {"numbers": numbers, "same": same}


def main(kind, folder):
    demo = Path(folder) / DEMO
    show_how(demo)
    scenario = json.loads(json.dumps(SCENARIOS[kind]).replace(DEMO, demo.as_posix()))
    asked = scenario | {"folder": folder, "summary_freq": 500, "time_horizon": 5}
    facts = {}
    watched(facts)

    def watch(trainer):
        own = trainer.optimizer.own
        coefs = getattr(own.state, "log_entropy_coef", {})
        return {
            "saved": told_by(trainer), "alive": sorted(own.critic_memory_dict),
            "log_entropy_coef": {name: x.tolist() for name, x in coefs.items()},
            "rows": trainer.update_buffer.num_experiences,
        }  # fmt: skip

    first = mlagents_run.run(asked, watch)
    facts |= {"first": first, "calls": list(facts["calls"]), "episodes": len(facts["calls"])}
    add_policy = Learning.add_policy

    def added(self, *arguments):
        add_policy(self, *arguments)
        facts["resumed"] = watch(self)
        facts["resumed_step"] = int(self.get_step)

    Learning.add_policy = added
    calls = facts.pop("calls")
    facts["calls"] = []
    second = mlagents_run.run(asked | {"resume": True, "steps": asked["steps"] + 500}, lambda _: {})
    facts |= {"calls": calls, "second": second}
    print(json.dumps(facts))


if __name__ == "__main__":
    main(*sys.argv[1:])
