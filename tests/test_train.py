"""The loop: what it keeps, what it goes on with, and what a Ctrl-C leaves."""

import contextlib
import math
import random
import shutil
import signal
import statistics
import threading
import warnings
from pathlib import Path
from typing import NamedTuple

import chex
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import optinfra.random
from optinfra import checkpoint, settings, tree
from optinfra.envs import Episode, cartpole
from optinfra.iteration import iteration
from optinfra.learners import ppo
from optinfra.lift import compiled
from optinfra.lift.epochs import unlifted
from optinfra.losses import squared_value_loss, trust_region_value_loss
from optinfra.networks import actor_critic, orthogonal_initialization, shared_actor_critic, tanh
from optinfra.schedules import linear_to_floor
from optinfra.signals import extrinsic
from optinfra.train import build, folders, loop
from optinfra.train.collect import collector
from optinfra.train.errors import RunError
from optinfra.train.evaluate import Evaluation, _first_episodes, evaluate, student_quantile
from optinfra.train.loop import train
from optinfra.train.progress import Progress
from optinfra.train.stopping import Stop
from optinfra.transforms import chain, clip_by_global_norm, scale_by_adam, skip_nonfinite
from tests.commands import contents, leaves, rows, small_run, steps_of
from tests.runs import CtrlC, assert_went_on_bit_for_bit, saved_steps
from tests.tiny_envs import Countdown

CPU = torch.device("cpu")
COUNTDOWN = "tests.tiny_envs:tiny/Countdown-v0"


def begin(folder, *assignments, **options):
    """Train a small run from its start."""
    run = small_run(*assignments, **options)
    return train(run, settings.choose_behavior(run)[0], device=CPU, chosen=folder)


def go_on(folder, *assignments, **options):
    """Resume it; the options are those it began with."""
    run = small_run(*assignments, **options)
    return train(run, settings.choose_behavior(run)[0], device=CPU, resumed=folder)


