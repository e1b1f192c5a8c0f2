"""Runs that learn from replay: how often, from what, and what a Ctrl-C leaves."""

import math
import random

import chex
import pytest
import torch

from optinfra import demos, settings
from optinfra.lift import compiled
from optinfra.lift.epochs import unlifted
from optinfra.random import key
from optinfra.store import StoreError
from optinfra.train import build, evaluate, folders, loop
from optinfra.train.learners import learner
from optinfra.train.loop import train
from optinfra.types import ActionSpec, Spec
from tests.commands import (
    TENSOR_CARTPOLE,
    assert_refused,
    contents,
    leaves,
    optinfra,
    rows,
    steps_of,
)
from tests.runs import CtrlC, assert_went_on_bit_for_bit, saved_steps

CPU = torch.device("cpu")
PENDULUM = "tensor:Pendulum-v1"
# 2 environments, an update every 2 steps from step 16 on.
SMALL_SAC = {
    "trainer_type": "sac",
    "hyperparameters.batch_size": 8,
    "hyperparameters.buffer_size": 64,
    "hyperparameters.buffer_init_steps": 16,
    "hyperparameters.steps_per_update": 2,
    "hyperparameters.save_replay_buffer": "true",
    "network_settings.hidden_units": 4,
    "env_settings.num_envs": 2,
    "env_settings.seed": 1,
    "summary_freq": 32,
    "checkpoint_interval": 48,
    "max_steps": 160,
    "optinfra.env": PENDULUM,
}
REMEMBERING = "network_settings.memory={sequence_length: 4, memory_size: 4}"
CURIOUS = "reward_signals={extrinsic: {}, rnd: {}}"


def small_sac(*assignments):
    lines = [f"{path}={value}" for path, value in SMALL_SAC.items()]
    return settings.load(settings.override("", [*lines, *assignments]))


def begin(folder, *assignments):
    run = small_sac(*assignments)
    return train(run, settings.choose_behavior(run)[0], device=CPU, chosen=folder)


def go_on(folder, *assignments):
    run = small_sac(*assignments)
    return train(run, settings.choose_behavior(run)[0], device=CPU, resumed=folder)


def prepared(*assignments):
    run = small_sac(*assignments)
    return loop.prepare(run, settings.choose_behavior(run)[0], CPU)


def advanced(training, times):
    """Advance a run by hand; the steps so far, and what is held, after each."""
    state, place, told = training.start.iteration, training.start.source, []
    for _ in range(times):
        place, rollout, _ = training.source.collect(place, state.learner.params)
        state, stats = training.iteration.update(state, rollout)
        held = len(training.replay.store)
        training.replay.commit()
        told.append((int(state.learner.steps), held, stats))
    return state, told


def replay_of(folder):
    """What was saved of the replay with the newest checkpoint, and with which."""
    (path,) = (folder / folders.REPLAY).iterdir()
    return int(path.stem), path.read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of 80 rollouts that nothing interrupted, and how many lines it took."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    with CtrlC() as counting:
        begin(folder)
    return folder, counting.lines


# --- how often, and from what -------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps_per_update", "num_envs", "rollout", "updates"),
    [(2, 2, 1, 1), (0.5, 2, 1, 4), (6, 2, 3, 1), (7, 2, 3, 1), (1, 1, 1, 1), (0.1, 1, 1, 10)],
)
def test_updates_are_as_many_as_the_steps_make_due(
    monkeypatch, steps_per_update, num_envs, rollout, updates
):
    """From `buffer_init_steps` on, however rollouts and updates divide one another."""
    calls = []
    compose = build.off_policy

    def counted(*arguments, **options):
        assert options["num_updates"] == updates
        one = compose(*arguments, **options)

        def update(state, view):
            calls.append(int(state.learner.steps))
            return one.update(state, view)

        return one._replace(update=update)

    monkeypatch.setattr(build, "off_policy", counted)
    training = prepared(
        f"hyperparameters.steps_per_update={steps_per_update}",
        f"env_settings.num_envs={num_envs}",
    )
    _, told = advanced(training, 30)
    steps, _, _ = told[-1]
    assert steps == 30 * rollout * num_envs
    assert len(calls) == math.floor((steps - 16) / (steps_per_update * updates))
    assert all(step > 16 for step in calls)


def test_nothing_is_learnt_before_a_minibatch_is_held_nor_made_up_for_afterwards():
    training = prepared("hyperparameters.batch_size=20", "hyperparameters.buffer_init_steps=0")
    _, told = advanced(training, 12)
    assert [bool(stats) for _, _, stats in told] == [held >= 20 for _, held, _ in told]
    assert 0 < sum(bool(stats) for _, _, stats in told) < 12


