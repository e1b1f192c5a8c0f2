"""Collecting: what comes from environments in tensors and from Gymnasium's."""

import chex
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from optinfra import envs, random, tree
from optinfra.envs import CartPoleState, Env, EnvStep, Episode, cartpole
from optinfra.lift import ensemble, members
from optinfra.lift.epochs import unlifted
from optinfra.train.collect import collector, every_choice
from optinfra.train.errors import RunError
from optinfra.train.sources import GymnasiumSource, TensorSource
from optinfra.types import Act, Action, ActionSpec, Spec
from tests import examples
from tests.tiny_envs import Countdown, PlaceState, tiny

COUNTDOWN = "tests.tiny_envs:tiny/Countdown-v0"
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


def policy(params, obs, memory, key):
    """Draw a choice, let its opposite be executed, and show in `log_prob` what was given."""
    assert memory == ()
    drawn = random.randint(key, (len(obs[0]), 1), 0, 2)
    nothing = torch.zeros(len(obs[0]), 0)
    given = (obs[0].sum(-1) + params)[:, None]
    return Act(Action(nothing, drawn), Action(nothing, 1 - drawn), given, ())


def walk(limit, truncates):
    return tiny(lambda place, choice: place + 10.0 * choice, starts=(0.0, 5.0), length=limit,
                truncates=truncates)  # fmt: skip


KINDS = {  # environments of a time limit, and the state in which an episode begins
    "cartpole": (
        lambda limit: cartpole(time_limit=limit),
        lambda obs: CartPoleState(*obs.unbind(), torch.tensor(0)),
    ),
    "terminating": (
        lambda limit: walk(limit, False),
        lambda obs: PlaceState(obs[0], torch.tensor(0)),
    ),
    "truncating": (
        lambda limit: walk(limit, True),
        lambda obs: PlaceState(obs[0], torch.tensor(0)),
    ),
}


def assert_copy_was_stepped(env, begins, before, rollout, episodes, after):
    """Follow one copy through a rollout with `env.step` alone."""
    state, obs, total, length = before.env, before.obs[0], before.returns, before.lengths
    steps = len(rollout.rewards)
    for t in range(steps):
        assert torch.equal(rollout.obs[0][t], obs)
        executed = Action(torch.zeros(0), 1 - rollout.action.discrete[t])
        assert torch.equal(rollout.executed.discrete[t], executed.discrete)
        then = env.step(state, executed, torch.zeros(2, dtype=torch.int64))
        total, length = total + then.reward, length + 1
        ended = bool(then.terminated | then.truncated)
        expected = (then.obs[0], then.reward, then.terminated, then.truncated, total, length)
        got = (rollout.next_obs[0], rollout.rewards, rollout.terminated, rollout.truncated,
               episodes.returns, episodes.lengths)  # fmt: skip
        chex.assert_trees_all_close(tree.take(got, t), expected, **CLOSE)
        assert bool(episodes.ended[t]) == ended
        state, obs = then.state, then.obs[0]
        if ended:
            obs = rollout.obs[0][t + 1] if t + 1 < steps else after.obs[0]
            state, total, length = begins(obs), torch.tensor(0.0), torch.tensor(0)
            first = env.reset(random.key(0))[1][0]
            assert obs.shape == first.shape and not torch.equal(obs, then.obs[0])
    chex.assert_trees_all_close(
        (after.env, after.obs[0], after.returns, after.lengths),
        (state, obs, total, length),
        **CLOSE,
    )


@given(
    st.sampled_from(list(KINDS)),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(1, 6),
    st.integers(0, 2**31),
)
def test_collected_steps_are_those_of_stepping_each_copy_by_hand(kind, limit, copies, steps, seed):
    make, begins = KINDS[kind]
    env = make(limit)
    collecting = collector(env, policy, num_envs=copies, num_steps=steps)
    state = collecting.init(random.key(seed))
    for _ in range(2):  # the second rollout goes on where the first one ended
        after, (rollout, episodes) = collecting.collect(state, torch.tensor(0.5))
        given = rollout.obs[0].sum(-1) + 0.5
        assert torch.equal(rollout.log_prob[..., 0], given)
        for b in range(copies):
            parts = [tree.take(x, (slice(None), b)) for x in (rollout, episodes)]
            places = [tree.take(x._replace(key=x.returns), b) for x in (state, after)]
            assert_copy_was_stepped(env, begins, places[0], *parts, places[1])
        state = after


@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 2**31))
def test_collecting_twice_is_collecting_once_for_longer(first, second, seed):
    def collect(steps, state):
        collecting = collector(cartpole(time_limit=2), policy, num_envs=2, num_steps=steps)
        return collecting.collect(state or collecting.init(random.key(seed)), torch.tensor(0.0))

    middle, one = collect(first, None)
    end, other = collect(second, middle)
    in_parts = tree.map(lambda x, y: torch.cat([x, y]), one, other)
    chex.assert_trees_all_equal((end, in_parts), collect(first + second, None))


