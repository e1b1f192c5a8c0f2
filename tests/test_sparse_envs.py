"""Environments whose reward chance does not find: how they move, and how little chance finds."""

import inspect

import chex
import gymnasium
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.func import vmap

from optinfra import envs, random
from optinfra.envs import MountainCarState, RoomsState, autoreset, mountaincar, rooms
from optinfra.envs.mountaincar import START_HIGH, START_LOW, WORST_RETURN
from optinfra.envs.rooms import BEST_RETURN, CHANCE_RETURN, NUM_ROOMS, ROOM_SIZE, TIME_LIMIT
from optinfra.types import Action, ActionSpec, Spec

KEY = random.key(0)
SEEDS = st.integers(0, 2**31 - 1)
BUDGET = 300_000  # steps in which chance should find no reward


def choose(choices):
    """One discrete choice for each row, or a single one: `[*B]` becomes an action."""
    discrete = torch.as_tensor(choices)[..., None]
    return Action(torch.zeros(*discrete.shape[:-1], 0), discrete)


# MountainCar


def car(position, velocity, steps=0, dtype=torch.float64):
    position, velocity = (torch.as_tensor(x, dtype=dtype) for x in (position, velocity))
    return MountainCarState(position, velocity, torch.as_tensor(steps).expand_as(position))


def played(seed, number, wide):
    """Steps of Gymnasium's car, anywhere in its range if `wide`: before, choices, after."""
    rng, steps = np.random.default_rng(seed), []
    theirs = gymnasium.make("MountainCar-v0", disable_env_checker=True)
    theirs.reset(seed=seed)
    for _ in range(number):
        if wide:
            theirs.unwrapped.state = rng.uniform([-1.2, -0.07], [0.6, 0.07])
        before = *theirs.unwrapped.state, theirs._elapsed_steps
        choice = int(rng.integers(3))
        obs, reward, terminated, truncated, _ = theirs.step(choice)
        after = *theirs.unwrapped.state, reward, terminated, truncated
        steps.append((before, choice, after, obs))
        if terminated or truncated:
            theirs.reset()
    return [np.array(column) for column in zip(*steps)]


def assert_moves_as_gymnasium(before, choices, after, obs):
    """In float64 nothing but the order of additions may differ."""
    state = car(before[:, 0], before[:, 1], before[:, 2].astype(int))
    ours = mountaincar().step(state, choose(choices), KEY)
    assert torch.equal(ours.state.steps, state.steps + 1)
    moved = torch.stack([*ours.state[:2], ours.reward], -1)
    torch.testing.assert_close(moved, torch.from_numpy(after[:, :3]), rtol=0, atol=1e-15)
    torch.testing.assert_close(ours.obs[0].float(), torch.from_numpy(obs), rtol=0, atol=0)
    assert torch.equal(ours.terminated, torch.from_numpy(after[:, 3] == 1))
    assert torch.equal(ours.truncated, torch.from_numpy(after[:, 4] == 1))


@given(SEEDS)
def test_mountaincar_moves_as_gymnasiums_does_through_two_episodes(seed):
    steps = played(seed, 401, wide=False)
    assert np.flatnonzero(steps[2][:, 4]).tolist() == [199, 399]
    assert_moves_as_gymnasium(*steps)


@given(SEEDS)
def test_mountaincar_moves_as_gymnasiums_does_wherever_it_is(seed):
    """At the wall, over the goal in either direction, at the greatest speed."""
    steps = played(seed, 1000, wide=True)
    after = steps[2]
    assert (after[:, 0] == -1.2).any() and (after[:, 3] == 1).any()
    assert ((after[:, 0] > 0.5) & (after[:, 3] == 0)).any()
    assert_moves_as_gymnasium(*steps)


@pytest.mark.parametrize(
    ("position", "velocity", "expected"),
    [(-1.19, -0.05, (-1.2, 0.0)), (0.59, 0.05, (0.6, 0.05)), (-1.2, 0.0, (-1.196, 0.003))],
)  # fmt: skip
def test_a_car_stops_at_the_left_wall_alone(position, velocity, expected):
    after = mountaincar().step(car(position, velocity), choose(2), KEY)
    torch.testing.assert_close(
        after.obs[0], torch.tensor(expected, dtype=torch.float64), rtol=0, atol=2e-3
    )


