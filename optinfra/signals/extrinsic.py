"""The environment's own reward as a signal."""

from typing import NamedTuple

import torch
from torch import Tensor

from optinfra.check import require_number
from optinfra.signals.faults import learns_nothing
from optinfra.types import Key, Signal, Transitions


class Extrinsic(NamedTuple):
    """State of the extrinsic signal: nothing is learnt, but both numbers may be swept."""

    strength: Tensor  # [] float32, factor on the reward
    gamma: Tensor  # [] float32 in [0, 1], discount of the stream


def extrinsic(
    *, strength: float = 1.0, gamma: float = 0.99, add_groupmate_rewards: bool = False
) -> Signal:
    """Pass the environment's reward through, with what the group got.

        reward = r + r_group  (+ Σ over mates of r_mate)

    Args:
      strength: factor that the iteration puts on the reward.
      gamma: γ in [0, 1], discount per step.
      add_groupmate_rewards: whether an agent is rewarded for what its mates get, as POCA's are.

    Returns:
      A `Signal` over `Extrinsic` and `Transitions` `[*N]`; `update` changes nothing. Group
      and mates' rewards count where the batch has them.

    Raises:
      ValueError: a number is out of range; the message names it.

    Source: ML-Agents,
    https://github.com/Unity-Technologies/ml-agents/blob/release_22/ml-agents/mlagents/trainers/torch_entities/components/reward_providers/extrinsic_reward_provider.py.
    """
    require_number("strength", strength)
    require_number("gamma", gamma, 0.0, 1.0)

    def init(key: Key) -> Extrinsic:
        numbers = torch.tensor([strength, gamma], dtype=torch.float32, device=key.device)
        return Extrinsic(*numbers.unbind())

    def evaluate(state: Extrinsic, batch: Transitions) -> Tensor:
        del state  # the iteration applies the strength
        reward = batch.rewards
        if isinstance(batch.group_rewards, Tensor):
            reward = reward + batch.group_rewards
        if add_groupmate_rewards and isinstance(batch.groupmate_rewards, Tensor):
            reward = reward + batch.groupmate_rewards.sum(-1)
        return torch.where(batch.mask, reward, 0.0)

    return Signal(init, evaluate, learns_nothing)
