"""Sampling from replay: pure functions of a view and a key.

A view shows what a store holds at the moment, `optinfra.store.ReplayStore` for one: steps of
B lanes side by side, in a ring. What is drawn costs as much as is drawn, however much is held.
Where nothing is held, every row that is drawn has the mask False.
"""

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import pad

from optinfra import random, tree
from optinfra.check import require_leading, require_shape
from optinfra.types import Key, PyTree, Transitions

FAN_OUT = 16  # children of a node: five steps down among 10⁶ rows, where a binary tree has 20

Levels: TypeAlias = tuple[Tensor, ...]  # priorities of single rows, and sums of ever more


class View(NamedTuple):
    """What a store holds: `[C, B]`, slots of a ring by lanes. A lane is one stream of steps."""

    transitions: Transitions  # [C, B, …] each
    memory: PyTree  # [C, B, M] each, before each step; () where none is kept
    cuts: Tensor  # [C, B] bool, True where the next step of the lane does not follow this one
    order: Tensor  # [C·B] int32, positions of the rows that count, the oldest first, in a ring
    first: Tensor  # [] int64, where in `order` the oldest is
    rows: Tensor  # [] int64, how many rows count
    oldest: Tensor  # [] int64, slot of the oldest step
    steps: Tensor  # [] int64, how many slots are filled


class Sequences(NamedTuple):
    """Consecutive steps of one lane each, and what was remembered before the first."""

    transitions: Transitions  # [N, S, …] each; zeros where the mask is False
    memory: PyTree  # [N, M] each; () where none is kept
    reset: Tensor  # [N, S] bool, the memory is empty before this step: an episode begins


class Prioritized(NamedTuple):
    """Rows drawn by priority."""

    transitions: Transitions  # [N, …] each
    positions: Tensor  # [N] int64 in [0, C·B), where they are, to set their priorities
    weights: Tensor  # [N] float32 in (0, 1], what their losses are to be multiplied by


def sample(view: View, key: Key, rows: int) -> Transitions:
    """Draw transitions uniformly, with replacement, by one `random.randint`.

        i = orderₖ,   k uniform in {0, …, N' − 1},   N' rows that count

    Args:
      view: of at least one row that counts, else the masks of the result are False.
      key: `[2]` int64.
      rows: N ≥ 1.

    Returns:
      `[N, …]` each.

    Raises:
      ValueError: `rows` is out of range, or a shape disagrees.
    """
    return _rows(view.transitions, _drawn(view, key, "rows", rows))


