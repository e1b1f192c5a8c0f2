"""Compiled functions for who chooses neither how long a trajectory is nor how many mates act."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from optinfra import lift, tree
from optinfra.types import Mates

ROWS = 64  # the fewest that a compiled critic is given
# Updates in which the time is saved that compiling takes: 22 s at first and 4.7 ms by each of
# 1,024 rows for PPO, 27 s and 9 ms by each of 256 for SAC, 42 s and 26 ms for POCA.
REPAID = 5000


def are_compiled(trainer_settings: Any) -> bool:
    """Tell whether a run's updates are compiled: as its settings ask, else if they will be many."""
    hyper = trainer_settings.hyperparameters
    asked = getattr(hyper, "compiled", None)
    if asked is not None:
        return bool(asked)
    if hasattr(hyper, "steps_per_update"):
        updates = (trainer_settings.max_steps - hyper.buffer_init_steps) / hyper.steps_per_update
    else:
        updates = trainer_settings.max_steps * hyper.num_epoch / hyper.batch_size
    return bool(updates >= REPAID)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a pure function; for shapes beyond those that torch compiles for it runs eagerly."""
    fast = lift.compiled(function)

    @wraps(function)
    def call(*arguments: Any) -> Any:
        try:
            return fast(*arguments)
        except lift.TooManyShapesError:
            return function(*arguments)

    return call


def longer(rows: int, horizon: int) -> int:
    """Tell how many rows to lay out for some: `ROWS` times a power of two, or the horizon.

    Args:
      rows: ≥ 1.
      horizon: how many most trajectories have.
    """
    laid = ROWS << (-(-rows // ROWS) - 1).bit_length()
    return horizon if rows <= horizon < laid else laid


def spread(mates: Mates, places: int) -> Mates:
    """Lay out places for mates who are not there, so that few numbers of them are compiled for.

    Args:
      mates: `[rows, G, …]`.
      places: how many there are to be, ≥ G.
    """
    rows, there = mates.present.shape
    missing = places - there

    def wider(x: Tensor) -> Tensor:
        return torch.cat([x, x.new_zeros(rows, missing, *x.shape[2:])], 1)

    return tree.map(wider, mates) if missing else mates