def test_a_rollout_is_held_once_it_has_been_learnt_after_and_the_oldest_make_room():
    _, told = advanced(prepared(), 40)
    assert [held for _, held, _ in told] == [min(2 * i, 64) for i in range(40)]


def test_what_was_remembered_is_held_with_each_step():
    training = prepared(REMEMBERING)
    advanced(training, 8)
    view = training.replay.store.view()
    for memory in (view.memory.actor, view.memory.critic):
        assert (memory[0] == 0).all() and (memory[1 : int(view.steps)] != 0).any(-1).all()


def test_signals_learn_at_a_pace_of_their_own(monkeypatch):
    calls = {"update": [], "update_signals": []}
    compose = build.off_policy

    def counted(*arguments, **options):
        one = compose(*arguments, **options)
        real = one._asdict()

        def of(name):
            def function(state, view):
                calls[name].append(int(state.learner.steps))
                return real[name](state, view)

            return function

        return one._replace(**{name: of(name) for name in calls})

    monkeypatch.setattr(build, "off_policy", counted)
    pace = "hyperparameters.reward_signal_steps_per_update=8"
    _, told = advanced(prepared(CURIOUS, pace), 20)
    assert calls["update"] == list(range(18, 41, 2))
    assert calls["update_signals"] == [24, 32, 40]
    assert "rnd_loss" not in told[10][2] and "rnd_loss" in told[12][2]


def test_demonstrations_fill_the_replay(tmp_path):
    run = tmp_path / "expert"
    begin(run, "save_replay_buffer=false".replace("save", "hyperparameters.save"))
    done = optinfra("record", run, tmp_path / "a.demo", "--episodes", 1)
    assert done.code == 0, done.err
    training = prepared(
        f"optinfra.sac.prefill_replay={tmp_path / 'a.demo'}",
        "hyperparameters.buffer_size=1000",
        "hyperparameters.buffer_init_steps=0",
    )
    expert = demos.taken(demos.load(tmp_path / "a.demo").demonstrations)
    assert len(training.replay.store) == int(expert.mask.sum()) > 8
    held = training.replay.store.view().transitions
    assert torch.isin(expert.action.continuous, held.action.continuous).all()
    _, told = advanced(training, 1)
    assert told[0][2]  # there is enough to learn from at once


FORMS = [
    "optinfra.sac={value_network: false}",
    "optinfra.sac={value_network: false, critics: 4, target_critics: 2, layer_norm: true, "
    "random_steps: 100}",
]


@pytest.mark.parametrize(
    ("form", "also"),
    [
        (FORMS[1], None),
        pytest.param(FORMS[0], REMEMBERING, marks=pytest.mark.thorough),
        pytest.param(FORMS[0], None, marks=pytest.mark.thorough),
        pytest.param(FORMS[1], REMEMBERING, marks=pytest.mark.thorough),
    ],
)
def test_modern_forms_are_trained_go_on_and_are_evaluated(tmp_path, form, also):
    given = [form, *([also] if also else [])]
    begin(tmp_path / "whole", *given)
    begin(tmp_path / "run", *given, "max_steps=90")
    go_on(tmp_path / "run", *given)
    assert_the_same_end(tmp_path / "run", tmp_path / "whole")
    weights = [name for name in leaves(tmp_path / "run") if "/params/weights/" in name]
    assert not any("/value." in name for name in weights)
    assert any("/q4." in name for name in weights) == ("critics: 4" in form)
    assert any(".norms." in name for name in weights) == ("layer_norm" in form)
    found = evaluate.evaluate(tmp_path / "run", episodes=1, stochastic=False, seed=0, device=CPU)
    assert math.isfinite(found.mean)


def test_a_subset_of_critics_wants_no_value_network(tmp_path):
    done = optinfra("train", "--trainer", "sac", "--set", "optinfra.sac.target_critics=1")
    assert_refused(done, "`target_critics`")


# --- going on -----------------------------------------------------------------------------


def assert_the_same_end(folder, whole):
    assert_went_on_bit_for_bit(folder, whole)
    assert replay_of(folder) == replay_of(whole)


@pytest.mark.parametrize(
    "moment",
    [pytest.param(i, marks=[pytest.mark.thorough] * (i > 3)) for i in range(8)],
)
def test_a_run_goes_on_bit_for_bit_wherever_ctrl_c_hit_it(tmp_path, whole, moment):
    folder, lines = whole
    at = random.Random(moment).randint(100, lines)
    with CtrlC(at, times=1 + moment % 2):
        outcome = begin(tmp_path / "run")
    assert outcome.interrupted == (outcome.steps < 160)
    assert saved_steps(tmp_path / "run")[-1] == replay_of(tmp_path / "run")[0] == outcome.steps
    go_on(tmp_path / "run")
    assert_the_same_end(tmp_path / "run", folder)


