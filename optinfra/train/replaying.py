"""Learning from replay in a run: what is kept, how often is learnt, and what is saved of it."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from optinfra.off_policy import Kept, OffPolicy, OffPolicyState
from optinfra.rollout import Rollout
from optinfra.store import ReplayStore
from optinfra.types import Stats, Transitions

SUFFIX = ".replay"


class Cadence(NamedTuple):
    """How often is learnt."""

    init_steps: int  # environment steps before the first update
    ready_rows: int  # transitions that replay must hold by then
    steps_per_call: float  # environment steps for each call of `OffPolicy.update`
    steps_per_signal_call: float  # the same for `update_signals`


class Replaying:
    """The replay of one run. It changes in `commit` alone, so that an update may be given up."""

    def __init__(
        self,
        learning: OffPolicy,
        cadence: Cadence,
        make_store: Callable[[Path | None], ReplayStore],
        demonstrated: Transitions | None = None,
        *,
        saved: bool = False,
    ) -> None:
        """Prepare; nothing is made yet.

        Args:
          learning: from replay.
          cadence: how often.
          make_store: makes it; what is large lies in files of the folder.
          demonstrated: `[N, …]` each, transitions that it holds from the beginning.
          saved: whether `save` writes anything.
        """
        self._learning, self._cadence = learning, cadence
        self._make, self._demonstrated, self._saved = make_store, demonstrated, saved
        self.lost = False  # what a run held that goes on was not saved
        self._store: ReplayStore | None = None
        self._kept: Kept | None = None
        self._signal_stats: Stats = {}

    @property
    def store(self) -> ReplayStore:
        """What is held; made at the first look."""
        return self.open(None) if self._store is None else self._store

    def open(self, folder: Path | None) -> ReplayStore:
        """Make the store, and put the demonstrations in it.

        Raises:
          StoreError: there is no room for it.
        """
        self._store = self._make(folder)
        if self._demonstrated is not None:
            self._store.add(self._demonstrated)
        return self._store

    def update(self, state: OffPolicyState, rollout: Rollout) -> tuple[OffPolicyState, Stats]:
        """Learn from what is held, as often as the steps of a rollout make it due.

        The rollout itself is held from `commit` on.
        """
        before = int(state.learner.steps)
        state, self._kept = self._learning.observe(state, rollout)
        after, stats = int(state.learner.steps), Stats()
        if len(self.store) < self._cadence.ready_rows:
            return state, stats
        view = self.store.view()
        for _ in range(self._due(self._cadence.steps_per_call, before, after)):
            state, stats = self._learning.update(state, view)
        for _ in range(self._due(self._cadence.steps_per_signal_call, before, after)):
            state, self._signal_stats = self._learning.update_signals(state, view)
        return state, self._signal_stats | stats if stats else stats

    def commit(self) -> None:
        """Hold the rollout of the last `update`."""
        if self._kept is not None:
            self.store.add(*self._kept)
            self._kept = None

    def cut(self) -> None:
        """Let what comes follow nothing that is held: the environments began anew."""
        self.store.cut()

    def save(self, folder: Path, steps: int) -> None:
        """Write what is held, if that is wanted: before the checkpoint of the same step.

        Raises:
          StoreError: it cannot be written.
        """
        if self._saved:
            folder.mkdir(exist_ok=True)
            self.store.save(_path(folder, steps))

    def prune(self, folder: Path, steps: int) -> None:
        """Delete what was saved at other steps."""
        for path in folder.glob(f"*{SUFFIX}"):
            if path != _path(folder, steps):
                path.unlink()

    def load(self, folder: Path, steps: int) -> None:
        """Go on with what was saved at a step; where nothing was, it is `lost`.

        Raises:
          StoreError: it cannot be read, or is of other settings.
        """
        path = _path(folder, steps)
        self.lost = not path.exists()
        if not self.lost:
            self.store.load(path)

    def _due(self, steps_per_call: float, before: int, after: int) -> int:
        def calls(steps: int) -> int:
            return math.floor(max(steps - self._cadence.init_steps, 0) / steps_per_call)

        return calls(after) - calls(before)


def _path(folder: Path, steps: int) -> Path:
    return folder / f"{steps}{SUFFIX}"
