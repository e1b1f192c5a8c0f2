"""Laws of the training iteration: what happens between two rollouts, and in which order."""

import itertools
import math
from typing import NamedTuple

import chex
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from optinfra import moments, random, schedules, tree
from optinfra.iteration import Rollout, iteration, transitions
from optinfra.networks import name_hash
from optinfra.returns import gae
from optinfra.signals import extrinsic
from optinfra.types import Action, ActionSpec, Signal, Spec
from optinfra.values import Critic, rollout_values
from tests import examples, plain_ppo

KEY = random.key(11)
SEEDS = st.integers(0, 999)
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


# --- a learner that shows what it is given --------------------------------------------------


def reading(seen, streams=("extrinsic",)):
    """A learner whose critic reads its values off the observation, and that only keeps batches.

    Observation: the row's number, then a value per stream. So every number is known.
    """
    spec = Spec(((1 + len(streams),),), ActionSpec(1))

    def values(params, obs):
        return {name: obs[0][..., i + 1] for i, name in enumerate(streams)}

    def update(state, batch):
        seen.append(batch)
        return state, {}

    def judged(params, obs, memory, reset):
        return values(params, obs), memory

    valued = rollout_values(Critic(judged, judged))
    return examples.learner(spec, normalize=False)._replace(rollout_values=valued, update=update)


def readable(seed, *rows, streams=1, ends=0.2, masked=0.2):
    """A rollout `[T, *B]` of that observation: random values, rewards, ends and gaps."""

    def flags(offset, share):
        generator = torch.Generator().manual_seed(seed + offset)
        return torch.rand(rows, generator=generator) < share

    numbers = torch.arange(math.prod(rows)).reshape(*rows, 1).float()
    return Rollout(
        obs=(torch.cat([numbers, examples.normal(seed + 1, *rows, streams)], -1),),
        next_obs=(examples.normal(seed + 2, *rows, 1 + streams),),
        action=Action(examples.normal(seed + 3, *rows, 1), torch.zeros(*rows, 0).long()),
        executed=Action(examples.normal(seed + 9, *rows, 1), torch.zeros(*rows, 0).long()),
        action_mask=torch.ones(*rows, 0, dtype=torch.bool),
        log_prob=examples.normal(seed + 4, *rows, 1),
        rewards=examples.normal(seed + 5, *rows),
        terminated=flags(6, ends),
        truncated=flags(7, ends),
        mask=flags(8, 1 - masked),
    )


def prepared(rollout, signals=None, streams=("extrinsic",), **options):
    """The batch that one iteration makes of a rollout, in the rollout's own order and shape."""
    rows, seen = rollout.mask.shape, []
    one = iteration(
        reading(seen, streams),
        signals or {"extrinsic": extrinsic(gamma=0.9)},
        **({"num_epochs": 1, "batch_size": rows.numel()} | options),
    )
    one.update(one.init(KEY), rollout)
    (batch,) = seen
    order = torch.where(batch.mask, batch.obs[0][:, 0], torch.inf).argsort()
    return tree.take(batch, order), rollout.mask.flatten().nonzero()[:, 0]


def advantages(rollout, stream="extrinsic", **options):
    """Raw advantages of the valid rows, in order: returns less values, before normalisation."""
    batch, valid = prepared(rollout, **options)
    raw = batch.returns[stream] - batch.values[stream]
    return raw[: len(valid)]


def by_hand(rollout, gamma, lam, horizon=None, strength=1.0, stream=0):
    """The same by a loop over Python numbers, column by column."""
    columns = rollout.mask[0].numel()

    def lists(x):
        return x.reshape(len(x), columns).double().T.tolist()

    parts = [strength * rollout.rewards, rollout.obs[0][..., 1 + stream]]
    parts += [rollout.next_obs[0][..., 1 + stream], rollout.terminated, rollout.truncated]
    out = [
        plain_ppo.plain_gae(*column, gamma, lam, horizon)
        for column in zip(*map(lists, [*parts, rollout.mask]))
    ]
    return torch.tensor(out).T.reshape(rollout.mask.shape)[rollout.mask].float()


