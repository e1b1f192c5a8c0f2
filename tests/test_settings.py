"""ML-Agents' files are read as they are meant; every mistake is one line that helps."""

import copy
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from optinfra import settings
from optinfra.settings import (
    SettingsWarning,
    choose_behavior,
    dump,
    load,
)
from tests.settings_cases import CONFIGS, mistakes, only

# The real files


@pytest.mark.filterwarnings("ignore:.*encoding_size")
@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_real_file_loads_and_survives_the_round_trip(path):
    run = load(path)
    assert load(dump(run)) == run
    written = yaml.safe_load(path.read_text())["behaviors"]
    assert list(run.behaviors) == list(written)
    resolved = yaml.safe_load(dump(run))["behaviors"]
    for name, block in written.items():  # every number that was written is there
        for key, value in block["hyperparameters"].items():
            assert resolved[name]["hyperparameters"][key] == value
        for key in ("keep_checkpoints", "time_horizon", "summary_freq"):
            assert resolved[name][key] == block.get(key, resolved[name][key])


def test_real_files_mean_what_ml_agents_reads_in_them():
    hallway = choose_behavior(load(CONFIGS / "Hallway.yaml"))[1]
    assert hallway.network_settings.memory.sequence_length == 64
    assert hallway.hyperparameters.beta_schedule == "linear" and hallway.threaded
    ball = choose_behavior(load(CONFIGS / "3DBallSAC.yaml"))[1]
    assert isinstance(ball.hyperparameters, settings.SACSettings)
    assert ball.hyperparameters.reward_signal_steps_per_update == 10.0
    dungeon = choose_behavior(load(CONFIGS / "DungeonEscape.yaml"))[1]
    assert type(dungeon.hyperparameters) is settings.POCASettings
    assert dungeon.hyperparameters.epsilon_schedule == "constant"  # as the learning rate's


def test_encoding_size_is_read_as_hidden_units_and_named():
    with pytest.warns(SettingsWarning) as warned:
        run = load(CONFIGS / "PyramidsImitation.yaml")
    pyramids = choose_behavior(run, "Pyramids")[1]
    assert pyramids.max_steps == 10_000_000 and isinstance(pyramids.max_steps, int)
    assert pyramids.reward_signals.curiosity.network_settings.hidden_units == 256
    assert pyramids.reward_signals.gail.network_settings.hidden_units == 128
    path = "behaviors.Pyramids.reward_signals.curiosity.encoding_size"
    assert str(warned[0].message) == (
        f"{CONFIGS / 'PyramidsImitation.yaml'}:25: {path}: deprecated, "
        "read as network_settings.hidden_units."
    )
    assert [Path(w.filename).name for w in warned] == ["test_settings.py"] * 2


def test_encoding_size_yields_to_network_settings():
    signal = {"encoding_size": 7, "network_settings": {"num_layers": 3}}
    with pytest.warns(SettingsWarning, match="dropped: network_settings are given"):
        agent = only({"reward_signals": {"rnd": signal}})
    network = agent.reward_signals.rnd.network_settings
    assert (network.hidden_units, network.num_layers) == (128, 3)
    assert only({"reward_signals": {"rnd": {"encoding_size": None}}})  # as ML-Agents dumps it


@pytest.mark.filterwarnings("ignore:.*encoding_size")
def test_a_wrong_encoding_size_is_told_where_it_stands():
    text = "behaviors:\n  a:\n    reward_signals:\n      rnd:\n        encoding_size: 0\n"
    (line,) = mistakes(text)
    where = "<text>:5: behaviors.a.reward_signals.rnd.encoding_size"
    assert line == f"{where}: expected a whole number ≥ 1, got 0."


# Defaults, from ML-Agents 1.1.0

