"""Reward signals and imitation in runs: made from settings, failing, resumed, read from files."""

import importlib
import math

import chex
import pytest
import torch

from optinfra import checkpoint, demos, lift, settings, tree
from optinfra.demos import Demonstrations
from optinfra.train import build, folders, loop, signals
from optinfra.train.errors import RunError
from optinfra.train.evaluate import evaluate
from optinfra.train.faults import Faults, SignalWarning
from optinfra.train.loop import train
from optinfra.types import Action, ActionSpec, Imitation, Spec
from tests.commands import assert_refused, leaves, optinfra, rows, small_run, trained

# They are lines of the run's display, which is what the tests look at.
pytestmark = pytest.mark.filterwarnings("always::optinfra.train.faults.SignalWarning")
CPU = torch.device("cpu")
SPEC = Spec(((4,),), ActionSpec(branches=(2,)))  # CartPole's
OWN = "tests.own_signals"
EXTRINSIC = "reward_signals.extrinsic={}"  # settings that name signals name all of them


def begin(folder, *assignments, **options):
    run = small_run(*assignments, **options)
    return train(run, settings.choose_behavior(run)[0], device=CPU, chosen=folder)


def go_on(folder, *assignments, **options):
    run = small_run(*assignments, **options)
    return train(run, settings.choose_behavior(run)[0], device=CPU, resumed=folder)


def demonstrations(pairs=40, spec=SPEC, ends=(19, 39)):
    generator = torch.Generator().manual_seed(0)
    terminated = torch.zeros(pairs, dtype=torch.bool)
    terminated[list(ends)] = True
    episode = torch.cat([torch.zeros(1), terminated[:-1].float()]).cumsum(0).long()
    return Demonstrations(
        obs=tuple(torch.rand(pairs, *shape, generator=generator) for shape in spec.obs),
        action=Action(torch.zeros(pairs, 0), torch.arange(pairs)[:, None] % 2),
        action_mask=torch.ones(pairs, spec.action.choices, dtype=torch.bool),
        rewards=torch.ones(pairs),
        episode=episode,
        terminated=terminated,
        truncated=torch.zeros(pairs, dtype=torch.bool),
    )


@pytest.fixture(scope="module")
def expert(tmp_path_factory):
    path = tmp_path_factory.mktemp("demos") / "expert.demo"
    demos.save(path, demonstrations(), name="expert", spec=SPEC)
    return path


def everything(expert):
    """All four signals and behavioural cloning."""
    network = "network_settings: {hidden_units: 4, num_layers: 1}"
    return (
        EXTRINSIC,
        f"reward_signals.curiosity={{strength: 0.1, {network}}}",
        f"reward_signals.rnd={{strength: 0.1, {network}}}",
        f"reward_signals.gail={{strength: 0.1, demo_path: {expert}, use_vail: true, {network}}}",
        f"behavioral_cloning={{demo_path: {expert}, steps: 400, batch_size: 16}}",
    )


# --- made from settings -------------------------------------------------------------------------


def test_all_signals_and_imitation_train_and_are_reported_under_their_names(tmp_path, expert):
    begin(tmp_path / "run", *everything(expert), steps=64)
    last = rows(tmp_path / "run")[-1]
    told = {name for name, cell in last.items() if cell}
    assert told >= {
        "curiosity_forward_loss", "curiosity_inverse_loss", "curiosity_reward", "curiosity_value",
        "rnd_loss", "rnd_reward", "gail_loss", "gail_reward", "gail_kl_loss", "gail_beta",
        "extrinsic_reward", "pretraining_loss",
    }  # fmt: skip
    for stream in ("extrinsic", "curiosity", "rnd", "gail"):
        assert float(last[f"{stream}_failures"]) == 0
    weights = [name for name in leaves(tmp_path / "run") if "/params/weights/" in name]
    for stream in ("extrinsic", "curiosity", "rnd", "gail"):
        assert any(f"heads.{stream}.weight" in name for name in weights)


