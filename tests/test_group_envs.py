"""Groups lose agents in mid-episode, and escape only where one gives itself up."""

import inspect
import subprocess
import sys

import chex
import numpy as np
import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st
from torch.func import vmap

from optinfra import envs, random, tree
from optinfra.envs import EscapeState, GroupEnv, GroupStep, escape, group_autoreset
from optinfra.envs.escape import (
    AGENTS,
    BEST_RETURN,
    CHANCE_RETURN,
    COLUMNS,
    MOVES,
    ROWS,
    SEEN,
    TIME_LIMIT,
)
from optinfra.types import Action, ActionSpec, Spec

KEY = random.key(0)
SEEDS = st.integers(0, 2**31 - 1)
SIZES = st.tuples(st.integers(2, 5), st.integers(1, 4), st.integers(3, 6))  # agents, rows, columns
STAY, UP, DOWN, LEFT, RIGHT = range(MOVES)
WAYS = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))


def choose(choices):
    """One discrete choice for each agent: `[*B, A]` becomes an action."""
    discrete = torch.as_tensor(choices)[..., None]
    return Action(torch.zeros(*discrete.shape[:-1], 0), discrete)


def by_chance(seed, t, shape):
    return random.randint(random.fold_in(random.key(seed), t), shape, 0, MOVES)


def make(size, **options):
    agents, rows, columns = size
    return escape(agents=agents, rows=rows, columns=columns, **options)


def scripted(obs):
    """All hurry to the guard and its key, and who has the key hurries to the door: `[*B, A]`.

    It knows what an agent sees, and nothing else.
    """
    mine = obs[..., 8] > 0
    row, column = (torch.where(mine, obs[..., 4 + i], obs[..., 2 + i]) for i in range(2))
    upright = torch.where(row < 0, UP, torch.where(row > 0, DOWN, STAY))
    return torch.where(column < 0, LEFT, torch.where(column > 0, RIGHT, upright))


class Played:
    """Episodes side by side, each until its end; `ends` counts the steps, 0 without one."""

    def __init__(self, env, policy, *, keys, limit):
        state, (obs,), present = vmap(env.reset)(keys)
        self.won, self.ends = torch.zeros(len(keys)), torch.zeros(len(keys), dtype=torch.int64)
        self.left, self.steps = present, []
        for t in range(limit):
            after = vmap(env.step)(state, choose(policy(t, state, obs)), keys)
            running = self.ends == 0
            self.won = self.won + after.group_reward * running
            self.ends = torch.where(running & after.terminated, t + 1, self.ends)
            self.left = torch.where(running[:, None], after.present, self.left)
            self.steps.append((state, after))
            state, (obs,) = after.state, after.obs


# What happens in a dungeon, told once more in plain Python


class Plain:
    """The same dungeon for one group, in lists and loops."""

    def __init__(self, size, state):
        self.size, self.agents = size, [tuple(place) for place in state.places.tolist()]
        self.guard, self.door = tuple(state.guard.tolist()), tuple(state.door.tolist())
        self.there, self.stands = state.present.tolist(), bool(state.stands)
        owners = state.carries.nonzero().flatten().tolist()
        self.owner = owners[0] if owners else None

    def step(self, choices):
        """Return who is shown something, and whether the group has left."""
        _, rows, columns = self.size
        shown, lay = [i for i, here in enumerate(self.there) if here], not self.stands
        for i in shown:
            (row, column), (down, right) = self.agents[i], WAYS[choices[i]]
            if 0 <= row + down < rows and 0 <= column + right < columns:
                self.agents[i] = row + down, column + right
        for i in shown:
            if self.agents[i] == self.guard:
                if self.stands:
                    self.there[i] = self.stands = False
                elif lay and self.owner is None:
                    self.owner = i
        return shown, self.owner is not None and self.agents[self.owner] == self.door

    def seen(self, i):
        _, rows, columns = self.size
        row, column = self.agents[i]
        ways = [(there[0] - row, there[1] - column) for there in (self.guard, self.door)]
        places = [x for way in ((row, column), *ways) for x in way]
        lies, mine = not self.stands and self.owner is None, self.owner == i
        fate = self.stands, lies, mine, self.owner is not None and not mine
        shares = [x / size for x, size in zip(places, (rows, columns) * 3)]
        return [*shares, *map(float, fate)]


