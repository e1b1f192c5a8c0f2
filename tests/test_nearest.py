"""Nearest: which target is due, what a touch is worth, and that neither slots nor order tell it.

What policies earn is in tests/test_nearest_returns.py.
"""

import math

import chex
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch.func import vmap

from optinfra import envs, random, tree
from optinfra.envs import NearestState, autoreset, nearest
from optinfra.envs.nearest import (
    ARRIVAL_PROB,
    REACH,
    ROUNDS,
    SPEED,
    TARGETS,
)
from optinfra.types import Action, ActionSpec, Spec

KEY = random.key(0)
SEEDS = st.integers(0, 2**31 - 1)
MANY = 4096


def move(*way):
    """Move along both axes by these shares of the speed: one action `[2]` or `[*B, 2]`."""
    continuous = torch.tensor(way) if isinstance(way[0], float) else way[0]
    return Action(continuous, torch.zeros(*continuous.shape[:-1], 0, dtype=torch.int64))


def scene(place, targets, *, origin=None, absent=(), reached=0, steps=0):
    """A state told in numbers; slots that are `absent` hold what they hold."""
    return NearestState(
        place=torch.tensor(place),
        origin=torch.tensor(place if origin is None else origin),
        targets=torch.tensor(targets),
        present=torch.tensor([i not in absent for i in range(len(targets))]),
        reached=torch.tensor(reached),
        steps=torch.tensor(steps),
    )


def begun(seed, number=TARGETS):
    """A start, then a few steps at random: anything may have been touched."""
    env = nearest(targets=number)
    key = random.key(seed)
    state, _ = env.reset(key)
    for t in range(seed % 4):
        step_key = random.fold_in(key, t)
        chosen = random.uniform(step_key, (2,), minval=-1.0, maxval=1.0)
        state = env.step(state, move(chosen), step_key).state
    return state


def close_to(state, target, share):
    """Put the agent so far from a target, as a share of the reach, on the way to the middle."""
    way = -state.targets[target] / state.targets[target].norm()
    return state._replace(place=state.targets[target] + share * REACH * way)


def plain(state, action):
    """The step once more, in numbers: place, touched slots, whether the right one is among them."""
    place = [
        min(1.0, max(-1.0, x + SPEED * min(1.0, max(-1.0, a))))
        for x, a in zip(state.place.tolist(), action.continuous.tolist())
    ]
    targets, there = state.targets.tolist(), state.present.tolist()
    from_origin = [math.dist(x, state.origin.tolist()) for x in targets]
    least = min(d for d, here in zip(from_origin, there) if here)
    touched = [i for i, here in enumerate(there) if here and math.dist(targets[i], place) <= REACH]
    return place, touched, any(from_origin[i] == least for i in touched)


def on_edge(state, action):
    """Whether rounding may decide what is touched."""
    place = torch.tensor(plain(state, action)[0])
    return ((state.targets - place).norm(dim=1) - REACH).abs().min() < 1e-5


def rows(state):
    """The targets that are there, whatever their order."""
    return sorted(state.targets[state.present].tolist())


# What is due, and what is paid


AIM = st.tuples(*[st.floats(-1.5, 1.5, width=32)] * 2)


@given(SEEDS, st.integers(1, 8), st.integers(0, 7), st.floats(0, 3), AIM, st.integers(1, 4))
@example(0, 6, 0, 0.5, (0.0, 0.0), 1)
@example(1, 6, 3, 0.5, (0.0, 0.0), 2)
def test_a_step_does_what_a_plain_telling_of_it_does(seed, number, near, share, aim, rounds):
    state, action = close_to(begun(seed, number), near % number, share), move(*map(float, aim))
    if on_edge(state, action):
        return
    place, touched, right = plain(state, action)
    after = nearest(targets=number, rounds=rounds, time_limit=3).step(state, action, KEY)
    torch.testing.assert_close(after.state.place.tolist(), place, rtol=0, atol=1e-6)
    reward = 0.0 if not touched else 1 / rounds if right else -1 / rounds
    assert float(after.reward) == pytest.approx(reward)
    left = state._replace(
        present=state.present & ~torch.isin(torch.arange(number), torch.tensor(touched))
    )
    if touched:
        assert torch.equal(after.state.origin, after.state.place)
        assert all(x in rows(after.state) for x in rows(left))
        assert not any(x in rows(after.state) for x in state.targets[touched].tolist())
    else:
        assert torch.equal(after.state.origin, state.origin)
        assert rows(after.state) == rows(state)
    assert int(after.state.reached) == int(state.reached) + bool(touched)
    assert bool(after.terminated) == (int(after.state.reached) >= rounds)
    assert int(after.state.steps) == int(state.steps) + 1
    assert bool(after.truncated) == (int(after.state.steps) >= 3)


