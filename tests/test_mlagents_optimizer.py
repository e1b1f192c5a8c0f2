"""Optimizers of ML-Agents' names: what they refuse, what they remember, what they give away."""

import copy
import functools
import re
import warnings
from collections.abc import Mapping
from contextlib import contextmanager
from enum import Enum

import attrs
import numpy as np
import pytest
import torch

from optinfra import mlagents
from optinfra.mlagents import (
    AgentBuffer,
    AgentBufferField,
    MissingColumnError,
    export_modules,
    import_modules,
)
from optinfra.mlagents.keys import key_of, text_of
from optinfra.mlagents.options import settings_of
from tests import golden_cases, mlagents_cases
from tests.mlagents_cases import OPTIMIZERS

KINDS = ["ppo", "sac", "poca"]
S, M, ROWS, MATES = 2, 4, 8, 2
SIGNALS = {"extrinsic": {}, "curiosity": {}, "rnd": {}}
OPTIONAL = {"value_estimates:extrinsic", "memory", "critic_memory", "poca_baseline_memory"}


META = {
    "obs": [{"shape": [3], "type": "DEFAULT"}, {"shape": [2], "type": "DEFAULT"}],
    "continuous": 2,
    "discrete": [3, 2],
}


def document(kind, memory=False, signals=("extrinsic",), **hyper):
    network = {"hidden_units": 4, "num_layers": 1, "normalize": True}
    if memory:
        network["memory"] = {"sequence_length": S, "memory_size": M}
    networks = {"network_settings": {"hidden_units": 4, "num_layers": 1}}
    return {
        "trainer_type": kind,
        "hyperparameters": {"batch_size": ROWS, "buffer_size": 8 * ROWS, **hyper},
        "network_settings": network,
        "reward_signals": {x: {} if x == "extrinsic" else networks for x in signals},
        "max_steps": 1000,
    }


def made(kind, settings, seed=0):
    given = mlagents_cases.SQUASHED if kind == "sac" else {}
    spec = mlagents_cases.behavior_spec(META)
    policy = mlagents.TorchPolicy(
        seed, spec, settings.network_settings, mlagents.SimpleActor, given
    )
    return OPTIMIZERS[kind](policy, settings)


@functools.cache
def drawn(kind, memory, signals, seed):
    return made(kind, settings_of(document(kind, memory, signals)), seed)


def optimizer_of(kind, memory=False, signals=("extrinsic",), seed=0):
    """Copied: to draw weights takes a while."""
    return copy.deepcopy(drawn(kind, memory, signals, seed))


def columns(kind, memory=False, signals=("extrinsic",), rows=ROWS, seed=0):
    """Random arrays by the names of all columns that an update reads."""
    draws = np.random.default_rng(seed)

    def normal(*shape):
        return draws.normal(size=shape).astype(np.float32)

    given = {
        "masks": np.ones(rows, np.float32),
        "continuous_action": np.clip(normal(rows, 2), -0.9, 0.9),
        "discrete_action": draws.integers(0, 2, (rows, 2)),
        "action_mask": np.ones((rows, 5), np.float32),
        "obs:0": normal(rows, 3),
        "obs:1": normal(rows, 2),
    }
    following = {"next_obs:0": normal(rows, 3), "next_obs:1": normal(rows, 2)}
    done = {"done": (normal(rows) > 1).astype(np.float32)}
    if kind == "sac":
        given |= following | done | {f"rewards:{name}": normal(rows) for name in signals}
    else:
        given |= {"advantages": normal(rows)}
        for name in signals:
            given |= {f"value_estimates:{name}": normal(rows), f"returns:{name}": normal(rows)}
        given |= {
            "continuous_log_probs": normal(rows, 2) - 1,
            "discrete_log_probs": normal(rows, 2) - 1,
        }
    if kind == "poca":
        given |= {f"baselines:{name}": normal(rows) for name in signals}
        given |= {
            "group_obs:0": normal(rows, MATES, 3),
            "group_obs:1": normal(rows, MATES, 2),
            "group_continuous_action": normal(rows, MATES, 2),
            "group_discrete_aaction": draws.integers(0, 2, (rows, MATES, 2)).astype(np.float32),
        }
    if memory:
        given |= {"memory": normal(rows, M), "critic_memory": normal(rows, M)}
        if kind == "poca":
            given["poca_baseline_memory"] = normal(rows, M)
    return given


