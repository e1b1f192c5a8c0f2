"""A checkpoint comes back bit for bit, or says in one line why it does not."""

import json
import os
import subprocess
import sys
from typing import Any, NamedTuple

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from optinfra import checkpoint, tree
from optinfra.checkpoint import CheckpointError, CheckpointWarning, latest, load, numbered, save

DTYPES = [
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32,
    torch.int16, torch.uint8, torch.bool, torch.complex64,
]  # fmt: skip
SHAPES = [(), (0,), (1,), (3,), (2, 0, 3), (2, 3), (4, 1, 2)]
NAMES = st.text(min_size=1, max_size=6).filter(lambda name: name != "__metadata__")


class State(NamedTuple):
    params: Any
    key: Any


def bits(x):
    """The bytes of a tensor, NaN payloads included."""
    return x.detach().contiguous().clone().reshape(-1).view(torch.uint8).tolist()


@st.composite
def tensors(draw):
    shape, dtype = draw(st.sampled_from(SHAPES)), draw(st.sampled_from(DTYPES))
    size = torch.empty(shape, dtype=dtype).numel() * dtype.itemsize
    if dtype == torch.bool:
        return (
            torch.tensor(draw(st.lists(st.booleans(), min_size=size, max_size=size)))
            .reshape(shape)
            .bool()
        )
    raw = bytearray(draw(st.binary(min_size=size, max_size=size)))
    if not raw:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(raw, dtype=dtype).reshape(shape)


