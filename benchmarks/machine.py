"""Where and with what the numbers were taken."""

import os
import platform
import subprocess
import time
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[1]
SAMPLE_SECONDS = 0.5
QUIET_CORES = 0.1  # cores that others may keep busy before it is worth a warning


def description() -> dict[str, str]:
    """Describe machine, versions and commit, by name."""
    return {
        "processor": _processor(),
        "cores": _cores(),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "load average": " ".join(f"{load:.2f}" for load in os.getloadavg()),
        "python": platform.python_version(),
        "torch": version("torch"),
        "commit": _commit(),
    }


def disturbance() -> str:
    """Look for half a second whether others are at work; say so, or nothing."""
    busy = cores_busy_elsewhere()
    if busy is None or busy <= QUIET_CORES:
        return ""
    return f"warning: other processes keep {busy:.1f} cores busy: these numbers are not for record"


def cores_busy_elsewhere() -> float | None:
    """Count the cores that are busy while this process sleeps; None where Linux does not tell."""
    before = _busy_seconds()
    began = time.perf_counter()
    time.sleep(SAMPLE_SECONDS)
    after = _busy_seconds()
    if before is None or after is None:
        return None
    return (after - before) / (time.perf_counter() - began)


def _busy_seconds() -> float | None:
    """Seconds that all cores together have been busy since the start of the machine."""
    try:
        first = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0]
    except OSError:
        return None
    user, nice, system, _idle, _waiting, interrupts, soft_interrupts, *_ = map(
        int, first.split()[1:]
    )
    ticks = user + nice + system + interrupts + soft_interrupts
    return ticks / os.sysconf("SC_CLK_TCK")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _cores() -> str:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{os.cpu_count()}, {usable} of them usable"


def _commit() -> str:
    commit = _git("rev-parse", "--short=12", "HEAD")
    changed = _git("status", "--porcelain")
    return f"{commit or 'unknown'}{' and uncommitted changes' if changed else ''}"


def _git(*arguments: str) -> str:
    try:
        result = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    except OSError:
        return ""
    return result.stdout.strip() if result.returncode == 0 else ""
