"""Laws of POCA: what its update may depend on, what it keeps, what it refuses."""

import math

import chex
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from optinfra import losses, moments, random, transforms, tree
from optinfra.learners import ppo
from optinfra.types import Memories, Trajectory
from tests import examples, group_cases
from tests.group_cases import SLOTS, M

LEARNER = group_cases.learner()
REMEMBERING = group_cases.learner(M)
DESCENT = group_cases.learner(transform=transforms.scale(1.0))  # w ← w − η·∇L, nothing else
# Its losses move with every value; clipped ones may stand still.
SQUARED = group_cases.learner(value_loss=losses.squared_value_loss)
ROWS = 8
SEEDS = st.integers(0, 999)
MASKS = st.lists(st.booleans(), min_size=ROWS, max_size=ROWS).map(torch.tensor)
WORST_FLOATS = st.sampled_from([math.nan, math.inf, -3e38])
WORST_CHOICES = st.sampled_from([-1, 3, 2**40])
ALGEBRA = {"rtol": 1e-9, "atol": 1e-9}  # of laws in float64
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


def begun(learner, seed=0):
    """A state whose normaliser has seen something, and has learnt from groups of two."""
    state = learner.init(random.key(seed))
    seen = torch.ones(20, dtype=torch.bool)
    state = learner.observe(state, examples.batch(77, 20).obs, seen)
    return state._replace(params=state.params._replace(largest=torch.tensor(2.0)))


# --- which rows and mates count -------------------------------------------------------------------


@given(MASKS, WORST_FLOATS, WORST_CHOICES)
def test_a_masked_row_changes_no_bit_of_an_update_whatever_it_and_its_mates_hold(
    mask, number, choice
):
    batch = group_cases.batch(0, ROWS)._replace(mask=mask)
    clean, dirty = (
        LEARNER.update(begun(LEARNER), b) for b in (batch, examples.spoiled(batch, number, choice))
    )
    chex.assert_trees_all_equal(clean, dirty)
    assert all(x.isfinite().all() for x in tree.leaves(dirty))


@pytest.mark.parametrize("memory", [None, M])
@settings(max_examples=6)
@given(SEEDS, WORST_FLOATS, WORST_CHOICES)
def test_an_absent_mate_changes_no_bit_of_an_update_whatever_it_holds(memory, seed, number, choice):
    learner = REMEMBERING if memory else LEARNER
    batch = group_cases.sequences(seed, 2, 4) if memory else group_cases.batch(seed, ROWS)
    spoiled = batch._replace(mates=group_cases.with_absent(batch.mates, number, choice))
    clean, dirty = (learner.update(begun(learner), b) for b in (batch, spoiled))
    chex.assert_trees_all_equal(clean, dirty)


@given(SEEDS, st.permutations(range(SLOTS)))
def test_the_order_of_the_mates_is_no_matter(seed, order):
    batch = examples.double(group_cases.batch(seed, ROWS))
    other = batch._replace(mates=group_cases.permuted(batch.mates, order))
    both = (DESCENT.update(examples.double(begun(DESCENT)), b) for b in (batch, other))
    chex.assert_trees_all_close(*both, **ALGEBRA)


@given(SEEDS)
def test_what_an_agent_did_is_in_its_policys_loss_alone(seed):
    """A baseline that knew the action would take its worth away."""
    batch = group_cases.batch(seed, ROWS)
    batch = batch._replace(mask=torch.ones(ROWS, dtype=torch.bool))
    action = examples.action(seed + 1, (ROWS,))
    state = begun(SQUARED)
    told = [SQUARED.update(state, b)[1] for b in (batch, batch._replace(action=action))]
    for name in ("value_loss", "baseline_loss"):
        assert torch.equal(told[0][name], told[1][name])
    assert not torch.equal(told[0]["policy_loss"], told[1]["policy_loss"])


@given(SEEDS)
def test_what_mates_did_is_in_the_baselines_and_in_nothing_else(seed):
    batch = group_cases.batch(seed, ROWS)
    batch = batch._replace(mask=torch.ones(ROWS, dtype=torch.bool))
    done = examples.action(seed + 1, (ROWS, SLOTS))
    mates = batch.mates._replace(present=torch.ones(ROWS, SLOTS, dtype=torch.bool))
    state = begun(SQUARED)
    told = [
        SQUARED.update(state, batch._replace(mates=each))[1]
        for each in (mates, mates._replace(action=done))
    ]
    for name in ("value_loss", "policy_loss"):
        assert torch.equal(told[0][name], told[1][name])
    assert not torch.equal(told[0]["baseline_loss"], told[1]["baseline_loss"])


# --- how many agents count as many ----------------------------------------------------------------


