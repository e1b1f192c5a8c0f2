"""The numbers of a run over time: `metrics.csv`, and TensorBoard events beside it."""

import csv
import io
import math
import os
import platform
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from optinfra.envs.registry import import_for
from optinfra.train.names import tagged

METRICS_FILE = "metrics.csv"
WINDOW = 100  # episodes that the mean return is taken over
EPISODE_COLUMNS = (
    "mean_return",  # of the last 100 episodes
    "episode_return_mean",  # this and the following: of the episodes since the last row
    "episode_return_min",
    "episode_return_max",
    "episode_length",
)
COLUMNS = ("steps", "seconds", "episodes", *EPISODE_COLUMNS, "steps_per_second")
UNTAGGED = ("steps", "seconds")  # the axes that TensorBoard has anyway
SIGNIFICANT_DIGITS = 7  # what a float32 holds
NOTHING_SINCE = (0.0, 0.0, math.inf, -math.inf, 0.0)


class WindowState(NamedTuple):
    """What a checkpoint holds of an `EpisodeWindow`."""

    returns: Tensor  # [100] float64, oldest first, NaN where there is none yet
    episodes: Tensor  # [] int64, episodes so far
    since: Tensor  # [5] float64, since the last row: episodes, Σ, min, max of returns, Σ of lengths


class EpisodeWindow:
    """The returns of the last 100 episodes, and what happened since the last row."""

    def __init__(self, state: WindowState | None = None) -> None:
        """Start empty, or where `state` was taken: everything that follows is the same."""
        self.episodes = 0 if state is None else int(state.episodes)
        known = [] if state is None else state.returns.tolist()[: self.episodes]
        self._returns: deque[float] = deque(known, maxlen=WINDOW)
        self._since = NOTHING_SINCE if state is None else tuple(state.since.tolist())

    def add(self, total_return: float, length: int) -> None:
        """Count an episode that has ended: its undiscounted return, its steps."""
        episodes, returns, lowest, highest, lengths = self._since
        self._since = (
            episodes + 1,
            returns + total_return,
            float(np.minimum(lowest, total_return)),  # unlike `min`, these keep a NaN
            float(np.maximum(highest, total_return)),
            lengths + length,
        )
        self._returns.append(float(total_return))
        self.episodes += 1

    @property
    def mean(self) -> float:
        """Mean return of the last 100 episodes; NaN before the first has ended."""
        return sum(self._returns) / len(self._returns) if self._returns else math.nan

    def drain(self) -> dict[str, float]:
        """Give the values of `EPISODE_COLUMNS` and begin to count anew."""
        episodes, returns, lowest, highest, lengths = self._since
        values = (returns / episodes, lowest, highest, lengths / episodes) if episodes else ()
        values = (self.mean, *(values or (math.nan,) * 4))
        self._since = NOTHING_SINCE
        return dict(zip(EPISODE_COLUMNS, values))

    def state(self) -> WindowState:
        """Take everything down in tensors whose shapes never change."""
        missing = [math.nan] * (WINDOW - len(self._returns))
        return WindowState(
            returns=torch.tensor([*self._returns, *missing], dtype=torch.float64),
            episodes=torch.tensor(self.episodes),
            since=torch.tensor(self._since, dtype=torch.float64),
        )


