"""Compare two trees leaf by leaf, and say where they differ."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from optinfra import tree

Same = Callable[[Tensor, Tensor], Tensor]  # (actual, expected), one shape -> bool per number


def assert_trees_equal(actual: Any, expected: Any) -> None:
    """Require two trees to be the same, bit for bit.

    NaN equals NaN, whatever its payload; 0.0 and −0.0 are not the same.

    Args:
      actual: a pytree, mostly of tensors. Any other leaf has to be of the same type, and equal.
      expected: likewise.

    Raises:
      AssertionError: a structure, shape, dtype, device or number differs; the message names
        the leaf, the index and both numbers.
    """
    _raise(difference(actual, expected))


def assert_trees_close(
    actual: Any, expected: Any, *, rtol: float = 1e-5, atol: float = 1e-6
) -> None:
    """Require two trees to be the same up to rounding.

        |a − e| ≤ atol + rtol·|e|

    NaN is close to NaN, an infinity to itself. What is no float must be equal.

    Args:
      actual: a, a pytree, mostly of tensors.
      expected: e, likewise.
      rtol: relative tolerance ≥ 0.
      atol: absolute tolerance ≥ 0.

    Raises:
      AssertionError: a structure, shape, dtype or device differs, or a number by more; the
        message names the leaf, the index and both numbers.
    """
    _raise(difference(actual, expected, partial(_close, rtol=rtol, atol=atol)))


def identical(actual: Tensor, expected: Tensor) -> Tensor:
    """Tell number by number whether two tensors of one shape and dtype hold the same bits."""
    if actual.is_complex():
        return identical(torch.view_as_real(actual), torch.view_as_real(expected)).all(-1)
    same = actual == expected
    if not actual.is_floating_point():
        return same
    both_nan = actual.isnan() & expected.isnan()
    return same & (actual.signbit() == expected.signbit()) | both_nan


def difference(actual: Any, expected: Any, same: Same = identical) -> str:
    """Describe the first difference between two trees in one sentence; empty where there is none.

    Args:
      actual: a pytree.
      expected: likewise.
      same: tells number by number what counts as the same.
    """
    if tree.structure(actual) != tree.structure(expected):
        return f"the structure is {tree.structure(actual)}, expected {tree.structure(expected)}."
    pairs = zip(tree.named_leaves(actual).items(), tree.leaves(expected))
    sentences = (_leaf_difference(name, a, e, same) for (name, a), e in pairs)
    return next((sentence for sentence in sentences if sentence), "")


def kind(x: Any) -> str:
    """Describe what is static about a leaf."""
    if isinstance(x, Tensor):
        return f"{x.dtype} {list(x.shape)} on {x.device}"
    return f"a {type(x).__name__}"


def place(name: str, index: Sequence[int]) -> str:
    """Write a leaf and an index in it as one would in code."""
    return f"`{name or 'result'}{list(index) if index else ''}`"


def written(x: Tensor) -> str:
    """Write a single number with all digits that tell it from its neighbours."""
    if not x.is_floating_point():
        return str(x.item())
    return f"{x.item():.{17 if x.dtype == torch.float64 else 9}g}"


def _leaf_difference(name: str, actual: Any, expected: Any, same: Same) -> str:
    if kind(actual) != kind(expected):
        return f"{place(name, ())} is {kind(actual)}, expected {kind(expected)}."
    if not isinstance(actual, Tensor):
        differs = actual is not expected and actual != expected
        return f"{place(name, ())} is {actual!r}, expected {expected!r}." if differs else ""
    differing = (~same(actual, expected)).nonzero().tolist()
    if not differing:
        return ""
    index = tuple(differing[0])
    return (
        f"{place(name, index)} is {written(actual[index])}, expected {written(expected[index])} "
        f"({len(differing)} of {actual.numel()} numbers differ)."
    )


def _close(actual: Tensor, expected: Tensor, rtol: float, atol: float) -> Tensor:
    if actual.is_floating_point() or actual.is_complex():
        return torch.isclose(actual, expected, rtol=rtol, atol=atol, equal_nan=True)
    return actual == expected


def _raise(sentence: str) -> None:
    if sentence:
        raise AssertionError(sentence[0].upper() + sentence[1:])