def nested(inner):
    names = NAMES.map(lambda name: name.replace("/", "_"))
    return st.one_of(
        st.dictionaries(names, inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.builds(State, inner, inner),
    )


STATES = st.recursive(tensors(), nested, max_leaves=6)
METADATA = st.dictionaries(
    NAMES.filter(lambda key: key not in checkpoint.OWN_KEYS), st.text(max_size=8), max_size=3
)


def assert_same_bits(actual, expected):
    assert tree.structure(actual) == tree.structure(expected)
    for x, y in zip(tree.leaves(actual), tree.leaves(expected)):
        assert x.shape == y.shape and x.dtype == y.dtype and bits(x) == bits(y)


def small_state():
    return State({"w": torch.arange(6.0).reshape(2, 3), "b": torch.zeros(3)}, torch.tensor([1, 2]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("checkpoints")


@given(STATES, METADATA)
def test_load_returns_what_was_saved_bit_for_bit(folder, state, metadata):
    path = folder / "any.safetensors"
    save(path, state, metadata)
    loaded, text = load(path, tree.map(torch.zeros_like, state))
    assert_same_bits(loaded, state)
    assert text == metadata


@pytest.mark.parametrize(
    "view",
    [
        lambda x: (x, x),  # the same tensor twice
        lambda x: (x[1:], x[:2]),  # overlapping parts of one storage
        lambda x: (x.T, x[:, ::2]),  # strides
        lambda x: (x[:1].expand(5, 4), x.flatten()[3:].requires_grad_()),
        lambda x: (torch.complex(x, x).conj(), torch._neg_view(x)),
    ],
    ids=["alias", "overlap", "strided", "expanded", "lazy"],
)
def test_save_takes_leaves_that_share_memory(tmp_path, view):
    state = view(torch.arange(12.0).reshape(3, 4))
    save(tmp_path / "a.safetensors", state, {})
    loaded, _ = load(tmp_path / "a.safetensors", state)
    for x, y in zip(loaded, state):
        assert torch.equal(x, y) and x.is_contiguous()
    loaded[0].zero_()  # and what is loaded shares none
    assert torch.equal(loaded[1], state[1])


def test_load_keeps_the_device_of_like(tmp_path):
    save(tmp_path / "a.safetensors", (torch.ones(3), torch.ones(2)), {})
    loaded, _ = load(tmp_path / "a.safetensors", (torch.ones(3, device="meta"), torch.ones(2)))
    assert [x.device.type for x in loaded] == ["meta", "cpu"]


@pytest.mark.parametrize(
    ("like", "message"),
    [
        ({"w": torch.zeros(3, 2)}, r"leaf w must have shape \[3, 2\], got \[2, 3\]\.$"),
        ({"w": torch.zeros(6)}, r"leaf w must have shape \[6\], got \[2, 3\]\.$"),
        (
            {"w": torch.zeros(2, 3, dtype=torch.float64)},
            r"leaf w must have dtype torch.float64, got torch.float32\.$",
        ),
        ({"w": torch.zeros(2, 3), "b": torch.zeros(1)}, r"leaf b is missing\.$"),
        ({}, r"leaf w is not expected\.$"),
        ({"v": torch.zeros(2, 3)}, r"leaf v is missing\. \(1 more differ\.\)$"),
    ],
)
def test_load_names_the_leaf_that_differs(tmp_path, like, message):
    path = tmp_path / "a.safetensors"
    save(path, {"w": torch.zeros(2, 3)}, {})
    with pytest.raises(CheckpointError, match=message) as error:
        load(path, like)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def test_load_refuses_a_file_cut_anywhere(tmp_path):
    path, state = tmp_path / "a.safetensors", small_state()
    save(path, state, {"step": "7"})
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match="damaged, or no checkpoint") as error:
            load(path, state)
        assert str(path) in str(error.value) and "\n" not in str(error.value)
    path.write_bytes(content + b"\0")
    with pytest.raises(CheckpointError, match="damaged"):
        load(path, state)


@pytest.mark.parametrize("mask", [0x01, 0x20, 0x80, 0xFF])
def test_load_refuses_a_file_with_one_changed_byte(tmp_path, mask):
    path, state = tmp_path / "a.safetensors", small_state()
    save(path, state, {"step": "7"})
    content = path.read_bytes()
    for offset in range(len(content)):
        changed = bytearray(content)
        changed[offset] ^= mask
        path.write_bytes(changed)
        with pytest.raises(CheckpointError) as error:
            load(path, state)
        assert str(path) in str(error.value) and "\n" not in str(error.value)
        assert "leaf" not in str(error.value)  # noticed before anything is compared


@given(st.binary(max_size=64))
def test_load_refuses_any_other_bytes(folder, content):
    path = folder / "other.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged, or no checkpoint"):
        load(path, {})


def test_load_refuses_what_something_else_wrote(tmp_path):
    path = tmp_path / "a.safetensors"
    safetensors.torch.save_file({"w": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="written by something else"):
        load(path, {"w": torch.zeros(1)})
    save(path, {"w": torch.zeros(1)}, {})
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"format_version":"1"', b'"format_version":"9"'))
    with pytest.raises(CheckpointError, match="expected format version 1, got 9"):
        load(path, {"w": torch.zeros(1)})


def test_load_names_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(CheckpointError, match="there is no such checkpoint"):
        load(tmp_path / "none.safetensors", {})
    with pytest.raises(CheckpointError, match="cannot be read: is a directory"):
        load(tmp_path, {})


def test_loading_executes_nothing(tmp_path):
    path = tmp_path / "a.safetensors"
    torch.save({"w": torch.zeros(1)}, path)  # a pickle
    with pytest.raises(CheckpointError, match="damaged, or no checkpoint"):
        load(path, {"w": torch.zeros(1)})


@pytest.mark.parametrize(
    ("state", "metadata", "error", "message"),
    [
        ({"w": 1.0}, {}, TypeError, "tensors as leaves, got <class 'float'> at w"),
        ({"a/b": torch.ones(1), "a": {"b": torch.ones(1)}}, {}, ValueError, "two leaves of one"),
        ({"__metadata__": torch.ones(1)}, {}, ValueError, "must not have a leaf named"),
        ({}, {"step": 3}, TypeError, "must hold text, got 'step': 3"),
        ({}, {"format": "mine"}, ValueError, "reserved key format"),
        ({"w": torch.ones(1, dtype=torch.complex128)}, {}, CheckpointError, "cannot hold this"),
        ({"w": torch.ones(1, device="meta")}, {}, NotImplementedError, "meta"),
    ],
)
def test_save_refuses_what_it_could_not_give_back(tmp_path, state, metadata, error, message):
    with pytest.raises(error, match=message):
        save(tmp_path / "a.safetensors", state, metadata)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fault", ["replace", "fsync"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_save_that_fails_leaves_the_last_file_as_it_was(tmp_path, monkeypatch, fault, error):
    path, state = tmp_path / "a.safetensors", small_state()
    save(path, state, {"step": "1"})
    before = path.read_bytes()

    def fail(*_):
        raise error

    monkeypatch.setattr(os, fault, fail)
    expected = CheckpointError if isinstance(error, OSError) else KeyboardInterrupt
    match = "cannot be written: no space left on device" if expected is CheckpointError else None
    with pytest.raises(expected, match=match):
        save(path, tree.map(torch.ones_like, state), {"step": "2"})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


KILLED = """
import os, sys, torch
from optinfra.checkpoint import numbered, save
os.replace = lambda *_: os._exit(9)
save(numbered(sys.argv[1], 2), {"w": torch.ones(1000)}, {})
"""


def test_a_process_killed_while_saving_leaves_only_what_the_next_save_removes(tmp_path):
    state = {"w": torch.zeros(1000)}
    save(numbered(tmp_path, 1), state, {})
    (tmp_path / "notes.partial").write_text("somebody's")
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert killed.returncode == 9
    leftover = tmp_path / ".step-000000002.safetensors.partial"
    assert leftover.exists() and not numbered(tmp_path, 2).exists()
    assert latest(tmp_path) == numbered(tmp_path, 1)
    save(numbered(tmp_path, 3), state, {})
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["notes.partial", "step-000000001.safetensors", "step-000000003.safetensors"]


def test_save_forces_the_file_and_then_its_folder_to_the_disk(tmp_path, monkeypatch):
    calls, path = [], tmp_path / "a.safetensors"
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: calls.append(os.fstat(fd).st_ino) or fsync(fd))
    monkeypatch.setattr(os, "replace", lambda *names: calls.append("moved") or replace(*names))
    save(path, {}, {})
    assert calls == [path.stat().st_ino, "moved", tmp_path.stat().st_ino]


def test_save_says_where_it_cannot_write(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"cannot be written: .*(exists|not a directory)"):
        save(tmp_path / "file" / "a.safetensors", {}, {})

    def read_only(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(tmp_path), "open", read_only)
    with pytest.raises(CheckpointError, match=r"a\.safetensors: cannot be written: permission"):
        save(tmp_path / "a.safetensors", {}, {})


@given(st.integers(0, 10**12))
def test_a_numbered_name_tells_its_step(step):
    assert checkpoint.step_of(numbered("runs", step)) == step


def test_numbered_names_are_fixed_and_others_are_refused():
    assert numbered("runs", 12345).name == "step-000012345.safetensors"
    with pytest.raises(ValueError, match="`step` must be ≥ 0, got -1"):
        numbered("runs", -1)
    for name in ("step-1.safetensors", "final.safetensors", "step-000000001.safetensors.old"):
        with pytest.raises(ValueError, match="`path` must be named as by `numbered`"):
            checkpoint.step_of(name)


def test_latest_is_the_highest_step_whatever_was_written_last(tmp_path):
    for step in (999_999_999, 1_000_000_000, 7):  # more digits than the name is padded to
        save(numbered(tmp_path, step), {}, {})
    assert latest(tmp_path) == numbered(tmp_path, 1_000_000_000)


def test_latest_passes_over_a_damaged_file_and_names_it(tmp_path):
    for step in (1, 2, 3):
        save(numbered(tmp_path, step), {"w": torch.ones(4)}, {})
    content = numbered(tmp_path, 3).read_bytes()
    numbered(tmp_path, 3).write_bytes(content[:-1])
    with pytest.warns(CheckpointWarning, match=r"step-000000003\.safetensors: damaged"):
        assert latest(tmp_path) == numbered(tmp_path, 2)


def test_latest_of_nothing_is_none(tmp_path):
    (tmp_path / "final.safetensors").write_bytes(b"")
    assert latest(tmp_path) is None and latest(tmp_path / "none") is None


@given(st.sets(st.integers(0, 50), max_size=6), st.integers(-1, 7))
def test_prune_keeps_the_newest(tmp_path_factory, steps, limit):
    folder = tmp_path_factory.mktemp("prune")
    (folder / "notes.txt").write_text("")
    for step in steps:
        save(numbered(folder, step), {}, {})
    checkpoint.prune(folder, limit)
    kept = sorted(steps)[-limit:] if limit > 0 else sorted(steps)
    left = {path.name for path in folder.iterdir()}
    assert left == {numbered(folder, step).name for step in kept} | {"notes.txt"}


def test_prune_does_not_count_what_cannot_be_read(tmp_path):
    for step in (1, 2, 3):
        save(numbered(tmp_path, step), {}, {})
    numbered(tmp_path, 3).write_bytes(b"")
    checkpoint.prune(tmp_path, 1)
    assert numbered(tmp_path, 2).exists() and not numbered(tmp_path, 1).exists()


def test_prune_says_what_it_cannot_delete(tmp_path, monkeypatch):
    for step in (1, 2):
        save(numbered(tmp_path, step), {}, {})

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(tmp_path), "unlink", refuse)
    with pytest.raises(CheckpointError, match=r"step-000000001.*cannot be deleted: permission"):
        checkpoint.prune(tmp_path, 1)


def test_the_metadata_in_the_file_name_the_format(tmp_path):
    save(tmp_path / "a.safetensors", {"w": torch.zeros(2)}, {"run": "π"})
    content = (tmp_path / "a.safetensors").read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert header["w"]["shape"] == [2]
    assert header["__metadata__"]["format"] == "optinfra.checkpoint"
    assert header["__metadata__"]["run"] == "π"


def test_checkpoint_without_its_extra_says_what_to_install():
    code = "import sys; sys.modules['safetensors'] = None; import optinfra.checkpoint"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "pip install 'optinfra[train]'" in run.stderr.splitlines()[-1]
