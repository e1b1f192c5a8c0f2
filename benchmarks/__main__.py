"""The command `python -m benchmarks`."""

import argparse
import difflib
import importlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.cases import CASES, MODULES

if TYPE_CHECKING:
    from benchmarks.harness import Plan

ROUNDS, ROUND_SECONDS = 15, 0.2
QUICK_ROUNDS, QUICK_ROUND_SECONDS = 3, 0.02


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the chosen cases and return the exit status."""
    options = _parser().parse_args(arguments)
    if options.threads is not None:
        from benchmarks.interpreters import thread_variables

        os.environ |= thread_variables(options.threads)  # before torch is loaded
    kept: dict[str, Any] = {}
    try:
        measure(options, kept)
    finally:
        if options.json is not None:
            options.json.write_text(json.dumps(kept, indent=1), encoding="utf-8")
    return 0


def measure(options: argparse.Namespace, kept: dict[str, Any]) -> None:
    """Measure and print case by case, and put the raw rounds into `kept` as they come."""
    import torch

    from benchmarks import machine
    from benchmarks.harness import Plan

    if options.threads is not None:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    rounds = options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS)
    plan = Plan(rounds, QUICK_ROUND_SECONDS if options.quick else ROUND_SECONDS)
    about = machine.description() | {
        "threads": f"{torch.get_num_threads()} for torch here; a peer's stand in its row",
        "rounds": f"{rounds}{', quick: not for record' if options.quick else ''}",
    }
    kept |= {"about": about, "quick": options.quick, "results": [], "remarks": []}
    for name, text in about.items():
        print(f"{name:>12}  {text}")
    for name in options.names or CASES:
        print(f"\n{name}: {CASES[name]}", flush=True)
        if warning := machine.disturbance():
            print(f"  {warning}")
        measure_case(name, plan, options, kept)


def measure_case(
    name: str, plan: "Plan", options: argparse.Namespace, kept: dict[str, Any]
) -> None:
    """Measure and print the tasks of one case, then what it tells beside them."""
    from benchmarks import report
    from benchmarks.harness import run
    from benchmarks.interpreters import Workers

    case = importlib.import_module(MODULES[name])
    sides = []
    with Workers(options.threads) as workers:
        for task in case.tasks(options.quick):
            print(f"\n {task.name}", flush=True)
            result = run(task, plan, workers)
            print(report.table(result), flush=True)
            kept["results"].append(report.as_json(name, result))
            sides += result.peers
    for remark in case.remarks(options.quick) if hasattr(case, "remarks") else ():
        print(f"\n  {remark}", flush=True)
        kept["remarks"].append({"case": name, "remark": remark})
    if versions := report.versions(sides):
        print(f"\n  peers: {versions}")


def _parser() -> argparse.ArgumentParser:
    cases = "\n".join(f"  {name:<20}{text}" for name, text in CASES.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure optinfra side by side with its peers.",
        epilog=f"cases:\n{cases}\n\n"
        "Peers that are not installed here run in an interpreter of their own:\n"
        "  OPTINFRA_BENCH_MLAGENTS=/path/to/python   has mlagents==1.1.0\n"
        "  OPTINFRA_BENCH_PEERS=/path/to/python      has stable-baselines3, torchrl, torchopt,\n"
        "                                            rlax, jax, optax, sb3-contrib",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", type=_case, metavar="NAME", help="all unless given")
    parser.add_argument("--rounds", type=_positive, metavar="N", help=f"{ROUNDS} unless given")
    parser.add_argument("--quick", action="store_true", help="see that it works, measure nothing")
    parser.add_argument("--threads", type=_positive, metavar="N", help="for us and peers alike")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the raw rounds")
    return parser


def _case(name: str) -> str:
    if name not in CASES:
        close = difflib.get_close_matches(name, CASES)
        hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(CASES)}"
        raise argparse.ArgumentTypeError(f"no case {name!r}; {hint}")
    return name


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return number


if __name__ == "__main__":
    sys.exit(main())
