"""Values of trajectories: each agent by itself, cut anywhere, padded with anything."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.func import vmap

from optinfra import networks, random, sequences, tree
from optinfra.agents import AgentMemories
from optinfra.testing import (
    TRAJECTORY_AXES,
    assert_memory_isolated,
    assert_trees_close,
    assert_trees_equal,
)
from optinfra.values import Critic, rollout_values, trajectory_values
from tests import examples
from tests.plain_recurrent import normal
from tests.trajectories import (
    ALONE,
    CLOSE,
    CRITICS,
    EITHER,
    KIND,
    LENGTHS,
    OF_ROLLOUTS,
    OF_VALUES,
    PADDED,
    PARAMS,
    SEEDS,
    SPEC,
    TIGHT,
    WHOLE,
    M,
    agent,
    following,
    lengths_of,
    one,
    over,
    valued,
    valued_rollout,
)

# --- agents are apart -----------------------------------------------------------------------


@given(KIND, EITHER, LENGTHS, SEEDS)
def test_what_an_agent_leaves_behind_depends_on_no_other_bit_for_bit(
    kind, trajectory, length, seed
):
    agents = trajectory.terminated.shape[1]
    run = trajectory_values(CRITICS[kind], sequence_length=length)
    done = normal(seed + 9, agents) > 0
    assert_memory_isolated(
        run, PARAMS[kind], trajectory, following(seed, agents), done,
        in_dims=(None, TRAJECTORY_AXES, 0, 0), out_dims=OF_VALUES,
    )  # fmt: skip


@given(KIND, EITHER, SEEDS)
def test_what_an_agents_rollout_leaves_behind_depends_on_no_other_bit_for_bit(
    kind, trajectory, seed
):
    next_obs = following(seed, *trajectory.terminated.shape)
    assert_memory_isolated(
        rollout_values(CRITICS[kind]), PARAMS[kind], trajectory, next_obs,
        in_dims=(None, TRAJECTORY_AXES, 1), out_dims=OF_ROLLOUTS,
    )  # fmt: skip


@pytest.mark.parametrize("padded", [False, True])
def test_agents_are_apart_where_networks_are_as_large_as_in_use(padded):
    """Rounding included: how one agent is computed must not depend on another's ends."""
    network = networks.recurrent_actor_critic(SPEC, memory_size=32, hidden_units=16)
    run = trajectory_values(Critic(network.values, network.values_and_memories), sequence_length=8)
    trajectory = examples.trajectory(0, 16, 3, memory=normal(4, 3, 32), spec=SPEC)
    trajectory = trajectory._replace(
        terminated=torch.zeros_like(trajectory.terminated),
        mask=torch.arange(16)[:, None] < torch.tensor([16, 9, 4]) if padded else (),
    )
    assert_memory_isolated(
        run, network.init(random.key(0)), trajectory, following(1, 3), over(trajectory),
        in_dims=(None, TRAJECTORY_AXES, 0, 0), out_dims=OF_VALUES,
    )  # fmt: skip


@given(KIND, PADDED, LENGTHS, SEEDS)
def test_one_call_for_agents_of_different_lengths_equals_a_loop_over_them(
    kind, trajectory, length, seed
):
    agents, done = trajectory.terminated.shape[1], over(trajectory)
    next_obs = following(seed, agents)
    run = trajectory_values(CRITICS[kind], sequence_length=length)
    folded = run(PARAMS[kind], trajectory, next_obs, done)
    dims = (None, TRAJECTORY_AXES, 0, 0)
    lifted = vmap(run, dims, OF_VALUES)(PARAMS[kind], trajectory, next_obs, done)
    assert_trees_close(lifted, folded, **CLOSE)
    for b, steps in enumerate(lengths_of(trajectory)):
        alone = run(PARAMS[kind], agent(trajectory, b), one(next_obs, b), done[b : b + 1])
        mine = tree.map(lambda x, axis, b=b: x.narrow(axis, b, 1), folded, axes_like(folded))
        sequences_of_its_own = len(alone.memories)
        mine = mine._replace(
            values=tree.take(mine.values, slice(steps)),
            memories=mine.memories[:sequences_of_its_own],
        )
        assert_trees_close(mine, alone, **CLOSE)


def axes_like(values):
    return tree.unflatten(values, tree.broadcast_prefix(OF_VALUES, values))


@given(KIND, EITHER, SEEDS)
def test_rollouts_of_many_agents_equal_a_loop_over_them(kind, trajectory, seed):
    next_obs = following(seed, *trajectory.terminated.shape)
    run = rollout_values(CRITICS[kind])
    dims = (None, TRAJECTORY_AXES, 1)
    folded = run(PARAMS[kind], trajectory, next_obs)
    lifted = vmap(run, dims, OF_ROLLOUTS)(PARAMS[kind], trajectory, next_obs)
    assert_trees_close(lifted, folded, **CLOSE)


# --- flags that are left out ----------------------------------------------------------------