def crowd(count, *rows):
    """Mates of whom so many are present in the first row, and none in the others."""
    mates = group_cases.mates(3, *rows)
    first = torch.arange(math.prod(rows)).reshape(rows) == 0
    return mates._replace(present=first[..., None] & (torch.arange(SLOTS) < count))


@pytest.mark.parametrize(("count", "kept"), [(0, 2.0), (1, 2.0), (2, 3.0), (3, 4.0)])
def test_an_update_keeps_the_number_of_the_largest_group(count, kept):
    batch = group_cases.batch(0, ROWS)._replace(
        mask=torch.ones(ROWS, dtype=torch.bool), mates=crowd(count, ROWS)
    )
    after, _ = LEARNER.update(begun(LEARNER), batch)
    assert after.params.largest == kept
    masked = batch._replace(mask=torch.arange(ROWS) > 0)  # the group is in the first row
    assert LEARNER.update(begun(LEARNER), masked)[0].params.largest == 2.0


@pytest.mark.parametrize("where", ["now", "then"])
def test_evaluation_counts_in_units_of_the_largest_group_it_is_given(where):
    """Mates of the next step included; a larger number that was kept goes before."""
    params = begun(LEARNER).params
    seen = examples.trajectory(0, 3, 2)
    groups = {"now": crowd(0, 3, 2), "then": crowd(0, 3, 2)} | {where: crowd(3, 3, 2)}
    one = Trajectory(*seen[:5], groups["now"], groups["then"])
    following = examples.batch(9, 3, 2).obs

    def values(largest):
        own = params._replace(largest=torch.tensor(largest))
        return LEARNER.rollout_values(own, one, following)

    assert_all_close(values(2.0), values(4.0))
    with pytest.raises(AssertionError):
        assert_all_close(values(4.0), values(5.0))


def assert_all_close(ours, expected):
    chex.assert_trees_all_close(
        (ours.values, ours.next_values, ours.baselines),
        (expected.values, expected.next_values, expected.baselines),
        **CLOSE,
    )


# --- values of trajectories -----------------------------------------------------------------------


@pytest.mark.parametrize("memory", [None, M])
@settings(max_examples=6)
@given(SEEDS)
def test_values_of_a_trajectory_are_those_of_a_rollout(memory, seed):
    """Where nothing ends but at the end; and its memories are those of each sequence's start."""
    learner = REMEMBERING if memory else LEARNER
    params, steps = begun(learner).params, 7
    start = examples.normal(seed, 2, 2 * M) if memory else ()
    none = torch.zeros(steps, 2, dtype=torch.bool)
    whole = group_cases.trajectory(seed, steps, 2, memory=start, mask=~none)
    whole = whole._replace(terminated=none, truncated=none)
    following = examples.batch(seed + 9, steps, 2).obs
    rolled = learner.rollout_values(params, whole, following)
    single = whole._replace(next_mates=tree.take(whole.next_mates, -1))
    done = torch.tensor([False, True])
    valued = learner.trajectory_values(params, single, tree.take(following, -1), done)
    chex.assert_trees_all_close(valued.values, rolled.values, **CLOSE)
    chex.assert_trees_all_close(valued.baselines, rolled.baselines, **CLOSE)
    expected = rolled.next_values["extrinsic"][-1]
    assert valued.bootstrap["extrinsic"][1] == 0.0
    torch.testing.assert_close(valued.bootstrap["extrinsic"][0], expected[0], **CLOSE)
    if memory:
        torch.testing.assert_close(valued.memories, rolled.memories[::4], **CLOSE)


@pytest.mark.parametrize("steps", [1, 3])
def test_a_rollout_goes_on_with_what_the_one_before_remembered(steps):
    """Values and baselines each with their own."""
    params, start = begun(REMEMBERING).params, examples.normal(1, 2, 2 * M)
    whole = group_cases.trajectory(0, 5, 2, memory=start)
    following = examples.batch(9, 5, 2).obs

    def values(part, memory):
        one, later = tree.take((whole._replace(memory=()), following), part)
        return REMEMBERING.rollout_values(params, one._replace(memory=memory), later)

    expected, first = values(slice(5), start), values(slice(steps), start)
    second = values(slice(steps, 5), first.final_memory)
    joined = tree.map(
        lambda *parts: torch.cat(parts),
        *((x.values, x.next_values, x.baselines, x.memories) for x in (first, second)),
    )
    parts = (expected.values, expected.next_values, expected.baselines, expected.memories)
    chex.assert_trees_all_close(joined, parts, **CLOSE)
    chex.assert_trees_all_close(second.final_memory, expected.final_memory, **CLOSE)