NETWORK = dict(
    normalize=False, hidden_units=128, num_layers=2, vis_encode_type="simple", memory=None,
    goal_conditioning_type="hyper", deterministic=False,
)  # fmt: skip
ON_POLICY = dict(
    batch_size=1024, buffer_size=10240, learning_rate=3e-4, learning_rate_schedule="linear",
    beta=5e-3, epsilon=0.2, lambd=0.95, num_epoch=3, beta_schedule="linear",
    epsilon_schedule="linear",
)  # fmt: skip
SAC = dict(
    batch_size=128, buffer_size=50000, learning_rate=3e-4, learning_rate_schedule="constant",
    buffer_init_steps=0, tau=0.005, steps_per_update=1.0, save_replay_buffer=False,
    init_entcoef=1.0, reward_signal_steps_per_update=1.0,
)  # fmt: skip
SIGNAL = dict(gamma=0.99, strength=1.0, network_settings=NETWORK)
TRAINER = dict(
    checkpoint_interval=500000, network_settings=NETWORK, reward_signals={"extrinsic": SIGNAL},
    init_path=None, keep_checkpoints=5, even_checkpoints=False, max_steps=500000, time_horizon=64,
    summary_freq=50000, threaded=False, self_play=None, behavioral_cloning=None,
)  # fmt: skip
RUN = dict(
    env_settings=dict(
        env_path=None, env_args=None, base_port=5005, num_envs=1, num_areas=1, timeout_wait=60,
        seed=-1, max_lifetime_restarts=10, restarts_rate_limit_n=1,
        restarts_rate_limit_period_s=60,
    ),
    engine_settings=dict(
        width=84, height=84, quality_level=5, time_scale=20.0, target_frame_rate=-1,
        capture_frame_rate=60, no_graphics=False, no_graphics_monitor=False,
    ),
    environment_parameters=None,
    checkpoint_settings=dict(
        run_id="ppo", initialize_from=None, resume=False, force=False, inference=False,
        results_dir="results",
    ),
    torch_settings=dict(device=None),
    debug=False,
    optinfra=dict(
        env="CartPole-v1", env_kwargs={}, max_entities=16, goals=[], sets=[],
        compile="auto", max_grad_norm=None,
        initialization="mlagents", activation="swish", value_clipping=True,
        recurrent_cell="lstm", burn_in=0, encoder=None, body=None, network=None,
        rnd_reward_normalization=False, threads=None,
        sac=dict(
            critics=2, value_network=True, target_critics=None, layer_norm=False,
            target_entropy_scale=1.0, random_steps=0, prefill_replay=None, replay_memory=8.0,
        ),
    ),
)  # fmt: skip


@pytest.mark.parametrize(
    ("trainer_type", "hyperparameters"),
    [("ppo", {**ON_POLICY, "shared_critic": False}), ("poca", ON_POLICY), ("sac", SAC)],
)
def test_defaults_are_ml_agents(trainer_type, hyperparameters):
    behavior = dict(TRAINER, trainer_type=trainer_type, hyperparameters=hyperparameters)
    expected = dict(RUN, behaviors={"agent": behavior})
    run = load({"behaviors": {"agent": {"trainer_type": trainer_type}}})
    assert yaml.safe_load(dump(run)) == expected
    assert only({}).trainer_type == "ppo"


def test_defaults_of_blocks_that_are_off_are_ml_agents():
    signals = {"curiosity": {}, "rnd": {}, "gail": {"demo_path": "a.demo"}}
    agent = only(
        {
            "reward_signals": signals,
            "network_settings": {"memory": {}},
            "self_play": {"save_steps": 100},
            "behavioral_cloning": {"demo_path": "b.demo"},
        }
    ).model_dump()
    assert agent["network_settings"]["memory"] == dict(sequence_length=64, memory_size=128)
    assert agent["reward_signals"] == dict(
        curiosity={**SIGNAL, "learning_rate": 3e-4},
        rnd={**SIGNAL, "learning_rate": 1e-4},
        gail={
            **SIGNAL, "learning_rate": 3e-4, "use_actions": False, "use_vail": False,
            "demo_path": "a.demo",
        },
    )  # fmt: skip
    assert agent["behavioral_cloning"] == dict(
        demo_path="b.demo", steps=0, strength=1.0, samples_per_update=0, num_epoch=None,
        batch_size=None,
    )  # fmt: skip
    assert agent["self_play"] == dict(
        save_steps=100, team_change=500, swap_steps=2000, window=10,
        play_against_latest_model_ratio=0.5, initial_elo=1200.0,
    )  # fmt: skip


