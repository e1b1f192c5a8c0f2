"""Behavioural cloning of a policy."""

from typing import Any

import torch
from torch import Tensor

from optinfra import lift, random, schedules, tree
from optinfra.imitation import NO_WORK, CloningState, behavioral_cloning
from optinfra.mlagents.columns import Reader
from optinfra.mlagents.demonstrations import demo_to_buffer
from optinfra.mlagents.options import read_as
from optinfra.mlagents.policy import TorchPolicy
from optinfra.networks import name_hash
from optinfra.settings import BehavioralCloningSettings
from optinfra.types import Imitation, Schedule, Transitions

LOSS = "Losses/Pretraining Loss"
SALT = name_hash("imitation")  # it draws from a key of its own


class BCModule:
    """Makes a policy likelier to do what an expert did.

    Args:
      policy: that learns.
      settings: of the cloning, ours or ML-Agents'.
      policy_learning_rate: η of the policy, of which cloning has `settings.strength` times.
      default_batch_size: rows of a minibatch where the settings give none.
      default_num_epoch: passes where they give none.

    Raises:
      ValueError: the demonstrations cannot be read, or are of another agent.
    """

    def __init__(
        self,
        policy: TorchPolicy,
        settings: BehavioralCloningSettings,
        policy_learning_rate: float,
        default_batch_size: int,
        default_num_epoch: int,
    ) -> None:
        read = read_as(BehavioralCloningSettings, settings)
        self.policy, self.settings = policy, read
        self.batch_size = read.batch_size or default_batch_size
        self.num_epoch = read.num_epoch or default_num_epoch
        self.samples_per_update = read.samples_per_update
        self.use_recurrent = policy.use_recurrent
        self.has_updated = False
        rate = policy_learning_rate * read.strength
        self.decay_learning_rate: Schedule = (
            schedules.linear_to_floor(rate, schedules.LEARNING_RATE_FLOOR, read.steps)
            if read.steps
            else schedules.constant(rate)
        )
        actor = policy.actor
        self._cloning = behavioral_cloning(
            actor.learner.executed_log_prob,
            learning_rate=self.decay_learning_rate,
            memories=self._memories if policy.use_recurrent else None,
        )
        self.state: CloningState = self._cloning.init(
            random.fold_in(random.key(policy.seed), SALT), actor.held
        )
        self.demonstration_buffer = demo_to_buffer(
            read.demo_path, policy.sequence_length, policy.behavior_spec
        )[1]

    def _memories(self, rows: Any, device: Any) -> Any:
        return self.policy.actor.learner.memories(rows, device).actor

    @property
    def demonstration_buffer(self) -> Any:
        """What the expert did, as a buffer; to set it takes others in their place."""
        return self._buffer

    @demonstration_buffer.setter
    def demonstration_buffer(self, buffer: Any) -> None:
        length = self.policy.sequence_length if self.use_recurrent else None
        reader = Reader(
            self.policy.actor.spec,
            (),
            sequence_length=length,
            memories=self.policy.actor.learner.memories,
        )
        expert: Transitions = reader.transitions(buffer)
        if length is not None:
            expert = reader.as_sequences(reader.columns(buffer, len(expert.mask)), expert)
        self._buffer, self._rows = buffer, expert
        self._epochs: Imitation = lift.cloning_epochs(
            self._cloning,
            expert,
            num_epochs=self.num_epoch,
            batch_size=self.batch_size,
            samples_per_update=self.samples_per_update,
        )

    @property
    def n_sequences(self) -> int:
        """Sequences of a minibatch."""
        rows = self._rows.mask.numel()
        return max(min(self.batch_size, rows) // self.policy.sequence_length, 1)

    @property
    def current_lr(self) -> float:
        """η at the policy's step."""
        now = torch.tensor(self.policy.get_current_step())
        return float(self.decay_learning_rate.value(self.state.hyper.learning_rate, now))

    def update(self) -> dict[str, float]:
        """Go over the demonstrations `num_epoch` times; nothing where η has come to its end.

        Returns:
          The mean loss, in nats.
        """
        if self.current_lr <= NO_WORK:
            return {LOSS: 0.0}
        actor = self.policy.actor
        steps = torch.tensor(self.policy.get_current_step())
        state, held, stats = self._epochs.update(self.state, actor.held, steps)
        self.state, actor.held = tree.map(Tensor.detach, (state, held))
        self.has_updated = True
        return {LOSS: float(stats["pretraining_loss"])}