def test_every_row_counts_and_every_choice_is_allowed():
    env = cartpole(time_limit=2)
    collecting = collector(env, policy, num_envs=3, num_steps=5)
    _, (rollout, _) = collecting.collect(collecting.init(random.key(0)), torch.tensor(0.0))
    assert rollout.mask.shape == (5, 3) and rollout.mask.dtype == torch.bool
    assert rollout.mask.all()
    assert rollout.action_mask.shape == (5, 3, 2) and rollout.action_mask.all()
    two_branches = Spec(obs=((1,),), action=ActionSpec(branches=(3, 2)))
    assert torch.equal(every_choice(two_branches, 4), torch.ones(4, 5, dtype=torch.bool))


def shows_its_keys():
    """An environment that shows the key of each reset and of each step; all episodes are short."""

    def reset(key):
        return (), (key.float(),)

    def step(state, action, key):
        ended = torch.ones((), dtype=torch.bool)
        return EnvStep((), (key.float(),), torch.zeros(()), ended, ~ended)

    return Env(Spec(obs=((2,),), action=ActionSpec(branches=(2,))), reset, step)


def test_every_draw_every_step_and_every_start_has_a_key_of_its_own():
    def keyed(params, obs, memory, key):
        return policy(params, obs, memory, key)._replace(log_prob=key.expand(len(obs[0]), 2))

    collecting = collector(shows_its_keys(), keyed, num_envs=3, num_steps=4)
    begin = collecting.init(random.key(3))
    end, (rollout, _) = collecting.collect(begin, torch.tensor(0.0))
    of_policy = [begin.key[None], rollout.log_prob[:, 0], end.key[None]]
    of_envs = [rollout.obs[0].flatten(0, 1), rollout.next_obs[0].flatten(0, 1), end.obs[0]]
    keys = torch.cat([x.float() for x in (*of_policy, *of_envs)])
    assert len(keys.unique(dim=0)) == len(keys) == 6 + 12 + 12 + 3
    # nor does an environment draw from a key that is the policy's
    drawn = rollout.log_prob[:, 0]
    below = torch.cat([random.split(each, 2) for key in drawn for each in random.split(key, 3)])
    both = torch.cat([below.float(), *of_envs])
    assert len(both.unique(dim=0)) == len(both)


def test_an_ensemble_of_collectors_is_a_loop_over_them_with_members_before_time():
    env = cartpole(time_limit=3)
    learner = examples.learner(env.spec)
    parts = {"num_envs": 2, "num_steps": 4}
    alone = collector(env, learner.act, **parts)
    many = collector(env, learner.act, **parts, stage=ensemble)
    keys = random.split(random.key(1), 3)
    states, params = ensemble(alone.init)(keys), ensemble(learner.init)(keys).params
    together = many.collect(states, params)
    each = [alone.collect(s, p) for s, p in zip(members(states), members(params))]
    chex.assert_trees_all_close(together, tree.stack(each), **CLOSE)
    assert together[1][0].rewards.shape == together[1][1].ended.shape == (3, 4, 2)


# --- sources ------------------------------------------------------------------------------


def test_tensor_source_lists_the_episodes_that_ended_in_the_order_of_time():
    env = tiny(lambda place, choice: place + 1.0, starts=(0.0, 5.0), length=3)
    source = TensorSource(env, policy, num_envs=4, num_steps=7, stage=unlifted)
    state = source.init(random.key(2))
    starts = state.obs[0][:, 0]
    state, rollout, ended = source.collect(state, torch.tensor(0.0))
    assert source.exact and source.close() is None
    assert [each.env for each in ended] == [0, 1, 2, 3] * 2
    assert {each.length for each in ended} == {3}
    assert [each.total_reward for each in ended[:4]] == [3 * s + 6.0 for s in starts.tolist()]
    second = rollout.obs[0][3, :, 0].tolist()
    assert [each.total_reward for each in ended[4:]] == [3 * s + 6.0 for s in second]
    assert starts.unique().numel() == 2, "all copies began alike: the test shows nothing"


def countdown(copies=3, **env_kwargs):
    Countdown.made = 0  # copy k ends after 2 + k mod 3 steps
    return envs.make(COUNTDOWN, copies, env_kwargs=env_kwargs)


def gymnasium_source(vector, steps, seed=0, by=policy):
    return GymnasiumSource(vector, by, num_steps=steps, stage=unlifted, seed=seed)


@pytest.mark.parametrize("truncates", [False, True])
def test_gymnasium_source_tells_what_followed_each_action(truncates):
    source = gymnasium_source(countdown(truncates=truncates), 5)
    state = source.init(random.key(0))
    assert not source.exact
    steps = torch.arange(10)[:, None]
    limits = torch.tensor([2, 3, 4])
    halves, episodes = [], []
    for _ in range(2):  # episodes go on across rollouts
        state, rollout, ended = source.collect(state, torch.tensor(0.25))
        halves.append(rollout)
        episodes.append(ended)
    whole = tree.map(lambda *xs: torch.cat(xs), *halves)
    seen = (steps % limits).float()
    assert torch.equal(whole.obs[0], seen[..., None].expand(-1, -1, 2))
    assert torch.equal(whole.next_obs[0], (seen + 1)[..., None].expand(-1, -1, 2))
    ends = seen + 1 == limits
    assert torch.equal(whole.truncated if truncates else whole.terminated, ends)
    assert not (whole.terminated if truncates else whole.truncated).any()
    assert whole.mask.all() and (whole.rewards == 1).all()
    assert whole.action_mask.all() and whole.action_mask.shape == (10, 3, 2)
    assert torch.equal(whole.log_prob[..., 0], 2 * seen + 0.25)
    expected = [Episode(b, float(limits[b]), int(limits[b])) for b in ends.nonzero()[:, 1].tolist()]
    assert episodes[0] + episodes[1] == expected
    source.close()


