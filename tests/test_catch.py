"""Catch moves as bsuite's does, and is seen as an image of bytes."""

import chex
import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch.func import vmap

from optinfra import envs, random, tree
from optinfra.envs import CatchState, autoreset, catch
from optinfra.envs.catch import BEST_RETURN, BRIGHT, CHANCE_RETURN, COLUMNS, ROWS
from optinfra.types import Action, ActionSpec, Spec

KEY = random.key(0)
SEEDS = st.integers(0, 2**31 - 1)
SIZES = st.tuples(st.integers(2, 12), st.integers(2, 12))  # rows, columns
MANY = 4096


def choose(choices):
    """One discrete choice for each row, or a single one: `[*B]` becomes an action."""
    discrete = torch.as_tensor(choices)[..., None]
    return Action(torch.zeros(*discrete.shape[:-1], 0), discrete)


class Plain:
    """bsuite's catch, in its own words: `bsuite/environments/catch.py`."""

    def __init__(self, rows, columns, ball):
        self.rows, self.columns = rows, columns
        self.ball_x, self.ball_y = ball, 0
        self.paddle_x, self.paddle_y = columns // 2, rows - 1

    def step(self, action):
        self.paddle_x = int(np.clip(self.paddle_x + (-1, 0, 1)[action], 0, self.columns - 1))
        self.ball_y += 1
        if self.ball_y == self.paddle_y:
            return (1.0 if self.paddle_x == self.ball_x else -1.0), True
        return 0.0, False

    def board(self):
        board = np.zeros((self.rows, self.columns), np.uint8)
        board[self.ball_y, self.ball_x] = board[self.paddle_y, self.paddle_x] = BRIGHT
        return torch.from_numpy(board)[None]


@given(SIZES, SEEDS)
@example((10, 5), 0)
@example((2, 2), 1)
def test_an_episode_goes_as_bsuites_does(size, seed):
    rows, columns = size
    env, key = catch(rows=rows, columns=columns), random.key(seed)
    state, obs = env.reset(key)
    theirs, ended, t = Plain(rows, columns, int(state.ball)), False, 0
    assert torch.equal(obs[0], theirs.board())
    while not ended:
        a = int(random.randint(random.fold_in(key, t), (), 0, 3))
        after = env.step(state, choose(a), KEY)
        (reward, ended), t = theirs.step(a), t + 1
        assert (float(after.reward), bool(after.terminated)) == (reward, ended)
        assert torch.equal(after.obs[0], theirs.board()) and not after.truncated
        assert (after.obs[0].dtype, after.reward.dtype) == (torch.uint8, torch.float32)
        state = after.state
    assert t == rows - 1


def test_the_spec_tells_of_an_image_of_bytes():
    spec = Spec(obs=((1, 10, 5),), action=ActionSpec(branches=(3,)), bytes=(0,))
    assert catch(columns=5).spec == spec
    assert catch().spec.obs == ((1, ROWS, COLUMNS),)


def test_the_ball_begins_in_every_column_as_often_and_the_paddle_in_the_middle():
    states, _ = vmap(catch().reset)(random.split(KEY, MANY))
    share = torch.bincount(states.ball, minlength=COLUMNS) / MANY
    torch.testing.assert_close(share, torch.full((COLUMNS,), 1 / COLUMNS), rtol=0, atol=0.02)
    assert (states.paddle == COLUMNS // 2).all() and not states.steps.any()


def play(policy):
    """The returns of a policy `(images, t) -> choices`, one episode for each column of the ball."""
    env, keys, returns = catch(), random.split(KEY, COLUMNS), torch.zeros(COLUMNS)
    states = vmap(env.reset)(keys)[0]._replace(ball=torch.arange(COLUMNS))
    above = states._replace(steps=states.steps - 1)
    (images,) = vmap(env.step)(above, choose(torch.ones_like(above.ball)), keys).obs
    for t in range(ROWS - 1):
        after = vmap(env.step)(states, choose(policy(images, t)), keys)
        states, (images,), returns = after.state, after.obs, returns + after.reward
    assert after.terminated.all()
    return returns


def test_who_follows_the_ball_earns_the_best_return():
    """From the image alone: the paddle goes below the ball."""

    def follow(images, t):
        ball, paddle = (images[:, 0, row].argmax(1) for row in (t, ROWS - 1))
        return 1 + (ball > paddle).long() - (ball < paddle).long()

    assert (play(follow) == BEST_RETURN).all()


@given(SEEDS)
def test_whoever_does_not_look_at_the_ball_earns_chance(seed):
    """Whatever the moves: the paddle is below one of the columns, which are equally likely."""
    blind = lambda _, t: random.randint(random.fold_in(random.key(seed), t), (), 0, 3).expand(10)
    assert float(play(blind).mean()) == pytest.approx(CHANCE_RETURN)


@given(SEEDS)
def test_the_key_alone_decides_the_start(seed):
    key = random.key(seed)
    chex.assert_trees_all_equal(catch().reset(key), catch().reset(key))


def test_catch_begins_anew_after_its_end():
    env = catch(rows=4, columns=6)
    step, (state, _) = autoreset(env), env.reset(KEY)
    balls = set()
    for t in range(1, 61):
        state, then = step(state, choose(0), random.key(t))
        assert bool(then.terminated) == (t % 3 == 0) and int(state.steps) == t % 3
        if t % 3 == 0:
            assert then.next_obs[0][0, :3].sum() == 0 and int(state.paddle) == 3
            balls.add(int(state.ball))
    assert balls == set(range(6))


def test_many_side_by_side_move_as_each_alone():
    states = CatchState(torch.arange(6), torch.tensor([0, 5, 5, 9, 9, 3]), torch.arange(6) + 3)
    choices = torch.tensor([0, 0, 1, 2, 1, 2])
    lifted = vmap(catch().step)(states, choose(choices), random.split(KEY, 6))
    each = [CatchState(*(x[i] for x in states)) for i in range(6)]
    alone = [catch().step(state, choose(a), KEY) for state, a in zip(each, choices)]
    chex.assert_trees_all_equal(lifted, tree.stack(alone))
    assert lifted.state.paddle.tolist() == [0, 4, 5, 9, 9, 4]


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [({"rows": 1}, ValueError, r"`rows` must lie in \[2, inf\), got 1\."),
     ({"rows": 10.0}, TypeError, r"`rows` must be an integer, got 10\.0\."),
     ({"columns": 1}, ValueError, r"`columns` must lie in \[2, inf\), got 1\."),
     ({"columns": "5"}, TypeError, r"`columns` must be an integer, got '5'\.")],
)  # fmt: skip
def test_what_catch_cannot_be_made_with_is_refused(wrong, error, message):
    with pytest.raises(error, match=message):
        envs.make("tensor:Catch-v0", 1, env_kwargs=wrong)


def test_an_action_without_a_branch_is_refused():
    torque = Action(torch.zeros(1), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"`action\.discrete` must have shape \[K\] = \[1\], got"):
        catch().step(catch().reset(KEY)[0], torque, KEY)
