"""A world for ML-Agents' own trainer loop, and that loop: run with an interpreter that has it.

    python -m tests.mlagents_world '{"trainer_type": "optinfra_ppo", "folder": "…"}'

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
from mlagents_envs.base_env import (  # noqa: E402
    ActionSpec,
    BaseEnv,
    BehaviorSpec,
    DecisionSteps,
    DimensionProperty,
    ObservationSpec,
    ObservationType,
    TerminalSteps,
)
from mlagents_envs.side_channel.environment_parameters_channel import (  # noqa: E402
    EnvironmentParametersChannel,
)

NAME = "Walker"
STRIDE, COST, MOST_STEPS = 0.4, 0.05, 12


class World(BaseEnv):
    """Agents on a line, each of which is to go to the end that it is shown.

    An agent is paid +1 or −1 on arriving and pays a little for every step; after twelve it is
    cut. With `memory` the end is shown at the first step alone. With `groups` two agents are
    paid together, and whoever arrives is gone until the other one does.
    """

    def __init__(self, continuous, memory, groups, masks, agents=8, seed=0):
        self.continuous, self.memory, self.groups, self.masks = continuous, memory, groups, masks
        self.agents, self.random = agents, np.random.default_rng(seed)
        seen = ObservationSpec((3,), (DimensionProperty.NONE,), ObservationType.DEFAULT, "line")
        action = ActionSpec.create_continuous(1) if continuous else ActionSpec.create_discrete((3,))
        self.spec = BehaviorSpec([seen], action)
        self.reset()

    @property
    def behavior_specs(self):
        return {NAME: self.spec}

    def reset(self):
        n = self.agents
        self.place, self.goal, self.steps = np.zeros(n), np.zeros(n), np.zeros(n, int)
        self.alive = np.ones(n, bool)
        self.ids = np.arange(n)
        self.last_id = n - 1
        self._begin(np.arange(n))
        self._show(np.zeros(n), np.zeros(n), [])

    def _begin(self, which):
        self.place[which], self.steps[which], self.alive[which] = 0, 0, True
        self.goal[which] = self.random.choice([-1.0, 1.0], len(which))

    def _obs(self, which):
        shown = np.where((self.steps[which] == 0) | (not self.memory), self.goal[which], 0)
        one = np.ones(len(which))
        return [np.stack([self.place[which], shown, one], 1).astype(np.float32)]

    def _group(self, which):
        return (which // 2 + 1 if self.groups else np.zeros(len(which))).astype(np.int32)

    def _show(self, rewards, group_rewards, ended, obs=None, cut=None):
        """Say what there is to decide, and what has ended: `ended` are places of agents."""
        ended = np.asarray(ended, int)
        deciding = np.flatnonzero(self.alive)
        fresh = np.isin(deciding, ended)
        masks = [np.zeros((len(deciding), 3), bool)] if self.masks and not self.continuous else None
        self.deciding = deciding
        self.decisions = DecisionSteps(
            self._obs(deciding),
            np.where(fresh, 0, rewards[deciding]).astype(np.float32),
            self.ids[deciding],
            masks,
            self._group(deciding),
            np.where(fresh, 0, group_rewards[deciding]).astype(np.float32),
        )
        self.terminals = TerminalSteps.empty(self.spec)
        if len(ended):
            self.terminals = TerminalSteps(
                [obs[0]], rewards[ended].astype(np.float32), cut, self.ended_ids,
                self._group(ended), group_rewards[ended].astype(np.float32),
            )  # fmt: skip

    def set_actions(self, behavior_name, action):
        move = action.continuous[:, 0] if self.continuous else action.discrete[:, 0] - 1.0
        self.move = np.clip(move, -1, 1) * STRIDE

    def set_action_for_agent(self, behavior_name, agent_id, action):
        raise NotImplementedError

    def step(self):
        n, acting = self.agents, self.deciding
        self.place[acting] += self.move
        self.steps[acting] += 1
        arrived = np.zeros(n, bool)
        arrived[acting] = np.abs(self.place[acting]) >= 1
        paid = np.where(np.sign(self.place) == self.goal, 1.0, -1.0)
        rewards, group_rewards = np.zeros(n), np.zeros(n)
        if self.groups:
            pairs = np.arange(n) // 2
            earned = np.bincount(pairs, np.where(arrived, paid / 2, 0), n // 2)[pairs]
            group_rewards[acting] = earned[acting] - COST
        else:
            rewards[acting] = np.where(arrived, paid, 0)[acting] - COST
        cut = np.zeros(n, bool)
        cut[acting] = (self.steps[acting] >= MOST_STEPS) & ~arrived[acting]
        ended = np.flatnonzero(arrived | cut)
        obs, self.ended_ids = self._obs(ended), self.ids[ended]
        self.alive[ended] = False
        begin = ended
        if self.groups:
            over = ~self.alive.reshape(-1, 2).any(1)
            begin = np.flatnonzero(np.repeat(over, 2))
        was_cut = cut[ended]
        if len(begin):
            self._begin(begin)
            self.ids[begin] = self.last_id + 1 + np.arange(len(begin))
            self.last_id += len(begin)
        self._show(rewards, group_rewards, ended, obs, was_cut)

    def get_steps(self, behavior_name):
        return self.decisions, self.terminals

    def close(self):
        pass


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
