"""SAC in ML-Agents' loop."""

import os
from collections import defaultdict
from typing import Any

import numpy as np
from mlagents.trainers.sac.trainer import SACTrainer as UpstreamSACTrainer
from mlagents_envs.logging_util import get_logger

from optinfra.mlagents.buffer import is_group
from optinfra.mlagents.fields import BufferException
from optinfra.mlagents.keys import BufferKey, RewardSignalUtil, text_of
from optinfra.mlagents.plugin.learning import Learning

logger = get_logger(__name__)
KEPT = 0.8  # share of a replay buffer that stays when it is full, as in ML-Agents
REPLAY = "last_replay_buffer.hdf5"


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
