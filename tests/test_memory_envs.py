"""Environments that need memory: what is to be remembered, and that nothing else tells it."""

import chex
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.func import vmap

from optinfra import envs, random, tree
from optinfra.envs import (
    Env,
    RecallState,
    autoreset,
    cartpole,
    cartpole_without_velocity,
    observe_only,
    pendulum,
    pendulum_without_velocity,
    recall,
)
from optinfra.envs.cartpole import TIME_STEP
from optinfra.envs.recall import BEST_RETURN, CHANCE_RETURN, CUES, DELAY
from optinfra.types import Action, ActionSpec, Spec

KEY = random.key(0)
SEEDS = st.integers(0, 2**31 - 1)
NO_BRANCH = torch.zeros(0, dtype=torch.int64)


def choose(*choices):
    """One discrete choice for each row, or a single one."""
    discrete = torch.tensor(choices)
    return Action(torch.zeros(*discrete.shape[:-1], 0), discrete)


def episode(env, state, obs, policy):
    """Follow a policy `(t, obs) -> choice` to the end; return what was seen and earned."""
    seen, rewards, ended = [obs[0]], [], False
    while not ended:
        choice = policy(len(rewards), seen[-1])
        after = env.step(state, choose(choice), KEY)
        state, ended = after.state, bool(after.terminated)
        assert not after.truncated
        seen.append(after.obs[0])
        rewards.append(float(after.reward))
    return torch.stack(seen), rewards


def begun(env, cue):
    """An episode with a cue of choice."""
    state = RecallState(torch.tensor(cue), torch.tensor(0))
    return state, (torch.nn.functional.one_hot(state.cue, env.spec.obs[0][0]).float(),)


@given(SEEDS, st.integers(2, 5), st.integers(0, 6), st.data())
def test_recall_shows_a_cue_then_nothing_then_asks_for_it(seed, cues, delay, data):
    env = recall(cues=cues, delay=delay)
    state, obs = env.reset(random.key(seed))
    cue = int(state.cue)
    answers = data.draw(st.lists(st.integers(0, cues - 1), min_size=delay + 2, max_size=delay + 2))
    seen, rewards = episode(env, state, obs, lambda t, _: answers[t])
    expected = torch.zeros(delay + 3, cues + 1)
    expected[0, cue], expected[delay + 1, cues] = 1.0, 1.0
    assert torch.equal(seen, expected) and seen.dtype == torch.float32
    assert rewards == [0.0] * (delay + 1) + [float(answers[-1] == cue)]


def test_recall_asks_after_as_many_steps_as_it_says():
    env = recall()
    _, rewards = episode(env, *env.reset(KEY), lambda t, _: 0)
    assert len(rewards) == DELAY + 2 and env.spec.action == ActionSpec(branches=(CUES,))


@pytest.mark.parametrize("cue", range(CUES))
def test_who_remembers_the_cue_earns_the_best_return(cue):
    env, memory = recall(), []

    def remember(t, obs):
        memory.extend(obs[:CUES].nonzero().flatten().tolist())
        return memory[0]

    _, rewards = episode(env, *begun(env, cue), remember)
    assert sum(rewards) == BEST_RETURN and memory == [cue]


@pytest.mark.parametrize("answer", range(CUES))
def test_who_does_not_remember_earns_chance(answer):
    """Whatever is answered: the question is the same for every cue, and one of them is right."""
    env = recall()
    by_heart = lambda t, obs: (t + answer) % CUES if t <= DELAY else answer
    runs = [episode(env, *begun(env, cue), by_heart) for cue in range(CUES)]
    for seen, _ in runs:
        assert torch.equal(seen[1:], runs[0][0][1:])
    assert sum(sum(rewards) for _, rewards in runs) / CUES == CHANCE_RETURN


def test_cues_are_equally_likely():
    states, obs = vmap(recall().reset)(random.split(KEY, 4096))
    share = torch.bincount(states.cue, minlength=CUES) / 4096
    torch.testing.assert_close(share, torch.full((CUES,), CHANCE_RETURN), rtol=0, atol=0.03)
    assert torch.equal(obs[0].argmax(1), states.cue)


def test_after_the_answer_recall_stays_at_its_end_and_pays_no_more():
    env = recall(cues=2, delay=0)
    state = RecallState(torch.tensor(1), torch.tensor(2))
    after = env.step(state, choose(1), KEY)
    assert bool(after.terminated) and float(after.reward) == 0.0 and not after.obs[0].any()