# --- advantages: ends of every kind ---------------------------------------------------------


@st.composite
def rollouts(draw):
    rows = draw(st.sampled_from([(1,), (7,), (5, 2), (9, 3), (4, 2, 2)]))
    ends, masked = draw(st.sampled_from([(0.0, 0.0), (0.2, 0.0), (0.2, 0.3), (0.5, 0.6)]))
    return readable(draw(SEEDS), *rows, ends=ends, masked=masked)


@given(rollouts(), st.floats(0, 1), st.floats(0, 1), st.sampled_from([None, 1, 2, 3, 5, 50]))
def test_advantages_are_gae_by_hand_whatever_ends_and_gaps_a_rollout_has(
    rollout, gamma, lam, horizon
):
    got = advantages(
        examples.spoiled(rollout, math.nan, -1),
        signals={"extrinsic": extrinsic(gamma=gamma)},
        gae_lambda=lam,
        time_horizon=horizon,
    )
    torch.testing.assert_close(got, by_hand(rollout, gamma, lam, horizon), **CLOSE)


@given(SEEDS, st.integers(1, 6))
def test_a_rollout_with_a_horizon_equals_its_pieces_valued_one_by_one(seed, horizon):
    rollout = readable(seed, 11, 2, masked=0.0)
    whole = advantages(rollout, time_horizon=horizon)
    pieces = [tree.take(rollout, slice(t, t + horizon)) for t in range(0, 11, horizon)]
    apart = [
        gae(
            piece.rewards,
            piece.obs[0][..., 1],
            piece.next_obs[0][..., 1],
            piece.terminated,
            piece.truncated,
            discount=0.9,
            gae_lambda=0.95,
        )
        for piece in pieces
    ]
    torch.testing.assert_close(whole, torch.cat(apart).flatten(), **CLOSE)


def flat(**columns):
    """Three steps, every value 10 and every reward 1, nothing ends."""
    rollout = readable(0, 3, ends=0.0, masked=0.0)
    tens = torch.cat([rollout.obs[0][:, :1], torch.full((3, 1), 10.0)], -1)
    rollout = rollout._replace(
        obs=(tens,), next_obs=(torch.full((3, 2), 10.0),), rewards=torch.ones(3)
    )
    return rollout._replace(**columns)


MIDDLE = torch.tensor([False, True, False])
HALVES = {"signals": {"extrinsic": extrinsic(gamma=0.5)}, "gae_lambda": 0.5}
DELTA = 1 + 0.5 * 10 - 10  # −4: one reward, half of what follows, less the value


def test_where_nothing_ends_advantages_run_on_to_the_bootstrapped_end():
    torch.testing.assert_close(
        advantages(flat(), **HALVES),
        DELTA * torch.tensor([1 + 0.25 + 0.0625, 1 + 0.25, 1.0]),
    )


def test_a_terminated_step_bootstraps_nothing_and_ends_the_sum():
    torch.testing.assert_close(
        advantages(flat(terminated=MIDDLE), **HALVES),
        torch.tensor([DELTA + 0.25 * (1 - 10), 1 - 10, DELTA]),
    )


def test_a_truncated_step_bootstraps_what_followed_and_ends_the_sum():
    torch.testing.assert_close(
        advantages(flat(truncated=MIDDLE), **HALVES), DELTA * torch.tensor([1.25, 1.0, 1.0])
    )


def test_a_step_that_is_both_terminated():
    both = flat(truncated=MIDDLE, terminated=MIDDLE)
    torch.testing.assert_close(
        advantages(both, **HALVES), advantages(flat(terminated=MIDDLE), **HALVES)
    )


def test_the_horizon_bootstraps_and_ends_the_sum():
    torch.testing.assert_close(
        advantages(flat(), time_horizon=2, **HALVES), DELTA * torch.tensor([1.25, 1.0, 1.0])
    )


def test_the_horizon_does_not_bring_a_terminated_step_back_to_life():
    torch.testing.assert_close(
        advantages(flat(terminated=MIDDLE), time_horizon=2, **HALVES),
        advantages(flat(terminated=MIDDLE), **HALVES),
    )