def batch_of(arrays) -> AgentBuffer:
    batch = AgentBuffer()
    for text, array in arrays.items():
        batch[key_of(text)] = array
    return batch


def assert_same(a, b, place=""):
    assert type(a) is type(b), place
    if isinstance(a, Mapping):
        assert list(a) == list(b), place
        for name in a:
            assert_same(a[name], b[name], f"{place}/{name}")
    elif isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b), place
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), place
        for x, y in zip(a, b):
            assert_same(x, y, place)
    else:
        assert a == b, place


def everything(optimizer):
    remembered = {agent: x.clone() for agent, x in optimizer.critic_memory_dict.items()}
    return export_modules(optimizer) | {"memories": remembered}


@contextmanager
def refuses(optimizer, message, error=ValueError):
    """One clear error, and everything is as before to the last bit."""
    missing = optimizer.missing_memories
    with refuses_all(optimizer), pytest.raises(error, match=message):
        yield
    assert optimizer.missing_memories == missing


def refused(optimizer, given, message, place=""):
    try:
        import_modules(optimizer, given)
    except ValueError as error:
        assert re.search(message, str(error)), (place, message, str(error))
    else:
        raise AssertionError(f"nothing was refused: {place}")


@contextmanager
def refuses_all(optimizer):
    """Whatever was refused, everything is as before to the last bit."""
    before, parts = everything(optimizer), parts_of(optimizer)
    yield
    assert_same(everything(optimizer), before)
    assert all(a is b for a, b in zip(parts_of(optimizer), parts, strict=True))


def parts_of(optimizer):
    """What holds all that an optimizer knows: none is changed in place."""
    signals = [one.state for one in optimizer.reward_signals.values()]
    return [optimizer.state, optimizer.policy.actor.held, optimizer.policy.actor.key, *signals]


# --- what an update refuses -----------------------------------------------------------------


