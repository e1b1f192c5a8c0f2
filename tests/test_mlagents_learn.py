"""The command `mlagents-learn`, as it is installed, with players that are processes of their own.

A player of tests takes the place of a build of Unity and speaks its protocol; nothing else differs
from what a user runs. OPTINFRA_MLAGENTS_PYTHON names the interpreter beside which the command lies.
"""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from tests.mlagents_python import mlagents_python

yaml = pytest.importorskip("yaml")
torch = pytest.importorskip("torch")

pytestmark = pytest.mark.mlagents
ROOT = Path(__file__).parents[1]
HORIZON = 16
LIMIT = 300  # seconds, for what takes some twenty
SOLVED = 0.6  # per episode; 0.85 is the best, −0.6 is what chance gets
ON_POLICY = {
    "batch_size": 64, "buffer_size": 640, "learning_rate": 3e-3,
    "learning_rate_schedule": "constant",
}  # fmt: skip
HYPER = {
    "optinfra_ppo": ON_POLICY,
    "optinfra_poca": ON_POLICY,
    "optinfra_sac": {
        "batch_size": 64, "buffer_size": 5000, "learning_rate": 2e-3, "init_entcoef": 0.1,
        "buffer_init_steps": 200, "steps_per_update": 4, "tau": 0.01,
    },
}  # fmt: skip
SELF_PLAY = {
    "save_steps": 300, "team_change": 600, "swap_steps": 200, "window": 4,
    "play_against_latest_model_ratio": 0.5, "initial_elo": 1200.0,
}  # fmt: skip


class Command:
    """Runs of `mlagents-learn` over one folder of results."""

    def __init__(self, folder):
        self.python = mlagents_python()
        self.folder, self.started = folder, []
        self.player = folder / "walker.x86_64"
        self.player.write_text(
            f'#!/bin/sh\ncd "{ROOT}" && exec "{self.python}" -m tests.mlagents_player "$@"\n'
        )
        self.player.chmod(0o755)

    def start(self, kind, steps, *options, run="run", world=None, **behavior):
        config = self.folder / "config.yaml"
        behavior = {
            "trainer_type": kind, "hyperparameters": HYPER[kind], "max_steps": steps,
            "network_settings": {"hidden_units": 32, "num_layers": 1}, "time_horizon": HORIZON,
            "summary_freq": 500, "reward_signals": {"extrinsic": {"gamma": 0.95}},
        } | behavior  # fmt: skip
        config.write_text(yaml.safe_dump({"behaviors": {"Walker": behavior}}))
        command = [
            self.python.parent / "mlagents-learn", config, "--env", self.player,
            "--run-id", run, "--results-dir", self.folder, "--num-envs", "2",
            "--base-port", str(two_free_ports()), "--seed", "0", *options,
            "--env-args", "--world", json.dumps(world or {}),
        ]  # fmt: skip
        running = subprocess.Popen(
            [*map(str, command)], cwd=self.folder, text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"},
        )  # fmt: skip
        self.started.append(running)
        return running

    def run(self, *asked, **more):
        """What a run that ends by itself printed, and its rewards by steps."""
        running = self.start(*asked, **more)
        printed, _ = running.communicate(timeout=LIMIT)
        assert running.returncode == 0, printed[-4000:]
        return printed, curve(printed)

    def interrupt(self, *asked, at, **more):
        """What a run printed that got a Ctrl-C once it had told of a step."""
        running = self.start(*asked, **more)
        limit = threading.Timer(LIMIT, kill, [running])
        limit.start()
        seen = []
        try:
            while f"Step: {at}." not in "".join(seen[-1:]):
                seen.append(running.stdout.readline())
                assert seen[-1], "".join(seen)[-4000:]
        finally:
            limit.cancel()
        running.send_signal(signal.SIGINT)
        rest, _ = running.communicate(timeout=LIMIT)
        assert running.returncode == 0, rest[-4000:]
        return "".join(seen) + rest

    def close(self):
        """Leave nothing behind, whatever a test came to; players end when nobody listens."""
        for running in self.started:
            kill(running)
            running.communicate()

    def saved(self, run="run"):
        return torch.load(self.folder / run / "Walker" / "checkpoint.pt", weights_only=True)


def kill(running):
    with contextlib.suppress(ProcessLookupError):
        os.killpg(running.pid, signal.SIGKILL)


