"""Optimizers: what learns a policy, with all it has come to know, under ML-Agents' names."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from optinfra import random
from optinfra.mlagents import compiling, exchange, layout
from optinfra.mlagents.actor import Held
from optinfra.mlagents.cloning import BCModule
from optinfra.mlagents.columns import Reader
from optinfra.mlagents.fields import AgentBufferField
from optinfra.mlagents.options import settings_of
from optinfra.mlagents.policy import TorchPolicy
from optinfra.mlagents.providers import (
    BaseRewardProvider,
    ExtrinsicRewardProvider,
    create_reward_provider,
)
from optinfra.mlagents.valuing import Asked, Critic, NextValues, Valued, Valuer, Values
from optinfra.settings import OptinfraSettings, RewardSignals, TrainerSettings
from optinfra.train.build import CLONING_EPOCHS
from optinfra.train.learners import learner
from optinfra.train.names import tag, tagged
from optinfra.types import PyTree


class Optimizer(ABC):
    """What learns from buffers."""

    def __init__(self) -> None:
        self.reward_signals: dict[str, BaseRewardProvider] = {}

    @abstractmethod
    def update(self, batch: Mapping[Any, Any], num_sequences: int) -> dict[str, float]:
        """Learn from one minibatch; statistics by ML-Agents' names."""