def test_a_masked_row_ends_the_sum_before_it_and_weighs_nothing():
    torch.testing.assert_close(
        advantages(flat(mask=~MIDDLE), **HALVES), DELTA * torch.tensor([1.0, 1.0])
    )


@given(SEEDS, st.integers(1, 4))
def test_padding_at_the_end_of_a_rollout_changes_nothing(seed, padding):
    rollout = readable(seed, 5, 2, ends=0.1, masked=0.0)
    rows = readable(seed + 1, padding, 2)
    padded = tree.map(lambda x, y: torch.cat([x, y]), rollout, rows)
    padded = padded._replace(mask=torch.cat([rollout.mask, torch.zeros_like(rows.mask)]))
    torch.testing.assert_close(advantages(padded), advantages(rollout), **CLOSE)
    batches = [prepared(r)[0] for r in (padded, rollout)]
    normalised = [batch.advantages[:10] for batch in batches]
    torch.testing.assert_close(*normalised, **CLOSE)


# --- advantages: streams --------------------------------------------------------------------


class WatchedState(NamedTuple):
    strength: Tensor
    gamma: Tensor
    key: Tensor
    updates: Tensor


def watched(calls, name, strength=1.0, gamma=0.5):
    """A second signal: rewards are squares; it keeps a key, and counts and tells its calls."""

    def init(key):
        return WatchedState(torch.tensor(strength), torch.tensor(gamma), key, torch.tensor(0))

    def evaluate(state, rollout):
        calls.append((f"evaluate {name}", state, rollout))
        return rollout.rewards.square()

    def update(state, rollout):
        calls.append((f"update {name}", state, rollout))
        return state._replace(updates=state.updates + 1), {f"{name}_loss": torch.tensor(0.25)}

    return Signal(init, evaluate, update)


@given(SEEDS, st.floats(-3, 3), st.floats(0, 1))
def test_the_policys_advantage_is_the_mean_of_the_streams_each_with_its_own_numbers(
    seed, strength, gamma
):
    rollout = readable(seed, 6, 2, streams=2)
    streams = ("extrinsic", "curious")
    batch, valid = prepared(
        rollout,
        {"extrinsic": extrinsic(strength=strength, gamma=0.9), "curious": watched([], "", 2.0)},
        streams,
        gae_lambda=0.7,
    )
    n = len(valid)
    raw = {name: (batch.returns[name] - batch.values[name])[:n] for name in streams}
    squares = rollout._replace(rewards=rollout.rewards.square())
    expected = {
        "extrinsic": by_hand(rollout, 0.9, 0.7, strength=strength),
        "curious": by_hand(squares, 0.5, 0.7, strength=2.0, stream=1),
    }
    chex.assert_trees_all_close(raw, expected, **CLOSE)
    mean = (expected["extrinsic"] + expected["curious"]) / 2
    everyone = torch.ones(n, dtype=torch.bool)
    torch.testing.assert_close(
        batch.advantages[:n], moments.standardize(mean, everyone), rtol=1e-4, atol=1e-4
    )


def test_the_mean_over_streams_is_taken_before_anything_is_normalised():
    rollout, streams = readable(3, 6, 2, streams=2, masked=0.0), ("a", "b")
    signals = {"a": extrinsic(gamma=0.9), "b": extrinsic(gamma=0.5, strength=30.0)}
    batch, _ = prepared(rollout, signals, streams)
    a, b = (batch.returns[name] - batch.values[name] for name in streams)
    of_mean = moments.standardize((a + b) / 2, batch.mask)
    mean_of = (moments.standardize(a, batch.mask) + moments.standardize(b, batch.mask)) / 2
    torch.testing.assert_close(batch.advantages, of_mean, rtol=1e-4, atol=1e-4)
    assert (of_mean - mean_of).abs().max() > 0.1


