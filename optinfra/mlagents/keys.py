"""What the columns of a buffer are called."""

from collections.abc import Mapping
from enum import Enum
from typing import Any, TypeAlias


class BufferKey(Enum):
    """Columns that there is one of. Values are the names that files have."""

    ACTION_MASK = "action_mask"
    CONTINUOUS_ACTION = "continuous_action"
    NEXT_CONT_ACTION = "next_continuous_action"
    CONTINUOUS_LOG_PROBS = "continuous_log_probs"
    DISCRETE_ACTION = "discrete_action"
    NEXT_DISC_ACTION = "next_discrete_action"
    DISCRETE_LOG_PROBS = "discrete_log_probs"
    DONE = "done"
    ENVIRONMENT_REWARDS = "environment_rewards"
    MASKS = "masks"
    MEMORY = "memory"
    CRITIC_MEMORY = "critic_memory"
    BASELINE_MEMORY = "poca_baseline_memory"
    PREV_ACTION = "prev_action"
    ADVANTAGES = "advantages"
    DISCOUNTED_RETURNS = "discounted_returns"
    GROUP_DONES = "group_dones"
    GROUPMATE_REWARDS = "groupmate_reward"
    GROUP_REWARD = "group_reward"
    GROUP_CONTINUOUS_ACTION = "group_continuous_action"
    GROUP_DISCRETE_ACTION = "group_discrete_aaction"  # as ML-Agents spells it in its files
    GROUP_NEXT_CONT_ACTION = "group_next_cont_action"
    GROUP_NEXT_DISC_ACTION = "group_next_disc_action"


class ObservationKeyPrefix(Enum):
    """Columns that there is one of per observation: paired with its number."""

    OBSERVATION = "obs"
    NEXT_OBSERVATION = "next_obs"
    GROUP_OBSERVATION = "group_obs"
    NEXT_GROUP_OBSERVATION = "next_group_obs"


class RewardSignalKeyPrefix(Enum):
    """Columns that there is one of per reward signal: paired with its name."""

    REWARDS = "rewards"
    VALUE_ESTIMATES = "value_estimates"
    RETURNS = "returns"
    ADVANTAGE = "advantage"
    BASELINES = "baselines"


AgentBufferKey: TypeAlias = (
    BufferKey | tuple[ObservationKeyPrefix, int] | tuple[RewardSignalKeyPrefix, str]
)

GROUPS = frozenset(  # columns of which a row holds one entry per mate
    {
        *(prefix.value for prefix in (
            ObservationKeyPrefix.GROUP_OBSERVATION,
            ObservationKeyPrefix.NEXT_GROUP_OBSERVATION,
        )),
        BufferKey.GROUP_DONES.value,
        BufferKey.GROUPMATE_REWARDS.value,
        BufferKey.GROUP_CONTINUOUS_ACTION.value,
        BufferKey.GROUP_DISCRETE_ACTION.value,
        BufferKey.GROUP_NEXT_CONT_ACTION.value,
        BufferKey.GROUP_NEXT_DISC_ACTION.value,
    }
)  # fmt: skip


def text_of(key: Any) -> str:
    """Write a key, ours or ML-Agents' own, as files have it: `name` or `prefix:suffix`.

    Raises:
      KeyError: it is none.
    """
    if isinstance(key, tuple) and len(key) == 2 and hasattr(key[0], "value"):
        return f"{key[0].value}:{key[1]}"
    if isinstance(key, Enum):
        return str(key.value)
    raise KeyError(f"expected a BufferKey or a pair of a prefix and a number or name, got {key!r}")


def key_of(text: str) -> AgentBufferKey:
    """Read what `text_of` writes.

    Raises:
      ValueError: no key is written so.
    """
    prefix, colon, suffix = text.partition(":")
    if not colon and prefix in _PLAIN:
        return _PLAIN[prefix]
    if colon and prefix in _OBSERVATIONS and suffix.isdigit():
        return _OBSERVATIONS[prefix], int(suffix)
    if colon and prefix in _SIGNALS and suffix:
        return _SIGNALS[prefix], suffix
    raise ValueError(f"`text` must be the name of a column, got {text!r}.")


_PLAIN: Mapping[str, BufferKey] = {
    **{each.value: each for each in BufferKey},
    "group_discrete_action": BufferKey.GROUP_DISCRETE_ACTION,  # spelt as it should be
}
_OBSERVATIONS: Mapping[str, ObservationKeyPrefix] = {x.value: x for x in ObservationKeyPrefix}
_SIGNALS: Mapping[str, RewardSignalKeyPrefix] = {x.value: x for x in RewardSignalKeyPrefix}


class RewardSignalUtil:
    """Keys of the columns of a reward signal."""

    @staticmethod
    def rewards_key(name: str) -> AgentBufferKey:
        """What it paid, strength included."""
        return RewardSignalKeyPrefix.REWARDS, name

    @staticmethod
    def value_estimates_key(name: str) -> AgentBufferKey:
        """What the critic expected. In ML-Agents this is the key of the returns."""
        return RewardSignalKeyPrefix.VALUE_ESTIMATES, name

    @staticmethod
    def returns_key(name: str) -> AgentBufferKey:
        """What came of it."""
        return RewardSignalKeyPrefix.RETURNS, name

    @staticmethod
    def advantage_key(name: str) -> AgentBufferKey:
        """By how much that was more."""
        return RewardSignalKeyPrefix.ADVANTAGE, name

    @staticmethod
    def baseline_estimates_key(name: str) -> AgentBufferKey:
        """What the critic expected without knowing what the agent did."""
        return RewardSignalKeyPrefix.BASELINES, name