class TorchOptimizer(Optimizer):
    """Learns a policy, its values, and what rewards it, by what the settings name.

    Args:
      policy: whose actor learns. It has its weights; the optimizer has all else.
      trainer_settings: ours or ML-Agents'. Its `trainer_type` says what learns: `ppo`, `sac` or
        `poca`.
      compiled: whether updates are compiled, and values of groups without memory; worth it from
        some thousands on.

    Raises:
      ValueError: the settings are out of range, are of another trainer than the class, or do
        not fit the policy.
    """

    trainer_type: ClassVar[str | None] = None  # what the class learns by; None: as settings say

    def __init__(
        self, policy: TorchPolicy, trainer_settings: TrainerSettings, *, compiled: bool = False
    ) -> None:
        super().__init__()
        self.policy, self.trainer_settings = policy, settings_of(trainer_settings)
        self.hyperparameters = self.trainer_settings.hyperparameters
        self._require_fit()
        self.bc_module: BCModule | None = None
        self.create_reward_signals(self.trainer_settings.reward_signals)
        ignore_done = [name for name, one in self.reward_signals.items() if one.ignore_done]
        self._learner = learner(
            policy.actor.spec,
            self.trainer_settings,
            OptinfraSettings(),
            ignore_done=ignore_done,
        )
        stage = compiling.compiled if compiled else None
        self._update = stage(self._learner.update) if stage else self._learner.update
        memory = self.trainer_settings.network_settings.memory
        self._reader = Reader(
            policy.actor.spec,
            self.reward_signals,
            sequence_length=memory.sequence_length if memory else None,
            memories=self._learner.memories,
            spread=compiled,
        )
        self._valuer = Valuer(
            self._learner,
            self._reader,
            ignore_done=ignore_done,
            grouped=self.trainer_settings.trainer_type == "poca",
            horizon=self.trainer_settings.time_horizon,
            stage=stage,
        )
        self.state = self.beginning = self._begun()
        if self.trainer_settings.behavioral_cloning is not None:
            self.bc_module = BCModule(
                policy,
                self.trainer_settings.behavioral_cloning,
                policy_learning_rate=self.hyperparameters.learning_rate,
                default_batch_size=self.hyperparameters.batch_size,
                default_num_epoch=CLONING_EPOCHS,
            )

    def _require_fit(self) -> None:
        kind = self.trainer_settings.trainer_type
        if self.trainer_type not in (None, kind):
            raise ValueError(
                f"`trainer_settings` must be those of {self.trainer_type}, got {kind}."
            )
        actor = self.policy.actor
        if actor.squashed != (kind == "sac"):
            kinds = "conditional_sigma and tanh_squash"
            raise ValueError(
                f"`policy` must have an actor with {kinds} {kind == 'sac'} for {kind}, got "
                f"{actor.squashed}."
            )
        shared = bool(getattr(self.hyperparameters, "shared_critic", False))
        if actor.shared != shared:
            wanted = "SharedActorCritic" if shared else "SimpleActor"
            raise ValueError(f"`policy` must have a {wanted}, got {type(actor).__name__}.")
        streams = set(self.trainer_settings.reward_signals.streams.values())
        if shared and set(actor.stream_names) != streams:
            raise ValueError(
                f"`policy` must have the streams {sorted(streams)}, got "
                f"{sorted(actor.stream_names)}."
            )
        sizes = self.policy.network_settings, self.trainer_settings.network_settings
        if sizes[0] != sizes[1]:
            raise ValueError(
                f"`trainer_settings` must have the policy's network_settings, {sizes[0]}, got "
                f"{sizes[1]}."
            )

    def _begun(self) -> Any:
        """Draw what the policy does not have."""
        state = self._learner.init(random.fold_in(random.key(self.policy.seed), 1))
        state = self._with_actor(state)
        if hasattr(state, "target"):
            own = state.params.weights
            target = {name: own[name].clone() for name in state.target}
            state = state._replace(target=target)
        return state

    def _with_actor(self, state: Any) -> Any:
        """Let a state have the policy's weights, normaliser and step: there they are at home."""
        steps = torch.tensor(self.policy.get_current_step())
        return state._replace(params=self._params(state), steps=steps)

    def _params(self, state: Any) -> Any:
        held = self.policy.actor.held
        weights = {**state.params.weights, **held.weights}
        return state.params._replace(weights=weights, moments=held.moments)

    def adopt(self, state: Any) -> None:
        """Take another state, the policy its part of it."""
        actor = self.policy.actor
        actor.held = Held(actor.own(state.params.weights), state.params.moments)
        self.state = state

    @property
    def params(self) -> Any:
        """All that valuing reads, the policy's weights among it."""
        return self._params(self.state)

    @property
    def missing_memories(self) -> int:
        """Sequences so far that began with zeros because a buffer had no memories."""
        return self._reader.missing_memories

    # --- learning ---------------------------------------------------------------------------

    def update(self, batch: Mapping[Any, Any], num_sequences: int = 0) -> dict[str, float]:
        """Learn from one minibatch.

        Args:
          batch: its columns; see docs/mlagents.md.
          num_sequences: how many there are. Not read, as in ML-Agents: the rows tell.

        Returns:
          Statistics by ML-Agents' names; those it has no name for begin with `Diagnostics/`.

        Raises:
          ValueError: a column is missing, of another length or shape. Nothing has changed then.
        """
        del num_sequences
        return self.learn(self.read(batch))

    def learn(self, batch: PyTree) -> dict[str, float]:
        """Learn from a batch of the core's that `read` gave; see `update`."""
        state, stats = self._update(self._with_actor(self.state), batch)
        self.adopt(state)
        values = torch.stack([x.detach().float() for x in stats.values()]).tolist()
        named = dict(zip(stats, values))
        if self.trainer_settings.trainer_type == "sac":  # whose policy loss keeps its sign
            return {tag(name): x for name, x in named.items()}
        return tagged(named)

    def read(self, batch: Mapping[Any, Any]) -> PyTree:
        """Read a buffer: rows, or sequences where there is a memory."""
        kind = self.trainer_settings.trainer_type
        if kind == "sac":
            gammas = {name: one.gamma for name, one in self.reward_signals.items()}
            return self._reader.soft(batch, gammas)
        return self._reader.grouped(batch) if kind == "poca" else self._reader.proximal(batch)

    def create_reward_signals(self, reward_signal_configs: Any) -> None:
        """Make the reward signals that settings describe, in the place of those there are.

        Args:
          reward_signal_configs: settings by name or type.
        """
        configs = reward_signal_configs
        named = configs.by_name if isinstance(configs, RewardSignals) else configs
        self.reward_signals = {}
        for name, settings in named.items():
            provider = create_reward_provider(
                name, self.policy.behavior_spec, settings, seed=self.policy.seed
            )
            if self.trainer_settings.trainer_type == "poca" and isinstance(
                provider, ExtrinsicRewardProvider
            ):
                provider.add_groupmate_rewards = True
            self.reward_signals[provider.signal_type] = provider

    def update_reward_signals(self, batch: Mapping[Any, Any]) -> dict[str, float]:
        """Let every reward signal learn from one minibatch; their statistics together."""
        stats: dict[str, float] = {}
        for provider in self.reward_signals.values():
            stats |= provider.update(batch)
        return stats

    # --- valuing ----------------------------------------------------------------------------

    @property
    def critic(self) -> Critic:
        """What tells values."""
        name = layout.VALUE if self.trainer_settings.trainer_type == "sac" else layout.CRITIC
        return Critic(
            self._learner, lambda: self.params, lambda: self.get_modules()[name].state_dict()
        )

    @property
    def critic_memory_dict(self) -> dict[str, Tensor]:
        """What the critic remembers, `[1, 1, M]` by agent that lives."""
        return self._valuer.memories

    def get_trajectory_value_estimates(
        self,
        batch: Mapping[Any, Any],
        next_obs: Sequence[Any],
        done: bool,
        agent_id: str = "",
        *,
        interrupted: bool = False,
    ) -> tuple[Values, NextValues, AgentBufferField | None]:
        """Value one agent's trajectory, and what followed it.

        Args:
          batch: with its observations.
          next_obs: what followed the last step, `[*shape]` each.
          done: whether that ended the episode by itself: it is then worth nothing, but to
            streams for which nothing ends.
          agent_id: whose memory the trajectory starts from. It is kept for the agent's next
            until its episode ends.
          interrupted: whether the episode was cut after the last step. A `DONE` column that
            ends with 1 says so, too, where `done` is False.

        Returns:
          Values `[T]` and the next value by stream; and, for a critic that remembers, for each
          step the memory `[M]` that its sequence starts with.

        Raises:
          ValueError: a column is missing, or of another length or shape.
        """
        out = self._valued(Asked(batch, next_obs, (), bool(done), agent_id, interrupted))
        return out.values, out.following, out.memories[0]

    def _valued(self, asked: Asked) -> Valued:
        return self._valuer.value(self.params, asked)

    def end_episode(self, agent_id: str = "") -> None:
        """Forget what the critic remembers of an agent: what comes is another episode."""
        self.critic_memory_dict.pop(agent_id, None)

    # --- what a checkpoint holds ------------------------------------------------------------

    def layout(self) -> list[layout.Module]:
        """Tell which modules ML-Agents has of this."""
        # In the order in which they were made: trees give dictionaries back sorted.
        weights, spec = list(self.beginning.params.weights), self.policy.actor.spec
        kind = self.trainer_settings.trainer_type
        if kind == "sac":
            return layout.soft(weights, spec)
        if kind == "poca":
            return layout.grouped(weights, spec)
        return layout.proximal(weights, spec, shared=self.policy.actor.shared)

    def get_modules(self) -> dict[str, Any]:
        """Give what is saved beside the policy, by ML-Agents' names.

        Each has `state_dict()` and `load_state_dict(…)`.
        """
        return exchange.views(self)


