"""Laws of learning from replay: what is kept, drawn, judged and learnt, and in which order."""

import importlib
import itertools
import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import vmap

from optinfra import moments, random, tree
from optinfra.lift import compiled, ensemble, members
from optinfra.lift.epochs import unlifted
from optinfra.networks import name_hash
from optinfra.off_policy import off_policy
from optinfra.rollout import transitions
from optinfra.signals import extrinsic
from optinfra.signals.faults import no_progress
from optinfra.streams import IMITATION
from optinfra.testing import assert_memory_isolated, assert_trees_close, assert_trees_equal
from optinfra.train.faults import Faults, SignalWarning
from optinfra.types import Imitation, Trajectory
from tests import examples
from tests import off_policy_cases as cases
from tests.off_policy_cases import KEY, LANES, LEARNER, REMEMBERING, STREAMS, M, composed, taste

SEEDS = st.integers(0, 10**6)
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
MEMBERS = {"rtol": 1e-4, "atol": 1e-5}
NOT_FINITE = ["raise", "nan", "inf", "-inf"]
KINDS = [*NOT_FINITE, "1e13"]  # a reward that is too large is none either


def rollout(seed, steps=5, agents=LANES, gaps=True):
    """Random numbers, ends of both kinds, rows that are no transition, the policy's memories."""
    made = examples.rollout(seed, steps, agents)
    mask = made.mask if gaps else torch.ones_like(made.mask)
    return made._replace(mask=mask, memory=examples.normal(seed + 99, steps, agents, M))


def started(one, seed=5, **leaves):
    """A state in which everything is in motion, with other leaves in the place of some."""
    state = one.init(random.key(seed))
    state = one.observe(state, rollout(seed))[0]
    return tree.replace(state, {name: torch.as_tensor(x) for name, x in leaves.items()})


def but(state, **fields):
    """What is left of a state when these fields are as they may be."""
    return state._replace(**dict.fromkeys(fields or ("key",), ()))


# --- observing ------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(SEEDS)
def test_observing_counts_the_steps_and_shows_them_to_the_normaliser_once(seed):
    one, seen, told = composed(), rollout(seed), []

    def observe(*arguments):
        told.append(arguments)
        return LEARNER.observe(*arguments)

    start = started(one, seed)
    state, _ = composed(LEARNER._replace(observe=observe)).observe(start, seen)
    assert len(told) == 1
    running = tuple(
        moments.update(m, x, seen.mask) for m, x in zip(start.learner.params.moments, seen.obs)
    )
    learnt = start.learner._replace(
        params=start.learner.params._replace(moments=running),
        steps=start.learner.steps + sum(seen.mask.flatten().tolist()),
    )
    assert_trees_equal(state, start._replace(learner=learnt))


@settings(max_examples=25)
@given(SEEDS)
def test_kept_is_what_was_seen_and_executed_and_blank_where_nothing_was(seed):
    seen = rollout(seed)._replace(action_mask=examples.normal(seed, 5, LANES, 5) > 0)
    _, kept = composed().observe(started(composed()), seen)
    assert kept.memory == ()
    valid = seen.mask.nonzero().unbind(-1)
    for name, column in transitions(seen)._asdict().items():
        assert_trees_equal(
            tree.take(getattr(kept.transitions, name), valid), tree.take(column, valid)
        )
    assert torch.equal(kept.transitions.action.continuous[valid], seen.executed.continuous[valid])
    assert torch.equal(kept.transitions.mask, seen.mask)
    nothing = (~seen.mask).nonzero().unbind(-1)
    for x in tree.leaves(tree.take(kept.transitions, nothing)):
        assert not x.any()


@settings(max_examples=30)
@given(SEEDS, st.sampled_from([math.nan, math.inf, 3e38]), st.sampled_from([-1, 99]), st.booleans())
def test_a_row_that_is_no_transition_changes_no_bit_whatever_it_holds(seed, number, choice, memory):
    one, seen = cases.remembering() if memory else composed(), rollout(seed)
    start = started(one)
    clean, dirty = (one.observe(start, x) for x in (seen, examples.spoiled(seen, number, choice)))
    assert_trees_equal(dirty, clean)
    assert all(x.isfinite().all() for x in tree.leaves(dirty))


@pytest.mark.parametrize("value_network", [True, False])
@settings(max_examples=25)
@given(SEEDS)
def test_what_is_remembered_is_told_by_the_learner_once_its_normaliser_has_seen_it(
    value_network, seed
):
    learner = REMEMBERING if value_network else cases.WITHOUT_VALUES
    one, seen = cases.remembering(learner), rollout(seed)
    start = started(one)
    state, kept = one.observe(start, seen)
    learnt = learner.observe(start.learner, seen.obs, seen.mask)
    trajectory = Trajectory(seen.obs, start.memory, seen.terminated, seen.truncated, seen.mask)
    valued = learner.rollout_values(learnt.params, trajectory, seen.next_obs)
    assert_trees_equal(kept.memory.critic, valued.memories)
    assert_trees_equal(state.memory, valued.final_memory)
    valid = seen.mask.nonzero().unbind(-1)
    assert torch.equal(kept.memory.actor[valid], seen.memory[valid])
    assert kept.memory.critic.shape == (5, LANES, M if value_network else 3 * M)


