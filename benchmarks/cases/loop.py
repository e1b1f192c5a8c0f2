"""ML-Agents' own trainer loop, with its trainers and with the plugin's: steps per second.

The first thousand steps are not counted: libraries load there, and updates are compiled.
"""

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from typing import Any

from benchmarks.harness import Task, summary
from benchmarks.interpreters import ROOT, MissingPeer, interpreter_of

STEPS = {"ppo": 6000, "sac": 3000, "poca": 5000}
FIRST = 1000
ROUNDS = 3
SIDES = {
    "plugin, compiled": ("optinfra_{}", {"compiled": True}),
    "plugin": ("optinfra_{}", {"compiled": False}),
    "ML-Agents": ("{}", {}),
}


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
        rounds: dict[str, list[float]] = {side: [] for side in SIDES}
        for _ in range(1 if quick else ROUNDS):
            for side, (pattern, hyper) in SIDES.items():
                rounds[side].append(rate(interpreter, kind, pattern.format(kind), hyper))
        for side in list(SIDES)[:-1]:
            ratios = summary([a / b for a, b in zip(rounds[side], rounds["ML-Agents"])])
            ours, theirs = (summary(rounds[name]).median for name in (side, "ML-Agents"))
            yield (
                f"trainer loop, {kind}: {side} {ours:.0f} steps/s, ML-Agents {theirs:.0f}: "
                f"{ratios.median:.2f} ({ratios.low:.2f} – {ratios.high:.2f})"
            )


def rate(interpreter: str, kind: str, trainer_type: str, hyper: dict[str, Any]) -> float:
    """Train, and tell the steps per second of everything from the first thousand steps on."""
    with tempfile.TemporaryDirectory() as folder:
        asked: dict[str, Any] = {
            "trainer_type": trainer_type,
            "folder": folder,
            "steps": STEPS[kind],
            "groups": kind == "poca",
            "summary_freq": 500,
            "hyperparameters": hyper,
        }
        run = subprocess.run(
            [interpreter, "-W", "ignore", "-m", "tests.mlagents_run", json.dumps(asked)],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            check=True,
        )
    told = json.loads(run.stdout.splitlines()[-1])
    times = [(step, seconds) for step, seconds in told["times"] if step >= FIRST]
    (first, began), (last, ended) = times[0], times[-1]
    return float((last - first) / (ended - began))
