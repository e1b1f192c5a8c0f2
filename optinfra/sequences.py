"""Trajectories cut into sequences: pieces of one length, each with a memory to start from."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from optinfra import tree
from optinfra.check import require_integer


def starts(steps: int, length: int, burn_in: int = 0) -> tuple[int, ...]:
    """Tell at which steps sequences begin.

    With a burn-in each overlaps the one before by so many steps, which then only warm its
    memory up: every step is learnt from once.

    Args:
      steps: T ≥ 1, of the trajectory.
      length: S ≥ 1, of a sequence, burn-in included.
      burn_in: k in [0, S).

    Returns:
      0, S − k, 2·(S − k), … as far as it takes to cover every step.

    Raises:
      ValueError: a number is out of range.
    """
    require_integer("steps", steps, 1)
    require_integer("length", length, 1)
    require_integer("burn_in", burn_in, 0)
    if burn_in >= length:
        raise ValueError(f"`burn_in` must lie in [0, {length}), got {burn_in}.")
    return tuple(range(0, max(steps - burn_in, 1), length - burn_in))


def cut(columns: Any, length: int, burn_in: int = 0, *, axes: int = 2) -> Any:
    """Cut trajectories into sequences.

    Args:
      columns: leaves `[T, *B, …]`.
      length: S ≥ 1.
      burn_in: k in [0, S), see `starts`.
      axes: number of the axes `T, *B`.

    Returns:
      Leaves `[N, S, …]`, N = n·ΠB sequences, those that begin earlier first; zeros (False)
      where a sequence goes beyond the end.

    Raises:
      ValueError: a number is out of range.
    """
    steps = tree.leaves(columns)[0].shape[0]
    begin = starts(steps, length, burn_in)
    missing = begin[-1] + length - steps

    def cut_one(x: Tensor) -> Tensor:
        padded = pad(x, (0, 0) * (x.ndim - 1) + (0, missing))
        pieces = torch.stack([padded[start : start + length] for start in begin])
        return pieces.movedim(1, axes).flatten(0, axes - 1)

    return tree.map(cut_one, columns)


def at_starts(memories: Any, length: int, burn_in: int = 0, *, axes: int = 2) -> Any:
    """Select the memories that sequences start from, in the order of `cut`.

    Args:
      memories: leaves `[T, *B, M]`, before each step.
      length: as `cut` has it, and so the other arguments.
      burn_in: k.
      axes: number of the axes `T, *B`.

    Returns:
      Leaves `[N, M]`.

    Raises:
      ValueError: a number is out of range.
    """

    def select(x: Tensor) -> Tensor:
        return x[list(starts(len(x), length, burn_in))].flatten(0, axes - 1)

    return tree.map(select, memories)


def is_warmup(sequences: Tensor, steps: int, burn_in: int) -> Tensor:
    """Mark the steps that only warm a memory up: the first k, but of what begins a trajectory.

    Args:
      sequences: `[N, S]`, any column that `cut` made.
      steps: T of the trajectories.
      burn_in: k.

    Returns:
      `[N, S]` bool.
    """
    count, length = sequences.shape
    first = count // len(starts(steps, length, burn_in))  # sequences that begin a trajectory
    later = torch.arange(count, device=sequences.device) >= first
    early = torch.arange(length, device=sequences.device) < burn_in
    return later[:, None] & early
