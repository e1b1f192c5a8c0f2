"""Run the command, in this process or in one of its own, and look at what it leaves."""

import contextlib
import csv
import io
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from optinfra import checkpoint, cli, settings
from optinfra.train import folders

ROOT = Path(__file__).parents[1]
TENSOR_CARTPOLE = "tensor:CartPole-v1"
CLOCK = ("seconds", "steps_per_second")  # columns that differ from run to run
# 4 environments for 4 steps, then 2 minibatches of 8.
SMALL_SETTINGS = {
    "trainer_type": "ppo",
    "hyperparameters.buffer_size": 16,
    "hyperparameters.batch_size": 8,
    "hyperparameters.num_epoch": 1,
    "network_settings.hidden_units": 4,
    "env_settings.num_envs": 4,
    "summary_freq": 32,
    "checkpoint_interval": 48,
}
SMALL = [part for item in SMALL_SETTINGS.items() for part in ("--set", "{}={}".format(*item))]


class Finished(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


def optinfra(*arguments) -> Finished:
    """Run the command in this process; warnings are shown, not raised."""
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("always")
        try:
            code = cli.main([str(argument) for argument in arguments])
        except SystemExit as leaving:
            code = leaving.code
    return Finished(code, out.getvalue(), err.getvalue())


def started(*arguments) -> subprocess.Popen:
    """Start the command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "optinfra.cli", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def finished(process: subprocess.Popen) -> Finished:
    out, err = process.communicate(timeout=120)
    return Finished(process.returncode, out, err)


def trained(folder, *arguments, env=TENSOR_CARTPOLE, steps=64, seed=1) -> Path:
    """Train a small run and return its folder."""
    given = ("--env", env, "--steps", steps, "--seed", seed, "--run-dir", folder)
    done = optinfra("train", *SMALL, *given, *arguments)
    assert (done.code, done.err) == (0, ""), done
    return folder


def small_run(*assignments, env=TENSOR_CARTPOLE, steps=64, seed=1) -> settings.RunSettings:
    """The settings of a small run."""
    given = {"optinfra.env": env, "max_steps": steps, "env_settings.seed": seed} | SMALL_SETTINGS
    lines = [f"{path}={value}" for path, value in given.items()]
    return settings.load(settings.override("", [*lines, *assignments]))


def contents(folder) -> dict[str, bytes]:
    """Every file below a folder, with what it holds."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def rows(folder) -> list[dict[str, str]]:
    """The rows of a run's metrics, without what the clock says."""
    with (folder / "metrics.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    return [{name: cell for name, cell in row.items() if name not in CLOCK} for row in lines]


def leaves(folder) -> dict[str, Tensor]:
    """What the newest checkpoint of a run holds, by name."""
    return checkpoint._read(checkpoint.latest(folder / folders.CHECKPOINTS))[0]


def steps_of(folder) -> list[int]:
    """The steps at which a run wrote its rows."""
    return [int(row["steps"]) for row in rows(folder)]


def assert_refused(done: Finished, *parts) -> None:
    """One line on standard error, which holds the parts, and an exit status that is not 0."""
    assert done.code in (1, 2), done
    assert done.err.startswith("error: ") and done.err.endswith("\n"), done
    assert len(done.err.splitlines()) == 1, done.err
    assert "Traceback" not in done.out + done.err
    for part in parts:
        assert part in done.err, done.err