def test_a_run_with_everything_that_was_stopped_goes_on_bit_for_bit(tmp_path, expert):
    """Checkpoints come every 48 steps; the later ones are deleted, and made again."""
    begin(tmp_path / "whole", *everything(expert), steps=160)
    folder = tmp_path / "run"
    begin(folder, *everything(expert), steps=160)
    for path in (folder / folders.CHECKPOINTS).iterdir():
        if checkpoint.step_of(path) > 60:
            path.unlink()
    go_on(folder, *everything(expert), steps=160)
    held = leaves(folder)
    chex.assert_trees_all_equal(held, leaves(tmp_path / "whole"))
    assert sum(name.startswith("iteration/signals/") for name in held) > 40
    assert sum(name.startswith("iteration/imitation/opt") for name in held) > 0


def test_what_settings_say_of_signals_and_imitation_reaches_them(expert):
    sizes = "{normalize: true, hidden_units: 5, num_layers: 3}"
    assignments = (
        "reward_signals.extrinsic={strength: 0.125, gamma: 0.75}",
        "reward_signals.curiosity={strength: 0.25, gamma: 0.5, learning_rate: 0.125}",
        f"reward_signals.rnd={{learning_rate: 0.25, network_settings: {sizes}}}",
        f"reward_signals.gail={{demo_path: {expert}, use_actions: true, learning_rate: 0.5}}",
        f"behavioral_cloning={{demo_path: {expert}, strength: 0.5, steps: 50}}",
        "hyperparameters.learning_rate=0.01",
        "optinfra.rnd_reward_normalization=true",
        "optinfra.max_grad_norm=0.5",
    )
    run = small_run(*assignments)
    start = loop.prepare(run, settings.choose_behavior(run)[0], CPU).start.iteration
    own = start.signals["curiosity"]
    assert (own.strength, own.gamma, own.learning_rate) == (0.25, 0.5, 0.125)
    assert tuple(start.signals["extrinsic"]) == (0.125, 0.75)
    assert start.signals["gail"].learning_rate == 0.5
    shapes = [
        tuple(x.shape) for name, x in start.signals["rnd"].weights.items() if "weight" in name
    ]
    assert shapes == [(5, 4), (5, 5), (5, 5)]
    assert start.signals["rnd"].learning_rate == 0.25 and len(start.signals["rnd"].moments) == 1
    assert tree.leaves(start.signals["rnd"].reward_moments)
    encoder = [x for name, x in start.signals["gail"].weights.items() if x.shape[-1:] == (7,)]
    assert len(encoder) == 1  # 4 numbers seen, 2 choices, and whether it was the end
    schedule = start.imitation.hyper.learning_rate
    assert schedule.initial.item() == pytest.approx(0.005) and schedule.steps == 50
    assert any(name.endswith("max_norm") for name in tree.named_leaves(start.imitation))


def test_curiosity_and_rnd_ignore_ends_and_what_is_registered_says_so_itself(monkeypatch, expert):
    seen, real = {}, build.iteration

    def spying(learner, signals, **options):
        seen.update(options)
        return real(learner, signals, **options)

    monkeypatch.setattr(build, "iteration", spying)
    own = f"'{OWN}:endless': {{}}, '{OWN}:counting': {{}}, gail: {{demo_path: {expert}}}"
    run = small_run(f"reward_signals={{extrinsic: {{}}, curiosity: {{}}, rnd: {{}}, {own}}}")
    loop.prepare(run, settings.choose_behavior(run)[0], CPU)
    assert sorted(seen["ignore_done"]) == ["curiosity", "endless", "rnd"]


def test_a_signal_of_ones_own_is_made_by_its_name_and_with_its_parameters(tmp_path):
    own = f"reward_signals={{'{OWN}:counting': {{strength: 0.5, parameters: {{scale: 3.0}}}}}}"
    begin(tmp_path / "run", own, steps=64)
    last, held = rows(tmp_path / "run")[-1], leaves(tmp_path / "run")
    assert float(last["counting_reward"]) == 1.5
    assert held["iteration/signals/counting/updates"] == 8  # 4 rollouts of two minibatches
    assert any("heads.counting" in name for name in held)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_package:counting", "cannot import no_such_package"),
        (f"{OWN}:nothing", f"`{OWN}` registers no signal called nothing"),
        (f"{OWN}:rnd", f"`{OWN}` registers no signal called rnd"),  # that one is ours
        (f"{OWN}:refusing", "KeyError: 'scale'"),
        (f"{OWN}:beginning", "KeyError: 'scale'"),
        (f"{OWN}:stateless", "TypeError: .* must have a state with the field `strength`"),
        (f"{OWN}:unwrapped", "expected a `Made` from its factory, got Signal"),
    ],
)
def test_a_signal_that_cannot_be_made_is_told_by_its_name(name, message):
    run = small_run(f"reward_signals={{'{name}': {{}}}}")
    with pytest.raises(RunError, match=rf"^reward_signals\.{name}: .*{message}"):
        loop.prepare(run, settings.choose_behavior(run)[0], CPU)


