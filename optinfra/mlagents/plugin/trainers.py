"""ML-Agents' three trainers, with what they make of trajectories and buffers done here.

They collect, count, save and export as ML-Agents does. What is theirs:

* An agent's critic remembers that agent alone, until its episode ends in whatever way.
* Padding counts neither in the statistics of advantages nor in any loss.
* An episode that was cut is bootstrapped from what really followed.
* Reward signals and imitation see actions in the scale in which they were executed.
* Replay is cut into whole sequences.
* A checkpoint has all there is: optimizers of signals, entropy coefficients, counters, buffers.
"""

import json
import os
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import attr
import numpy as np
import torch
from mlagents.trainers.poca.optimizer_torch import POCASettings as UpstreamPOCASettings
from mlagents.trainers.poca.trainer import POCATrainer as UpstreamPOCATrainer
from mlagents.trainers.ppo.optimizer_torch import PPOSettings as UpstreamPPOSettings
from mlagents.trainers.ppo.trainer import PPOTrainer as UpstreamPPOTrainer
from mlagents.trainers.sac.optimizer_torch import SACSettings as UpstreamSACSettings
from mlagents.trainers.sac.trainer import SACTrainer as UpstreamSACTrainer
from mlagents.trainers.settings import ScheduleType
from mlagents.trainers.trainer.rl_trainer import RLTrainer
from mlagents_envs.logging_util import get_logger
from mlagents_envs.side_channel.stats_side_channel import StatsAggregationMethod

from optinfra import random, tree
from optinfra.mlagents.buffer import AgentBuffer, is_group
from optinfra.mlagents.fields import AgentBufferField, BufferException
from optinfra.mlagents.keys import BufferKey, RewardSignalUtil, key_of, text_of
from optinfra.mlagents.modules import StateDict
from optinfra.mlagents.plugin.bridge import Bridge
from optinfra.mlagents.trajectory import Trajectory
from optinfra.returns import gae, lambda_returns

logger = get_logger(__name__)
KEPT = 0.8  # share of a replay buffer that stays when it is full, as in ML-Agents
STD_EPS = 1e-10
ENTROPY = "Policy/Entropy"  # ML-Agents has a statistic of this name of its own
COUNTS = "counts/"
COLUMN = "column/"
REPLAY = "last_replay_buffer.hdf5"


@attr.s(auto_attribs=True)
class PPOSettings(UpstreamPPOSettings):
    """ML-Agents' hyperparameters of PPO, and whether updates are compiled."""

    compiled: bool = False
    beta_schedule: ScheduleType = attr.ib()  # like that of the learning rate unless given
    epsilon_schedule: ScheduleType = attr.ib()

    @beta_schedule.default
    @epsilon_schedule.default
    def _as_learning_rate(self) -> ScheduleType:
        return self.learning_rate_schedule


@attr.s(auto_attribs=True)
class SACSettings(UpstreamSACSettings):
    """ML-Agents' hyperparameters of SAC, and whether updates are compiled."""

    compiled: bool = False


@attr.s(auto_attribs=True)
class POCASettings(UpstreamPOCASettings):
    """ML-Agents' hyperparameters of POCA, and whether updates are compiled."""

    compiled: bool = False
    beta_schedule: ScheduleType = attr.ib()  # like that of the learning rate unless given
    epsilon_schedule: ScheduleType = attr.ib()

    @beta_schedule.default
    @epsilon_schedule.default
    def _as_learning_rate(self) -> ScheduleType:
        return self.learning_rate_schedule


