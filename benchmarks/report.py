"""Results as tables to read, and as JSON to keep."""

from collections.abc import Sequence
from typing import Any

from benchmarks.harness import Result, Side, Summary, comparison, summary, values

GAP = "  "


def table(result: Result) -> str:
    """Write one result: every side's own numbers, then ours compared with each peer's."""
    measure = result.measure
    rows = [["", measure.unit, "10–90 % of rounds", "first call", "threads"]]
    for side in [*result.ours, *result.peers]:
        own = summary(values(side, measure))
        spread = f"{shown(own.low)} – {shown(own.high)}"
        threads = "" if side.threads is None else str(side.threads)
        rows.append([side.name, shown(own.median), spread, f"{side.first_seconds:.2f} s", threads])
    blocks = [aligned(rows)]
    if result.peers:
        heads = [f"{measure.sign} {peer.name}" for peer in result.peers]
        rows = [[f"good: {measure.better}", *heads]]
        for ours in result.ours:
            cells = [told(comparison(ours, peer, measure)) for peer in result.peers]
            rows.append([ours.name, *cells])
        blocks.append(aligned(rows))
    blocks += [f"  not run: {name}: {reason}" for name, reason in result.missing.items()]
    return "\n".join(blocks)


def versions(sides: Sequence[Side]) -> str:
    """Write the versions of the peers' packages, each combination once."""
    lines = {", ".join(f"{k} {v}" for k, v in side.versions.items()) for side in sides}
    return "; ".join(sorted(lines))


def shown(x: float) -> str:
    """Write a number to three digits, large ones in full."""
    return f"{x:,.0f}" if abs(x) >= 1000 else f"{x:#.3g}".rstrip(".")


def told(numbers: Summary) -> str:
    """Write a median with its spread."""
    return f"{shown(numbers.median)} ({shown(numbers.low)} – {shown(numbers.high)})"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Set rows in columns, the first to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = []
    for name, *cells in rows:
        padded = [cell.rjust(width) for cell, width in zip(cells, widths[1:])]
        lines.append(GAP + GAP.join([name.ljust(widths[0]), *padded]).rstrip())
    return "\n".join(lines)


def as_json(case: str, result: Result) -> dict[str, Any]:
    """Put everything measured into what JSON can hold."""
    return {
        "case": case,
        "task": result.task,
        "unit": result.measure.unit,
        "ours": [side._asdict() for side in result.ours],
        "peers": [side._asdict() for side in result.peers],
        "missing": result.missing,
    }