def test_gymnasium_source_executes_what_the_policy_says_and_keeps_what_it_drew(monkeypatch):
    vector = countdown()
    executed = []
    step = vector.step
    monkeypatch.setattr(vector, "step", lambda action: (executed.append(action), step(action))[1])
    source = gymnasium_source(vector, 6)
    _, rollout, _ = source.collect(source.init(random.key(4)), torch.tensor(0.0))
    done = torch.stack([action.discrete for action in executed])
    assert torch.equal(done, 1 - rollout.action.discrete)
    assert torch.equal(done, rollout.executed.discrete)
    assert done.unique().numel() == 2


def test_gymnasium_source_masks_the_steps_that_only_reset():
    source = gymnasium_source(envs.make("CartPole-v1", 4), 60)
    _, rollout, ended = source.collect(source.init(random.key(0)), torch.tensor(0.0))
    over = rollout.terminated | rollout.truncated
    assert torch.equal(~rollout.mask[1:], over[:-1]) and rollout.mask[0].all()
    assert over.any() and len(ended) == int(over.sum())
    lengths = [each.length for each in ended if each.env == 0]
    first, *later = over[:, 0].nonzero()[:, 0].tolist()
    gaps = [b - a - 1 for a, b in zip([first, *later], later)]
    assert lengths == [first + 1, *gaps]
    source.close()


def test_gymnasium_source_begins_by_its_seed():
    def begin(seed):
        source = gymnasium_source(envs.make("CartPole-v1", 2), 1, seed)
        _, rollout, _ = source.collect(source.init(random.key(0)), torch.tensor(0.0))
        source.close()
        return rollout.obs[0]

    assert torch.equal(begin(3), begin(3))
    assert not torch.equal(begin(3), begin(4))
    assert not torch.equal(begin(3)[:, 0], begin(3)[:, 1])


def test_gymnasium_source_draws_with_a_key_of_its_own_at_every_step_and_rollout():
    def keyed(params, obs, memory, key):
        return policy(params, obs, memory, key)._replace(log_prob=key.expand(len(obs[0]), 2))

    source = gymnasium_source(countdown(1), 3, by=keyed)
    state = source.init(random.key(0))
    keys = []
    for _ in range(2):
        state, rollout, _ = source.collect(state, torch.tensor(0.0))
        keys += rollout.log_prob[:, 0].tolist()
    assert len(set(map(tuple, keys))) == 6


def test_rollouts_do_not_share_memory():
    source = gymnasium_source(countdown(), 3)
    state, first, _ = source.collect(source.init(random.key(0)), torch.tensor(0.0))
    copy = tree.map(torch.clone, first)
    source.collect(state, torch.tensor(0.0))
    chex.assert_trees_all_equal(first, copy)


@pytest.mark.parametrize("nan_at, environment", [(0, 0), (1, 0), (3, 1)])
def test_an_observation_that_is_not_a_number_names_its_environment(nan_at, environment):
    with pytest.raises(RunError, match=f"`obs` of environment {environment} must be finite"):
        source = gymnasium_source(countdown(nan_at=nan_at), 4)
        source.collect(source.init(random.key(0)), torch.tensor(0.0))


def test_a_mistake_of_the_policy_is_not_blamed_on_the_environment():
    def mistaken(params, obs, memory, key):
        raise ValueError("policy")

    source = gymnasium_source(countdown(), 4, by=mistaken)
    with pytest.raises(ValueError, match=r"^policy$"):
        source.collect(source.init(random.key(0)), torch.tensor(0.0))


def test_closing_a_source_closes_its_environments(monkeypatch):
    closed = []
    monkeypatch.setattr(Countdown, "close", lambda self: closed.append(self.limit))
    gymnasium_source(countdown(), 1).close()
    assert closed == [2, 3, 4]


def test_the_arrays_of_a_rollout_have_the_types_of_a_rollout():
    source = gymnasium_source(countdown(), 2)
    _, rollout, _ = source.collect(source.init(random.key(0)), torch.tensor(0.0))
    floats = (*rollout.obs, *rollout.next_obs, rollout.rewards)
    assert {x.dtype for x in floats} == {torch.float32}
    flags = (rollout.terminated, rollout.truncated, rollout.mask, rollout.action_mask)
    assert {x.dtype for x in flags} == {torch.bool}
    assert np.isfinite(rollout.rewards.numpy()).all()
