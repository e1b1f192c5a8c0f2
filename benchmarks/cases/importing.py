"""What an import costs: whole processes, from their start to their end."""

import subprocess
import sys
from collections.abc import Iterator
from functools import partial

from benchmarks.harness import MORE_MILLISECONDS, Ours, Peer, Task
from benchmarks.interpreters import ROOT
from benchmarks.timing import Call

CORE = ("iteration", "learners", "lift", "signals", "transforms", "schedules", "random")


def tasks(quick: bool) -> Iterator[Task]:
    """Fresh processes, in turn with one that imports torch alone."""
    del quick
    core = f"from optinfra import {', '.join(CORE)}"
    yield Task(
        "import in a fresh process",
        ours=[
            Ours("import optinfra", partial(process, "import optinfra")),
            Ours("import torch, optinfra", partial(process, "import torch, optinfra")),
            Ours("import the whole core", partial(process, core)),
        ],
        peers=[Peer("import torch", "torch:importing")],
        measure=MORE_MILLISECONDS,
    )


def process(code: str) -> Call:
    """Run some code in a fresh process."""
    return partial(subprocess.run, [sys.executable, "-c", code], check=True, cwd=ROOT)
