"""What the steps of a rollout of groups earn, against loops over agents."""

import chex
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from optinfra import credit, random, tree
from optinfra.iteration import iteration
from optinfra.rollout import mates_of, transitions
from optinfra.signals import extrinsic
from optinfra.signals.faults import Judged
from optinfra.types import RolloutValues
from tests import examples, group_cases
from tests.group_cases import M

SEEDS = st.integers(0, 999)
GAMMA, RATE = 0.9, 0.7
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
T, B, A = 6, 2, 3


def valued(seed, rollout, *, baselines=True):
    """Values of random numbers, where nothing comes of a network."""
    rows = rollout.mask.shape
    streams = [{"a": examples.normal(seed + i, *rows)} for i in range(3)]
    values, following, of_mates = streams
    return RolloutValues(values, following, (), (), of_mates if baselines else ())


def weighed(seed, rollout, rule=None, *, baselines=True):
    seen = credit.Seen(rollout, valued(seed, rollout, baselines=baselines), ())
    rewards = examples.normal(seed + 5, *rollout.mask.shape)
    judged = {"a": Judged(torch.where(rollout.mask, rewards, 0.0), torch.tensor(True))}
    batch, stats = credit.weigh(
        rule or credit.Rule(None, frozenset()),
        {"a": torch.tensor(GAMMA)},
        torch.tensor(RATE),
        seen,
        judged,
    )
    return seen, judged["a"].rewards, batch, stats


def returns_of_an_agent(rollout, rewards, following, b, a, *, horizon=None, endless=False):
    """λ-returns step by step, from the end of the rollout to its beginning."""
    found, onward = {}, None
    for t in reversed(range(T)):
        if not rollout.mask[t, b, a]:
            onward = None
            continue
        value = following[t, b, a].item()
        left = bool(rollout.terminated[t, b, a])
        over = left and bool(rollout.group.ended[t, b, a]) and not endless
        cut = left or bool(rollout.truncated[t, b, a]) or onward is None
        cut = cut or bool(horizon and (t + 1) % horizon == 0)
        if over:
            later = 0.0
        elif cut:
            later = value
        else:
            later = RATE * onward + (1 - RATE) * value
        onward = found[t] = rewards[t, b, a].item() + GAMMA * later
    return found


@pytest.mark.parametrize(("horizon", "endless"), [(None, False), (4, False), (None, True)])
@settings(max_examples=20)
@given(SEEDS)
def test_an_agent_is_paid_by_its_group_until_the_group_ends(horizon, endless, seed):
    """One that leaves while its mates stay goes on with what they are worth, not with nothing."""
    rollout = group_cases.rollout(seed, T, B, A)
    rule = credit.Rule(horizon, frozenset({"a"} if endless else ()))
    seen, rewards, batch, _ = weighed(seed, rollout, rule)
    for b in range(B):
        for a in range(A):
            expected = returns_of_an_agent(
                rollout, rewards, seen.valued.next_values["a"], b, a,
                horizon=horizon, endless=endless,
            )  # fmt: skip
            for t, value in expected.items():
                assert batch.returns["a"][t, b, a].item() == pytest.approx(value, abs=1e-4)
                advantage = value - seen.valued.baselines["a"][t, b, a].item()
                assert batch.advantages[t, b, a].item() == pytest.approx(advantage, abs=1e-4)


def test_what_is_learnt_from_holds_what_was_said_of_the_rollout():
    """The old baselines are what clips the new ones, and mates are those that were acted with."""
    rollout = group_cases.rollout(0, T, B, A)
    seen, _, batch, _ = weighed(0, rollout)
    chex.assert_trees_all_equal(batch.baselines, seen.valued.baselines)
    chex.assert_trees_all_equal(batch.values, seen.valued.values)
    chex.assert_trees_all_equal(batch.mates, mates_of(rollout)[0])


@given(SEEDS)
def test_without_baselines_agents_of_groups_are_as_any_others(seed):
    """An agent's own end is then the end, and one axis of agents is as good as two."""
    rollout = group_cases.rollout(seed, T, B, A)
    _, _, batch, stats = weighed(seed, rollout, baselines=False)
    flat = tree.map(lambda x: x.flatten(1, 2), rollout._replace(group=()))
    seen = credit.Seen(flat, tree.map(lambda x: x.flatten(1, 2), valued(seed, rollout)), ())
    seen = seen._replace(valued=seen.valued._replace(baselines=()))
    rewards = torch.where(rollout.mask, examples.normal(seed + 5, T, B, A), 0.0).flatten(1, 2)
    theirs, told = credit.weigh(
        credit.Rule(None, frozenset()), {"a": torch.tensor(GAMMA)}, torch.tensor(RATE), seen,
        {"a": Judged(rewards, torch.tensor(True))},
    )  # fmt: skip
    chex.assert_trees_all_close(batch.advantages.flatten(1, 2), theirs.advantages, **CLOSE)
    chex.assert_trees_all_close(stats, told, **CLOSE)
    assert batch.mates == () and batch.baselines == ()


# --- who are mates --------------------------------------------------------------------------------


@given(SEEDS, st.integers(1, 4))
def test_the_mates_of_an_agent_are_all_others_of_its_group(seed, agents):
    rollout = group_cases.rollout(seed, 2, B, agents)
    now, then = mates_of(rollout)
    assert now.present.shape == (2, B, agents, agents - 1)
    for a in range(agents):
        others = [j for j in range(agents) if j != a]
        for slot, j in enumerate(others):
            for i, x in enumerate(rollout.obs):
                assert torch.equal(now.obs[i][:, :, a, slot], x[:, :, j])
                assert torch.equal(then.obs[i][:, :, a, slot], rollout.next_obs[i][:, :, j])
            for mine, all_of_them in zip(now.action, rollout.action):
                assert torch.equal(mine[:, :, a, slot], all_of_them[:, :, j])
            assert torch.equal(now.present[:, :, a, slot], rollout.mask[:, :, j])
            assert torch.equal(then.present[:, :, a, slot], rollout.group.next_mask[:, :, j])