class Whole(NamedTuple):
    """A run that nothing interrupted, and how many lines its iterations took."""

    folder: Path
    lines: int


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """160 steps are 10 iterations."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    with CtrlC() as counting:
        begin(folder, steps=160)
    return Whole(folder, counting.lines)


# --- what a run leaves --------------------------------------------------------------------


def test_rows_and_checkpoints_come_at_multiples_of_their_intervals_and_at_the_end(tmp_path):
    begin(tmp_path / "run", "summary_freq=40", "checkpoint_interval=100", steps=176)
    assert steps_of(tmp_path / "run") == [48, 80, 128, 160, 176]
    assert saved_steps(tmp_path / "run") == [112, 176]


def test_a_run_shorter_than_its_intervals_has_a_row_a_curve_and_a_checkpoint(tmp_path):
    outcome = begin(tmp_path / "run", "summary_freq=1000", "checkpoint_interval=1000", steps=20)
    assert (outcome.steps, outcome.interrupted) == (32, False)
    assert steps_of(tmp_path / "run") == saved_steps(tmp_path / "run") == [32]
    assert (tmp_path / "run" / folders.CURVE).stat().st_size > 0


def test_what_the_last_row_told_is_not_told_again_by_the_next(tmp_path):
    """The last checkpoint comes before the last row, and once more after it."""
    short = "optinfra.env_kwargs={time_limit: 3}"
    begin(tmp_path / "run", short, "summary_freq=1000", "checkpoint_interval=48", steps=48)
    assert int(rows(tmp_path / "run")[0]["episodes"]) == 16
    assert leaves(tmp_path / "run")["window/since"][0] == 0


@pytest.mark.parametrize("keep, kept", [(2, [96, 160]), (-1, [48, 96, 144, 160])])
def test_only_so_many_checkpoints_are_kept(tmp_path, keep, kept):
    begin(tmp_path / "run", f"keep_checkpoints={keep}", steps=160)
    assert saved_steps(tmp_path / "run") == (kept if keep < 0 else [144, 160])


def test_even_checkpoints_share_the_steps(tmp_path):
    begin(tmp_path / "run", "even_checkpoints=true", "keep_checkpoints=3", steps=96)
    assert saved_steps(tmp_path / "run") == [32, 64, 96]


def test_the_outcome_and_the_last_row_count_the_episodes_that_ended(whole):
    last = rows(whole.folder)[-1]
    window = {
        k.removeprefix("window/"): x for k, x in leaves(whole.folder).items() if "window" in k
    }
    episodes = int(window["episodes"])
    assert int(last["episodes"]) == episodes > 5
    known = window["returns"][: min(episodes, 100)]
    assert float(last["mean_return"]) == pytest.approx(known.mean().item(), rel=1e-6)
    assert window["since"].tolist() == [0.0, 0.0, math.inf, -math.inf, 0.0]


def test_the_same_seed_gives_the_same_run_and_another_one_another(tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        begin(tmp_path / name, steps=32, seed=seed)
    chex.assert_trees_all_equal(leaves(tmp_path / "a"), leaves(tmp_path / "b"))
    one, other = leaves(tmp_path / "a"), leaves(tmp_path / "c")
    for leaf in ("iteration/learner/params/weights/actor.head.logits.weight", "source/obs/0"):
        assert not torch.equal(one[leaf], other[leaf])


def test_the_loop_computes_nothing_of_its_own(tmp_path):
    """It is the iteration on what was collected, again and again."""
    outcome = begin(tmp_path / "run", steps=48)
    run = small_run(steps=48)
    name, _ = settings.choose_behavior(run)
    training = loop.prepare(run, name, CPU)
    learning, place, ended = training.start.iteration, training.start.source, []
    for _ in range(3):
        place, rollout, more = training.source.collect(place, learning.learner.params)
        learning, stats = training.iteration.update(learning, rollout)
        ended += more
    held = {k: x for k, x in leaves(tmp_path / "run").items() if not k.startswith("window")}
    expected = tree.named_leaves({"iteration": learning, "source": place})
    assert held.keys() == expected.keys()
    for leaf, x in expected.items():
        assert torch.equal(held[leaf], x), leaf
    assert outcome.episodes == len(ended)
    if ended:
        assert outcome.mean_return == pytest.approx(statistics.fmean(e.total_reward for e in ended))
    last = rows(tmp_path / "run")[-1]
    for stat, value in stats.items():
        assert float(last[stat]) == pytest.approx(float(value), rel=1e-6)


# --- going on -----------------------------------------------------------------------------


@pytest.mark.parametrize("moment", range(10))
def test_a_run_goes_on_bit_for_bit_wherever_ctrl_c_hit_it(tmp_path, whole, moment):
    at = random.Random(moment).randint(1, whole.lines)
    with CtrlC(at, times=1 + moment % 2):
        outcome = begin(tmp_path / "run", steps=160)
    assert outcome.interrupted == (outcome.steps < 160)
    assert saved_steps(tmp_path / "run")[-1] == outcome.steps
    go_on(tmp_path / "run", steps=160)
    assert_went_on_bit_for_bit(tmp_path / "run", whole.folder)


@pytest.mark.parametrize("part", ["collect", "update"])
def test_ctrl_c_within_the_first_iteration_leaves_a_run_to_go_on_with(
    tmp_path, whole, part, monkeypatch
):
    original = loop.prepare

    def interrupted(*arguments, **options):
        def stop(*_):
            raise KeyboardInterrupt

        training = original(*arguments, **options)
        if part == "update":
            return training._replace(iteration=training.iteration._replace(update=stop))
        monkeypatch.setattr(training.source, "collect", stop)
        return training

    with monkeypatch.context() as patch:
        patch.setattr(loop, "prepare", interrupted)
        outcome = begin(tmp_path / "run", steps=160)
    assert outcome.interrupted and outcome.steps == 0 and math.isnan(outcome.mean_return)
    assert saved_steps(tmp_path / "run") == [0] and steps_of(tmp_path / "run") == []
    assert not (tmp_path / "run" / folders.CURVE).exists()
    go_on(tmp_path / "run", steps=160)
    assert_went_on_bit_for_bit(tmp_path / "run", whole.folder)


def test_episodes_of_an_iteration_that_ctrl_c_ended_are_not_reported(tmp_path, monkeypatch):
    add, settle, whole = loop.EpisodeWindow.add, loop._Loop.settle, [0]

    def interrupted(window, *episode):
        add(window, *episode)
        if whole[-1]:
            raise KeyboardInterrupt

    def counted(self, advanced):
        settle(self, advanced)
        whole.append(self.window.episodes)

    monkeypatch.setattr(loop.EpisodeWindow, "add", interrupted)
    monkeypatch.setattr(loop._Loop, "settle", counted)
    outcome = begin(tmp_path / "run", steps=160)
    assert outcome.interrupted and outcome.episodes == whole[-1] > 0


def test_a_checkpoint_that_is_there_is_not_written_again_at_the_end(tmp_path, monkeypatch):
    written, save = [], checkpoint.save
    monkeypatch.setattr(
        checkpoint, "save", lambda path, *rest: (written.append(path.name), save(path, *rest))
    )
    begin(tmp_path / "run", steps=96)
    assert len(written) == len(set(written)) == len(saved_steps(tmp_path / "run"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_ctrl_c_does_not_end_the_saving(tmp_path, whole, number, monkeypatch):
    """Nor does a first one that comes while a checkpoint is written."""
    save = checkpoint.save

    def disturbed(*arguments):
        for _ in range(3):
            signal.raise_signal(number)
        save(*arguments)
        signal.raise_signal(number)

    def raises(*_):
        raise KeyboardInterrupt

    old = signal.signal(number, raises)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, "save", disturbed)
            outcome = begin(tmp_path / "run", steps=160)
        assert signal.getsignal(number) is raises
    finally:
        signal.signal(number, old)
    assert (outcome.steps, outcome.interrupted) == (48, True)
    assert saved_steps(tmp_path / "run") == [48]
    go_on(tmp_path / "run", steps=160)
    assert_went_on_bit_for_bit(tmp_path / "run", whole.folder)


def test_a_ctrl_c_that_somebody_swallows_ends_the_run_after_this_iteration():
    """A second one does not end the iteration: there is one KeyboardInterrupt at most."""
    done = []

    def swallows():
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        done.append(True)

    with Stop() as stop:
        stop.within(lambda: None)
        assert not stop.asked
        stop.within(swallows)
        assert stop.asked and done


@pytest.mark.parametrize("ignored", [signal.SIG_IGN, signal.SIG_DFL])
def test_a_signal_that_is_ignored_or_the_systems_stays_so(tmp_path, ignored, monkeypatch):
    seen = []
    advance = loop._Loop.advance

    def look(self):
        seen.append(signal.getsignal(signal.SIGTERM))
        return advance(self)

    monkeypatch.setattr(loop._Loop, "advance", look)
    old = signal.signal(signal.SIGTERM, ignored)
    try:
        begin(tmp_path / "run", steps=16)
    finally:
        signal.signal(signal.SIGTERM, old)
    assert seen == [ignored]


def test_a_run_in_another_thread_needs_no_signals(tmp_path, whole):
    worker = threading.Thread(target=begin, args=(tmp_path / "run",), kwargs={"steps": 160})
    worker.start()
    worker.join()
    chex.assert_trees_all_equal(leaves(tmp_path / "run"), leaves(whole.folder))


@pytest.mark.parametrize("last", [48, 96, 144, 160])
def test_a_run_that_was_killed_goes_on_from_its_last_checkpoint_bit_for_bit(tmp_path, whole, last):
    """What it did after that checkpoint is done once more, and written once."""
    folder = tmp_path / "run"
    shutil.copytree(whole.folder, folder)
    for path in (folder / folders.CHECKPOINTS).iterdir():
        if checkpoint.step_of(path) > last:
            path.unlink()
    go_on(folder, steps=160)
    assert_went_on_bit_for_bit(folder, whole.folder)
    assert rows(folder) == rows(whole.folder)


def test_a_checkpoint_that_is_damaged_is_passed_over_with_a_warning(tmp_path, whole):
    folder = tmp_path / "run"
    shutil.copytree(whole.folder, folder)
    newest = checkpoint.numbered(folder / folders.CHECKPOINTS, 160)
    newest.write_bytes(newest.read_bytes()[:-1])
    with pytest.warns(checkpoint.CheckpointWarning, match="step-000000160.*damaged"):
        go_on(folder, steps=160)
    assert_went_on_bit_for_bit(folder, whole.folder)


def test_a_finished_run_goes_on_as_one_that_was_to_be_longer_where_nothing_is_scheduled(
    tmp_path, whole
):
    constant = "hyperparameters.learning_rate_schedule=constant"
    begin(tmp_path / "long", constant, steps=160)
    begin(tmp_path / "short", constant, steps=80)
    outcome = go_on(tmp_path / "short", constant, steps=160)
    assert (outcome.steps, outcome.interrupted) == (160, False)
    assert_went_on_bit_for_bit(tmp_path / "short", tmp_path / "long")


def test_going_on_with_what_is_complete_changes_no_state(tmp_path, whole):
    folder = tmp_path / "run"
    shutil.copytree(whole.folder, folder)
    last = rows(folder)[-1]
    for steps in (160, 80):
        outcome = go_on(folder, steps=steps)
        assert (outcome.steps, outcome.interrupted) == (160, False)
        assert outcome.episodes == int(last["episodes"])
        assert outcome.mean_return == pytest.approx(float(last["mean_return"]))
        chex.assert_trees_all_equal(leaves(folder), leaves(whole.folder))
        assert rows(folder) == rows(whole.folder)


CHANGED = {  # assignments, and the ends of the names of the leaves they fill
    "hyperparameters.learning_rate=0.01": "/hyper/learning_rate/initial",
    "hyperparameters.epsilon=0.3": "/hyper/clip_range/initial",
    "hyperparameters.beta=0.02": "/hyper/entropy_coef/initial",
    "hyperparameters.lambd=0.5": "/gae_lambda",
    "reward_signals.extrinsic.gamma=0.5": "/signals/extrinsic/gamma",
    "reward_signals.extrinsic.strength=2.0": "/signals/extrinsic/strength",
    "optinfra.max_grad_norm=0.125": "/max_norm",
}


def test_settings_that_change_when_a_run_goes_on_take_effect(tmp_path):
    usual = "optinfra.max_grad_norm=0.5"
    begin(tmp_path / "run", usual, steps=32)
    held = leaves(tmp_path / "run")
    changed = small_run(usual, *CHANGED, steps=400)
    name, _ = settings.choose_behavior(changed)
    start = loop.prepare(changed, name, CPU).start
    state = loop.restored(checkpoint.latest(tmp_path / "run" / folders.CHECKPOINTS), start)
    restored = tree.named_leaves(state)
    told = set()
    for assignment, end in CHANGED.items():
        value = float(assignment.partition("=")[2])
        (leaf,) = [name for name in held if name.endswith(end)]
        assert restored[leaf].item() == pytest.approx(value)
        assert held[leaf].item() != pytest.approx(value)
        told.add(leaf)
    schedules = [name for name in held if "/hyper/" in name and name.endswith("/steps")]
    assert len(schedules) == 3 and {restored[name].item() for name in schedules} == {400}
    learnt = held.keys() - told - {*schedules}
    assert any(name.endswith("/step") for name in learnt), "Adam's"
    assert {"iteration/learner/key", "iteration/learner/steps"} <= learnt
    chex.assert_trees_all_equal(*({leaf: x[leaf] for leaf in learnt} for x in (held, restored)))


def test_a_checkpoint_that_does_not_fit_the_settings_is_refused_and_nothing_is_changed(
    tmp_path, whole
):
    folder = tmp_path / "run"
    shutil.copytree(whole.folder, folder)
    before = contents(folder)
    with pytest.raises(checkpoint.CheckpointError, match=r"must have shape \[8"):
        go_on(folder, "network_settings.hidden_units=8", steps=200)
    assert contents(folder) == before


def test_metrics_that_are_damaged_are_told_and_nothing_is_changed(tmp_path, whole):
    folder = tmp_path / "run"
    shutil.copytree(whole.folder, folder)
    (folder / folders.METRICS).write_text("steps,seconds\n1,2,3\n")
    before = contents(folder)
    with pytest.raises(RunError, match=r"must have 2 cells in line 2, got 3"):
        go_on(folder, steps=200)
    assert contents(folder) == before


def test_metrics_that_are_gone_begin_anew(tmp_path, whole):
    folder = tmp_path / "run"
    shutil.copytree(whole.folder, folder)
    (folder / folders.METRICS).unlink()
    go_on(folder, steps=160)
    assert steps_of(folder) == []
    go_on(folder, steps=176)
    assert steps_of(folder) == [176]


def test_gymnasium_goes_on_with_the_learning_and_says_that_episodes_begin(tmp_path, capsys):
    begin(tmp_path / "run", steps=32, env=COUNTDOWN)
    assert "new episodes" not in capsys.readouterr().out
    before = leaves(tmp_path / "run")
    go_on(tmp_path / "run", steps=32, env=COUNTDOWN)
    assert capsys.readouterr().out.count(loop.NEW_EPISODES) == 1
    chex.assert_trees_all_equal(leaves(tmp_path / "run"), before)
    outcome = go_on(tmp_path / "run", steps=64, env=COUNTDOWN)
    assert outcome.steps == 64 and steps_of(tmp_path / "run") == [32, 64]
    assert int(rows(tmp_path / "run")[1]["episodes"]) > int(rows(tmp_path / "run")[0]["episodes"])


def test_gymnasium_is_seeded_anew_where_a_run_goes_on_or_is_evaluated(tmp_path, monkeypatch):
    seeds = []
    original = loop.GymnasiumSource

    def source(*arguments, seed, **options):
        seeds.append(seed)
        return original(*arguments, seed=seed, **options)

    monkeypatch.setattr(loop, "GymnasiumSource", source)
    begin(tmp_path / "run", steps=32, env=COUNTDOWN, seed=5)
    go_on(tmp_path / "run", steps=64, env=COUNTDOWN, seed=5)
    assert seeds == [5, 37]
    evaluated(tmp_path / "run", 1, seed=8)
    assert seeds[-1] == 8


def test_what_goes_wrong_on_the_way_leaves_what_was_learnt(tmp_path):
    limit = "optinfra.env_kwargs={nan_at: 4}"
    with pytest.raises(RunError, match="must be finite"):
        begin(tmp_path / "first", limit, env=COUNTDOWN, steps=64)
    assert saved_steps(tmp_path / "first") == [0]
    original = loop._Loop.advance
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            loop._Loop, "advance", lambda self: original(self) if self.steps < 32 else 1 / 0
        )
        with pytest.raises(ZeroDivisionError):
            begin(tmp_path / "later", "summary_freq=1000", env=COUNTDOWN, steps=64)
    assert saved_steps(tmp_path / "later") == steps_of(tmp_path / "later") == [32]


def test_what_was_learnt_is_kept_where_nothing_can_be_told_of_it(tmp_path, monkeypatch):
    monkeypatch.setattr(loop._Loop, "report", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        begin(tmp_path / "run", "summary_freq=1000", steps=64)
    assert saved_steps(tmp_path / "run")[-1] == 64


def test_environments_are_closed_however_a_run_ends(tmp_path, monkeypatch):
    closed = []
    monkeypatch.setattr(Countdown, "close", lambda self: closed.append(True))
    begin(tmp_path / "run", steps=16, env=COUNTDOWN)
    assert len(closed) == 4
    with pytest.raises(RunError, match="holds a run already"):
        begin(tmp_path / "run", steps=16, env=COUNTDOWN)
    assert len(closed) == 8
    with pytest.raises(RunError, match="must be finite"):
        begin(tmp_path / "bad", "optinfra.env_kwargs={nan_at: 1}", steps=16, env=COUNTDOWN)
    assert len(closed) == 12
    evaluated(tmp_path / "run", 3)
    assert len(closed) == 12 + 4 + 3


def test_warnings_are_lines_above_the_display(tmp_path, capsys, monkeypatch):
    original = loop._Loop.advance

    def warned(self):
        warnings.warn("so it is", UserWarning, stacklevel=1)
        original(self)

    monkeypatch.setattr(loop._Loop, "advance", warned)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        begin(tmp_path / "run", steps=32)
    printed = capsys.readouterr()
    assert printed.out.splitlines().count("warning: so it is") == 1 and printed.err == ""


def test_the_note_on_compiling_is_gone_after_the_first_iteration(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(Progress, "note", lambda self, text: said.append(text))
    update = Progress.update
    monkeypatch.setattr(Progress, "update", lambda *a: said.append("update") or update(*a))
    monkeypatch.setattr(loop.build, "chosen_stage", lambda *_: lambda function: function)
    begin(tmp_path / "run", steps=48)
    assert said == [loop.WARM_UP, "", "update", "update", "update"]


# --- from settings to functions -----------------------------------------------------------


def first_iteration(*assignments):
    """State and stats after one iteration, by name."""
    run = small_run(*assignments)
    name, _ = settings.choose_behavior(run)
    training = loop.prepare(run, name, CPU)
    place, rollout, _ = training.source.collect(
        training.start.source, training.start.iteration.learner.params
    )
    learnt = training.iteration.update(training.start.iteration, rollout)
    return tree.named_leaves((learnt, place))


HONOURED = [
    "hyperparameters.learning_rate=0.01",
    "hyperparameters.learning_rate_schedule=constant",
    "hyperparameters.epsilon=0.15",
    "hyperparameters.epsilon_schedule=constant",
    "hyperparameters.beta=0.1",
    "hyperparameters.beta_schedule=constant",
    "hyperparameters.lambd=0.5",
    "hyperparameters.num_epoch=2",
    "hyperparameters.batch_size=4",
    "hyperparameters.buffer_size=32",
    "hyperparameters.shared_critic=true",
    "network_settings.hidden_units=5",
    "network_settings.num_layers=1",
    "network_settings.normalize=true",
    "reward_signals.extrinsic.gamma=0.5",
    "reward_signals.extrinsic.strength=2.0",
    "time_horizon=2",
    "max_steps=32",
    "env_settings.num_envs=2",
    "env_settings.seed=2",
    "optinfra.env=tensor:Pendulum-v1",
    "optinfra.env_kwargs={time_limit: 1}",
    "optinfra.max_grad_norm=0.01",
    "optinfra.initialization=orthogonal",
    "optinfra.activation=tanh",
    "optinfra.value_clipping=false",
]


def test_every_setting_that_is_honoured_makes_a_difference_of_its_own():
    outcomes = {}
    fast = "hyperparameters.learning_rate=0.3"  # values move by more than epsilon
    for assignment in ("max_steps=64", *HONOURED):
        leaves = first_iteration(fast, assignment)
        same = outcomes.setdefault(
            tuple((k, bytes(x.numpy())) for k, x in leaves.items()), assignment
        )
        assert same == assignment, f"{assignment} does what {same} does"


def test_the_defaults_are_ml_agents_ppo():
    env = cartpole()
    learner = ppo(
        actor_critic(env.spec, hidden_units=4, num_layers=2),
        env.spec,
        learning_rate=linear_to_floor(3e-4, 1e-10, 64),
        clip_range=linear_to_floor(0.2, 0.1, 64),
        entropy_coef=linear_to_floor(5e-3, 1e-5, 64),
        value_loss=trust_region_value_loss,
    )
    signals = {"extrinsic": extrinsic(gamma=0.99, strength=1.0)}
    one = iteration(learner, signals, gae_lambda=0.95, num_epochs=1, batch_size=8)
    assert_is_built(one, learner, env)


def test_settings_of_every_kind_are_built_as_they_say():
    env = cartpole(time_limit=3)
    learner = ppo(
        shared_actor_critic(
            env.spec,
            hidden_units=6,
            num_layers=1,
            activation=tanh,
            initialization=orthogonal_initialization(),
        ),
        env.spec,
        learning_rate=0.1,
        clip_range=0.3,
        entropy_coef=0.02,
        transform=skip_nonfinite(chain(clip_by_global_norm(0.05), scale_by_adam())),
        value_loss=squared_value_loss,
        normalize=True,
    )
    signals = {"extrinsic": extrinsic(gamma=0.9, strength=0.5)}
    parts = {"gae_lambda": 0.8, "time_horizon": 2, "num_epochs": 3, "batch_size": 4}
    assert_is_built(
        iteration(learner, signals, **parts),
        learner,
        env,
        "hyperparameters.learning_rate=0.1",
        "hyperparameters.learning_rate_schedule=constant",
        "hyperparameters.epsilon=0.3",
        "hyperparameters.beta=0.02",
        "hyperparameters.lambd=0.8",
        "hyperparameters.num_epoch=3",
        "hyperparameters.batch_size=4",
        "hyperparameters.shared_critic=true",
        "network_settings.hidden_units=6",
        "network_settings.num_layers=1",
        "network_settings.normalize=true",
        "reward_signals.extrinsic.gamma=0.9",
        "reward_signals.extrinsic.strength=0.5",
        "time_horizon=2",
        "optinfra.env_kwargs={time_limit: 3}",
        "optinfra.max_grad_norm=0.05",
        "optinfra.initialization=orthogonal",
        "optinfra.activation=tanh",
        "optinfra.value_clipping=false",
    )


def assert_is_built(one, learner, env, *assignments):
    """What the settings describe does what `one` does, from the start on."""
    collecting = collector(env, learner.act, num_envs=4, num_steps=4)
    keys = optinfra.random.split(optinfra.random.key(1)).unbind()
    state, place = one.init(keys[0]), collecting.init(keys[1])
    place, (rollout, _) = collecting.collect(place, state.learner.params)
    expected = tree.named_leaves((one.update(state, rollout), place))
    # An optimizer may hold its leaves one by one or in one row: compare what is learnt.
    both = [
        {name: x for name, x in learnt.items() if "/opt/" not in name}
        for learnt in (first_iteration(*assignments), expected)
    ]
    chex.assert_trees_all_close(*both, rtol=1e-3, atol=1e-5)


def test_a_buffer_is_filled_by_all_environments_together():
    for envs, buffer, steps in ((4, 16, 4), (3, 16, 6), (1, 5, 5), (9, 8, 1)):
        run = small_run(
            f"env_settings.num_envs={envs}",
            f"hyperparameters.buffer_size={buffer}",
            "hyperparameters.batch_size=2",
        )
        behavior = settings.choose_behavior(run)[1]
        assert build.rollout_steps(behavior, (envs,)) == steps


@pytest.mark.parametrize(
    "compiles, max_steps, stage",
    [
        ("auto", 499_999, unlifted),
        ("auto", 500_000, compiled),
        ("on", 1, compiled),
        ("off", 10**9, unlifted),
    ],
)
def test_long_runs_are_compiled_unless_told_otherwise(compiles, max_steps, stage):
    run = small_run(f"optinfra.compile={compiles}", steps=max_steps)
    assert build.chosen_stage(settings.choose_behavior(run)[1], run.optinfra) is stage


# --- folders ------------------------------------------------------------------------------


def test_runs_without_a_name_get_the_next_free_number(tmp_path):
    run = small_run(f"checkpoint_settings.results_dir={tmp_path / 'all'}")
    made = [folders.begin(run, "tensor:a b/c", None) for _ in range(3)]
    assert [path.name for path in made] == [f"tensor-a-b-c-{i}" for i in (1, 2, 3)]
    made[1].rmdir()
    assert folders.begin(run, "tensor:a b/c", None) == made[1]


def test_runs_that_begin_at_once_get_folders_of_their_own(tmp_path, monkeypatch):
    """Another process takes the number between looking and taking."""
    run = small_run(f"checkpoint_settings.results_dir={tmp_path}")
    mkdir = Path.mkdir

    def raced(self, *arguments, **options):
        if self.name == "a-1" and not self.exists():
            mkdir(self)
        mkdir(self, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", raced)
    assert folders.begin(run, "a", None).name == "a-2"


def test_a_run_id_names_the_folder_and_a_chosen_folder_comes_before_it(tmp_path):
    where = (f"checkpoint_settings.results_dir={tmp_path}", "checkpoint_settings.run_id=mine")
    assert folders.begin(small_run(*where), "a", None) == tmp_path / "mine"
    assert folders.begin(small_run(*where), "a", tmp_path / "x") == tmp_path / "x"


@pytest.mark.parametrize("part", [folders.CONFIGURATION, folders.METRICS, folders.CHECKPOINTS])
def test_a_folder_with_any_part_of_a_run_is_taken_by_force_alone(tmp_path, part):
    (tmp_path / part).touch() if "." in part else (tmp_path / part).mkdir()
    before = contents(tmp_path)
    with pytest.raises(RunError, match=r"holds a run already. Go on with it by --resume"):
        folders.begin(small_run(), "a", tmp_path)
    assert contents(tmp_path) == before
    assert folders.begin(small_run("checkpoint_settings.force=true"), "a", tmp_path) == tmp_path


def test_force_deletes_what_a_run_wrote_and_nothing_else(tmp_path, whole):
    folder = tmp_path / "run"
    shutil.copytree(whole.folder, folder)
    (folder / folders.CHECKPOINTS / f".step-1.safetensors{checkpoint.PARTIAL}").touch()
    mine = ["notes.txt", "metrics.csv.bak", "checkpoints/best.pt", "more/metrics.csv"]
    for name in mine:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("mine")
    folders.begin(small_run("checkpoint_settings.force=true"), "a", folder)
    assert sorted(contents(folder)) == sorted(mine)


def test_settings_are_recorded_as_they_are_but_for_what_one_command_asked(tmp_path):
    asked = ("checkpoint_settings.force=true", "checkpoint_settings.resume=true")
    run = small_run(*asked, "optinfra.env_kwargs={time_limit: 7}")
    folders.record(tmp_path, run)
    recorded = folders.settings_of(tmp_path)
    assert recorded.checkpoint_settings == settings.CheckpointSettings()
    usual = run.model_copy(update={"checkpoint_settings": settings.CheckpointSettings()})
    assert recorded == usual
    assert [path.name for path in tmp_path.iterdir()] == [folders.CONFIGURATION]


def test_settings_that_cannot_be_recorded_leave_the_old_ones(tmp_path, monkeypatch):
    folders.record(tmp_path, small_run())
    before = contents(tmp_path)[folders.CONFIGURATION]
    monkeypatch.setattr(folders, "dump", lambda run: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        folders.record(tmp_path, small_run(steps=99))
    assert contents(tmp_path)[folders.CONFIGURATION] == before


# --- evaluating ---------------------------------------------------------------------------


class Scripted:
    """A source whose environment k ends an episode every k + 1 steps, with return k."""

    def __init__(self, chunk):
        self.chunk, self.steps = chunk, 0

    def init(self, key):
        return ()

    def collect(self, state, params):
        ended = []
        for _ in range(self.chunk):
            self.steps += 1
            ended += [Episode(k, float(k), k + 1) for k in range(4) if self.steps % (k + 1) == 0]
        return state, None, ended


@pytest.mark.parametrize("chunk", [1, 5, 100])
def test_every_environment_contributes_equally_however_short_its_episodes(chunk):
    returns = _first_episodes(Scripted(chunk), None, None, 4, 12)
    assert returns == (0.0,) * 3 + (1.0,) * 3 + (2.0,) * 3 + (3.0,) * 3
    returns = _first_episodes(Scripted(chunk), None, None, 4, 6)
    assert returns == (0.0, 0.0, 1.0, 1.0, 2.0, 3.0)


# https://www.itl.nist.gov/div898/handbook/eda/section3/eda3672.htm, t for 0.975
TABLE = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 9: 2.262, 19: 2.093,
         29: 2.045, 99: 1.984}  # fmt: skip


@pytest.mark.parametrize("degrees", TABLE)
def test_quantiles_are_those_of_the_tables(degrees):
    assert student_quantile(0.975, degrees) == pytest.approx(TABLE[degrees], rel=2e-3)
    assert student_quantile(0.025, degrees) == pytest.approx(-TABLE[degrees], rel=2e-3)


def test_quantiles_approach_the_normal_ones():
    assert student_quantile(0.975, 10**9) == pytest.approx(1.959964, abs=1e-6)


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=50))
def test_mean_and_interval_are_students(returns):
    result = Evaluation(tuple(returns), steps=0)
    n = len(returns)
    quantile = student_quantile(0.975, n - 1)
    assert result.mean == pytest.approx(sum(returns) / n, abs=1e-9)
    expected = quantile * statistics.stdev(returns) / math.sqrt(n)
    assert result.half_width == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_an_interval_from_one_episode_is_unknown():
    assert math.isnan(Evaluation((1.0,), 0).half_width)


def evaluated(folder, episodes, *, stochastic=False, seed=0):
    return evaluate(folder, episodes=episodes, stochastic=stochastic, seed=seed, device=CPU)


def test_evaluating_runs_the_newest_policy_and_writes_nothing(whole):
    before = contents(whole.folder)
    result = evaluated(whole.folder, 6)
    assert contents(whole.folder) == before
    assert len(result.returns) == 6 and result.steps == 160
    assert result == evaluated(whole.folder, 6)
    assert result != evaluated(whole.folder, 6, seed=1)
    assert result != evaluated(whole.folder, 6, stochastic=True)


def test_likeliest_actions_are_those_of_the_weights_in_the_checkpoint(tmp_path):
    """A policy that is made to push right always falls in 8 to 11 steps."""
    folder = tmp_path / "run"
    begin(folder, steps=16)
    path = checkpoint.latest(folder / folders.CHECKPOINTS)
    run = folders.settings_of(folder)
    start = loop.prepare(run, folders.behavior_of(run, folder), CPU).start
    state, about = checkpoint.load(path, start)
    weights = dict(state.iteration.learner.params.weights)
    weights["actor.head.logits.bias"] = torch.tensor([-50.0, 50.0])
    learner = state.iteration.learner
    learner = learner._replace(params=learner.params._replace(weights=weights))
    state = state._replace(iteration=state.iteration._replace(learner=learner))
    checkpoint.save(path, state, about)
    for stochastic in (False, True):
        returns = evaluated(folder, 8, stochastic=stochastic).returns
        assert 8 <= min(returns) <= max(returns) <= 11


@pytest.mark.parametrize("episodes, shares", [(2, [1, 1]), (19, [2, 2, 2, *[1] * 13])])
def test_evaluating_with_gymnasium_counts_whole_episodes(tmp_path, episodes, shares):
    begin(tmp_path / "run", steps=16, env=COUNTDOWN)
    Countdown.made = -4  # the run's 4 environments are made first, to learn its spec
    returns = evaluated(tmp_path / "run", episodes).returns
    assert list(returns) == [2.0 + k % 3 for k, share in enumerate(shares) for _ in range(share)]


def test_an_observation_that_is_not_a_number_is_told_while_evaluating(tmp_path):
    begin(tmp_path / "run", steps=16, env=COUNTDOWN)
    path = tmp_path / "run" / folders.CONFIGURATION
    path.write_text(path.read_text().replace("env_kwargs: {}", "env_kwargs: {nan_at: 1}"))
    with pytest.raises(RunError, match="must be finite"):
        evaluated(tmp_path / "run", 2)
