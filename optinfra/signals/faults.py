"""Signals that may fail: what they give and learn counts only where it is finite.

A signal's functions become total: `judge` says beside the rewards whether they count, and
`learn` beside the new state whether it failed. Which of the two holds is a tensor, so that
under vmap each member of an ensemble has failures of its own. An exception cannot become a
tensor; whoever catches one puts `no_reward` and `no_progress` in the place of the result.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from optinfra import tree
from optinfra.check import require_dtype, require_shape
from optinfra.types import PyTree, Signal, Stats, Transitions

# Returns add rewards up, losses square returns and add those up: far below what float32 holds.
LARGEST_REWARD = 1e12

# (name, function, otherwise) -> function that may call `otherwise`, which takes the same
# arguments, in the place of `function`.
Guard = Callable[[str, Callable[..., Any], Callable[..., Any]], Callable[..., Any]]


class Judged(NamedTuple):
    """What a signal says of a batch."""

    rewards: Tensor  # [*N], strength · reward; zeros where the signal has failed
    live: Tensor  # [] bool, False where it has


class Report(NamedTuple):
    """What became of a signal's update."""

    failed: Tensor  # [] bool
    stats: Stats  # of no meaning where it failed


def unguarded(
    name: str, function: Callable[..., Any], otherwise: Callable[..., Any]
) -> Callable[..., Any]:
    """Let an exception end whatever the function is part of."""
    del name, otherwise
    return function


def require_state(name: str, state: PyTree) -> None:
    """Raise TypeError unless a signal's new state has a strength and a γ, and tensors alone."""
    for field in ("strength", "gamma"):
        x = getattr(state, field, None)
        if not isinstance(x, Tensor) or x.ndim:
            expected = f"have a state with the field `{field}`, a tensor []"
            raise TypeError(f"`signals[{name!r}]` must {expected}, got {x}.")
    for x in tree.leaves(state):
        if not isinstance(x, Tensor):
            raise TypeError(f"`signals[{name!r}]` must have a state of tensors, got {x!r}.")


def learns_nothing(state: PyTree, batch: Transitions) -> tuple[PyTree, Stats]:
    """Update a signal that has nothing to learn. It need not be called."""
    del batch
    return state, {}


def judge(signal: Signal) -> Callable[[PyTree, Transitions], Judged]:
    """Make the function that evaluates a signal, and tells whether the result counts.

    Args:
      signal: its rewards are taken times its strength; rows that do not count have none.

    Returns:
      `(state, batch) -> Judged`, in the dtype of the batch's rewards. A reward in a row that
      counts that is not finite, or beyond ±10¹², is a failure, and so is a γ that is not finite.

    Raises:
      ValueError: from the function, the rewards have not one number a row.
    """

    def judged(state: PyTree, batch: Transitions) -> Judged:
        rewards = signal.evaluate(state, batch).detach()
        require_shape("rewards", rewards, batch.mask.shape, "*N")
        # In another precision it would round what it is averaged with, even where it has failed.
        rewards = rewards.to(batch.rewards.dtype)
        rewards = torch.where(batch.mask, state.strength * rewards, 0.0)
        live = (rewards.abs() <= LARGEST_REWARD).all() & state.gamma.isfinite()
        return Judged(torch.where(live, rewards, 0.0), live)

    return judged


def no_reward(state: PyTree, batch: Transitions) -> Judged:
    """Give what `judge` gives of a signal that fails; states may be stacked."""
    live = torch.zeros_like(state.strength, dtype=torch.bool)
    return Judged(torch.zeros_like(batch.rewards), live)


def learn(signal: Signal) -> Callable[[PyTree, Tensor, Transitions], tuple[PyTree, Report]]:
    """Make the function that updates a signal where it has not failed, and where it does not.

    Returns:
      `(state, live, batch) -> (state, Report)`: the state is the same unless the signal is
      live and every number of the new state and of the stats is finite.

    Raises:
      ValueError: from the function, the new state has another structure or shape, or a stat
        is more than one number.
      TypeError: from the function, the new state has another dtype, or a stat is complex.
    """

    def learnt(state: PyTree, live: Tensor, batch: Transitions) -> tuple[PyTree, Report]:
        new, stats = signal.update(state, batch)
        new = tree.map(_detached_alike, new, state)
        stats = {name: stat.detach() for name, stat in stats.items()}
        for name, stat in stats.items():
            require_shape(name, stat, ())
            if stat.is_complex():
                raise TypeError(f"`{name}` must be real, got {stat.dtype}.")
        numbers = [*tree.leaves(new), *stats.values()]
        finite = [x.isfinite().all() for x in numbers if x.is_floating_point()]
        succeeded = torch.stack([live, *finite]).all()
        return tree.where(succeeded, new, state), Report(~succeeded, stats)

    return learnt


def no_progress(state: PyTree, live: Tensor, *_: Any) -> tuple[PyTree, Report]:
    """Give what `learn` gives of a signal that fails."""
    return state, Report(torch.ones_like(live), {})


def mean_report(reports: Sequence[Report]) -> Stats:
    """Average the stats of the updates that did not fail; 0 where all of them did.

    Args:
      reports: of one signal, in any order. They need not tell the same.

    Returns:
      By name; none where no update has told any.
    """
    names = sorted({name for report in reports for name in report.stats})
    told = {name: [report for report in reports if name in report.stats] for name in names}
    return {name: _mean(own, name) for name, own in told.items()}


def _mean(reports: Sequence[Report], name: str) -> Tensor:
    number = torch.stack([~report.failed for report in reports]).sum(0).clamp(min=1)
    counted = [torch.where(report.failed, 0.0, report.stats[name]) for report in reports]
    return torch.stack(counted).sum(0) / number


def _detached_alike(new: Tensor, old: Tensor) -> Tensor:
    """Detach a leaf of a new state; one of another form would be broadcast without a word."""
    require_shape("state", new, old.shape)
    require_dtype("state", new, old.dtype)
    return new.detach()