@pytest.mark.parametrize(
    ("touches", "reward"), [(0, 1 / ROUNDS), (1, -1 / ROUNDS), (2, -1 / ROUNDS), (3, 0.0)]
)
def test_the_nearest_earns_and_every_other_one_costs(touches, reward):
    """Of these the first is the nearest to the origin; the last slot is empty and nearer still."""
    targets = [[0.3, 0.0], [-0.4, 0.0], [0.0, 0.9], [0.0, -0.2]]
    state = scene([0.0, 0.0], targets, absent=(3,))
    state = state._replace(place=state.targets[touches])
    after = nearest(targets=4).step(state, move(0.0, 0.0), KEY)
    assert float(after.reward) == pytest.approx(reward)


def test_what_is_due_is_told_by_the_origin_and_not_by_where_the_agent_has_gone():
    targets = [[0.3, 0.0], [-0.4, 0.0]]
    state = scene([-0.3, 0.0], targets, origin=[0.0, 0.0])
    after = nearest(targets=2).step(state, move(-0.1, 0.0), KEY)
    assert float(after.reward) == pytest.approx(-1 / ROUNDS)
    assert torch.equal(after.state.origin, after.state.place)


def test_who_touches_the_right_one_and_another_at_once_is_paid_for_the_right_one():
    targets = [[0.3, 0.0], [0.31, 0.05], [0.9, 0.9]]
    state = scene([0.1, 0.0], targets)
    after = nearest(targets=3, rounds=2).step(state, move(0.8, 0.0), KEY)
    assert float(after.reward) == 0.5 and int(after.state.reached) == 1
    assert [0.9, 0.9] in [[round(x, 3) for x in row] for row in rows(after.state)]


@given(SEEDS)
def test_an_episode_ends_with_its_last_round_whatever_was_touched(seed):
    state = begun(seed)._replace(reached=torch.tensor(2))
    state = close_to(state, int(state.present.nonzero()[0, 0]), 0.5)
    after = nearest(rounds=3).step(state, move(0.0, 0.0), KEY)
    assert bool(after.terminated) and abs(float(after.reward)) == pytest.approx(1 / 3)


def test_nobody_moves_faster_than_the_speed_or_leaves_the_plane():
    env, state = nearest(targets=1), scene([0.0, 0.9], [[-0.9, -0.9]])
    fast, full = (env.step(state, move(x, 1.0), KEY).state.place for x in (7.0, 1.0))
    assert torch.equal(fast, full) and fast.tolist() == [SPEED, 1.0]
    assert env.step(state, move(-7.0, 0.0), KEY).state.place[0] == -SPEED


# Who is there


@given(SEEDS, st.integers(1, 8))
def test_one_target_at_least_is_there_and_never_more_than_there_are_slots(seed, number):
    env = nearest(targets=number, rounds=100, time_limit=100)
    state, _ = env.reset(random.key(seed))
    for t in range(12):
        assert 1 <= int(state.present.sum()) <= number
        assert (state.targets.abs() <= 1).all() and (state.place.abs() <= 1).all()
        state = close_to(state, int(state.present.nonzero()[-1, 0]), 0.5)
        state = env.step(state, move(0.0, 0.0), random.fold_in(random.key(seed), t)).state
    assert int(state.reached) == 12


@given(SEEDS, st.integers(1, 8))
def test_an_absent_target_is_shown_as_zeros_and_a_present_one_is_not(seed, number):
    state = begun(seed, number)
    env = nearest(targets=number)
    (itself, others) = env.step(state, move(0.0, 0.0), KEY).obs
    after = env.step(state, move(0.0, 0.0), KEY).state
    assert torch.equal(itself, torch.cat([after.place, after.origin - after.place]))
    assert torch.equal(others[:, 2], after.present.float())
    assert not others[~after.present].any()
    ways = torch.cat([after.targets - after.place, torch.ones(number, 1)], 1)
    assert torch.equal(others[after.present], ways[after.present])
    assert (others.square().sum(1) >= 0.01).tolist() == after.present.tolist()


