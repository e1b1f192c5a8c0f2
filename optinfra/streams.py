"""Several signals side by side: their states by name, and what became of each."""

from collections.abc import Callable, Collection, Mapping
from functools import reduce
from operator import or_
from typing import Any

import torch
from torch import Tensor

from optinfra import random
from optinfra.lift.epochs import Stage
from optinfra.networks import name_hash
from optinfra.signals.faults import (
    Guard,
    Judged,
    Report,
    learn,
    learns_nothing,
    mean_report,
    no_progress,
    require_state,
)
from optinfra.types import Imitation, Key, PyTree, Signal, Stats

IMITATION = ":imitation"  # what its key is drawn by; no signal is called so


def beginning(
    signals: Mapping[str, Signal], imitation: Imitation | None
) -> Callable[[Key, PyTree], tuple[dict[str, PyTree], PyTree]]:
    """Make the function that draws the states of the signals, and of the imitation.

    Each is drawn by its name, so that none depends on the others.

    Returns:
      `(key, params) -> (states, imitation)`, `params` the learner's; `()` without imitation.

    Raises:
      TypeError: from the function, a state has no strength, no gamma, or what is no tensor.
    """
    # Now, for the compiler cannot look into it.
    hashes = {name: name_hash(name) for name in (*signals, IMITATION)}

    def begin(key: Key, params: PyTree) -> tuple[dict[str, PyTree], PyTree]:
        keys = {name: random.fold_in(key, number) for name, number in hashes.items()}
        own = {name: signal.init(keys[name]) for name, signal in signals.items()}
        for name, state in own.items():
            require_state(name, state)
        return own, imitation.init(keys[IMITATION], params) if imitation else ()

    return begin


def no_failures(signals: Mapping[str, Signal], device: torch.device) -> dict[str, Tensor]:
    """Count, by name, the failures so far: none."""
    return {name: torch.zeros((), dtype=torch.int64, device=device) for name in signals}


def pupils(
    signals: Mapping[str, Signal],
    stage: Stage,
    guard: Guard,
    lifted: Callable[[Callable[..., Any]], Callable[..., Any]] = lambda function: function,
) -> dict[str, Callable[..., Any]]:
    """Make the function by which each signal learns, for those that do.

    Args:
      signals: by name.
      stage: applied to each function.
      guard: applied after it.
      lifted: applied before it, such as `lift.epochs.on_rows`.
    """
    return {
        name: guard(name, stage(lifted(learn(own))), no_progress)
        for name, own in signals.items()
        if own.update is not learns_nothing
    }


def counted(
    failures: Mapping[str, Tensor],
    judged: Mapping[str, Judged],
    reports: Mapping[str, list[Report]],
) -> tuple[dict[str, Tensor], Stats]:
    """Count the signals that failed, and average the stats of the others.

    Args:
      failures: `[]` int64 so far.
      judged: what each signal said.
      reports: what became of the updates of those that learn.

    Returns:
      The new numbers, and the stats, each with the name of its signal in front: no stat of
      one passes for another's, or for the learner's.
    """
    sums: dict[str, Tensor] = dict(failures)
    stats: Stats = {}
    for name, own in judged.items():
        failed = reduce(or_, (report.failed for report in reports.get(name, ())), ~own.live)
        sums[name] = sums[name] + failed.to(torch.int64)
        stats |= prefixed(name, mean_report(reports.get(name, [])))
    return sums, stats | numbers(sums)


def numbers(failures: Mapping[str, Tensor]) -> Stats:
    """Write the numbers of failures as stats."""
    return {f"{name}_failures": number.to(torch.float32) for name, number in failures.items()}


def prefixed(name: str, stats: Stats) -> Stats:
    """Put the name of a signal in front of those of its stats that have it not."""
    own = f"{name}_"
    return {stat if stat.startswith(own) else own + stat: x for stat, x in stats.items()}


def require_streams(signals: Mapping[str, Signal], streams: Collection[str]) -> None:
    """Raise ValueError unless a learner has values for just these signals."""
    if set(signals) != set(streams):
        raise ValueError(
            f"`signals` must have the names of the learner's values, {sorted(streams)}, "
            f"got {sorted(signals)}."
        )
