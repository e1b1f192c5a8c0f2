"""Where peers run: found, started, asked, and named when missing."""

import json
import os
import subprocess
import sys
import tempfile
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.peers import LIBRARIES

ROOT = Path(__file__).parents[1]
PROBE_SECONDS = 60.0
LAST_LINES = 3  # of what a worker said before it died


class MissingPeer(Exception):
    """A peer that cannot take part; the text says why, and how to provide it."""


def interpreter_of(library: str) -> str:
    """Find an interpreter that has a library: this one, or that of its environment variable.

    Raises:
      MissingPeer: neither has it.
    """
    known = LIBRARIES[library]
    missing = [name for name in known.modules if find_spec(name) is None]
    if not missing:
        return sys.executable
    given = os.environ.get(known.variable)
    if not given:
        raise MissingPeer(
            f"no {' and no '.join(missing)} here; set {known.variable}=/path/to/python where "
            f"`pip install {' '.join(known.packages)}` was done"
        )
    if problem := _problem(given, known.modules):
        raise MissingPeer(f"{known.variable}={given}: {problem}")
    return given


@cache
def _problem(interpreter: str, modules: tuple[str, ...]) -> str:
    """What keeps an interpreter from having these modules; empty if nothing does."""
    code = f"import importlib.util as u; print(*(n for n in {modules} if not u.find_spec(n)))"
    try:
        probe = subprocess.run(
            [interpreter, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            timeout=PROBE_SECONDS,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"is no Python interpreter that runs ({type(error).__name__})"
    missing = probe.stdout.split()
    return f"has no {' and no '.join(missing)}" if missing else ""


class Worker:
    """An interpreter that waits until it is asked to prepare or to time something."""

    def __init__(self, interpreter: str, threads: int | None = None) -> None:
        """Start it; `threads` for torch and XLA alike, their own choice unless given."""
        self._threads = threads
        # Closed with the worker, so not in a `with`; no pipe, which a noisy peer would fill.
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        self._process = subprocess.Popen(
            [interpreter, "-W", "ignore", "-m", "benchmarks.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            cwd=ROOT,
            env=os.environ | thread_variables(threads),
            text=True,
            encoding="utf-8",
        )

    def prepare(
        self, function: str, arguments: dict[str, Any], packages: tuple[str, ...] = ()
    ) -> dict[str, Any]:
        """Make and call once what `module:function` returns.

        Returns:
          `number`, `first_seconds`, `threads` and `versions`.

        Raises:
          MissingPeer: it fails; the message says how.
        """
        return self._ask(
            prepare=function, arguments=arguments, packages=packages, threads=self._threads
        )

    def seconds_per_call(self, number: int, calls: int) -> float:
        """Time what was prepared under this number."""
        return float(self._ask(time=number, calls=calls)["seconds"])

    def peak_mebibytes(self, number: int, calls: int) -> float:
        """Tell the process's largest memory, MiB, while it makes so many calls, warm."""
        return float(self._ask(peak=number, calls=calls)["mebibytes"])

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self._process.poll() is None

    def forget(self) -> None:
        """Let go of everything prepared."""
        self._ask(forget=True)

    def close(self) -> None:
        """End the process."""
        if self._process.stdin and self._process.stdout:
            self._process.stdin.close()
            self._process.wait()
            self._process.stdout.close()
        self._log.close()

    def _ask(self, **request: Any) -> dict[str, Any]:
        if self._process.stdin is None or self._process.stdout is None:
            raise AssertionError("The worker was started with pipes.")
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self._log.seek(0)
            said = " | ".join(self._log.read().splitlines()[-LAST_LINES:])
            raise MissingPeer(f"its process ended: {said or 'without a word'}")
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise MissingPeer(reply["error"])
        return reply


class Workers:
    """One worker per library, kept from task to task: a context manager."""

    def __init__(self, threads: int | None = None) -> None:
        """Start nothing yet."""
        self._threads = threads
        self._running: dict[str, Worker] = {}

    def of(self, library: str) -> Worker:
        """Give the library's worker; it is started at the first request, or if it has died.

        Raises:
          MissingPeer: no interpreter has the library.
        """
        worker = self._running.get(library)
        if worker is not None and worker.alive:
            return worker
        if worker is not None:
            worker.close()
        self._running[library] = Worker(interpreter_of(library), self._threads)
        return self._running[library]

    def __enter__(self) -> "Workers":
        """Use as it is."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End all workers."""
        for worker in self._running.values():
            worker.close()


def thread_variables(threads: int | None) -> dict[str, str]:
    """Environment variables that OpenMP and XLA (for the size of its pool) read at their start."""
    return {} if threads is None else {"OMP_NUM_THREADS": str(threads), "NPROC": str(threads)}
