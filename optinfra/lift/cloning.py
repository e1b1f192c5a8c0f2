"""From one step of imitation to several passes over all demonstrations."""

import math
from typing import Any

import torch
from torch import Tensor

from optinfra import random, tree
from optinfra.check import require_integer
from optinfra.lift.epochs import Stage, mean_stats, unlifted
from optinfra.types import Imitation, PyTree, Stats, Transitions


def cloning_epochs(
    imitation: Imitation,
    expert: Transitions,
    *,
    num_epochs: int = 3,
    batch_size: int = 1024,
    samples_per_update: int = 0,
    stage: Stage = unlifted,
) -> Imitation:
    """Imitate all demonstrations: several passes over shuffled minibatches.

    Each epoch has one order of its own, by one `random.permutation`, of which the first
    ⌊N / n⌋ minibatches of n rows are taken; the remainder is left out, as in ML-Agents.

    Args:
      imitation: its state has a field `key`.
      expert: the demonstrations, `[N]` rows or, for a policy that remembers, `[N, S]`
        sequences, of which ⌊batch_size / S⌋, at least one, are a minibatch.
      num_epochs: passes ≥ 1.
      batch_size: rows per minibatch ≥ 1; fewer where there are fewer.
      samples_per_update: rows of an epoch, rounded down to whole minibatches but at least
        one; 0: all of them.
      stage: applied to the two functions the loop consists of.

    Returns:
      The imitation, with `update(state, params, steps)`. Stats are means over all minibatches.

    Raises:
      ValueError: a number is out of range, or there are no rows.

    Differs: in ML-Agents a `samples_per_update` below one minibatch means all.
    """
    require_integer("num_epochs", num_epochs, 1)
    require_integer("batch_size", batch_size, 1)
    require_integer("samples_per_update", samples_per_update, 0)
    rows, *length = expert.mask.shape
    if rows < 1:
        raise ValueError(f"`expert` must have at least one row, got {rows}.")
    size = min(max(batch_size // math.prod(length), 1), rows)
    count = rows // size
    if samples_per_update:
        count = min(count, max(samples_per_update // (size * math.prod(length)), 1))

    def draw(state: Any) -> tuple[Any, Tensor]:
        key, *keys = random.split(state.key, num_epochs + 1).unbind()
        orders = [random.permutation(key, rows)[: count * size] for key in keys]
        return state._replace(key=key), torch.cat(orders).reshape(num_epochs * count, size)

    def on_expert(
        state: Any, params: PyTree, steps: Tensor, drawn: Tensor
    ) -> tuple[Any, PyTree, Stats]:
        rows_there = tree.map(lambda x: x.to(drawn.device), expert)
        return imitation.update(state, params, steps, tree.take(rows_there, drawn))

    draw, step = stage(draw), stage(on_expert)

    def update(state: Any, params: PyTree, steps: Tensor) -> tuple[Any, PyTree, Stats]:
        state, order = draw(state)
        stats = []
        for drawn in order.unbind(-2):
            state, params, now = step(state, params, steps, drawn)
            stats.append(now)
        return state, params, mean_stats(stats)

    return imitation._replace(update=update)
