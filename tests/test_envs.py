"""Tensor environments move as Gymnasium's do; a new episode knows nothing of the old one."""

import math
import subprocess
import sys

import chex
import gymnasium
import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch.func import vmap

from optinfra import random, tree
from optinfra.envs import CartPoleState, Env, EnvStep, PendulumState, autoreset, cartpole, pendulum
from optinfra.types import Action, ActionSpec, Spec

NONE = torch.zeros(0)
NO_BRANCH = torch.zeros(0, dtype=torch.int64)
STEPS = 1000


def push(right):
    return Action(NONE, torch.tensor([int(right)]))


def torque(share):
    return Action(torch.tensor([share], dtype=torch.float32), NO_BRANCH)


def cart(x=0.0, v=0.0, angle=0.0, w=0.0, steps=0):
    return CartPoleState(*torch.tensor([x, v, angle, w]).unbind(), torch.tensor(steps))


def follow(name, env, state_of, act, seed=0, wide=lambda rng, state: state):
    """Compare 1,000 steps, each from Gymnasium's own state."""
    rng = np.random.default_rng(seed)
    theirs = gymnasium.make(name, disable_env_checker=True)
    theirs.reset(seed=seed)
    terminations = truncations = 0
    for _ in range(STEPS):
        theirs.unwrapped.state = wide(rng, np.array(theirs.unwrapped.state))
        state = state_of(theirs.unwrapped.state, theirs._elapsed_steps)
        ours, executed = act(rng)
        obs, reward, terminated, truncated, _ = theirs.step(executed)
        step = env.step(state, ours, random.key(0))
        expected = torch.from_numpy(obs), torch.tensor(reward, dtype=torch.float32)
        chex.assert_trees_all_close((step.obs[0], step.reward), expected, rtol=1e-5, atol=1e-5)
        assert (bool(step.terminated), bool(step.truncated)) == (terminated, truncated)
        assert int(step.state.steps) == theirs._elapsed_steps
        terminations, truncations = terminations + terminated, truncations + truncated
        if terminated or truncated:
            theirs.reset()
    return terminations, truncations


def cart_state(state, steps):
    return CartPoleState(*torch.tensor(state, dtype=torch.float32).unbind(), torch.tensor(steps))


def rod_state(state, steps):
    return PendulumState(*torch.tensor(state, dtype=torch.float32).unbind(), torch.tensor(steps))


def random_push(rng):
    right = int(rng.integers(2))
    return push(right), right


def random_torque(rng):
    share = np.float32(rng.uniform(-1, 1))
    return torque(share), np.array([2 * share])


def test_cartpole_steps_as_gymnasium_does_from_its_own_states():
    terminations, _ = follow("CartPole-v1", cartpole(), cart_state, random_push)
    assert terminations > 10


def test_cartpole_steps_as_gymnasium_does_far_from_upright_and_fast():
    """Near the start every angle is small, and a wrong sine or mass would hide."""
    scale = np.array([2.3, 3.0, 1.4, 4.0])
    spread = lambda rng, state: rng.uniform(-scale, scale)
    follow("CartPole-v1", cartpole(), cart_state, random_push, wide=spread)


def test_cartpole_is_truncated_when_gymnasium_is():
    upright = lambda rng, state: np.zeros(4)
    flags = follow("CartPole-v1", cartpole(), cart_state, random_push, wide=upright)
    assert flags == (0, 2)


def test_pendulum_steps_as_gymnasium_does_from_its_own_states():
    flags = follow("Pendulum-v1", pendulum(), rod_state, random_torque)
    assert flags == (0, 5)


def test_pendulum_steps_as_gymnasium_does_where_speed_is_clipped():
    spread = lambda rng, state: rng.uniform([-20, -8], [20, 8])
    follow("Pendulum-v1", pendulum(), rod_state, random_torque, wide=spread)


def test_pendulum_takes_no_more_than_its_greatest_torque():
    state = rod_state(np.array([0.3, 0.2]), 0)
    over, full = (pendulum().step(state, torque(a), random.key(0)) for a in (1.7, 1.0))
    chex.assert_trees_all_equal(over, full)


@pytest.mark.parametrize(
    ("x", "angle", "down"),
    [(2.39, 0.0, False), (2.41, 0.0, True), (-2.39, 0.0, False), (-2.41, 0.0, True),
     (0.0, 0.209, False), (0.0, 0.21, True), (0.0, -0.209, False), (0.0, -0.21, True)],
)  # fmt: skip
def test_cartpole_terminates_beyond_either_bound(x, angle, down):
    step = cartpole().step(cart(x=x, angle=angle), push(True), random.key(0))
    assert bool(step.terminated) is down and float(step.reward) == 1.0


def test_cartpole_may_terminate_with_its_last_step():
    step = cartpole().step(cart(x=3.0, steps=499), push(True), random.key(0))
    assert bool(step.terminated) and bool(step.truncated)


@pytest.mark.parametrize(
    ("env", "low", "high"),
    [(cartpole(), [-0.05] * 4, [0.05] * 4), (pendulum(), [-math.pi, -1.0], [math.pi, 1.0])],
)
def test_a_start_fills_the_range_gymnasium_draws_from(env, low, high):
    states, obs = vmap(env.reset)(random.split(random.key(3), 4096))
    start = torch.stack(states[:-1], dim=-1)
    low, high = torch.tensor(low), torch.tensor(high)
    assert (start >= low).all() and (start <= high).all()
    chex.assert_trees_all_close(start.amin(0), low, rtol=0.01)
    chex.assert_trees_all_close(start.amax(0), high, rtol=0.01)
    chex.assert_trees_all_close(start.mean(0), torch.zeros_like(low), atol=0.02 * float(high[0]))
    assert (states.steps == 0).all() and obs[0].shape == (4096, *env.spec.obs[0])