@pytest.mark.parametrize("memory", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_column_that_is_missing_or_of_another_form_is_named_and_changes_nothing(kind, memory):
    optimizer, arrays = optimizer_of(kind, memory), columns(kind, memory)
    for name, array in arrays.items():
        flat = array if array.ndim > 1 else array[:, None]
        forms = {
            f"must have {ROWS} rows, got|must have {ROWS - S} rows, got": array[:-S],
            f"^`{name}` must have shape": np.stack([array] * 2, -1),
            f"^`{name}` must have shape .": np.concatenate([flat] * 2, -1),
        }
        for message, other in forms.items():
            with refuses(optimizer, message):
                optimizer.update(batch_of(arrays | {name: other}))
        if name not in OPTIONAL:
            without = {other: x for other, x in arrays.items() if other != name}
            with refuses(optimizer, f"must have the column {name}, got", MissingColumnError):
                optimizer.update(batch_of(without))
    optimizer.update(batch_of(arrays))


def test_what_is_missing_is_an_error_of_values_and_of_keys_and_reads_well():
    with pytest.raises(KeyError) as caught:
        optimizer_of("ppo").update(AgentBuffer())
    assert str(caught.value).startswith("`batch` must have the column masks, got ")
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_are_no_whole_sequences_are_refused(kind):
    optimizer = optimizer_of(kind, memory=True)
    arrays = columns(kind, memory=True, rows=ROWS - 1)
    with refuses(optimizer, f"whole sequences of {S} rows, got {ROWS - 1} rows"):
        optimizer.update(batch_of(arrays))


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_of_no_rows_is_refused(kind):
    optimizer = optimizer_of(kind)
    with refuses(optimizer, "`masks` must have rows, got none"):
        optimizer.update(batch_of(columns(kind, rows=0)))


@pytest.mark.parametrize("width", [2, 4, 6])
def test_a_mask_must_have_a_place_per_choice_not_per_branch(width):
    optimizer = optimizer_of("ppo")
    arrays = columns("ppo") | {"action_mask": np.ones((ROWS, width))}
    with refuses(
        optimizer, rf"`action_mask` must have shape \[rows, \*\[5\]\], got \[8, {width}\]"
    ):
        optimizer.update(batch_of(arrays))


def test_an_image_of_turned_axes_is_not_taken_for_one():
    columns_ = mlagents.columns.Columns({mlagents.BufferKey.MEMORY: np.zeros((4, 2, 3))})
    with pytest.raises(ValueError, match=r"must have shape \[rows, \*\[3, 2\]\], got \[4, 2, 3\]"):
        columns_.array("memory", (3, 2))
    assert columns_.array("memory", (2, 1, 3)).shape == (4, 2, 1, 3)  # axes of one may be left out


def test_lists_of_rows_of_different_shapes_are_refused():
    optimizer, batch = optimizer_of("ppo"), dict(batch_of(columns("ppo")).items())
    batch[key_of("obs:0")] = [np.zeros(3)] * 7 + [np.zeros(2)]
    with refuses(optimizer, "`obs:0` must have rows of one shape"):
        optimizer.update(batch)
    batch[key_of("obs:0")] = [np.zeros(3)] * 7 + [[]]
    with refuses(optimizer, "`obs:0` must have rows of one shape"):
        optimizer.update(batch)


@pytest.mark.parametrize(
    ("name", "mates", "message"),
    [
        ("group_obs:0", [np.zeros(2)] * 3, r"`group_obs:0` must have .*\[3\], got \[2\]"),
        ("group_obs:0", [np.zeros(3)], r"`group_obs:1` must have the mates of the observations"),
        ("group_obs:1", [np.zeros(2)] * 3, r"`group_obs:1` must have the mates of the observ"),
        ("group_continuous_action", [np.zeros(2)] * 3, r"`group_continuous_action` must have the"),
        ("group_discrete_aaction", [], r"`group_discrete_aaction` must have the mates of"),
        ("group_obs:1", [np.zeros(2), np.zeros(3)], r"`group_obs:1` must have rows of one shape"),
    ],
)
def test_mates_of_another_form_are_refused(name, mates, message):
    optimizer, batch = optimizer_of("poca"), dict(batch_of(columns("poca")).items())
    batch[key_of(name)] = [mates] * ROWS
    with refuses(optimizer, message):
        optimizer.update(batch)


def test_columns_of_groups_must_have_as_many_rows_as_the_others():
    optimizer, arrays = optimizer_of("poca"), columns("poca")
    groups = {name: x[:-S] for name, x in arrays.items() if name.startswith(("group", "baseline"))}
    with refuses(optimizer, f"`group_obs:0` must have {ROWS} rows, got {ROWS - S}"):
        optimizer.update(batch_of(arrays | groups))


def test_numbers_of_mates_are_not_taken_from_plain_rows():
    reader = mlagents.columns.Columns({mlagents.BufferKey.GROUPMATE_REWARDS: np.zeros(4)})
    with pytest.raises(ValueError, match=r"`groupmate_reward` must have shape \[rows, mates, "):
        reader.groups("groupmate_reward", ())


def test_lists_of_mates_are_read_like_arrays():
    arrays = columns("poca")
    lists = dict(batch_of(arrays).items())
    for text, array in arrays.items():
        is_group = text.startswith("group")
        lists[key_of(text)] = [list(row) if is_group else row for row in array]
    ours, theirs = optimizer_of("poca"), optimizer_of("poca")
    assert ours.update(batch_of(arrays)) == theirs.update(lists)
    assert_same(everything(ours), everything(theirs))


def test_numbers_of_one_may_lie_in_rows_of_one():
    arrays = columns("ppo")
    ours, other = optimizer_of("ppo"), optimizer_of("ppo")
    upright = {text: x[:, None] if x.ndim == 1 else x for text, x in arrays.items()}
    assert ours.update(batch_of(arrays)) == other.update(batch_of(upright))


@pytest.mark.parametrize("memory", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_an_update_never_writes_into_its_batch(kind, memory):
    optimizer, arrays = optimizer_of(kind, memory), columns(kind, memory)
    if kind == "poca":  # nobody
        arrays["group_obs:0"][0, 1], arrays["group_obs:1"][0, 1] = np.nan, np.nan
        arrays["group_continuous_action"][0, 1] = np.nan
    batch = batch_of(arrays)
    before = {text: x.copy() for text, x in arrays.items()}
    for array in arrays.values():
        array.flags.writeable = False
    keys = list(batch)
    optimizer.update(batch)
    optimizer.update_reward_signals(batch)
    value(optimizer, batch)
    assert list(batch) == keys
    for text, array in before.items():
        np.testing.assert_array_equal(batch[key_of(text)], array)


@pytest.mark.parametrize("kind", KINDS)
def test_the_number_of_sequences_is_not_read(kind):
    ours, other = optimizer_of(kind), optimizer_of(kind)
    batch = batch_of(columns(kind))
    assert ours.update(batch, 3) == other.update(batch)


# --- memories -------------------------------------------------------------------------------


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


def trajectory(length, seed, group=False, **more):
    draws = np.random.default_rng(seed)
    arrays = {"obs:0": draws.normal(size=(length, 3)), "obs:1": draws.normal(size=(length, 2))}
    if group:
        arrays |= {
            "group_obs:0": draws.normal(size=(length, MATES, 3)),
            "group_obs:1": draws.normal(size=(length, MATES, 2)),
            "group_continuous_action": draws.normal(size=(length, MATES, 2)),
            "group_discrete_aaction": np.zeros((length, MATES, 2)),
        }
    return batch_of(arrays | more)


FOLLOWING = [np.full(3, 0.5, np.float32), np.full(2, -0.5, np.float32)]


def value(optimizer, batch, done=False, agent="", **options):
    """Values, whatever the kind."""
    return optimizer.get_trajectory_value_estimates(batch, FOLLOWING, done, agent, **options)


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


# --- to and fro -----------------------------------------------------------------------------


SOFT = ("q_network", "value_network", "target_network")
NETWORKS = {
    "ppo": ("Policy", "Optimizer:critic"),
    "sac": ("Policy", *(f"Optimizer:{name}" for name in SOFT)),
    "poca": ("Policy", "Optimizer:critic"),
}


def trained(kind, memory=False, signals=tuple(SIGNALS), seed=0, calls=2):
    optimizer = optimizer_of(kind, memory, signals, seed)
    for call in range(calls):
        batch = learnt(kind, memory, signals, call)
        optimizer.policy.increment_step(100)
        optimizer.policy.actor.update_normalization(batch)
        optimizer.update(batch)
        optimizer.update_reward_signals(batch)
    return optimizer


def learnt(kind, memory, signals, seed):
    arrays = columns(kind, memory, signals, seed=seed)
    following = columns("sac", memory, signals, seed=seed + 50)
    for name in ("next_obs:0", "next_obs:1", "done"):
        arrays.setdefault(name, following[name])
    return batch_of(arrays)


def without(given, module, name=None):
    if name is None:
        return {other: x for other, x in given.items() if other != module}
    return given | {module: {n: x for n, x in given[module].items() if n != name}}


def weights_of(given, module):
    """Parameters of a module, each under one of its names."""
    return [
        name for name, x in given[module].items()
        if isinstance(x, torch.Tensor) and x.numel() and ".processors." not in name
        and "." in name and "_current_max_agents" not in name
    ]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_modules_that_lack_or_have_something_else_are_refused(kind):
    given = export_modules(trained(kind))
    optimizer = optimizer_of(kind, signals=tuple(SIGNALS), seed=3)
    with refuses_all(optimizer):
        for module in NETWORKS[kind]:
            refused(optimizer, without(given, module), f"^`modules` must have {module}, got")
            more = given[module] | {"foreign.weight": torch.zeros(2)}
            refused(optimizer, given | {module: more}, f"^{module} has foreign.weight")
            names = weights_of(given, module)
            assert names
            for name in names:
                none = f"^{module} must have {name}, got none"
                refused(optimizer, without(given, module, name), none)
                refused(optimizer, given | {module: given[module] | {name: "text"}}, none)
                wrong = given[module] | {name: torch.zeros(7, *given[module][name].shape)}
                message = f"^{module}: .*(must have shape|does not fit)"
                refused(optimizer, given | {module: wrong}, message, name)
    import_modules(optimizer, given)


@pytest.mark.parametrize("kind", KINDS)
def test_a_normaliser_that_is_missing_or_of_another_size_is_refused(kind):
    given = export_modules(trained(kind))
    optimizer = optimizer_of(kind, signals=tuple(SIGNALS), seed=3)
    names = [name for name in given["Policy"] if "observation_encoder" in name and "norm" in name]
    assert len(names) == 6
    for name in names:
        with refuses(optimizer, f"Policy: .*{name.rpartition('.')[2]} must have shape .* got none"):
            import_modules(optimizer, without(given, "Policy", name))
        wrong = {name: torch.zeros(7)}
        with refuses(optimizer, r"Policy: .* must have shape .* got \[7\]"):
            import_modules(optimizer, given | {"Policy": given["Policy"] | wrong})


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_signal_lacks_is_refused(kind):
    given = export_modules(trained(kind))
    optimizer = optimizer_of(kind, signals=tuple(SIGNALS), seed=3)
    modules = [name for name in given if name.startswith("Module:")]
    assert len(modules) == 3  # curiosity, what RND learns and what it is measured by
    for module in modules:
        name = next(iter(weights_of(given, module)))
        with refuses(optimizer, f"{module} must have {name}, got none"):
            import_modules(optimizer, without(given, module, name))


@pytest.mark.parametrize("kind", KINDS)
def test_what_ml_agents_does_not_save_must_be_that_of_the_same_settings(kind):
    given = export_modules(trained(kind, calls=1))
    optimizer = optimizer_of(kind, signals=tuple(SIGNALS), seed=3)
    own = given["optinfra"]
    damaged = {f"lacks {name}": without(given, "optinfra", name)["optinfra"] for name in own}
    damaged |= {f"{name} is other": own | {name: torch.zeros(7, *x.shape)}
                for name, x in own.items()}  # fmt: skip
    damaged["has more"] = own | {"foreign": torch.zeros(1)}
    damaged["has fewer signals"] = export_modules(optimizer_of(kind))["optinfra"]
    other = optimizer_of("ppo" if kind == "sac" else "sac", signals=tuple(SIGNALS))
    damaged["is another's"] = export_modules(other)["optinfra"]
    with refuses_all(optimizer):
        for place, one in damaged.items():
            refused(optimizer, given | {"optinfra": one}, "^optinfra", place)


@pytest.mark.parametrize("step", [torch.zeros(2), "text", 3])
def test_a_step_that_is_no_number_is_refused(step):
    given = export_modules(trained("ppo"))
    optimizer = optimizer_of("ppo", signals=tuple(SIGNALS))
    with refuses(optimizer, "_GlobalSteps__global_step must be one number"):
        wrong = {"global_step": {"_GlobalSteps__global_step": step}}
        import_modules(optimizer, given | wrong)


@pytest.mark.parametrize("memory", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_what_one_exports_makes_another_of_it_to_the_last_bit(kind, memory):
    signals = tuple(SIGNALS)
    one, other = trained(kind, memory), trained(kind, memory, seed=5, calls=1)
    given = export_modules(one)
    import_modules(other, given)
    assert_same(export_modules(other), export_modules(one))
    assert other.policy.get_current_step() == 200
    batch = learnt(kind, memory, signals, 9)
    assert one.update(batch) == other.update(batch)
    assert one.update_reward_signals(batch) == other.update_reward_signals(batch)
    assert_same(export_modules(other), export_modules(one))
    told = [value(each, learnt_trajectory(kind)) for each in (one, other)]
    for name in signals:
        np.testing.assert_array_equal(told[0][0][name], told[1][0][name])


def learnt_trajectory(kind):
    return trajectory(3, 0, kind == "poca")


def test_what_was_exported_or_imported_is_nobodys_but_the_callers():
    one, other = trained("sac"), optimizer_of("sac", signals=tuple(SIGNALS), seed=3)
    given, before = export_modules(one), export_modules(one)
    import_modules(other, given)
    for module in given.values():
        for x in module.values():
            if isinstance(x, torch.Tensor):
                x.fill_(3)
    assert_same(export_modules(one), before)
    assert_same(export_modules(other), before)


# --- settings -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_two_optimizers_of_one_settings_object_share_nothing(kind):
    settings = settings_of(document(kind, True, SIGNALS))
    dumped = settings.model_dump()
    one, other = made(kind, settings), made(kind, settings)
    assert_same(everything(one), everything(other))  # of one seed
    before, batch = everything(other), learnt(kind, True, tuple(SIGNALS), 0)
    one.policy.increment_step(100)
    one.policy.actor.update_normalization(batch)
    one.update(batch)
    one.update_reward_signals(batch)
    value(one, trajectory(3, 0, kind == "poca"), agent="a")
    del one.reward_signals["rnd"]
    assert_same(everything(other), before)
    assert set(other.reward_signals) == set(SIGNALS) and other.critic_memory_dict == {}
    assert settings.model_dump() == dumped


class Type(Enum):
    PPO = "optinfra_ppo"
    CURIOSITY = "curiosity"
    EXTRINSIC = "extrinsic"
    LINEAR = "linear"


@attrs.define
class Memory:
    sequence_length: int = S
    memory_size: int = M


@attrs.define
class Network:
    normalize: bool = True
    hidden_units: int = 4
    num_layers: int = 1
    memory: Memory | None = None


@attrs.define
class Hyper:
    batch_size: int = ROWS
    buffer_size: int = 8 * ROWS
    learning_rate_schedule: Type = Type.LINEAR


@attrs.define
class Signal:
    gamma: float = 0.9
    strength: float = 0.5
    network_settings: Network = attrs.Factory(lambda: Network(False))


@attrs.define
class Curiosity(Signal):
    learning_rate: float = 1e-3
    encoding_size: int | None = None


@attrs.define
class Trainer:
    trainer_type: Type = Type.PPO
    hyperparameters: Hyper = attrs.Factory(Hyper)
    network_settings: Network = attrs.Factory(Network)
    reward_signals: dict = attrs.Factory(
        lambda: {Type.EXTRINSIC: Signal(), Type.CURIOSITY: Curiosity()}
    )
    max_steps: int = 1000


def test_settings_of_attrs_and_mappings_are_read():
    theirs = Trainer(network_settings=Network(memory=Memory()))
    network = {"hidden_units": 4, "num_layers": 1}
    plain = document("ppo", True, learning_rate_schedule="linear") | {
        "reward_signals": {
            "extrinsic": {"gamma": 0.9, "strength": 0.5, "network_settings": network},
            "curiosity": {"gamma": 0.9, "strength": 0.5, "learning_rate": 1e-3,
                          "network_settings": network},
        }
    }  # fmt: skip
    ours = settings_of(plain)
    assert settings_of(theirs) == ours == settings_of(ours)
    assert settings_of(ours) is ours
    spec = mlagents_cases.behavior_spec(META)
    policies = [mlagents.TorchPolicy(0, spec, each.network_settings) for each in (theirs, ours)]
    both = [mlagents.TorchPPOOptimizer(policies[0], theirs),
            mlagents.TorchPPOOptimizer(policies[1], ours)]  # fmt: skip
    assert_same(everything(both[0]), everything(both[1]))
    assert theirs == Trainer(network_settings=Network(memory=Memory()))
    with pytest.raises(ValueError, match="batch_size"):
        settings_of(Trainer(hyperparameters=Hyper(batch_size=-1)))


def test_text_of_keys_is_what_arrays_are_called_by():
    for name in columns("poca", True):
        assert text_of(key_of(name)) == name


@pytest.mark.thorough
@pytest.mark.inductor
@pytest.mark.parametrize("name", ["ppo_recurrent", "sac_discrete", "poca_continuous"])
def test_compiled_a_class_does_the_same(name):
    kind = name.partition("_")[0]
    golden = golden_cases.load(name)
    eager, compiled = (
        mlagents_cases.optimizer(golden, kind, compiled=compiled) for compiled in (False, True)
    )
    batch = mlagents_cases.buffer(golden)
    for _ in range(2):
        told, expected = compiled.update(batch, 1), eager.update(batch, 1)
        assert told == pytest.approx(expected, rel=1e-4, abs=1e-5)
    following = [np.zeros(shape, np.float32) for shape in eager.policy.actor.spec.obs]
    for length in (40, 7):  # a compiled critic of groups is given multiples of 64
        part = batch.make_mini_batch(0, length)
        told, expected = (
            each.get_trajectory_value_estimates(part, following, False)
            for each in (compiled, eager)
        )
        for a, b in zip(told[:2], expected[:2]):
            np.testing.assert_allclose(a["extrinsic"], b["extrinsic"], rtol=1e-4, atol=1e-5)
            assert np.shape(a["extrinsic"]) == np.shape(b["extrinsic"])