def test_every_number_of_targets_is_as_likely_at_the_start():
    states, _ = vmap(nearest().reset)(random.split(KEY, MANY))
    share = torch.bincount(states.present.sum(1), minlength=TARGETS + 1) / MANY
    torch.testing.assert_close(share[1:], torch.full((TARGETS,), 1 / TARGETS), rtol=0, atol=0.03)
    assert share[0] == 0 and not states.steps.any() and not states.reached.any()
    assert torch.equal(states.origin, states.place)


def touched_once(present, keys):
    """States after the touch of the target in slot 0, of those that are `present`."""
    number = len(present)
    targets = torch.tensor([[0.0, 0.0]] + [[0.5, 0.1 * i] for i in range(1, number)]).tolist()
    absent = [i for i, here in enumerate(present) if not here]
    state = scene([0.05, 0.0], targets, absent=absent)
    step = lambda key: nearest(targets=number).step(state, move(0.0, 0.0), key).state
    return vmap(step)(keys), state


def test_new_targets_come_with_a_reach_alone_and_into_empty_slots_by_a_coin_each():
    states, before = touched_once([True, True, True, False, False], random.split(KEY, MANY))
    arrived = states.present.sum(1) - 2
    share = torch.bincount(arrived, minlength=4) / MANY  # of three empty slots
    expected = [math.comb(3, k) * ARRIVAL_PROB**k * (1 - ARRIVAL_PROB) ** (3 - k) for k in range(4)]
    torch.testing.assert_close(share, torch.tensor(expected), rtol=0, atol=0.03)
    for kept in before.targets[1:3]:
        assert (states.present & (states.targets == kept).all(-1)).any(1).all()


def test_where_none_is_left_one_comes_all_the_same():
    states, _ = touched_once([True, False], random.split(KEY, MANY))
    share = torch.bincount(states.present.sum(1), minlength=3) / MANY
    torch.testing.assert_close(share, torch.tensor([0.0, 0.75, 0.25]), rtol=0, atol=0.03)


@pytest.mark.parametrize("drawn", ["place", "first", "new"])
def test_whatever_is_drawn_lies_anywhere_in_the_plane(drawn):
    keys = random.split(KEY, MANY)
    if drawn == "new":
        states, _ = touched_once([True], keys)
        places = states.targets[:, 0]
    else:
        states, _ = vmap(nearest(targets=1).reset)(keys)
        places = states.place if drawn == "place" else states.targets[:, 0]
    assert (places.abs() <= 1).all()
    chex.assert_trees_all_close(places.amin(0), -torch.ones(2), atol=0.01)
    chex.assert_trees_all_close(places.amax(0), torch.ones(2), atol=0.01)
    chex.assert_trees_all_close(places.mean(0), torch.zeros(2), atol=0.04)
    chex.assert_trees_all_close(places.T.cov(), torch.eye(2) / 3, atol=0.03)


def test_place_and_targets_of_a_start_are_drawn_apart():
    states, _ = vmap(nearest(targets=2).reset)(random.split(KEY, MANY))
    drawn = torch.cat([states.place, states.targets.flatten(1)], 1)
    chex.assert_trees_all_close(drawn.T.cov(), torch.eye(6) / 3, atol=0.03)


# Order


@given(SEEDS, SEEDS, st.permutations(range(TARGETS)), st.floats(0, 2))
def test_another_order_of_the_slots_changes_nothing_but_where_new_ones_come(
    seed, key, order, share
):
    state = begun(seed)
    state = close_to(state, int(state.present.nonzero()[0, 0]), share)
    other = state._replace(targets=state.targets[order], present=state.present[order])
    env, action = nearest(), move(0.3, -0.2)
    one, two = (env.step(x, action, random.key(key)) for x in (state, other))
    for field in ("reward", "terminated", "truncated"):
        assert torch.equal(getattr(one, field), getattr(two, field))
    assert torch.equal(one.obs[0], two.obs[0])
    if not one.reward:
        assert rows(one.state) == rows(two.state)
        assert sorted(one.obs[1].tolist()) == sorted(two.obs[1].tolist())