def without(trajectory, names):
    """Those flags never set, and those flags left out."""
    unset = {name: torch.zeros_like(trajectory.terminated) for name in names}
    return trajectory._replace(**unset), trajectory._replace(**dict.fromkeys(names, ()))


@given(KIND, EITHER, st.sampled_from(["terminated", "truncated"]), LENGTHS, SEEDS)
def test_one_kind_of_flags_left_out_is_one_that_is_never_set(kind, trajectory, name, length, seed):
    steps, agents = trajectory.terminated.shape
    done = normal(seed + 9, agents) > 0
    both = without(trajectory, [name])
    assert_trees_equal(
        *(valued(kind, t, following(seed, agents), done, sequence_length=length) for t in both)
    )
    assert_trees_equal(*(valued_rollout(kind, t, following(seed, steps, agents)) for t in both))


@given(KIND, EITHER, st.integers(1, 4), SEEDS)
def test_where_all_flags_are_left_out_nothing_ends(kind, trajectory, length, seed):
    agents = trajectory.memory.shape[0]
    next_obs, done = following(seed, agents), normal(seed + 9, agents) > 0
    unset, left_out = (
        valued(kind, t, next_obs, done, sequence_length=length)
        for t in without(trajectory, ["terminated", "truncated"])
    )
    assert_trees_close(left_out, unset, **TIGHT)


@given(KIND, WHOLE, LENGTHS, SEEDS)
def test_agents_are_apart_bit_for_bit_where_nothing_ends(kind, trajectory, length, seed):
    _, trajectory = without(trajectory, ("terminated", "truncated"))
    agents = trajectory.memory.shape[0]
    assert_memory_isolated(
        trajectory_values(CRITICS[kind], sequence_length=length), PARAMS[kind], trajectory,
        following(seed, agents), normal(seed + 9, agents) > 0,
        in_dims=(None, TRAJECTORY_AXES, 0, 0), out_dims=OF_VALUES,
    )  # fmt: skip


def test_a_rollout_says_where_episodes_end():
    _, trajectory = without(examples.trajectory(0, 3, 2, spec=SPEC), ("terminated", "truncated"))
    trajectory = trajectory._replace(memory=normal(0, 2, M))
    with pytest.raises(ValueError, match=r"`terminated` must be the \[T, \*B\] flags"):
        valued_rollout("lstm", trajectory, following(0, 3, 2))
    done = torch.tensor([True, False])
    with pytest.raises(ValueError, match="`obs` must begin with the axes"):
        valued("lstm", trajectory._replace(obs=following(0, 3, 1)), following(0, 2), done)
    with pytest.raises(ValueError, match="`next_obs` must begin with the axes"):
        valued("lstm", trajectory, following(0, 1), done)
    with pytest.raises(ValueError, match="`memory` must begin with the axes"):
        valued("lstm", trajectory._replace(memory=normal(0, 1, M)), following(0, 2), done)


# --- cuts -----------------------------------------------------------------------------------


@given(KIND, ALONE.filter(lambda t: len(t.obs[0]) > 1), st.data(), LENGTHS, SEEDS)
def test_a_trajectory_cut_anywhere_has_the_same_values(kind, trajectory, data, length, seed):
    at = data.draw(st.integers(1, len(trajectory.obs[0]) - 1))
    next_obs = following(seed, 1)
    whole = valued(kind, trajectory, next_obs, over(trajectory), sequence_length=length)
    first, second = agent(trajectory, 0, 0, at), agent(trajectory, 0, at)
    between = valued(kind, first, tree.take(second.obs, 0), over(first), sequence_length=length)
    second = second._replace(memory=between.final_memory)
    after = valued(kind, second, next_obs, over(second), sequence_length=length)
    joined = tree.map(lambda *xs: torch.cat(xs), between.values, after.values)
    assert_trees_close(joined, whole.values, **TIGHT)
    assert_trees_close(
        (after.bootstrap, after.final_memory), (whole.bootstrap, whole.final_memory), **TIGHT
    )


@given(KIND, EITHER.filter(lambda t: len(t.obs[0]) > 1), st.data(), SEEDS)
def test_a_rollout_cut_anywhere_has_the_same_values(kind, trajectory, data, seed):
    steps = len(trajectory.obs[0])
    at = data.draw(st.integers(1, steps - 1))
    next_obs = following(seed, *trajectory.terminated.shape)
    whole = valued_rollout(kind, trajectory, next_obs)
    memory, parts = trajectory.memory, []
    for piece in (slice(0, at), slice(at, steps)):
        rows = tree.take(trajectory._replace(memory=()), piece)._replace(memory=memory)
        parts.append(valued_rollout(kind, rows, tree.take(next_obs, piece)))
        memory = parts[-1].final_memory
    joined = tree.map(lambda *xs: torch.cat(xs), *(x._replace(final_memory=()) for x in parts))
    assert_trees_close(joined._replace(final_memory=memory), whole, **TIGHT)


# --- the past, and padding ------------------------------------------------------------------


