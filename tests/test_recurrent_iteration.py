"""What lies around a recurrent update: rollouts cut into sequences that start from memories."""

import importlib
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from optinfra import random, sequences, tree
from optinfra.iteration import iteration
from optinfra.lift import ensemble, members
from optinfra.signals import extrinsic
from optinfra.testing import assert_memory_isolated, assert_trees_close, assert_trees_equal
from tests import examples
from tests.plain_recurrent import PlainRecurrent, normal

SPEC, M = examples.SPEC, 6
SEEDS, KIND = st.integers(0, 999), st.sampled_from(["lstm", "gru"])
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
TIGHT = {"rtol": 1e-6, "atol": 1e-6}
LEARNER = {
    (kind, k): examples.recurrent_learner(cell=kind, burn_in=k, normalize=False)
    for kind in ("lstm", "gru")
    for k in range(4)
}
SIGNALS = {"extrinsic": extrinsic(gamma=0.9)}


@st.composite
def cuts(draw):
    """S and k."""
    length = draw(st.integers(1, 4))
    return length, draw(st.integers(0, length - 1))


def rollout(seed, steps, agents, gaps=True):
    """Random numbers, ends of both kinds, rows that are no transition, the policy's memories."""
    made = examples.rollout(seed, steps, agents)
    mask = made.mask if gaps else torch.ones_like(made.mask)
    return made._replace(mask=mask, memory=normal(seed + 99, steps, agents, M))


def composed(made, length, burn_in, agents=2, **options):
    return iteration(
        made, SIGNALS, sequence_length=length, burn_in=burn_in, num_agents=agents, **options
    )


def in_order(state, batch):
    """One minibatch of everything, and advantages as they are."""
    return state, batch, torch.arange(len(batch.mask))[None]


def prepared(seen, length=1, burn_in=0, kind="lstm", state=None):
    """The state after an iteration that learns nothing, and all its sequences in order."""
    batches = []

    def update(state, batch):
        batches.append(batch)
        return state, {}

    learner = LEARNER[kind, 0]._replace(update=update)
    module = importlib.import_module("optinfra.iteration")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "minibatches", lambda *_: in_order)
        one = composed(learner, length, burn_in, seen.mask.shape[1])
    state, _ = one.update(state or started(one, seen.mask.shape[1]), seen)
    return state, batches[0]


def started(one, agents=2):
    """A state that remembers something already."""
    return one.init(random.key(5))._replace(memory=normal(55, agents, M))


# --- by hand ----------------------------------------------------------------------------------


def by_hand(state, seen, kind, b):
    """One agent's values, the critic's memories before each step, and the one it ends with."""
    plain = PlainRecurrent(SPEC, state.learner.params.weights, kind)
    never, memory, values, befores = torch.tensor([False]), state.memory[b], [], []
    for t, counts in enumerate(seen.mask[:, b].tolist()):
        befores.append(memory)
        if counts:
            obs = tuple(x[t : t + 1, b] for x in seen.obs)
            encoding, memory = plain.encodings("critic", obs, memory, never)
            values.append(plain.values(encoding)[0].detach())
        if not counts or seen.terminated[t, b] or seen.truncated[t, b]:
            memory = torch.zeros(M)
        values += [] if counts else [torch.tensor(0.0)]  # of no use
    return torch.stack(values), torch.stack(befores).detach(), memory.detach()


@given(KIND, SEEDS, st.integers(1, 7), cuts())
def test_sequences_start_from_the_memories_of_their_agents_and_reset_where_episodes_end(
    kind, seed, steps, cut
):
    length, burn_in = cut
    seen = rollout(seed, steps, 2)
    spoilt = examples.spoiled(seen, math.nan, -1)
    start = started(composed(LEARNER[kind, 0], length, burn_in))
    state, batch = prepared(spoilt, length, burn_in, kind, start)
    begins = sequences.starts(steps, length, burn_in)
    assert len(batch.mask) == len(begins) * 2
    over = seen.terminated | seen.truncated | ~seen.mask
    for b in range(2):
        values, befores, last = by_hand(start, seen, kind, b)
        assert_trees_close(state.memory[b], last, **CLOSE)
        for i, begin in enumerate(begins):
            own = tree.take(batch, 2 * i + b)
            assert_trees_close(own.memory.critic, befores[begin], **CLOSE)
            kept = seen.memory[begin, b] * seen.mask[begin, b]
            assert torch.equal(own.memory.actor, kept)
            for j in range(length):
                t, real = begin + j, begin + j < steps
                counts = real and bool(seen.mask[t, b])
                assert own.mask[j] == (counts and not (i and j < burn_in))
                assert own.warmup[j] == (counts and i > 0 and j < burn_in)
                assert own.reset[j] == (real and t > 0 and bool(over[t - 1, b]))
                if counts:
                    assert torch.equal(own.obs[0][j], seen.obs[0][t, b])
                    torch.testing.assert_close(own.values["extrinsic"][j], values[t], **CLOSE)