@pytest.mark.parametrize("begins", [True, False])
def test_the_nearest_is_in_every_slot_as_often_at_starts_and_steps_alike(begins):
    env, keys = nearest(targets=4), random.split(KEY, MANY)
    states, _ = vmap(env.reset)(keys)
    if not begins:
        state = scene([0.0, 0.0], [[0.5, 0.0], [0.6, 0.0], [0.7, 0.0], [0.8, 0.0]], absent=(3,))
        states = vmap(lambda key: env.step(state, move(0.0, 0.0), key).state)(keys)
    far = (states.targets - states.origin[:, None]).norm(dim=-1)
    slot = torch.where(states.present, far, torch.inf).argmin(1)
    share = torch.bincount(slot, minlength=4) / MANY
    torch.testing.assert_close(share, torch.full((4,), 0.25), rtol=0, atol=0.03)
    torch.testing.assert_close(
        states.present.float().mean(0), states.present.float().mean().expand(4), rtol=0, atol=0.03
    )


@given(SEEDS)
def test_the_key_alone_decides_what_is_random(seed):
    env, key = nearest(), random.key(seed)
    (one, _), (two, _), (other, _) = env.reset(key), env.reset(key), env.reset(random.split(key)[0])
    chex.assert_trees_all_equal(one, two)
    assert not torch.equal(one.targets, other.targets)
    first, again = (env.step(one, move(0.1, 0.2), key) for _ in range(2))
    chex.assert_trees_all_equal(first, again)


# Shapes, ends, refusals


@given(SEEDS)
def test_a_flat_set_is_the_set_in_a_row_and_all_else_is_the_same(seed):
    env, flat = nearest(), nearest(flat=True)
    assert env.spec == Spec(obs=((4,), (TARGETS, 3)), action=ActionSpec(continuous=2))
    assert flat.spec == Spec(obs=((4,), (TARGETS * 3,)), action=ActionSpec(continuous=2))
    (state, obs), (same, row) = env.reset(random.key(seed)), flat.reset(random.key(seed))
    for t in range(4):
        chex.assert_trees_all_equal((obs[0], obs[1].flatten(), state), (*row, same))
        key = random.fold_in(random.key(seed), t)
        action = move((state.targets - state.place)[0] / SPEED)
        one, two = env.step(state, action, key), flat.step(same, action, key)
        chex.assert_trees_all_equal(one._replace(obs=()), two._replace(obs=()))
        (state, obs), (same, row) = one[:2], two[:2]


@given(st.integers(1, 6), SEEDS)
def test_nearest_is_truncated_at_its_limit_and_begun_anew(limit, seed):
    env = nearest(targets=2, time_limit=limit, rounds=100)
    step, (state, _) = autoreset(env), env.reset(KEY)
    for t in range(1, 2 * limit + 1):
        key = random.fold_in(random.key(seed), t)
        state, then = step(state, move(0.4, -0.3), key)
        assert (bool(then.terminated), bool(then.truncated)) == (False, t % limit == 0)
        assert int(state.steps) == t % limit


def test_many_side_by_side_move_as_each_alone():
    keys = random.split(KEY, 16)
    states = tree.stack([begun(seed) for seed in range(16)])
    moves = random.uniform(KEY, (16, 2), minval=-1.0, maxval=1.0)
    lifted = vmap(nearest().step)(states, move(moves), keys)
    alone = [nearest().step(begun(seed), move(moves[seed]), keys[seed]) for seed in range(16)]
    chex.assert_trees_all_close(lifted, tree.stack(alone), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [({"targets": 0}, ValueError, r"`targets` must lie in \[1, inf\), got 0\."),
     ({"targets": 2.0}, TypeError, r"`targets` must be an integer, got 2\.0\."),
     ({"rounds": 0}, ValueError, r"`rounds` must lie in \[1, inf\), got 0\."),
     ({"rounds": "5"}, TypeError, r"`rounds` must be an integer, got '5'\."),
     ({"time_limit": 0}, ValueError, r"`time_limit` must lie in \[1, inf\), got 0\.")],
)  # fmt: skip
def test_what_nearest_cannot_be_made_with_is_refused(wrong, error, message):
    with pytest.raises(error, match=message):
        envs.make("tensor:Nearest-v0", 1, env_kwargs=wrong)


def test_an_action_without_two_dimensions_is_refused():
    env = nearest()
    push = Action(torch.zeros(0), torch.tensor([1]))
    with pytest.raises(
        ValueError, match=r"`action\.continuous` must have shape \[A\] = \[2\], got"
    ):
        env.step(env.reset(KEY)[0], push, KEY)