@given(KIND, WHOLE, st.data(), LENGTHS, st.sampled_from([torch.nan, torch.inf, 5.0]))
def test_an_end_makes_the_past_irrelevant_bit_for_bit(kind, trajectory, data, length, worst):
    steps, agents = trajectory.terminated.shape
    at, b = data.draw(st.integers(0, steps - 1)), data.draw(st.integers(0, agents - 1))
    how = data.draw(st.sampled_from(["terminated", "truncated"]))
    flags = getattr(trajectory, how).clone()
    flags[at, b] = True
    trajectory = trajectory._replace(**{how: flags})
    earlier = (torch.arange(steps) <= at)[:, None] & (torch.arange(agents) == b)
    obs = tree.where(
        earlier, tree.map(lambda x: torch.full_like(x, worst), trajectory.obs), trajectory.obs
    )
    memory = trajectory.memory.clone()
    memory[b] = worst
    changed = trajectory._replace(obs=obs, memory=memory)
    next_obs, done = following(0, agents), over(trajectory)
    out, other = (
        valued(kind, t, next_obs, done, sequence_length=length) for t in (trajectory, changed)
    )
    later = tree.map(lambda x: x[at + 1 :], (out.values, other.values))
    assert_trees_equal(*later)
    assert_trees_equal(out.final_memory, other.final_memory)
    starts = sequences.starts(steps, length or steps)
    kept = [i for i, start in enumerate(starts) if start > at]
    assert_trees_equal(out.memories[kept], other.memories[kept])
    if at < steps - 1:
        assert_trees_equal(out.bootstrap, other.bootstrap)
    rollouts = [valued_rollout(kind, t, following(0, steps, agents)) for t in (trajectory, changed)]
    after = [tree.take(r._replace(final_memory=()), slice(at + 1, None)) for r in rollouts]
    assert_trees_equal(*after)
    assert_trees_equal(*(r.final_memory for r in rollouts))


@given(KIND, PADDED, LENGTHS, st.sampled_from([torch.nan, torch.inf, -1e30, 0.0]), st.booleans())
def test_padding_of_any_content_changes_no_bit(kind, trajectory, length, worst, flag):
    rows = trajectory._replace(memory=(), mask=())

    def spoilt(x):
        return torch.full_like(x, flag if x.dtype == torch.bool else worst)

    changed = tree.where(trajectory.mask, rows, tree.map(spoilt, rows))
    changed = changed._replace(memory=trajectory.memory, mask=trajectory.mask)
    agents = trajectory.terminated.shape[1]
    arguments = following(0, agents), over(trajectory)
    results = [
        valued(kind, each, *arguments, sequence_length=length) for each in (trajectory, changed)
    ]
    assert_trees_equal(*results)
    assert all(x.isfinite().all() for x in tree.leaves(results[1]))


def test_agents_without_a_step_keep_what_they_remember():
    trajectory = examples.trajectory(0, 4, 2, memory=normal(1, 2, M), spec=SPEC)
    trajectory = trajectory._replace(mask=torch.zeros(4, 2, dtype=torch.bool))
    done = torch.tensor([False, True])
    out = valued("lstm", trajectory, following(0, 2), done)
    assert torch.equal(out.final_memory[0], trajectory.memory[0])
    assert (out.final_memory[1] == 0).all() and not out.memories.any()


# --- memories by id -------------------------------------------------------------------------


@given(KIND, st.lists(ALONE, min_size=1, max_size=3), st.data())
def test_agents_that_come_and_go_are_valued_as_if_each_were_alone(kind, trajectories, data):
    """Any of them act at any time, in pieces; one never seen begins from nothing."""
    done = torch.tensor([False])
    zero = torch.zeros(1, M)
    trajectories = [t._replace(memory=zero) for t in trajectories]
    expected = [valued(kind, t, following(b, 1), done).values for b, t in enumerate(trajectories)]
    memories = AgentMemories(torch.full((M,), torch.nan))
    got = [[] for _ in trajectories]
    at = [0] * len(trajectories)
    left = list(range(len(trajectories)))
    while left:
        ids = data.draw(st.lists(st.sampled_from(left), min_size=1, unique=True))
        steps = data.draw(st.integers(1, min(len(trajectories[b].obs[0]) - at[b] for b in ids)))
        rows = [agent(trajectories[b], 0, at[b], at[b] + steps)._replace(memory=()) for b in ids]
        together = tree.map(lambda *xs: torch.cat(xs, 1), *rows)
        together = together._replace(memory=memories.read([f"agent {b}" for b in ids]))
        out = valued(kind, together, following(0, len(ids)), over(together))
        memories.write([f"agent {b}" for b in ids], out.final_memory)
        for i, b in enumerate(ids):
            got[b].append(tree.map(lambda x, i=i: x[:, i : i + 1], out.values))
            at[b] += steps
        left = [b for b in left if at[b] < len(trajectories[b].obs[0])]
    for parts, whole in zip(got, expected):
        assert_trees_close(tree.map(lambda *xs: torch.cat(xs), *parts), whole, **TIGHT)
