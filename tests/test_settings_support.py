"""What cannot take effect is refused or noted by name."""

import re

import pytest
from pydantic import BaseModel

from optinfra import settings
from optinfra.settings import (
    SettingsError,
    dump,
    load,
    require_supported,
)
from optinfra.settings.support import REFUSED as REFUSED_RULES
from optinfra.settings.support import REFUSED_WITH
from optinfra.settings.support import UNUSED as UNUSED_RULES
from tests.settings_cases import CONFIGS, nest, only


def test_signals_that_are_named_are_those_of_a_behaviour():
    curiosity = only({"reward_signals": {"extrinsic": {}, "curiosity": {}}})
    assert curiosity.reward_signals.by_name.keys() == {"extrinsic", "curiosity"}


def test_sac_is_trained_and_what_only_ppo_can_is_refused_with_it():
    run = load(CONFIGS / "3DBallSAC.yaml")
    name = next(iter(run.behaviors))
    (note,) = require_supported(run, name)
    assert "threaded" in note
    own = run.optinfra.model_copy(update={"initialization": "orthogonal", "burn_in": 2})
    with pytest.raises(SettingsError) as error:
        require_supported(run.model_copy(update={"optinfra": own}), name)
    assert error.value.problems == ("optinfra.burn_in = 2: sequences from replay have none.",)
    ppo = only({})
    assert require_supported(load({"behaviors": {"a": {}}, "optinfra": {"burn_in": 2}}), "a") == ()
    assert ppo.trainer_type == "ppo"


@pytest.mark.filterwarnings("ignore:.*encoding_size")
def test_everything_that_is_not_supported_is_refused_at_once():
    run = load(CONFIGS / "PyramidsImitation.yaml")
    assert require_supported(run, "Pyramids") == ()
    changed = run.model_dump(mode="json")
    changed["behaviors"]["Pyramids"] |= {"init_path": "x", "self_play": {}}
    with pytest.raises(SettingsError) as error:
        require_supported(load(changed), "Pyramids")
    named = [line.split(":")[0].split(" ")[0] for line in error.value.problems]
    assert named == [f"behaviors.Pyramids.{path}" for path in ("self_play", "init_path")]


REFUSED = [
    ("behaviors.a.self_play", {}),
    ("behaviors.a.init_path", "x"),
    ("behaviors.a.network_settings.deterministic", True),
    ("environment_parameters", {"g": 1}),
    ("env_settings.env_path", "build"),
    ("env_settings.env_args", ["-x"]),
    ("env_settings.num_areas", 2),
    ("checkpoint_settings.initialize_from", "x"),
    ("checkpoint_settings.inference", True),
]
UNUSED = [
    ("behaviors.a.threaded", True),
    ("behaviors.a.reward_signals.extrinsic.network_settings", {"num_layers": 3}),
    ("behaviors.a.reward_signals.rnd.network_settings.memory", {}),
    ("behaviors.a.reward_signals.curiosity.network_settings.deterministic", True),
    ("env_settings.base_port", 5006),
    ("env_settings.timeout_wait", 5),
    ("env_settings.max_lifetime_restarts", 5),
    ("env_settings.restarts_rate_limit_n", 5),
    ("env_settings.restarts_rate_limit_period_s", 5),
    ("engine_settings", {"time_scale": 5}),
    ("debug", True),
]
HONOURED = [
    ("behaviors.a.max_steps", 7),
    ("behaviors.a.network_settings.normalize", True),
    ("behaviors.a.network_settings.vis_encode_type", "resnet"),
    ("behaviors.a.reward_signals.rnd.network_settings.goal_conditioning_type", "none"),
    ("behaviors.a.reward_signals.extrinsic.gamma", 0.5),
    ("behaviors.a.reward_signals.rnd", {}),
    ("behaviors.a.reward_signals.curiosity.network_settings.hidden_units", 8),
    ("behaviors.a.reward_signals.a:own", {}),
    ("behaviors.a.behavioral_cloning", {"demo_path": "x"}),
    ("env_settings.num_envs", 8),
    ("env_settings.seed", 3),
    ("checkpoint_settings.run_id", "x"),
    ("torch_settings.device", "cpu"),
    ("optinfra.compile", "on"),
    ("optinfra.encoder", "package.module:function"),
]


def supported(path, value):
    data = nest(path, value)
    own = data.setdefault("behaviors", {"a": {}})["a"]
    if "reward_signals" in own:
        own["reward_signals"].setdefault("extrinsic", {})
    return require_supported(load(data), "a")


def test_that_the_environments_reward_teaches_nothing_is_noted():
    (line,) = require_supported(load({"behaviors": {"a": {"reward_signals": {"rnd": {}}}}}), "a")
    assert line == (
        "behaviors.a.reward_signals: there is no extrinsic among them: the environment's reward "
        "teaches nothing."
    )


@pytest.mark.parametrize(("path", "value"), REFUSED)
def test_a_setting_that_would_have_to_take_effect_is_refused(path, value):
    with pytest.raises(SettingsError, match=rf"^{re.escape(path)}( = .+)?: .+\.$"):
        supported(path, value)


@pytest.mark.parametrize(("path", "value"), UNUSED)
def test_a_setting_without_effect_is_noted(path, value):
    (line,) = supported(path, value)
    assert re.match(rf"{re.escape(path)}( = .+)?: no effect: .+\.$", line)


@pytest.mark.parametrize(("path", "value"), HONOURED)
def test_a_setting_that_is_honoured_is_not_noted(path, value):
    assert supported(path, value) == ()


def test_a_note_of_a_block_names_what_was_changed_in_it():
    (line,) = supported("engine_settings", {"time_scale": 5, "width": 84})
    assert line.startswith('engine_settings = {"time_scale": 5.0}: no effect')


def test_what_is_not_there_is_not_noted(monkeypatch):
    monkeypatch.setattr("optinfra.settings.support.REFUSED", ())
    assert supported("behaviors.a.reward_signals.rnd", {}) == ()


def test_a_default_that_is_written_out_is_neither_refused_nor_noted():
    run = load(dump(load({"behaviors": {"a": {}}})))
    assert require_supported(run, "a") == ()


def leaves(model, path=""):
    for name, field in model.model_fields.items():
        inner = [t for t in (field.annotation, *getattr(field.annotation, "__args__", ()))
                 if isinstance(t, type) and issubclass(t, BaseModel)]  # fmt: skip
        yield from (
            (f"{path}{name}.{x}" for t in inner for x in leaves(t)) if inner else [path + name]
        )


def test_every_rule_of_the_table_names_a_setting():
    known = [*leaves(settings.TrainerSettings), *leaves(settings.RunSettings)]
    of_trainers = [rule for rules in REFUSED_WITH.values() for rule in rules]
    for rule in (*REFUSED_RULES, *of_trainers, *UNUSED_RULES):
        assert any(f"{path}.".startswith(f"{rule.path}.") for path in known), rule.path
