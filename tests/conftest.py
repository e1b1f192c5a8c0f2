import os
import shutil
import signal

import pytest
import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a background job of a shell
    signal.signal(signal.SIGINT, signal.default_int_handler)  # tests of Ctrl-C need one
SLOW_START = [HealthCheck.too_slow]  # the first example of a test pays for torch's lazy set-up
settings.register_profile(
    "ci", max_examples=20, deadline=None, derandomize=True, suppress_health_check=SLOW_START
)
settings.register_profile("thorough", max_examples=2000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

# Why a test may be skipped in CI: the random draws on CUDA, where there is no such device.
REASONS = () if torch.cuda.is_available() else ("no CUDA device",)


def pytest_collection_modifyitems(items):
    """What needs a C++ compiler is left out where there is none."""
    if not any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "clang++")):
        missing = pytest.mark.skip(reason="no C++ compiler")
        for item in items:
            if item.get_closest_marker("inductor"):
                item.add_marker(missing)


def pytest_sessionfinish(session, exitstatus):
    """In CI a test that is skipped unexpectedly fails the run: it would never be missed."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or hasattr(session.config, "workerinput"):  # one of several processes
        return
    unexpected = [
        report for report in reporter.stats.get("skipped", [])
        if not any(reason in str(report.longrepr) for reason in REASONS)
    ]  # fmt: skip
    if os.environ.get("CI") and exitstatus == 0 and unexpected:
        for report in unexpected:
            reporter.write_line(f"skipped unexpectedly: {report.nodeid}")
        session.exitstatus = 1
