"""Writing demonstrations: what was written is read again, by us and by ML-Agents."""

import os
import re
import subprocess
from pathlib import Path

import chex
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from optinfra import demos
from optinfra.demos import write
from optinfra.demos.format import BRAIN_OFFSET, METADATA_BYTES, messages
from optinfra.types import Action, ActionSpec, Spec
from tests.demo_cases import (
    GOLDEN,
    SPEC,
    flat,
    interleaved,
    pairs,
    recordings,
    rich,
    unflat,
)
from tests.mlagents_python import mlagents_python

ROOT = Path(__file__).parents[1]


def save(path, columns, name="Walker", spec=SPEC):
    demos.save(path, columns, name=name, spec=spec)
    return path


def assert_same_bits(mine, theirs):
    """Equal tensors, and zeros of equal sign."""
    chex.assert_trees_all_equal(mine, theirs)
    for x, y in zip(flat(mine), flat(theirs)):
        assert x.dtype == y.dtype
        assert np.array_equal(np.signbit(x.float().numpy()), np.signbit(y.float().numpy()))


def metadata_of(data):
    return messages().Metadata.FromString(data[1 : 1 + data[0]])


# --- what is read again -------------------------------------------------------------------


@given(recordings())
def test_loading_what_was_saved_returns_it_bit_for_bit(tmp_path_factory, recording):
    spec, columns = recording
    path = tmp_path_factory.mktemp("demo") / "a.demo"
    loaded = demos.load(save(path, columns, spec=spec), spec)
    assert loaded.spec == spec
    assert_same_bits(loaded.demonstrations, columns)
    untold = demos.load(path)
    assert untold.spec == spec._replace(bytes=())
    for i, (x, y) in enumerate(zip(untold.demonstrations.obs, columns.obs)):
        assert torch.equal(x, y.float() / 255 if i in spec.bytes else y)
    assert os.listdir(path.parent) == ["a.demo"]


@given(recordings(spec=SPEC), st.integers(0, 9))
def test_interleaved_episodes_are_written_one_after_the_other(tmp_path_factory, recording, seed):
    columns = interleaved(recording[1], seed)
    loaded = demos.load(save(tmp_path_factory.mktemp("demo") / "a.demo", columns))
    order = columns.episode.argsort(stable=True)
    assert_same_bits(loaded.demonstrations, unflat([x[order] for x in flat(columns)]))


@pytest.mark.parametrize("name", ["golden_one", "golden_discrete"])
def test_a_file_of_ml_agents_is_written_again_with_the_same_content(tmp_path, name):
    loaded = demos.load(GOLDEN / f"{name}.demo")
    path = save(tmp_path / "a.demo", loaded.demonstrations, "Golden", loaded.spec)
    again = demos.load(path)
    assert again.spec == loaded.spec
    assert_same_bits(again.demonstrations, loaded.demonstrations)
    ours, theirs = path.read_bytes(), (GOLDEN / f"{name}.demo").read_bytes()
    end = BRAIN_OFFSET + 1 + ours[BRAIN_OFFSET]
    assert ours[BRAIN_OFFSET:end] == theirs[BRAIN_OFFSET:end]
    assert metadata_of(ours).number_steps == metadata_of(theirs).number_steps
    assert metadata_of(ours).number_episodes == metadata_of(theirs).number_episodes


def test_the_metadata_count_pairs_and_episodes_and_tell_the_mean_return(tmp_path):
    columns = pairs([3, 2, 4], ["terminated", "truncated", "open"])
    columns = columns._replace(rewards=torch.arange(9.0))
    metadata = metadata_of(save(tmp_path / "a.demo", columns).read_bytes())
    assert (metadata.api_version, metadata.demonstration_name) == (1, "Walker")
    assert (metadata.number_steps, metadata.number_episodes) == (9, 3)
    assert metadata.mean_reward == 12.0


@pytest.mark.parametrize("name", ["", "x" * 40, "ü" * 20, "x" + "ü" * 20])
def test_a_name_fills_the_room_that_the_metadata_have_and_stands_whole_in_the_brain(tmp_path, name):
    data = save(tmp_path / "a.demo", pairs([2], ["terminated"]), name).read_bytes()
    metadata = metadata_of(data)
    assert data[0] <= METADATA_BYTES and name.startswith(metadata.demonstration_name)
    assert len(name) < 10 or METADATA_BYTES - data[0] <= 1
    brain = data[BRAIN_OFFSET + 1 : BRAIN_OFFSET + 1 + data[BRAIN_OFFSET]]
    assert messages().Brain.FromString(brain).brain_name == name
    assert len(demos.load(tmp_path / "a.demo").demonstrations.rewards) == 2


