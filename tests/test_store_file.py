"""A store's file brings it back bit for bit, or says in one line why it does not."""

import errno
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

from optinfra import random, replay, tree
from optinfra.store import PrioritizedStore, ReplayStore, StoreError, file
from tests.plain_replay import assert_same, memories, one, transitions

SLOTS, LANES = 4, 2
KINDS = pytest.mark.parametrize("kind", [ReplayStore, PrioritizedStore])


def small(kind=ReplayStore, slots=SLOTS, lanes=LANES, **options):
    made, memory = one(transitions(0, 1, 1)), one(memories(0, 1, 1))
    return kind(made, memory, capacity=slots * lanes, lanes=lanes, **options)


def filled(kind=ReplayStore, steps=6, **options):
    store = small(kind, **options)
    made = transitions(1, steps, LANES), memories(1, steps, LANES)
    for begin in range(0, steps, 3):
        store.add(*(tree.take(x, slice(begin, begin + 3)) for x in made))
    return store


def go_on(store, seeds=range(3)):
    """What is drawn, with more added in between."""
    for seed in seeds:
        key, beta = random.key(seed), torch.tensor(0.5)
        yield replay.sample(store.view(), key, 9)
        yield replay.sample_sequences(store.view(), key, 9, 3)
        if isinstance(store, PrioritizedStore):
            drawn = replay.sample_prioritized(
                store.view(), store.levels, key, 9, weight_exponent=beta
            )
            yield drawn
            store.prioritize(drawn.positions, drawn.transitions.rewards % 7)
        store.add(transitions(10 + seed, 1 + seed, LANES), memories(10 + seed, 1 + seed, LANES))


@KINDS
@pytest.mark.parametrize("steps", [1, 3, 4, 6])
@pytest.mark.parametrize("mapped", [False, True])
def test_what_is_drawn_after_loading_is_as_if_nothing_had_stopped(tmp_path, kind, steps, mapped):
    files = {"ram_limit": 0, "folder": tmp_path} if mapped else {}
    store = filled(kind, steps, **files)
    list(go_on(store, [7]))
    store.save(tmp_path / "a.safetensors")
    loaded = small(kind, **files)
    loaded.load(tmp_path / "a.safetensors")
    assert len(loaded) == len(store) > 0
    for actual, expected in zip(go_on(loaded), go_on(store)):
        assert_same(actual, expected)


def test_saving_changes_nothing_and_an_empty_store_comes_back_empty(tmp_path):
    store = filled()
    before = tree.map(torch.clone, store.view())
    store.save(tmp_path / "folders" / "are made" / "a.safetensors")
    assert_same(store.view(), before)
    small().save(tmp_path / "empty.safetensors")
    store.load(tmp_path / "empty.safetensors")
    assert len(store) == 0 and store.view().steps == 0
    assert not replay.sample(store.view(), random.key(0), 5).mask.any()
    store.add(transitions(1, 1, LANES, masked=0.0))
    assert len(store) == LANES


@KINDS
def test_a_file_is_one_of_safetensors_and_holds_what_is_filled_only(tmp_path, kind):
    path = tmp_path / "a.safetensors"
    store = filled(kind, 3)
    store.save(path)
    found = safetensors.torch.load_file(path)
    expected = tree.named_leaves(store.view()._replace(order=(), first=(), rows=(), oldest=()))
    del expected["steps"]
    assert found.keys() - {"priorities", "highest"} == expected.keys()
    for name, x in expected.items():
        assert torch.equal(found[name], x[:3]) and found[name].dtype == x.dtype
    header = int.from_bytes(path.read_bytes()[:8], "little")
    assert header % 8 == 0
    assert path.stat().st_size == 8 + header + sum(x.nbytes for x in found.values())


def test_pieces_make_one_file(tmp_path, monkeypatch):
    filled().save(tmp_path / "whole.safetensors")
    monkeypatch.setattr(file, "PIECE", 7)
    filled().save(tmp_path / "pieces.safetensors")
    content = (tmp_path / "pieces.safetensors").read_bytes()
    assert content == (tmp_path / "whole.safetensors").read_bytes()
    loaded = small()
    loaded.load(tmp_path / "pieces.safetensors")
    assert_same(
        replay.sample(loaded.view(), random.key(0), 9),
        replay.sample(filled().view(), random.key(0), 9),
    )


def refused(store, path, message):
    """The file is refused in one line that names it, and the store is as it was."""
    before = tree.map(torch.clone, store.view())
    with pytest.raises(StoreError, match=message) as error:
        store.load(path)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)
    assert len(str(error.value)) < len(str(path)) + 400
    assert_same(store.view(), before)


def test_a_file_cut_anywhere_is_refused(tmp_path):
    path, store = tmp_path / "a.safetensors", filled()
    store.save(path)
    content = path.read_bytes()
    for length in [*range(0, len(content), 19), len(content) - 1]:
        path.write_bytes(content[:length])
        refused(store, path, "damaged")
    path.write_bytes(content + b"\0")
    refused(store, path, "damaged: must have")


