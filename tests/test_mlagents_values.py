"""Values that ML-Agents' classes tell, and what critics remember of agents."""

import warnings

import numpy as np
import pytest
import torch

from optinfra import mlagents
from optinfra.mlagents import AgentBufferField
from optinfra.mlagents.keys import BufferKey, key_of
from tests.mlagents_optimizers import (
    FOLLOWING,
    KINDS,
    ROWS,
    M,
    S,
    assert_same,
    batch_of,
    columns,
    everything,
    optimizer_of,
    refuses,
    trajectory,
    value,
)


def missed(optimizer, batch):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        stats = optimizer.update(batch)
    return stats, [str(each.message) for each in caught]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("names", [("memory",), ("critic_memory",), ("memory", "critic_memory")])
def test_memories_that_are_missing_are_zeros_counted_and_told_of_once(kind, names):
    arrays = columns(kind, memory=True)
    zeros = {name: np.zeros_like(arrays[name]) for name in names}
    without = {name: x for name, x in arrays.items() if name not in names}
    optimizer, other = optimizer_of(kind, memory=True), optimizer_of(kind, memory=True)
    assert optimizer.missing_memories == 0
    for call in range(4):
        stats, messages = missed(optimizer, batch_of(without))
        expected, none = missed(other, batch_of(arrays | zeros))
        assert stats == expected and none == []
        told = [f"`batch` has no column {names[0]}: sequences begin with a memory of zeros."]
        assert messages == (told if call == 0 else [])
        assert optimizer.missing_memories == (call + 1) * ROWS // S
    assert other.missing_memories == 0
    assert_same(everything(optimizer), everything(other))


def test_a_sequence_begins_with_the_memory_of_its_first_row_alone():
    arrays = columns("ppo", memory=True)
    other = {name: x.copy() for name, x in arrays.items()}
    for name in ("memory", "critic_memory"):
        other[name][1::S] = 7.0
    ours, theirs = optimizer_of("ppo", True), optimizer_of("ppo", True)
    assert ours.update(batch_of(arrays)) == theirs.update(batch_of(other))
    for name in ("memory", "critic_memory"):
        wrong = {**arrays, name: np.roll(arrays[name], S, 0)}
        fresh = optimizer_of("ppo", True)
        assert fresh.update(batch_of(wrong)) != optimizer_of("ppo", True).update(batch_of(arrays))


def assert_told_alike(a, b):
    for name in a[0]:
        np.testing.assert_array_equal(a[0][name], b[0][name])
    assert a[1] == b[1]
    np.testing.assert_array_equal(a[2], b[2])


@pytest.mark.parametrize("kind", KINDS)
def test_an_agent_among_others_is_valued_as_if_it_were_alone(kind):
    together = optimizer_of(kind, memory=True)
    draws, names = np.random.default_rng(0), ["a", "b", ""]
    alone = {name: optimizer_of(kind, memory=True) for name in names}
    begun = set()
    for seed in range(24):
        agent, length = names[draws.integers(3)], int(draws.integers(1, 6))
        done = bool(draws.random() < 0.2)
        batch = trajectory(length, seed, kind == "poca")
        told = value(together, batch, done, agent)
        assert_told_alike(told, value(alone[agent], batch, done, agent))
        assert len(told[2]) == length and isinstance(told[2], AgentBufferField)
        assert np.asarray(told[2][0]).any() == (agent in begun)
        begun = begun - {agent} if done else begun | {agent}
        assert set(together.critic_memory_dict) == begun
        for name in begun:
            memory = together.critic_memory_dict[name]
            assert memory.shape == (1, 1, M * (2 if kind == "poca" else 1))
            assert torch.equal(memory, alone[name].critic_memory_dict[name])


@pytest.mark.parametrize("kind", KINDS)
def test_a_trajectory_may_be_cut_between_sequences(kind):
    whole, parts = optimizer_of(kind, memory=True), optimizer_of(kind, memory=True)
    batch = trajectory(2 * S + 1, 0, kind == "poca")
    values, following, memories = value(whole, batch, agent="a")
    cuts = [batch.make_mini_batch(i, i + S) for i in range(0, 2 * S + 1, S)]
    told = [value(parts, cut, agent="a") for cut in cuts]
    joined = np.concatenate([each[0]["extrinsic"] for each in told])
    np.testing.assert_allclose(joined, values["extrinsic"], rtol=1e-5, atol=1e-6)
    joined = np.concatenate([np.asarray(each[2]) for each in told])
    np.testing.assert_allclose(joined, memories, rtol=1e-5, atol=1e-6)
    assert told[-1][1] == pytest.approx(following, rel=1e-5)