def test_folders_are_made(tmp_path):
    assert save(tmp_path / "a" / "b" / "c.demo", pairs([2], ["open"])).is_file()


# --- whole or not at all ------------------------------------------------------------------


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_what_was_there_stays_where_writing_fails(tmp_path, monkeypatch, error, function):
    path = tmp_path / "a.demo"
    path.write_bytes(b"before")

    def fail(*_):
        raise error

    monkeypatch.setattr(write.os, function, fail)
    told = re.escape(f"{path}: cannot be written: no space left on device.")
    expected = demos.DemoError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected, match=f"^{told}$" if isinstance(error, OSError) else None):
        save(path, pairs([2], ["open"]))
    assert os.listdir(tmp_path) == ["a.demo"] and path.read_bytes() == b"before"


def test_a_file_in_the_place_of_the_folder_is_told(tmp_path):
    (tmp_path / "a").write_text("")
    with pytest.raises(demos.DemoError, match=r"a/b\.demo: cannot be written: "):
        save(tmp_path / "a" / "b.demo", pairs([2], ["open"]))


# --- what is refused ----------------------------------------------------------------------


WHOLE = pairs([3, 2], ["terminated", "open"])


def changed(column, row, value):
    """The pairs with one value changed."""
    columns = flat(WHOLE)
    columns[column] = columns[column].clone()
    columns[column][row] = value
    return unflat(columns)


@pytest.mark.parametrize(
    "columns, error, told",
    [
        (unflat([x[:0] for x in flat(WHOLE)]), ValueError, "`demonstrations` must hold a pair"),
        (WHOLE._replace(obs=WHOLE.obs[:1]), ValueError, "`obs` must have 2 parts, got 1."),
        (WHOLE._replace(obs=WHOLE.obs[::-1]), ValueError,
         "`obs[0]` must have shape [N, …] = [5, 3], got [5, 2, 2]."),
        (WHOLE._replace(action=Action(WHOLE.action[0][:, :1], WHOLE.action[1])), ValueError,
         "`action.continuous` must have shape [N, …] = [5, 2], got [5, 1]."),
        (WHOLE._replace(action_mask=WHOLE.action_mask[:, :4]), ValueError,
         "`action_mask` must have shape [N, …] = [5, 5], got [5, 4]."),
        (WHOLE._replace(rewards=WHOLE.rewards.double()), TypeError,
         "`rewards` must have dtype torch.float32, got torch.float64."),
        (WHOLE._replace(terminated=WHOLE.terminated.long()), TypeError,
         "`terminated` must have dtype torch.bool, got torch.int64."),
        (changed(-1, 2, True), ValueError, "`truncated` must be False where `terminated` is True"),
        (changed(-1, 1, True), ValueError, "`episode` must have no pair after its end, got one."),
        (changed(0, 1, float("nan")), ValueError, "`obs[0]` must be finite"),
        (changed(2, 1, float("inf")), ValueError, "`action.continuous` must be finite"),
        (changed(5, 1, -float("inf")), ValueError, "`rewards` must be finite"),
        (changed(3, (1, 1), 2), ValueError, "`action.discrete` must be choices of [3, 2], got 2."),
        (changed(3, (1, 0), -1), ValueError, "`action.discrete` must be choices of [3, 2], got -1"),
    ],
)  # fmt: skip
def test_what_would_be_read_otherwise_is_refused(tmp_path, columns, error, told):
    with pytest.raises(error, match=re.escape(told)):
        save(tmp_path / "a.demo", columns)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    "spec, told",
    [
        (Spec(((3,),), ActionSpec()), "`spec.action` must have 1 to 65536 actions, got 0."),
        (Spec(((3,),), ActionSpec(1, (65_536,))), "1 to 65536 actions, got 65537."),
        (Spec((), ActionSpec(1)), "`spec.obs` must have an observation, got none."),
        (Spec(((),), ActionSpec(1)), "1 to 3 axes and 4194304 numbers each, got []."),
        (Spec(((1, 1, 1, 1),), ActionSpec(1)), "1 to 3 axes and 4194304 numbers each, got [1, 1"),
        (Spec(((0,),), ActionSpec(1)), "1 to 3 axes and 4194304 numbers each, got [0]."),
        (Spec(((2**22 + 1,),), ActionSpec(1)), "numbers each, got [4194305]."),
    ],
)
def test_what_loading_takes_for_damage_is_refused(tmp_path, spec, told):
    with pytest.raises(ValueError, match=re.escape(told)):
        save(tmp_path / "a.demo", WHOLE, spec=spec)


