"""Rows that come one by one, as arrays of all of them."""

from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
PLAIN = {np.ndarray, float, bool, np.float32, np.float64}


def together(rows: list[Any]) -> tuple[Array, Array | None] | None:
    """Lay out rows that are alike: arrays of one shape and dtype, numbers, or lists of such mates.

    Returns:
      `[rows, *shape]` and None; or of groups `[rows, mates, *shape]`, padded by zeros, and how many
      mates each row has. None where rows are not alike.
    """
    kinds = {type(row) for row in rows}
    if kinds == {list}:
        return _groups(rows)
    if len(kinds) != 1 or not kinds <= PLAIN:
        return None
    first = np.asarray(rows[0])
    if kinds == {np.ndarray} and any(
        row.shape != first.shape or row.dtype != first.dtype for row in rows
    ):
        return None
    return np.asarray(rows), None


def _groups(rows: list[list[Any]]) -> tuple[Array, Array] | None:
    if not any(rows):
        return np.zeros((len(rows), 0), np.float32), np.zeros(len(rows), np.int64)
    counts = np.asarray([len(mates) for mates in rows])
    most = int(counts.max())
    found = together([mate for mates in rows for mate in mates])
    if found is None or found[1] is not None:
        return None
    mates = found[0]
    padded = np.zeros((len(rows), most, *mates.shape[1:]), mates.dtype)
    padded[np.arange(most) < counts[:, None]] = mates
    return padded, counts


def nobody(rows: int, like: Array) -> Array:
    """Make rows without mates, who would look like these."""
    return np.zeros((rows, 0, *like.shape[2:]), like.dtype)


def stacked(name: str, rows: Any, dtype: Any) -> Array:
    """Lay rows one after another: quickly where they are arrays of one shape.

    Raises:
      ValueError: their shapes differ.
    """
    try:
        if len(rows) and isinstance(rows[0], np.ndarray) and rows[0].ndim:
            flat = np.concatenate(rows, axis=None, dtype=dtype, casting="unsafe")
            return flat.reshape(len(rows), *rows[0].shape)
        return np.array(rows, dtype)
    except ValueError:
        raise ValueError(f"`{name}` must have rows of one shape.") from None


def long(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Leave out axes of one."""
    return tuple(size for size in shape if size != 1)


def padded(name: str, rows: Any, shape: tuple[int, ...], pad_value: float) -> Array:
    """Pad lists of mates, `[rows, mates, *shape]`.

    Raises:
      ValueError: a mate has another shape.
    """
    most = max((len(mates) for mates in rows), default=0)
    whole = np.full((len(rows), most, *shape), pad_value, np.float32)
    for i, mates in enumerate(rows):
        if len(mates):
            each = stacked(name, list(mates), np.float32)
            if long(each.shape[1:]) != long(shape):
                raise ValueError(
                    f"`{name}` must have mates of shape {list(shape)}, got {list(each.shape[1:])}."
                )
            whole[i, : len(mates)] = each.reshape(len(mates), *shape)
    return whole