def sample_sequences(view: View, key: Key, count: int, length: int) -> Sequences:
    """Draw sequences of consecutive steps, by one `random.randint`.

    Each begins at a row that counts, every such row being equally likely, and follows its
    lane: over the end of an episode with the flag `reset` on the step after it, and to the
    newest step at most. What lies beyond is padding: zeros, masked, without a flag. A row
    inside that is no transition is zeros and masked as well. The first step has no flag: its
    memory is the one that was stored.

    Args:
      view: of at least one row that counts, else the masks of the result are False.
      key: `[2]` int64.
      count: N ≥ 1, number of sequences.
      length: S ≥ 1, steps of each.

    Returns:
      `Sequences` `[N, S]`.

    Raises:
      ValueError: a number is out of range, or a shape disagrees.

    Differs: ML-Agents draws from blocks aligned to multiples of S, which do not begin where
      trajectories do once its buffer was truncated, and flags no reset within.
    """
    _require_at_least_one("length", length)
    start = _drawn(view, key, "count", count)
    capacity, lanes = view.cuts.shape
    age = (start // lanes - view.oldest) % capacity
    age = age[:, None] + torch.arange(length, device=start.device)
    position = (view.oldest + age) % capacity * lanes + (start % lanes)[:, None]
    found = _rows(view.transitions, position)
    held = age < view.steps
    mask = found.mask & held
    found = tree.blank(mask, found)
    cuts = _rows(view.cuts, position)[:, :-1]
    reset = pad(cuts, (1, 0)) & held
    return Sequences(found, _rows(view.memory, start), reset)


def sample_prioritized(
    view: View, levels: Levels, key: Key, rows: int, *, weight_exponent: Tensor
) -> Prioritized:
    """Draw transitions in proportion to their priorities, with replacement.

        P(i) = pᵢ / Σⱼ pⱼ
        wᵢ = (N'·P(i))^−β / maxⱼ (N'·P(j))^−β = (pᵢ / minⱼ pⱼ)^−β,   j among those drawn

    The range of all priorities is divided into N equal parts and one number drawn from each.
    It costs O(N · log(C·B)).

    Args:
      view: of at least one row that counts, else the masks of the result are False.
      levels: sums of the priorities p, see `priority_sums`; p is 0 for what does not count.
      key: `[2]` int64.
      rows: N ≥ 1.
      weight_exponent: β, `[]` in [0, 1]: 0 corrects nothing, 1 all of the bias.

    Returns:
      `Prioritized` `[N]`.

    Raises:
      ValueError: `rows` is out of range, or a shape disagrees.

    Source: Schaul et al. 2016, sections 3.3 and 3.4, appendix B.2.1,
      https://arxiv.org/abs/1511.05952.
    """
    _require_at_least_one("rows", rows)
    _require_view(view)
    require_shape("weight_exponent", weight_exponent, ())
    total = levels[-1].double().sum()
    part = torch.arange(rows, device=key.device) + random.uniform(key, (rows,)).double()
    position = _descended(levels, part / rows * total)
    priority = levels[0].index_select(0, position)
    priority = priority.clamp(min=torch.finfo(priority.dtype).tiny)
    weights = (priority / priority.min()) ** -weight_exponent
    return Prioritized(_rows(view.transitions, position), position, weights.to(torch.float32))


def priority_sums(priorities: Tensor) -> Levels:
    """Build the sums that `sample_prioritized` descends: O(C·B). To change few, `totals` does.

    Args:
      priorities: `[C·B]` float, at least 0.

    Returns:
      The priorities, the sums of 16 neighbours each, of 16 of those each, … until there are no
      more than 16; every level is padded with zeros to a multiple of 16.

    Raises:
      ValueError: there are none, or not along one axis.
    """
    if priorities.ndim != 1 or not len(priorities):
        shape = list(priorities.shape)
        raise ValueError(f"`priorities` must have shape [C·B] with C·B ≥ 1, got {shape}.")
    levels = [_padded(priorities)]
    while len(levels[-1]) > FAN_OUT:
        levels.append(_padded(totals(levels[-1])))
    return tuple(levels)


def totals(level: Tensor) -> Tensor:
    """Sum 16 neighbours each, by halves: of one rounding, whatever the device and the number.

        ((c₀ + c₈) + (c₄ + c₁₂)) + ((c₂ + c₁₀) + (c₆ + c₁₄)) + the same of odd places

    Args:
      level: `[16·n]` float.

    Returns:
      `[n]`.

    Raises:
      ValueError: the length is no multiple of 16.
    """
    if level.ndim != 1 or len(level) % FAN_OUT:
        raise ValueError(f"`level` must have shape [{FAN_OUT}·n], got {list(level.shape)}.")
    children = level.reshape(-1, FAN_OUT)
    # `sum` promises no order, and what is restored has to equal what went on, bit for bit.
    while children.shape[1] > 1:
        half = children.shape[1] // 2
        children = children[:, :half] + children[:, half:]
    return children[:, 0]


def _descended(levels: Levels, target: Tensor) -> Tensor:
    """Find the row `[N]` in whose part of the range of all priorities the `target` `[N]` lies."""
    node = torch.zeros_like(target, dtype=torch.int64)
    for level in reversed(levels):
        children = level.reshape(-1, FAN_OUT).index_select(0, node).double()
        until = children.cumsum(-1)
        # A node is the rounded sum of its children, and the target may lie beyond them: then it
        # is the last that has a priority. It is the first one where none has.
        child = ((until <= target[:, None]) & (until < until[:, -1:])).sum(-1)
        before = pad(until, (1, 0)).gather(1, child[:, None])[:, 0]
        target, node = target - before, node * FAN_OUT + child
    return node


def _padded(level: Tensor) -> Tensor:
    return pad(level, (0, -len(level) % FAN_OUT))


def _drawn(view: View, key: Key, name: str, rows: int) -> Tensor:
    """Draw the positions `[N]` of rows that count."""
    _require_at_least_one(name, rows)
    _require_view(view)
    drawn = random.randint(key, (rows,), 0, view.rows)
    return view.order.index_select(0, (view.first + drawn) % len(view.order)).to(torch.int64)


def _rows(columns: PyTree, position: Tensor) -> PyTree:
    """Copy the rows at `position` `[*N]` of columns `[C, B, …]`."""

    def take(x: Tensor) -> Tensor:
        rows = x.flatten(0, 1).index_select(0, position.flatten())
        return rows.reshape(*position.shape, *x.shape[2:])

    return tree.map(take, columns)


def _require_at_least_one(name: str, x: int) -> None:
    if x < 1:  # not `check.require_integer`: see `random._require_int`
        raise ValueError(f"`{name}` must be at least 1, got {x}.")


def _require_view(view: View) -> None:
    shape: Sequence[int] = view.cuts.shape
    if len(shape) != 2 or not view.cuts.numel():
        raise ValueError(f"`view.cuts` must have shape [C, B], not empty, got {list(shape)}.")
    for name, column in (("transitions", view.transitions), ("memory", view.memory)):
        for x in tree.leaves(column):
            require_leading(f"view.{name}", x, shape, "C, B")
    require_shape("view.order", view.order, (view.cuts.numel(),), "C·B")
