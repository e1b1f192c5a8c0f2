"""Learning where the right answer is known: on tiny environments, then on CartPole.

After the diagnostic environments of PureJaxRL: each can fail for one reason only, so that the
first to fail says where to look. Three seeds run side by side, as one ensemble.
"""

from statistics import fmean

import pytest
import torch
from torch.func import vmap

from optinfra import cli, lift, networks, random, settings
from optinfra.iteration import iteration
from optinfra.learners import ppo
from optinfra.losses import squared_value_loss
from optinfra.signals import extrinsic
from optinfra.train import loop
from optinfra.train.collect import collector
from tests.tiny_envs import tiny

SEEDS = 3


def taught(env, iterations, *, gamma=0.99, copies=16, steps=8, **options):
    """Train three seeds; return the learner and the parameters of each."""
    network = networks.actor_critic(env.spec, hidden_units=16, num_layers=1)
    rates = {"learning_rate": 1e-2, "entropy_coef": 0.0, "value_loss": squared_value_loss}
    learner = ppo(network, env.spec, **(rates | options))
    parts = {"num_epochs": 2, "batch_size": copies * steps // 2, "stage": lift.ensemble}
    signals = {"extrinsic": extrinsic(gamma=gamma)}
    training = iteration(learner, signals, gae_lambda=0.95, **parts)
    many = {"num_envs": copies, "num_steps": steps, "stage": lift.ensemble}
    collecting = collector(env, learner.act, **many)
    keys = random.split(random.key(0), SEEDS)
    state, place = vmap(training.init)(keys), vmap(collecting.init)(keys + 1)
    for _ in range(iterations):
        place, (rollout, _) = collecting.collect(place, state.learner.params)
        state, _ = training.update(state, rollout)
    return learner, state.learner.params


def values(learner, params, *places):
    """Values `[E, len(places)]`."""
    obs = (torch.tensor(places)[:, None],)
    return vmap(learner.values, in_dims=(0, None))(params, obs)["extrinsic"]


def probability_of_one(learner, params, *places):
    """How often choice 1 is drawn in each place, `[E, len(places)]`: of 200 draws."""
    obs = (torch.tensor(places).repeat(200)[:, None],)
    act = vmap(lambda p, key: learner.act(p, obs, (), key))(params, random.split(random.key(1), 3))
    return act.action.discrete.reshape(SEEDS, 200, len(places)).float().mean(1)


def assert_near(actual, expected, within):
    expected = torch.tensor(expected).expand_as(actual)
    torch.testing.assert_close(actual, expected, rtol=0, atol=within)


def one(place, choice):
    return torch.ones_like(place)


def its_place(place, choice):
    return place


def at_place_one(place, choice):
    return (place == 1.0).float()


def choice_one(place, choice):
    return choice.float()


def choice_of_the_place(place, choice):
    return (choice == (place > 0)).float()


# name: reward, how episodes go, γ, places, their values
VALUES = {
    "an episode of one step is worth its reward": (one, {}, 0.99, [0.0], [1.0]),
    "a value follows what is seen": (
        *(its_place, {"starts": (-1.0, 1.0)}),
        *(0.99, [-1.0, 1.0], [-1.0, 1.0]),
    ),
    "what comes later is discounted": (
        *(at_place_one, {"length": 2}),
        *(0.5, [0.0, 1.0], [0.5, 1.0]),
    ),
    "what is terminated is worth its rewards and no more": (
        *(one, {"length": 2}),
        *(0.5, [0.0, 1.0], [1.5, 1.0]),
    ),
    "what is truncated is worth r / (1 − γ)": (
        *(one, {"length": 3, "truncates": True, "stride": 0.0}),
        *(0.5, [0.0], [2.0]),
    ),
}


@pytest.mark.parametrize("name", VALUES)
def test_values_become_the_known_ones(name):
    reward, episode, gamma, places, expected = VALUES[name]
    learner, params = taught(tiny(reward, **episode), 30, gamma=gamma)
    # measured: at most 0.006 over nine seeds
    assert_near(values(learner, params, *places), expected, within=0.05)


# name: reward, how episodes go, places, the probabilities of choice 1 there
POLICIES = {
    "the choice that pays is taken": (choice_one, {}, [0.0], [1.0]),
    "what pays depends on what is seen": (
        *(choice_of_the_place, {"starts": (-1.0, 1.0)}),
        *([-1.0, 1.0], [0.0, 1.0]),
    ),
}


@pytest.mark.parametrize("name", POLICIES)
def test_policies_come_to_take_what_pays(name):
    reward, episode, places, expected = POLICIES[name]
    learner, params = taught(tiny(reward, **episode), 30)
    # measured: at most 0.01 over nine seeds
    assert_near(probability_of_one(learner, params, *places), expected, within=0.1)


def test_entropy_keeps_a_policy_open():
    learner, params = taught(tiny(choice_one), 30, entropy_coef=10.0)
    # measured: at most 0.09 over nine seeds, of which 0.07 come from counting 200 draws
    assert_near(probability_of_one(learner, params, 0.0), [0.5], within=0.2)


def cartpole_returns(seed, iterations, *assignments):
    """Returns of the episodes of a run by the shipped settings, in the order of their ends."""
    asked = ["optinfra.compile=off", f"env_settings.seed={seed}", *assignments]
    run = settings.load(settings.override(cli._shipped("CartPole-v1"), asked))
    name, _ = settings.choose_behavior(run)
    training = loop.prepare(run, name, torch.device("cpu"))
    learning, place, returns = training.start.iteration, training.start.source, []
    for _ in range(iterations):
        place, rollout, ended = training.source.collect(place, learning.learner.params)
        learning, _ = training.iteration.update(learning, rollout)
        returns += [episode.total_reward for episode in ended]
    training.source.close()
    return returns


@pytest.mark.parametrize("seed", range(3))
def test_cartpole_is_learnt_within_ten_thousand_steps(seed):
    returns = cartpole_returns(seed, 10)
    # measured: 99 to 141 over five seeds, and 20 to 25 at the beginning
    assert fmean(returns[:30]) < 35 < 70 < fmean(returns[-30:])


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(i, marks=pytest.mark.thorough) for i in (1, 2))]
)
def test_cartpole_in_tensors_is_learnt_as_well(seed):
    """With more copies and shorter rollouts: here a step takes time and a copy hardly any."""
    copies = ("optinfra.env=tensor:CartPole-v1", "env_settings.num_envs=64")
    returns = cartpole_returns(seed, 18, *copies)
    # measured: 108 to 136 over five seeds, and 12 to 15 at the beginning
    assert fmean(returns[:30]) < 35 < 70 < fmean(returns[-30:])