@pytest.mark.parametrize("trainer_type", ["ppo", "poca"])
@pytest.mark.parametrize("schedule", ["constant", "linear"])
def test_schedules_follow_the_learning_rates_unless_given(trainer_type, schedule):
    written = {"learning_rate_schedule": schedule, "epsilon_schedule": "linear"}
    hyper = only({"trainer_type": trainer_type, "hyperparameters": written}).hyperparameters
    assert (hyper.beta_schedule, hyper.epsilon_schedule) == (schedule, "linear")


def test_reward_signals_are_updated_as_often_as_the_policy_unless_given():
    for written, expected in [
        ({"steps_per_update": 4}, 4),
        ({"steps_per_update": 4, "reward_signal_steps_per_update": 2}, 2),
    ]:
        hyper = only({"trainer_type": "sac", "hyperparameters": written}).hyperparameters
        assert hyper.reward_signal_steps_per_update == expected


def test_even_checkpoints_divide_the_steps():
    even = only({"even_checkpoints": True, "max_steps": 1003, "keep_checkpoints": 4})
    assert even.checkpoint_every == 250
    assert only({"checkpoint_interval": 30}).checkpoint_every == 30
    assert only({"even_checkpoints": True, "max_steps": 2}).checkpoint_every == 1
    assert mistakes({"behaviors": {"a": {"even_checkpoints": True, "keep_checkpoints": 0}}}) == [
        "behaviors.a.keep_checkpoints: expected ≥ 1 with even_checkpoints, got 0."
    ]


def test_environment_parameters_in_every_form_mean_a_curriculum():
    uniform = {"sampler_type": "uniform", "sampler_parameters": {"min_value": 0.5}}
    criteria = {"behavior": "agent", "measure": "progress", "threshold": 0.1}
    lessons = [
        {"name": "easy", "value": 1, "completion_criteria": criteria},
        {"name": "hard", "value": uniform},
    ]
    parameters = {"gravity": 9.8, "mass": uniform, "goal": {"curriculum": lessons}}
    run = load({"environment_parameters": parameters})
    (gravity,) = run.environment_parameters["gravity"].curriculum
    assert gravity.value.sampler_type == "constant"
    assert gravity.value.sampler_parameters.value == 9.8
    (mass,) = run.environment_parameters["mass"].curriculum
    assert mass.value.model_dump() == {
        "sampler_type": "uniform",
        "sampler_parameters": {"seed": -1, "min_value": 0.5, "max_value": 1.0},
    }
    easy, hard = run.environment_parameters["goal"].curriculum
    assert easy.completion_criteria.model_dump() == dict(
        criteria, min_lesson_length=0, signal_smoothing=True, require_reset=False
    )
    assert hard.value == mass.value and hard.completion_criteria is None
    assert load(dump(run)) == run


