"""The command: what it prints, what it leaves, and how it refuses."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import chex
import pytest
import torch

from optinfra import checkpoint, cli, settings
from optinfra.train import folders
from optinfra.version import VERSION
from tests.commands import (
    ROOT,
    SMALL,
    TENSOR_CARTPOLE,
    assert_refused,
    contents,
    finished,
    leaves,
    optinfra,
    rows,
    started,
    steps_of,
    trained,
)
from tests.settings_cases import CONFIGS

COUNTDOWN = "tests.tiny_envs:tiny/Countdown-v0"
ENDLESS = 10**8  # steps
CONSTANT = (  # so that a run does not depend on how long it is meant to be
    *("--set", "hyperparameters.learning_rate_schedule=constant"),
    *("--set", "optinfra.compile=off"),
)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """Commands run where nothing is, and leave the handler of SIGTERM as it was."""
    monkeypatch.chdir(tmp_path)
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A small run; tests that change it take a copy."""
    return trained(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture
def copy(run, tmp_path):
    return shutil.copytree(run, tmp_path / "copy")


def newest(folder):
    return checkpoint.latest(folder / folders.CHECKPOINTS)


# --- train --------------------------------------------------------------------------------


@pytest.mark.parametrize("env", ["CartPole-v1", TENSOR_CARTPOLE])
def test_train_in_a_process_of_its_own_leaves_everything_in_the_run_folder(tmp_path, env):
    folder = tmp_path / "run"
    done = finished(started("train", "--env", env, "--steps", 1024, "--run-dir", folder))
    assert (done.code, done.err) == (0, "")
    first, *_, last = done.out.splitlines()
    assert first == "0 / 1,024 steps (0 %), elapsed 0:00:00"
    assert re.fullmatch(
        r"Done: \d,\d\d\d steps, \d+ episodes?, mean return \d+\.\d over the last 100\. "
        rf"Settings, metrics, curve and checkpoints lie in {re.escape(str(folder))}\.",
        last,
    )
    assert "\x1b" not in done.out and "\r" not in done.out
    steps = steps_of(folder)[-1]
    left = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))
    assert left == [
        "checkpoints",
        f"checkpoints/step-{steps:09}.safetensors",
        "configuration.yaml",
        left[3],
        "learning_curve.png",
        "metrics.csv",
    ]
    assert left[3].startswith("events.out.tfevents.")
    assert (folder / folders.CURVE).read_bytes().startswith(b"\x89PNG")
    assert "Policy Loss" in (folder / left[3]).read_bytes().decode(errors="replace")
    recorded = folders.settings_of(folder)
    assert recorded.optinfra.env == env and recorded.env_settings.seed >= 0
    # --env tensor:CartPole-v1 takes the shipped configuration of CartPole-v1
    shipped = settings.override(
        cli._shipped("CartPole-v1"),
        [
            f"optinfra.env={env}",
            "max_steps=1024",
            f"env_settings.seed={recorded.env_settings.seed}",
        ],
    )
    assert recorded == settings.load(shipped)


def test_the_options_land_in_the_recorded_settings(tmp_path):
    folder = trained(tmp_path / "a", "--device", "cpu", "--set", "time_horizon=7", seed=9, steps=16)
    recorded = folders.settings_of(folder)
    _, behavior = settings.choose_behavior(recorded)
    assert recorded.env_settings.seed == 9 and recorded.env_settings.num_envs == 4
    assert recorded.torch_settings.device == "cpu" and recorded.optinfra.env == TENSOR_CARTPOLE
    assert (behavior.max_steps, behavior.time_horizon) == (16, 7)


def test_a_run_is_repeated_from_its_recorded_settings(run, tmp_path):
    done = optinfra("train", run / folders.CONFIGURATION, "--run-dir", tmp_path / "again")
    assert done.code == 0
    chex.assert_trees_all_equal(leaves(run), leaves(tmp_path / "again"))
    assert rows(run) == rows(tmp_path / "again")


def test_a_seed_is_drawn_where_none_is_given_and_recorded(tmp_path):
    seeds = set()
    for name in ("a", "b"):
        given = ("--env", TENSOR_CARTPOLE, "--steps", 16, "--run-dir", tmp_path / name)
        assert optinfra("train", *SMALL, *given).code == 0
        seeds.add(folders.settings_of(tmp_path / name).env_settings.seed)
    assert len(seeds) == 2 and min(seeds) >= 0


