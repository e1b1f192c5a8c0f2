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

    def step(state: Any, batch: Any, rows: Tensor) -> tuple[Any, Stats]:
        return learner.update(state, tree.take(batch, rows))

    prepare, step = stage(prepare), stage(step)

    def update(state: Any, batch: Any) -> tuple[Any, Stats]:
        state, batch, order = prepare(state, batch)
        minibatches = []
        for i in range(order.shape[-2]):  # counted from the end: `ensemble` adds a leading axis
            state, stats = step(state, batch, order[..., i, :])
            minibatches.append(stats)
        return state, tree.map(lambda *xs: torch.stack(xs).mean(0), *minibatches)

    return learner._replace(update=update)