def test_a_package_that_breaks_is_told_by_the_signal_that_asked_for_it(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "broken_signals.py").write_text("raise RuntimeError('one\\ntwo')")
    run = small_run("reward_signals={'broken_signals:it': {}}")
    with pytest.raises(RunError) as error:
        loop.prepare(run, settings.choose_behavior(run)[0], CPU)
    assert str(error.value) == "reward_signals.broken_signals:it: RuntimeError: one two"


def test_names_are_registered_once_and_can_be_written_in_settings():
    with pytest.raises(ValueError, match="`name` must be a new one, got 'rnd'"):
        signals.register("rnd", lambda asked: None)
    importlib.import_module(OWN)
    with pytest.raises(ValueError, match="`name` must be a new one, got 'counting'"):
        signals.register("counting", lambda asked: None)
    with pytest.raises(ValueError, match="`name` must be an identifier, got 'a b'"):
        signals.register("a b", lambda asked: None)


# --- failing ------------------------------------------------------------------------------------


KINDS = ("raising", "nan", "inf")


def failing(kind):
    return f"reward_signals={{extrinsic: {{}}, '{OWN}:{kind}': {{strength: 0.1}}}}"


def assert_named_once(capsys, name, reason):
    (line,) = [each for each in capsys.readouterr().out.splitlines() if "warning: " in each]
    assert f"warning: reward signal `{name}` is left out where it fails: {reason}" in line


@pytest.mark.parametrize("kind", KINDS)
def test_a_signal_that_fails_in_the_middle_is_named_once_and_the_run_ends_well(
    tmp_path, capsys, kind
):
    outcome = begin(tmp_path / "run", failing(kind), steps=160)
    assert outcome.steps == 160 and not outcome.interrupted
    raised = "LookupError: no reward today."
    reason = raised if kind == "raising" else "it gave or learnt what is not finite, or too large."
    assert_named_once(capsys, kind, reason)
    last = rows(tmp_path / "run")[-1]
    assert float(last[f"{kind}_failures"]) == 8  # all but the first two of ten rollouts
    assert float(last["extrinsic_failures"]) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_what_does_not_depend_on_a_signal_that_fails_in_the_middle_is_as_without_it(tmp_path, kind):
    """Once it has failed, the run is the one that goes on with a signal of no stream."""
    run = small_run(failing(kind), steps=160)
    name = settings.choose_behavior(run)[0]
    training = loop.prepare(run, name, CPU)
    begin(tmp_path / "run", failing(kind), steps=160)
    middle = next(p for p in (tmp_path / "run" / folders.CHECKPOINTS).iterdir()
                  if checkpoint.step_of(p) == 48)  # fmt: skip
    state, _ = checkpoint.load(middle, training.start)
    assert state.iteration.failures[kind] == 1
    sound = loop.prepare(small_run("reward_signals.extrinsic={}", steps=160), name, CPU)
    source, expected = state.source, _without(state.iteration, kind)
    weights = state.iteration.learner.params
    assert "heads" in "".join(weights.weights)
    while int(expected.learner.steps) < 160:
        source, rollout, _ = sound.source.collect(source, expected.learner.params)
        expected, _ = sound.iteration.update(expected, rollout)
    end, _ = checkpoint.load(checkpoint.latest(middle.parent), training.start)
    got = _without(end.iteration, kind)
    chex.assert_trees_all_equal(got.learner.params, expected.learner.params)
    chex.assert_trees_all_equal(got.signals, expected.signals)
    chex.assert_trees_all_equal(end.source, source)
    chex.assert_trees_all_equal(end.iteration.signals[kind], state.iteration.signals[kind])


