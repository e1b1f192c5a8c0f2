"""`--set` lands where its path leads; a behaviour is chosen by name."""

import copy

import pytest

from optinfra.settings import (
    SettingsError,
    choose_behavior,
    load,
    override,
    read,
)
from tests.settings_cases import follow


@pytest.mark.parametrize(
    ("assignment", "path", "value"),
    [
        ("hyperparameters.learning_rate=1e-3", "behaviors.a.hyperparameters.learning_rate", 1e-3),
        ("max_steps=50000", "behaviors.a.max_steps", 50000),
        ("self_play.window=8", "behaviors.a.self_play.window", 8),
        ("network_settings.normalize=yes", "behaviors.a.network_settings.normalize", True),
        ("optinfra.compile=off", "optinfra.compile", "off"),
        ("optinfra.max_grad_norm=", "optinfra.max_grad_norm", None),
        ("optinfra.env_kwargs={g: 9.8, x: [a=b]}", "optinfra.env_kwargs", {"g": 9.8, "x": ["a=b"]}),
        ("optinfra.env_kwargs.g=9.8", "optinfra.env_kwargs", {"g": 9.8}),
        ("optinfra.env_kwargs.g.a:b=9.8", "optinfra.env_kwargs", {"g": {"a:b": 9.8}}),
        ("env_settings.num_envs=16", "env_settings.num_envs", 16),
        ("behaviors.a.max_steps=4", "behaviors.a.max_steps", 4),
        ("default_settings.max_steps=4", "behaviors.a.max_steps", 4),
        ("checkpoint_settings.run_id='007'", "checkpoint_settings.run_id", "007"),
        (" max_steps = 5 ", "behaviors.a.max_steps", 5),
        ("reward_signals.rnd.strength=2", "behaviors.a.reward_signals.rnd.strength", 2.0),
    ],
)  # fmt: skip
def test_an_override_lands_where_its_path_leads(assignment, path, value):
    source = {"behaviors": {"a": {"trainer_type": "ppo", "hyperparameters": {"beta": 0.5}}}}
    before = copy.deepcopy(source)
    document = read(source)
    run = load(override(document, [assignment]))
    first, second, *rest = path.split(".")
    start = run.behaviors["a"] if first == "behaviors" else getattr(run, first)
    found = follow(start, ".".join(rest)) if first == "behaviors" else getattr(start, second)
    assert found == value
    assert run.behaviors["a"].hyperparameters.beta == 0.5  # and the rest stays
    assert source == before and document == read(source)


@pytest.mark.parametrize("start", ["", "behaviors.a.", "default_settings."])
def test_an_override_reaches_a_signal_of_ones_own_in_a_package_of_packages(start):
    paths = ("my.own:novelty.strength=2", "my.own:novelty.parameters.x.y=3", "rnd.gamma=0.5")
    own = [f"{start}reward_signals.{path}" for path in paths]
    source = {"default_settings": {"reward_signals": {"extrinsic": {}}}, "behaviors": {"a": {}}}
    signals = load(override(source, own)).behaviors["a"].reward_signals.by_name
    assert signals["my.own:novelty"].strength == 2 and signals["rnd"].gamma == 0.5
    assert signals["my.own:novelty"].parameters == {"x": {"y": 3}}


def test_the_later_override_rules_and_lands_in_the_chosen_behaviour():
    source = "behaviors: {a: {max_steps: 1}, b: {max_steps: 1}}"
    run = load(override(source, ["max_steps=2", "max_steps=3"], "b"))
    assert [b.max_steps for b in run.behaviors.values()] == [1, 3]
    with pytest.raises(SettingsError, match=r"^behaviors: choose one of a, b by its name"):
        override(source, ["max_steps=2"])
    with pytest.raises(SettingsError, match=r"^behaviors\.c: no such behaviour"):
        override(source, ["max_steps=2"], "c")
    assert load(override(source, ["env_settings.num_envs=2"])).env_settings.num_envs == 2
    assert choose_behavior(load(override("", ["max_steps=2"])))[1].max_steps == 2


@pytest.mark.parametrize(
    ("assignment", "line"),
    [
        ("learning_rate=1", "learning_rate: unknown key. Did you mean hyperparameters.learning_r"),
        ("lerning_rate=1", "lerning_rate: unknown key. Did you mean hyperparameters.learning_rate"),
        ("hyperparameter.beta=1", "hyperparameter.beta: unknown key. Did you mean hyperp"),
        ("num_env=3", "num_env: unknown key. Did you mean env_settings.num_envs?"),
        ("optinfr.env=3", "optinfr.env: unknown key. Did you mean optinfra.env?"),
        ("xyzzy=3", "xyzzy: unknown key. Known: trainer_type, "),
        ("max_steps", "expected path=value."),
        ("=3", "expected path=value."),
        ("max_steps=[", "not YAML: "),
        ("max_steps=1\nb: 2", "expected one value."),
        ("hyperparameters.learnin_rate=1", "behaviors.a.hyperparameters.learnin_rate: unknown ke"),
        ("max_steps=-1", "behaviors.a.max_steps: expected a whole number ≥ 1, got -1."),
        ("network_settings.memory={memory_size: 3}", "behaviors.a.network_settings.memory.mem"),
        ("trainer_type.x=3", 'behaviors.a.trainer_type: expected a mapping, got "ppo".'),
    ],
)  # fmt: skip
def test_an_override_that_leads_nowhere_is_told_with_its_text(assignment, line):
    with pytest.raises(SettingsError) as error:
        load(override({"behaviors": {"a": {"trainer_type": "ppo"}}}, [assignment]))
    assert str(error.value).startswith(f"--set {assignment}: {line}")


def test_an_override_that_needs_something_beside_it_is_told_with_its_text():
    with pytest.raises(SettingsError) as error:
        load(override("", ["hyperparameters.beta=1"]))
    path = "default_settings.hyperparameters"
    assert (
        str(error.value)
        == f"--set hyperparameters.beta=1: {path}: missing trainer_type beside them."
    )


def test_an_override_of_a_block_forgets_where_the_block_stood():
    text = "env_settings:\n  num_envs: 2\n"
    with pytest.raises(SettingsError) as error:
        load(override(text, ["env_settings={num_envs: 0}"]))
    assert str(error.value).startswith("--set env_settings={num_envs: 0}: env_settings.num_envs:")
    with pytest.raises(SettingsError, match=r"^behaviors: expected a mapping, got 3"):
        override({"behaviors": 3}, ["max_steps=3"])


# Choosing


def test_choosing_a_behaviour_by_name_or_because_it_is_the_only_one():
    run = load("behaviors: {Walker: {max_steps: 1}, Crawler: {max_steps: 2}}")
    assert choose_behavior(run, "Crawler") == ("Crawler", run.behaviors["Crawler"])
    with pytest.raises(SettingsError, match=r"^behaviors: choose one of Walker, Crawler by its na"):
        choose_behavior(run)
    with pytest.raises(SettingsError) as error:
        choose_behavior(run, "Crowler")
    assert str(error.value) == (
        "behaviors.Crowler: no such behaviour. Did you mean Crawler? Known: Walker, Crawler."
    )
    with pytest.raises(SettingsError, match=r"no such behaviour\. Known: Walker, Crawler\.$"):
        choose_behavior(run, "xyz")
