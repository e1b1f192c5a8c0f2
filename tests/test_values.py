"""Values of trajectories: by hand, at ends of every kind, and what is refused."""

import pytest
import torch
from hypothesis import given

from optinfra import networks, random, sequences, tree
from optinfra.testing import assert_trees_close
from optinfra.values import Critic, rollout_values, trajectory_values
from tests import examples
from tests.plain_recurrent import PlainRecurrent, normal
from tests.trajectories import (
    CLOSE,
    CRITICS,
    EITHER,
    KIND,
    LENGTHS,
    PARAMS,
    SEEDS,
    SPEC,
    STREAMS,
    M,
    agent,
    following,
    lengths_of,
    one,
    over,
    valued,
    valued_rollout,
)

# --- by hand --------------------------------------------------------------------------------


def by_hand(kind, trajectory, next_obs, b, sequence_length):
    """One agent of one trajectory, step by step: values, memories before each step, what follows.

    Only rows that count are looked at.
    """
    plain = PlainRecurrent(SPEC, PARAMS[kind], kind)
    ends = (trajectory.terminated | trajectory.truncated)[:, b]
    memory, values, befores = trajectory.memory[b], [], []
    never = torch.tensor([False])

    def step(obs, memory):
        encoding, memory = plain.encodings("critic", obs, memory, never)
        return torch.stack([plain.values(encoding, name)[0] for name in STREAMS]), memory

    for t in range(lengths_of(trajectory)[b]):
        befores.append(memory)
        value, memory = step(tuple(x[t : t + 1, b] for x in trajectory.obs), memory)
        values.append(value)
        remembered, memory = memory, torch.zeros(M) if ends[t] else memory
    bootstrap, _ = step(tuple(x[b : b + 1] for x in next_obs), remembered)
    starts = befores[:: sequence_length or len(trajectory.terminated)]
    with torch.no_grad():
        return torch.stack(values), bootstrap, torch.stack(starts), memory


@given(KIND, EITHER, LENGTHS, SEEDS)
def test_values_bootstrap_and_memories_are_those_of_stepping_each_agent_by_hand(
    kind, trajectory, length, seed
):
    agents, done = trajectory.terminated.shape[1], over(trajectory)
    next_obs = following(seed, agents)
    out = valued(kind, trajectory, next_obs, done, sequence_length=length, ignore_done={"curious"})
    together = [torch.stack([out_of[name] for name in STREAMS], -1).detach()
                for out_of in (out.values, out.bootstrap)]  # fmt: skip
    for b, steps in enumerate(lengths_of(trajectory)):
        values, bootstrap, starts, last = tree.map(
            torch.Tensor.detach, by_hand(kind, trajectory, next_obs, b, length)
        )
        assert_trees_close(together[0][:steps, b], values, **CLOSE)
        if done[b]:
            bootstrap = bootstrap * torch.tensor([0.0, 1.0])
        assert_trees_close(together[1][b], bootstrap, **CLOSE)
        assert_trees_close(out.memories[: len(starts), b], starts, **CLOSE)
        assert_trees_close(out.final_memory[b], last, **CLOSE)
        assert (together[0][steps:, b] == 0).all() and (out.memories[len(starts) :, b] == 0).all()
    assert len(out.memories) == len(sequences.starts(len(trajectory.obs[0]), length or 99))


@given(KIND, EITHER, SEEDS)
def test_values_of_a_rollout_are_those_of_the_trajectory_and_of_what_followed(
    kind, trajectory, seed
):
    """Step t's follower is valued as what comes after the first t steps, were they all."""
    next_obs = following(seed, *trajectory.terminated.shape)
    out = valued_rollout(kind, trajectory, next_obs)
    never = torch.tensor([False])
    for b, steps in enumerate(lengths_of(trajectory)):
        for t in range(steps):
            until = agent(trajectory, b, 0, t + 1)
            last = valued(kind, until, one(tree.take(next_obs, t), b), never)
            assert_trees_close(
                tree.take(out.next_values, (t, slice(b, b + 1))), last.bootstrap, **CLOSE
            )
            if t + 1 < steps:
                assert_trees_close(out.memories[t + 1, b], last.final_memory[0], **CLOSE)
        assert_trees_close(
            tree.take(out.values, (slice(steps), slice(b, b + 1))), last.values, **CLOSE
        )
        if steps == len(trajectory.obs[0]):
            assert_trees_close(out.final_memory[b], last.final_memory[0], **CLOSE)
        else:  # the rows that are no transitions ended what was remembered
            assert (out.memories[steps + 1 :, b] == 0).all() and (out.final_memory[b] == 0).all()


# --- what it says and what it refuses -------------------------------------------------------


