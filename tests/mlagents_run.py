"""ML-Agents' own trainer loop in a world of tests: run with an interpreter that has it.

    python -m tests.mlagents_run '{"trainer_type": "optinfra_ppo", "folder": "…"}'

prints one line of JSON: what was rewarded over the steps, and what a test asks for beside it.
"""

import json
import sys
import time
import warnings

import numpy as np

warnings.filterwarnings("ignore")

from mlagents.plugins.trainer_type import register_trainer_plugins  # noqa: E402

register_trainer_plugins()

from mlagents.trainers.environment_parameter_manager import (  # noqa: E402
    EnvironmentParameterManager,
)
from mlagents.trainers.settings import RunOptions  # noqa: E402
from mlagents.trainers.simple_env_manager import SimpleEnvManager  # noqa: E402
from mlagents.trainers.stats import StatsReporter, StatsWriter  # noqa: E402
from mlagents.trainers.trainer import TrainerFactory  # noqa: E402
from mlagents.trainers.trainer_controller import TrainerController  # noqa: E402
from mlagents_envs.side_channel.environment_parameters_channel import (  # noqa: E402
    EnvironmentParametersChannel,
)

from tests.mlagents_world import NAME, World  # noqa: E402


class Told(StatsWriter):
    """Keeps what is reported."""

    def __init__(self):
        self.curve, self.names, self.all, self.times = [], set(), {}, []

    def write_stats(self, category, values, step):
        self.times.append((step, time.perf_counter()))
        self.names |= set(values)
        for name, x in values.items():
            self.all[name] = float(x.aggregated_value)
        for name in ("Environment/Group Cumulative Reward", "Environment/Cumulative Reward"):
            if name in values:
                self.curve.append((step, float(np.mean(values[name].full_dist))))
                break


def run_options(asked):
    kind = asked["trainer_type"].removeprefix("optinfra_")
    hyper = {
        "ppo": {"batch_size": 64, "buffer_size": 640, "learning_rate": 3e-3, "num_epoch": 3,
                "learning_rate_schedule": "constant", "beta": 5e-3},
        "poca": {"batch_size": 64, "buffer_size": 640, "learning_rate": 3e-3, "num_epoch": 3,
                 "learning_rate_schedule": "constant", "beta": 5e-3},
        "sac": {"batch_size": 64, "buffer_size": 5000, "learning_rate": 2e-3, "init_entcoef": 0.1,
                "buffer_init_steps": 200, "steps_per_update": 4, "tau": 0.01,
                "save_replay_buffer": asked.get("save_replay", False)},
    }[kind]  # fmt: skip
    network = {"hidden_units": 32, "num_layers": 1, "normalize": asked.get("normalize", False)}
    if asked.get("memory"):
        network["memory"] = {"sequence_length": 12, "memory_size": 32}
    behavior = {
        "trainer_type": asked["trainer_type"],
        "hyperparameters": hyper | asked.get("hyperparameters", {}),
        "network_settings": network,
        "reward_signals": asked.get("reward_signals", {"extrinsic": {"gamma": 0.95}}),
        "max_steps": asked["steps"],
        "time_horizon": asked.get("time_horizon", 16),
        "summary_freq": asked.get("summary_freq", 1000),
        "checkpoint_interval": asked.get("checkpoint_interval", 10**9),
    }
    if "behavioral_cloning" in asked:
        behavior["behavioral_cloning"] = asked["behavioral_cloning"]
    if asked.get("init_path"):
        behavior["init_path"] = asked["init_path"]
    return RunOptions.from_dict({"behaviors": {NAME: behavior}})


def unclipped(batch):
    """Put returns in the place of values, as ML-Agents does by mistake: nothing is clipped then."""
    return batch._replace(values=batch.returns)


def begin_as_upstream(kind, freely):
    """Let the plugin's critics begin with the weights, and after the draws, of ML-Agents' own.

    What then differs between curves is how they learn. By themselves, seeds differ by more. With
    `freely` PPO's values move as there, where their clipping has no effect: clipped they take up
    to 5,000 steps more to follow (seeds 0 and 2 of four).
    """
    from mlagents.trainers.poca.optimizer_torch import TorchPOCAOptimizer
    from mlagents.trainers.ppo.optimizer_torch import TorchPPOOptimizer
    from mlagents.trainers.sac.optimizer_torch import TorchSACOptimizer

    from optinfra.mlagents import import_modules
    from optinfra.mlagents.plugin.learning import Learning

    upstream = {"ppo": TorchPPOOptimizer, "sac": TorchSACOptimizer, "poca": TorchPOCAOptimizer}
    create_optimizer = Learning.create_optimizer

    def created(self):
        bridge = create_optimizer(self)
        theirs = upstream[kind](self.policy, self.trainer_settings).get_modules()
        weights = {
            name: module.state_dict() for name, module in theirs.items()
            if hasattr(module, "parameters")
        }  # fmt: skip
        import_modules(bridge.own, weights | {"Policy": self.policy.actor.state_dict()})
        if freely:
            read = bridge.own.read
            bridge.own.read = lambda buffer: unclipped(read(buffer))
        return bridge

    Learning.create_optimizer = created


def run(asked, watch=None):
    """Train as `mlagents-learn` does, in one process."""
    options = run_options(asked)
    if asked.get("upstream_start") and asked["trainer_type"].startswith("optinfra_"):
        kind = asked["trainer_type"].removeprefix("optinfra_")
        begin_as_upstream(kind, asked.get("freely", False))
    told = Told()
    StatsReporter.writers.clear()
    StatsReporter.writers.append(told)
    env = World(
        asked.get("continuous", True), bool(asked.get("memory")), asked.get("groups", False),
        asked.get("masks", True), seed=asked.get("seed", 0),
    )  # fmt: skip
    parameters = EnvironmentParameterManager(options.environment_parameters, 0, False)
    factory = TrainerFactory(
        trainer_config=options.behaviors, output_path=asked["folder"], train_model=True,
        load_model=asked.get("resume", False), seed=asked.get("seed", 0),
        param_manager=parameters, multi_gpu=False,
    )  # fmt: skip
    controller = TrainerController(
        factory, asked["folder"], "run", parameters, True, asked.get("seed", 0)
    )
    manager = SimpleEnvManager(env, EnvironmentParametersChannel())
    began = time.perf_counter()
    controller.start_learning(manager)
    seconds = time.perf_counter() - began
    trainer = controller.trainers[NAME]
    result = {
        "curve": told.curve, "seconds": seconds, "step": int(trainer.get_step),
        "names": sorted(told.names), "last": told.all, "times": told.times,
        "compiled": "torch._inductor" in sys.modules,
    }  # fmt: skip
    if watch:
        result |= watch(trainer)
    return result


if __name__ == "__main__":
    print(json.dumps(run(json.loads(sys.argv[1]))))