@pytest.mark.parametrize(
    ("in_bytes", "told"),
    [((), "`obs[0]` must have dtype torch.float32, got torch.uint8."),
     ((0, 1), "`obs[1]` must have dtype torch.uint8, got torch.float32.")],
)  # fmt: skip
def test_images_must_be_of_what_the_spec_says(tmp_path, in_bytes, told):
    spec = Spec(((1, 2, 2), (3,)), ActionSpec(1), bytes=(0,))
    columns = pairs([3], ["terminated"], 0, spec)
    with pytest.raises(TypeError, match=re.escape(told)):
        save(tmp_path / "a.demo", columns, spec=spec._replace(bytes=in_bytes))


def test_another_suffix_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"`path` must end in \.demo, got a\.bin\."):
        save(tmp_path / "a.bin", WHOLE)


# --- ML-Agents ----------------------------------------------------------------------------


def read_by_mlagents(path):
    """What ML-Agents' own loader makes of a file, and ours beside it in one process."""
    interpreter = mlagents_python()
    target = path.with_suffix(".npz")
    reader = Path(__file__).with_name("mlagents_reader.py")
    run = subprocess.run(
        [interpreter, reader, path, target],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert run.returncode == 0, run.stderr
    with np.load(target, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def moderate(spec, seed):
    """Episodes that all end, as ML-Agents takes for granted, and of numbers it can average."""
    lengths = [4, 2, 5]
    columns = pairs(lengths, ["terminated", "truncated", "terminated"], seed, spec)
    return columns._replace(
        obs=tuple(x.clamp(-9, 9) for x in columns.obs), rewards=columns.rewards.clamp(-9, 9)
    )


@pytest.mark.mlagents
@pytest.mark.parametrize(
    "spec",
    [
        Spec(((3,), (2, 2)), ActionSpec(2, (3, 2))),
        Spec(((4,),), ActionSpec(3)),
        Spec(((3, 2, 4), (1,)), ActionSpec(0, (4,))),
    ],
)
def test_ml_agents_reads_what_was_written(tmp_path, spec):
    columns = moderate(spec, 5)
    theirs = read_by_mlagents(save(tmp_path / "a.demo", columns, spec=spec))
    assert str(theirs["mlagents/shapes"]) == repr(list(spec.obs))
    assert int(theirs["mlagents/continuous"]) == spec.action.continuous
    assert tuple(theirs["mlagents/branches"]) == spec.action.branches
    ended = (columns.terminated | columns.truncated).numpy()
    np.testing.assert_array_equal(theirs["mlagents/done"], ended)
    np.testing.assert_array_equal(theirs["mlagents/interrupted"], columns.truncated)
    forbidden = (~columns.action_mask).sum(1)
    np.testing.assert_array_equal(theirs["mlagents/forbidden"], forbidden)
    expected = {  # ML-Agents makes a row of every pair but the last
        **{f"obs:{i}": x[:-1] for i, x in enumerate(columns.obs)},
        "environment_rewards": columns.rewards[1:],
    }
    if spec.action.continuous:
        expected["continuous_action"] = columns.action.continuous[:-1]
    if spec.action.branches:
        expected["discrete_action"] = columns.action.discrete[:-1]
    for name, x in expected.items():
        np.testing.assert_array_equal(theirs[f"mlagents/buffer/{name}"], x.numpy())


@pytest.mark.mlagents
@pytest.mark.parametrize("name", ["rich", "golden_one", "golden_discrete"])
def test_beside_ml_agents_and_its_old_protobuf_our_loader_reads_the_same(tmp_path, name):
    path = rich(tmp_path) if name == "rich" else tmp_path / "a.demo"
    if name != "rich":
        path.write_bytes((GOLDEN / f"{name}.demo").read_bytes())
    arrays = read_by_mlagents(path)
    columns = demos.load(path).demonstrations
    for i, x in enumerate(columns.obs):
        np.testing.assert_array_equal(arrays[f"optinfra/buffer/obs:{i}"], x.numpy())
    for key in [key.partition("/")[2] for key in arrays if key.startswith("optinfra/")]:
        if f"mlagents/{key}" in arrays:
            rows = len(columns.rewards) - key.startswith("buffer/")
            ours, theirs = arrays[f"optinfra/{key}"][:rows], arrays[f"mlagents/{key}"]
            np.testing.assert_array_equal(ours, theirs)