@given(SEEDS, st.sampled_from([None, 2]))
def test_a_stream_that_ignores_ends_values_what_an_episode_ended_with(seed, horizon):
    """A termination is then a truncation; the other stream does not notice."""
    rollout = readable(seed, 6, 2, streams=2, ends=0.3)
    both = rollout._replace(
        terminated=torch.zeros_like(rollout.mask),
        truncated=rollout.terminated | rollout.truncated,
    )
    signals = {"a": extrinsic(gamma=0.9), "b": extrinsic(gamma=0.8)}
    options = {"time_horizon": horizon}
    got, plain, cut = (
        prepared(x, signals, ("a", "b"), **options, **more)[0]
        for x, more in ((rollout, {"ignore_done": {"b"}}), (rollout, {}), (both, {}))
    )
    assert torch.equal(got.returns["a"], plain.returns["a"])
    assert torch.equal(got.returns["b"], cut.returns["b"])


def test_streams_that_ignore_ends_must_be_signals():
    with pytest.raises(ValueError, match=r"`ignore_done` must name signals, \['a'\], got \['b'\]"):
        iteration(reading([]), {"a": extrinsic()}, ignore_done={"b"})


def test_stats_tell_each_streams_scaled_reward_and_value_over_valid_rows():
    rollout = readable(3, 6, 2, streams=2)
    signals = {"extrinsic": extrinsic(strength=-3.0), "curious": watched([], "curious", 2.0)}
    one = iteration(reading([], ("extrinsic", "curious")), signals, batch_size=12)
    _, stats = one.update(one.init(KEY), rollout)
    rewards, obs = rollout.rewards[rollout.mask], rollout.obs[0][rollout.mask]
    expected = {
        "extrinsic_reward": -3 * rewards.mean(),
        "curious_reward": 2 * rewards.square().mean(),
        "extrinsic_value": obs[:, 1].mean(),
        "curious_value": obs[:, 2].mean(),
        "curious_loss": torch.tensor(0.25),
        "extrinsic_failures": torch.tensor(0.0),
        "curious_failures": torch.tensor(0.0),
    }
    assert set(stats) == set(expected)
    chex.assert_trees_all_close(stats, expected, **CLOSE)


def test_stats_are_finite_numbers_and_detached():
    one = examples.small_iteration()
    _, stats = one.update(one.init(KEY), examples.rollout(0, 5, 2))
    assert {"extrinsic_reward", "extrinsic_value", "policy_loss", "learning_rate"} <= set(stats)
    for name, stat in stats.items():
        assert stat.shape == () and stat.isfinite() and not stat.requires_grad, name


# --- order of events ------------------------------------------------------------------------


def test_the_normaliser_sees_the_rollout_once_before_it_is_valued_and_signals_learn_after():
    learner, calls = examples.learner(), []

    def telling(name):
        def call(*arguments):
            calls.append((name, *arguments))
            return getattr(learner, name)(*arguments)

        return call

    told = learner._replace(
        **{name: telling(name) for name in ("observe", "rollout_values", "update")},
    )
    one = iteration(told, {"extrinsic": watched(calls, "it")}, num_epochs=1, batch_size=10)
    rollout = examples.rollout(0, 5, 2)
    start = one.init(KEY)
    after, _ = one.update(start, rollout)
    names = [name for name, *_ in calls]
    assert names == ["observe", "rollout_values", "evaluate it", "update", "update it"]
    seen = tuple(
        moments.update(m, x, rollout.mask)
        for m, x in zip(start.learner.params.moments, rollout.obs)
    )
    chex.assert_trees_all_equal(after.learner.params.moments, seen)
    chex.assert_trees_all_equal(calls[1][1].moments, seen)
    (_, evaluated, rewarded), (_, _, batch), (_, learning, learnt_from) = calls[2:]
    chex.assert_trees_all_equal(evaluated, start.signals["extrinsic"])
    chex.assert_trees_all_equal(learning, start.signals["extrinsic"])
    assert after.signals["extrinsic"].updates == 1
    valid = rollout.mask.nonzero().unbind(-1)
    chex.assert_trees_all_equal(tree.take(rewarded, valid), tree.take(transitions(rollout), valid))
    chex.assert_trees_all_equal(
        (learnt_from.obs, learnt_from.mask), (batch.obs, batch.mask)
    )  # the same rows in the same order


