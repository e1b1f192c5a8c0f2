"""Fetch: what is asked for pays, nothing else does, and without the goal nobody can know it."""

from itertools import combinations

import chex
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.func import vmap

from optinfra import envs, random, tree
from optinfra.envs import FetchState, autoreset, fetch
from optinfra.envs.fetch import (
    BEST_RETURN,
    CHANCE_RETURN,
    IGNORANT_RETURN,
    MOVES,
    SIZE,
    THINGS,
    TIME_LIMIT,
)
from optinfra.types import Action, ActionSpec, Spec

KEY = random.key(0)
SEEDS = st.integers(0, 2**31 - 1)
MANY = 4096
UP, DOWN, LEFT, RIGHT, TAKE = range(MOVES)
WAYS = ((-1, 0), (1, 0), (0, -1), (0, 1), (0, 0))


def choose(choices):
    """One discrete choice for each row, or a single one: `[*B]` becomes an action."""
    discrete = torch.as_tensor(choices)[..., None]
    return Action(torch.zeros(*discrete.shape[:-1], 0), discrete)


@st.composite
def scenes(draw):
    """A room in which anything may have happened: (things, size) and its state."""
    size = draw(st.integers(2, 6))
    things = draw(st.integers(2, min(5, size * size)))
    cells = draw(st.permutations(range(size * size)))[:things]
    stands = draw(st.sampled_from([*cells, draw(st.integers(0, size * size - 1))]))
    state = FetchState(
        place=torch.tensor(divmod(stands, size)),
        things=torch.tensor([divmod(cell, size) for cell in cells]),
        asked=torch.tensor(draw(st.integers(0, things - 1))),
        steps=torch.tensor(draw(st.integers(0, 9))),
    )
    return (things, size), state


@given(scenes(), st.integers(0, MOVES - 1))
def test_a_step_does_what_a_plain_telling_of_it_does(scene, a):
    (things, size), state = scene
    after = fetch(things=things, size=size, time_limit=7).step(state, choose(a), KEY)
    row, column = (x + d for x, d in zip(state.place.tolist(), WAYS[a]))
    place = [min(size - 1, max(0, row)), min(size - 1, max(0, column))]
    lies = [k for k, there in enumerate(state.things.tolist()) if there == place]
    assert after.state.place.tolist() == place
    assert bool(after.terminated) == (a == TAKE and bool(lies))
    assert float(after.reward) == (a == TAKE and lies == [int(state.asked)])
    assert bool(after.truncated) == (int(state.steps) + 1 >= 7)
    expected = state._replace(place=torch.tensor(place), steps=state.steps + 1)
    chex.assert_trees_all_equal(after.state, expected)
    assert after.reward.dtype == torch.float32


@given(scenes(), st.integers(0, MOVES - 1))
def test_the_ways_to_all_things_and_the_goal_are_seen(scene, a):
    (things, size), state = scene
    after = fetch(things=things, size=size).step(state, choose(a), KEY)
    ways = [[(x - y) / size for x, y in zip(there, after.state.place.tolist())]
            for there in state.things.tolist()]  # fmt: skip
    goal = [float(k == int(state.asked)) for k in range(things)]
    torch.testing.assert_close(after.obs, (torch.tensor(ways).flatten(), torch.tensor(goal)))


def test_the_spec_tells_which_observation_is_the_goal():
    action = ActionSpec(branches=(MOVES,))
    assert fetch(things=3).spec == Spec(obs=((6,), (3,)), action=action, goals=(1,))
    assert fetch(things=3, shown=False).spec == Spec(obs=((6,),), action=action)


@given(SEEDS)
def test_only_what_is_seen_differs_where_the_goal_is_hidden(seed):
    env, hidden, key = fetch(), fetch(shown=False), random.key(seed)
    (state, obs), (same, part) = env.reset(key), hidden.reset(key)
    for t in range(6):
        chex.assert_trees_all_equal((obs[:1], state), (part, same))
        action = choose(random.randint(random.fold_in(key, t), (), 0, MOVES))
        one, two = env.step(state, action, key), hidden.step(same, action, key)
        chex.assert_trees_all_equal(one._replace(obs=()), two._replace(obs=()))
        (state, obs), (same, part) = one[:2], two[:2]


