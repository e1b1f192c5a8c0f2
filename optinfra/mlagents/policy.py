"""A policy: an actor, how far training is, and what each agent remembers."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from optinfra import random
from optinfra.mlagents.actor import SimpleActor
from optinfra.mlagents.options import read_as
from optinfra.mlagents.specs import BehaviorSpec
from optinfra.settings import NetworkSettings


class ActionInfo(NamedTuple):
    """What a policy decided."""

    action: Any  # as drawn
    env_action: Any  # as the environment takes it
    outputs: dict[str, Any]
    agent_ids: list[int]


class TorchPolicy:
    """Chooses actions for agents of one behaviour.

    Args:
      seed: of its weights and of what it draws. Two of one seed are alike.
      behavior_spec: what agents see and do, ours or ML-Agents'.
      network_settings: sizes, ours or ML-Agents'.
      actor_cls: `SimpleActor` or `SharedActorCritic`.
      actor_kwargs: what else it is made with.

    Raises:
      ValueError: see `SimpleActor`.
    """

    def __init__(
        self,
        seed: int,
        behavior_spec: BehaviorSpec,
        network_settings: NetworkSettings,
        actor_cls: type[SimpleActor] = SimpleActor,
        actor_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        self.seed, self.behavior_spec = seed, behavior_spec
        self.network_settings = read_as(NetworkSettings, network_settings)
        self.actor = actor_cls(
            behavior_spec.observation_specs,
            self.network_settings,
            behavior_spec.action_spec,
            **(actor_kwargs or {}),
        )
        self.actor.begin(random.key(seed))
        memory = self.network_settings.memory
        self.use_recurrent = memory is not None
        self.sequence_length = memory.sequence_length if memory else 1
        self.m_size = self.actor.memory_size
        self.memory_dict: dict[str, np.ndarray] = {}  # [M] by agent
        self.previous_memory_dict: dict[str, np.ndarray] = {}  # before the last action
        self._step = 0

    # --- how far training is ----------------------------------------------------------------

    def get_current_step(self) -> int:
        """Steps of the environment so far: the time of all schedules."""
        return self._step

    def set_step(self, step: int) -> int:
        """Say how far training is."""
        self._step = int(step)
        return self._step

    def increment_step(self, n_steps: int) -> int:
        """Say that it has gone on."""
        return self.set_step(self._step + int(n_steps))

    # --- its weights ------------------------------------------------------------------------

    def get_weights(self) -> dict[str, Tensor]:
        """Give the actor's parameters by ML-Agents' names."""
        return self.actor.state_dict()

    def load_weights(self, values: Mapping[str, Any]) -> None:
        """Take the actor's parameters by ML-Agents' names."""
        self.actor.load_state_dict(values)

    # --- acting -----------------------------------------------------------------------------

    def evaluate(self, decision_requests: Any, global_agent_ids: Sequence[str]) -> dict[str, Any]:
        """Decide for agents; nothing of what they remember is changed.

        Args:
          decision_requests: with `obs`, a list of `[agents, *shape]`, and `action_mask`, per
            branch `[agents, n_k]` bool, True where a choice is NOT allowed, or None.
          global_agent_ids: one per row.

        Returns:
          `action`, `env_action`, `log_probs`, `entropy` `[agents]` and, with a memory,
          `memory_out` `[agents, M]`.
        """
        obs = [torch.as_tensor(np.asarray(x), dtype=torch.float32) for x in decision_requests.obs]
        masks = None
        if self.actor.spec.action.branches and decision_requests.action_mask is not None:
            masks = torch.as_tensor(1 - np.concatenate(decision_requests.action_mask, 1))
        memories = torch.as_tensor(self.retrieve_memories(global_agent_ids))[None]
        action, out, after = self.actor.get_action_and_stats(
            obs, masks, memories if self.use_recurrent else None
        )
        log_probs = out["log_probs"]
        decided = {
            "action": action.to_action_tuple(),
            "env_action": out["env_action"],
            "log_probs": log_probs,
            "entropy": out["entropy"].cpu().numpy(),
        }
        if self.use_recurrent and after is not None:
            decided["memory_out"] = after[0].cpu().numpy()
        return decided

    def get_action(self, decision_requests: Any, worker_id: int = 0) -> ActionInfo:
        """Decide for agents, and remember.

        Args:
          decision_requests: see `evaluate`; with `agent_id`, one per row.
          worker_id: of the environment they live in.
        """
        ids = [f"agent_{worker_id}-{int(agent)}" for agent in decision_requests.agent_id]
        if not ids:
            return ActionInfo([], [], {}, [])
        out = self.evaluate(decision_requests, ids)
        self.save_memories(ids, out.get("memory_out"))
        return ActionInfo(out["action"], out["env_action"], out, list(decision_requests.agent_id))

    def make_empty_memory(self, num_agents: int) -> np.ndarray:
        """Give what agents remember at first, `[num_agents, M]`."""
        return np.zeros((num_agents, self.m_size), np.float32)

    def save_memories(self, agent_ids: Sequence[str], memory_matrix: np.ndarray | None) -> None:
        """Keep what agents remember now, `[agents, M]`, and what they did before."""
        if memory_matrix is None:
            return
        for agent in agent_ids:
            if agent in self.memory_dict:
                self.previous_memory_dict[agent] = self.memory_dict[agent]
        self.memory_dict |= zip(agent_ids, memory_matrix)

    def retrieve_memories(self, agent_ids: Sequence[str]) -> np.ndarray:
        """Give what agents remember, `[agents, M]`."""
        memories = self.make_empty_memory(len(agent_ids))
        for row, agent in zip(memories, agent_ids):
            if agent in self.memory_dict:
                row[:] = self.memory_dict[agent]
        return memories

    def retrieve_previous_memories(self, agent_ids: Sequence[str]) -> np.ndarray:
        """Give what agents remembered before their last action, `[agents, M]`."""
        memories = self.make_empty_memory(len(agent_ids))
        for row, agent in zip(memories, agent_ids):
            if agent in self.previous_memory_dict:
                row[:] = self.previous_memory_dict[agent]
        return memories

    def remove_memories(self, agent_ids: Sequence[str]) -> None:
        """Forget agents."""
        for agent in agent_ids:
            self.memory_dict.pop(agent, None)
            self.previous_memory_dict.pop(agent, None)