def test_recall_begins_anew_after_its_end_with_a_cue_of_its_own():
    step, env = autoreset(recall(cues=5, delay=1)), recall(cues=5, delay=1)
    state, obs = env.reset(KEY)
    cues = []
    for t in range(60):
        if int(state.steps) == 0:
            cues.append(int(state.cue))
            assert int(obs[0].argmax()) == cues[-1]
        state, then = step(state, choose(0), random.key(t))
        obs = then.obs
        assert bool(then.terminated) == (t % 3 == 2)
        assert not (then.terminated and then.next_obs[0].any())
    assert len(cues) == 20 and set(cues) == set(range(5))


def test_recall_takes_leading_axes_and_vmap_alike():
    env = recall(cues=3, delay=2)
    states = RecallState(torch.tensor([0, 1, 2, 1]), torch.tensor([0, 2, 3, 3]))
    actions = choose([0], [1], [2], [0])
    lifted = vmap(env.step)(states, actions, random.split(KEY, 4))
    chex.assert_trees_all_equal(env.step(states, actions, KEY), lifted)
    assert lifted.reward.tolist() == [0.0, 0.0, 1.0, 0.0]
    assert lifted.terminated.tolist() == [False, False, True, True]


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [({"cues": 1}, ValueError, r"`cues` must lie in \[2, inf\), got 1\."),
     ({"cues": 2.0}, TypeError, r"`cues` must be an integer, got 2\.0\."),
     ({"delay": -1}, ValueError, r"`delay` must lie in \[0, inf\), got -1\."),
     ({"delay": "3"}, TypeError, r"`delay` must be an integer, got '3'\.")],
)  # fmt: skip
def test_what_recall_cannot_be_made_with_is_refused(wrong, error, message):
    with pytest.raises(error, match=message):
        envs.make("tensor:Recall-v0", 1, env_kwargs=wrong)


def test_recall_refuses_an_action_of_the_wrong_kind():
    env = recall()
    with pytest.raises(ValueError, match=r"`action\.discrete` must have shape \[\*B, 1\], got \[0"):
        env.step(env.reset(KEY)[0], Action(torch.zeros(1), NO_BRANCH), KEY)


# What is hidden


FULL_AND_HIDDEN = [
    (cartpole, cartpole_without_velocity, [0, 2]),
    (pendulum, pendulum_without_velocity, [0, 1]),
]


def act(env, seed, *rows):
    """Anything that can be done, in each row."""
    key = random.key(seed)
    branches = [random.randint(key, rows, 0, n) for n in env.spec.action.branches]
    return Action(
        random.uniform(key, (*rows, env.spec.action.continuous), minval=-1.0, maxval=1.0),
        torch.stack(branches, -1) if branches else torch.zeros(*rows, 0, dtype=torch.int64),
    )


@pytest.mark.parametrize(("full", "hidden", "shown"), FULL_AND_HIDDEN)
def test_only_what_is_seen_differs_from_the_full_environment(full, hidden, shown):
    full, hidden = full(time_limit=30), hidden(time_limit=30)
    (state, obs), (same, part) = full.reset(KEY), hidden.reset(KEY)
    assert hidden.spec == Spec(obs=((2,),), action=full.spec.action)
    for t in range(40):
        chex.assert_trees_all_equal((part[0], same), (obs[0][shown], state))
        action = act(full, t)
        expected = full.step(state, action, random.key(t))
        actual = hidden.step(same, action, random.key(t))
        chex.assert_trees_all_equal(actual._replace(obs=()), expected._replace(obs=()))
        (state, obs), (same, part) = expected[:2], actual[:2]
    assert bool(expected.truncated)


def numbered(dimensions=4):
    """Observes its state, which counts on: dimension i shows 10·i and the steps."""

    def observe(steps):
        return ((10 * torch.arange(dimensions) + steps[..., None]).float(),)

    def reset(key):
        steps = torch.zeros((), dtype=torch.int64)
        return steps, observe(steps)

    def step(steps, action, key):
        steps, no = steps + 1, torch.zeros_like(steps, dtype=torch.bool)
        return envs.EnvStep(steps, observe(steps), steps.float(), no, no)

    return Env(Spec(((dimensions,),), ActionSpec(branches=(2,))), reset, step)


