"""From the update of a minibatch to the update of a whole rollout."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

from optinfra import moments, random, tree
from optinfra.check import require_leading
from optinfra.types import Learner, Stats

Stage = Callable[[Callable[..., Any]], Callable[..., Any]]


def unlifted(function: Callable[..., Any]) -> Callable[..., Any]:
    """Leave a stage as it is."""
    return function


def epochs(
    learner: Learner, *, num_epochs: int, batch_size: int, stage: Stage = unlifted
) -> Learner:
    """Update on a whole rollout: several passes over shuffled minibatches.

    A learner that remembers is given sequences `[N, S]` for rows and shuffles them whole:
    ⌊batch_size / S⌋ of them, at least one, are a minibatch.

    Advantages are normalised over the valid rows of the rollout, once. Each epoch goes
    through ⌊rows / batch_size⌋ minibatches of an order of its own; what remains of an
    epoch's order is left out, as in ML-Agents. Stats are means over all minibatches.

    Args:
      learner: its state has a field `key`, its batch the fields `advantages` and `mask`.
      num_epochs: passes ≥ 1.
      batch_size: rows per minibatch ≥ 1.
      stage: applied to the two functions the loop consists of: `compiled`, `ensemble`,
        or one after the other. Under `ensemble` states and batches are stacked.

    Returns:
      The learner, with an `update` for batches of rows `[N]`, N ≥ `batch_size`.

    Raises:
      ValueError: a number is less than 1; or, from `update`, there are fewer rows than
        `batch_size`, or a column has more or fewer than the others.
    """
    prepare = stage(minibatches(num_epochs, batch_size))
    step = stage(on_rows(learner.update))

    def update(state: Any, batch: Any) -> tuple[Any, Stats]:
        state, batch, order = prepare(state, batch)
        stats = []
        for rows in order.unbind(-2):  # counted from the end: `ensemble` adds a leading axis
            state, now = step(state, batch, rows)
            stats.append(now)
        return state, mean_stats(stats)

    return learner._replace(update=update)


def minibatches(num_epochs: int, batch_size: int) -> Callable[[Any, Any], tuple[Any, Any, Tensor]]:
    """Make the function that settles in which order a rollout is learnt from.

    Args:
      num_epochs: passes ≥ 1.
      batch_size: rows per minibatch ≥ 1.

    Returns:
      `(state, batch) -> (state, batch, order)`: the state's key has been split, advantages
      are normalised, `order` `[minibatches, n]` holds numbers of rows.

    Raises:
      ValueError: a number is less than 1; or, from the function, there are too few rows, or
        a column has more or fewer than the others.
    """
    for name, number in (("num_epochs", num_epochs), ("batch_size", batch_size)):
        if number < 1:
            raise ValueError(f"`{name}` must be at least 1, got {number}.")

    def prepare(state: Any, batch: Any) -> tuple[Any, Any, Tensor]:
        rows, *length = batch.mask.shape
        size = max(batch_size // math.prod(length), 1)
        if rows < size:
            raise ValueError(f"`batch` must have at least {size} rows, got {rows}.")
        for name, column in batch._asdict().items():
            for x in tree.leaves(column):
                require_leading(name, x, (rows,), "N")
        count = rows // size
        keys = random.split(state.key, num_epochs + 1)
        orders = vmap(lambda key: random.permutation(key, rows))(keys[1:])
        order = orders[:, : count * size].reshape(num_epochs * count, size)
        advantages = moments.standardize(batch.advantages, batch.mask)
        return state._replace(key=keys[0]), batch._replace(advantages=advantages), order

    return prepare


def on_rows(update: Callable[..., Any]) -> Callable[..., Any]:
    """Let an update take its minibatch out of a whole: `(state, *others, batch, rows)`."""

    def step(state: Any, *rest: Any) -> Any:
        *others, batch, rows = rest
        return update(state, *others, tree.take(batch, rows))

    return step


def mean_stats(stats: list[Stats]) -> Stats:
    """Average stats over minibatches."""
    averaged: Stats = tree.map(lambda *xs: torch.stack(xs).mean(0), *stats)
    return averaged