@st.composite
def scenes(draw):
    """A dungeon in which anything may have happened: its size and its state."""
    size = agents, rows, columns = draw(SIZES)
    cell = st.tuples(st.integers(0, rows - 1), st.integers(0, columns - 1))
    places = draw(st.lists(cell, min_size=agents, max_size=agents))
    removed, owner = draw(st.sampled_from([(None, None), (0, None), (0, 1), (1, None), (1, 0)]))
    slots = torch.arange(agents)
    state = EscapeState(
        places=torch.tensor(places),
        present=slots != (-1 if removed is None else removed),
        guard=torch.tensor([draw(st.integers(0, rows - 1)), columns - 1]),
        door=torch.tensor([draw(st.integers(0, rows - 1)), 0]),
        stands=torch.tensor(removed is None),
        carries=slots == (-1 if owner is None else owner),
        steps=torch.tensor(draw(st.integers(0, 9))),
    )
    return size, state


def choices(size):
    return st.lists(st.integers(0, MOVES - 1), min_size=size[0], max_size=size[0])


@given(scenes(), st.data(), st.booleans())
def test_a_step_does_what_a_plain_telling_of_it_does(scene, data, shared):
    size, state = scene
    env, plain = make(size, time_limit=5, shared=shared), Plain(size, state)
    for _ in range(4):
        chosen = data.draw(choices(size))
        after = env.step(state, choose(chosen), KEY)
        shown, left = plain.step(chosen)
        expected = torch.zeros(size[0], SEEN)
        for i in shown:
            expected[i] = torch.tensor(plain.seen(i))
        chex.assert_trees_all_close(after.obs, (expected,), rtol=0, atol=1e-6)
        assert after.present.tolist() == plain.there and bool(after.terminated) == left
        assert [tuple(place) for place in after.state.places.tolist()] == plain.agents
        of_its_own = [float(left and not shared and i == plain.owner) for i in range(size[0])]
        assert (
            float(after.group_reward) == (left and shared) and after.reward.tolist() == of_its_own
        )
        assert bool(after.truncated) == (int(state.steps) + 1 >= 5)
        state = after.state


@given(SIZES, SEEDS)
def test_a_start_shows_what_a_plain_telling_of_it_shows(size, seed):
    state, (obs,), present = make(size).reset(random.key(seed))
    plain = Plain(size, state)
    expected = torch.tensor([plain.seen(i) for i in range(size[0])])
    chex.assert_trees_all_close(obs, expected, rtol=0, atol=1e-6)
    assert obs.dtype == torch.float32 and present.all() and bool(state.stands)
    assert not state.carries.any() and int(state.steps) == 0


def test_a_start_is_as_it_is_drawn():
    documented = [line.split()[:COLUMNS] for line in inspect.getdoc(escape).splitlines()]
    at = next(i for i, line in enumerate(documented) if line[:1] == ["D"])
    signs = [sign for line in documented[at : at + ROWS] for sign in line[:COLUMNS]]
    assert len(signs) == ROWS * COLUMNS and set(signs) == {"D", ".", "a", "G"}
    places = {sign: [i % COLUMNS for i, s in enumerate(signs) if s == sign] for sign in "DaG"}
    assert (places["D"], len(places["a"]), places["G"]) == ([0], AGENTS, [COLUMNS - 1])
    assert all(0 < column < COLUMNS - 1 for column in places["a"])


def test_a_start_puts_everybody_anywhere_between_and_door_and_guard_in_any_row():
    states, _, _ = vmap(escape().reset)(random.split(KEY, 4096))
    between = states.places[..., 0] * COLUMNS + states.places[..., 1]
    for agent in between.unbind(1):
        share = torch.bincount(agent, minlength=ROWS * COLUMNS).reshape(ROWS, COLUMNS) / 4096
        expected = torch.zeros(ROWS, COLUMNS)
        expected[:, 1:-1] = 1 / (ROWS * (COLUMNS - 2))
        torch.testing.assert_close(share, expected, rtol=0, atol=0.02)
    for place, column in ((states.guard, COLUMNS - 1), (states.door, 0)):
        share = torch.bincount(place[:, 0], minlength=ROWS) / 4096
        torch.testing.assert_close(share, torch.full((ROWS,), 1 / ROWS), rtol=0, atol=0.03)
        assert (place[:, 1] == column).all()
    together = torch.corrcoef(torch.stack([*between.T, states.guard[:, 0], states.door[:, 0]]))
    assert (together - torch.eye(len(together))).abs().max() < 0.06