def test_a_file_with_a_changed_byte_is_refused_unless_it_says_the_same(tmp_path):
    path, store = tmp_path / "a.safetensors", filled(steps=2)
    store.save(path)
    content = path.read_bytes()
    for offset in range(0, len(content), 2):
        changed = bytearray(content)
        changed[offset] ^= (0x01, 0x20, 0x80)[offset % 3]
        path.write_bytes(changed)
        if content[offset] == ord(" "):
            continue  # white space of the header
        refused(store, path, ".")


def forged(path, change):
    """Rewrite the header of a file."""
    content = path.read_bytes()
    begin = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:begin])
    header = change(header) or header
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[begin:])


def about(**texts):
    return lambda header: header["__metadata__"].update(texts)


def column(**entry):
    return lambda header: header["cuts"].update(entry)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (about(format="other"), "written by something else: no optinfra.store"),
        (about(format_version="2"), "expected format version 1, got 2"),
        (about(capacity="10"), "`capacity` must be 8, got 10"),
        (about(steps="5"), "damaged: 5 steps, to be followed at 2"),
        (about(steps="3"), "damaged: 3 steps, to be followed at 2"),
        (about(next="4"), "damaged: 4 steps, to be followed at 4"),
        (about(next="3"), "its checksum is not that of its content"),
        (about(checksum="00000000"), "its checksum is not that of its content"),
        (about(more="1"), "its checksum is not that of its content"),
        (about(steps="-1"), "damaged, or no store"),
        (about(steps="9" * 5000), "damaged, or no store"),
        (about(steps=4), "damaged, or no store"),
        (about(steps=["4"]), "damaged, or no store"),
        (lambda header: header["__metadata__"].pop("steps") and None, "damaged: -1 steps"),
        (lambda header: header.pop("__metadata__") and None, "damaged, or no store"),
        (lambda header: header.pop("cuts") and None, "column 'cuts' must be 'BOOL' .* got absent"),
        (lambda header: header.update(x=1), "column 'x' must be absent, got 1"),
        (lambda header: header.update({"x\n" * 9999: "\n" * 9999}), r"column 'x\\nx\\n.* absent"),
        (column(shape=[4, 2, 2**40]), r"column 'cuts' must be .* got 'BOOL' \[4, 2, 1099511627776"),
        (column(dtype="U8"), r"column 'cuts' must be 'BOOL' \[4, 2\] .* got 'U8' \[4, 2\]"),
        (column(data_offsets=[0, 8]), r"column 'cuts' must be .* got 'BOOL' \[4, 2\] \[0, 8\]"),
        (lambda header: b"[" * 100_000, "damaged, or no store"),
        (lambda header: b"[]", "damaged, or no store"),
        (lambda header: b"\xff\xfe", "damaged, or no store"),
        (lambda header: b" " * (1 << 21), "damaged, or no store: its header has 2097152 bytes"),
    ],
)  # fmt: skip
def test_a_file_that_says_something_else_is_refused(tmp_path, change, message):
    path, store = tmp_path / "a.safetensors", filled()
    store.save(path)
    forged(path, change)
    refused(store, path, message)


def test_a_file_of_another_kind_of_store_names_the_column(tmp_path):
    path = tmp_path / "a.safetensors"
    filled().save(path)
    made = transitions(1, 1, 1)
    other = one(made._replace(rewards=made.rewards.float()))
    store = ReplayStore(other, one(memories(1, 1, 1)), capacity=8, lanes=2)
    refused(store, path, r"column 'transitions/rewards' must be 'F32' \[4, 2\] .* got 'F64'")
    without = ReplayStore(one(made), capacity=8, lanes=2)
    refused(without, path, "column '.*' must be .*, got ")
    refused(small(lanes=1, slots=8), path, "damaged: 4 steps|column '.*' must be")
    refused(small(PrioritizedStore), path, "column 'priorities' must be .* got absent")
    filled(PrioritizedStore).save(path)
    refused(filled(), path, "column 'priorities' must be absent, got 'F32'")
    safetensors.torch.save_file({"x": torch.ones(2)}, path)
    refused(filled(), path, "damaged, or no store")


def test_flags_that_are_neither_false_nor_true_are_read_as_true(tmp_path):
    path, store = tmp_path / "a.safetensors", filled()
    store._columns.transitions.mask.view(torch.uint8).mul_(2)  # as another program may write them
    store.save(path)
    loaded = small()
    loaded.load(path)
    shown = loaded.view()
    assert shown.transitions.mask.view(torch.uint8).max() == 1
    assert int(shown.rows) == int((shown.transitions.mask.view(torch.uint8) > 0).sum())
    loaded.add(transitions(2, SLOTS, LANES))
    assert len(loaded) == int(transitions(2, SLOTS, LANES).mask.sum())