def test_signals_learn_from_each_minibatch_after_the_learner_and_from_what_was_executed():
    calls, rollout = [], examples.rollout(0, 6, 2)._replace(mask=torch.ones(6, 2).bool())
    one = iteration(
        examples.learner(), {"extrinsic": watched(calls, "it")}, num_epochs=2, batch_size=4
    )
    after, _ = one.update(one.init(KEY), rollout)
    seen = [batch for name, _, batch in calls if name == "update it"]
    assert len(seen) == 6 and after.signals["extrinsic"].updates == 6
    rows = tree.map(lambda x: x.flatten(0, 1), transitions(rollout))
    for epoch in (seen[:3], seen[3:]):
        together = tree.map(lambda *xs: torch.cat(xs), *epoch)
        order = [(row == rows.obs[0]).all(-1).nonzero().item() for row in together.obs[0]]
        assert sorted(order) == list(range(12))
        chex.assert_trees_all_equal(together, tree.take(rows, torch.tensor(order)))
    assert torch.equal(rows.action.continuous, rollout.executed.continuous.flatten(0, 1))
    assert not torch.equal(rollout.executed.continuous, rollout.action.continuous)


def test_a_signal_sees_the_ends_that_were_and_not_those_of_the_horizon():
    calls, rollout = [], readable(0, 6, 2, masked=0.3)
    prepared(rollout, {"extrinsic": watched(calls, "it")}, time_horizon=2)
    (_, _, seen), _ = calls
    assert torch.equal(seen.truncated[rollout.mask], rollout.truncated[rollout.mask])
    assert torch.equal(seen.terminated[rollout.mask], rollout.terminated[rollout.mask])


def test_a_signal_sees_all_of_a_transition():
    rollout = examples.rollout(0, 4, 2)
    rollout = rollout._replace(action_mask=examples.normal(5, 4, 2, 5) > 0)
    seen, same = transitions(rollout), ("obs", "next_obs", "rewards", "terminated", "truncated",
                                        "mask", "action_mask")  # fmt: skip
    for name in same:
        chex.assert_trees_all_equal(getattr(seen, name), getattr(rollout, name))
    chex.assert_trees_all_equal(seen.action, rollout.executed)
    assert seen.group_rewards == seen.groupmate_rewards == ()