# Only cooperation pays


@given(SIZES, SEEDS)
@example((3, 1, 3), 0)
def test_a_group_that_hurries_always_escapes(size, seed):
    bound = 2 * (size[1] + size[2]) - 4
    hurry = lambda t, state, obs: scripted(obs)
    env = make(size, time_limit=bound)
    played = Played(env, hurry, keys=random.split(random.key(seed), 8), limit=bound)
    assert (played.won == BEST_RETURN).all() and (played.ends > 0).all()
    assert (played.left.sum(1) == size[0] - 1).all()
    assert all(
        after.truncated.any() == (t == bound - 1) for t, (_, after) in enumerate(played.steps)
    )


@pytest.mark.parametrize("size", [(2, 1, 3), (3, 3, 5), (2, 4, 4)])
def test_no_start_takes_longer_than_is_said_and_some_take_as_long(size):
    bound = 2 * (size[1] + size[2]) - 4
    hurry = lambda t, state, obs: scripted(obs)
    played = Played(make(size), hurry, keys=random.split(KEY, 4096), limit=bound)
    assert int(played.ends.max()) == bound and int(played.ends.min()) > 0


@given(SIZES, SEEDS)
def test_without_a_sacrifice_nobody_ever_escapes(size, seed):
    """They move by chance, but who would step onto the guard stays."""

    def careful(t, state, obs):
        chosen = by_chance(seed, t, state.present.shape)
        moves = torch.tensor(WAYS)[chosen]
        touches = ((state.places + moves) == state.guard[:, None]).all(-1)
        return torch.where(touches, STAY, chosen)

    played = Played(make(size), careful, keys=random.split(random.key(seed), 16), limit=15)
    assert not played.won.any() and not played.ends.any() and played.left.all()
    assert not played.steps[-1][0].carries.any()


@given(SIZES, SEEDS)
def test_who_escapes_by_chance_has_lost_exactly_one(size, seed):
    agents, rows, columns = size
    limit = 20 if rows * columns > 9 else 8
    at_random = lambda t, state, obs: by_chance(seed, t, state.present.shape)
    played = Played(make(size), at_random, keys=random.split(random.key(seed), 64), limit=limit)
    assert (played.left.sum(1)[played.ends > 0] == agents - 1).all()
    for before, after in played.steps:
        lost = before.present & ~after.present
        assert (lost.sum(1) == (before.stands & ~after.state.stands)).all()
        assert (after.state.carries.sum(1) <= 1).all() and not (after.reward != 0).any()
        assert not (after.state.carries & ~after.present).any()
        fell_before = ~before.stands[:, None] | ~after.state.carries
        assert fell_before.all(), "the key was taken while the guard stood"
        assert (before.carries <= after.state.carries).all()


def test_a_whole_group_that_comes_at_once_loses_one_and_goes_on():
    state = EscapeState(
        places=torch.tensor([[0, 1], [0, 1], [0, 1]]), present=torch.ones(3, dtype=torch.bool),
        guard=torch.tensor([0, 2]), door=torch.tensor([0, 0]), stands=torch.tensor(True),
        carries=torch.zeros(3, dtype=torch.bool), steps=torch.tensor(0),
    )  # fmt: skip
    env = make((3, 1, 3))
    fallen = env.step(state, choose([RIGHT] * 3), KEY)
    assert fallen.present.tolist() == [False, True, True] and not fallen.state.carries.any()
    taken = env.step(fallen.state, choose([STAY] * 3), KEY)
    assert taken.state.carries.tolist() == [False, True, False]
    assert taken.present.tolist() == [False, True, True]


# Chance


def walk(rows, columns):
    """How an agent moves by chance, from cell to cell: `[cells, cells]`."""
    moves = np.zeros((rows * columns, rows * columns))
    for row in range(rows):
        for column in range(columns):
            for down, right in WAYS:
                to = (np.clip(row + down, 0, rows - 1), np.clip(column + right, 0, columns - 1))
                moves[row * columns + column, to[0] * columns + to[1]] += 1 / MOVES
    return moves


