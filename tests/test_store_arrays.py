"""What a store is made in, and what it refuses: by name, and changed by nothing of it."""

import errno
import gc
import os

import pytest
import torch

from optinfra import tree
from optinfra.store import ReplayStore, StoreError
from optinfra.types import Memories
from tests.plain_replay import assert_same, memories, one, stream, transitions
from tests.test_store import LANES, small


@pytest.mark.parametrize("ram_limit", [None, 10**9, 0])
def test_what_fits_lies_in_memory_and_the_rest_in_files_without_a_name(tmp_path, ram_limit):
    folder = tmp_path / "made"
    made = transitions(1, 3, LANES)
    options = {} if ram_limit is None else {"ram_limit": ram_limit, "folder": folder}
    store = small(made, **options)
    store.add(made)
    files = mapped_files(folder)
    assert len(files) == (0 if ram_limit != 0 else sum(x.numel() > 0 for x in columns(store)))
    assert ram_limit == 0 or not folder.exists()
    assert not folder.exists() or os.listdir(folder) == []
    assert_same(tree.map(lambda x: x[:3], store.view().transitions), made)
    del store
    gc.collect()
    assert not mapped_files(folder)


def test_the_limit_is_that_of_all_arrays(tmp_path):
    size = small().nbytes
    small(ram_limit=size, folder=tmp_path / "a")
    small(ram_limit=size - 1, folder=tmp_path / "b")
    assert [x.name for x in tmp_path.iterdir()] == ["b"]


def test_a_folder_without_room_is_named_at_once(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"file: cannot hold \d+ bytes: ") as error:
        small(ram_limit=0, folder=tmp_path / "file")
    assert "\n" not in str(error.value)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StoreError, match=r": cannot hold \d+ bytes: no space left on device\.$"):
        small(ram_limit=0, folder=tmp_path)


def columns(store):
    shown = store.view()
    return tree.leaves((shown.transitions, shown.memory, shown.cuts, shown.order))


def mapped_files(folder):
    with open("/proc/self/maps") as maps:
        return [line for line in maps if str(folder) in line]


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"rewards": torch.zeros(3, LANES)}, TypeError,
         r"`transitions/rewards` must have dtype torch.float64, got torch.float32"),
        ({"rewards": torch.zeros(3, 5).double()}, ValueError,
         r"`transitions/rewards` must have shape \[T, B, …\] = \[3, 2\], got \[3, 5\]"),
        ({"terminated": torch.zeros(3, 5).bool()}, ValueError,
         r"`transitions/terminated` must have shape \[T, B, …\] = \[3, 2\], got \[3, 5\]"),
        ({"mask": torch.zeros(3, LANES)}, TypeError,
         "`transitions/mask` must have dtype torch.bool, got torch.float32"),
        ({"mask": torch.zeros(3, LANES, 1).bool()}, ValueError,
         r"`transitions.mask` must have shape \[T, B\] or \[N\], got \[3, 2, 1\]"),
        ({"mask": torch.tensor(True)}, ValueError, r"or \[N\], got \[\]"),
        ({"mask": torch.zeros(3).bool()}, ValueError,
         r"`transitions/.*` must have shape \[N, …\] = \[3, 3\], got \[3, 2, 3\]"),
        ({"action_mask": ()}, ValueError, "`transitions` must have the structure"),
        ({"group_rewards": torch.zeros(3, LANES)}, ValueError, "must have the structure"),
    ],
)  # fmt: skip
def test_what_is_of_another_kind_is_refused_and_changes_nothing(changed, error, message):
    made = transitions(1, 3, LANES)
    store = small(made)
    store.add(made)
    before = tree.map(torch.clone, store.view())
    with pytest.raises(error, match=message):
        store.add(made._replace(**changed))
    assert_same(store.view(), before)


def test_rollouts_of_other_lanes_memories_or_of_no_steps_are_refused():
    made, memory = transitions(1, 3, LANES), memories(1, 3, LANES)
    store = small(made, memory)
    for arguments, message in [
        ((transitions(1, 3, 3), memories(1, 3, 3)), r"\[T, B, …\] = \[3, 2, 3\], got \[3, 3, 3\]"),
        ((made, memories(1, 2, LANES)), r"`memory/actor` must have shape .* got \[2, 2, 3\]"),
        ((made, memory.actor), "must have the structure"),
        ((made, Memories(memory.actor, ())), "must have the structure"),
        ((transitions(1, 0, LANES),), "`transitions` must have T ≥ 1 rows, got 0"),
        ((stream(1, 0),), "`transitions` must have N ≥ 1 rows, got 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            store.add(*arguments)
    with pytest.raises(ValueError, match="must have the structure"):
        small(made).add(made, memory)
    assert len(store) == 0 and store.view().steps == 0


def test_a_store_that_cannot_be_is_refused():
    row = one(transitions(1, 1, 1))
    for options, error, message in [
        ({"lanes": 0}, ValueError, r"`lanes` must lie in \[1, inf\), got 0"),
        ({"capacity": 1}, ValueError, r"`capacity` must lie in \[2, inf\), got 1"),
        ({"capacity": 1e6}, TypeError, r"`capacity` must be an integer, got 1000000\.0"),
        ({"capacity": 2**31}, ValueError, "`capacity` must be at most 2³¹ − 1, got 2147483648"),
        ({"ram_limit": -1, "folder": "x"}, ValueError, r"`ram_limit` must lie in \[0, inf\)"),
        ({"ram_limit": 5}, ValueError, "`folder` must be given with `ram_limit`, got None"),
    ]:
        with pytest.raises(error, match=message):
            ReplayStore(row, **({"capacity": 8, "lanes": 2} | options))
    with pytest.raises(ValueError, match=r"`one.terminated` must have shape \[\], got \[1\]"):
        small(made=transitions(1, 1, 1, 1))
    with pytest.raises(TypeError, match=r"`one.truncated` must have dtype torch.bool"):
        ReplayStore(row._replace(truncated=torch.zeros(())), capacity=8, lanes=2)