@pytest.mark.parametrize("also", [REMEMBERING, pytest.param(CURIOUS, marks=pytest.mark.thorough)])
def test_memories_and_signals_go_on_too(tmp_path, also):
    begin(tmp_path / "whole", also)
    begin(tmp_path / "run", also, "max_steps=90")
    go_on(tmp_path / "run", also)
    assert_the_same_end(tmp_path / "run", tmp_path / "whole")


def test_a_checkpoint_in_the_middle_is_one_to_go_on_from(tmp_path, whole, monkeypatch):
    """As after a kill: the last thing written is the checkpoint of step 96."""

    def killed(self):
        if self.steps > 100:
            raise SystemExit
        return advance(self)

    advance, save = loop._Loop.advance, loop._Loop.save
    with monkeypatch.context() as patch:
        patch.setattr(loop._Loop, "advance", killed)
        patch.setattr(loop._Loop, "save", lambda self: self.steps < 100 and save(self))
        with pytest.raises(SystemExit):
            begin(tmp_path / "run")
    assert saved_steps(tmp_path / "run")[-1] == replay_of(tmp_path / "run")[0] == 96
    go_on(tmp_path / "run")
    assert_the_same_end(tmp_path / "run", whole[0])


def test_without_its_replay_a_run_fills_it_anew_and_says_so(tmp_path, capsys):
    unsaved = "hyperparameters.save_replay_buffer=false"
    begin(tmp_path / "run", unsaved, "max_steps=80")
    assert not (tmp_path / "run" / folders.REPLAY).exists()
    capsys.readouterr()
    outcome = go_on(tmp_path / "run", unsaved)
    assert outcome.steps == 160
    assert loop.EMPTY_REPLAY in capsys.readouterr().out.replace("\n", " ")
    updates = [row["q1_loss"] for row in rows(tmp_path / "run")]
    assert len(updates) == len(steps_of(tmp_path / "run"))


def test_a_damaged_replay_is_refused_in_one_line(tmp_path):
    begin(tmp_path / "run", "max_steps=80")
    (path,) = (tmp_path / "run" / folders.REPLAY).iterdir()
    path.write_bytes(path.read_bytes()[:-8])
    before = contents(tmp_path / "run")
    assert_refused(optinfra("train", "--resume", "--run-dir", tmp_path / "run"), str(path))
    assert contents(tmp_path / "run") == before


def test_another_buffer_size_is_refused_by_name(tmp_path):
    begin(tmp_path / "run", "max_steps=80")
    with pytest.raises(StoreError, match="`capacity` must be 128, got 64"):
        go_on(tmp_path / "run", "hyperparameters.buffer_size=128")


def test_a_run_that_is_overwritten_loses_its_replay(tmp_path):
    begin(tmp_path / "run", "max_steps=80")
    begin(
        tmp_path / "run",
        "max_steps=32",
        "checkpoint_settings.force=true",
        "hyperparameters.save_replay_buffer=false",
    )
    assert not list((tmp_path / "run" / folders.REPLAY).iterdir())


def test_environments_that_begin_anew_follow_nothing_that_is_held(tmp_path):
    """Gymnasium's cannot be saved: no sequence may run across the gap."""
    gymnasium = "optinfra.env=tests.tiny_envs:tiny/Countdown-v0"
    begin(tmp_path / "run", gymnasium, "max_steps=40")
    run = small_sac(gymnasium)
    name = settings.choose_behavior(run)[0]
    training, _ = loop._prepared(run, name, CPU, tmp_path / "run")
    view = training.replay.store.view()
    assert view.cuts[view.steps - 1].all()
    outcome = go_on(tmp_path / "run", gymnasium)
    assert outcome.steps == 160


def test_a_large_replay_lies_in_files_and_teaches_the_same(tmp_path, whole, monkeypatch):
    made, store = [], build.ReplayStore

    def noted(*one, **options):
        made.append(options)
        return store(*one, **options)

    monkeypatch.setattr(build, "ReplayStore", noted)
    begin(tmp_path / "run", "optinfra.sac.replay_memory=0")
    (place,) = made  # one store, though it is empty when it is first looked at
    assert (place["folder"], place["ram_limit"]) == (tmp_path / "run", 0)
    chex.assert_trees_all_equal(leaves(tmp_path / "run"), leaves(whole[0]))
    assert replay_of(tmp_path / "run") == replay_of(whole[0])