def test_what_ended_is_what_the_column_says_and_no_other():
    arrays = columns("sac")
    ended = arrays | {"done": 1 - arrays["done"]}
    losses = [optimizer_of("sac").update(batch_of(each)) for each in (arrays, ended)]
    assert losses[0]["Losses/Q1 Loss"] != losses[1]["Losses/Q1 Loss"]


ENDS = {
    "done": {"done": True},
    "interrupted": {"interrupted": True},
    "both": {"done": True, "interrupted": True},
    "column": {},
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_an_episode_that_ends_or_is_cut_is_forgotten(kind, end):
    optimizer = optimizer_of(kind, memory=True)
    first, second = (trajectory(3, seed, kind == "poca") for seed in (0, 1))
    fresh = value(optimizer_of(kind, memory=True), second, agent="a")
    cut = np.array([0, 0, 1] if end == "column" else [1, 1, 0], np.float32)
    first[mlagents.BufferKey.DONE] = cut
    told = value(optimizer, first, agent="a", **ENDS[end])
    assert optimizer.critic_memory_dict == {}
    assert_told_alike(value(optimizer, second, agent="a"), fresh)
    worth = told[1]["extrinsic"]
    assert (worth == 0) == (end in ("done", "both"))  # what was cut is still worth something


@pytest.mark.parametrize("kind", KINDS)
def test_an_episode_that_goes_on_is_remembered(kind):
    optimizer = optimizer_of(kind, memory=True)
    first, second = (trajectory(3, seed, kind == "poca") for seed in (0, 1))
    first[mlagents.BufferKey.DONE] = np.array([0, 1, 0], np.float32)
    value(optimizer, first, agent="a")
    kept = optimizer.critic_memory_dict["a"]
    _, _, memories = value(optimizer, second, agent="a")
    begun = np.asarray(memories)
    np.testing.assert_array_equal(begun[0], kept[0, 0, :M])
    np.testing.assert_array_equal(begun[0], begun[1])  # of one sequence
    assert not np.array_equal(begun[1], begun[2])
    optimizer.end_episode("a")
    optimizer.end_episode("nobody")
    assert optimizer.critic_memory_dict == {}


def test_what_a_group_remembers_is_of_values_and_of_baselines():
    optimizer = optimizer_of("poca", memory=True)
    optimizer.get_trajectory_and_baseline_value_estimates(
        trajectory(3, 0, True), FOLLOWING, [FOLLOWING], False, "a"
    )
    whole = optimizer.critic_memory_dict["a"]
    parts = [optimizer.value_memory_dict["a"], optimizer.baseline_memory_dict["a"]]
    assert torch.equal(torch.cat(parts, -1), whole) and parts[0].shape == (1, 1, M)
    assert not torch.equal(*parts)


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_memory_nothing_is_remembered(kind):
    optimizer = optimizer_of(kind)
    _, _, memories = value(optimizer, trajectory(3, 0, kind == "poca"), agent="a")
    assert memories is None and optimizer.critic_memory_dict == {}


def live(episodes):
    optimizer = optimizer_of("ppo", memory=True)
    draws, living = np.random.default_rng(0), set()
    batches = {length: trajectory(length, length) for length in (1, 2, 3)}
    cut = {length: trajectory(length, length, done=np.ones(length)) for length in (1, 2, 3)}
    for episode in range(episodes):
        agent, length = f"agent {episode}", int(draws.integers(1, 4))
        end = int(draws.integers(4))
        value(optimizer, batches[length], agent=agent)
        if end == 0:
            value(optimizer, batches[length], done=True, agent=agent)
        elif end == 1:
            value(optimizer, batches[length], agent=agent, interrupted=True)
        elif end == 2:
            value(optimizer, cut[length], agent=agent)
        elif draws.random() < 0.9:
            optimizer.end_episode(agent)
        else:
            living.add(agent)
        assert len(optimizer.critic_memory_dict) == len(living)
    assert set(optimizer.critic_memory_dict) == living
    assert 0 < len(living) < episodes / 20


def test_only_agents_that_live_are_remembered():
    live(500)


@pytest.mark.thorough
def test_only_agents_that_live_are_remembered_after_ten_thousand_episodes():
    live(10_000)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("obs:0", None, "must have the column obs:0"),
        ("obs:1", None, "must have the column obs:1"),
        ("obs:1", np.zeros((2, 2)), "`obs:1` must have 3 rows, got 2"),
        ("obs:0", np.zeros((3, 4)), r"`obs:0` must have shape \[rows, \*\[3\]\], got \[3, 4\]"),
        ("done", np.zeros(2), "`done` must have 3 rows, got 2"),
    ],
)
def test_a_trajectory_of_another_form_is_refused(name, array, message):
    optimizer = optimizer_of("ppo", memory=True)
    value(optimizer, trajectory(3, 0), agent="a")
    batch = trajectory(3, 1)
    if array is None:
        del batch[key_of(name)]
    else:
        batch[key_of(name)] = array
    with refuses(optimizer, message):
        value(optimizer, batch, agent="a")