class Learning:
    """What the three have in common."""

    trainer_type: str
    optimizer: Bridge
    counters: tuple[str, ...] = ()  # attributes that a checkpoint holds
    keeps_buffer = True  # whether a checkpoint holds the update buffer

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        me: Any = self
        me.update_buffer = AgentBuffer(seed=me.seed)
        self._key = random.key(me.seed)

    @classmethod
    def get_trainer_name(cls) -> str:
        """Give the type that a configuration names."""
        return cls.trainer_type

    def create_optimizer(self) -> Bridge:
        """Make what learns."""
        me: Any = self
        return Bridge(me.policy, me.trainer_settings, (self._state_dict, self._load_state_dict))

    def add_policy(self, parsed_behavior_id: Any, policy: Any) -> None:
        """Take a policy, with the checkpoint that training begins from."""
        super().add_policy(parsed_behavior_id, policy)  # type: ignore[misc]
        self.optimizer.pull()

    def end_episode(self) -> None:
        """Forget what critics remember: every environment begins anew."""
        super().end_episode()  # type: ignore[misc]
        self.optimizer.critic_memory_dict.clear()

    # --- trajectories -----------------------------------------------------------------------

    def _begun(self, trajectory: Any) -> AgentBuffer:
        """Count a trajectory and lay it out; the normaliser takes in what was seen."""
        me: Any = self
        RLTrainer._process_trajectory(me, trajectory)
        branches = self.optimizer.own.policy.actor.spec.action.branches
        buffer = Trajectory.to_agentbuffer(trajectory, branches)
        if me.is_training and self.optimizer.own.policy.actor.held.moments:
            self.optimizer.own.policy.actor.update_normalization(buffer)
            self.optimizer.push()
        self.optimizer.keep_time()
        return buffer

    def _rewarded(self, buffer: AgentBuffer, agent_id: str) -> dict[str, np.ndarray]:
        """Tell what each signal pays, strength included, and count it."""
        me: Any = self
        environment = np.sum(np.asarray(buffer[BufferKey.ENVIRONMENT_REWARDS]))
        me.collected_rewards["environment"][agent_id] += environment
        seen, paid = self._as_executed(buffer), {}
        for name, signal in self.optimizer.reward_signals.items():
            paid[name] = signal.evaluate(seen) * signal.strength
            me.collected_rewards[name][agent_id] += np.sum(paid[name])
        return paid

    def _as_executed(self, buffer: AgentBuffer) -> AgentBuffer:
        """Show actions in the scale in which the environment takes them."""
        actor = self.optimizer.own.policy.actor
        if actor.squashed or not actor.spec.action.continuous:
            return buffer
        seen = AgentBuffer()
        for key in buffer:
            seen[key] = buffer[key]
        drawn = np.asarray(buffer[BufferKey.CONTINUOUS_ACTION], np.float32)
        seen[BufferKey.CONTINUOUS_ACTION] = np.clip(drawn, -3, 3) / 3
        return seen

    def _told(self, kind: str, values: Mapping[str, np.ndarray]) -> None:
        """Report means of what the critic says, by stream."""
        me: Any = self
        for name, x in values.items():
            title = self.optimizer.reward_signals[name].name.capitalize()
            me._stats_reporter.add_stat(f"Policy/{title} {kind}", float(np.mean(x)))

    def _report(self, stats: Mapping[str, list[float]]) -> None:
        me: Any = self
        for name, each in stats.items():
            if name != ENTROPY and each:
                me._stats_reporter.add_stat(name, float(np.mean(each)))

    def _imitate(self) -> None:
        """Go over the demonstrations, if there are any."""
        if self.optimizer.bc_module is not None:
            told = self.optimizer.bc_module.update()
            self._report({name: [x] for name, x in told.items()})

    # --- what a checkpoint holds ------------------------------------------------------------

    def _state_dict(self) -> dict[str, Any]:
        me: Any = self
        saved: dict[str, Any] = {name: int(getattr(self, name)) for name in self.counters}
        saved["key"] = self._key.clone()
        saved["generator"] = json.dumps(me.update_buffer._random.bit_generator.state)
        for key in me.update_buffer if self.keeps_buffer else ():
            field = me.update_buffer[key]
            if len(field):
                rows = np.ascontiguousarray(field.to_ndarray())
                saved[COLUMN + text_of(key)] = torch.from_numpy(rows.copy())
                if field.contains_lists:
                    counts = torch.from_numpy(field.group_counts.copy())
                    saved[COUNTS + text_of(key)] = counts
        return saved

    def _load_state_dict(self, saved: StateDict) -> None:
        me: Any = self
        buffer = AgentBuffer()
        buffer._random.bit_generator.state = json.loads(saved["generator"])
        for name in (name for name in saved if name.startswith(COLUMN)):
            text = name.removeprefix(COLUMN)
            rows, counts = saved[name].numpy(), saved.get(COUNTS + text)
            if counts is None:
                buffer[key_of(text)] = AgentBufferField(rows)
            else:
                mates = [list(row[:count]) for row, count in zip(rows, counts.tolist())]
                buffer[key_of(text)] = AgentBufferField(mates)
        for name in self.counters:
            setattr(self, name, int(saved[name]))
        self._key = saved["key"]
        if self.keeps_buffer:
            me.update_buffer = buffer
        else:
            me.update_buffer._random = buffer._random


