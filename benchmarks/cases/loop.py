"""ML-Agents' own trainer loop, with its trainers and with the plugin's: steps per second."""

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from typing import Any

from benchmarks.harness import Task, summary
from benchmarks.interpreters import ROOT, MissingPeer, interpreter_of

STEPS = {"ppo": 5000, "sac": 1500, "poca": 4000}
ROUNDS = 3
SIDES = {"optinfra_{}": "plugin", "{}": "ML-Agents"}


def tasks(quick: bool) -> Iterator[Task]:
    """Nothing runs in this process: see `remarks`."""
    del quick
    yield from ()


def remarks(quick: bool) -> Iterator[str]:
    """Train on one small world, side by side, each time in a process of its own."""
    try:
        interpreter = interpreter_of("mlagents")
        probe = [interpreter, "-W", "ignore", "-c", "import optinfra.mlagents.plugin.trainers"]
        if subprocess.run(probe, capture_output=True, cwd=os.path.expanduser("~")).returncode:
            raise MissingPeer("optinfra is not installed beside ML-Agents: see .ci/mlagents-env")
    except MissingPeer as reason:
        yield f"trainer loop: not measured: {reason}"
        return
    for kind in ("ppo",) if quick else tuple(STEPS):
        rounds: dict[str, list[float]] = {side: [] for side in SIDES.values()}
        for _ in range(1 if quick else ROUNDS):
            for pattern, side in SIDES.items():
                rounds[side].append(rate(interpreter, kind, pattern.format(kind)))
        ratios = summary([a / b for a, b in zip(rounds["plugin"], rounds["ML-Agents"])])
        told = ", ".join(f"{side} {summary(x).median:.0f} steps/s" for side, x in rounds.items())
        yield (
            f"trainer loop, {kind}: {told}: {ratios.median:.2f} "
            f"({ratios.low:.2f} – {ratios.high:.2f})"
        )


def rate(interpreter: str, kind: str, trainer_type: str) -> float:
    """Train, and tell the steps per second of everything between start and end."""
    with tempfile.TemporaryDirectory() as folder:
        asked: dict[str, Any] = {
            "trainer_type": trainer_type,
            "folder": folder,
            "steps": STEPS[kind],
            "groups": kind == "poca",
            "summary_freq": 1000,
        }
        run = subprocess.run(
            [interpreter, "-W", "ignore", "-m", "tests.mlagents_world", json.dumps(asked)],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            check=True,
        )
    told = json.loads(run.stdout.splitlines()[-1])
    return float(told["step"] / told["seconds"])