class TorchPPOOptimizer(TorchOptimizer):
    """Learns by PPO."""

    trainer_type = "ppo"


class TorchSACOptimizer(TorchOptimizer):
    """Learns by SAC."""

    trainer_type = "sac"


class TorchPOCAOptimizer(TorchOptimizer):
    """Learns by POCA: agents of a group, from what each is worth to it."""

    trainer_type = "poca"

    @property
    def value_memory_dict(self) -> dict[str, Tensor]:
        """What the values remember, `[1, 1, M]` by agent that lives."""
        return {agent: x.chunk(2, -1)[0] for agent, x in self.critic_memory_dict.items()}

    @property
    def baseline_memory_dict(self) -> dict[str, Tensor]:
        """What the baselines remember, `[1, 1, M]` by agent that lives."""
        return {agent: x.chunk(2, -1)[1] for agent, x in self.critic_memory_dict.items()}

    def get_trajectory_and_baseline_value_estimates(
        self,
        batch: Mapping[Any, Any],
        next_obs: Sequence[Any],
        next_groupmate_obs: Sequence[Sequence[Any]],
        done: bool,
        agent_id: str = "",
        *,
        interrupted: bool = False,
    ) -> tuple[Values, Values, NextValues, AgentBufferField | None, AgentBufferField | None]:
        """Value one agent's trajectory, with and without knowing what it did.

        Args:
          batch: with its observations, and its mates' observations and actions.
          next_obs: see `get_trajectory_value_estimates`.
          next_groupmate_obs: what its mates saw then, one list of observations per mate.
          done: whether the last step ended the group's episode.
          agent_id: see `get_trajectory_value_estimates`.
          interrupted: likewise.

        Returns:
          Values `[T]`, baselines `[T]` and the next value by stream; and, for a critic that
          remembers, what each step's sequence starts with, the values' and the baselines'.

        Raises:
          ValueError: a column is missing, or of another length or shape.
        """
        asked = Asked(batch, next_obs, next_groupmate_obs, bool(done), agent_id, interrupted)
        out = self._valued(asked)
        value_memories, baseline_memories = out.memories
        return out.values, out.baselines, out.following, value_memories, baseline_memories