def test_a_file_that_cannot_be_read_or_written_is_named(tmp_path):
    store = filled()
    refused(store, tmp_path / "none", "there is no such file")
    refused(store, tmp_path, "cannot be read: is a directory")
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"a\.safetensors: cannot be written: ") as error:
        store.save(tmp_path / "file" / "a.safetensors")
    assert "\n" not in str(error.value)
    made = transitions(1, 1, 1)
    strange = one(made)._replace(rewards=torch.zeros((), dtype=torch.complex64))
    with pytest.raises(
        TypeError, match=r"`transitions/rewards` must have a dtype that can be saved"
    ):
        ReplayStore(strange, capacity=8, lanes=2).save(tmp_path / "a.safetensors")
    assert not (tmp_path / "a.safetensors").exists()


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_saving_that_fails_leaves_what_was_there(tmp_path, monkeypatch, failing):
    path = tmp_path / "a.safetensors"
    filled(steps=2).save(path)
    before = path.read_bytes()

    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(StoreError, match="cannot be written: no space left on device"):
        filled().save(path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == [path.name]


def test_a_disk_that_fails_while_the_store_is_read_leaves_it_empty(tmp_path, monkeypatch):
    path, store = tmp_path / "a.safetensors", filled()
    store.save(path)

    def fail(source, found, tensors):
        for x in tensors.values():
            x.view(torch.uint8).fill_(1)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(file, "read_into", fail)
    with pytest.raises(StoreError, match="cannot be read: input/output error"):
        store.load(path)
    assert len(store) == 0 and not replay.sample(store.view(), random.key(0), 5).mask.any()
    made = transitions(2, 3, LANES, masked=0.0)
    store.add(made)
    assert len(store) == 3 * LANES
    seen = replay.sample(store.view(), random.key(0), 99).rewards.unique()
    assert torch.equal(seen, made.rewards.flatten())


def test_a_file_of_which_the_header_lies_allocates_nothing(tmp_path):
    """2⁶³ bytes of header, or of one column: refused under a limit of memory."""
    path = tmp_path / "a.safetensors"
    path.write_bytes((2**63).to_bytes(8, "little") + b"{")
    refused(filled(), path, "its header has 9223372036854775808 bytes")


MANY = """
import resource, sys
import torch
from optinfra import random, replay, tree
from optinfra.store import ReplayStore, StoreError
from optinfra.types import Action, Transitions

ROWS, LANES, STEPS, WIDTH, LIMIT = int(sys.argv[2]), 100, 500, 32, int(sys.argv[3])
row = Transitions(
    obs=(torch.zeros(WIDTH),), next_obs=(torch.zeros(WIDTH),),
    action=Action(torch.zeros(2), torch.zeros(0).long()), rewards=torch.zeros(()),
    terminated=torch.zeros(()).bool(), truncated=torch.zeros(()).bool(),
    mask=torch.ones(()).bool(),
)
made = tree.map(lambda x: x.expand(STEPS, LANES, *x.shape), row)
replay.sample(ReplayStore(row, capacity=9, lanes=1).view(), random.key(0), 8)  # torch wakes up
data = int(next(x for x in open("/proc/self/status") if x.startswith("VmData")).split()[1]) * 1024
# What is private and can be written to, all that is not a mapped file.
resource.setrlimit(resource.RLIMIT_DATA, (data + LIMIT,) * 2)
store = ReplayStore(row, capacity=ROWS, lanes=LANES, ram_limit=0, folder=sys.argv[1])
assert store.nbytes > LIMIT
for begin in range(0, ROWS, STEPS * LANES):
    number = (begin + torch.arange(STEPS * LANES)).reshape(STEPS, LANES)
    obs = (number[..., None].float().expand(-1, -1, WIDTH),)
    store.add(made._replace(rewards=number.float(), obs=obs))
assert len(store) == ROWS
def draw(store):
    key = random.key(1)
    return replay.sample(store.view(), key, 512), replay.sample_sequences(store.view(), key, 16, 64)
drawn = draw(store)
assert (drawn[0].obs[0] == drawn[0].rewards[:, None]).all() and len(drawn[0].rewards.unique()) > 500
store.save(sys.argv[1] + "/a.safetensors")
del store
store = ReplayStore(row, capacity=ROWS, lanes=LANES, ram_limit=0, folder=sys.argv[1])
store.load(sys.argv[1] + "/a.safetensors")
assert all(torch.equal(x, y) for x, y in zip(tree.leaves(draw(store)), tree.leaves(drawn)))
try:
    ReplayStore(row, capacity=ROWS, lanes=LANES)
except RuntimeError as error:
    assert "memory" in str(error)
else:
    raise SystemExit("the limit did not hold")
"""  # fmt: skip


def under_a_limit(folder, rows, limit):
    if not hasattr(resource, "RLIMIT_DATA") or not Path("/proc/self/status").exists():
        pytest.skip("Linux alone limits what is not mapped")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", MANY, str(folder), str(rows), str(limit)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_more_than_memory_holds_is_kept_in_files(tmp_path):
    under_a_limit(tmp_path, rows=500_000, limit=80 << 20)


@pytest.mark.thorough
def test_ten_million_transitions_are_kept_in_files(tmp_path):
    """2.8 GB of them, and 300 MB for all else, among it 16 bytes a row while loading."""
    under_a_limit(tmp_path, rows=10_000_000, limit=300 << 20)
