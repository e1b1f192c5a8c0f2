"""Argument checks whose messages name the argument.

They read shapes, dtypes and Python numbers, never tensor contents: no device sync.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def require_shape(name: str, x: Tensor, shape: Sequence[int], letters: str = "") -> None:
    """Raise ValueError unless `x` has exactly `shape`; `letters` names its axes in the message."""
    if tuple(x.shape) != tuple(shape):
        axes = f"[{letters}] = " if letters else ""
        raise ValueError(f"`{name}` must have shape {axes}{list(shape)}, got {list(x.shape)}.")


def require_trailing(name: str, x: Tensor, shape: Sequence[int]) -> None:
    """Raise ValueError unless the last axes of `x` are `shape`; any axes may lead."""
    if tuple(x.shape[x.ndim - len(shape) :]) != tuple(shape) or x.ndim < len(shape):
        expected = ", ".join(["*B", *map(str, shape)])
        raise ValueError(f"`{name}` must have shape [{expected}], got {list(x.shape)}.")


def require_leading(name: str, x: Tensor, shape: Sequence[int], letters: str) -> None:
    """Raise ValueError unless the first axes of `x`, called `letters`, are `shape`."""
    if tuple(x.shape[: len(shape)]) != tuple(shape):
        expected = f"[{letters}] = {list(shape)}"
        raise ValueError(f"`{name}` must begin with the axes {expected}, got {list(x.shape)}.")


def require_dtype(name: str, x: Tensor, *dtypes: torch.dtype) -> None:
    """Raise TypeError unless `x` has one of `dtypes`."""
    if x.dtype not in dtypes:
        expected = " or ".join(str(dtype) for dtype in dtypes)
        raise TypeError(f"`{name}` must have dtype {expected}, got {x.dtype}.")


def require_integer(name: str, x: int, low: int) -> None:
    """Raise unless the Python number `x` is an integer (TypeError) of at least `low` (ValueError).

    For what sets sizes: a settings file may hold 4.0 or "4".
    """
    if not isinstance(x, int):
        raise TypeError(f"`{name}` must be an integer, got {x!r}.")
    require_number(name, x, low)


def require_number(
    name: str,
    x: float,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    open_low: bool = False,
    open_high: bool = False,
) -> None:
    """Raise ValueError unless the Python number `x` is finite and lies between `low` and `high`."""
    above = x > low if open_low else x >= low
    below = x < high if open_high else x <= high
    if not (math.isfinite(x) and above and below):
        left = "(" if open_low or low == -math.inf else "["
        right = ")" if open_high or high == math.inf else "]"
        raise ValueError(f"`{name}` must lie in {left}{low}, {high}{right}, got {x}.")
