"""Every number has its range."""

import re

import pytest

from optinfra.settings import (
    load,
)
from tests.settings_cases import mistakes, nest

# Ranges: (path, what is accepted at the edges, what is refused beside them)

HYPER, SAC_HYPER = "behaviors.ppo.hyperparameters.", "behaviors.sac.hyperparameters."
RANGES = [
    (
        HYPER + "learning_rate",
        [1e-12, "3e-4", 5],
        [0, -1, 10**400, "nan", "inf", True, None, [1], "fast"],
    ),
    (HYPER + "beta", [0, 1], [-1e-9]),
    (HYPER + "epsilon", [1e-6, 0.999], [0, 1]),
    (HYPER + "lambd", [0, 1], [-0.01, 1.01]),
    (HYPER + "num_epoch", [1, "3", 2.0], [0, 1.5, False]),
    (HYPER + "batch_size", [1, 10240], [0, -3]),
    (HYPER + "buffer_size", [1024, 1e5], [0]),
    (HYPER + "learning_rate_schedule", ["constant"], ["cosine", None, 1]),
    (HYPER + "shared_critic", [True], ["true", 1]),
    (SAC_HYPER + "tau", [1e-9, 1], [0, 1.0001]),
    (SAC_HYPER + "init_entcoef", [1e-9], [0, -1]),
    (SAC_HYPER + "steps_per_update", [0.25], [0, -1]),
    (SAC_HYPER + "reward_signal_steps_per_update", [0.25], [0]),
    (SAC_HYPER + "buffer_init_steps", [0], [-1]),
    ("behaviors.ppo.max_steps", [1, "1.0e7", "1e7", 1.0e7, 2**62], [0, 0.5, "1e", "1e400", 1e19]),
    ("behaviors.ppo.time_horizon", [1], [0]),
    ("behaviors.ppo.summary_freq", [1], [0]),
    ("behaviors.ppo.checkpoint_interval", [1], [0]),
    ("behaviors.ppo.keep_checkpoints", [-1, 0], [0.5]),
    ("behaviors.ppo.network_settings.hidden_units", [1], [0]),
    ("behaviors.ppo.network_settings.num_layers", [1], [0]),
    ("behaviors.ppo.network_settings.normalize", [True], ["yes", 0]),
    ("behaviors.ppo.network_settings.vis_encode_type", ["match3"], ["vit"]),
    ("behaviors.ppo.network_settings.memory.sequence_length", [1, 1024], [0]),
    ("behaviors.ppo.network_settings.memory.memory_size", [2], [0, -2, 3]),
    ("behaviors.ppo.reward_signals.extrinsic.gamma", [0, 1], [-0.1, 1.1]),
    ("behaviors.ppo.reward_signals.extrinsic.strength", [0, -1], ["inf"]),
    ("behaviors.ppo.self_play.window", [1], [0]),
    ("behaviors.ppo.self_play.play_against_latest_model_ratio", [0, 1], [1.1]),
    ("env_settings.num_envs", [1, 64], [0]),
    ("env_settings.num_areas", [1], [0]),
    ("env_settings.seed", [-1, 2**63 - 1], [-2, 2**63, 10**400]),
    ("env_settings.base_port", [0, 65535], [-1, 65536]),
    ("env_settings.env_args", [["--x"]], ["--x", [1]]),
    ("engine_settings.time_scale", [0.1], [0]),
    ("checkpoint_settings.run_id", ["x"], ["", 5, None]),
    ("torch_settings.device", ["cpu", None], [0]),
    ("optinfra.max_grad_norm", [0.5, None], [0]),
    ("optinfra.compile", ["auto", "on", "off", True, False], ["yes", None]),
    ("optinfra.activation", ["tanh", "relu"], ["elu"]),
    ("optinfra.value_clipping", [True, False], ["perhaps"]),
    ("optinfra.recurrent_cell", ["lstm", "gru"], ["rnn", 1]),
    ("optinfra.burn_in", [0, 8], [-1, 0.5]),
    ("optinfra.sac.critics", [1, 10], [0, 1.5]),
    ("optinfra.sac.value_network", [True, False], ["no"]),
    ("optinfra.sac.layer_norm", [True, False], [2]),
    ("optinfra.sac.target_critics", [1, None], [0]),
    ("optinfra.sac.target_entropy_scale", [-1, 0.5], ["much"]),
    ("optinfra.sac.random_steps", [0, 10_000], [-1, 0.5]),
    ("optinfra.sac.prefill_replay", ["a.demo", None], [1]),
    ("optinfra.sac.replay_memory", [0, 0.5], [-1]),
    ("optinfra.threads", [None, 1, 8], [0, -1, 1.5, "many"]),
    ("optinfra.initialization", ["orthogonal"], ["xavier"]),
    ("environment_parameters.g.sampler_parameters.st_dev", [0], [-1]),
]
SMALL = {  # what a value needs around it
    "behaviors.ppo.": {"trainer_type": "ppo"},
    "behaviors.sac.": {"trainer_type": "sac"},
    "environment_parameters.g.": {"sampler_type": "gaussian"},
}


def with_surroundings(path, value):
    data = nest(path, value)
    for start, extra in SMALL.items():
        if path.startswith(start):
            first, second = start.split(".")[:2]
            data[first][second] |= extra
    return data


@pytest.mark.parametrize(("path", "good", "bad"), RANGES, ids=[row[0] for row in RANGES])
def test_a_value_is_accepted_within_its_range_and_refused_beside_it(path, good, bad):
    for value in good:
        load(with_surroundings(path, value))
    for value in bad:
        (line,) = mistakes(with_surroundings(path, value))
        assert re.match(rf"{re.escape(path)}(\.0)?: expected .+, got .+\.", line), line


PROGRESS = {"behavior": "x", "measure": "progress", "threshold": 1.1}


def test_numbers_that_depend_on_each_other_are_checked_together():
    def sampler(kind, **parameters):
        return {"g": {"sampler_type": kind, "sampler_parameters": parameters}}

    for data, line in [
        (
            sampler("uniform", min_value=2, max_value=1),
            "g.sampler_parameters.min_value: expected at most max_value = 1.0, got 2.0.",
        ),
        (
            sampler("multirangeuniform", intervals=[[0, 1], [2, 1]]),
            "g.sampler_parameters.intervals: expected at least one [low, high] with low ≤ high",
        ),
        (
            {"g": {"curriculum": [{"name": "x", "value": 1, "completion_criteria": PROGRESS}]}},
            "g.curriculum.0.completion_criteria.threshold: expected a number in [0, 1] for prog",
        ),
    ]:
        (mistake,) = mistakes({"environment_parameters": data})
        assert mistake.startswith(f"environment_parameters.{line}")
    load({"environment_parameters": sampler("uniform", min_value=1, max_value=1)})
    load({"environment_parameters": sampler("multirangeuniform", intervals=[[1, 1]])})