def _without(state, stream):
    """The state of an iteration without one stream: neither a signal nor a head."""
    weights = state.learner.params.weights
    kept = {name: x for name, x in weights.items() if f"heads.{stream}." not in name}

    def sliced(x):
        """Moments of the optimizer are one vector of all weights, by their sorted names."""
        if x.shape != (sum(w.numel() for w in weights.values()),):
            return x
        parts = dict(zip(sorted(weights), x.split([weights[n].numel() for n in sorted(weights)])))
        return torch.cat([parts[name] for name in sorted(kept)])

    learner = state.learner._replace(
        params=state.learner.params._replace(weights=kept),
        opt=tree.map(sliced, state.learner.opt),
    )
    return state._replace(
        learner=learner,
        signals={k: v for k, v in state.signals.items() if k != stream},
        failures={k: v for k, v in state.failures.items() if k != stream},
    )


@pytest.mark.parametrize("max_grad_norm", ["null", "0.5"])
@pytest.mark.parametrize("others", ["extrinsic: {}", "extrinsic: {}, curiosity: {}"])
def test_with_a_signal_that_fails_from_the_start_a_run_is_bit_for_bit_as_without_it(
    tmp_path, capsys, others, max_grad_norm
):
    clipped = f"optinfra.max_grad_norm={max_grad_norm}"
    begin(tmp_path / "alone", f"reward_signals={{{others}}}", clipped, steps=160)
    broken = f"{{{others}, '{OWN}:counting': {{parameters: {{scale: x}}}}}}"
    capsys.readouterr()
    begin(tmp_path / "beside", f"reward_signals={broken}", clipped, steps=160)
    assert_named_once(capsys, "counting", "TypeError: ")
    alone, beside = leaves(tmp_path / "alone"), leaves(tmp_path / "beside")
    opt = "iteration/learner/opt/"
    for leaf, x in alone.items():
        if not leaf.startswith(opt):  # one vector of all weights, the dead head's among them
            torch.testing.assert_close(beside[leaf], x, rtol=0, atol=0, equal_nan=True)
    keep = ("episode_return_mean", "value_loss", "policy_loss", "extrinsic_value", "mean_return")
    for one, other in zip(rows(tmp_path / "alone"), rows(tmp_path / "beside")):
        assert [one[name] for name in keep] == [other[name] for name in keep]


@pytest.mark.parametrize("number", ["huge", "large"])
def test_rewards_too_large_to_learn_from_are_a_failure_as_well(tmp_path, capsys, number):
    """Their squares, or sums of those, would not be finite, and nothing would be learnt at all."""
    begin(
        tmp_path / "run", f"reward_signals={{extrinsic: {{}}, '{OWN}:{number}': {{}}}}", steps=160
    )
    assert_named_once(capsys, number, "it gave or learnt what is not finite, or too large.")
    last = rows(tmp_path / "run")[-1]
    assert float(last[f"{number}_failures"]) > 0
    assert math.isfinite(float(last["value_loss"])) and math.isfinite(float(last["policy_loss"]))


@pytest.mark.parametrize("name", ["episode", "policy", "mean", "steps"])
def test_a_signals_stats_cannot_pass_for_others(name):
    message = f"must not begin the name of another stat, got '{name}'"
    with pytest.raises(ValueError, match=message):
        signals.register(name, lambda asked: None)


def test_a_package_that_is_not_there_is_told_with_what_to_do(tmp_path):
    done = optinfra("train", "--set", "reward_signals={'no_such_package:it': {}}")
    advice = "cannot import no_such_package. Install it, or put its folder in PYTHONPATH."
    assert_refused(done, f"reward_signals.no_such_package:it: {advice}")


@pytest.mark.thorough
@pytest.mark.inductor
def test_a_signal_that_cannot_be_compiled_is_left_out_like_one_that_raises(tmp_path, capsys):
    broken = f"reward_signals={{extrinsic: {{}}, '{OWN}:breaking': {{}}}}"
    outcome = begin(tmp_path / "run", broken, "optinfra.compile=on", steps=48)
    assert outcome.steps == 48
    assert_named_once(capsys, "breaking", "")
    begin(tmp_path / "eager", broken, steps=48)
    assert "warning: " not in capsys.readouterr().out