# Starts


def starts(**options):
    return vmap(fetch(**options).reset)(random.split(KEY, MANY))


def test_things_lie_in_cells_of_their_own_and_in_each_as_often():
    states, _ = starts(things=3, size=3)
    cells = states.things[..., 0] * 3 + states.things[..., 1]
    assert all((cells[:, i] != cells[:, k]).all() for i, k in combinations(range(3), 2))
    for k in range(3):
        share = torch.bincount(cells[:, k], minlength=9) / MANY
        torch.testing.assert_close(share, torch.full((9,), 1 / 9), rtol=0, atol=0.02)


def test_as_many_things_as_cells_fill_the_room():
    states, _ = starts(things=4, size=2)
    cells = states.things[..., 0] * 2 + states.things[..., 1]
    assert torch.equal(cells.sort(1).values, torch.arange(4).expand(MANY, 4))


def test_every_start_and_every_goal_is_as_likely_and_drawn_apart():
    states, obs = starts(things=2, size=2)
    goals = states.asked
    places = states.place[:, 0] * 2 + states.place[:, 1]
    first = states.things[:, 0, 0] * 2 + states.things[:, 0, 1]
    share = torch.bincount(goals + 2 * places + 8 * first, minlength=32) / MANY
    torch.testing.assert_close(share, torch.full((32,), 1 / 32), rtol=0, atol=0.015)
    assert not states.steps.any() and torch.equal(obs[1].argmax(1), goals)


@given(SEEDS)
def test_the_key_alone_decides_the_start(seed):
    key = random.key(seed)
    chex.assert_trees_all_equal(fetch().reset(key), fetch().reset(key))


# What policies earn


def play(policy, number=MANY):
    """Follow a policy `(obs, t) -> [B]` through one episode each; returns and lengths."""
    env = fetch()
    state, obs = vmap(env.reset)(random.split(KEY, number))
    returns, lengths = torch.zeros(number), torch.zeros(number, dtype=torch.int64)
    running = torch.ones(number, dtype=torch.bool)
    for t in range(TIME_LIMIT):
        after = vmap(env.step)(state, choose(policy(obs, t)), random.split(KEY, number))
        returns, lengths = returns + after.reward * running, lengths + running
        running = running & ~after.terminated
        state, obs = after.state, after.obs
    assert after.truncated.all()
    return returns, lengths


def go(ways):
    """Go these ways `[B, 2]`, rows first, and take what is there."""
    row, column = ways.unbind(-1)
    across = torch.where(column < 0, LEFT, torch.where(column > 0, RIGHT, TAKE))
    return torch.where(row < 0, UP, torch.where(row > 0, DOWN, across))


def test_who_goes_to_what_is_asked_for_earns_the_best_return():
    def wise(obs, t):
        ways, goal = obs
        return go((ways.unflatten(-1, (THINGS, 2)) * goal[..., None]).sum(-2))

    returns, lengths = play(wise)
    assert (returns == BEST_RETURN).all() and lengths.max() == 2 * SIZE - 1 <= TIME_LIMIT


@given(st.integers(2, 5), SEEDS, SEEDS)
def test_whoever_does_not_know_the_goal_is_right_once_for_all_goals_together(things, seed, policy):
    """Whatever is done, for it is the same under each goal: here by a random table of what is seen.

    Hence the mean over goals, which are equally likely, is at most 1 / things: exactly that
    where something is taken, else 0.
    """
    env, table = fetch(things=things, size=3, shown=False), random.key(policy)
    start, (seen,) = env.reset(random.key(seed))
    states = vmap(lambda goal: start._replace(asked=goal))(torch.arange(things))
    obs, running = seen.expand(things, -1), torch.ones(things, dtype=torch.bool)
    returns = torch.zeros(things)
    for t in range(TIME_LIMIT):
        assert torch.equal(obs, obs[:1].expand_as(obs))
        code = int((obs[0] * 3 + 3).sum() * 7 + t)
        choice = random.randint(random.fold_in(table, code), (), 0, MOVES).expand(things)
        after = vmap(env.step)(states, choose(choice), random.split(KEY, things))
        returns, running = returns + after.reward * running, running & ~after.terminated
        states, (obs,) = after.state, after.obs
    assert float(returns.sum()) == float(~running[0]) and (running == running[0]).all()