class MetricsWriter:
    """Append rows to `metrics.csv` and to TensorBoard events: a context manager.

    Every row is on its way to the disk when `write` returns: a killed process loses at
    most the row it was writing. The first row fixes the columns; where later ones bring
    more, the file is rewritten with empty cells in the rows before.
    """

    def __init__(
        self,
        directory: Path,
        *,
        start_steps: int = 0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Begin, or continue what is there.

        Rows later than `start_steps` are dropped: they will be trained again. The column
        `seconds` goes on from the last row that stays.

        Args:
          directory: folder of the run; it exists.
          start_steps: environment steps at which the run is resumed; 0 for a new one.
          clock: seconds since whenever.

        Raises:
          ModuleNotFoundError: tensorboard is not installed.
          ValueError: the file that is there is damaged; it is left as it is.
        """
        tensorboard = _import_tensorboard()  # before anything is touched
        self._path = directory / METRICS_FILE
        self._clock = clock
        self._header, last_seconds = _keep_until(self._path, start_steps)
        self._events = _Events(tensorboard, directory, start_steps)
        self._zero = clock() - last_seconds
        self._last = (start_steps, last_seconds)
        self._file = _append_to(self._path)

    def __enter__(self) -> "MetricsWriter":
        """Use as it is: everything is open already."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close both files."""
        self._file.close()
        self._events.close()

    def write(self, steps: int, window: EpisodeWindow, stats: Mapping[str, float]) -> None:
        """Append one row.

        Args:
          steps: environment steps so far.
          window: the episodes so far; those since the last row are drained from it.
          stats: numbers by name, such as `policy_loss`.

        Raises:
          ValueError: a stat has the name of one of the other columns.
        """
        if clash := sorted(stats.keys() & set(COLUMNS)):
            raise ValueError(f"`stats` must have names other than the columns', got {clash}.")
        seconds = self._clock() - self._zero
        new_steps, new_seconds = steps - self._last[0], seconds - self._last[1]
        row: dict[str, float] = {"steps": int(steps), "seconds": seconds}
        row |= {"episodes": window.episodes} | window.drain()
        row["steps_per_second"] = new_steps / new_seconds if new_seconds > 0 else math.nan
        row |= {name: float(stats[name]) for name in sorted(stats)}
        self._append(row)
        self._events.write(steps, row)
        self._last = (steps, seconds)

    def _append(self, row: dict[str, float]) -> None:
        added = [name for name in row if name not in self._header]
        if added:
            self._file.close()
            rows = _read_lines(self._path)[1:]
            empty = [""] * len(added)
            self._header = self._header + added
            _replace(self._path, [self._header, *([*cells, *empty] for cells in rows)])
            self._file = _append_to(self._path)
        cells = [_written(row[name]) if name in row else "" for name in self._header]
        self._file.write(_as_text([cells]))
        self._file.flush()


def read_metrics(path: Path) -> dict[str, np.ndarray]:
    """Read the columns of a `metrics.csv`, also while it is being written.

    A last line without its end is left out: its writer was killed, or is not done yet.

    Args:
      path: of the file.

    Returns:
      `[N]` float64 by column, one number per row; NaN in empty cells. Empty for an empty file.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: a line has too many or too few cells, or one that is no number.
    """
    lines = _read_lines(path)
    if not lines:
        return {}
    header, *rows = lines
    numbers = [_numbers(path, i, cells, header) for i, cells in enumerate(rows, start=2)]
    table = np.array(numbers, dtype=np.float64).reshape(len(rows), len(header))
    return {name: table[:, column] for column, name in enumerate(header)}


def _numbers(path: Path, line: int, cells: list[str], header: list[str]) -> list[float]:
    if len(cells) != len(header):
        raise ValueError(
            f"`{path}` must have {len(header)} cells in line {line}, got {len(cells)}."
        )
    try:
        return [float(cell) if cell else math.nan for cell in cells]
    except ValueError:
        raise ValueError(f"`{path}` must hold numbers in line {line}, got {cells}.") from None


def _read_lines(path: Path) -> list[list[str]]:
    """Split every finished line into its cells."""
    text = path.read_text(encoding="utf-8", errors="replace")
    finished = text[: text.rfind("\n") + 1]
    return list(csv.reader(io.StringIO(finished)))


def _keep_until(path: Path, start_steps: int) -> tuple[list[str], float]:
    """Drop the rows after `start_steps`; return the header and the last `seconds` that stay."""
    if not path.exists():
        return [], 0.0
    metrics = read_metrics(path)
    if metrics and not {"steps", "seconds"} <= set(metrics):
        raise ValueError(f"`{path}` must have the columns steps and seconds, got {list(metrics)}.")
    header, *rows = _read_lines(path) or [[]]
    kept = [row for row, steps in zip(rows, metrics.get("steps", ())) if steps <= start_steps]
    if not kept:
        header = []
    _replace(path, [header, *kept] if kept else [])
    return header, float(metrics["seconds"][len(kept) - 1]) if kept else 0.0


def _replace(path: Path, lines: Sequence[Sequence[str]]) -> None:
    """Rewrite a file so that there is the old one or the new one at any moment."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with draft.open("w", encoding="utf-8", newline="") as file:
            file.write(_as_text(lines))
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def _append_to(path: Path) -> io.TextIOWrapper:
    return path.open("a", encoding="utf-8", newline="")


def _as_text(lines: Iterable[Sequence[str]]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


def _written(x: float) -> str:
    return str(x) if isinstance(x, int) else f"{x:.{SIGNIFICANT_DIGITS}g}"


class _TensorBoard(NamedTuple):
    """The parts of tensorboard that writing needs: neither TensorFlow nor threads."""

    event: Any
    summary: Any
    record_writer: Any


def _import_tensorboard() -> _TensorBoard:
    parts = ("compat.proto.event_pb2", "compat.proto.summary_pb2", "summary.writer.record_writer")
    return _TensorBoard(
        *(import_for("metrics", f"tensorboard.{part}", "'optinfra[train]'") for part in parts)
    )


class _Events:
    """A TensorBoard event file, flushed after every row."""

    def __init__(self, tensorboard: _TensorBoard, directory: Path, start_steps: int) -> None:
        self._tensorboard = tensorboard
        self._records = tensorboard.record_writer.RecordWriter(_create_events_file(directory))
        self._record(file_version="brain.Event:2")
        # Tells TensorBoard to forget what an interrupted run had reported beyond this point.
        session = tensorboard.event.SessionLog
        self._record(step=start_steps + 1, session_log=session(status=session.START))

    def write(self, steps: int, row: Mapping[str, float]) -> None:
        shown = {
            name: x
            for name, x in row.items()
            if name not in UNTAGGED and not (name in EPISODE_COLUMNS and math.isnan(x))
        }
        summary = self._tensorboard.summary.Summary
        values = [summary.Value(tag=name, simple_value=x) for name, x in tagged(shown).items()]
        self._record(step=steps, summary=summary(value=values))

    def close(self) -> None:
        self._records.close()

    def _record(self, **fields: Any) -> None:
        event = self._tensorboard.event.Event(wall_time=time.time(), **fields)
        self._records.write(event.SerializeToString())
        self._records.flush()


def _create_events_file(directory: Path) -> io.BufferedWriter:
    """Open a new file; TensorBoard reads those of a folder in the order of their names."""
    name = f"events.out.tfevents.{int(time.time()):010d}.{platform.node()}.{os.getpid()}"
    attempt = 0
    while True:
        try:
            return (directory / f"{name}.{attempt}").open("xb")
        except FileExistsError:
            attempt += 1