def test_runs_without_a_folder_are_numbered_below_results(tmp_path):
    for number in (1, 2):
        done = optinfra("train", *SMALL, "--env", TENSOR_CARTPOLE, "--steps", 16)
        assert done.out.splitlines()[-1].endswith(f"lie in results/CartPole-v1-{number}.")
        assert folders.settings_of(tmp_path / "results" / f"CartPole-v1-{number}")


def test_every_environment_takes_the_configuration_made_for_it(tmp_path):
    """Runs are named after the behaviour: that of the file, or else the environment."""
    for env, name in (("tensor:Pendulum-v1", "Pendulum-v1-1"), (COUNTDOWN, None)):
        given = ("--env", env, "--steps", 16, "--device", "cpu")
        done = optinfra("train", *SMALL, *given)
        name = name or "tests.tiny_envs-tiny-Countdown-v0-1"
        assert done.out.endswith(f"lie in results/{name}.\n")
    assert folders.settings_of(tmp_path / "results" / name).behaviors.keys() == {COUNTDOWN}


def test_an_environment_without_a_configuration_of_its_own_takes_the_default_one():
    assert cli._shipped("tests:Some/Env-v0").stem == cli.DEFAULT_CONFIG
    assert cli._shipped("tensor:CartPole-v1") == cli._shipped("CartPole-v1")
    assert cli._shipped("CartPole-v1").stem == "CartPole-v1"
    for path in sorted((ROOT / "optinfra" / "configs").glob("*.yaml")):
        run = settings.load(path)
        name, _ = settings.choose_behavior(run)
        assert settings.require_supported(run, name) == ()


def test_a_behaviour_is_chosen_by_its_name(tmp_path):
    config = tmp_path / "two.yaml"
    config.write_text("behaviors: {Walker: {}, Worm: {trainer_type: ppo, max_steps: 16}}")
    given = ("--env", TENSOR_CARTPOLE, "--behavior", "Worm", "--run-dir", tmp_path / "run")
    done = optinfra("train", config, *SMALL, *given)
    assert done.code == 0, done
    assert list(folders.settings_of(tmp_path / "run").behaviors) == ["Worm"]


def test_notes_and_warnings_are_lines_of_their_own(tmp_path):
    config = tmp_path / "old.yaml"
    config.write_text("behaviors: {Old: {trainer_type: ppo, framework: pytorch, threaded: true}}")
    given = ("--env", TENSOR_CARTPOLE, "--steps", 16, "--run-dir", tmp_path / "run")
    done = optinfra("train", config, *SMALL, *given)
    assert done.code == 0
    assert done.err == f"warning: {config}:1: behaviors.Old.framework: deprecated and dropped.\n"
    noted = "note: behaviors.Old.threaded = true: no effect: collecting and updating take turns."
    assert done.out.splitlines()[0] == noted


def test_a_real_file_of_groups_is_refused_by_the_name_of_an_environment_without(tmp_path):
    done = optinfra("train", CONFIGS / "DungeonEscape.yaml", "--env", TENSOR_CARTPOLE)
    assert_refused(done, f"{TENSOR_CARTPOLE}: trainer_type poca learns from groups")
    assert list(tmp_path.iterdir()) == []


def test_a_real_file_is_honoured(tmp_path):
    """Hallway, which remembers: ML-Agents' own numbers, down to the recorded settings."""
    done = optinfra(
        *("train", CONFIGS / "Hallway.yaml", "--env", TENSOR_CARTPOLE, "--steps", 16),
        *("--run-dir", tmp_path / "run"),
        *("--set", "hyperparameters.buffer_size=128", "--set", "env_settings.num_envs=32"),
    )
    assert (done.code, done.err) == (0, "")
    assert "note: behaviors.Hallway2.threaded = true: no effect" in done.out
    behavior = folders.settings_of(tmp_path / "run").behaviors["Hallway2"]
    assert behavior.hyperparameters.beta == 0.03 and behavior.network_settings.hidden_units == 128
    held = leaves(tmp_path / "run")
    assert held["iteration/learner/hyper/entropy_coef/initial"] == torch.tensor(0.03)
    assert held["iteration/memory"].shape == held["source/memory"].shape == (32, 128)