def test_a_run_that_goes_on_names_no_signal_that_has_recovered(tmp_path, capsys, monkeypatch):
    begin(tmp_path / "run", failing("nan"), steps=96)
    assert_named_once(capsys, "nan", "it gave or learnt what is not finite, or too large.")
    monkeypatch.setattr("tests.own_signals.LATE", 1000)
    go_on(tmp_path / "run", failing("nan"), steps=160)
    assert "warning: " not in capsys.readouterr().out
    assert float(rows(tmp_path / "run")[-1]["nan_failures"]) == 4


def test_what_became_of_a_signal_goes_on_though_it_is_called_like_a_setting(tmp_path):
    """It fails from the third rollout on, before the run is resumed and after."""
    for gamma, run in ((0.5, begin), (0.75, go_on)):
        own = f"reward_signals={{'{OWN}:gamma': {{gamma: {gamma}, strength: {2 * gamma}}}}}"
        run(tmp_path / "run", own, steps=96 if run is begin else 160)
    held = leaves(tmp_path / "run")
    assert held["iteration/signals/gamma/updates"] == 4  # two rollouts of two minibatches
    assert held["iteration/failures/gamma"] == 8
    assert held["iteration/signals/gamma/gamma"] == 0.75
    assert held["iteration/signals/gamma/strength"] == 1.5


def test_a_run_goes_on_with_the_learning_rate_that_its_settings_say_now(tmp_path):
    for rate, run in ((0.25, begin), (0.5, go_on)):
        network = "network_settings: {hidden_units: 4, num_layers: 1}"
        signals = f"reward_signals={{extrinsic: {{}}, rnd: {{learning_rate: {rate}, {network}}}}}"
        run(tmp_path / "run", signals, steps=48 if run is begin else 64)
    assert leaves(tmp_path / "run")["iteration/signals/rnd/learning_rate"] == 0.5


def test_ctrl_c_is_no_failure_of_a_signal():
    def pressed(*_):
        raise KeyboardInterrupt

    guarded = Faults().guard("it", pressed, lambda *_: None)
    with pytest.raises(KeyboardInterrupt):
        guarded(1)


def test_a_failure_without_words_is_told_by_its_kind_and_only_the_first_line_of_many():
    def fail(error):
        raise error

    for error, told in ((ValueError(), r"ValueError\(\)"), (KeyError("a\nb"), r"KeyError: 'a\\nb'"),
                        (OSError("\n one.\ntwo"), "OSError: one\\.$")):  # fmt: skip
        with pytest.warns(SignalWarning, match=told):
            assert Faults().guard("it", fail, lambda _: 7)(error) == 7


# --- demonstrations -----------------------------------------------------------------------------


def test_policies_are_evaluated_and_recorded_without_the_demonstrations_they_learnt_from(
    tmp_path,
):
    path = tmp_path / "expert.demo"
    demos.save(path, demonstrations(), name="expert", spec=SPEC)
    folder = trained(
        tmp_path / "run",
        "--set", f"reward_signals.gail={{demo_path: {path}}}",
        "--set", f"behavioral_cloning={{demo_path: {path}}}",
    )  # fmt: skip
    path.unlink()
    options = dict(episodes=2, stochastic=False, seed=0, device=CPU)
    assert len(evaluate(folder, **options).returns) == 2
    assert optinfra("record", folder, tmp_path / "new.demo", "--episodes", 2).code == 0
    resumed = optinfra("train", "--resume", "--run-dir", folder, "--steps", 96)
    assert resumed.code == 1 and "expert.demo" in resumed.err


def test_demonstrations_of_another_kind_of_agent_are_refused_before_anything_is_written(tmp_path):
    other = Spec(((3,),), ActionSpec(branches=(2,)))
    path = tmp_path / "other.demo"
    demos.save(path, demonstrations(spec=other), name="other", spec=other)
    run = ("--env", "tensor:CartPole-v1", "--run-dir", tmp_path / "run")
    for setting in ("reward_signals.gail", "behavioral_cloning"):
        done = optinfra("train", *run, "--set", f"{setting}={{demo_path: {path}}}")
        assert done.code == 1 and done.err.startswith(f"error: {path}: ") and "[3]" in done.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("end", ["terminated", "truncated"])