@given(SEEDS)
def test_a_car_in_float32_stays_beside_one_in_float64(seed):
    choices = torch.from_numpy(np.random.default_rng(seed).integers(0, 3, 200))
    narrow, _ = mountaincar().reset(random.key(seed))
    wide = car(narrow.position, narrow.velocity)
    for choice in choices:
        narrow = mountaincar().step(narrow, choose(choice), KEY).state
        wide = mountaincar().step(wide, choose(choice), KEY).state
    assert (narrow.position.dtype, wide.position.dtype) == (torch.float32, torch.float64)
    chex.assert_trees_all_close(narrow[:2], tuple(x.float() for x in wide[:2]), atol=1e-5)


def test_a_car_starts_at_rest_anywhere_in_its_range():
    states, obs = vmap(mountaincar().reset)(random.split(KEY, 4096))
    assert START_LOW <= states.position.min() < START_LOW + 1e-3
    assert START_HIGH - 1e-3 < states.position.max() < START_HIGH
    assert abs(states.position.mean() + 0.5) < 5e-3
    assert not states.velocity.any() and not states.steps.any()
    assert torch.equal(obs[0], torch.stack(states[:2], -1)) and obs[0].dtype == torch.float32


def drive(policy, episodes=1024):
    """Follow a policy `(state, t) -> choices` from as many starts; lengths and furthest places."""
    env = mountaincar()
    state, _ = vmap(env.reset)(random.split(KEY, episodes))
    furthest, lengths = state.position, torch.zeros(episodes, dtype=torch.int64)
    running = torch.ones(episodes, dtype=torch.bool)
    for t in range(200):
        after = env.step(state, choose(policy(state, t)), KEY)
        state, lengths = after.state, lengths + running
        furthest = torch.where(running, state.position.maximum(furthest), furthest)
        running = running & ~after.terminated
    assert after.truncated.all() and (after.reward == -1).all()
    return lengths, furthest


def test_who_pushes_the_way_the_car_rolls_reaches_the_goal_from_every_start():
    lengths, furthest = drive(lambda state, t: torch.where(state.velocity < 0, 0, 2))
    assert (furthest >= 0.5).all() and lengths.min() >= 110 and lengths.max() <= 130


def test_who_moves_at_random_stays_far_from_the_goal():
    """Of 200,000 episodes the one that came furthest reached −0.003."""
    at_random = lambda state, t: random.randint(random.key(t), state.position.shape, 0, 3)
    lengths, furthest = drive(at_random, episodes=4096)
    assert (-lengths == WORST_RETURN).all() and furthest.max() < 0.1


@pytest.mark.parametrize("choice", range(3))
def test_no_push_alone_is_strong_enough(choice):
    _, furthest = drive(lambda state, t: torch.full_like(state.steps, choice))
    assert furthest.max() < 0


# Rooms


SIZES = st.tuples(st.integers(1, 7), st.integers(2, 7))  # rooms, cells along a side
MOVES = ((-1, 0), (1, 0), (0, -1), (0, 1))  # up, down, left, right


def plan(num_rooms, room_size):
    """What stands in each cell, drawn line by line: the rooms, then walls with their doors."""
    width = num_rooms * (room_size + 1) - 1
    lines = [["."] * width for _ in range(room_size)]
    for wall in range(num_rooms - 1):
        for line in lines:
            line[(wall + 1) * (room_size + 1) - 1] = "#"
        lines[0 if wall % 2 else -1][(wall + 1) * (room_size + 1) - 1] = "o"
    lines[0][0] = "S"
    lines[-1 if num_rooms % 2 else 0][-1] = "G"
    return lines


def cells(lines, signs):
    return [(r, c) for r, line in enumerate(lines) for c, sign in enumerate(line) if sign in signs]


def at(places, steps=0):
    row, column = torch.tensor(places).unbind(-1)
    return RoomsState(row, column, torch.full_like(row, steps))


def places(state):
    return list(zip(state.row.tolist(), state.column.tolist()))