def test_who_takes_something_without_the_goal_earns_what_ignorance_can():
    returns, _ = play(lambda obs, t: go(obs[0][:, :2]))
    assert float(returns.mean()) == pytest.approx(IGNORANT_RETURN, abs=0.02)


def chance():
    """Probability that uniformly random moves take something in time, over all that can lie."""
    layouts = torch.tensor(list(combinations(range(SIZE * SIZE), THINGS)))
    lies = torch.zeros(len(layouts), SIZE * SIZE, dtype=torch.float64).scatter_(1, layouts, 1.0)
    here = torch.full((len(layouts), SIZE, SIZE), 1 / SIZE**2, dtype=torch.float64)
    taken = torch.zeros(len(layouts), dtype=torch.float64)
    for _ in range(TIME_LIMIT):
        goes = here / MOVES
        takes = goes * lies.reshape(-1, SIZE, SIZE)
        taken, here = taken + takes.sum((1, 2)), goes - takes
        for axis in (1, 2):
            inner, edge = goes.narrow(axis, 0, SIZE - 1), goes.select(axis, SIZE - 1)
            here.narrow(axis, 1, SIZE - 1).add_(inner)
            here.select(axis, SIZE - 1).add_(edge)
            inner, edge = goes.narrow(axis, 1, SIZE - 1), goes.select(axis, 0)
            here.narrow(axis, 0, SIZE - 1).add_(inner)
            here.select(axis, 0).add_(edge)
    torch.testing.assert_close(taken + here.sum((1, 2)), torch.ones_like(taken))
    return float(taken.mean()) / THINGS


def test_chance_is_what_it_is_said_to_be():
    assert chance() == pytest.approx(CHANCE_RETURN, abs=5e-5)


def test_who_moves_at_random_earns_what_chance_does():
    at_random = lambda obs, t: random.randint(random.fold_in(KEY, t), (len(obs[0]),), 0, MOVES)
    returns, _ = play(at_random)
    assert float(returns.mean()) == pytest.approx(CHANCE_RETURN, abs=0.02)
    assert CHANCE_RETURN < IGNORANT_RETURN < BEST_RETURN


# Ends and refusals


@given(st.integers(1, 8))
def test_fetch_is_truncated_at_its_limit_and_begun_anew(limit):
    env = fetch(time_limit=limit)
    step, (state, _) = autoreset(env), env.reset(KEY)
    for t in range(1, 2 * limit + 1):
        state, then = step(state, choose(UP), random.key(t))
        assert (bool(then.terminated), bool(then.truncated)) == (False, t % limit == 0)
        assert int(state.steps) == t % limit


def test_many_side_by_side_move_as_each_alone():
    keys = random.split(KEY, 8)
    states, _ = vmap(fetch().reset)(keys)
    choices = torch.arange(8) % MOVES
    lifted = vmap(fetch().step)(states, choose(choices), keys)
    alone = [fetch().step(fetch().reset(k)[0], choose(a), k) for k, a in zip(keys, choices)]
    chex.assert_trees_all_equal(lifted, tree.stack(alone))


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [({"things": 1}, ValueError, r"`things` must lie in \[2, inf\), got 1\."),
     ({"things": 5, "size": 2}, ValueError, r"`things` must lie in \(-inf, 4\], got 5\."),
     ({"things": 2.0}, TypeError, r"`things` must be an integer, got 2\.0\."),
     ({"size": 1}, ValueError, r"`size` must lie in \[2, inf\), got 1\."),
     ({"size": "5"}, TypeError, r"`size` must be an integer, got '5'\."),
     ({"time_limit": 0}, ValueError, r"`time_limit` must lie in \[1, inf\), got 0\.")],
)  # fmt: skip
def test_what_fetch_cannot_be_made_with_is_refused(wrong, error, message):
    with pytest.raises(error, match=message):
        envs.make("tensor:Fetch-v0", 1, env_kwargs=wrong)


def test_an_action_without_a_branch_is_refused():
    torque = Action(torch.zeros(1), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"`action\.discrete` must have shape \[K\] = \[1\], got"):
        fetch().step(fetch().reset(KEY)[0], torque, KEY)