@pytest.mark.parametrize(
    ("env", "also"),
    [
        (TENSOR_CARTPOLE, REMEMBERING),
        pytest.param(PENDULUM, None, marks=pytest.mark.thorough),
        pytest.param(PENDULUM, REMEMBERING, marks=pytest.mark.thorough),
        pytest.param(TENSOR_CARTPOLE, None, marks=pytest.mark.thorough),
    ],
)
def test_every_signal_and_cloning_learn_from_replay(tmp_path, env, also):
    """And a run with all of them goes on bit for bit."""
    of = f"optinfra.env={env}"
    begin(tmp_path / "expert", of)
    done = optinfra("record", tmp_path / "expert", tmp_path / "a.demo", "--episodes", 3)
    assert done.code == 0, done.err
    demo = f"demo_path: {tmp_path / 'a.demo'}"
    signals = (
        f"{{extrinsic: {{}}, curiosity: {{}}, rnd: {{}}, gail: {{{demo}, use_actions: true}}}}"
    )
    given = [
        of,
        f"reward_signals={signals}",
        f"behavioral_cloning={{{demo}, samples_per_update: 8}}",
        *([also] if also else []),
    ]
    begin(tmp_path / "whole", *given, "max_steps=64")
    last = rows(tmp_path / "whole")[-1]
    for stat in ("curiosity_forward_loss", "rnd_loss", "gail_loss", "pretraining_loss", "q1_loss",
                 "curiosity_reward", "rnd_reward", "gail_reward", "extrinsic_reward"):  # fmt: skip
        assert math.isfinite(float(last[stat])), stat
    assert all(float(last[f"{name}_failures"]) == 0 for name in ("curiosity", "rnd", "gail"))
    begin(tmp_path / "run", *given, "max_steps=48")
    go_on(tmp_path / "run", *given, "max_steps=64")
    chex.assert_trees_all_equal(leaves(tmp_path / "run"), leaves(tmp_path / "whole"))
    assert replay_of(tmp_path / "run") == replay_of(tmp_path / "whole")


# --- the command --------------------------------------------------------------------------


def test_discrete_and_hybrid_agents_are_trained_evaluated_and_recorded(tmp_path):
    outcome = begin(tmp_path / "run", f"optinfra.env={TENSOR_CARTPOLE}")
    assert outcome.steps == 160 and outcome.episodes > 0
    found = evaluate.evaluate(tmp_path / "run", episodes=2, stochastic=True, seed=0, device=CPU)
    assert found.mean > 0
    done = optinfra("record", tmp_path / "run", tmp_path / "a.demo", "--episodes", 1)
    assert done.code == 0, done.err


def test_trainer_chooses_among_shipped_configurations(tmp_path):
    small = ("--steps", 8, "--seed", 0, "--set", "hyperparameters.buffer_size=1000")
    for env, units in ((PENDULUM, 128), (TENSOR_CARTPOLE, 256)):
        folder = tmp_path / str(units)
        asked = ("--env", env, "--trainer", "sac", "--run-dir", folder)
        done = optinfra("train", *asked, *small, "--set", "optinfra.compile=off")
        assert done.code == 0, done.err
        behavior = settings.choose_behavior(folders.settings_of(folder))[1]
        assert behavior.trainer_type == "sac"
        assert behavior.network_settings.hidden_units == units


@pytest.mark.parametrize(
    ("steps_per_update", "max_steps", "stage"),
    [(1, 4_999, unlifted), (1, 5_000, compiled), (2, 9_999, unlifted), (0.1, 500, compiled)],
)
def test_runs_of_many_updates_are_compiled(steps_per_update, max_steps, stage):
    run = small_sac(
        f"hyperparameters.steps_per_update={steps_per_update}", f"max_steps={max_steps}"
    )
    assert build.chosen_stage(settings.choose_behavior(run)[1], run.optinfra) is stage


def test_orthogonal_weights_keep_the_length_of_what_they_pass_on():
    run = small_sac("optinfra.initialization=orthogonal", "optinfra.sac={value_network: false}")
    weights = learner(
        Spec(((3,),), ActionSpec(2)),
        settings.choose_behavior(run)[1], run.optinfra,
    ).init(key(0)).params.weights  # fmt: skip
    gains = {
        name: float(torch.linalg.matrix_norm(w, ord=2))
        for name, w in weights.items() if name.endswith("weight")
    }  # fmt: skip
    assert len(gains) == 10
    for name, gain in gains.items():
        assert gain == pytest.approx(1.0, rel=1e-5), name


def test_stats_have_a_row_each_and_the_names_that_ml_agents_gives_them(whole):
    last = rows(whole[0])[-1]
    for stat in ("policy_loss", "value_loss", "q1_loss", "q2_loss", "entropy",
                 "continuous_entropy_coef", "extrinsic_reward", "learning_rate"):  # fmt: skip
        assert math.isfinite(float(last[stat])), stat