def test_only_streams_that_do_not_ignore_it_end_with_the_group():
    streams, one = ("a", "b"), group_cases.trajectory(0, 3, 2)
    learner = group_cases.learner(streams=streams, ignore_done={"b"})
    params, following = begun(learner).params, examples.batch(9, 2).obs
    one = one._replace(next_mates=tree.take(one.next_mates, -1))
    over, goes_on = (
        learner.trajectory_values(params, one, following, torch.full((2,), done)).bootstrap
        for done in (True, False)
    )
    assert (over["a"] == 0).all() and (goes_on["a"] != 0).all()
    assert torch.equal(over["b"], goes_on["b"]) and (over["b"] != 0).all()


def through_normaliser(params, obs):
    return tuple(moments.normalize(m, x) for m, x in zip(params.moments, obs))


def test_what_mates_see_passes_the_normaliser_too():
    state, plain = begun(LEARNER), group_cases.learner(normalize=False)
    params = state.params
    theirs = params._replace(moments=())

    def seen(mates):
        return mates._replace(obs=through_normaliser(params, mates.obs))

    one, following = group_cases.trajectory(0, 3, 2), examples.batch(9, 3, 2).obs
    other = one._replace(
        obs=through_normaliser(params, one.obs), mates=seen(one.mates),
        next_mates=seen(one.next_mates),
    )  # fmt: skip
    ours = LEARNER.rollout_values(params, one, following)
    expected = plain.rollout_values(theirs, other, through_normaliser(params, following))
    assert_all_close(ours, expected)
    batch = group_cases.batch(0, ROWS)
    other = batch._replace(obs=through_normaliser(params, batch.obs), mates=seen(batch.mates))
    (after, stats), (plainly, expected) = (
        LEARNER.update(state, batch), plain.update(state._replace(params=theirs), other)
    )  # fmt: skip
    chex.assert_trees_all_close(stats, expected, **CLOSE)
    chex.assert_trees_all_close(after.params.weights, plainly.params.weights, **CLOSE)


@pytest.mark.parametrize("memory", [None, M])
def test_values_of_observations_are_those_of_a_rollout_of_them(memory):
    """With mates in whose units agents are counted, and the value's half of what is remembered."""
    learner = REMEMBERING if memory else LEARNER
    params = begun(learner).params
    start = examples.normal(1, 2, 2 * M) if memory else ()
    one = group_cases.trajectory(0, 3, 2, memory=start)
    none = torch.zeros(3, 2, dtype=torch.bool)
    one = one._replace(terminated=none, truncated=none, mates=crowd(3, 3, 2))
    rolled = learner.rollout_values(params, one, examples.batch(9, 3, 2).obs).values
    given = (start, none) if memory else ((), None)
    ours = learner.values(params, one.obs, *given, mates=one.mates)
    chex.assert_trees_all_close(ours, rolled, **CLOSE)


def test_no_graph_leads_through_an_update():
    state, batch = begun(LEARNER), group_cases.batch(0, ROWS)
    weights = tree.map(lambda x: x.clone().requires_grad_(), state.params.weights)
    tracked = state._replace(params=state.params._replace(weights=weights))
    after, stats = LEARNER.update(tracked, batch)
    assert not any(x.requires_grad for x in tree.leaves((after, stats)))
    chex.assert_trees_all_equal((after, stats), LEARNER.update(state, batch))


def test_what_padding_holds_is_no_mate_and_no_large_group():
    params = begun(LEARNER).params
    mask = torch.tensor([True, True, False])[:, None].expand(3, 2)
    one = group_cases.trajectory(4, 3, 2, mask=mask)
    none = torch.zeros(3, 2, dtype=torch.bool)
    present = mask[..., None] & (torch.arange(SLOTS) < 1)
    one = one._replace(
        terminated=none, truncated=none, next_mates=crowd(0, 2),
        mates=one.mates._replace(present=present),
    )  # fmt: skip
    dirty = one._replace(
        obs=tuple(torch.where(mask[..., None], x, math.nan) for x in one.obs),
        mates=one.mates._replace(present=present | ~mask[..., None]),
    )
    following, done = examples.batch(9, 2).obs, torch.zeros(2, dtype=torch.bool)
    clean, spoilt = (LEARNER.trajectory_values(params, x, following, done) for x in (one, dirty))
    chex.assert_trees_all_equal(clean, spoilt)


def test_a_row_that_does_not_count_is_in_no_group_after_its_step_either():
    """Else the mates of an empty place would be one more: so many as no update ever sees."""
    params, following = begun(LEARNER).params, examples.batch(9, 3, 2).obs
    counts = (torch.arange(6) > 0).reshape(3, 2)  # not where the crowd is
    one = group_cases.trajectory(4, 3, 2, mask=counts)._replace(mates=crowd(0, 3, 2))
    nobody, many = (
        LEARNER.rollout_values(params, one._replace(next_mates=crowd(n, 3, 2)), following)
        for n in (0, SLOTS)
    )
    for ours, theirs in zip(*((x.values, x.next_values, x.baselines) for x in (nobody, many))):
        chex.assert_trees_all_equal(*(tree.take(x, counts) for x in (ours, theirs)))


