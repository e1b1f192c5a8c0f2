"""What the plugin's trainers have in common.

They collect, count, save and export as ML-Agents does. What is theirs:

* An agent's critic remembers that agent alone, until its episode ends in whatever way.
* Padding counts neither in the statistics of advantages nor in any loss.
* An episode that was cut is bootstrapped from what really followed.
* Reward signals and imitation see actions in the scale in which they were executed.
* Replay is cut into whole sequences.
* A checkpoint has all there is: optimizers of signals, entropy coefficients, counters, buffers.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from mlagents.trainers.trainer.rl_trainer import RLTrainer

from optinfra import random
from optinfra.mlagents.buffer import AgentBuffer
from optinfra.mlagents.fields import AgentBufferField
from optinfra.mlagents.keys import BufferKey, key_of, text_of
from optinfra.mlagents.modules import StateDict
from optinfra.mlagents.plugin.bridge import Bridge
from optinfra.mlagents.trajectory import Trajectory

ENTROPY = "Policy/Entropy"  # ML-Agents has a statistic of this name of its own
COUNTS = "counts/"
COLUMN = "column/"


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
        drawn = np.asarray(buffer[BufferKey.CONTINUOUS_ACTION], np.float32)
        return buffer.with_column(BufferKey.CONTINUOUS_ACTION, np.clip(drawn, -3, 3) / 3)

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
        saved["generator"] = json.dumps(me.update_buffer.generator.bit_generator.state)
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
        buffer.generator.bit_generator.state = json.loads(saved["generator"])
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
            me.update_buffer.generator = buffer.generator
