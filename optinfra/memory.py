"""Recurrent memories of many agents, side by side: pytrees whose leaves are `[N, …]`.

A row belongs to one agent. What is written to some rows, or reset, leaves all others as
they were, bit for bit; an agent that nothing was written for has a row of zeros. A policy
without memory has the empty tree `()`, which every function takes and returns.
"""

import torch
from torch import Tensor

from optinfra import tree
from optinfra.check import require_dtype, require_leading, require_shape
from optinfra.types import PyTree


def zeros(one: PyTree, agents: int) -> PyTree:
    """Make the memories of agents that have seen nothing.

    Args:
      one: `[…]` each. The memory of one agent: structure, shapes, dtypes and device of it.
      agents: N ≥ 0.

    Returns:
      `[N, …]` each, zeros.

    Raises:
      ValueError: `agents` lies below 0.
    """
    if agents < 0:  # not `check.require_number`: see `random._require_int`
        raise ValueError(f"`agents` must lie in [0, inf), got {agents}.")
    return tree.map(lambda x: x.new_zeros((agents, *x.shape)), one)


def read(memories: PyTree, index: Tensor) -> PyTree:
    """Copy the rows of some agents.

        vₖ = mᵢ,  i = index[k]

    Args:
      memories: m, `[N, …]` each.
      index: `[K]` int64, rows in [0, N), in any order and as often as wanted.

    Returns:
      `[K, …]` each.

    Raises:
      ValueError: `index` has another rank.
      TypeError: `index` is not int64.
      IndexError: a row lies outside [0, N).
    """
    _require_rows(index)
    return tree.map(lambda x: x.index_select(0, index), memories)


def write(memories: PyTree, index: Tensor, values: PyTree) -> PyTree:
    """Put other memories in the rows of some agents.

        mᵢ ← vₖ,  i = index[k]

    Args:
      memories: m, `[N, …]` each; not changed.
      index: `[K]` int64, rows in [0, N), each at most once: which of two values a row gets
        is open.
      values: v, `[K, …]` each, of the structure and dtypes of `memories`.

    Returns:
      `[N, …]` each; the rows that `index` does not name are as they were.

    Raises:
      ValueError: `index` has another rank, `values` another structure or a leaf of it
        another shape.
      TypeError: `index` is not int64, or a leaf of `values` has another dtype.
      IndexError: a row lies outside [0, N).
    """
    _require_rows(index)
    expected, actual = tree.structure(memories), tree.structure(values)
    if expected != actual:
        raise ValueError(f"`values` must have the structure {expected}, got {actual}.")

    def put(rows: Tensor, new: Tensor) -> Tensor:
        require_shape("values", new, (*index.shape, *rows.shape[1:]), "K, …")
        require_dtype("values", new, rows.dtype)
        return rows.index_copy(0, index, new)

    return tree.map(put, memories, values)


def reset(memories: PyTree, ended: Tensor) -> PyTree:
    """Let agents whose episode ended, by termination or by truncation, begin from zeros.

        m ← 0 where ended, else m

    Args:
      memories: m, `[*N, …]` each.
      ended: `[*N]` bool.

    Returns:
      `[*N, …]` each. Nothing is left of a row that was reset, were it NaN.

    Raises:
      ValueError: a leaf does not begin with the axes of `ended`.
      TypeError: `ended` is not bool.
    """
    require_dtype("ended", ended, torch.bool)
    for rows in tree.leaves(memories):
        require_leading("memories", rows, ended.shape, "*N")
    return tree.blank(~ended, memories)


def _require_rows(index: Tensor) -> None:
    # Plain indexing would take other ranks and dtypes, and would read −1 as the last agent.
    if index.ndim != 1:
        raise ValueError(f"`index` must have shape [K], got {list(index.shape)}.")
    require_dtype("index", index, torch.int64)