def test_help_and_version_are_told():
    assert optinfra("--version").out == f"optinfra {VERSION}\n"
    for command in ((), ("train",), ("evaluate",), ("plot",)):
        done = optinfra(*command, "--help")
        assert done.code == 0 and done.out.startswith("usage: optinfra") and done.err == ""


def test_the_command_is_installed_under_its_name():
    done = subprocess.run(
        [shutil.which("optinfra", path=os.path.dirname(sys.executable)) or "optinfra", "--version"],
        capture_output=True,
        text=True,
    )
    assert done.stdout == f"optinfra {VERSION}\n"


# --- bad input ----------------------------------------------------------------------------

MISUSES = [
    ([], "the following arguments are required: COMMAND"),
    (["fly"], "invalid choice: 'fly'"),
    (["train", "--steps", "0"], "argument --steps: expected a whole number ≥ 1, got 0"),
    (["train", "--steps", "many"], "argument --steps: expected a whole number ≥ 1, got many"),
    (["train", "--steps", "1e5"], "argument --steps: expected a whole number ≥ 1, got 1e5"),
    (["train", "--steps"], "argument --steps: expected one argument"),
    (["train", "--seed", "-1"], "argument --seed: expected a whole number ≥ 0, got -1"),
    (["train", "--sede", "1"], "unrecognized arguments: --sede"),
    (["train", "--resume", "--force"], "--force: not allowed with argument --resume"),
    (["evaluate"], "the following arguments are required: RUN"),
    (["evaluate", "x", "--episodes", "0"], "--episodes: expected a whole number ≥ 1, got 0"),
    (["plot"], "the following arguments are required: RUN"),
]


@pytest.mark.parametrize("arguments, message", MISUSES)
def test_a_command_that_is_misused_says_so_in_one_line(arguments, message):
    done = optinfra(*arguments)
    assert_refused(done, message, "--help.")
    assert done.code == cli.MISUSED and done.out == ""


REFUSALS = [
    (["--env", "CartPol-v1"], ["`env` must be the name of a", "Did you mean CartPole-v1"]),
    (["--env", "tensor:Cartpole-v1"], ["Did you mean tensor:CartPole-v1"]),
    (["--env", "Zaxxon"], ["One that another package registers is called `package:Name-v0`."]),
    (["--env", "no_such_package:A-v0"], ["`no_such_package`", "pip install no_such_package"]),
    (["--env", ""], ["optinfra.env: expected text"]),
    (["--env", "tests.tiny_envs:tiny/Picture-v0"], ["sides of 20 pixels or more", "got (3, 4, 4)"]),
    (["--env", "tests.tiny_envs:tiny/Words-v0"], ["must be Box, Discrete or MultiDiscrete"]),
    (["--env", COUNTDOWN, "--set", "optinfra.env_kwargs={speed: 3}"], ["argument 'speed'"]),
    (["--set", "optinfra.env_kwargs={time_limit: 0}", "--env", TENSOR_CARTPOLE], ["`time_limit`"]),
    (["--set", "learnin_rate=1"], ["Did you mean hyperparameters.learning_rate?"]),
    (["--set", "hyperparameters.learnin_rate=1"], ["Did you mean learning_rate?"]),
    (["--set", "max_steps"], ["--set max_steps: expected path=value."]),
    (["--set", "hyperparameters.epsilon=1.5"], ["--set hyperparameters.epsilon=1.5", "(0, 1)"]),
    (["--set", "env_settings.num_envs=0"], ["env_settings.num_envs: expected a whole number ≥ 1"]),
    (["--set", "hyperparameters.batch_size=4096"], ["expected at most buffer_size = 1024"]),
    (["--set", "trainer_type=poca"], ["CartPole-v1: trainer_type poca learns from groups"]),
    (["--set", "network_settings.deterministic=true"], ["deterministic = true: training"]),
    (
        ["--set", "network_settings.memory={sequence_length: 4}", "--set", "optinfra.burn_in=4"],
        ["`burn_in` must lie in [0, 4), got 4."],
    ),
    (["--set", "reward_signals.curiousity={}"], ["unknown key. Did you mean curiosity?"]),
    (["--set", "reward_signals={'no_such:thing': {}}"], ["cannot import no_such. Install it"]),
    (["--set", "reward_signals.gail={demo_path: no.demo}"], ["no.demo"]),
    (["--set", "behavioral_cloning={demo_path: no.demo}"], ["no.demo"]),
    (["--set", "self_play={}"], ["self_play: self-play is not supported"]),
    (["--set", "env_settings.env_path=x"], ["env_settings.env_path", "Unity builds are not run"]),
    (["--seed", str(10**30)], ["env_settings.seed", "expected a whole number"]),
    (["--behavior", "Crawler"], ["behaviors.Crawler: no such behaviour. Known: CartPole-v1."]),
    (["--device", "abacus"], ["device abacus: cannot be used here: Expected one of cpu"]),
    (["--device", "meta"], ["device meta: cannot be used here"]),
    (["--device", "hpu"], ["device hpu: cannot be used here"]),
    (["--resume"], ["--resume needs the folder of a run: add --run-dir FOLDER."]),
    (["--resume", "--run-dir", "nowhere"], ["nowhere: holds no run"]),
    (["--resume", "--run-dir", "."], ["holds no run: there is no configuration.yaml"]),
    (["missing.yaml"], ["missing.yaml: no such file or directory."]),
    (["."], ["is a directory"]),
    (["--run-dir", "/dev/null"], ["/dev/null: cannot be made: File exists."]),
    (["--run-dir", "/dev/null/run"], ["cannot be made: Not a directory."]),
    (["--set", "checkpoint_settings.results_dir=/dev/null"], ["/dev/null: cannot be made"]),
]  # fmt: skip
FILES = [
    (b"behaviors: {A: {hyperparameters: {}}}", ["trainer_type: missing"]),
    (b"behaviors:\n  A:\n    learnin_rate: 1\n", ["bad.yaml:3: behaviors.A.learnin_rate"]),
    (b"default_settings:\n  trainer_type: ppo\n  hyperparameters:\n    learnin_rate: 1e-3\n",
     ["bad.yaml:4: default_settings.hyperparameters.learnin_rate", "Did you mean learning_rate?"]),
    (b"behaviors: {A: {max_steps: -1}}", ["bad.yaml:1: behaviors.A.max_steps: expected"]),
    (b"behaviors: {A: {}, B: {}}", ["behaviors: choose one of A, B by its name."]),
    (b"\x00\xff\xfe\x80", ["not UTF-8 text"]),
    (b"behaviors: [", ["bad.yaml:1: not YAML"]),
    (b"- 1\n", ["expected a mapping of settings"]),
]  # fmt: skip