def test_a_trajectory_of_no_steps_is_refused():
    optimizer = optimizer_of("ppo", memory=True)
    value(optimizer, trajectory(3, 0), agent="a")
    with refuses(optimizer, "`obs:0` must have rows, got none"):
        value(optimizer, trajectory(0, 1), agent="a")


@pytest.mark.parametrize(
    "following", [[], FOLLOWING[:1], [*FOLLOWING, FOLLOWING[0]], FOLLOWING[::-1]]
)
@pytest.mark.parametrize("kind", KINDS)
def test_what_followed_must_be_one_observation_of_each(kind, following):
    optimizer = optimizer_of(kind, memory=True)
    batch = trajectory(3, 0, kind == "poca")
    with refuses(optimizer, r"`next_obs` must have the shapes \[\[3\], \[2\]\], got"):
        optimizer.get_trajectory_value_estimates(batch, following, False, "a")
    rows = [x[None] for x in FOLLOWING]
    told = optimizer.get_trajectory_value_estimates(batch, rows, False)
    assert_told_alike(told, value(optimizer, batch, agent="other"))


def test_what_mates_saw_afterwards_must_be_one_observation_of_each():
    optimizer = optimizer_of("poca", memory=True)
    batch = trajectory(3, 0, True)
    for mates in ([FOLLOWING[:1]], [FOLLOWING[::-1]], [[*FOLLOWING, FOLLOWING[0]]]):
        with refuses(optimizer, r"`next_groupmate_obs` must have the shapes \[\[3\], \[2\]\], got"):
            optimizer.get_trajectory_and_baseline_value_estimates(
                batch, FOLLOWING, mates, False, "a"
            )


def test_a_memory_of_another_size_that_somebody_put_in_place_is_refused():
    optimizer = optimizer_of("ppo", memory=True)
    optimizer.critic_memory_dict["a"] = torch.zeros(1, 1, M + 2)
    with refuses(optimizer, r"`critic_memory_dict\['a'\]` must have shape \[1, 1, 4\], got"):
        value(optimizer, trajectory(3, 0), agent="a")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("memory", [False, True])
def test_an_end_is_worth_nothing_but_to_streams_for_which_nothing_ends(kind, memory):
    optimizer = optimizer_of(kind, memory, ("extrinsic", "curiosity"))
    batch = trajectory(3, 0, kind == "poca")
    _, goes_on, _ = value(optimizer, batch, agent="a")
    optimizer.end_episode("a")
    _, ended, _ = value(optimizer, batch, done=True, agent="a")
    assert goes_on["extrinsic"] != 0 and ended["extrinsic"] == 0
    assert ended["curiosity"] == goes_on["curiosity"] != 0


@pytest.mark.parametrize("kind", KINDS)
def test_values_and_updates_are_of_the_weights_that_the_policy_has_now(kind):
    one, other = optimizer_of(kind, seed=0), optimizer_of(kind, seed=1)
    given = other.policy.actor.state_dict()
    one.policy.load_weights(given)
    own = one.policy.actor.held.weights
    assert_same({name: one.params.weights[name] for name in own}, dict(own))
    one.update(batch_of(columns(kind)))
    moved = one.policy.actor.held.weights
    for name, x in own.items():  # by one step of Adam at most
        assert (moved[name] - x).abs().max() < 4e-4


@pytest.mark.parametrize(("kind", "adds"), [("ppo", False), ("sac", False), ("poca", True)])
def test_a_group_is_paid_what_its_mates_are_paid(kind, adds):
    provider = optimizer_of(kind).reward_signals["extrinsic"]
    given = columns("poca") | {"environment_rewards": np.arange(ROWS, dtype=np.float32)}
    batch = batch_of(given)
    batch[BufferKey.GROUPMATE_REWARDS] = [[1.0, 2.0]] * ROWS
    assert provider.evaluate(batch).tolist() == [i + 3.0 * adds for i in range(ROWS)]
