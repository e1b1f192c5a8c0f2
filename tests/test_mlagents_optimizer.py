"""Optimizers of ML-Agents' names: what they refuse and read, and what they share."""

from enum import Enum

import attrs
import numpy as np
import pytest
import torch

from optinfra import mlagents
from optinfra.mlagents import AgentBuffer, MissingColumnError
from optinfra.mlagents.keys import key_of, text_of
from optinfra.mlagents.options import settings_of
from tests import golden_cases, mlagents_cases
from tests.mlagents_optimizers import (
    KINDS,
    META,
    OPTIONAL,
    ROWS,
    SIGNALS,
    M,
    S,
    assert_same,
    batch_of,
    columns,
    document,
    everything,
    learnt,
    made,
    optimizer_of,
    refuses,
    trajectory,
    value,
)

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


@pytest.mark.parametrize("kind", KINDS)
def test_every_call_draws_anew_and_a_seed_draws_the_same(kind):
    def drawn(actor):
        action, stats, _ = actor.get_action_and_stats([torch.zeros(64, 3), torch.zeros(64, 2)])
        return action.continuous_tensor, stats["log_probs"].continuous_tensor

    one, same, other = (optimizer_of(kind, seed=seed).policy.actor for seed in (0, 0, 1))
    first, second = drawn(one), drawn(one)
    assert not torch.equal(first[0], second[0]) and not torch.equal(first[0], drawn(other)[0])
    assert_same([drawn(same), drawn(same)], [first, second])