def assert_nothing_was_begun(done, parts, folder, files):
    assert_refused(done, *parts)
    assert sorted(path.name for path in folder.iterdir()) == sorted(files)


@pytest.mark.parametrize("arguments, parts", REFUSALS)
def test_bad_input_is_one_line_and_begins_nothing(tmp_path, arguments, parts):
    assert_nothing_was_begun(optinfra("train", *arguments), parts, tmp_path, [])


@pytest.mark.parametrize("content, parts", FILES)
def test_a_bad_file_is_told_with_name_and_line_and_begins_nothing(tmp_path, content, parts):
    (tmp_path / "bad.yaml").write_bytes(content)
    done = optinfra("train", "bad.yaml", "--env", TENSOR_CARTPOLE)
    assert_nothing_was_begun(done, parts, tmp_path, ["bad.yaml"])


@pytest.mark.parametrize(
    "arguments, parts",
    [
        ([], ["copy: holds a run already. Go on with it by --resume, overwrite it by --force"]),
        (["--force", "--env", "CartPol-v1"], ["Did you mean CartPole-v1"]),
        (["--force", "--env", "tests.tiny_envs:tiny/Picture-v0"], ["sides of 20 pixels"]),
        (
            ["--force", "--env", COUNTDOWN, "--set", "optinfra.env_kwargs={nan_at: 0}"],
            ["`obs` of environment 0 must be finite, got nan at position 0."],
        ),
        (["--force", "--set", "learnin_rate=1"], ["Did you mean"]),
        (["--force", "--device", "abacus"], ["device abacus"]),
        (["--resume", "--set", "network_settings.hidden_units=5"], ["must have shape [5"]),
        (["--resume", "--set", "hyperparameters.shared_critic=true"], ["is missing."]),
        (["--resume", "--env", "Pendulum-v1"], ["step-000000064.safetensors: leaf"]),
        (["--resume", "--set", "hyperparameters.beta=-1"], ["hyperparameters.beta: expected"]),
    ],
)
def test_bad_input_changes_nothing_of_an_earlier_run(copy, arguments, parts):
    before = contents(copy)
    assert_refused(optinfra("train", "--run-dir", copy, *arguments), *parts)
    assert contents(copy) == before