def chance(rows, columns, limit):
    """Probability that three who move by chance escape in time: where they are, all at once."""
    moves, escaped = walk(rows, columns), 0.0
    start = np.zeros((rows, columns))
    start[:, 1:-1] = 1 / (rows * (columns - 2))
    start = start.ravel()
    for guard in range(columns - 1, rows * columns, columns):
        for door in range(0, rows * columns, columns):
            three = np.einsum("a,b,c->abc", start, start, start)
            two, one, won = np.zeros_like(moves), np.zeros(rows * columns), 0.0
            for _ in range(limit):
                one, two = one @ moves, moves.T @ two @ moves
                three = np.einsum("abc,ai,bj,ck->ijk", three, moves, moves, moves, optimize=True)
                won, one[door] = won + one[door], 0.0
                one[guard] += two[guard].sum() + two[:, guard].sum() - two[guard, guard]
                two[guard] = two[:, guard] = 0.0
                for who in range(3):  # the first who comes is lost, the others go on
                    others = np.moveaxis(three, who, 0)
                    two += others[guard]
                    others[guard] = 0.0
            escaped += won / rows**2
    return escaped


def test_chance_escapes_as_rarely_as_is_said():
    assert chance(ROWS, COLUMNS, TIME_LIMIT) == pytest.approx(CHANCE_RETURN, abs=5e-6)
    assert 0.01 < CHANCE_RETURN < 0.1


def test_the_chance_is_what_random_moves_find():
    at_random = lambda t, state, obs: by_chance(1, t, state.present.shape)
    played = Played(escape(), at_random, keys=random.split(KEY, 8192), limit=TIME_LIMIT)
    assert float(played.won.mean()) == pytest.approx(CHANCE_RETURN, abs=4 * 0.27 / 8192**0.5)
    fallen = ~played.steps[-1][1].state.stands
    assert 0.8 < float(fallen.float().mean()) < 0.95


# Who is gone


@given(scenes(), st.data())
def test_nothing_that_a_removed_agent_does_or_holds_changes_the_future(scene, data):
    size, state = scene
    assume(not state.present.all())
    gone = int((~state.present).nonzero())
    env, agents, absent = make(size, time_limit=99), size[0], ~state.present
    anywhere = torch.tensor(data.draw(st.tuples(*[st.integers(-9, 99)] * 2)))
    other = state._replace(places=torch.where(absent[:, None], anywhere, state.places))
    for _ in range(6):
        chosen = data.draw(choices(size))
        altered = [
            data.draw(st.integers(-9, 99)) if i == gone else chosen[i] for i in range(agents)
        ]
        one, two = env.step(state, choose(chosen), KEY), env.step(other, choose(altered), KEY)
        chex.assert_trees_all_equal(one[1:], two[1:])
        chex.assert_trees_all_equal(one.state._replace(places=0), two.state._replace(places=0))
        assert torch.equal(one.state.places[~absent], two.state.places[~absent])
        state, other = one.state, two.state


@given(scenes(), st.data())
def test_a_removed_agent_is_shown_its_end_once_and_then_nothing(scene, data):
    size, state = scene
    env, was_there = make(size), state.present
    for _ in range(4):
        after = env.step(state, choose(data.draw(choices(size))), KEY)
        assert not after.obs[0][~was_there].any()
        lost = was_there & ~after.present
        here = after.obs[0][:, 2:4] == 0  # where the guard has fallen
        assert (here.all(1) | ~lost).all() and ((after.obs[0][:, 7] == 1) | ~lost).all()
        assert (after.present <= was_there).all(), "somebody came back"
        state, was_there = after.state, after.present


@given(scenes(), st.data())
def test_agents_in_another_order_do_the_same_in_that_order(scene, data):
    """Unless two come to the guard's place at once: then the first slot is first."""
    size, state = scene
    env, chosen = make(size), torch.tensor(data.draw(choices(size)))
    order = torch.tensor(data.draw(st.permutations(range(size[0]))))
    after = env.step(state, choose(chosen), KEY)
    assume(int((after.state.places == state.guard).all(-1).sum()) < 2)
    turned = state._replace(
        **{n: getattr(state, n)[order] for n in ("places", "present", "carries")}
    )
    other = env.step(turned, choose(chosen[order]), KEY)
    chex.assert_trees_all_equal(other.obs[0], after.obs[0][order])
    chex.assert_trees_all_equal(other.present, after.present[order])
    chex.assert_trees_all_equal(other.state.carries, after.state.carries[order])
    chex.assert_trees_all_equal(other[3:4], after[3:4])
    assert bool(other.terminated) == bool(after.terminated)