@pytest.mark.parametrize("batch_size", [3, 8])
def test_with_memory_signals_learn_from_the_sequences_the_learner_learns_from(batch_size):
    """Steps that only warm a memory up teach them nothing; a minibatch has a sequence at least."""
    calls, learnt = [], []
    learner = examples.recurrent_learner(burn_in=2)

    def update(state, batch):
        learnt.append(batch)
        return learner.update(state, batch)

    one = iteration(
        learner._replace(update=update),
        {"extrinsic": watched(calls, "it")},
        sequence_length=4, burn_in=2, num_agents=2, batch_size=batch_size, num_epochs=1,
    )  # fmt: skip
    rollout = examples.rollout(0, 9, 2)._replace(memory=examples.normal(3, 9, 2, 6))
    one.update(one.init(KEY), rollout)
    seen = [batch for name, _, batch in calls if name == "update it"]
    assert {len(batch.mask) for batch in learnt} == {max(batch_size // 4, 1)}
    assert any(batch.warmup.any() for batch in learnt)
    for own, batch in zip(seen, learnt, strict=True):
        chex.assert_trees_all_equal((own.mask, own.obs), (batch.mask, batch.obs))


def test_steps_count_the_valid_rows_and_schedules_reach_their_floor_at_max_steps():
    max_steps, floor = 60, 1e-3
    learner = examples.learner(
        learning_rate=schedules.linear_to_floor(1e-2, floor, max_steps),
        entropy_coef=schedules.linear(1e-2, 0.0, max_steps),
    )
    one = iteration(learner, {"extrinsic": extrinsic()}, num_epochs=1, batch_size=4)
    state, valid, rates = one.init(KEY), 0, []
    for k in itertools.count():
        rollout = examples.rollout(k, 5, 2)
        assert not rollout.mask.all()
        state, stats = one.update(state, rollout)
        valid += rollout.mask.sum().item()
        rates.append(stats["learning_rate"].item())
        assert state.learner.steps == valid
        share = max(1 - valid / max_steps, 0.0)
        assert stats["entropy_coef"].item() == pytest.approx(1e-2 * share, abs=1e-8)
        if valid >= max_steps:
            break
    assert rates == sorted(rates, reverse=True) and rates[-2] > floor
    assert rates[-1] == pytest.approx(floor, rel=1e-6)
    assert stats["entropy_coef"] == 0.0


# --- shapes, keys, repetition ---------------------------------------------------------------


@pytest.mark.parametrize(("rows", "same"), [((6,), (6, 1)), ((3, 6), (3, 2, 3))])
def test_what_follows_time_may_have_any_number_of_axes(rows, same):
    one, rollout = examples.small_iteration(), examples.rollout(0, *rows)
    regrouped = tree.map(lambda x: x.reshape(*same, *x.shape[len(rows) :]), rollout)
    start = one.init(KEY)
    chex.assert_trees_all_close(
        one.update(start, rollout), one.update(start, regrouped), rtol=1e-6, atol=1e-6
    )


@given(st.permutations(range(4)), SEEDS)
def test_permuting_agents_permutes_their_advantages(order, seed):
    rollout, order = readable(seed, 6, 4), torch.tensor(order)
    got = advantages(tree.map(lambda x: x[:, order], rollout)._replace(obs=rollout.obs))
    permuted = tree.map(lambda x: x[:, order], rollout)._replace(obs=rollout.obs)
    torch.testing.assert_close(got, by_hand(permuted, 0.9, 0.95), **CLOSE)


@given(SEEDS, st.sampled_from([math.nan, math.inf, 3e38]), st.sampled_from([-1, 3, 2**40]))
def test_a_masked_row_changes_no_bit_of_an_iteration_whatever_it_holds(seed, number, choice):
    one, rollout = examples.small_iteration(time_horizon=3), examples.rollout(seed, 4, 2)
    start = one.init(random.key(seed))
    clean, dirty = (
        one.update(start, r) for r in (rollout, examples.spoiled(rollout, number, choice))
    )
    chex.assert_trees_all_equal(clean, dirty)
    assert all(x.isfinite().all() for x in tree.leaves(dirty))


def test_init_is_a_pure_function_of_the_key():
    one = examples.small_iteration()
    first, again, other = (one.init(random.key(k)) for k in (1, 1, 2))
    chex.assert_trees_all_equal(first, again)
    moving = "actor.body.layers.0.weight"
    assert (first.learner.params.weights[moving] != other.learner.params.weights[moving]).all()
    assert not torch.equal(first.learner.key, other.learner.key)
    assert first.gae_lambda == torch.tensor(0.95) and first.learner.steps == 0


def test_adding_a_signal_changes_no_others_draws():
    def keys(*names):
        signals = {name: watched([], name) for name in names}
        state = iteration(examples.learner(), signals).init(KEY)
        return {name: s.key for name, s in state.signals.items()}, state.learner

    alone, both, swapped = keys("a"), keys("a", "b"), keys("b", "a")
    chex.assert_trees_all_equal(alone[0]["a"], both[0]["a"])
    chex.assert_trees_all_equal(both[0], swapped[0])
    assert not torch.equal(both[0]["a"], both[0]["b"])
    chex.assert_trees_all_equal(alone[1], both[1])
    assert not any(torch.equal(key, alone[1].key) for key in both[0].values())
    own = random.split(KEY)[1]  # the other half is the learner's
    assert torch.equal(alone[0]["a"], random.fold_in(own, name_hash("a")))


def three_iterations(seed):
    one = examples.small_iteration()
    state, told = one.init(random.key(seed)), []
    for k in range(3):
        state, stats = one.update(state, examples.rollout(k, 5, 2))
        told.append(stats)
    return state, told


def test_the_same_seed_gives_the_same_run_bit_for_bit():
    chex.assert_trees_all_equal(three_iterations(4), three_iterations(4))
    ours, theirs = three_iterations(4)[1], three_iterations(5)[1]
    assert all(a["policy_loss"] != b["policy_loss"] for a, b in zip(ours, theirs))


def test_whole_numbers_make_the_same_state_as_fractions():
    whole, fractions = (
        iteration(
            examples.learner(), {"extrinsic": extrinsic(strength=x, gamma=x)}, gae_lambda=x
        ).init(KEY)
        for x in (1, 1.0)
    )
    chex.assert_trees_all_equal(whole, fractions)
    dtypes = [x.dtype for x in tree.leaves(whole)]
    assert dtypes == [x.dtype for x in tree.leaves(fractions)]


def test_nothing_follows_torchs_default_dtype():
    state = examples.small_iteration().init(KEY)
    torch.set_default_dtype(torch.float64)
    try:
        other = examples.small_iteration().init(KEY)
    finally:
        torch.set_default_dtype(torch.float32)
    assert [x.dtype for x in tree.leaves(other)] == [x.dtype for x in tree.leaves(state)]


# --- gradients that are not wanted, numbers that are not finite -----------------------------


@pytest.mark.parametrize("enabled", [True, False])
def test_results_are_detached_where_parameters_require_gradients(enabled):
    one, rollout = examples.small_iteration(), examples.rollout(0, 5, 2)
    start = one.init(KEY)
    weights = tree.map(lambda w: w.clone().requires_grad_(), start.learner.params.weights)
    learnt = start.learner._replace(params=start.learner.params._replace(weights=weights))
    with torch.set_grad_enabled(enabled):
        updated = one.update(start._replace(learner=learnt), rollout)
    assert not any(x.requires_grad for x in tree.leaves(updated))
    chex.assert_trees_all_equal(updated, one.update(start, rollout))
    assert all(w.grad is None and w._version == 0 for w in weights.values())


def test_a_signal_that_learns_by_gradients_leaves_no_graph_behind():
    def evaluate(state, rollout):
        return rollout.rewards * state.gamma.clone().requires_grad_()

    signal = extrinsic()._replace(evaluate=evaluate)
    one = iteration(examples.learner(), {"extrinsic": signal}, batch_size=4)
    assert not any(
        x.requires_grad for x in tree.leaves(one.update(one.init(KEY), examples.rollout(0, 5, 2)))
    )


def test_a_reward_that_is_not_finite_leaves_the_weights():
    one, rollout = examples.small_iteration(), examples.rollout(0, 5, 2)
    start, _ = one.update(one.init(KEY), rollout)
    rewards = torch.where(rollout.mask, torch.nan, rollout.rewards)
    after, stats = one.update(start, rollout._replace(rewards=rewards))
    chex.assert_trees_all_equal(after.learner.params.weights, start.learner.params.weights)
    assert stats["extrinsic_failures"] == 1 and stats["grad_norm"].isnan()
    # 10 rows in minibatches of 4, two epochs: each of the four steps is skipped and counted
    assert after.learner.opt.skipped - start.learner.opt.skipped == 4


# --- bad input ----------------------------------------------------------------------------


GOOD = examples.rollout(0, 5, 2)


def wrong(**columns):
    return GOOD._replace(**columns)


REFUSED = {
    "float mask": (wrong(mask=GOOD.mask.float()), TypeError,
                   "`mask` must have dtype torch.bool, got torch.float32."),
    "float terminated": (wrong(terminated=GOOD.mask.float()), TypeError,
                         "`terminated` must have dtype torch.bool, got torch.float32."),
    "whole truncated": (wrong(truncated=GOOD.mask.long()), TypeError,
                        "`truncated` must have dtype torch.bool, got torch.int64."),
    "rewards of one agent": (wrong(rewards=GOOD.rewards[:, 0]), ValueError,
                             "`rewards` must have shape [T, *B] = [5, 2], got [5]."),
    "rewards per stream": (wrong(rewards=GOOD.rewards[..., None]), ValueError,
                           "`rewards` must have shape [T, *B] = [5, 2], got [5, 2, 1]."),
    "terminated once": (wrong(terminated=GOOD.terminated[0]), ValueError,
                        "`terminated` must have shape [T, *B] = [5, 2], got [2]."),
    "truncated too long": (wrong(truncated=torch.zeros(6, 2).bool()), ValueError,
                           "`truncated` must have shape [T, *B] = [5, 2], got [6, 2]."),
    "observations of one agent": (wrong(obs=tuple(x[:, :1] for x in GOOD.obs)), ValueError,
                                  "`obs` must begin with the axes [T, *B] = [5, 2], "
                                  "got [5, 1, 3]."),
    "next observations one too many": (
        wrong(next_obs=tuple(torch.cat([x, x[:1]]) for x in GOOD.next_obs)), ValueError,
        "`next_obs` must begin with the axes [T, *B] = [5, 2], got [6, 2, 3]."),
    "log-probabilities of rows": (wrong(log_prob=GOOD.log_prob.flatten(0, 1)), ValueError,
                                  "`log_prob` must begin with the axes [T, *B] = [5, 2], "
                                  "got [10, 4]."),
    "missing observation": (wrong(obs=GOOD.obs[:1]), ValueError,
                            "`obs` must have 2 observations, got 1."),
    "missing next observation": (wrong(next_obs=GOOD.next_obs[:1]), ValueError,
                                 "`obs` must have 2 observations, got 1."),
    "narrow log-probabilities": (wrong(log_prob=GOOD.log_prob[..., :3]), ValueError,
                                 "`log_prob` must have shape [4, 4], got [4, 3]."),
    "no step": (tree.map(lambda x: x[:0], GOOD), ValueError,
                "`mask` must have shape [T, *B] with T ≥ 1, got [0, 2]."),
    "no time": (tree.map(lambda x: x[0, 0], GOOD), ValueError,
                "`mask` must have shape [T, *B] with T ≥ 1, got []."),
    "too few rows": (examples.rollout(0, 3), ValueError,
                     "`batch` must have at least 4 rows, got 3."),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_update_refuses_a_wrong_rollout_in_words(case):
    rollout, error, message = REFUSED[case]
    one = examples.small_iteration()
    with pytest.raises(error) as caught:
        one.update(one.init(KEY), rollout)
    assert str(caught.value) == message


@pytest.mark.parametrize("names", [("gail",), ("extrinsic", "gail")])
def test_signals_that_the_learner_has_no_values_for_are_refused(names):
    one = iteration(examples.learner(), {name: extrinsic() for name in names}, batch_size=4)
    expected = r"the learner's values, \['extrinsic'\], got " + str(list(names)).replace("[", r"\[")
    with pytest.raises(ValueError, match="`signals` must have the names of " + expected):
        one.update(one.init(KEY), GOOD)


def test_values_that_no_signal_is_for_are_refused():
    one = iteration(reading([], ("a", "b")), {"b": extrinsic()}, batch_size=4)
    with pytest.raises(ValueError, match=r"learner's values, \['a', 'b'\], got \['b'\]\."):
        one.update(one.init(KEY), readable(0, 5, 2, streams=2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gae_lambda": 1.5}, r"`gae_lambda` must lie in \[0\.0, 1\.0\], got 1\.5\."),
        ({"gae_lambda": -0.1}, r"`gae_lambda` must lie in \[0\.0, 1\.0\], got -0\.1\."),
        ({"time_horizon": 0}, "`time_horizon` must be at least 1, got 0."),
        ({"num_epochs": 0}, "`num_epochs` must be at least 1, got 0."),
        ({"batch_size": 0}, "`batch_size` must be at least 1, got 0."),
    ],
)
def test_iteration_refuses_a_number_out_of_range_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        examples.small_iteration(**options)


def test_iteration_refuses_to_learn_from_nothing():
    with pytest.raises(ValueError, match="`signals` must have at least one signal, got none"):
        iteration(examples.learner(), {})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gamma": 1.01}, r"`gamma` must lie in \[0\.0, 1\.0\], got 1\.01\."),
        ({"gamma": -0.01}, r"`gamma` must lie in \[0\.0, 1\.0\], got -0\.01\."),
        ({"strength": math.nan}, r"`strength` must lie in \(-inf, inf\), got nan\."),
    ],
)
def test_extrinsic_refuses_a_number_out_of_range_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        extrinsic(**options)