def test_an_environment_that_shows_no_number_ends_the_run_with_what_was_learnt(tmp_path):
    given = ("--env", COUNTDOWN, "--set", "optinfra.env_kwargs={nan_at: 3}", "--steps", 64)
    done = optinfra("train", *SMALL, *given, "--run-dir", tmp_path / "run")
    assert_refused(done, "`obs` of environment", "must be finite, got nan at position 0.")
    assert newest(tmp_path / "run") is not None


def test_force_begins_a_run_anew(copy):
    first = newest(copy)
    trained(copy, "--force", steps=16)
    assert steps_of(copy) == [16] and not first.exists()
    assert not folders.settings_of(copy).checkpoint_settings.force
    assert len(list(copy.glob("events*"))) == 1


def test_a_folder_that_cannot_be_written_is_told(tmp_path, monkeypatch):
    """As root nothing is forbidden: let the system refuse."""

    def refuse(*_):
        raise PermissionError(13, "Permission denied", "run/configuration.yaml")

    monkeypatch.setattr(folders, "record", refuse)
    done = optinfra("train", *SMALL, "--env", TENSOR_CARTPOLE, "--run-dir", "run")
    assert_refused(done, "error: run/configuration.yaml: permission denied.")


def test_a_full_disk_is_told_and_the_last_checkpoint_stays(copy, monkeypatch):
    before = newest(copy).read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "_write", full)
    done = optinfra("train", "--resume", "--run-dir", copy, "--steps", 128)
    assert_refused(done, "step-000000096.safetensors: cannot be written: no space left on device.")
    assert newest(copy).read_bytes() == before


