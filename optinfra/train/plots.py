"""Pictures of runs, drawn from their `metrics.csv`."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from optinfra.envs.registry import import_for
from optinfra.train.metrics import read_metrics

WIDTH, HEIGHT, DOTS_PER_INCH = 8.0, 5.0, 100  # inches; 800 × 500 pixels
NEEDED = ("steps", "mean_return", "episode_return_min", "episode_return_max")
BANDS = 3  # runs that can each have a band before the bands hide the lines
BAND_ENTRY = "worst to best episode at the time"
BAND_SMOOTHING = 0.08  # of the rows, averaged around each
LEGEND_ROWS, LEGEND_ROW_HEIGHT = 2, 0.21  # rows within HEIGHT; inches for each one more
LEGEND_CHARACTERS = 100  # that fit side by side
KEY_CHARACTERS = 8  # what a legend's line sample and gap take of them
INK, GRID = "#333333", "#e3e3e3"


def learning_curve(runs: Mapping[str, Path], output: Path) -> None:
    """Draw the mean return of runs against environment steps, as a PNG of 800 × 500 pixels.

    A line is the mean over the last 100 episodes. The band behind it reaches from the worst
    to the best episode of a row, both averaged along a twelfth of the run; it is left out
    where more than three runs share the picture. A legend of many rows makes the picture
    higher. pyplot and its global state are not touched.

    Args:
      runs: path of the `metrics.csv` by the label of the run.
      output: path of the picture; an older one is replaced once the new one is complete.

    Raises:
      FileNotFoundError: a file is missing.
      ModuleNotFoundError: matplotlib is not installed.
      ValueError: there is no run; or a file has no row, or lacks a column.
    """
    if not runs:
        raise ValueError("`runs` must have at least one run, got none.")
    curves = {label: _read(label, path) for label, path in runs.items()}
    figure = _part("figure").Figure(dpi=DOTS_PER_INCH, layout="constrained")
    _part("backends.backend_agg").FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    colors = _colors(len(curves))
    handles = [_draw(axes, curve, color) for curve, color in zip(curves.values(), colors)]
    entries = [_shown(label) for label in curves]
    if len(curves) <= BANDS:
        bands = [_draw_band(axes, curve, color) for curve, color in zip(curves.values(), colors)]
        handles, entries = [*handles, bands[0]], [*entries, BAND_ENTRY]
    _dress(axes, curves)
    _add_legend(figure, handles, entries)
    png = io.BytesIO()
    figure.savefig(png, format="png")
    output.write_bytes(png.getvalue())


def _read(label: str, path: Path) -> dict[str, np.ndarray]:
    curve = read_metrics(path)
    if missing := [name for name in NEEDED if curve and name not in curve]:
        raise ValueError(f"`runs[{label!r}]` must have the columns {missing}, got {list(curve)}.")
    if not curve or not curve["steps"].size:
        raise ValueError(f"`runs[{label!r}]` must have at least one row, got none in {path}.")
    return curve


def _draw(axes: Any, curve: dict[str, np.ndarray], color: Any) -> Any:
    marker = "o" if np.isfinite(curve["mean_return"]).sum() == 1 else ""
    return axes.plot(
        curve["steps"], curve["mean_return"], color=color, linewidth=1.8, marker=marker
    )[0]


def _draw_band(axes: Any, curve: dict[str, np.ndarray], color: Any) -> Any:
    lowest, highest = curve["episode_return_min"], curve["episode_return_max"]
    some = np.isfinite(lowest) & np.isfinite(highest)
    edges = curve["steps"][some], _smoothed(lowest[some]), _smoothed(highest[some])
    return axes.fill_between(*edges, color=color, alpha=0.15, linewidth=0)


def _smoothed(x: np.ndarray) -> np.ndarray:
    """Average every number with its neighbours, those that are there."""
    reach = int(x.size * BAND_SMOOTHING / 2)
    total = np.concatenate([[0.0], np.cumsum(x)])
    first = np.maximum(np.arange(x.size) - reach, 0)
    last = np.minimum(np.arange(x.size) + reach, x.size - 1)
    return (total[last + 1] - total[first]) / (last + 1 - first)


def _dress(axes: Any, curves: Mapping[str, dict[str, np.ndarray]]) -> None:
    axes.set_xlabel("environment steps", color=INK)
    axes.set_ylabel("mean return of the last 100 episodes (sum of rewards)", color=INK)
    axes.xaxis.set_major_formatter(_part("ticker").EngFormatter())
    axes.set_axisbelow(True)
    axes.grid(color=GRID, linewidth=0.8)
    axes.tick_params(colors=INK, length=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    axes.set_xlim(0, max(curve["steps"].max() for curve in curves.values()) * 1.02)
    if not any(np.isfinite(curve["mean_return"]).any() for curve in curves.values()):
        axes.text(
            *(0.5, 0.5),
            "no episode has ended yet",
            transform=axes.transAxes,
            ha="center",
            color=INK,
        )
        axes.set_yticks([])


def _add_legend(figure: Any, handles: list[Any], entries: list[str]) -> None:
    """Set the legend below everything; many rows make the figure higher."""
    widest = max(map(len, entries)) + KEY_CHARACTERS
    columns = max(1, min(len(entries), LEGEND_CHARACTERS // widest))
    rows = -(-len(entries) // columns)
    figure.set_size_inches(WIDTH, HEIGHT + LEGEND_ROW_HEIGHT * max(rows - LEGEND_ROWS, 0))
    figure.legend(
        *(handles, entries),
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        fontsize=9,
        labelcolor=INK,
    )


def _shown(label: str) -> str:
    """Make a label fit: its end tells more.

    matplotlib reads `$…$` as a formula and (before 3.10) leaves out what begins with `_`.
    """
    room = LEGEND_CHARACTERS - KEY_CHARACTERS
    label = label if len(label) <= room else f"…{label[1 - room :]}"
    return " " + label.replace("$", r"\$")


def _colors(number: int) -> Any:
    """Colours that stay apart: ten well-known ones, or as many as needed along a scale."""
    maps = _part("").colormaps
    return maps["tab10"].colors if number <= 10 else maps["turbo"](np.linspace(0.05, 0.95, number))


def _part(name: str) -> Any:
    module = f"matplotlib.{name}" if name else "matplotlib"
    return import_for("the learning curve", module, "'optinfra[train]'")
