"""PPO and POCA in ML-Agents' loop."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from mlagents.trainers.poca.trainer import POCATrainer as UpstreamPOCATrainer
from mlagents.trainers.ppo.trainer import PPOTrainer as UpstreamPPOTrainer
from mlagents_envs.side_channel.stats_side_channel import StatsAggregationMethod

from optinfra import random, tree
from optinfra.mlagents.buffer import AgentBuffer
from optinfra.mlagents.keys import BufferKey, RewardSignalUtil
from optinfra.mlagents.plugin.learning import Learning
from optinfra.returns import gae, lambda_returns

STD_EPS = 1e-10  # beside the deviation of advantages, as in ML-Agents


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


def _followed(values: np.ndarray, last: float) -> torch.Tensor:
    """Give for each step the value of what followed it."""
    return torch.from_numpy(np.append(values[1:], np.float32(last)).astype(np.float32))


def _cut_at_the_end(steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Say that no step terminates and the last one is where to bootstrap: from 0 after an end."""
    cut = torch.zeros(steps, dtype=torch.bool)
    cut[-1] = True
    return torch.zeros_like(cut), cut
