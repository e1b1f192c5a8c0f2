"""The environment's own reward as a signal."""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from optinfra.check import require_number
from optinfra.types import Key, Signal, Stats


class Extrinsic(NamedTuple):
    """State of the extrinsic signal: nothing is learnt, but both numbers may be swept."""

    strength: Tensor  # [] float32, factor on the reward
    gamma: Tensor  # [] float32 in [0, 1], discount of the stream


class HasRewards(Protocol):
    """Whatever carries the environment's rewards."""

    rewards: Tensor  # [T, *B]


def extrinsic(*, strength: float = 1.0, gamma: float = 0.99) -> Signal:
    """Pass the environment's reward through.

    Args:
      strength: factor that the iteration puts on the reward.
      gamma: γ in [0, 1], discount per step.

    Returns:
      A `Signal`; `evaluate` returns `batch.rewards`, `update` changes nothing.

    Raises:
      ValueError: a number is out of range; the message names it.
    """
    require_number("strength", strength)
    require_number("gamma", gamma, 0.0, 1.0)

    def init(key: Key) -> Extrinsic:
        numbers = torch.tensor([strength, gamma], dtype=torch.float32, device=key.device)
        return Extrinsic(*numbers.unbind())

    def evaluate(state: Extrinsic, batch: HasRewards) -> Tensor:
        del state  # the iteration applies the strength
        return batch.rewards

    def update(state: Extrinsic, batch: HasRewards) -> tuple[Extrinsic, Stats]:
        del batch
        return state, {}

    return Signal(init, evaluate, update)