@given(SIZES, SEEDS)
def test_many_groups_side_by_side_move_as_each_alone(size, seed):
    env, keys = make(size, time_limit=6), random.split(random.key(seed), 4)
    state, obs, present = vmap(env.reset)(keys)
    chex.assert_trees_all_equal((state, obs, present), tree.stack([env.reset(k) for k in keys]))
    for t in range(6):
        chosen = by_chance(seed, t, present.shape)
        after = vmap(env.step)(state, choose(chosen), keys)
        alone = [env.step(tree.take(state, i), choose(c), keys[i]) for i, c in enumerate(chosen)]
        chex.assert_trees_all_equal(after, tree.stack(alone))
        chex.assert_trees_all_equal(after, env.step(state, choose(chosen), keys[0]))
        state = after.state
    assert after.truncated.all()


# A new episode where the group's ended


def counter(limit, deadly=3):
    """Two agents that count; who does 3 leaves; start and steps are drawn from the key."""

    def reset(key):
        start, there = random.uniform(key, (2, 2)), torch.ones(2, dtype=torch.bool)
        return (start, torch.zeros((), dtype=torch.int64), there), (start,), there

    def step(state, action, key):
        place = state[0] + random.uniform(key, (2, 2), minval=2.0, maxval=3.0)
        steps, there = state[1] + 1, state[2] & (action.discrete[:, 0] != deadly)
        reward = torch.where(state[2], place.sum(1), 0.0)
        ends = ~there.any(), steps >= limit
        return GroupStep((place, steps, there), (place,), reward, place.max(), there, *ends)

    return GroupEnv(Spec(((2,),), ActionSpec(branches=(4,))), 2, reset, step)


PLACES = st.floats(-5, 5, width=32)
DONE = st.integers(2, 3)  # 3 is what an agent leaves with


@given(SEEDS, PLACES, PLACES, st.tuples(DONE, DONE), st.integers(0, 3))
@example(0, 0.0, 1.0, (3, 3), 0)
@example(0, 0.0, 1.0, (3, 2), 0)
@example(0, 0.0, 1.0, (3, 2), 3)
@example(0, 0.0, 1.0, (3, 3), 3)
def test_autoreset_keeps_what_followed_and_who_saw_it_and_forgets_the_past(seed, a, b, done, steps):
    env, key, action = counter(limit=4), random.key(seed), choose(done)
    there = torch.ones(2, dtype=torch.bool)
    pasts = [(torch.full((2, 2), x), torch.tensor(steps), there) for x in (a, b)]
    (state, seen), (other, _) = (group_autoreset(env)(past, action, key) for past in pasts)
    step_key, reset_key = random.split(key).unbind()
    after = env.step(pasts[0], action, step_key)
    chex.assert_trees_all_equal(
        (seen.next_obs, seen.next_present, *seen[4:]),
        (after.obs, after.present, *after[2:4], *after[5:]),
    )
    assert seen.next_present.tolist() == [choice != 3 for choice in done]
    assert (bool(seen.terminated), bool(seen.truncated)) == (done == (3, 3), steps == 3)
    if done == (3, 3) or steps == 3:
        chex.assert_trees_all_equal((state, seen.obs, seen.present), env.reset(reset_key))
        chex.assert_trees_all_equal(state, other)
    else:
        chex.assert_trees_all_equal((state, seen.obs, seen.present), after[:2] + after[4:5])


def test_autoreset_begins_the_groups_that_ended_anew_and_no_other():
    keys, there = random.split(random.key(5), 4), torch.ones(4, 2, dtype=torch.bool)
    states = (torch.zeros(4, 2, 2), torch.tensor([0, 3, 1, 1]), there)
    action = choose([[0, 0], [0, 3], [3, 3], [3, 0]])
    (_, steps, _), seen = vmap(group_autoreset(counter(limit=4)))(states, action, keys)
    assert steps.tolist() == [1, 0, 0, 2]
    same = (seen.obs[0] == seen.next_obs[0]).all((1, 2))
    assert same.tolist() == [True, False, False, True]
    assert seen.present.tolist() == [[True, True]] * 3 + [[False, True]]
    assert seen.next_present.tolist() == [
        [True, True],
        [True, False],
        [False, False],
        [False, True],
    ]
    assert seen.truncated.tolist() == [False, True, False, False]
    assert seen.terminated.tolist() == [False, False, True, False]