class OnPolicy(Learning):
    """What PPO and POCA have in common."""

    def _finished(
        self, buffer: AgentBuffer, advantages: list[np.ndarray], returns: Mapping[str, np.ndarray]
    ) -> None:
        """Write what steps were worth, and keep them to learn from."""
        me: Any = self
        for name, x in returns.items():
            buffer[RewardSignalUtil.returns_key(name)] = x
        buffer[BufferKey.ADVANTAGES] = np.mean(advantages, 0, dtype=np.float32)
        me._append_to_update_buffer(buffer)

    def _update_policy(self) -> bool:
        """Learn from all that is buffered, several times over, in minibatches."""
        me: Any = self
        me.cumulative_returns_since_policy_update.clear()
        hyper, length = me.hyperparameters, me.policy.sequence_length
        buffer: AgentBuffer = me.update_buffer
        self._standardize(buffer)
        own, signals = self.optimizer.own, self.optimizer.reward_signals
        self.optimizer.keep_time()
        batch = own.read(buffer)
        seen = self._as_executed(buffer)
        rows = {name: signal.read(seen) for name, signal in signals.items()}
        count = buffer.num_experiences // length  # sequences, of one row without a memory
        size = min(max(hyper.batch_size // length, 1), count)
        stats: dict[str, list[float]] = defaultdict(list)
        for _ in range(hyper.num_epoch):
            self._key, key = random.split(self._key).unbind()
            order = random.permutation(key, count)
            for chosen in order[: count // size * size].reshape(-1, size).unbind():
                told = own.learn(tree.take(batch, chosen))
                steps = (chosen[:, None] * length + torch.arange(length)).flatten()
                for name, signal in signals.items():
                    told |= signal.learn(tree.take(rows[name], steps))
                for name, x in told.items():
                    stats[name].append(x)
        self._report(stats)
        self._imitate()
        self.optimizer.push()
        me._clear_update_buffer()
        return True

    def _standardize(self, buffer: AgentBuffer) -> None:
        """Bring advantages to mean 0 and deviation 1; padding counts for nothing."""
        advantages = np.asarray(buffer[BufferKey.ADVANTAGES], np.float32)
        counts = np.asarray(buffer[BufferKey.MASKS]) > 0
        valid = advantages[counts]
        scaled = (advantages - valid.mean()) / (valid.std() + STD_EPS)
        buffer[BufferKey.ADVANTAGES] = np.where(counts, scaled, 0).astype(np.float32)


class PPOTrainer(OnPolicy, UpstreamPPOTrainer):
    """Trains by PPO."""

    trainer_type = "optinfra_ppo"

    def _process_trajectory(self, trajectory: Any) -> None:
        agent = trajectory.agent_id
        buffer = self._begun(trajectory)
        self._warn_if_group_reward(buffer)
        ended = trajectory.done_reached and not trajectory.interrupted
        values, following, memories = self.optimizer.own.get_trajectory_value_estimates(
            buffer, trajectory.next_obs, ended, agent, interrupted=trajectory.interrupted
        )
        if memories is not None:
            buffer[BufferKey.CRITIC_MEMORY] = memories
        self._told("Value Estimate", values)
        paid = self._rewarded(buffer, agent)
        advantages, returns = [], {}
        for name, signal in self.optimizer.reward_signals.items():
            buffer[RewardSignalUtil.value_estimates_key(name)] = values[name]
            buffer[RewardSignalUtil.rewards_key(name)] = paid[name]
            advantage = gae(
                torch.from_numpy(paid[name]),
                torch.from_numpy(values[name]),
                _followed(values[name], following[name]),
                *_cut_at_the_end(len(values[name])),
                discount=signal.gamma,
                gae_lambda=self.hyperparameters.lambd,
            ).numpy()
            advantages.append(advantage)
            returns[name] = advantage + values[name]
        self._finished(buffer, advantages, returns)
        if trajectory.done_reached:
            self._update_end_episode_stats(agent, self.optimizer)


class POCATrainer(OnPolicy, UpstreamPOCATrainer):
    """Trains by POCA."""

    trainer_type = "optinfra_poca"

    def _process_trajectory(self, trajectory: Any) -> None:
        agent = trajectory.agent_id
        buffer = self._begun(trajectory)
        over = trajectory.all_group_dones_reached and trajectory.done_reached
        own: Any = self.optimizer.own
        told = own.get_trajectory_and_baseline_value_estimates(
            buffer,
            trajectory.next_obs,
            trajectory.next_group_obs,
            over and not trajectory.interrupted,
            agent,
            interrupted=trajectory.done_reached,  # an agent that has left remembers nothing
        )
        values, baselines, following, value_memories, baseline_memories = told
        if value_memories is not None:
            buffer[BufferKey.CRITIC_MEMORY] = value_memories
            buffer[BufferKey.BASELINE_MEMORY] = baseline_memories
        self._told("Value Estimate", values)
        self._told("Baseline Estimate", baselines)
        group = np.sum(np.asarray(buffer[BufferKey.GROUP_REWARD]))
        self.collected_group_rewards[agent] += group
        paid = self._rewarded(buffer, agent)
        advantages, returns = [], {}
        for name, signal in self.optimizer.reward_signals.items():
            buffer[RewardSignalUtil.value_estimates_key(name)] = values[name]
            buffer[RewardSignalUtil.baseline_estimates_key(name)] = baselines[name]
            buffer[RewardSignalUtil.rewards_key(name)] = paid[name]
            returns[name] = lambda_returns(
                torch.from_numpy(paid[name]),
                _followed(values[name], following[name]),
                *_cut_at_the_end(len(values[name])),
                discount=signal.gamma,
                trace_lambda=self.hyperparameters.lambd,
            ).numpy()
            advantages.append(returns[name] - baselines[name])
        self._finished(buffer, advantages, returns)
        self._count_groups(trajectory, over)

    def _count_groups(self, trajectory: Any, over: bool) -> None:
        """Report what an agent and its group got, when they are done."""
        agent = trajectory.agent_id
        if trajectory.done_reached:
            self._update_end_episode_stats(agent, self.optimizer)
            if not trajectory.all_group_dones_reached:
                self.collected_group_rewards.pop(agent, None)
        if over:
            self.stats_reporter.add_stat(
                "Environment/Group Cumulative Reward",
                self.collected_group_rewards.pop(agent, 0),
                aggregation=StatsAggregationMethod.HISTOGRAM,
            )


class SACTrainer(Learning, UpstreamSACTrainer):
    """Trains by SAC."""

    trainer_type = "optinfra_sac"
    counters = ("update_steps", "reward_signal_update_steps")
    keeps_buffer = False  # it has a file of its own, where settings ask for it

    def load_replay_buffer(self) -> None:
        """Read the replay buffer that was saved; one that cannot be read is left alone."""
        path = os.path.join(self.artifact_path, REPLAY)
        try:
            with open(path, "rb") as file:
                self.update_buffer.load_from_file(file)
        except BufferException as error:
            logger.warning("%s: %s It is filled anew.", path, error)

    def save_replay_buffer(self) -> None:
        """Write the replay buffer into a file, whole or not at all."""
        path = os.path.join(self.artifact_path, REPLAY)
        with open(f"{path}.part", "wb") as file:
            self.update_buffer.save_to_file(file)
        os.replace(f"{path}.part", path)

    def _process_trajectory(self, trajectory: Any) -> None:
        agent = trajectory.agent_id
        buffer = self._begun(trajectory)
        self._warn_if_group_reward(buffer)
        self._rewarded(buffer, agent)
        ended = trajectory.done_reached and not trajectory.interrupted
        values, _, memories = self.optimizer.own.get_trajectory_value_estimates(
            buffer, trajectory.next_obs, ended, agent, interrupted=trajectory.interrupted
        )
        if memories is not None:
            buffer[BufferKey.CRITIC_MEMORY] = memories
        self._told("Value", values)
        done = np.zeros(len(trajectory.steps), np.float32)
        done[-1] = ended  # what was cut goes on, from what really followed
        buffer[BufferKey.DONE] = done
        for key in [key for key in buffer if is_group(text_of(key))]:
            del buffer[key]  # of mates SAC reads nothing
        self._append_to_update_buffer(buffer)
        if trajectory.done_reached:
            self._update_end_episode_stats(agent, self.optimizer)

    def _update_policy(self) -> bool:
        """Learn from replay as often as steps make due."""
        self.cumulative_returns_since_policy_update.clear()
        hyper, length = self.hyperparameters, self.policy.sequence_length
        stats: dict[str, list[float]] = defaultdict(list)
        updated = False
        self.optimizer.keep_time()
        while self._due(self.update_steps, self.steps_per_update) and self._has_a_batch():
            batch = self.update_buffer.sample_mini_batch(hyper.batch_size, length)
            for name, signal in self.optimizer.reward_signals.items():
                paid = signal.evaluate(batch) * signal.strength
                batch[RewardSignalUtil.rewards_key(name)] = paid
            for name, x in self.optimizer.own.update(batch).items():
                stats[name].append(x)
            self.update_steps += 1
            updated = True
            self._imitate()
        self._report(stats)
        if self.update_buffer.num_experiences > hyper.buffer_size:
            self.update_buffer.truncate(int(hyper.buffer_size * KEPT), length)
        self._update_reward_signals()
        if updated:
            self.optimizer.push()
        return updated

    def _update_reward_signals(self) -> None:
        """Let reward signals learn from replay as often as steps make due."""
        hyper, stats = self.hyperparameters, defaultdict(list)
        every = self.reward_signal_steps_per_update
        while self._due(self.reward_signal_update_steps, every) and self._has_a_batch():
            batch = self.update_buffer.sample_mini_batch(
                hyper.batch_size, self.policy.sequence_length
            )
            for name, x in self.optimizer.update_reward_signals(batch).items():
                stats[name].append(x)
            self.reward_signal_update_steps += 1
        self._report(stats)

    def _due(self, done: int, every: float) -> bool:
        passed: float = self._step - self.hyperparameters.buffer_init_steps
        return passed / done > every

    def _has_a_batch(self) -> bool:
        held: int = self.update_buffer.num_experiences
        return held >= max(self.hyperparameters.batch_size, self.policy.sequence_length)


def _followed(values: np.ndarray, last: float) -> torch.Tensor:
    """Give for each step the value of what followed it."""
    return torch.from_numpy(np.append(values[1:], np.float32(last)).astype(np.float32))


def _cut_at_the_end(steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Say that no step terminates and the last one is where to bootstrap: from 0 after an end."""
    cut = torch.zeros(steps, dtype=torch.bool)
    cut[-1] = True
    return torch.zeros_like(cut), cut