def moves(env, lines):
    """Where each action leads from each cell: cell, action, cell, reward."""
    open_cells = cells(lines, "S.oG")
    for a in range(4):
        after = env.step(at(open_cells), choose([a] * len(open_cells)), KEY)
        yield from zip(open_cells, [a] * len(open_cells), places(after.state), after.reward)


def test_rooms_are_as_they_are_drawn():
    documented = [line.split() for line in inspect.getdoc(rooms).splitlines()]
    start = next(i for i, line in enumerate(documented) if line[:1] == ["S"])
    assert documented[start : start + ROOM_SIZE] == plan(NUM_ROOMS, ROOM_SIZE)


@given(SIZES)
def test_every_action_leads_to_the_next_cell_or_nowhere(size):
    lines = plan(*size)
    env = rooms(num_rooms=size[0], room_size=size[1])
    free, (goal,) = set(cells(lines, "S.oG")), cells(lines, "G")
    for (r, c), a, there, reward in moves(env, lines):
        aim = r + MOVES[a][0], c + MOVES[a][1]
        assert there == (aim if aim in free else (r, c))
        assert float(reward) == (there == goal)


def shortest_way(num_rooms, room_size):
    """Actions from the start to the goal: through each room to its door, and through that."""
    for room in range(num_rooms):
        yield from [room % 2 == 0] * (room_size - 1)  # down in every other one
        yield from [3] * (room_size + 1 if room < num_rooms - 1 else room_size - 1)


@given(SIZES)
def test_the_shortest_way_earns_the_best_return(size):
    num_rooms, room_size = size
    way = [int(a) for a in shortest_way(num_rooms, room_size)]
    assert len(way) == 2 * num_rooms * room_size - 2
    env = rooms(num_rooms=num_rooms, room_size=room_size, time_limit=len(way))
    state, _ = env.reset(KEY)
    rewards, ends = [], []
    for a in way:
        after = env.step(state, choose(a), KEY)
        state = after.state
        rewards.append(float(after.reward))
        ends.append((bool(after.terminated), bool(after.truncated)))
    assert sum(rewards) == rewards[-1] == BEST_RETURN
    assert ends == [(False, False)] * (len(way) - 1) + [(True, True)]


@given(SIZES)
def test_no_way_is_shorter(size):
    lines = plan(*size)
    env = rooms(num_rooms=size[0], room_size=size[1])
    following = {}
    for here, _, there, _ in moves(env, lines):
        following.setdefault(here, set()).add(there)
    (edge, seen), (goal,), steps = ({(0, 0)},) * 2, cells(lines, "G"), 0
    while goal not in edge:
        edge = set().union(*(following[here] for here in edge)) - seen
        seen, steps = seen | edge, steps + 1
    assert steps == 2 * size[0] * size[1] - 2


def chance(env, lines, limit):
    """Probability that uniformly random moves reach the goal in time, place by place."""
    here = {(0, 0): 1.0}
    found, ways = 0.0, {}
    for cell, _, there, reward in moves(env, lines):
        ways.setdefault(cell, []).append((there, bool(reward)))
    for _ in range(limit):
        after = {}
        for cell, probability in here.items():
            for there, won in ways[cell]:
                if won:
                    found += probability / 4
                else:
                    after[there] = after.get(there, 0.0) + probability / 4
        here = after
    assert found + sum(here.values()) == pytest.approx(1.0)
    return found


def test_chance_practically_never_finds_the_goal():
    found = chance(rooms(), plan(NUM_ROOMS, ROOM_SIZE), TIME_LIMIT)
    assert found == pytest.approx(CHANCE_RETURN, rel=1e-3, abs=0)
    assert found * BUDGET / TIME_LIMIT < 1e-8  # the episodes of a budget together


def test_the_chance_is_what_random_moves_find():
    """Where it is large enough to be counted: a room of its own, 4,096 episodes."""
    env, limit = rooms(num_rooms=1, room_size=4), 20
    state, _ = vmap(env.reset)(random.split(KEY, 4096))
    won = torch.zeros(4096, dtype=torch.bool)
    for t in range(limit):
        after = env.step(state, choose(random.randint(random.key(t), (4096,), 0, 4)), KEY)
        state, won = after.state, won | after.terminated
    expected = chance(env, plan(1, 4), limit)
    assert float(won.float().mean()) == pytest.approx(expected, abs=0.03) and expected > 0.1