def test_a_mistake_of_our_own_is_not_hidden(monkeypatch):
    monkeypatch.setattr(settings, "load", lambda document: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        optinfra("train")


# --- resume -------------------------------------------------------------------------------


def test_resuming_takes_the_runs_own_settings_and_goes_on(copy, tmp_path):
    longer = trained(tmp_path / "longer", "--set", "hyperparameters.learning_rate=0.01", steps=96)
    resumed = optinfra("train", "--resume", "--run-dir", copy, "--steps", 96,
                       "--set", "hyperparameters.learning_rate=0.01")  # fmt: skip
    assert (resumed.code, resumed.err) == (0, "")
    assert resumed.out.startswith("64 / 96 steps (66 %)")
    assert resumed.out.splitlines()[-1].startswith("Done: 96 steps,")
    assert "new episodes" not in resumed.out
    recorded = folders.settings_of(copy)
    assert recorded == folders.settings_of(longer)
    assert steps_of(copy) == [32, 64, 96]


def test_resuming_on_gymnasium_says_that_new_episodes_begin(tmp_path):
    folder = trained(tmp_path / "run", env=COUNTDOWN, steps=32)
    done = optinfra("train", "--resume", "--run-dir", folder, "--steps", 64)
    assert (done.code, done.err) == (0, "")
    said = "environments of Gymnasium and PettingZoo cannot be saved, so new episodes begin here"
    assert f"\nnote: {said}; everything else goes on as it was.\n" in done.out
    assert steps_of(folder) == [32, 64]


def test_resuming_finds_the_folder_by_the_run_id(run, tmp_path):
    shutil.copytree(run, tmp_path / "results" / "mine")
    named = ("--set", "checkpoint_settings.run_id=mine")
    done = optinfra("train", run / folders.CONFIGURATION, "--resume", *named, "--steps", 80)
    assert done.code == 0 and done.out.endswith("lie in results/mine.\n")
    assert steps_of(tmp_path / "results" / "mine") == [32, 64, 80]


def test_resuming_with_another_file_needs_a_run_all_the_same(run, tmp_path):
    given = ("train", run / folders.CONFIGURATION, "--resume", "--run-dir")
    assert_refused(optinfra(*given, tmp_path / "nowhere"), "nowhere: holds no run")
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_checkpoint_is_passed_over_with_one_line(copy):
    path = newest(copy)
    path.write_bytes(path.read_bytes()[:-1])
    done = optinfra("train", "--resume", "--run-dir", copy)
    assert done.code == 0
    warned = done.err.splitlines()
    assert len(warned) == 1 and warned[0].startswith(f"warning: Passed over: {path}: damaged")
    assert newest(copy) == path, "written anew"


@pytest.mark.parametrize("command", [["train", "--resume", "--run-dir"], ["evaluate"]])
def test_a_run_without_a_checkpoint_that_can_be_read_is_refused(copy, command):
    for path in (copy / folders.CHECKPOINTS).iterdir():
        path.write_bytes(b"damaged")
    before = contents(copy)
    done = optinfra(*command, copy)
    *warned, error = done.err.splitlines(keepends=True)
    assert [line.startswith("warning: Passed over: ") for line in warned] == [True, True]
    assert_refused(done._replace(err=error), f"{copy}: there is no checkpoint that can be read.")
    shutil.rmtree(copy / folders.CHECKPOINTS)
    assert_refused(optinfra(*command, copy), f"{copy}: there is no checkpoint that can be read.")
    del before["checkpoints/step-000000048.safetensors"]
    del before["checkpoints/step-000000064.safetensors"]
    assert contents(copy) == before


@pytest.mark.parametrize("command", [["train", "--resume", "--run-dir"], ["evaluate"], ["plot"]])
def test_settings_of_a_run_that_are_damaged_are_told(copy, command):
    (copy / folders.CONFIGURATION).write_text("behaviors: [")
    assert_refused(optinfra(*command, copy), "configuration.yaml:1: not YAML")


# --- signals ------------------------------------------------------------------------------


def running(folder):
    """A run in a process of its own that has begun to iterate."""
    given = ("--env", TENSOR_CARTPOLE, "--steps", ENDLESS, "--run-dir", folder, "--seed", 1)
    process = started("train", *SMALL, *CONSTANT, *given)
    while not (folder / folders.METRICS).exists() or not steps_of(folder):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    return process


@pytest.mark.parametrize("number, moment", [(signal.SIGINT, 0.0), (signal.SIGTERM, 0.07)])
def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path, number, moment):
    folder = tmp_path / "run"
    process = running(folder)
    time.sleep(moment)
    process.send_signal(number)
    process.send_signal(number)  # whoever is impatient loses nothing
    done = finished(process)
    assert (done.code, done.err) == (cli.INTERRUPTED, "")
    told, how = done.out.splitlines()[-2:]
    steps = steps_of(folder)[-1]
    assert told.startswith(f"Interrupted after {steps:,} steps, ")
    assert told.endswith(f"Saved in {folder}.")
    assert checkpoint.step_of(newest(folder)) == steps
    command, *arguments = how.removeprefix("Go on with: ").split()
    assert command == "optinfra"
    again = optinfra(*arguments, "--steps", steps + 16)
    assert again.code == 0 and steps_of(folder)[-1] == steps + 16