@pytest.mark.parametrize("kind", CRITICS)
def test_no_graph_is_built(kind):
    trajectory = examples.trajectory(0, 5, 2, memory=normal(1, 2, M), spec=SPEC)
    seen, followed = (
        tuple(x.requires_grad_() for x in obs) for obs in (trajectory.obs, following(0, 2))
    )
    params = tree.map(lambda x: x.clone().requires_grad_(), PARAMS[kind])
    run = trajectory_values(CRITICS[kind])
    out = run(params, trajectory._replace(obs=seen), followed, over(trajectory))
    rollout = rollout_values(CRITICS[kind])(
        params, trajectory, tuple(x.requires_grad_() for x in following(0, 5, 2))
    )
    assert not any(x.requires_grad for x in tree.leaves((out, rollout)))


@pytest.mark.parametrize("ends", ["terminated", "truncated"])
def test_only_done_ends_the_bootstrap_and_only_of_streams_that_heed_it(ends):
    """A cut bootstraps; whatever ended, nothing is remembered of it."""
    trajectory = examples.trajectory(0, 3, 1, memory=normal(1, 1, M), spec=SPEC)
    none = torch.zeros(3, 1, dtype=torch.bool)
    last = torch.tensor([[False], [False], [True]])
    trajectory = trajectory._replace(terminated=none, truncated=none)._replace(**{ends: last})
    done = last[-1] if ends == "terminated" else none[-1]
    out = valued("lstm", trajectory, following(0, 1), done, ignore_done=["curious"])
    kept = valued("lstm", trajectory, following(0, 1), none[-1]).bootstrap
    assert (kept["extrinsic"] != 0).all() and (kept["curious"] != 0).all()
    assert (out.bootstrap["extrinsic"] == 0).all() == (ends == "terminated")
    assert torch.equal(out.bootstrap["curious"], kept["curious"])
    assert (out.final_memory == 0).all()


@given(EITHER, SEEDS)
def test_a_critic_without_memory_values_each_row_by_itself(trajectory, seed):
    plain = networks.actor_critic(SPEC, STREAMS, hidden_units=5, num_layers=1)
    seen = networks.without_memory(plain)
    params, critic = plain.init(random.key(0)), Critic(seen.values, seen.values_and_memories)
    trajectory = trajectory._replace(memory=())
    agents, done = trajectory.terminated.shape[1], over(trajectory)
    next_obs = following(seed, agents)
    out = trajectory_values(critic, sequence_length=2)(params, trajectory, next_obs, done)
    expected, followed = plain.values(params, trajectory.obs), plain.values(params, next_obs)
    for name in STREAMS:
        for b, steps in enumerate(lengths_of(trajectory)):
            assert_trees_close(out.values[name][:steps, b], expected[name][:steps, b], **CLOSE)
        assert_trees_close(out.bootstrap[name], torch.where(done, 0.0, followed[name]), **CLOSE)
    assert out.memories == () and out.final_memory == ()


def test_arguments_of_the_wrong_kind_are_named():
    trajectory = examples.trajectory(0, 3, 2, memory=normal(1, 2, M), spec=SPEC)
    mask, done = torch.ones(3, 2, dtype=torch.bool), torch.tensor([True, False])
    for wrong, error, message in [
        ({"terminated": trajectory.terminated.float()}, TypeError, "`terminated` must have dtype"),
        ({"truncated": trajectory.truncated.long()}, TypeError, "`truncated` must have dtype"),
        ({"mask": mask.float()}, TypeError, "`mask` must have dtype torch.bool"),
        ({"truncated": mask[:2]}, ValueError, r"`truncated` must have shape \[T, \*B\] = \[3, 2\]"),
        ({"mask": mask[:, :1]}, ValueError, r"`mask` must have shape \[T, \*B\] = \[3, 2\]"),
        ({"memory": normal(1, 2, M + 2)}, ValueError, r"`memory` must have shape .*= \[2, 4\]"),
        ({"memory": normal(1, 1, M)}, ValueError, r"`memory` must begin .*\[2\], got \[1, 4\]"),
        ({"obs": following(0, 3, 1)}, ValueError, r"`obs` must begin .*\[3, 2\], got \[3, 1, 2\]"),
    ]:  # fmt: skip
        for call, next_rows in ((valued, (2,)), (valued_rollout, (3, 2))):
            extra = (done,) if call is valued else ()
            with pytest.raises(error, match=message):
                call("lstm", trajectory._replace(**wrong), following(0, *next_rows), *extra)
    for call, rows, *extra in ((valued, (1,), done), (valued_rollout, (3, 1))):
        with pytest.raises(ValueError, match=r"`next_obs` must begin with the axes"):
            call("lstm", trajectory, following(0, *rows), *extra)
    with pytest.raises(TypeError, match=r"`done` must have dtype torch\.bool"):
        valued("lstm", trajectory, following(0, 2), done.float())
    with pytest.raises(ValueError, match=r"`done` must have shape \[\*B\] = \[2\], got \[1\]"):
        valued("lstm", trajectory, following(0, 2), done[:1])
    with pytest.raises(ValueError, match="`sequence_length` must lie in"):
        trajectory_values(CRITICS["lstm"], sequence_length=0)
    with pytest.raises(TypeError, match="`sequence_length` must be an integer"):
        trajectory_values(CRITICS["lstm"], sequence_length=2.0)