@given(st.permutations(range(4)), st.integers(1, 4))
def test_dimensions_are_shown_in_the_order_of_their_indices(order, number):
    indices = order[:number]
    env = observe_only(numbered(), indices)
    _, first = env.reset(KEY)
    after = env.step(torch.tensor([0, 5]), choose([0], [1]), KEY)
    assert env.spec.obs == ((number,),)
    assert first[0].tolist() == [10.0 * i for i in indices]
    assert after.obs[0].tolist() == [[10.0 * i + n for i in indices] for n in (1, 6)]
    assert after.state.tolist() == after.reward.tolist() == [1, 6]


TWO = Env(Spec(((2,), (3,)), ActionSpec(1)), *numbered()[1:])
PICTURE = Env(Spec(((2, 3),), ActionSpec(1)), *numbered()[1:])


@pytest.mark.parametrize(
    ("env", "indices", "message"),
    [(numbered(), [4], r"`indices` must lie in \[0, 3\], got 4\."),
     (numbered(), [0, -1], r"`indices` must lie in \[0, 3\], got -1\."),
     (numbered(), [], r"`indices` must name dimensions, each once, got \[\]\."),
     (numbered(), (2, 1, 2), r"`indices` must name dimensions, each once, got \[2, 1, 2\]\."),
     (TWO, [0], r"`env` must have one observation, a vector, got shapes \(\(2,\), \(3,\)\)\."),
     (PICTURE, [0], r"`env` must have one observation, a vector, got shapes \(\(2, 3\),\)\.")],
)  # fmt: skip
def test_what_cannot_be_shown_is_refused(env, indices, message):
    with pytest.raises(ValueError, match=message):
        observe_only(env, indices)


def test_two_looks_tell_the_velocity_that_one_hides():
    """So that memory suffices: x′ = x + τẋ and θ′ = θ + τθ̇, exactly."""
    env = cartpole_without_velocity()
    state, before = env.reset(KEY)
    state = state._replace(velocity=torch.tensor(0.7), angular_velocity=torch.tensor(-1.3))
    after = env.step(state, choose(1), KEY)
    found = (after.obs[0] - before[0]) / TIME_STEP
    torch.testing.assert_close(found, torch.tensor([0.7, -1.3]), rtol=1e-4, atol=1e-4)


# Names


@pytest.mark.parametrize("name", envs.TENSOR_ENVS)
def test_every_tensor_environment_keeps_its_word_by_name(name):
    """Sixty-four copies side by side, through more than one end."""
    short = {"tensor:Recall-v0": {"delay": 3}, "tensor:Catch-v0": {"rows": 6}}
    env = envs.make(name, 64, env_kwargs=short.get(name, {"time_limit": 5}))
    kinds = [
        torch.uint8 if i in env.spec.bytes else torch.float32 for i in range(len(env.spec.obs))
    ]
    state, obs = vmap(env.reset)(random.split(KEY, 64))
    ends = 0
    for t in range(11):
        keys = random.split(random.key(t), 64)
        state, then = vmap(autoreset(env))(state, act(env, t, 64), keys)
        for seen in (obs, then.obs, then.next_obs):
            assert [x.shape for x in seen] == [(64, *shape) for shape in env.spec.obs]
            assert [x.dtype for x in seen] == kinds
        ended = then.terminated | then.truncated
        ends += int(ended.sum())
        assert then.reward.dtype == torch.float32
        chex.assert_trees_all_equal(tree.take(then.obs, ~ended), tree.take(then.next_obs, ~ended))
        obs = then.obs
    assert ends >= 2 * 64


def test_names_lead_to_the_environments_that_need_memory():
    assert envs.make("tensor:Recall-v0", 1, env_kwargs={"cues": 7}).spec.obs == ((8,),)
    assert envs.make("tensor:CartPoleNoVel-v1", 1).spec.action.branches == (2,)
    assert envs.make("tensor:PendulumNoVel-v1", 1).spec.action.continuous == 1
    with pytest.raises(ValueError, match=r"Did you mean tensor:Recall-v0"):
        envs.make("tensor:recal-v0", 1)
    with pytest.raises(ValueError, match=r"`time_limit` must lie in \[1, inf\), got 0\."):
        envs.make("tensor:CartPoleNoVel-v1", 1, env_kwargs={"time_limit": 0})
