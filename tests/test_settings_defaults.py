"""Written back, settings load as they were; defaults go where nothing is written."""

import pytest
import yaml
from hypothesis import assume, example, given
from hypothesis import strategies as st

from optinfra import settings
from optinfra.settings import (
    SettingsWarning,
    choose_behavior,
    dump,
    load,
    override,
)
from tests.settings_cases import FLAG, JSON, TEXT, mistakes, only

WHOLE, SMALL_REAL = st.integers(1, 10**9), st.floats(1e-12, 0.999)
SCHEDULE = st.sampled_from(["constant", "linear"])


def some(**fields):
    return st.fixed_dictionaries({}, optional=fields)


NETWORKS = some(
    normalize=FLAG,
    hidden_units=WHOLE,
    num_layers=WHOLE,
    vis_encode_type=st.sampled_from(["simple", "nature_cnn", "resnet", "match3"]),
    memory=st.none() | some(sequence_length=st.integers(1, 32), memory_size=st.just(6)),
    goal_conditioning_type=st.sampled_from(["hyper", "none"]),
)
SHARED = dict(
    batch_size=st.integers(32, 1000),
    buffer_size=st.integers(1024, 10**6),
    learning_rate=SMALL_REAL | SMALL_REAL.map(str),
    learning_rate_schedule=SCHEDULE,
)
HYPERPARAMETERS = {
    "poca": some(**SHARED, beta=SMALL_REAL, num_epoch=WHOLE, beta_schedule=SCHEDULE),
    "ppo": some(**SHARED, epsilon=SMALL_REAL, lambd=SMALL_REAL, shared_critic=FLAG),
    "sac": some(**SHARED, tau=SMALL_REAL, steps_per_update=SMALL_REAL, init_entcoef=SMALL_REAL),
}
SIGNALS = some(
    curiosity=some(strength=SMALL_REAL, network_settings=NETWORKS),
    rnd=some(gamma=SMALL_REAL, learning_rate=SMALL_REAL),
    gail=st.fixed_dictionaries({"demo_path": TEXT}, optional={"use_vail": FLAG}),
)


@st.composite
def behaviors(draw):
    trainer_type = draw(st.sampled_from(["ppo", "poca", "sac"]))
    block = {"trainer_type": trainer_type, "hyperparameters": draw(HYPERPARAMETERS[trainer_type])}
    signals = draw(SIGNALS)
    return block | draw(
        some(
            network_settings=NETWORKS,
            reward_signals=st.just({"extrinsic": {}, **signals})
            if signals
            else st.just({"rnd": {}}),
            max_steps=WHOLE | WHOLE.map(float) | st.just("1.0e7"),
            keep_checkpoints=st.integers(-3, 9),
            self_play=st.none() | some(save_steps=WHOLE, window=WHOLE),
            behavioral_cloning=st.fixed_dictionaries({"demo_path": TEXT}),
            init_path=TEXT,
        )
    )


def same_type(block, other):
    return block.get("trainer_type") == other.get("trainer_type")


PARAMETERS = st.dictionaries(
    TEXT,
    SMALL_REAL
    | st.just({"sampler_type": "uniform", "sampler_parameters": {}})
    | st.just({"sampler_type": "multirangeuniform", "sampler_parameters": {"intervals": [[1, 2]]}}),
    max_size=2,
)
RUNS = some(
    behaviors=st.dictionaries(TEXT, behaviors(), max_size=2),
    env_settings=some(num_envs=WHOLE, seed=st.integers(-1, 9), env_args=st.lists(TEXT, max_size=2)),
    engine_settings=some(time_scale=SMALL_REAL),
    environment_parameters=PARAMETERS,
    checkpoint_settings=some(run_id=TEXT, resume=FLAG),
    torch_settings=some(device=TEXT | st.none()),
    optinfra=some(
        env=TEXT,
        env_kwargs=st.dictionaries(TEXT, JSON, max_size=2),
        compile=st.sampled_from(["auto", "on", "off", True, False]),
        max_grad_norm=st.none() | SMALL_REAL,
    ),
)


@given(RUNS)
@example({"torch_settings": {"device": "\x85"}})
@example({"behaviors": {"on": {"init_path": "1e5"}, "null": {"init_path": "\x85\ufeff \n"}}})
@example({"optinfra": {"compile": True, "env_kwargs": {"a": "2020-01-01", "b": "1_0", "c": "~"}}})
def test_dump_and_load_are_inverse(data):
    run = load(data)
    text = dump(run)
    assert load(text) == run and dump(load(text)) == text
    name, behavior = choose_behavior(run, next(iter(run.behaviors)))
    assert behavior == run.behaviors[name]