def test_an_interrupted_command_that_saves_nothing_says_so(monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(settings, "load", interrupted)
    assert optinfra("train") == (cli.INTERRUPTED, "", "Interrupted.\n")


def test_a_killed_run_goes_on_from_its_last_checkpoint(tmp_path):
    folder = tmp_path / "run"
    process = running(folder)
    while not (folder / folders.CHECKPOINTS).exists() or newest(folder) is None:
        time.sleep(0.01)
    process.kill()
    assert finished(process).code == -signal.SIGKILL
    last = newest(folder)
    kept = last.read_bytes()
    steps = checkpoint.step_of(last) + 32
    done = optinfra("train", "--resume", "--run-dir", folder, "--steps", steps)
    assert (done.code, done.err) == (0, "") and last.read_bytes() == kept
    whole = trained(tmp_path / "whole", *CONSTANT, steps=steps)
    chex.assert_trees_all_equal(leaves(folder), leaves(whole))
    assert rows(folder) == rows(whole)


# --- evaluate -----------------------------------------------------------------------------

RESULT = re.compile(
    r"mean return (?P<mean>\d+\.\d)( ± (?P<half>\d+\.\d) \(95 % interval\))?, "
    r"(?P<n>\d+) episodes?, "
    r"(?P<kind>drawn|likeliest) actions, min (?P<min>\d+\.\d), max (?P<max>\d+\.\d), "
    r"policy of step 64\n"
)


def test_evaluate_prints_the_mean_and_its_interval(run):
    before = contents(run)
    results = {}
    for options in ((), ("--stochastic",), ("--seed", 1), ()):
        done = optinfra("evaluate", run, "--episodes", 6, *options)
        assert (done.code, done.err) == (0, "")
        told = RESULT.fullmatch(done.out)
        assert told and told["n"] == "6" and told["half"]
        assert told["kind"] == ("drawn" if "--stochastic" in options else "likeliest")
        assert float(told["min"]) <= float(told["mean"]) <= float(told["max"])
        if options in results:
            assert results[options] == done.out
        results[options] = done.out
    assert len({told.replace("drawn", "likeliest") for told in results.values()}) == 3
    assert contents(run) == before


def test_evaluating_one_episode_tells_no_interval(run):
    told = RESULT.fullmatch(optinfra("evaluate", run, "--episodes", 1).out)
    assert told and told["half"] is None and told["mean"] == told["min"] == told["max"]


def test_evaluating_counts_what_is_known(tmp_path):
    folder = trained(tmp_path / "run", env=COUNTDOWN, steps=64)
    told = RESULT.fullmatch(optinfra("evaluate", folder, "--episodes", 3).out)
    # Copies 2, 3 and 4 steps long: mean 3, deviation 1, t for 2 degrees is 4.303
    assert (told["mean"], told["min"], told["max"]) == ("3.0", "2.0", "4.0")
    assert told["half"] == f"{4.303 / 3**0.5:.1f}"


def test_evaluating_what_is_no_run_is_refused(tmp_path, copy):
    assert_refused(optinfra("evaluate", "nowhere"), "nowhere: holds no run")
    assert_refused(optinfra("evaluate", tmp_path), "holds no run: there is no configuration.yaml")
    assert_refused(optinfra("evaluate", copy, "--device", "abacus"), "device abacus: cannot be")
    path = copy / folders.CONFIGURATION
    path.write_text(path.read_text().replace("hidden_units: 4", "hidden_units: 5"))
    assert_refused(optinfra("evaluate", copy), "must have shape [5")
    path.write_text(path.read_text().replace(TENSOR_CARTPOLE, "tensor:Cart"))
    assert_refused(optinfra("evaluate", copy), "Did you mean", "tensor:CartPole-v1")


def test_evaluating_passes_over_a_damaged_checkpoint(copy):
    newest(copy).write_bytes(b"damaged")
    done = optinfra("evaluate", copy, "--episodes", 2)
    assert done.code == 0 and done.out.endswith("policy of step 48\n")
    assert done.err.startswith("warning: Passed over: ") and len(done.err.splitlines()) == 1


# --- plot ---------------------------------------------------------------------------------


def test_plot_draws_one_run_into_its_folder_and_several_where_the_command_runs(copy, run, tmp_path):
    (copy / folders.CURVE).unlink()
    assert optinfra("plot", copy) == (0, f"{copy / folders.CURVE}\n", "")
    assert (copy / folders.CURVE).read_bytes().startswith(b"\x89PNG")
    before = contents(run)
    assert optinfra("plot", run, copy) == (0, "learning_curves.png\n", "")
    both = (tmp_path / "learning_curves.png").read_bytes()
    assert both.startswith(b"\x89PNG") and both != before[folders.CURVE]
    assert optinfra("plot", run, "--output", tmp_path / "x.png").code == 0
    assert (tmp_path / "x.png").exists() and contents(run) == before


def test_plotting_what_cannot_be_drawn_is_refused(copy, run, tmp_path):
    assert_refused(optinfra("plot", "nowhere"), "nowhere: holds no run")
    assert_refused(optinfra("plot", run, tmp_path), f"{tmp_path}: holds no run")
    assert_refused(optinfra("plot", run, "--output", "/dev/null/x.png"), "not a directory")
    picture = contents(copy)[folders.CURVE]
    for content, message in (("", "at least one row"), ("steps,a\n1,x\n", "numbers in line 2")):
        (copy / folders.METRICS).write_text(content)
        assert_refused(optinfra("plot", copy), message)
        assert_refused(optinfra("plot", run, copy), message)
    (copy / folders.METRICS).unlink()
    assert_refused(optinfra("plot", copy), "metrics.csv: no such file or directory.")
    assert contents(copy)[folders.CURVE] == picture
    assert list(tmp_path.iterdir()) == [copy]
