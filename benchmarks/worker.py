"""What a peer's interpreter runs: `python -m benchmarks.worker`, one JSON line per request.

It works only while a request is open, so that only one side works at a time.

    {"prepare": "module:function", "arguments": {…}, "packages": […], "threads": 2}
        → {"number": 0, "first_seconds": 0.5, "threads": 2, "versions": {…}}
    {"time": 0, "calls": 10}  → {"seconds": 0.001}       of what got this number
    {"peak": 0, "calls": 10}  → {"mebibytes": 480.0}     the process's largest meanwhile
    {"forget": true}          → {}
    whatever fails            → {"error": "ValueError: …"}
"""

import importlib
import json
import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.timing import Timer


def main() -> None:
    """Answer requests until standard input ends."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints must not be taken for a reply
    timers: list[Timer] = []
    for line in sys.stdin:
        try:
            reply = answered(json.loads(line), timers)
        except Exception as error:
            reply = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), file=replies, flush=True)


def answered(request: dict[str, Any], timers: list[Timer]) -> dict[str, Any]:
    """Do what a request asks for."""
    if "prepare" in request:
        module, _, function = request["prepare"].partition(":")
        make = getattr(importlib.import_module(module), function)
        call = make(**request["arguments"])
        threads = set_threads(request["threads"])  # last: some libraries choose at import
        timers.append(Timer(call))
        names = [requirement.partition("==")[0] for requirement in request["packages"]]
        versions = {name: version(name) for name in names}
        versions["python"] = platform.python_version()
        return {
            "number": len(timers) - 1,
            "first_seconds": timers[-1].first_seconds,
            "threads": threads,
            "versions": versions,
        }
    if "time" in request:
        return {"seconds": timers[request["time"]].seconds_per_call(request["calls"])}
    if "peak" in request:
        return {"mebibytes": peak_mebibytes(timers[request["peak"]], request["calls"])}
    timers.clear()
    return {}


def peak_mebibytes(timer: Timer, calls: int) -> float:
    """Tell the largest memory that this process has had while it made so many calls, warm.

    Raises:
      OSError: this is no Linux, which alone tells.
    """
    timer.seconds_per_call(calls)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the largest so far
    timer.seconds_per_call(calls)
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    (largest,) = (line.split()[1] for line in lines if line.startswith("VmHWM:"))
    return int(largest) / 1024


def set_threads(threads: int | None) -> int | None:
    """Give torch so many threads if it is here and a number is given; tell how many it has."""
    torch = sys.modules.get("torch")
    if torch is None:
        return None
    if threads is not None:
        torch.set_num_threads(threads)
    return torch.get_num_threads()


if __name__ == "__main__":
    main()