def test_the_last_lesson_needs_no_end_and_every_other_does():
    lesson = {"name": "a", "value": 1}
    ended = {**lesson, "completion_criteria": {"behavior": "x"}}
    assert mistakes({"environment_parameters": {"g": {"curriculum": [lesson, lesson]}}}) == [
        "environment_parameters.g: lesson a: missing completion_criteria."
    ]
    with pytest.warns(SettingsWarning, match="lesson a is the last"):
        load({"environment_parameters": {"g": {"curriculum": [ended, ended]}}})
    assert mistakes({"environment_parameters": {"g": {"curriculum": []}}}) == [
        "environment_parameters.g: expected at least one lesson."
    ]


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (
            {"hyperparameters": {"batch_size": 64, "buffer_size": 32}, "trainer_type": "sac"},
            "hyperparameters.batch_size: expected at most buffer_size = 32, got 64.",
        ),
        (
            {"network_settings": {"memory": {"sequence_length": 1025}}},
            "network_settings.memory.sequence_length: expected at most batch_size = 1024, got",
        ),
        (
            {"hyperparameters": {}},
            "trainer_type: missing. `hyperparameters` need it beside them, one of ppo, poca, sac.",
        ),
        (
            {"trainer_type": "sac", "hyperparameters": {"tua": 1}},
            "hyperparameters.tua: unknown key. Did you mean tau?",
        ),
        (
            {"trainer_type": "pcoa", "hyperparameters": {"anything": 1}},
            'trainer_type: expected ppo, poca or sac, got "pcoa". Did you mean poca?',
        ),
        ({"reward_signals": {"gail": {}}}, "reward_signals.gail.demo_path: missing."),
        (
            {"reward_signals": {}},
            "reward_signals: expected at least one of extrinsic, curiosity, gail, rnd.",
        ),
        ({"reward_signals": {"ext": {}}}, "reward_signals.ext: unknown key. Known: extrinsic, "),
        ({"network_settings": None}, "network_settings: expected a mapping, got null."),
        ({"init_path": 3}, "init_path: expected text, got 3. Put it in quotes."),
        ({"a\nb": 3}, '"a\\nb": unknown key. Known: '),
        ({"zzz": 3}, "zzz: unknown key. Known: trainer_type, hyperparameters, checkpoint"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_was_expected(data, line):
    (first,) = mistakes({"behaviors": {"agent": data}})
    assert first.startswith(f"behaviors.agent.{line}")


def test_every_mistake_has_its_line_with_file_and_number(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(
        "behaviors:\n  CartPole:\n    trainer_type: ppo\n    max_steps: -5\n\n"
        "    hyperparameters:\n      learnin_rate: 3e-4\nenv_setings: {}\n"
    )
    assert sorted(mistakes(path)) == [
        f"{path}:4: behaviors.CartPole.max_steps: expected a whole number ≥ 1, got -5.",
        f"{path}:7: behaviors.CartPole.hyperparameters.learnin_rate: unknown key. "
        "Did you mean learning_rate?",
        f"{path}:8: env_setings: unknown key. Did you mean env_settings?",
    ]


FULL = {
    "behaviors": {
        "a": {
            "trainer_type": "ppo",
            "hyperparameters": {"learning_rate": 1e-3},
            "network_settings": {"memory": {"memory_size": 8}},
            "reward_signals": {
                "extrinsic": {"gamma": 0.9, "network_settings": {"normalize": True}},
                "curiosity": {"learning_rate": 1, "network_settings": {"normalize": True}},
                "gail": {"demo_path": "x"},
                "rnd": {"strength": 2},
            },
            "self_play": {"save_steps": 3},
            "behavioral_cloning": {"demo_path": "x"},
        }
    },
    "env_settings": {"num_envs": 2},
    "engine_settings": {"width": 2},
    "environment_parameters": {
        "g": {"sampler_type": "uniform", "sampler_parameters": {"min_value": 0}},
        "h": {
            "curriculum": [
                {"name": "x", "value": 1, "completion_criteria": {"behavior": "a"}},
                {"name": "y", "value": 1},
            ]
        },
    },
    "checkpoint_settings": {"run_id": "x"},
    "torch_settings": {"device": "cpu"},
    "optinfra": {"env": "Pendulum-v1"},
}
NAMED_FREELY = [("behaviors",), ("environment_parameters",)]


def mappings(data, path=()):
    """The path of every mapping whose keys are not free."""
    if isinstance(data, dict) and path not in NAMED_FREELY:
        yield path
    if isinstance(data, dict | list):
        for key, part in data.items() if isinstance(data, dict) else enumerate(data):
            yield from mappings(part, (*path, key))


BLOCKS = list(mappings(FULL))


@pytest.mark.parametrize("path", BLOCKS, ids=lambda path: ".".join(map(str, path)) or "top")
def test_a_misspelt_key_is_refused_in_every_block(path):
    load(FULL)
    data = copy.deepcopy(FULL)
    block = data
    for key in path:
        block = block[key]
    right = list(block)[-1]
    block[right[:-1] + "_" + right[-1]] = 1
    (line,) = mistakes(data)
    where = ".".join(map(str, (*path, right[:-1] + "_" + right[-1])))
    assert line == f"{where}: unknown key. Did you mean {right}?"


@pytest.mark.parametrize("path", BLOCKS, ids=lambda path: ".".join(map(str, path)) or "top")
def test_a_scalar_in_the_place_of_a_block_is_refused(path):
    if not path:
        return
    data = copy.deepcopy(FULL)
    block = data
    for key in path[:-1]:
        block = block[key]
    block[path[-1]] = "text"
    (line,) = mistakes(data)
    assert line.startswith(".".join(map(str, path))) and "expected a mapping, got" in line


def test_an_error_shows_nothing_of_pydantic():
    text = str(mistakes({"behaviors": {"a": {"max_steps": {}, "x": 1}}, "debug": 3}))
    assert not re.search("pydantic|https?:|type=|input_value", text)


def test_settings_cannot_be_changed():
    run = load(FULL)
    with pytest.raises(ValidationError, match="frozen"):
        run.debug = True
    with pytest.raises(ValidationError, match="frozen"):
        run.behaviors["a"].network_settings.memory.memory_size = 4
    for change in (
        lambda: run.behaviors.update({"b": None}),
        lambda: run.behaviors.pop("a"),
        lambda: run.optinfra.env_kwargs.__setitem__("g", 1),
        lambda: run.environment_parameters.clear(),
    ):
        with pytest.raises(TypeError, match="settings are frozen"):
            change()
    assert pickle.loads(pickle.dumps(run)) == copy.deepcopy(run) == run


def test_settings_without_their_extra_say_what_to_install():
    code = "import sys; sys.modules['pydantic'] = None; import optinfra.settings"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "pip install 'optinfra[train]'" in run.stderr.splitlines()[-1]


def test_the_copied_files_are_attributed():
    text = (CONFIGS / "ATTRIBUTION.md").read_text()
    assert "Unity ML-Agents" in text and "Apache" in text
    assert all(path.name in text for path in CONFIGS.glob("*.yaml"))


# --- signals of one's own -----------------------------------------------------------------------


def test_a_registered_signal_has_the_settings_of_any_and_parameters_of_its_own():
    agent = only(
        {
            "reward_signals": {
                "extrinsic": {},
                "a.package:novelty": {"strength": 0.1, "parameters": {"scale": [1, 2]}},
            }
        }
    )
    rewards = agent.reward_signals
    assert rewards.streams == {"extrinsic": "extrinsic", "a.package:novelty": "novelty"}
    own = rewards.by_name["a.package:novelty"]
    assert (own.strength, own.gamma, own.learning_rate) == (0.1, 0.99, 3e-4)
    assert own.parameters == {"scale": [1, 2]}
    with pytest.raises(TypeError, match="settings are frozen"):
        own.parameters["scale"] = 3
    again = load(dump(load({"behaviors": {"agent": agent.model_dump(mode="json")}})))
    assert again.behaviors["agent"] == agent


@pytest.mark.parametrize("key", ["..:it", ".a:it", "a b:it", "a:b:it", ":it", "a:", "a:2b", "it"])
def test_a_signal_of_ones_own_is_called_by_a_package_and_a_name(key):
    (found,) = mistakes({"behaviors": {"agent": {"reward_signals": {key: {}}}}})
    assert found.startswith(f"behaviors.agent.reward_signals.{key}: unknown key.")


@pytest.mark.parametrize(
    ("signals", "line"),
    [
        ({"curiousity": {}}, "curiousity: unknown key. Did you mean curiosity?"),
        (
            {"novelty": {}},
            "novelty: unknown key. Known: extrinsic, curiosity, gail, rnd. "
            "One of your own is called package:name.",
        ),
        (
            {"a:2b": {}},
            "a:2b: unknown key. Known: extrinsic, curiosity, gail, rnd. "
            "One of your own is called package:name.",
        ),
        ({"a:b": {"sterngth": 1}}, "a:b.sterngth: unknown key. Did you mean strength?"),
        ({"a:b": {"strength": "x"}}, 'a:b.strength: expected a number, got "x".'),
        ({"a:b": {}, "c:b": {}}, "expected one signal called b, got another in a:b."),
        ({"rnd": {}, "c:rnd": {}}, "expected one signal called rnd, got another in c:rnd."),
    ],
)
def test_a_signal_that_is_misspelt_is_refused_by_its_name(signals, line):
    (found,) = mistakes({"behaviors": {"agent": {"reward_signals": signals}}})
    assert found.startswith("behaviors.agent.reward_signals") and found.endswith(line)