def test_demonstrations_in_which_nothing_was_done_are_refused(tmp_path, end):
    path = tmp_path / "ends.demo"
    nothing = tree.take(demonstrations(), torch.tensor([19, 39]))
    no, yes = torch.zeros(2, dtype=torch.bool), torch.ones(2, dtype=torch.bool)
    nothing = nothing._replace(terminated=no, truncated=no)._replace(**{end: yes})
    demos.save(path, nothing, name="ends", spec=SPEC)
    for read in (lambda path: signals.demonstrations(path, SPEC), signals.taken_from(SPEC)):
        with pytest.raises(demos.DemoError, match="expected an action that was taken"):
            read(str(path))


def test_with_memory_imitation_learns_from_sequences(tmp_path, expert):
    memory = "network_settings.memory={sequence_length: 4, memory_size: 4}"
    cloning = f"behavioral_cloning={{demo_path: {expert}, batch_size: 8}}"
    begin(tmp_path / "run", memory, cloning, "optinfra.burn_in=1", steps=64)
    assert float(rows(tmp_path / "run")[-1]["pretraining_loss"]) > 0


@pytest.mark.parametrize(
    ("said", "options"),
    [
        ("", {"num_epochs": 3, "batch_size": 8, "samples_per_update": 0}),
        (
            ", num_epoch: 2, batch_size: 5, samples_per_update: 7",
            {"num_epochs": 2, "batch_size": 5, "samples_per_update": 7},
        ),
    ],
)
def test_passes_over_demonstrations_are_those_of_the_settings(monkeypatch, expert, said, options):
    seen, real = {}, lift.cloning_epochs

    def spying(imitation, expert, **given):
        seen.update(given)
        return real(imitation, expert, **given)

    monkeypatch.setattr(lift, "cloning_epochs", spying)
    run = small_run(f"behavioral_cloning={{demo_path: {expert}{said}}}", "optinfra.compile=on")
    loop.prepare(run, settings.choose_behavior(run)[0], CPU)
    assert seen == options | {"stage": lift.compiled}


def test_what_settings_say_of_time_and_memory_reaches_the_iteration_and_the_sequences(
    monkeypatch, expert
):
    seen, compose, cut = {}, build.iteration, demos.sequences

    def composing(learner, signals, **given):
        seen.update(given)
        return compose(learner, signals, **given)

    def cutting(found, *sizes):
        seen["sequences"] = sizes
        return cut(found, *sizes)

    monkeypatch.setattr(build, "iteration", composing)
    monkeypatch.setattr(demos, "sequences", cutting)
    run = small_run(
        "network_settings.memory={sequence_length: 4, memory_size: 4}",
        f"behavioral_cloning={{demo_path: {expert}}}",
        "optinfra.burn_in=1",
        "time_horizon=7",
        "hyperparameters.lambd=0.5",
    )
    loop.prepare(run, settings.choose_behavior(run)[0], CPU)
    expected = {"sequence_length": 4, "burn_in": 1, "num_agents": (4,), "sequences": (4, 1)}
    expected |= {"time_horizon": 7, "gae_lambda": 0.5, "num_epochs": 1, "batch_size": 8}
    assert expected.items() <= seen.items()


def test_imitation_is_spared_from_its_last_step_on():
    asked = []

    def update(state, params, steps):
        asked.append(steps)
        return "new", "learnt", {"pretraining_loss": torch.tensor(1.0)}

    imitation = build.until(48, Imitation(lambda key, params: (), update))
    members = torch.tensor([60, 47])  # it goes on while one of them imitates
    assert imitation.update("old", "params", members)[:2] == ("new", "learnt")
    assert imitation.update("old", "params", torch.tensor(48)) == ("old", "params", {})
    assert len(asked) == 1


def test_imitation_ends_where_its_settings_say(tmp_path, expert):
    cloning = f"behavioral_cloning={{demo_path: {expert}, steps: 48}}"
    begin(tmp_path / "run", cloning, steps=96)
    held = leaves(tmp_path / "run")
    begin(tmp_path / "short", cloning, steps=48)
    short = leaves(tmp_path / "short")
    key = "iteration/imitation/key"
    assert torch.equal(held[key], short[key])  # it was not asked again