@pytest.mark.parametrize(("env", "act"), [(cartpole(), random_push), (pendulum(), random_torque)])
def test_sixty_four_environments_under_vmap_equal_a_loop(env, act):
    rng = np.random.default_rng(0)
    keys = random.split(random.key(1), 64)
    actions = [act(rng)[0] for _ in keys]
    state, obs = vmap(env.reset)(keys)
    lifted = vmap(env.step)(state, tree.stack(actions), keys)
    looped = [env.step(env.reset(k)[0], a, k) for k, a in zip(keys, actions)]
    chex.assert_trees_all_close(lifted, tree.stack(looped), rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(obs, tree.stack([env.reset(k)[1] for k in keys]), rtol=1e-5)
    direct = env.step(state, tree.stack(actions), keys[0])
    chex.assert_trees_all_close(direct, lifted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("env", [cartpole(), pendulum()])
def test_a_step_keeps_the_dtype_of_its_state(env):
    widen = lambda x: x.double() if x.is_floating_point() else x
    state = tree.map(widen, env.reset(random.key(0))[0])
    action = push(True) if env.spec.action.branches else torque(0.5)
    step = env.step(state, action, random.key(0))
    assert step.obs[0].dtype == step.reward.dtype == torch.float64


def counter(limit, deadly=3):
    """Counts; dies when an action says so; draws its start and every step from the key."""

    def reset(key):
        start = random.uniform(key, (2,))
        return (start, torch.zeros((), dtype=torch.int64)), (start,)

    def step(state, action, key):
        place = state[0] + random.uniform(key, (2,), minval=2.0, maxval=3.0)
        steps = state[1] + 1
        dead = action.discrete[0] == deadly
        return EnvStep((place, steps), (place,), place.sum(), dead, steps >= limit)

    return Env(Spec(obs=((2,),), action=ActionSpec(branches=(4,))), reset, step)


SEEDS = st.integers(0, 2**31 - 1)
PLACES = st.floats(-5, 5, width=32)


@given(SEEDS, PLACES, PLACES, st.integers(0, 3), st.integers(0, 3))
@example(0, 0.0, 1.0, 3, 0)
@example(0, 0.0, 1.0, 0, 3)
@example(0, 0.0, 1.0, 3, 3)
def test_autoreset_keeps_what_followed_and_forgets_the_past(seed, a, b, choice, steps):
    env = counter(limit=4)
    key = random.key(seed)
    act = Action(NONE, torch.tensor([choice]))
    pasts = [(torch.tensor([x, -x]), torch.tensor(steps)) for x in (a, b)]
    (state, seen), (other, _) = (autoreset(env)(past, act, key) for past in pasts)
    dead, late = choice == 3, steps == 3
    assert (bool(seen.terminated), bool(seen.truncated)) == (dead, late)
    assert (seen.next_obs[0] - pasts[0][0] >= 2.0).all(), "not what followed the action"
    chex.assert_trees_all_close(seen.reward, seen.next_obs[0].sum())
    if dead or late:
        chex.assert_trees_all_equal(state, other)
        chex.assert_trees_all_equal(seen.obs[0], state[0])
        assert int(state[1]) == 0 and (seen.obs[0] >= 0).all() and (seen.obs[0] < 1).all()
    else:
        chex.assert_trees_all_equal(seen.obs, seen.next_obs)
        chex.assert_trees_all_equal(state, (seen.next_obs[0], torch.tensor(steps + 1)))


def test_autoreset_draws_step_and_start_from_different_keys():
    env = counter(limit=1)
    state, _ = env.reset(random.key(0))
    fresh, seen = autoreset(env)(state, Action(NONE, torch.tensor([0])), random.key(1))
    drawn = seen.next_obs[0] - state[0] - 2.0
    assert not torch.allclose(drawn, fresh[0], atol=1e-3)


def test_autoreset_resets_the_members_that_ended_and_no_other():
    env = counter(limit=4)
    keys = random.split(random.key(5), 3)
    states = (torch.zeros(3, 2), torch.tensor([0, 3, 1]))
    act = Action(torch.zeros(3, 0), torch.tensor([[0], [0], [3]]))
    (_, steps), seen = vmap(autoreset(env))(states, act, keys)
    assert steps.tolist() == [1, 0, 0]
    assert (seen.obs[0] == seen.next_obs[0]).all(1).tolist() == [True, False, False]
    assert seen.truncated.tolist() == [False, True, False]
    assert seen.terminated.tolist() == [False, False, True]


def test_an_episode_of_autoreset_lasts_as_long_as_the_limit():
    step = autoreset(pendulum(time_limit=3))
    state, _ = pendulum().reset(random.key(0))
    ends = []
    for t in range(9):
        state, seen = step(state, torque(0.1), random.key(t))
        ends.append(bool(seen.truncated))
    assert ends == [False, False, True] * 3


@pytest.mark.parametrize("make", [cartpole, pendulum])
def test_a_time_limit_below_one_is_refused(make):
    with pytest.raises(ValueError, match=r"`time_limit` must lie in \[1, inf\), got 0\."):
        make(time_limit=0)


def test_an_action_of_the_wrong_kind_is_refused():
    state, key = cart(), random.key(0)
    with pytest.raises(ValueError, match=r"`action\.discrete` must have shape \[\*B, 1\], got \[0"):
        cartpole().step(state, torque(0.5), key)
    state = pendulum().reset(key)[0]
    with pytest.raises(ValueError, match=r"`action\.continuous` must have shape \[\*B, 1\], got"):
        pendulum().step(state, push(True), key)


def test_importing_envs_loads_no_gymnasium():
    code = "import sys, optinfra.envs; print('gymnasium' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