def test_mates_follow_the_last_step_unless_all_of_a_trajectory_is_padding():
    params, following = begun(LEARNER).params, examples.batch(9, 2).obs
    counts = torch.tensor([[False, True], [False, True], [False, False]])
    one = group_cases.trajectory(4, 3, 2, mask=counts)._replace(mates=crowd(0, 3, 2))
    mates = crowd(0, 2)

    def values(*rows):
        present = torch.tensor(rows)[:, None].expand(2, SLOTS)
        seen = one._replace(next_mates=mates._replace(present=present))
        found = LEARNER.trajectory_values(params, seen, following, torch.zeros(2).bool())
        return found.values, found.baselines, found.bootstrap["extrinsic"][1]

    chex.assert_trees_all_equal(values(False, False), values(True, False))
    assert values(False, False)[-1] != values(False, True)[-1]


def test_a_step_that_warms_memories_up_does_so_with_its_mates():
    """What follows is learnt as if the step counted; what it did is not learnt from."""
    learner = group_cases.learner(M, value_loss=losses.squared_value_loss)
    batch, state = group_cases.sequences(0, 3, 4), begun(learner)
    first = (torch.arange(4) == 0).expand(3, 4)
    batch = batch._replace(mask=~first, warmup=first, reset=torch.zeros_like(first))
    everybody = batch.mates._replace(present=torch.ones_like(batch.mates.present))
    nobody = everybody._replace(present=everybody.present & ~first[..., None])
    told = [learner.update(state, batch._replace(mates=x))[1] for x in (everybody, nobody)]
    for name in ("value_loss", "baseline_loss"):
        assert not torch.equal(told[0][name], told[1][name])
    assert torch.equal(told[0]["policy_loss"], told[1]["policy_loss"])


def test_values_of_observations_alone_are_those_of_agents_without_mates():
    params, obs = begun(LEARNER).params, examples.batch(0, 4).obs
    alone = LEARNER.values(params, obs)
    nobody = group_cases.mates(0, 4)
    nobody = nobody._replace(present=torch.zeros_like(nobody.present))
    chex.assert_trees_all_close(alone, LEARNER.values(params, obs, mates=nobody), **CLOSE)
    somebody = nobody._replace(present=~nobody.present)
    with pytest.raises(AssertionError):
        chex.assert_trees_all_close(alone, LEARNER.values(params, obs, mates=somebody), **CLOSE)


def test_it_acts_as_ppo_with_the_same_policy_does():
    state, obs = begun(LEARNER), examples.batch(0, 4).obs
    other = ppo(examples.network(), examples.SPEC, normalize=True)
    theirs = other.init(random.key(0)).params
    weights = {name: state.params.weights[name] for name in theirs.weights if "actor" in name}
    theirs = theirs._replace(weights=theirs.weights | weights, moments=state.params.moments)
    ours = LEARNER.act(state.params, obs, (), random.key(3))
    chex.assert_trees_all_equal(ours, other.act(theirs, obs, (), random.key(3)))
    ours, expected = LEARNER.greedy(state.params, obs, ()), other.greedy(theirs, obs, ())
    chex.assert_trees_all_equal(ours, expected)


# --- what it refuses ------------------------------------------------------------------------------


def test_what_does_not_fit_is_refused_by_name():
    batch, state = group_cases.batch(0, ROWS), begun(LEARNER)
    mates = batch.mates
    for change, error, message in [
        ({"mates": ()}, ValueError, "`mates` and `baselines` must be given to a learner of groups"),
        ({"baselines": ()}, ValueError, "`mates` and `baselines` must be given"),
        ({"mates": tree.take(mates, slice(3))}, ValueError, r"`mates` must .*\[\*N\] = \[8\]"),
        ({"mates": mates._replace(present=mates.present.float())}, TypeError, "`mates.present`"),
        ({"baselines": {"other": batch.advantages}}, ValueError, "`baselines` must have the str"),
        ({"baselines": {"extrinsic": batch.advantages[:3]}}, ValueError, r"`baselines\['extr"),
    ]:
        with pytest.raises(error, match=message):
            LEARNER.update(state, batch._replace(**change))
    seen = examples.trajectory(0, 3, 2)
    with pytest.raises(ValueError, match="`mates` and `next_mates` must be given to a learner of"):
        LEARNER.rollout_values(state.params, seen, examples.batch(0, 3, 2).obs)
    with pytest.raises(ValueError, match=r"`value_coef` must lie in \[0.0, inf\), got -1"):
        group_cases.learner(value_coef=-1.0)
    sequences = group_cases.sequences(0, 2, 4)._replace(memory=Memories((), ()))
    with pytest.raises(ValueError, match="`memory` and `reset` must be given"):
        REMEMBERING.update(begun(REMEMBERING), sequences)