def test_a_start_depends_on_the_key_alone_whatever_went_before():
    env, key = escape(time_limit=1), random.key(9)
    pasts, _, _ = vmap(env.reset)(random.split(KEY, 16))
    pasts = pasts._replace(stands=torch.arange(16) % 2 == 0, present=by_chance(0, 0, (16, 3)) > 1)
    chosen = choose(by_chance(0, 1, (16, 3)))
    state, seen = vmap(group_autoreset(env), in_dims=(0, 0, None))(pasts, chosen, key)
    for x in tree.leaves((state, seen.obs, seen.present)):
        assert (x == x[0]).all()
    assert seen.present.all() and not seen.next_present.all()


def test_episodes_of_escape_follow_one_another():
    """Each has one end, at its limit or by leaving, and begins whole."""
    step = vmap(group_autoreset(escape(time_limit=14)))
    state, (obs,), _ = vmap(escape().reset)(random.split(KEY, 32))
    ends, since = torch.zeros(2), torch.zeros(32, dtype=torch.int64)
    for t in range(60):
        chosen = torch.where(torch.arange(32)[:, None] < 16, scripted(obs), STAY)
        state, then = step(state, choose(chosen), random.split(random.key(t), 32))
        since, ended = since + 1, then.terminated | then.truncated
        assert torch.equal(state.steps, torch.where(ended, 0, since))
        assert then.present[ended].all() and torch.equal(then.present, state.present)
        assert (then.group_reward == then.terminated).all()
        ends += torch.stack([then.terminated.sum(), (ended & ~then.terminated).sum()])
        since, (obs,) = torch.where(ended, 0, since), then.obs
    assert ends[0] >= 16 * 5 and ends[1] == 16 * 4


# Names and refusals


def test_a_name_leads_to_the_dungeon():
    env = envs.make("tensor:Escape-v0", 1, env_kwargs={"agents": 5})
    assert isinstance(env, GroupEnv) and env.agents == 5
    assert env.spec == Spec(obs=((10,),), action=ActionSpec(branches=(5,)))
    assert isinstance(envs.TENSOR_GROUPS["tensor:Escape-v0"](), GroupEnv)
    for wrong in ("tensor:escape-v0", "Escape-v0"):
        with pytest.raises(ValueError, match="Did you mean tensor:Escape-v0"):
            envs.make(wrong, 1)


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [({"agents": 1}, ValueError, r"`agents` must lie in \[2, inf\), got 1\."),
     ({"agents": 3.0}, TypeError, r"`agents` must be an integer, got 3\.0\."),
     ({"rows": 0}, ValueError, r"`rows` must lie in \[1, inf\), got 0\."),
     ({"rows": "3"}, TypeError, r"`rows` must be an integer, got '3'\."),
     ({"columns": 2}, ValueError, r"`columns` must lie in \[3, inf\), got 2\."),
     ({"columns": 5.5}, TypeError, r"`columns` must be an integer, got 5\.5\."),
     ({"time_limit": 0}, ValueError, r"`time_limit` must lie in \[1, inf\), got 0\.")],
)  # fmt: skip
def test_what_a_dungeon_cannot_be_made_with_is_refused(wrong, error, message):
    with pytest.raises(error, match=message):
        escape(**wrong)


@pytest.mark.parametrize("discrete", [torch.zeros(3, 2), torch.zeros(2, 1), torch.zeros(3, 0)])
def test_an_action_without_a_branch_for_each_agent_is_refused(discrete):
    env, found = escape(), list(discrete.shape)
    expected = rf"`action\.discrete` must have shape \[\*B, 3, 1\], got \[{found[0]}, {found[1]}\]"
    with pytest.raises(ValueError, match=expected):
        env.step(env.reset(KEY)[0], Action(torch.zeros(3, 0), discrete.long()), KEY)


def test_without_pettingzoo_the_extra_to_install_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pettingzoo", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'optinfra\[groups\]'"):
        envs.make("pettingzoo:mpe2.simple_spread_v3", 1)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'optinfra\[groups\]'"):
        envs.PettingZooGroups([])


def test_importing_envs_loads_no_pettingzoo():
    code = "import sys, optinfra.envs; print('pettingzoo' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