@given(KIND, SEEDS, st.integers(1, 7), cuts())
def test_what_was_remembered_leads_every_sequence_to_the_values_of_the_rollout(
    kind, seed, steps, cut
):
    seen = rollout(seed, steps, 2)
    state, batch = prepared(seen, *cut, kind)
    obs, reset, mask = (
        tree.map(lambda x: x.movedim(1, 0), x) for x in (batch.obs, batch.reset, batch.mask)
    )
    network = examples.recurrent_network(cell=kind)
    weights = state.learner.params.weights
    values, _ = network.values(weights, obs, batch.memory.critic, reset)
    recorded = batch.values["extrinsic"].movedim(1, 0)
    assert_trees_close(values["extrinsic"][mask], recorded[mask], **CLOSE)


# --- laws -------------------------------------------------------------------------------------


@given(KIND, SEEDS, st.integers(2, 7), st.data())
def test_the_critics_memory_goes_on_from_rollout_to_rollout(kind, seed, steps, data):
    """Two rollouts one after the other are one long rollout."""
    at = data.draw(st.integers(1, steps - 1))
    seen = rollout(seed, steps, 3)
    whole, batch = prepared(seen, kind=kind)
    start = started(composed(LEARNER[kind, 0], 1, 0, 3), 3)
    middle, first = prepared(tree.take(seen, slice(at)), kind=kind, state=start)
    end, second = prepared(tree.take(seen, slice(at, None)), kind=kind, state=middle)
    joined = tree.map(lambda *xs: torch.cat(xs), first, second)
    assert_trees_close(joined.memory, batch.memory, **TIGHT)
    assert_trees_close(joined.values, batch.values, **TIGHT)
    assert_trees_close(end.memory, whole.memory, **TIGHT)


def test_what_an_agent_leaves_to_the_next_rollout_is_no_business_of_others():
    seen = rollout(3, 5, 3)

    def run(memory, floats, flags):
        start = started(composed(LEARNER["lstm", 0], 1, 0, 3), 3)._replace(memory=memory)
        state, batch = prepared(seen._replace(**floats, **flags), kind="lstm", state=start)
        apart = tree.map(lambda x: x.unflatten(0, (5, 3)), batch)
        # A reward that is not finite ends the whole stream for this iteration.
        return state.memory, apart._replace(advantages=(), returns={}, live=())

    names = ("obs", "next_obs", "rewards", "memory")
    floats = {name: getattr(seen, name) for name in names}
    flags = {name: getattr(seen, name) for name in ("terminated", "truncated", "mask")}
    assert_memory_isolated(run, normal(55, 3, M), floats, flags, in_dims=(0, 1, 1), out_dims=(0, 1))


@given(KIND, SEEDS, cuts(), st.sampled_from([math.nan, math.inf, 3e38]), st.sampled_from([-1, 99]))
def test_a_row_that_is_no_transition_changes_no_bit_of_an_iteration(
    kind, seed, cut, number, choice
):
    length, burn_in = cut
    learner = examples.recurrent_learner(cell=kind, burn_in=burn_in)  # with a normaliser
    one = composed(learner, length, burn_in, num_epochs=1, batch_size=2 * length)
    start, seen = started(one), rollout(seed, 5, 2)
    clean, dirty = (one.update(start, x) for x in (seen, examples.spoiled(seen, number, choice)))
    assert_trees_equal(dirty, clean)
    assert all(x.isfinite().all() for x in tree.leaves(dirty))