@given(SIZES)
def test_what_is_seen_tells_row_and_column_and_no_more(size):
    num_rooms, room_size = size
    env = rooms(num_rooms=num_rooms, room_size=room_size)
    lines = plan(num_rooms, room_size)
    free = cells(lines, "S.o")
    after = env.step(at(free, steps=7), choose([3] * len(free)), KEY)
    (seen,) = after.obs
    expected = torch.zeros(len(free), len(lines) + len(lines[0]))
    for i, (r, c) in enumerate(places(after.state)):
        expected[i, r] = expected[i, len(lines) + c] = 1.0
    assert torch.equal(seen, expected) and seen.dtype == after.reward.dtype == torch.float32
    assert env.spec == Spec(obs=((expected.shape[1],),), action=ActionSpec(branches=(4,)))


def test_every_episode_in_rooms_begins_in_the_first_corner():
    env = rooms()
    states, obs = vmap(env.reset)(random.split(KEY, 8))
    assert not any(x.any() for x in states)
    expected = torch.zeros(env.spec.obs[0])
    expected[0] = expected[ROOM_SIZE] = 1.0
    assert torch.equal(obs[0], expected.expand(8, -1)) and obs[0].dtype == torch.float32


@given(st.integers(1, 12), SEEDS)
def test_rooms_are_truncated_at_their_limit_and_begun_anew(limit, seed):
    env = rooms(time_limit=limit)
    step, (state, _) = autoreset(env), env.reset(KEY)
    for t in range(1, 2 * limit + 1):
        choice = random.randint(random.fold_in(random.key(seed), t), (), 0, 4)
        state, then = step(state, choose(choice), KEY)
        assert (bool(then.terminated), bool(then.truncated)) == (False, t % limit == 0)
        assert float(then.reward) == 0.0 and int(state.steps) == t % limit
    assert places(RoomsState(*(x[None] for x in state))) == [(0, 0)]


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [({"num_rooms": 0}, ValueError, r"`num_rooms` must lie in \[1, inf\), got 0\."),
     ({"num_rooms": "4"}, TypeError, r"`num_rooms` must be an integer, got '4'\."),
     ({"room_size": 1}, ValueError, r"`room_size` must lie in \[2, inf\), got 1\."),
     ({"room_size": 5.0}, TypeError, r"`room_size` must be an integer, got 5\.0\."),
     ({"time_limit": 0}, ValueError, r"`time_limit` must lie in \[1, inf\), got 0\.")],
)  # fmt: skip
def test_what_rooms_cannot_be_made_with_is_refused(wrong, error, message):
    with pytest.raises(error, match=message):
        envs.make("tensor:Rooms-v0", 1, env_kwargs=wrong)


# Both


@pytest.mark.parametrize("make", [mountaincar, rooms])
def test_many_side_by_side_move_as_each_alone(make):
    env = make(time_limit=2)
    states, _ = vmap(env.reset)(random.split(KEY, 5))
    states = states._replace(steps=torch.arange(5) % 3)
    actions = choose([0, 1, 2, 1, 0])
    lifted = vmap(env.step)(states, actions, random.split(KEY, 5))
    chex.assert_trees_all_close(env.step(states, actions, KEY), lifted, rtol=1e-6)
    assert lifted.truncated.tolist() == [False, True, True, False, True]


@pytest.mark.parametrize("make", [mountaincar, rooms])
def test_an_action_without_a_branch_is_refused(make):
    env = make()
    torque = Action(torch.zeros(1), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"`action\.discrete` must have shape \[\*B, 1\], got \[0"):
        env.step(env.reset(KEY)[0], torque, KEY)


def test_names_lead_to_the_environments_whose_reward_is_sparse():
    assert envs.make("tensor:MountainCar-v0", 1).spec.action.branches == (3,)
    assert envs.make("tensor:Rooms-v0", 1, env_kwargs={"num_rooms": 2}).spec.obs == ((16,),)
    with pytest.raises(ValueError, match=r"`time_limit` must lie in \[1, inf\), got 0\."):
        envs.make("tensor:MountainCar-v0", 1, env_kwargs={"time_limit": 0})
