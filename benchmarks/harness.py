"""Rounds in which every side works once, and what they say of the ratios."""

import gc
import math
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple, Protocol

import torch

from benchmarks.interpreters import MissingPeer, Workers
from benchmarks.peers import LIBRARIES
from benchmarks.timing import Call, Timer

SPREAD = (0.1, 0.9)  # quantiles of the rounds that are told beside the median
MOST_CALLS = 10_000  # in one round


class Measure(NamedTuple):
    """How seconds become the number that is told, and how two such numbers are compared."""

    unit: str
    value: Callable[[float, int], float]  # (seconds per call, work per call)
    sign: str
    compare: Callable[[float, float], float]  # (ours, peer)
    better: str  # which comparisons are good news


MILLISECONDS = Measure(
    "ms", lambda seconds, work: 1e3 * seconds / work, "÷", lambda a, b: a / b, "below 1"
)
STEPS_PER_SECOND = Measure(
    "steps/s", lambda seconds, work: work / seconds, "÷", lambda a, b: a / b, "above 1"
)
MORE_MILLISECONDS = MILLISECONDS._replace(sign="−", compare=lambda a, b: a - b, better="small")


class Ours(NamedTuple):
    """A way in which optinfra does the work, in this process."""

    name: str
    prepare: Callable[[], Call]
    work: int = 1  # what one call does, in the unit of the measure


class Peer(NamedTuple):
    """A way in which another library does the same work, in a process of its own."""

    name: str
    function: str  # "library:function" in `benchmarks.peers`
    arguments: Mapping[str, Any] = {}
    work: int = 1


class Task(NamedTuple):
    """One piece of work and the sides that do it."""

    name: str
    ours: Sequence[Ours]
    peers: Sequence[Peer]
    measure: Measure = MILLISECONDS


class Plan(NamedTuple):
    """How long to measure."""

    rounds: int
    round_seconds: float  # that each side is at work in one round, at least one call


class Side(NamedTuple):
    """What the rounds gave for one side."""

    name: str
    work: int
    first_seconds: float  # of the first call, with whatever it compiles
    threads: int | None
    versions: dict[str, str]
    calls: int  # per round
    seconds: list[float]  # per call, one for each round


class Result(NamedTuple):
    """What a task gave."""

    task: str
    measure: Measure
    ours: list[Side]
    peers: list[Side]
    missing: dict[str, str]  # why a peer is not there, by its name


class Clock(Protocol):
    """What times a side: a `Timer`, or a worker that holds one."""

    first_seconds: float

    def seconds_per_call(self, calls: int) -> float:
        """Time so many calls in a row; the mean of them."""


class _PeerTimer:
    """A `Timer` that ticks in a worker."""

    def __init__(self, peer: Peer, workers: Workers) -> None:
        self.library, _, function = peer.function.partition(":")
        self._worker = workers.of(self.library)
        place = f"benchmarks.peers.{self.library}:{function}"
        told = self._worker.prepare(place, dict(peer.arguments), LIBRARIES[self.library].packages)
        self._number = told["number"]
        self.first_seconds: float = told["first_seconds"]
        self.threads: int | None = told["threads"]
        self.versions: dict[str, str] = told["versions"]

    def seconds_per_call(self, calls: int) -> float:
        return self._worker.seconds_per_call(self._number, calls)

    def forget(self) -> None:
        self._worker.forget()


def run(task: Task, plan: Plan, workers: Workers) -> Result:
    """Measure all sides of a task: each works for its part of a round, then the next.

    A peer that is missing or fails is left out and named with the reason.
    """
    timers, missing = _found(task.peers, workers)
    clocks = [Timer(side.prepare()) for side in task.ours]
    measured = alternate([*clocks, *(timer for _, timer in timers)], plan)
    threads = torch.get_num_threads()
    ours = [
        Side(side.name, side.work, clock.first_seconds, threads, {}, *rounds)
        for side, clock, rounds in zip(task.ours, clocks, measured)
    ]
    peers = [
        Side(peer.name, peer.work, timer.first_seconds, timer.threads, timer.versions, *rounds)
        for (peer, timer), rounds in zip(timers, measured[len(ours) :])
    ]
    for _, timer in timers:
        timer.forget()
    return Result(task.name, task.measure, ours, peers, missing)


def _found(
    peers: Sequence[Peer], workers: Workers
) -> tuple[list[tuple[Peer, _PeerTimer]], dict[str, str]]:
    """Prepare the peers that are there, and tell why the others are not."""
    timers: list[tuple[Peer, _PeerTimer]] = []
    missing: dict[str, str] = {}
    for peer in peers:
        try:
            timers.append((peer, _PeerTimer(peer, workers)))
        except MissingPeer as reason:
            missing[peer.name] = str(reason)
    return timers, missing


def alternate(clocks: Sequence[Clock], plan: Plan) -> list[tuple[int, list[float]]]:
    """Warm every side up, then let them work in turn, round by round.

    Returns:
      For each side the calls per round, and the seconds per call of each round.
    """
    calls = [calls_per_round(clock, plan.round_seconds) for clock in clocks]
    seconds: list[list[float]] = [[] for _ in clocks]
    for _ in range(plan.rounds):
        gc.collect()  # so that no round pays for what another left behind
        for clock, count, own in zip(clocks, calls, seconds):
            own.append(clock.seconds_per_call(count))
    return list(zip(calls, seconds))


def calls_per_round(clock: Clock, round_seconds: float) -> int:
    """Find by trying how many calls fill a round; the trying is the warm-up."""
    clock.seconds_per_call(1)  # not counted: the second call may compile once more
    calls = 1
    while True:
        each = clock.seconds_per_call(calls)
        if calls * each >= round_seconds / 2 or calls == MOST_CALLS:
            return max(1, min(MOST_CALLS, round(round_seconds / each)))
        calls = min(MOST_CALLS, max(2 * calls, int(round_seconds / each)))


class Summary(NamedTuple):
    """The median of the rounds with its spread."""

    median: float
    low: float
    high: float


def summary(numbers: Sequence[float]) -> Summary:
    """Tell the median of some numbers and the quantiles `SPREAD`."""
    low, high = (quantile(numbers, level) for level in SPREAD)
    return Summary(median(numbers), low, high)


def quantile(numbers: Sequence[float], level: float) -> float:
    """Interpolate between the sorted numbers: the first has level 0, the last level 1."""
    ordered = sorted(numbers)
    place = level * (len(ordered) - 1)
    below, above = math.floor(place), math.ceil(place)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def values(side: Side, measure: Measure) -> list[float]:
    """Tell each round in the unit of the measure."""
    return [measure.value(seconds, side.work) for seconds in side.seconds]


def comparison(ours: Side, peer: Side, measure: Measure) -> Summary:
    """Compare two sides in each round, then sum the rounds up: a disturbance hits both sides."""
    pairs = zip(values(ours, measure), values(peer, measure))
    return summary([measure.compare(a, b) for a, b in pairs])