@given(SEEDS, cuts())
def test_the_normaliser_sees_each_step_once_however_often_it_warms_up(seed, cut):
    learner = examples.recurrent_learner(burn_in=cut[1])
    one = composed(learner, *cut, num_epochs=1, batch_size=2 * cut[0])
    start, seen = started(one), rollout(seed, 6, 2)
    state, stats = one.update(start, seen)
    expected = learner.observe(start.learner, seen.obs, seen.mask).params.moments
    assert_trees_equal(state.learner.params.moments, expected)
    rewards = seen.rewards[seen.mask]
    torch.testing.assert_close(stats["extrinsic_reward"], rewards.sum() / max(len(rewards), 1))


@given(SEEDS, cuts())
def test_every_step_is_learnt_from_once_an_epoch(seed, cut):
    """Σ over minibatches of one sequence each."""
    counted = []

    def update(state, batch):
        counted.append((batch.mask.sum(), batch.advantages[batch.mask]))
        return state, {"nothing": torch.zeros(())}

    learner = LEARNER["lstm", cut[1]]._replace(update=update)
    one = composed(learner, *cut, num_epochs=1, batch_size=1)
    seen = rollout(seed, 6, 2)
    one.update(started(one), seen)
    assert sum(n for n, _ in counted) == seen.mask.sum()
    advantages = torch.cat([x for _, x in counted])
    if len(advantages) > 1:
        torch.testing.assert_close(advantages.mean(), torch.tensor(0.0), rtol=0, atol=1e-5)
        spread = advantages.std(unbiased=False)
        torch.testing.assert_close(spread, torch.tensor(1.0), rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_an_ensemble_of_recurrent_iterations_is_a_loop_over_them(kind):
    learner = examples.recurrent_learner(cell=kind, burn_in=1)
    options = {"num_epochs": 2, "batch_size": 9}
    one = composed(learner, 3, 1, **options)
    many = composed(learner, 3, 1, **options, stage=ensemble)
    lifted = ensemble(one)
    states = lifted.init(random.split(random.key(1), 3))
    states = states._replace(memory=normal(1, 3, 2, M))
    rollouts = [[rollout(100 * k + r, 5, 2) for k in range(3)] for r in range(2)]
    for together in (lifted.update, many.update):
        after, alone = states, members(states)
        for each in rollouts:  # the second goes on with each member's memory
            after, stats = together(after, tree.stack(each))
            alone, alone_stats = zip(*(one.update(s, r) for s, r in zip(alone, each)))
        assert_trees_close(after, tree.stack(alone), rtol=1e-4, atol=1e-5)
        assert_trees_close(stats, tree.stack(alone_stats), rtol=1e-4, atol=1e-5)


# --- what it begins with, and what it refuses ---------------------------------------------------


def test_nobody_remembers_anything_at_first():
    state = composed(LEARNER["lstm", 0], 2, 0, agents=4).init(random.key(0))
    assert torch.equal(state.memory, torch.zeros(4, M))
    assert examples.small_iteration().init(random.key(0)).memory == ()


def test_what_an_iteration_that_remembers_needs_is_named():
    learner, seen = LEARNER["lstm", 0], rollout(0, 4, 2)
    with pytest.raises(ValueError, match="`num_agents` must be given for a learner that remembers"):
        iteration(learner, SIGNALS)
    for length, burn_in, message in [
        (2, 2, r"`burn_in` must lie in \[0, 2\), got 2"),
        (2, -1, "`burn_in` must lie in"),
        (0, 0, r"`(sequence_)?length` must lie in \[1, inf\), got 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            composed(learner, length, burn_in)
    one = composed(learner, 2, 0, batch_size=4)
    start = started(one)
    with pytest.raises(ValueError, match=r"`memory` must .*\[4, 2\], got \[4, 1"):
        one.update(start, seen._replace(memory=seen.memory[:, :1]))
    with pytest.raises(ValueError, match=r"`memory` must"):
        one.update(start, seen._replace(memory=seen.memory[..., :4]))
    with pytest.raises(ValueError, match="`memory` must be given by the rollout"):
        one.update(start, seen._replace(memory=()))
    for agents in (1, 3):  # the critic's memories are of other agents
        with pytest.raises(ValueError, match=r"`memory` must"):
            one.update(start._replace(memory=normal(0, agents, M)), seen)