@given(RUNS)
def test_text_and_mapping_load_alike(data):
    assert load(yaml.safe_dump(data)) == load(data)


# default_settings


@given(behaviors(), behaviors())
def test_default_settings_are_what_is_written_in_no_behaviour(defaults, own):
    assume(same_type(defaults, own))
    merged = load({"default_settings": defaults, "behaviors": {"a": own, "b": {}}})
    keys = set(defaults) & set(own)
    alone = load({"behaviors": {"a": {**defaults, **own}, "b": defaults}})
    assert merged.behaviors["b"] == alone.behaviors["b"]
    for key in set(type(merged.behaviors["a"]).model_fields) - keys:
        assert getattr(merged.behaviors["a"], key) == getattr(alone.behaviors["a"], key)
    for key in {"hyperparameters", "network_settings"} & keys:  # merged at every depth
        theirs = {**defaults[key], **own[key]}
        memories = defaults[key].get("memory"), own[key].get("memory")
        if all(memories):
            theirs["memory"] = {**memories[0], **memories[1]}
        expected = only({"trainer_type": own["trainer_type"], key: theirs})
        assert getattr(merged.behaviors["a"], key) == getattr(expected, key)


def test_default_hyperparameters_of_another_trainer_do_not_leak_and_are_named():
    text = (
        "default_settings:\n  trainer_type: ppo\n  max_steps: 7\n"
        "  hyperparameters: {batch_size: 3}\n"
        "behaviors:\n  a: {trainer_type: sac}\n  b: {}\n  c: {trainer_type: ppo}\n"
    )
    with pytest.warns(SettingsWarning) as warned:
        run = load(text)
    assert [str(w.message) for w in warned] == [
        "<text>:4: default_settings.hyperparameters: they are ppo's and dropped for a (sac)."
    ]
    sizes = {name: b.hyperparameters.batch_size for name, b in run.behaviors.items()}
    assert sizes == {"a": 128, "b": 3, "c": 3}
    assert {b.max_steps for b in run.behaviors.values()} == {7}


def test_default_settings_of_one_file_do_not_reach_the_next():
    load({"default_settings": {"max_steps": 7}, "behaviors": {"a": {}}})
    assert only({}).max_steps == 500000


def test_a_mistake_in_the_defaults_is_told_once_and_where_it_stands():
    text = "default_settings:\n  max_steps: 0\nbehaviors: {a: {}, b: {}, c: {max_steps: 1}}\n"
    line = "default_settings.max_steps: expected a whole number ≥ 1, got 0."
    assert mistakes(text) == [f"<text>:2: {line}"]
    assert mistakes(yaml.safe_load(text)) == [line]
    assert mistakes({"default_settings": 3}) == ["default_settings: expected a mapping, got 3."]
    assert mistakes({"default_settings": {"hyperparameters": {}}}) == [
        "default_settings.hyperparameters: missing trainer_type beside them."
    ]


@pytest.mark.parametrize("text", ["", "{}", "# nothing\n", "behaviors: {}"])
def test_a_file_without_behaviours_describes_one_named_after_its_environment(text):
    assert choose_behavior(load(text)) == ("CartPole-v1", settings.TrainerSettings())
    data = {"default_settings": {"max_steps": 7}, "optinfra": {"env": "Pendulum-v1"}}
    name, behavior = choose_behavior(load(data))
    assert (name, behavior.max_steps) == ("Pendulum-v1", 7)


def test_deprecated_keys_are_dropped_and_named_once():
    data = {
        "default_settings": {"framework": "tensorflow"},
        "behaviors": {"a": {}, "b": {"framework": "pytorch"}},
        "checkpoint_settings": {"load_model": True, "train_model": True},
    }
    with pytest.warns(SettingsWarning) as warned:
        run = load(data)
    assert [str(w.message) for w in warned] == [
        "default_settings.framework: deprecated and dropped.",
        "behaviors.b.framework: deprecated and dropped.",
        "checkpoint_settings.load_model: deprecated, read as `resume`.",
        "checkpoint_settings.train_model: deprecated and dropped: training is what is done.",
    ]
    assert run.checkpoint_settings.resume
    quiet = load({"checkpoint_settings": {"load_model": False, "train_model": False}})
    assert not quiet.checkpoint_settings.resume
    assert mistakes({"checkpoint_settings": {"load_model": "no"}}) == [
        'checkpoint_settings.load_model: expected true or false, got "no".'
    ]


@given(RUNS)
def test_no_override_changes_nothing(data):
    assert load(override(data, [])) == load(data)
