"""How a run is doing, while it runs: a live display, or lines where there is no terminal."""

import math
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from optinfra.check import require_number
from optinfra.envs.registry import import_for

REDRAWS_PER_SECOND = 4
SECONDS_BETWEEN_LINES = 5.0
RATE_WINDOW = 10.0  # seconds that steps/s is measured over
RATE_INTERVAL = 0.25  # seconds between two points of that window, at least
LONGEST = 1000 * 86_400.0  # seconds left that are worth telling
UNKNOWN = "-"
MIN_BAR = 10  # characters
MAX_BAR = 60
MIN_CELL = len("1,234,567")
CELL_GAP = 3


class Snapshot(NamedTuple):
    """What the display shows at one moment."""

    steps: int  # environment steps so far
    total_steps: int
    rate: float  # environment steps per second; NaN while unknown
    mean_return: float  # of the last 100 episodes; NaN before the first has ended
    stats: Mapping[str, float]
    elapsed: float  # seconds
    note: str  # what is going on; empty where there is nothing to say


class Progress:
    """Show how far a run is: a context manager.

    On a terminal a display that is redrawn in place, four times a second, by a thread:
    visible at once, alive while the first iteration compiles. Elsewhere lines of plain
    text, one every five seconds at most, and one at either end.
    """

    def __init__(
        self,
        total_steps: int,
        start_steps: int = 0,
        console: Any = None,
        *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Prepare the display; entering the context shows it.

        Args:
          total_steps: environment steps at which the run is complete, ≥ 1.
          start_steps: environment steps done before, where a run is resumed.
          console: a `rich.console.Console`; one on standard output unless given.
          clock: seconds since whenever.

        Raises:
          ModuleNotFoundError: rich is not installed.
          ValueError: `total_steps` is less than 1.
        """
        require_number("total_steps", total_steps, 1)
        self._console = console or _import_rich("console").Console()
        self._clock = clock
        self._began = clock()
        self._steps, self._total_steps = start_steps, total_steps
        self._mean_return, self._rate = math.nan, math.nan
        self._stats: Mapping[str, float] = {}
        self._note = ""
        self._points: deque[tuple[float, int]] = deque()  # (seconds, steps) within RATE_WINDOW
        in_place = self._console.is_terminal and not self._console.is_dumb_terminal
        self._screen: _Live | _Lines = (_Live if in_place else _Lines)(
            self._console, self._snapshot
        )

    def __enter__(self) -> "Progress":
        """Show the display."""
        self._began = self._clock()
        try:
            self._screen.start(self._began)
        except BaseException:
            self._screen.stop()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        """Leave the last state visible and the terminal as it was, whatever happened."""
        self._screen.stop()

    def update(self, steps: int, mean_return: float, stats: Mapping[str, float]) -> None:
        """Say how far the run is. Cheap enough to be called in every iteration.

        Args:
          steps: environment steps so far.
          mean_return: of the last 100 episodes; NaN before the first has ended.
          stats: numbers by name; `policy_loss` and `value_loss` are shown.
        """
        self._steps, self._mean_return, self._stats = steps, mean_return, stats
        now = self._clock()
        points = self._points
        if not points or now - points[-1][0] >= RATE_INTERVAL:
            points.append((now, steps))
            while len(points) > 1 and now - points[1][0] >= RATE_WINDOW:
                points.popleft()
            seconds = now - points[0][0]
            self._rate = (steps - points[0][1]) / seconds if seconds > 0 else math.nan
        self._screen.updated(now)

    def note(self, text: str) -> None:
        """Say what is going on, such as "compiling …", until the next note; "" for nothing.

        As plain lines, each text is printed once, at its first appearance.
        """
        self._note = text
        self._screen.noted(text)

    def print(self, line: str) -> None:
        """Print a line that stays: a warning, for example."""
        self._screen.print(line)

    def _snapshot(self) -> Snapshot:
        return Snapshot(
            self._steps,
            self._total_steps,
            self._rate,
            self._mean_return,
            self._stats,
            self._clock() - self._began,
            self._note,
        )


class _Lines:
    """Plain lines without control characters."""

    def __init__(self, console: Any, snapshot: Callable[[], Snapshot]) -> None:
        self._console = console
        self._snapshot = snapshot
        self._next_at = math.inf
        self._steps_shown = -1
        self._notes: set[str] = {""}

    def start(self, now: float) -> None:
        self._next_at = now + SECONDS_BETWEEN_LINES
        self._show()

    def stop(self) -> None:
        if self._snapshot().steps != self._steps_shown:
            self._show()

    def updated(self, now: float) -> None:
        if now >= self._next_at:
            self._next_at = now + SECONDS_BETWEEN_LINES
            self._show()

    def noted(self, text: str) -> None:
        if text not in self._notes:
            self._notes.add(text)
            self.print(text)

    def print(self, line: str) -> None:
        _print(self._console, line)

    def _show(self) -> None:
        snapshot = self._snapshot()
        self._steps_shown = snapshot.steps
        self.print(as_line(snapshot))


class _Live:
    """A display at the bottom of a terminal, redrawn in place."""

    def __init__(self, console: Any, snapshot: Callable[[], Snapshot]) -> None:
        self._console = console
        self._snapshot = snapshot
        self._text = _import_rich("text").Text
        self._live = _import_rich("live").Live(
            console=console,
            get_renderable=self._draw,
            refresh_per_second=REDRAWS_PER_SECOND,
            redirect_stdout=sys.stdout.isatty(),  # what goes into a file stays out of the display
            redirect_stderr=sys.stderr.isatty(),
        )

    def start(self, now: float) -> None:
        self._live.start(refresh=True)

    def stop(self) -> None:
        try:
            self._live.stop()
        finally:
            self._console.show_cursor(True)  # also where a second Ctrl-C came in between

    def updated(self, now: float) -> None:
        """Do nothing: the thread that draws looks by itself."""

    def noted(self, text: str) -> None:
        self._live.refresh()

    def print(self, line: str) -> None:
        _print(self._console, line)

    def _draw(self) -> Any:
        unicode = self._console.encoding.startswith("utf")
        frame = as_frame(self._snapshot(), self._console.width, unicode=unicode)
        parts = [part for line in frame for part in (*line, ("\n", ""))][:-1]
        parts = [(_encodable(self._console, text), style) for text, style in parts]
        return self._text.assemble(*parts, no_wrap=True, overflow="crop")


def as_line(snapshot: Snapshot) -> str:
    """Put what is known of a snapshot into one line of plain text."""
    known = (cell for cell in _cells(snapshot).items() if cell[1] != UNKNOWN)
    return ", ".join([_position(snapshot), *map(" ".join, known)])


def as_frame(snapshot: Snapshot, width: int, *, unicode: bool = True) -> list[list[tuple]]:
    """Lay a snapshot out for a terminal: lines of `(text, style)`, none wider than `width`.

    Args:
      snapshot: what to show.
      width: columns of the terminal.
      unicode: whether it can show more than ASCII.
    """
    return [
        _bar(snapshot, width, *("━─" if unicode else "=-")),
        *_table(_cells(snapshot), width),
        *([[(snapshot.note[:width], "yellow")]] if snapshot.note else []),
    ]


def _bar(snapshot: Snapshot, width: int, done: str, ahead: str) -> list[tuple]:
    widest = _position(snapshot._replace(steps=max(snapshot.steps, snapshot.total_steps)))
    position = _position(snapshot).rjust(len(widest))  # a bar whose length stays
    length = min(width - len(position) - 2, MAX_BAR)
    if length < MIN_BAR:
        return [(position.strip()[:width], "bold")]
    filled = int(_fraction(snapshot) * length)
    return [(done * filled, "green"), (ahead * (length - filled), "dim"), (f"  {position}", "bold")]


def _table(cells: Mapping[str, str], width: int) -> list[list[tuple]]:
    """Set names above values, as many side by side as there is room for."""
    lines: list[list[tuple]] = []
    used = width
    for name, value in cells.items():
        size = max(len(name), len(value), MIN_CELL)
        gap = CELL_GAP if used + CELL_GAP + size <= width else 0
        if not gap:
            lines += [[], []]
            used = 0
        lines[-2].append((" " * gap + name.rjust(size), "dim"))
        lines[-1].append((" " * gap + value.rjust(size), "bold"))
        used += gap + size
    return lines


def _cells(snapshot: Snapshot) -> dict[str, str]:
    ahead = max(snapshot.total_steps - snapshot.steps, 0)
    left = ahead / snapshot.rate if snapshot.rate > ahead / LONGEST else math.nan
    policy_loss, value_loss = map(snapshot.stats.get, ("policy_loss", "value_loss"))
    return {
        "steps/s": UNKNOWN if math.isnan(snapshot.rate) else f"{snapshot.rate:,.0f}",
        "mean return": UNKNOWN
        if math.isnan(snapshot.mean_return)
        else _number(snapshot.mean_return),
        "policy loss": UNKNOWN if policy_loss is None else _number(policy_loss),
        "value loss": UNKNOWN if value_loss is None else _number(value_loss),
        "elapsed": _duration(snapshot.elapsed),
        "left": UNKNOWN if math.isnan(left) else _duration(left),
    }


def _position(snapshot: Snapshot) -> str:
    percent = math.floor(100 * _fraction(snapshot))
    return f"{snapshot.steps:,} / {snapshot.total_steps:,} steps ({percent} %)"


def _fraction(snapshot: Snapshot) -> float:
    return min(snapshot.steps / snapshot.total_steps, 1.0)


def _number(x: float) -> str:
    """Write four significant digits, and no exponent where digits say as much."""
    return f"{x:,.0f}" if 1e3 <= abs(x) < 1e7 else f"{x:.4g}"


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"


def _print(console: Any, line: str) -> None:
    text = _import_rich("text").Text(_encodable(console, line))  # no markup, no emoji codes
    console.print(text, soft_wrap=True, highlight=False)


def _encodable(console: Any, text: str) -> str:
    """Replace what the output's encoding has no letter for."""
    return text.encode(console.encoding, "replace").decode(console.encoding)


def _import_rich(part: str) -> Any:
    return import_for("the progress display", f"rich.{part}", "'optinfra[train]'")