@given(SEEDS)
def test_signals_see_what_the_group_got_and_what_each_mate_that_was_there_got(seed):
    rollout = group_cases.rollout(seed, T, B, A)
    seen = transitions(rollout)
    assert torch.equal(seen.group_rewards, rollout.group.rewards)
    own = torch.where(rollout.mask, rollout.rewards, 0.0)
    together = own.sum(-1, keepdim=True)
    torch.testing.assert_close(seen.groupmate_rewards.sum(-1), together - own, **CLOSE)
    assert transitions(rollout._replace(group=())).group_rewards == ()


# --- a whole iteration ----------------------------------------------------------------------------


def group_iteration(memory=None, learner=None):
    return iteration(
        learner or group_cases.learner(memory),
        {"extrinsic": extrinsic(add_groupmate_rewards=True)},
        num_epochs=2,
        batch_size=4,
        sequence_length=4,
        num_agents=(B, A) if memory else None,
    )


def collected(seed, memory):
    rollout = group_cases.rollout(seed, T, B, A)
    return rollout._replace(memory=examples.normal(seed, T, B, A, M)) if memory else rollout


@pytest.mark.parametrize("memory", [None, M])
def test_an_iteration_learns_from_groups(memory):
    one, rollout = group_iteration(memory), collected(0, memory)
    state = one.init(random.key(0))
    after, stats = one.update(state, rollout)
    assert stats["baseline_loss"] > 0 and after.learner.params.largest == A
    assert after.learner.steps == rollout.mask.sum()
    moved = tree.map(
        lambda a, b: (a - b).abs().max(), state.learner.params.weights, after.learner.params.weights
    )
    assert min(tree.leaves(moved)) > 0
    if memory:
        assert after.memory.shape == (B, A, 2 * M)


@pytest.mark.parametrize("memory", [None, M])
@settings(max_examples=5)
@given(SEEDS, st.sampled_from([float("nan"), float("inf")]), st.sampled_from([-1, 2**40]))
def test_what_a_slot_without_an_agent_holds_changes_no_bit(memory, seed, number, choice):
    one, rollout = group_iteration(memory), collected(seed, memory)
    gone = rollout._replace(group=())
    spoilt = examples.spoiled(gone, number, choice)._replace(group=rollout.group)
    state = one.init(random.key(0))
    chex.assert_trees_all_equal(one.update(state, rollout), one.update(state, spoilt))


def with_newcomers(seed):
    """A rollout in which an agent that was absent may be there after a step; and who it is."""
    rollout = collected(seed, None)
    new = ~rollout.mask & (examples.normal(seed + 77, T, B, A) > 0)
    group = rollout.group._replace(next_mask=rollout.group.next_mask | new)
    return rollout._replace(group=group), new


def what_is_valued(rollout):
    """The trajectory that an iteration gives to its learner, and what followed each step."""
    learner, seen = group_cases.learner(), []

    def watched(params, trajectory, next_obs):
        seen.append((trajectory, next_obs))
        return learner.rollout_values(params, trajectory, next_obs)

    one = group_iteration(learner=learner._replace(rollout_values=watched))
    return one.update(one.init(random.key(0)), rollout), *seen[0]


@settings(max_examples=10)
@given(SEEDS)
def test_what_follows_a_step_is_valued_with_the_mates_who_came_with_it(seed):
    rollout, new = with_newcomers(seed)
    _, trajectory, next_obs = what_is_valued(rollout)
    _, expected = mates_of(rollout)
    there = expected.present
    assert torch.equal(trajectory.next_mates.present, there)
    for ours, theirs in zip(trajectory.next_mates.obs, expected.obs):
        assert torch.equal(ours[there], theirs[there])
    for ours, theirs in zip(next_obs, rollout.next_obs):
        assert torch.equal(ours[rollout.mask | new], theirs[rollout.mask | new])


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_nothing_but_what_an_agent_sees_is_read_of_the_step_it_comes_with(number):
    """Neither what it did nor what it was paid before it was there."""
    rollout, new = with_newcomers(0)
    assert new.any()
    spoilt = examples.spoiled(rollout._replace(group=()), number, -1)._replace(group=rollout.group)
    next_obs = tree.where(new, rollout.next_obs, spoilt.next_obs)
    group = rollout.group._replace(
        rewards=torch.where(rollout.mask, rollout.group.rewards, number),
        ended=rollout.group.ended | ~rollout.mask,
    )
    spoilt = spoilt._replace(next_obs=next_obs, group=group)
    chex.assert_trees_all_equal(what_is_valued(spoilt)[0], what_is_valued(rollout)[0])


def test_a_learner_of_single_agents_learns_from_groups_too():
    one = group_iteration(learner=examples.learner())
    after, stats = one.update(one.init(random.key(0)), collected(0, None))
    assert "baseline_loss" not in stats and after.learner.steps > 0


def test_a_learner_of_groups_refuses_a_rollout_without():
    one, rollout = group_iteration(), collected(0, None)._replace(group=())
    with pytest.raises(ValueError, match="`mates` and `next_mates` must be given to a learner of"):
        one.update(one.init(random.key(0)), rollout)
    with pytest.raises(ValueError, match="`group` must be given to a learner of groups"):
        weighed(0, rollout)
