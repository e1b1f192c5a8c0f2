"""Acting evenly at the beginning of a run."""

import chex
import pytest
import torch

from optinfra import networks, random, settings, tree
from optinfra.learners import sac
from optinfra.train import exploring, loop
from optinfra.types import ActionSpec, Spec

ACTION = ActionSpec(2, (3, 4))
ROWS = 4000


@pytest.fixture(scope="module", params=[None, 4], ids=["feed-forward", "lstm"])
def agent(request):
    spec = Spec(((3,),), ACTION)
    learner = sac(networks.soft_actor_critic(spec, hidden_units=8, memory_size=request.param), spec)
    params = learner.init(random.key(0)).params
    obs = (random.normal(random.key(1), (ROWS, 3)),)
    return learner, params, obs, learner.memories((ROWS,)).actor


def assert_mean(x, mean, deviation):
    """Of independent draws; five standard errors are missed once in two million tests."""
    assert abs(float(x.double().mean()) - mean) < 5 * deviation / len(x) ** 0.5


def test_every_action_is_as_likely_as_any_other(agent):
    learner, params, obs, memory = agent
    act = exploring.evenly(learner, ACTION)(params, obs, memory, random.key(2))
    inside = act.executed.continuous
    assert inside.shape == (ROWS, 2) and inside.min() >= -1 and inside.max() <= 1
    for x in inside.unbind(-1):
        assert_mean(x, 0.0, (1 / 3) ** 0.5)
        assert_mean(x.square(), 1 / 3, (4 / 45) ** 0.5)  # Var u² = 1/5 − 1/9
    assert_mean(inside.prod(-1), 0.0, 1 / 3)
    for column, size in zip(act.executed.discrete.unbind(-1), ACTION.branches):
        for choice in range(size):
            p = 1 / size
            assert_mean((column == choice).float(), p, (p * (1 - p)) ** 0.5)


def test_what_is_told_of_an_even_action_is_the_policys(agent):
    learner, params, obs, memory = agent
    act = exploring.evenly(learner, ACTION)(params, obs, memory, random.key(2))
    outputs, after = learner.policy(params, obs, memory)
    chex.assert_trees_all_equal(act.memory, after)
    chex.assert_trees_all_equal(act.log_prob, learner.distribution.log_prob(outputs, act.action))


def test_the_learner_acts_from_the_step_that_is_told_on(agent):
    learner, params, obs, memory = agent
    key = random.key(3)
    policy = exploring.evenly_at_first(learner, ACTION, 10)
    first, last, then = (
        policy((params, torch.tensor(steps)), obs, memory, key) for steps in (0, 9, 10)
    )
    usual = learner.act(params, obs, memory, key)
    chex.assert_trees_all_equal(then, usual)
    chex.assert_trees_all_equal(first, last)
    assert not torch.equal(first.action.continuous, usual.action.continuous)
    # Its draws tell nothing of the policy's.
    pair = torch.stack([first.action.continuous[:, 0], usual.action.continuous[:, 0]])
    assert abs(float(torch.corrcoef(pair)[0, 1])) < 5 / ROWS**0.5


@pytest.mark.parametrize("action", [ActionSpec(2), ActionSpec(0, (3, 4))])
def test_agents_of_one_kind_of_actions_have_only_those(action):
    spec = Spec(((3,),), action)
    learner = sac(networks.soft_actor_critic(spec, hidden_units=4), spec)
    params = learner.init(random.key(0)).params
    obs = (torch.zeros(ROWS, 3),)
    act = exploring.evenly(learner, action)(params, obs, (), random.key(1))
    assert act.executed.continuous.shape == (ROWS, action.continuous)
    assert act.executed.discrete.shape == (ROWS, len(action.branches))
    assert act.log_prob.shape == (ROWS, action.continuous + len(action.branches))
    assert all(len(x.unique()) > 2 for x in (*act.executed.continuous.T, *act.executed.discrete.T))


def run_of(trainer, even):
    return settings.load({
        "behaviors": {"a": {
            "trainer_type": trainer, "max_steps": 64,
            "network_settings": {"hidden_units": 4},
            "hyperparameters": {"batch_size": 4, "buffer_size": 64} | (
                {"buffer_init_steps": 64} if trainer == "sac" else {}
            ),
        }},
        "env_settings": {"seed": 1},
        "optinfra": {"env": "tensor:Pendulum-v1", "sac": {"random_steps": even}},
    })  # fmt: skip


def drawn_in(trainer, even, steps=12):
    training = loop.prepare(run_of(trainer, even), "a", torch.device("cpu"))
    state, place, drawn = training.start.iteration, training.start.source, []
    for _ in range(steps if trainer == "sac" else 1):
        place, rollout, _ = training.source.collect(place, training.acts_on(state.learner))
        state, _ = training.iteration.update(state, rollout)
        drawn.append(rollout.executed.continuous.reshape(-1))
    return torch.cat(drawn)


def test_a_run_of_sac_begins_with_even_actions_and_one_of_ppo_does_not():
    usual, even = drawn_in("sac", 0), drawn_in("sac", 8)
    assert not torch.isclose(usual[:8], even[:8]).any()
    assert (even != usual).all()  # and what it goes on from is another state
    assert torch.equal(drawn_in("sac", 100)[:8], even[:8])
    assert torch.equal(drawn_in("ppo", 100), drawn_in("ppo", 0))


def test_params_are_those_of_the_learner_where_nothing_is_even(agent):
    learner = agent[0]
    state = learner.init(random.key(0))
    policy, acts_on = exploring.acting(learner, ACTION, 0)
    assert policy is learner.act and tree.leaves(acts_on(state))[0] is tree.leaves(state.params)[0]