def critic_by_hand(state, seen, b):
    """One agent's memories before each step, and the one it ends with, a step at a time."""
    memory, befores = state.memory[b], []
    for t, counts in enumerate(seen.mask[:, b].tolist()):
        befores.append(memory)
        obs = tuple(x[t : t + 1, b : b + 1] for x in seen.obs)
        _, after = cases.NETWORK.values(state.learner.params.weights, obs, memory[None], None)
        over = not counts or seen.terminated[t, b] or seen.truncated[t, b]
        memory = torch.zeros_like(memory) if over else after[0]
    return torch.stack(befores), memory


@settings(max_examples=20)
@given(SEEDS, st.integers(1, 6))
def test_the_critics_memory_goes_on_where_it_was_and_is_reset_where_episodes_end(seed, steps):
    one = cases.remembering(cases.WITHOUT_VALUES)
    start = started(one, memory=examples.normal(seed, LANES, 3 * M))
    for seen in (rollout(seed, steps), rollout(seed + 1, 4)):
        state, kept = one.observe(start, seen)
        for b in range(LANES):
            befores, last = critic_by_hand(start, seen, b)
            torch.testing.assert_close(kept.memory.critic[:, b], befores, **CLOSE)
            torch.testing.assert_close(state.memory[b], last, **CLOSE)
        start = state


@settings(max_examples=20)
@given(SEEDS, st.integers(2, 7), st.data())
def test_two_rollouts_one_after_the_other_are_one_long_rollout(seed, steps, data):
    at = data.draw(st.integers(1, steps - 1))
    seen, one = rollout(seed, steps), cases.remembering(cases.PLAIN)
    start = started(one)
    whole, kept = one.observe(start, seen)
    middle, first = one.observe(start, tree.take(seen, slice(at)))
    end, second = one.observe(middle, tree.take(seen, slice(at, None)))
    joined = tree.map(lambda *xs: torch.cat(xs), first, second)
    assert_trees_close((end, joined), (whole, kept), rtol=1e-6, atol=1e-6)


def test_what_an_agent_leaves_to_the_next_rollout_is_no_business_of_others():
    seen, one = rollout(3, agents=3), cases.remembering(cases.PLAIN, agents=3)
    start = one.init(KEY)

    def run(memory, floats, flags):
        state, kept = one.observe(start._replace(memory=memory), seen._replace(**floats, **flags))
        return state.memory, kept

    floats = {name: getattr(seen, name) for name in ("obs", "next_obs", "rewards", "memory")}
    flags = {name: getattr(seen, name) for name in ("terminated", "truncated", "mask")}
    memory = examples.normal(55, 3, M)
    assert_memory_isolated(run, memory, floats, flags, in_dims=(0, 1, 1), out_dims=(0, 1))


def test_what_is_kept_can_be_held_and_reaches_the_learner_with_its_memories():
    batches = []
    one = cases.remembering(cases.recording(batches, REMEMBERING), batch_size=12)
    state, kept = one.observe(started(one), rollout(0))
    one.update(state, cases.store_of(kept.transitions, kept.memory).view())
    (batch,) = batches
    assert len(batch.mask) == 4
    for n, first in enumerate(batch.obs[0][:, 0]):
        ((t, b),) = (kept.transitions.obs[0] == first).all(-1).nonzero().tolist()
        assert_trees_equal(tree.take(batch.memory, n), tree.take(kept.memory, (t, b)))


# --- updating -------------------------------------------------------------------------------------


@settings(max_examples=12)
@given(SEEDS, st.integers(1, 3), st.integers(1, 5), st.floats(-2, 2), st.floats(0, 1))
def test_an_update_is_one_of_the_learner_for_each_minibatch_that_was_drawn(
    seed, number, rows, strength, gamma
):
    one, shown = composed(num_updates=number, batch_size=rows), cases.view(seed)
    start = started(one, **{"signals/it/strength": strength, "signals/extrinsic/gamma": gamma})
    state, stats = one.update(start, shown)
    key, batches = cases.drawn(start.key, shown, number, rows)
    learnt, told = cases.taught(LEARNER, start, batches)
    assert_trees_equal(state, start._replace(learner=learnt, key=key))
    for name in told[0]:
        torch.testing.assert_close(stats[name], cases.mean(now[name] for now in told), **CLOSE)