def two_free_ports():
    """The first of two neighbours at which nobody listens."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("localhost", 0))
            port = first.getsockname()[1]
            try:
                second.bind(("localhost", port + 1))
            except OSError:
                continue
            return port


def curve(printed):
    found = re.findall(r"Step: (\d+)\..* Mean (?:Group )?Reward: (-?\d+\.\d+)", printed)
    return [(int(step), float(reward)) for step, reward in found]


def steps_of(saved):
    return int(saved["global_step"]["_GlobalSteps__global_step"])


def weights(saved):
    return [x for x in saved["Policy"].values() if x.is_floating_point()]


@pytest.fixture
def command(tmp_path):
    command = Command(tmp_path)
    yield command
    command.close()


@pytest.mark.parametrize(
    "kind",
    [
        "optinfra_ppo",
        pytest.param("optinfra_sac", marks=pytest.mark.thorough),
        pytest.param("optinfra_poca", marks=pytest.mark.thorough),
    ],
)
def test_the_command_trains_saves_resumes_and_exports(command, kind):
    world = {"groups": kind == "optinfra_poca"}
    _, first = command.run(kind, 1000, world=world)
    assert first[-1][0] == 1000
    before, result = command.saved(), command.folder / "run"
    assert yaml.safe_load((result / "configuration.yaml").read_text())["behaviors"]["Walker"][
        "trainer_type"
    ] == kind  # fmt: skip
    assert (result / "Walker.onnx").stat().st_size > 1000

    printed, second = command.run(kind, 2000, "--resume", world=world)
    assert 1000 <= steps_of(before) < 1500
    assert f"Resuming training from step {steps_of(before)}" in printed
    assert second[0][0] == 1500 and second[-1][0] == 2000
    after = command.saved()
    assert steps_of(after) >= 2000
    assert any(not torch.equal(x, y) for x, y in zip(weights(before), weights(after), strict=True))


@pytest.mark.thorough
def test_a_run_begins_with_the_weights_of_another(command):
    command.run("optinfra_sac", 600, run="parent")
    parent = command.saved("parent")
    # Nothing is learnt before a thousand steps, so what is saved is what it began with.
    late = {"hyperparameters": HYPER["optinfra_sac"] | {"buffer_init_steps": 1000}}
    printed, _ = command.run("optinfra_sac", 500, "--initialize-from", "parent", **late)
    assert "Initializing from" in printed
    child = command.saved()
    assert steps_of(child) < 1000  # the parent's are not counted
    assert all(torch.equal(x, y) for x, y in zip(weights(parent), weights(child), strict=True))


def test_ctrl_c_saves_what_was_learnt(command):
    many = 90_000  # and few enough that nothing is compiled
    assert "Learning was interrupted" in command.interrupt("optinfra_ppo", many, at=1000)
    step = steps_of(command.saved())
    assert step > 1000 - HORIZON  # it is told before the trajectory that reaches it is counted
    printed, after = command.run("optinfra_ppo", step + 600, "--resume")
    assert f"Resuming training from step {step}" in printed
    assert after[-1][0] > step


@pytest.mark.thorough
def test_inference_acts_and_learns_nothing(command):
    command.run("optinfra_ppo", 1500)
    before = command.saved()
    command.interrupt(
        "optinfra_ppo", 90_000, "--resume", "--inference", at=3000, checkpoint_interval=500
    )
    after = command.saved()
    assert steps_of(after) > steps_of(before) + 500  # it was saved on the way
    assert all(torch.equal(x, y) for x, y in zip(weights(before), weights(after), strict=True))


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["optinfra_ppo", "optinfra_poca"])
def test_teams_take_turns_at_learning(command, kind):
    """Self-play, saved and gone on with."""
    world = {"teams": True, "groups": kind == "optinfra_poca"}
    printed, steps = command.run(kind, 2500, world=world, self_play=SELF_PLAY)
    assert "ELO" in printed and steps[-1][0] == 2500
    step = steps_of(command.saved())
    printed, _ = command.run(kind, 3500, "--resume", world=world, self_play=SELF_PLAY)
    assert f"Resuming training from step {step}" in printed


def test_a_configuration_that_is_wrong_is_refused_by_name(command):
    running = command.start("optinfra_ppo", 500, hyperparameters={"learning_rat": 1})
    printed, _ = running.communicate(timeout=LIMIT)
    assert running.returncode != 0 and "learning_rat" in printed


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("kind", "steps", "teams"),
    [("optinfra_sac", 4000, False), ("optinfra_sac", 8000, True), ("optinfra_ppo", 14000, False)],
)
def test_the_command_learns(command, kind, steps, teams):
    """With teams, what one learns reaches whoever acts for the other."""
    more = {"self_play": SELF_PLAY} if teams else {}
    _, learnt = command.run(kind, steps, world={"teams": teams}, **more)
    assert learnt[0][1] < 0 and learnt[-1][1] > SOLVED, learnt
