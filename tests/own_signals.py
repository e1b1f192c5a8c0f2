"""Reward signals of one's own, as a user's package registers them: some work and some fail.

`tests.own_signals:counting` asks for the first.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from optinfra.train.signals import Made, register
from optinfra.types import Signal


class Counting(NamedTuple):
    """Counts its updates."""

    strength: Tensor
    gamma: Tensor
    updates: Tensor


def signal(asked, spoil, *, ignore_done=False):
    """Reward `scale` a step; `spoil` is called with the number of updates so far."""
    settings = asked.settings
    scale = settings.parameters.get("scale", 1.0)

    def init(key):
        numbers = torch.tensor([settings.strength, settings.gamma])
        return Counting(*numbers.unbind(), torch.zeros((), dtype=torch.int64))

    def evaluate(state, batch):
        return torch.full_like(batch.rewards, scale) + spoil(state.updates)

    def update(state, batch):
        return state._replace(updates=state.updates + 1), {}

    return Made(Signal(init, evaluate, update), ignore_done)


LATE = 4  # updates after which those that fail do so: in the middle of a run


def late(number):
    return lambda updates: torch.where(updates >= LATE, number, 0.0)


def raising(updates):
    if updates >= LATE:
        raise LookupError("no reward today")
    return 0.0


def breaking(updates):
    """Do what a compiled graph cannot, and nothing otherwise."""
    torch._dynamo.graph_break()
    return 0.0


def refusing(*_):
    raise KeyError("scale")


def without_strength(asked):
    return Made(signal(asked, lambda updates: 0.0).signal._replace(init=lambda key: ()))


def beginning(asked):
    return Made(signal(asked, lambda updates: 0.0).signal._replace(init=refusing))


register("refusing", refusing)
register("beginning", beginning)
register("stateless", without_strength)
register("unwrapped", lambda asked: signal(asked, lambda updates: 0.0).signal)
register("gamma", lambda asked: signal(asked, late(math.nan)))
register("breaking", lambda asked: signal(asked, breaking))
register("huge", lambda asked: signal(asked, late(3e38)))
register("large", lambda asked: signal(asked, late(1e25)))
register("counting", lambda asked: signal(asked, lambda updates: 0.0))
register("endless", lambda asked: signal(asked, lambda updates: 0.0, ignore_done=True))
register("nan", lambda asked: signal(asked, late(math.nan)))
register("inf", lambda asked: signal(asked, late(math.inf)))
register("raising", lambda asked: signal(asked, raising))
