"""What docs/experiments says of exploring and imitating, over three seeds.

It takes eight minutes. Thresholds leave a margin to what was measured, and chance
lies far from them.
"""

from pathlib import Path

import pytest
import torch

from optinfra.train.evaluate import evaluate
from tests.commands import optinfra, rows

pytestmark = pytest.mark.thorough
EXPERIMENTS = Path(__file__).parents[1] / "docs" / "experiments"
SEEDS = (0, 1, 2)
EXPERT_RETURN = 500.0  # CartPole's best


def trained(folder, *arguments, seed):
    done = optinfra("train", *arguments, "--seed", seed, "--run-dir", folder)
    assert done.code == 0, done.err
    return folder


def last_return(folder):
    return float(rows(folder)[-1]["mean_return"])


def evaluated(folder):
    options = {"stochastic": False, "seed": 0, "device": torch.device("cpu")}
    return evaluate(folder, episodes=100, **options).mean


@pytest.fixture(scope="module")
def expert(tmp_path_factory):
    """Ten episodes of the shipped policy of CartPole."""
    folder = tmp_path_factory.mktemp("expert")
    trained(folder / "run", seed=0)
    recorded = optinfra("record", folder / "run", folder / "expert.demo", "--episodes", 10)
    assert recorded.code == 0, recorded.err
    return folder / "expert.demo"


def imitated(folder, name, expert, *assignments, seed):
    paths = {"gail": "reward_signals.gail", "cloning": "behavioral_cloning",
             "pretraining": "behavioral_cloning"}  # fmt: skip
    demo = ("--set", f"{paths[name]}.demo_path={expert}")
    return trained(folder, EXPERIMENTS / f"{name}.yaml", *demo, *assignments, seed=seed)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("env", "with_novelty", "without"),
    [("MountainCar-v0", -180.0, -199.0), ("tensor:Rooms-v0", 0.9, 0.05)],
)
def test_novelty_finds_a_reward_that_extrinsic_reward_alone_does_not(
    tmp_path, env, with_novelty, without, seed
):
    curious = trained(tmp_path / "rnd", "--env", env, seed=seed)
    alone = trained(tmp_path / "alone", "--env", env, "--set", "reward_signals.rnd=null", seed=seed)
    assert last_return(curious) >= with_novelty
    assert last_return(alone) <= without


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", ["gail", "cloning"])
def test_imitation_alone_reaches_nine_tenths_of_the_expert(tmp_path, expert, name, seed):
    folder = imitated(tmp_path / "run", name, expert, seed=seed)
    assert evaluated(folder) >= 0.9 * EXPERT_RETURN


@pytest.mark.parametrize("seed", SEEDS)
def test_cloning_first_beats_ppo_alone_at_equal_steps(tmp_path, expert, seed):
    both = imitated(tmp_path / "both", "pretraining", expert, seed=seed)
    alone = trained(
        tmp_path / "alone", EXPERIMENTS / "pretraining.yaml",
        "--set", "behavioral_cloning=null", seed=seed,
    )  # fmt: skip
    assert last_return(both) >= last_return(alone) + 50