@settings(max_examples=4)
@given(SEEDS, st.sampled_from([(2, 9, 3), (1, 2, 4), (3, 4, 1)]))
def test_a_learner_that_remembers_learns_from_each_sequence_that_was_drawn(seed, sizes):
    number, rows, length = sizes
    one = cases.remembering(num_updates=number, batch_size=rows, sequence_length=length)
    start, shown = started(one), cases.view_to_remember(seed)
    state, _ = one.update(start, shown)
    key, batches = cases.drawn(start.key, shown, number, max(rows // length, 1), length)
    learnt, _ = cases.taught(REMEMBERING, start, batches)
    assert_trees_equal(state, start._replace(learner=learnt, key=key))


@settings(max_examples=25)
@given(SEEDS, st.integers(1, 3), st.integers(1, 9), st.integers(1, 4))
def test_sequences_arrive_as_they_were_drawn(seed, number, rows, length):
    """With the memory each begins with, the flags in it, and the padding behind it."""
    seen = []
    one = cases.remembering(
        cases.recording(seen, REMEMBERING),
        num_updates=number, batch_size=rows, sequence_length=length,
    )  # fmt: skip
    start, shown = started(one), cases.view_to_remember(seed)
    one.update(start, shown)
    count = max(rows // length, 1)
    _, batches = cases.drawn(start.key, shown, number, count, length)
    assert len(seen) == number
    for batch, found in zip(seen, batches):
        assert batch.mask.shape == (count, length)
        assert_trees_equal(batch, cases.lesson(start, found, dict.fromkeys(STREAMS, True)))


def test_every_minibatch_is_drawn_anew():
    seen = []
    one = composed(cases.recording(seen), num_updates=3, batch_size=12)
    state, shown = started(one), cases.view(0)
    for _ in range(2):
        state, _ = one.update(state, shown)
    numbers = {tuple(batch.rewards["extrinsic"].tolist()) for batch in seen}
    assert len(numbers) == len(seen) == 6


def test_a_transition_reaches_the_learner_column_by_column():
    seen, shown = [], cases.view(4)
    one = composed(cases.recording(seen), num_updates=1)
    start = started(one)
    one.update(start, shown)
    (batch,), (_, (found,)) = seen, cases.drawn(start.key, shown, 1, 4)
    for name in ("obs", "next_obs", "action", "action_mask", "terminated", "mask"):
        assert_trees_equal(getattr(batch, name), getattr(found.transitions, name))
    assert batch.memory == batch.reset == batch.next_action_mask == ()
    assert torch.equal(batch.discounts["it"], torch.full((4,), 0.9))
    assert torch.equal(batch.discounts["extrinsic"], torch.full((4,), 0.8))
    assert torch.equal(batch.rewards["extrinsic"], 2 * found.transitions.rewards)
    assert all(live.all() for live in batch.live.values())


def test_rewards_are_judged_anew_by_what_a_signal_knows_at_each_update():
    seen = []
    one = composed(cases.recording(seen), num_updates=2)
    shown, state = cases.view(2), started(one)
    for weights in (torch.ones(3), torch.tensor([1.0, -2.0, 0.5])):
        state = tree.replace(state, {"signals/it/weights": weights})
        seen.clear()
        state, _ = one.update(state, shown)
        for batch in seen:
            expected = 0.5 * (batch.obs[0] @ weights).square()
            assert torch.equal(batch.rewards["it"], expected)


def test_an_update_after_the_signals_have_learnt_is_judged_by_what_they_learnt():
    seen = []
    one = composed(cases.recording(seen))
    shown, start = cases.view(2), started(one)
    state, _ = one.update_signals(start, shown)
    assert not torch.equal(state.signals["it"].weights, start.signals["it"].weights)
    one.update(state, shown)
    expected = 0.5 * cases.liking(state.signals["it"], seen[0])
    assert torch.equal(seen[0].rewards["it"], expected)


# --- signals learn --------------------------------------------------------------------------------


@settings(max_examples=20)
@given(SEEDS, st.integers(1, 3), st.integers(1, 5))
def test_signals_learn_from_each_minibatch_that_was_drawn_for_them_and_nothing_else_does(
    seed, number, rows
):
    one, shown = composed(num_signal_updates=number, batch_size=rows), cases.view(seed)
    start = started(one)
    state, stats = one.update_signals(start, shown)
    key, batches = cases.drawn(start.key, shown, number, rows)
    learnt, told = start.signals["it"], []
    for found in batches:
        learnt, now = taste().update(learnt, found.transitions)
        told.append(now)
    expected = start._replace(key=key, signals=start.signals | {"it": learnt})
    assert_trees_equal(state, expected)
    means = {
        "it_loss": cases.mean(now["loss"] for now in told),
        "it_weight": cases.mean(now["it_weight"] for now in told),
        "it_failures": torch.tensor(0.0),
        "extrinsic_failures": torch.tensor(0.0),
    }
    assert_trees_close(stats, means, **CLOSE)


def test_with_memory_signals_see_sequences():
    calls = []
    one = cases.remembering(
        signals={"extrinsic": extrinsic(), "it": taste(calls=calls)}, batch_size=6
    )
    start, shown = started(one), cases.view_to_remember(3)
    one.update_signals(start, shown)
    _, (found,) = cases.drawn(start.key, shown, 1, 2, 3)
    ((_, _, seen),) = calls
    assert_trees_equal(seen, found.transitions)


def test_signals_learn_from_other_draws_than_the_learner():
    seen, calls = [], []
    one = composed(cases.recording(seen), {"extrinsic": extrinsic(), "it": taste(calls=calls)})
    state, shown = started(one), cases.view(2)
    for _ in range(3):
        state, _ = one.update(state, shown)
        state, _ = one.update_signals(state, shown)
    learnt = [batch.obs[0] for name, _, batch in calls if name == "update"]
    drawn = [batch.obs[0] for batch in seen] + learnt
    assert len(learnt) == 3
    assert not any(torch.equal(x, y) for x, y in itertools.combinations(drawn, 2))


def test_a_signal_that_has_nothing_to_learn_is_not_asked_to():
    asked = []

    def telling(name, function, otherwise):
        asked.append((name, otherwise is no_progress))
        return function

    composed(guard=telling)
    assert sorted(asked) == [("extrinsic", False), ("it", False), ("it", True)]


def test_a_guard_is_put_around_what_was_staged():
    """Within a compiled function no exception can be caught."""
    staged, guarded = [], []

    def stage(function):
        staged.append(lambda *arguments: function(*arguments))
        return staged[-1]

    def guard(name, function, otherwise):
        guarded.append(function)
        return function

    composed(stage=stage, guard=guard)
    assert len(guarded) == 3 and all(function in staged for function in guarded)


def test_where_no_signal_learns_nothing_is_drawn():
    learner = examples.soft_learner()
    one = composed(learner, {"extrinsic": extrinsic()})
    start = started(one)
    state, stats = one.update_signals(start, cases.view(0))
    assert_trees_equal(state, start)
    assert stats == {}


# --- failures -------------------------------------------------------------------------------------


def failing(kind, where="evaluate"):
    """Signals of which `it` fails, and the leaf by which it does."""
    leaf = {"evaluate": "signals/it/spoil", "update": "signals/it/drift"}[where]
    signals = {"extrinsic": extrinsic(), "it": taste((where,) if kind == "raise" else ())}
    return signals, {} if kind == "raise" else {leaf: float(kind)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", [1, 3])
def test_a_signal_that_fails_is_left_out_of_what_the_learner_learns(kind, number):
    signals, leaf = failing(kind)
    one, shown = composed(signals=signals, guard=cases.catching, num_updates=number), cases.view(1)
    start = started(one, **leaf)
    state, stats = one.update(start, shown)
    key, batches = cases.drawn(start.key, shown, number, 4)
    lives = [{"extrinsic": True, "it": False}] * number
    learnt, _ = cases.taught(LEARNER, start, batches, lives)
    assert_trees_equal(state.learner, learnt)
    assert_trees_equal((state.signals, state.key), (start.signals, key))
    assert state.failures == {"extrinsic": 0, "it": number}
    assert state.live == {"extrinsic": True, "it": False}
    assert stats["it_reward"] == 0 and stats["it_failures"] == number
    assert all(x.isfinite() for x in stats.values())


@pytest.mark.parametrize("kind", KINDS)
def test_a_signal_that_has_failed_learns_nothing_until_its_rewards_are_finite_again(kind):
    signals, leaf = failing(kind)
    sound = composed(num_signal_updates=2)
    one, shown = composed(signals=signals, guard=cases.catching), cases.view(1)
    failed, _ = one.update(started(one, **leaf), shown)
    healed = tree.replace(failed, {"signals/it/spoil": torch.tensor(0.0)})
    waiting, stats = sound.update_signals(healed, shown)
    assert_trees_equal(but(waiting), but(healed))
    assert not torch.equal(waiting.key, healed.key)
    assert stats["it_failures"] == 1 and stats["it_loss"] == 0  # it was counted by `update`
    judged, _ = sound.update(waiting, shown)
    assert judged.live["it"] and judged.failures["it"] == 1
    after, stats = sound.update_signals(judged, shown)
    assert not torch.equal(after.signals["it"].weights, healed.signals["it"].weights)
    assert stats["it_failures"] == 1


def test_each_minibatch_has_failures_of_its_own():
    """Rewards are NaN where the first number that is seen is high: in some of the minibatches."""
    limit = 0.5
    one = composed(
        signals={"extrinsic": extrinsic(), "it": taste(limit=limit)}, num_updates=5, batch_size=2
    )
    last, numbers = set(), set()
    for seed in range(4):
        start, shown = started(one, seed), cases.view(seed)
        _, batches = cases.drawn(start.key, shown, 5, 2)
        highest = [found.transitions.obs[0][:, 0].max() for found in batches]
        lives = [{"extrinsic": True, "it": bool(x <= limit)} for x in highest]
        state, stats = one.update(start, shown)
        failures = sum(not live["it"] for live in lives)
        assert_trees_equal(state.learner, cases.taught(LEARNER, start, batches, lives)[0])
        assert state.failures["it"] == failures == stats["it_failures"]
        assert state.live["it"] == lives[-1]["it"]
        last.add(lives[-1]["it"])
        numbers.add(failures)
    assert last == {True, False} and numbers & {1, 2, 3, 4}


@pytest.mark.parametrize("kind", NOT_FINITE)
def test_a_signal_whose_update_fails_still_rewards_but_does_not_learn(kind):
    signals, leaf = failing(kind, "update")
    one = composed(signals=signals, guard=cases.catching, num_signal_updates=3)
    start, shown = started(one, **leaf), cases.view(1)
    state, stats = one.update_signals(start, shown)
    assert_trees_equal(state.signals, start.signals)
    assert state.failures == {"extrinsic": 0, "it": 3} and state.live["it"]
    assert stats.get("it_loss", 0) == 0 and stats["it_failures"] == 3
    judged, stats = one.update(state, shown)
    assert stats["it_reward"] != 0 and stats["it_failures"] == 3
    assert judged.live["it"]


@pytest.mark.parametrize("kind", KINDS)
def test_where_every_signal_fails_the_learner_stays_as_it_was_with_its_key(kind):
    signals, leaf = failing(kind)
    broken = extrinsic()._replace(evaluate=taste(("evaluate",)).evaluate)
    signals = signals | {"extrinsic": broken}
    one, shown = composed(signals=signals, guard=cases.catching, num_updates=2), cases.view(1)
    start = started(one, **leaf)
    state, stats = one.update(start, shown)
    assert_trees_equal(state.learner, start.learner)
    assert state.failures == {"extrinsic": 2, "it": 2}
    assert all(x.isfinite() for x in stats.values())
    assert not torch.equal(state.key, start.key)


@pytest.mark.parametrize("field", ["gamma", "strength"])
def test_a_number_of_a_signal_that_is_not_finite_spoils_no_other_stream(field):
    one, shown = composed(), cases.view(1)
    start = started(one, **{f"signals/it/{field}": math.nan})
    state, _ = one.update(start, shown)
    _, batches = cases.drawn(start.key, shown, 1, 4)
    sane = tree.replace(start, {f"signals/it/{field}": torch.tensor(0.5)})
    learnt, _ = cases.taught(LEARNER, sane, batches, [{"extrinsic": True, "it": False}])
    assert_trees_equal(state.learner, learnt)
    assert state.failures == {"extrinsic": 0, "it": 1}


def test_failures_are_a_members_own():
    """Of four members one is sound, in one a signal fails, in one both, in one what it learns."""
    one, many = composed(num_updates=2), composed(num_updates=2, stage=ensemble)
    start = vmap(one.init)(random.split(KEY, 4))
    nan, fine = math.nan, 0.0
    start = tree.replace(start, {
        "signals/it/spoil": torch.tensor([fine, nan, math.inf, fine]),
        "signals/extrinsic/strength": torch.tensor([1.0, 1.0, nan, 1.0]),
        "signals/it/drift": torch.tensor([fine, fine, fine, nan]),
    })  # fmt: skip
    views = [cases.view(k) for k in range(4)]
    state, _ = many.update(start, tree.stack(views))
    end, stats = many.update_signals(state, tree.stack(views))
    assert stats["it_failures"].tolist() == [0, 2, 2, 1]
    assert stats["extrinsic_failures"].tolist() == [0, 0, 2, 0]
    assert state.live["it"].tolist() == [True, False, False, True]
    assert_trees_equal(*(members(s.learner)[2] for s in (end, start)))
    for k, alone in enumerate(members(start)):
        middle, _ = one.update(alone, views[k])
        assert_trees_close(members(state)[k].learner, middle.learner, **MEMBERS)
        expected, _ = one.update_signals(middle, views[k])
        learns = [members(end)[k].signals["it"], expected.signals["it"], alone.signals["it"]]
        weights, by_itself, before = (state.weights for state in learns)
        torch.testing.assert_close(weights, by_itself, **MEMBERS)
        assert torch.equal(weights, before) == (k > 0)


@pytest.mark.parametrize("where", ["evaluate", "update"])
def test_an_exception_is_caught_for_all_members_at_once(where):
    signals, _ = failing("raise", where)
    one = composed(signals=signals, guard=cases.catching)
    many = composed(signals=signals, guard=cases.catching, stage=ensemble)
    start = vmap(one.init)(random.split(KEY, 3))
    views = [cases.view(k) for k in range(3)]
    state, _ = many.update(start, tree.stack(views))
    end, stats = many.update_signals(state, tree.stack(views))
    assert stats["it_failures"].tolist() == [1, 1, 1]
    assert_trees_equal(end.signals, start.signals)
    for k, alone in enumerate(members(start)):
        expected, _ = one.update(alone, views[k])
        assert_trees_close(members(state)[k], expected, **MEMBERS)


def test_the_runs_guard_names_an_exception_once_and_without_one_it_ends_the_update():
    signals, _ = failing("raise")
    one, shown = composed(signals=signals, guard=Faults().guard, num_updates=2), cases.view(0)
    with pytest.warns(SignalWarning, match="LookupError: no such taste") as told:
        state, _ = one.update(started(one), shown)
    assert len(told) == 1 and state.failures["it"] == 2
    with pytest.raises(LookupError, match="no such taste"):
        composed(signals=signals).update(state, shown)


# --- imitation ------------------------------------------------------------------------------------


def imitating(calls):
    """Imitation that adds one to every weight, and keeps what it is given."""

    def update(state, params, steps):
        calls.append((state, params, steps))
        weights = tree.map(lambda x: x + 1, params.weights)
        return state + 1, params._replace(weights=weights), {"imitation_loss": torch.tensor(7.0)}

    return Imitation(lambda key, params: key.sum(), update)


def test_imitation_follows_each_update_once_and_by_its_own_update_alone():
    calls = []
    alone, one = (
        composed(num_updates=3, imitation=imitation) for imitation in (None, imitating(calls))
    )
    start, shown = started(one), cases.view(1)
    for number in (1, 2):
        plain, plain_stats = alone.update(start._replace(imitation=()), shown)
        state, stats = one.update(start, shown)
        assert len(calls) == number
        assert_trees_equal(calls[-1], (start.imitation, plain.learner.params, start.learner.steps))
        weights = tree.map(lambda x: x + 1, plain.learner.params.weights)
        learnt = plain.learner._replace(params=plain.learner.params._replace(weights=weights))
        assert_trees_equal(state, plain._replace(learner=learnt, imitation=start.imitation + 1))
        assert_trees_equal(stats, plain_stats | {"imitation_loss": torch.tensor(7.0)})
        start = state
    one.update_signals(start, shown)
    one.observe(start, rollout(0))
    assert len(calls) == 2


# --- stats ----------------------------------------------------------------------------------------


def test_stats_are_means_over_the_minibatches():
    one, shown = composed(num_updates=3), cases.view(6)
    start = started(one)
    _, stats = one.update(start, shown)
    _, batches = cases.drawn(start.key, shown, 3, 4)
    _, told = cases.taught(LEARNER, start, batches)
    expected = {name: cases.mean(now[name] for now in told) for name in told[0]}
    for name in STREAMS:
        judged = [cases.rewards(start, name, found.transitions) for found in batches]
        expected[f"{name}_reward"] = cases.mean(x.mean() for x in judged)
        expected[f"{name}_failures"] = torch.tensor(0.0)
    assert_trees_close(stats, expected, **CLOSE)


def test_the_reward_of_sequences_is_the_mean_over_the_rows_that_count():
    one = cases.remembering(batch_size=12)
    start, shown = started(one), cases.view_to_remember(1)
    _, stats = one.update(start, shown)
    _, (found,) = cases.drawn(start.key, shown, 1, 4, 3)
    assert not found.transitions.mask.all()
    valid = found.transitions.rewards[found.transitions.mask]
    torch.testing.assert_close(stats["extrinsic_reward"], 2 * valid.mean())


@pytest.mark.parametrize("memory", [True, False])
def test_stats_are_finite_numbers_and_everything_is_detached(memory):
    one = cases.remembering() if memory else composed()
    shown = cases.view_to_remember(0) if memory else cases.view(0)
    start = started(one)
    weights = tree.map(lambda w: w.clone().requires_grad_(), start.learner.params.weights)
    learnt = start.learner._replace(params=start.learner.params._replace(weights=weights))
    start = start._replace(learner=learnt)
    results = [one.observe(start, rollout(0)), one.update(start, shown)]
    results.append(one.update_signals(results[1][0], shown))
    assert not any(x.requires_grad for x in tree.leaves(results[1:]))
    assert not any(x.requires_grad for x in tree.leaves(results[0][1]))
    for stats in (results[1][1], results[2][1]):
        for name, x in stats.items():
            assert x.shape == () and x.isfinite() and x.is_floating_point(), name


# --- members side by side -------------------------------------------------------------------------


def swept(one, size=3):
    """Members of which each has numbers of its own."""
    state = vmap(one.init)(random.split(KEY, size))
    return tree.replace(state, {
        "learner/hyper/tau": torch.tensor([0.1, 0.5, 1.0]),
        "learner/hyper/learning_rate/value": torch.tensor([1e-2, 3e-2, 0.0]),
        "signals/it/gamma": torch.tensor([0.9, 0.0, 0.5]),
        "signals/it/strength": torch.tensor([1.0, -2.0, 0.1]),
        "signals/extrinsic/gamma": torch.tensor([0.5, 1.0, 0.7]),
    })  # fmt: skip


@pytest.mark.parametrize("memory", [True, False])
def test_an_ensemble_is_a_loop_over_its_members(memory):
    compose = cases.remembering if memory else composed
    make = cases.view_to_remember if memory else cases.view
    options = {"num_updates": 2, "num_signal_updates": 2}
    one, staged = compose(**options), compose(**options, stage=ensemble)
    start, views = swept(one), [make(k) for k in range(3)]
    rollouts = [rollout(100 * k) for k in range(3)]
    for many in (staged, ensemble(one)):
        state, alone = start, members(start)
        state, kept = many.observe(state, tree.stack(rollouts))
        alone, kept_alone = zip(*(one.observe(s, r) for s, r in zip(alone, rollouts)))
        assert_trees_close(kept, tree.stack(kept_alone), **MEMBERS)
        for name in ("update", "update_signals"):
            state, stats = getattr(many, name)(state, tree.stack(views))
            alone, told = zip(*(getattr(one, name)(s, v) for s, v in zip(alone, views)))
            assert_trees_close(state, tree.stack(alone), **MEMBERS)
            assert_trees_close(stats, tree.stack(told), **MEMBERS)
    for k, (now, then) in enumerate(zip(members(state), members(start))):
        path = "q1.head.heads.it.weight"
        moved = not torch.equal(now.learner.params.weights[path], then.learner.params.weights[path])
        assert moved == (k < 2)


# --- nothing to learn from ------------------------------------------------------------------------


@pytest.mark.parametrize("memory", [True, False])
def test_where_nothing_is_held_nothing_is_learnt(memory):
    one = cases.remembering(num_updates=2) if memory else composed(num_updates=2)
    start, shown = started(one), cases.nothing_held(memory)
    state, stats = one.update(start, shown)
    assert_trees_equal(but(state), but(start))
    end, signal_stats = one.update_signals(state, shown)
    assert_trees_equal(end.learner, start.learner)
    floats = [x for x in tree.leaves((end, stats, signal_stats)) if x.is_floating_point()]
    assert all(x.isfinite().all() for x in floats)


# --- the beginning --------------------------------------------------------------------------------


def test_init_is_a_pure_function_of_the_key():
    one = composed()
    first, again, other = (one.init(random.key(k)) for k in (1, 1, 2))
    assert_trees_equal(first, again)
    name = "q1.body.layers.0.weight"
    assert not torch.equal(first.learner.params.weights[name], other.learner.params.weights[name])
    assert not torch.equal(first.key, other.key)
    own, of_learner, _ = random.split(random.key(1), 3).unbind()
    assert torch.equal(first.key, own)
    assert_trees_equal(first.learner, LEARNER.init(of_learner))
    assert first.memory == first.imitation == ()
    assert first.live == {"extrinsic": True, "it": True}
    assert first.failures == {"extrinsic": 0, "it": 0}
    assert all(x.dtype == torch.bool and x.shape == () for x in first.live.values())
    assert all(x.dtype == torch.int64 and x.shape == () for x in first.failures.values())


def test_adding_a_signal_or_imitation_changes_no_others_draws():
    def drawn(*names, **options):
        state = composed(signals={name: taste() for name in names}, **options).init(KEY)
        return {name: own.key for name, own in state.signals.items()}, state.learner, state.key

    alone, both, swapped = drawn("a"), drawn("a", "b"), drawn("b", "a")
    assert torch.equal(alone[0]["a"], both[0]["a"])
    assert_trees_equal(both[0], swapped[0])
    assert not torch.equal(both[0]["a"], both[0]["b"])
    assert_trees_equal(alone[1:], both[1:])
    assert_trees_equal(drawn("a", imitation=imitating([])), alone)
    own = random.split(KEY, 3)[2]
    assert torch.equal(alone[0]["a"], random.fold_in(own, name_hash("a")))


def test_imitation_begins_with_a_key_of_its_own_and_the_learners_parameters():
    given = []
    imitation = imitating([])._replace(init=lambda *arguments: given.append(arguments) or KEY)
    state = composed(imitation=imitation).init(KEY)
    ((key, params),) = given
    assert params is state.learner.params and torch.equal(state.imitation, KEY)
    own = random.split(KEY, 3)[2]
    assert torch.equal(key, random.fold_in(own, name_hash(IMITATION)))
    assert not torch.equal(key, state.signals["it"].key)


def test_nobody_remembers_anything_at_first():
    assert torch.equal(cases.remembering(agents=4).init(KEY).memory, torch.zeros(4, M))


def test_the_same_seed_gives_the_same_run_bit_for_bit():
    def run(seed):
        one, told = composed(num_updates=2), []
        state = one.init(random.key(seed))
        for k in range(2):
            state, _ = one.observe(state, rollout(k))
            for function in (one.update, one.update_signals):
                state, stats = function(state, cases.view(k))
                told.append(stats)
        return state, told

    assert_trees_equal(run(4), run(4))
    assert run(4)[1][0]["policy_loss"] != run(5)[1][0]["policy_loss"]


def test_nothing_follows_torchs_default_dtype():
    ready, shown, seen = LEARNER.init(KEY), cases.view(0), rollout(0)
    learner = LEARNER._replace(init=lambda key: ready)  # what it begins with is its own affair

    def dtypes():
        one = composed(learner)
        state = one.init(KEY)
        results = [one.observe(state, seen)]
        results += [function(state, shown) for function in (one.update, one.update_signals)]
        return [x.dtype for x in tree.leaves((state, results))]

    expected = dtypes()
    torch.set_default_dtype(torch.float64)
    try:
        assert dtypes() == expected
    finally:
        torch.set_default_dtype(torch.float32)


# --- compiled -------------------------------------------------------------------------------------


def counting(state, batch):
    """An update that reads all of a batch, and is quickly compiled."""
    total = sum(x.double().sum() for x in tree.leaves(batch)).float()
    key, _ = random.split(state.key).unbind()
    return state._replace(log_entropy_coef=tree.map(lambda x: x + total, state.log_entropy_coef),
                          key=key), {"total": total}  # fmt: skip


def test_every_function_is_staged_and_each_is_compiled_once(monkeypatch):
    """Whatever reads a view or a rollout lies in functions of one graph each."""
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    module = importlib.import_module("optinfra.lift.compiled")
    own = {"fullgraph": True, "dynamic": False, "backend": backend}
    isolated = {module.ISOLATION: True} if module.ISOLATED else {}
    monkeypatch.setattr(module, "options", lambda: own | isolated)
    learner = LEARNER._replace(update=counting)
    fast, eager = (composed(learner, stage=stage, num_updates=2) for stage in (compiled, unlifted))
    state = expected = started(eager)
    for k in range(3):
        shown, seen = cases.view(k), rollout(k)
        state, kept = fast.observe(state, seen)
        expected, kept_eagerly = eager.observe(expected, seen)
        for name in ("update", "update_signals"):
            state, stats = getattr(fast, name)(state, shown)
            expected, stats_eagerly = getattr(eager, name)(expected, shown)
        results = (state, kept, stats), (expected, kept_eagerly, stats_eagerly)
        assert_trees_close(*results, **MEMBERS)
    # To observe, to draw for each of the two, to judge by two, to learn, and to teach one signal.
    assert len(graphs) == 7


# --- what is refused ------------------------------------------------------------------------------


NUMBERS = ("batch_size", "num_updates", "num_signal_updates", "sequence_length")


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_out_of_range_is_refused_by_name(name):
    with pytest.raises(ValueError, match=rf"`{name}` must lie in \[1, inf\), got 0\."):
        composed(**{name: 0})
    with pytest.raises(TypeError, match=rf"`{name}` must be an integer, got 2\.5\."):
        composed(**{name: 2.5})


def test_nothing_to_learn_from_or_nobody_who_collects_is_refused():
    with pytest.raises(ValueError, match="`signals` must have at least one signal, got none"):
        off_policy(LEARNER, {})
    with pytest.raises(ValueError, match="`num_agents` must be given for a learner that remembers"):
        composed(REMEMBERING)


@pytest.mark.parametrize("names", [("gail",), ("extrinsic",), ("extrinsic", "gail", "it")])
def test_signals_that_are_not_those_the_learner_has_values_for_are_refused(names):
    one = composed(signals={name: extrinsic() for name in names})
    expected = (
        f"`rewards` must have the streams of the network, ['extrinsic', 'it'], got {sorted(names)}."
    )
    with pytest.raises(ValueError, match=re.escape(expected)):
        one.update(one.init(KEY), cases.view(0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gamma": 0.9}, r"the field `gamma`, a tensor \[\], got 0.9"),
        ({"strength": torch.ones(1)}, r"the field `strength`, a tensor \[\], got tensor\(\[1.\]\)"),
        ({"weights": 3}, "have a state of tensors, got 3"),
    ],
)
def test_a_signals_state_is_refused_at_the_beginning(changes, message):
    broken = taste()._replace(init=lambda key: taste().init(key)._replace(**changes))
    with pytest.raises(TypeError, match=r"`signals\['it'\]` must .*" + message):
        composed(signals={"extrinsic": extrinsic(), "it": broken}).init(KEY)


GOOD = rollout(0)
REFUSED = {
    "float mask": ({"mask": GOOD.mask.float()}, TypeError, "`mask` must have dtype torch.bool"),
    "whole truncated": ({"truncated": GOOD.mask.long()}, TypeError,
                        "`truncated` must have dtype torch.bool, got torch.int64"),
    "rewards of one agent": ({"rewards": GOOD.rewards[:, 0]}, ValueError,
                             r"`rewards` must have shape \[T, \*B\] = \[5, 2\], got \[5\]"),
    "observations of one agent": ({"obs": tuple(x[:, :1] for x in GOOD.obs)}, ValueError,
                                  r"`obs` must begin with the axes .* got \[5, 1, 3\]"),
    "missing observation": ({"obs": GOOD.obs[:1]}, ValueError,
                            "`obs` must have 2 observations, got 1"),
    "executed once": ({"executed": tree.take(GOOD.executed, 0)}, ValueError,
                      "`executed` must begin with the axes"),
    "memories of one agent": ({"memory": GOOD.memory[:, :1]}, ValueError,
                              r"`memory` must begin with the axes .* got \[5, 1, 6\]"),
    "no memories": ({"memory": ()}, ValueError, "`memory` must be given by the rollout"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_rollout_is_refused_in_words(case):
    columns, error, message = REFUSED[case]
    one = cases.remembering()
    with pytest.raises(error, match=message):
        one.observe(one.init(KEY), GOOD._replace(**columns))


def test_a_rollout_without_steps_or_of_other_agents_is_refused():
    one = cases.remembering()
    with pytest.raises(ValueError, match=r"`mask` must have shape \[T, \*B\] with T ≥ 1, got"):
        one.observe(one.init(KEY), tree.map(lambda x: x[:0], GOOD))
    with pytest.raises(ValueError, match=r"`memory` must begin with the axes \[\*B\] = \[3\]"):
        one.observe(one.init(KEY), rollout(0, agents=3))


def test_replay_of_another_form_is_refused():
    shown = cases.view(0)
    one = composed()
    with pytest.raises(ValueError, match="`obs` must have 2 observations, got 1"):
        made = shown.transitions._replace(obs=shown.transitions.obs[:1])
        one.update(one.init(KEY), shown._replace(transitions=made))
    with pytest.raises(ValueError, match="`memory` must be given to a learner that remembers"):
        cases.remembering().update(cases.remembering().init(KEY), shown)
