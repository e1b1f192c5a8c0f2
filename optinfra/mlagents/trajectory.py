"""What an agent went through, step by step, and its columns."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from optinfra.mlagents.buffer import AgentBuffer
from optinfra.mlagents.fields import AgentBufferField
from optinfra.mlagents.keys import AgentBufferKey, BufferKey, ObservationKeyPrefix


class _Action(NamedTuple):
    continuous: np.ndarray
    discrete: np.ndarray


class AgentStatus(NamedTuple):
    """What is known of a mate at one step."""

    obs: list[np.ndarray]
    reward: float
    action: Any  # with arrays `continuous` [A] and `discrete` [K]
    done: bool


class AgentExperience(NamedTuple):
    """One step of one agent."""

    obs: list[np.ndarray]
    reward: float
    done: bool
    action: Any  # with arrays `continuous` [A] and `discrete` [K], as drawn
    action_probs: Any  # likewise, log-probabilities
    action_mask: Any  # per branch [n_k] bool, True where the choice is NOT allowed; or None
    prev_action: np.ndarray
    interrupted: bool  # whether the episode was cut here
    memory: np.ndarray | None  # [M], before the action
    group_status: list[AgentStatus]  # of the mates
    group_reward: float


class Trajectory(NamedTuple):
    """Steps of one agent, one after another, and what followed them."""

    steps: list[AgentExperience]
    next_obs: list[np.ndarray]
    next_group_obs: list[list[np.ndarray]]  # of the mates
    agent_id: str
    behavior_id: str

    @property
    def done_reached(self) -> bool:
        """Whether the last step ended the episode."""
        return self.steps[-1].done

    @property
    def interrupted(self) -> bool:
        """Whether it cut the episode."""
        return self.steps[-1].interrupted

    @property
    def all_group_dones_reached(self) -> bool:
        """Whether every mate had ended at the last step; true where there is none."""
        return all(mate.done for mate in self.steps[-1].group_status)

    def to_agentbuffer(self, branches: Sequence[int] | None = None) -> AgentBuffer:
        """Lay the steps out as columns, one row per step.

        Args:
          branches: choices of each, so that a step without an action mask allows them all.

        Raises:
          ValueError: a step chose among branches and tells no action mask, and how many choices
            there were is not known either.
        """
        steps = self.steps
        followed = [*(step.obs for step in steps[1:]), self.next_obs]
        groups = [[mate.obs for mate in step.group_status] for step in steps]
        followed_groups = [*groups[1:], self.next_group_obs]
        mates = [[mate.action for mate in step.group_status] for step in steps]
        next_mates = [*mates[1:], mates[-1]]
        last = steps[-1].action
        nothing = _Action(np.zeros_like(last.continuous), np.zeros_like(last.discrete))
        next_actions = [*(step.action for step in steps[1:]), nothing]
        columns: dict[AgentBufferKey, list[Any]] = {}
        for i in range(len(self.next_obs)):
            columns |= {
                ObsUtil.get_name_at(i): [step.obs[i] for step in steps],
                ObsUtil.get_name_at_next(i): [obs[i] for obs in followed],
                GroupObsUtil.get_name_at(i): [[obs[i] for obs in each] for each in groups],
                GroupObsUtil.get_name_at_next(i): [
                    [obs[i] for obs in each] for each in followed_groups
                ],
            }
        columns |= {
            BufferKey.GROUP_CONTINUOUS_ACTION: [[a.continuous for a in each] for each in mates],
            BufferKey.GROUP_DISCRETE_ACTION: [[a.discrete for a in each] for each in mates],
            BufferKey.GROUP_NEXT_CONT_ACTION: [[a.continuous for a in x] for x in next_mates],
            BufferKey.GROUP_NEXT_DISC_ACTION: [[a.discrete for a in x] for x in next_mates],
            BufferKey.GROUPMATE_REWARDS: [[m.reward for m in s.group_status] for s in steps],
            BufferKey.GROUP_DONES: [[m.done for m in s.group_status] for s in steps],
            BufferKey.GROUP_REWARD: [step.group_reward for step in steps],
            BufferKey.MASKS: [1.0] * len(steps),
            BufferKey.DONE: [step.done for step in steps],
            BufferKey.CONTINUOUS_ACTION: [step.action.continuous for step in steps],
            BufferKey.DISCRETE_ACTION: [step.action.discrete for step in steps],
            BufferKey.NEXT_CONT_ACTION: [action.continuous for action in next_actions],
            BufferKey.NEXT_DISC_ACTION: [action.discrete for action in next_actions],
            BufferKey.CONTINUOUS_LOG_PROBS: [step.action_probs.continuous for step in steps],
            BufferKey.DISCRETE_LOG_PROBS: [step.action_probs.discrete for step in steps],
            BufferKey.ACTION_MASK: [_allowed(step, branches) for step in steps],
            BufferKey.PREV_ACTION: [step.prev_action for step in steps],
            BufferKey.ENVIRONMENT_REWARDS: [step.reward for step in steps],
        }
        if steps[0].memory is not None:
            columns[BufferKey.MEMORY] = [step.memory for step in steps]
        buffer = AgentBuffer()
        for key, rows in columns.items():
            buffer[key] = AgentBufferField(rows)
        buffer[BufferKey.ACTION_MASK].padding_value = 1
        return buffer


def _allowed(step: AgentExperience, branches: Sequence[int] | None) -> np.ndarray:
    """Tell which choices are allowed, `[N]`, 1 where they are."""
    if step.action_mask is not None:
        return 1 - np.concatenate(step.action_mask)
    count = np.size(step.action.discrete)
    if count and branches is None:
        raise ValueError(
            f"`action_mask` must be given for {count} branches: [n_k] bool of each, got None."
        )
    return np.ones(sum(branches or ()), np.float32)


class ObsUtil:
    """Keys and columns of observations."""

    @staticmethod
    def get_name_at(index: int) -> AgentBufferKey:
        """Key of an observation."""
        return ObservationKeyPrefix.OBSERVATION, index

    @staticmethod
    def get_name_at_next(index: int) -> AgentBufferKey:
        """Key of what followed it."""
        return ObservationKeyPrefix.NEXT_OBSERVATION, index

    @staticmethod
    def from_buffer(batch: AgentBuffer, num_obs: int) -> list[AgentBufferField]:
        """Find the columns of observations."""
        return [batch[ObsUtil.get_name_at(i)] for i in range(num_obs)]

    @staticmethod
    def from_buffer_next(batch: AgentBuffer, num_obs: int) -> list[AgentBufferField]:
        """Find the columns of what followed them."""
        return [batch[ObsUtil.get_name_at_next(i)] for i in range(num_obs)]


class GroupObsUtil:
    """Keys and columns of the mates' observations."""

    @staticmethod
    def get_name_at(index: int) -> AgentBufferKey:
        """Key of an observation."""
        return ObservationKeyPrefix.GROUP_OBSERVATION, index

    @staticmethod
    def get_name_at_next(index: int) -> AgentBufferKey:
        """Key of what followed it."""
        return ObservationKeyPrefix.NEXT_GROUP_OBSERVATION, index

    @staticmethod
    def from_buffer(batch: AgentBuffer, num_obs: int) -> list[list[np.ndarray]]:
        """Give observations `[rows, …]` by place of a mate, NaN where nobody is."""
        return _by_mate([batch[GroupObsUtil.get_name_at(i)] for i in range(num_obs)])

    @staticmethod
    def from_buffer_next(batch: AgentBuffer, num_obs: int) -> list[list[np.ndarray]]:
        """Give what followed them, likewise."""
        return _by_mate([batch[GroupObsUtil.get_name_at_next(i)] for i in range(num_obs)])


def _by_mate(fields: list[AgentBufferField]) -> list[list[np.ndarray]]:
    padded = [field.padded_to_batch(pad_value=np.nan) for field in fields]
    return [list(each) for each in zip(*padded)]
