"""Buffers of ML-Agents' kind: what a plain list of rows would do, and files of them."""

import io
import sys
from enum import Enum

import h5py
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from optinfra.mlagents import (
    ActionTuple,
    AgentBuffer,
    AgentBufferField,
    AgentExperience,
    AgentStatus,
    BufferException,
    BufferKey,
    GroupObsUtil,
    ObservationKeyPrefix,
    ObsUtil,
    RewardSignalKeyPrefix,
    RewardSignalUtil,
    Trajectory,
)
from optinfra.mlagents.keys import key_of, text_of

SHAPES = [(), (2,), (1, 3)]
OBS = (ObservationKeyPrefix.OBSERVATION, 0)
REWARDS = RewardSignalUtil.rewards_key("extrinsic")
DONE, MASKS = BufferKey.DONE, BufferKey.MASKS
MATES = BufferKey.GROUP_CONTINUOUS_ACTION
PADDING = BufferKey.ACTION_MASK


class TheirPrefix(Enum):
    """Equal in value to ours, and none of ours, as ML-Agents' own enums are."""

    OBSERVATION = "obs"


class TheirKey(Enum):
    DONE = "done"


class Color(Enum):
    RED = "red"


def plain(shape):
    numbers = st.integers(-9, 9)
    size = int(np.prod(shape, dtype=int))
    dtypes = st.sampled_from([np.float32, np.float64, np.int64])
    return st.builds(
        lambda values, dtype: np.array(values, dtype).reshape(shape),
        st.lists(numbers, min_size=size, max_size=size),
        dtypes,
    )


def entries(shape, groups):
    return st.lists(plain(shape), max_size=3) if groups else plain(shape)


CHANGES = ["append", "extend", "set", "join", "slice", "empty"]
READINGS = ["put", "row", "array", "put some"]  # and changes of rows that there are
KINDS = st.tuples(st.sampled_from(SHAPES), st.booleans())


def assert_rows(field, rows):
    assert len(field) == len(rows)
    for mine, row in zip(field, rows):
        if isinstance(row, list):
            assert isinstance(mine, AgentBufferField)
            assert_rows(mine, row)
        else:
            np.testing.assert_array_equal(mine, row)


# --- a field --------------------------------------------------------------------------------


@given(st.data(), KINDS)
def test_a_field_does_what_a_list_does_and_what_was_read_stays(data, kind):
    one = entries(*kind)
    some = st.lists(one, max_size=4)
    read, begun = [], data.draw(some)
    pool = [(AgentBufferField(begun), list(begun))]
    for _ in range(data.draw(st.integers(0, 12))):
        field, rows = data.draw(st.sampled_from(pool))
        place = st.integers(-len(rows), len(rows) - 1)
        change = data.draw(st.sampled_from(CHANGES + READINGS * bool(rows)))
        cut = data.draw(st.slices(len(rows)))
        if change == "append":
            row = data.draw(one)
            field.append(row)
            rows.append(row)
        elif change == "extend":
            more = data.draw(some)
            field.extend(more)
            rows.extend(more)
        elif change == "join":
            other = data.draw(st.sampled_from(pool))
            more = list(other[1])
            field.extend(other[0])
            rows.extend(more)
        elif change == "set":
            other = data.draw(st.sampled_from(pool))
            rows[:] = list(other[1])
            field.set(other[0])
        elif change == "slice":
            pool.append((field[cut], rows[cut]))
        elif change == "empty":
            field.reset_field()
            rows.clear()
        elif change == "put":
            i, row = data.draw(place), data.draw(one)
            field[i] = row
            rows[i] = row
        elif change == "put some":
            more = data.draw(some)
            field[: len(rows) // 2] = more
            rows[: len(rows) // 2] = more
        elif change == "row":
            i = data.draw(place)
            read.append((field[i], rows[i]))
        else:
            read.append((np.asarray(field), field.to_ndarray()))
    for field, rows in pool:
        assert_rows(field, rows)
        assert field == rows and field == AgentBufferField(rows)
    for mine, row in read:
        assert_rows([mine], [row])


@given(
    KINDS.flatmap(lambda kind: st.lists(entries(*kind), max_size=9)),
    st.none() | st.integers(0, 5),
    st.integers(1, 4),
    st.sampled_from([0.0, 1.0, -2.0]),
)
@example([np.ones(2)] * 5, 2, 2, 0.0)  # a whole number of sequences: the end, not the beginning
@example([], None, 3, 0.0)
@example([[np.ones(2)], [], []], None, 2, 0.0)
def test_a_batch_is_the_last_sequences_or_all_rows_and_what_pads_them(rows, size, length, padding):
    field = AgentBufferField(rows, padding)
    sequences = [rows[i : i + length] for i in range(0, len(rows), length)]
    chosen = len(sequences) if size is None else size
    if chosen > len(sequences):
        with pytest.raises(BufferException, match=f"at most {len(sequences)} sequences .* {size}"):
            field.get_batch(size, length)
        return
    batch = field.get_batch(size, length)
    missing = chosen * length - len(rows)
    if missing <= 0:
        assert_rows(batch, rows[-missing:])
    else:
        nobody = [] if isinstance(rows[0], list) else rows[-1] * padding
        assert_rows(batch, rows + [nobody] * missing)
    assert_rows(field, rows)


@given(
    KINDS.flatmap(lambda kind: st.lists(entries(*kind), max_size=6)),
    st.none() | st.integers(0, 6),
    st.integers(1, 4),
)
@example([np.float32(i) for i in range(5)], 2, 2)
@example([np.float32(i) for i in range(5)], None, 3)
@example([np.float32(i) for i in range(3)], 0, 4)
@example([[np.ones(1)] * i for i in range(5)], 2, 2)
def test_a_batch_that_is_not_sequential_is_the_last_windows(rows, size, length):
    field = AgentBufferField(rows)
    windows = [rows[i : i + length] for i in range(len(rows) - length + 1)]
    chosen = len(windows) if size is None else size
    if chosen > len(windows):
        with pytest.raises(BufferException, match=f"at most {len(windows)} sequences .* {size}"):
            field.get_batch(size, length, sequential=False)
        return
    batch = field.get_batch(size, length, sequential=False)
    assert_rows(batch, [row for window in windows[len(windows) - chosen :] for row in window])


CHANGED = {
    "put": lambda field, row: field.__setitem__(1, row),
    "put some": lambda field, row: field.__setitem__(slice(0, 2), [row]),
    "append": lambda field, row: field.append(row),
    "extend": lambda field, row: field.extend([row, row]),
    "join": lambda field, row: field.extend(AgentBufferField([row])),
    "set": lambda field, row: field.set([row] * 3),
    "empty": lambda field, row: field.reset_field(),
}
SLICES = [slice(None), slice(1, None), slice(None, 3), slice(None, None, -1), slice(0, 4, 2)]


@pytest.mark.parametrize("change", CHANGED)
@pytest.mark.parametrize("groups", [False, True])
def test_a_slice_and_its_parent_go_their_own_ways(groups, change):
    rows = [[np.full(2, i)] * i if groups else np.full(2, i) for i in range(4)]
    row = [np.full(2, 9)] * 5 if groups else np.full(2, 9)
    for where in SLICES:
        for given_rows in (rows, rows if groups else np.array(rows)):  # with room behind, without
            parent, other = AgentBufferField(given_rows), AgentBufferField(given_rows)
            part, kept = parent[where], other[where]
            CHANGED[change](parent, row)
            assert_rows(part, rows[where])
            CHANGED[change](kept, row)
            assert_rows(other, rows)
            assert parent != rows


def test_a_batch_is_a_copy_whatever_its_rows_are():
    field = AgentBufferField([np.float32(i) for i in range(4)])
    for batch in (field.get_batch(), field.get_batch(2), field.get_batch(None, 3)):
        batch[0] = np.float32(9)
        assert_rows(field, range(4))


def test_a_batch_is_one_row_each_unless_told_and_a_copy():
    field = AgentBufferField(np.arange(4.0))
    batch = field.get_batch(training_length=None)
    assert_rows(batch, [0, 1, 2, 3])
    batch[0] = 9
    assert_rows(field.get_batch(2), [2, 3])
    assert field[0] == 0


def told_of(field):
    groups = field.group_counts.tolist() if field.contains_lists else None
    rows = field.to_ndarray()
    return rows.dtype, rows.shape, rows.tolist(), groups


@given(KINDS.flatmap(lambda kind: st.lists(st.lists(entries(*kind), max_size=4), max_size=4)))
@example([[[]], [[np.ones(2)]], [[]], [[np.ones(2)] * 3]])
@example([[[np.ones(2), np.ones(2)]], [[], []]])
def test_rows_given_at_once_are_those_that_were_given_one_by_one(parts):
    at_once, joined, single = AgentBufferField(), AgentBufferField(), AgentBufferField()
    for part in parts:
        at_once.extend(part)
        other = AgentBufferField(part)
        before = told_of(other)
        joined.extend(other)
        assert told_of(other) == before
        for row in part:
            single.append(row)
    assert told_of(at_once) == told_of(joined) == told_of(single)
    assert joined == single


@given(
    st.sampled_from(SHAPES).flatmap(lambda x: st.lists(entries(x, True), max_size=5)),
    st.sampled_from([0.0, 7.0, np.nan]),
)
def test_groups_are_padded_by_place(rows, pad):
    padded = AgentBufferField(rows).padded_to_batch(pad)
    most = max(map(len, rows), default=0)
    shape = next((mate.shape for row in rows for mate in row), ())
    assert isinstance(padded, list) and len(padded) == most
    for k, place in enumerate(padded):
        expected = [row[k] if k < len(row) else np.full(shape, pad) for row in rows]
        np.testing.assert_array_equal(place, np.array(expected, np.float32))
        assert place.dtype == np.float32


def test_places_are_as_many_as_the_largest_group_of_a_slice_has():
    groups = AgentBufferField([[np.ones(2)] * 3, [np.ones(2)], []])
    assert [len(groups[i:].padded_to_batch()) for i in range(4)] == [3, 1, 0, 0]
    assert groups.group_counts.tolist() == [3, 1, 0]
    assert groups[1:].group_counts.tolist() == [1, 0]


@given(st.sampled_from(SHAPES).flatmap(lambda x: st.lists(plain(x), min_size=1, max_size=5)))
def test_plain_rows_are_one_array(rows):
    field = AgentBufferField(rows)
    np.testing.assert_array_equal(field.to_ndarray(), np.array(rows))
    np.testing.assert_array_equal(np.asarray(field), np.array(rows))
    batch = field.padded_to_batch(5, np.float64)
    np.testing.assert_array_equal(batch, np.array(rows))
    assert batch.dtype == np.float64 and not field.contains_lists
    with pytest.raises(BufferException, match="a column of groups, got one of plain rows"):
        _ = field.group_counts


def test_arrays_that_a_field_gives_are_the_callers():
    field = AgentBufferField([1.0, 2.0])
    for array in (field.to_ndarray(), np.array(field), field.padded_to_batch()):
        array[:] = 9
    assert_rows(field, [1, 2])
    assert np.asarray(field, np.int64).dtype == np.int64
    assert np.asarray(field, copy=False).dtype == np.float64
    with pytest.raises(ValueError, match="must be float64 without a copy, got"):
        np.asarray(field, np.int64, copy=False)


def test_what_is_written_into_a_row_is_written_into_the_column():
    field = AgentBufferField([np.zeros(2), np.zeros(2)])
    field[1][0] = 5
    assert_rows(field, [np.zeros(2), np.array([5, 0])])


def test_rows_may_be_exchanged():
    field = AgentBufferField([np.zeros(2), np.ones(2)])
    field[0], field[1] = field[1], field[0]
    assert_rows(field, [np.ones(2), np.zeros(2)])


def test_a_field_of_an_array_leaves_the_array_alone():
    array = np.zeros((3, 2))
    field = AgentBufferField(array)
    field[0] = np.ones(2)
    field.append(np.ones(2))
    assert not array.any() and len(field) == 4


def test_contains_lists_tells_groups_from_plain_rows():
    assert AgentBufferField([[]]).contains_lists
    assert not AgentBufferField().contains_lists
    assert not AgentBufferField([1.0]).contains_lists
    groups = AgentBufferField([[np.ones(1)]])
    assert not groups[1:].contains_lists


def test_an_empty_field_takes_rows_of_any_kind():
    groups, rows = AgentBufferField([[np.ones(2)]]), AgentBufferField([np.ones(2)])
    for emptied in (groups[1:], rows[1:], groups.get_batch(0), AgentBufferField()):
        for row in ([np.ones(3)], 1.0, np.ones((2, 2))):
            field = emptied[:]
            field.append(row)
            assert_rows(field, [row])
            other = emptied[:]
            other.extend(AgentBufferField([row]))
            assert_rows(other, [row])
            assert other.contains_lists == isinstance(row, list)


def test_rows_keep_their_dtype_whoever_is_missing():
    field = AgentBufferField([[np.int64(2**60 + 1)], []])
    field.append([np.int64(3)])
    assert field.to_ndarray().dtype == np.int64 and int(field[0][0]) == 2**60 + 1


def test_a_number_too_fine_for_the_rows_before_is_kept():
    field = AgentBufferField([np.int64(1), np.int64(2)])
    field[0] = 0.5
    field.append(0.25)
    assert_rows(field, [0.5, 2, 0.25])


@pytest.mark.parametrize(
    ("rows", "row", "message"),
    [
        ([np.zeros(3)], np.zeros(2), r"shape \[3\], got \[2\]"),
        ([np.zeros(3)], 1.0, r"shape \[3\], got \[\]"),
        ([np.zeros(3)], [np.zeros(3)], "must not be a list"),
        ([[np.zeros(3)]], np.zeros(3), "must be a list, one entry per mate"),
        ([[np.zeros(3)]], [np.zeros(2)], r"mate must have shape \[3\], got \[2\]"),
        ([[], [np.zeros(3)]], [np.zeros(3), np.zeros(2)], r"shape \[3\], got \[2\]"),
    ],
)
def test_a_row_of_another_shape_is_refused_and_changes_nothing(rows, row, message):
    field = AgentBufferField([*rows, *rows], 1.0)
    with pytest.raises(ValueError, match=message):
        field.append(row, 0.5)
    with pytest.raises(ValueError, match=message):
        field.extend(AgentBufferField([row]))
    with pytest.raises(ValueError):
        field[0] = row
    assert_rows(field, [*rows, *rows])
    assert field.padding_value == 1.0


@pytest.mark.parametrize("i", [2, -3])
def test_a_row_that_is_not_there_is_an_error(i):
    field = AgentBufferField([1.0, 2.0])
    with pytest.raises(IndexError):
        field[i]
    with pytest.raises(IndexError):
        field[i] = 3.0
    assert_rows(field, [1, 2])


def test_the_padding_value_is_that_of_the_last_append_and_no_other_call_changes_it():
    field = AgentBufferField()
    field.append(1.0, padding_value=0.5)
    field.extend([2.0])
    field.extend(AgentBufferField([3.0]))
    field.set([1.0, 2.0])
    field[0] = 4.0
    assert field.padding_value == 0.5
    assert field[:].padding_value == 0.0  # as in ML-Agents
    field.append(1.0)
    assert field.padding_value == 0.0


def test_a_field_shows_its_rows_and_is_no_key():
    field = AgentBufferField([1, 2])
    assert "1" in repr(field) and "2" in repr(field)
    assert field != "12" and field != [1] and field != [1, 3] and field == [1, 2]
    assert AgentBufferField([[], [1.0]]) == [[], [1.0]] != AgentBufferField([[2.0], [1.0]])
    with pytest.raises(TypeError, match="unhashable"):
        hash(field)


def test_slices_of_a_growing_field_copy_nothing():
    field = AgentBufferField(range(200))
    field.append(1)
    array = np.asarray(field[:10])
    for _ in range(40):
        field.append(int(field[0]))
        assert np.shares_memory(np.asarray(field[:10]), array)


# --- a buffer -------------------------------------------------------------------------------


def filled(rows, seed=0, mates=True):
    """Rows that tell their number, in columns of every kind."""
    buffer = AgentBuffer(seed)
    for i in range(rows):
        buffer[OBS].append(np.full(2, i, np.float32))
        buffer[DONE].append(i)
        buffer[PADDING].append(np.array([i]), padding_value=1)
        if mates:
            buffer[MATES].append([np.full(3, i)] * (i % 3))
    return buffer


def numbers_of(buffer):
    """Which rows there are, the same in every column."""
    numbers = [int(x) for x in buffer[DONE]]
    assert_rows(buffer[OBS], [np.full(2, i) for i in numbers])
    assert_rows(buffer[PADDING], [np.array([i]) for i in numbers])
    if MATES in buffer:
        assert_rows(buffer[MATES], [[np.full(3, i)] * (i % 3) for i in numbers])
    return numbers


READS = {
    "len": len,
    "bool": bool,
    "list": list,
    "row": lambda field: field[0],
    "slice": lambda field: field[:],
    "array": np.asarray,
    "copy": np.array,
    "to_ndarray": lambda field: field.to_ndarray(),
    "get_batch": lambda field: field.get_batch(),
    "padded_to_batch": lambda field: field.padded_to_batch(),
    "padded_groups": lambda field: field.padded_groups(),
    "contains_lists": lambda field: field.contains_lists,
    "group_counts": lambda field: field.group_counts,
    "reset_field": lambda field: field.reset_field(),
    "equal": lambda field: field == [],
    "repr": repr,
    "put": lambda field: field.__setitem__(0, 1),
}


@pytest.mark.parametrize("read", READS)
def test_to_read_a_column_that_is_not_there_is_an_error_and_makes_none(read):
    buffer = filled(3)
    with pytest.raises(KeyError, match=r"no column masks; it has .*obs:0: 3"):
        READS[read](buffer[MASKS])
    for other in (AgentBufferField([1.0]), AgentBufferField()):
        with pytest.raises(KeyError, match="no column masks"):
            other.extend(buffer[MASKS])
        with pytest.raises(KeyError, match="no column masks"):
            other.set(buffer[MASKS])
    with pytest.raises(KeyError, match="no column masks"):
        buffer[REWARDS] = buffer[MASKS]
    with pytest.raises(KeyError, match="no column masks"):
        buffer[REWARDS].extend(buffer[MASKS])
    assert list(buffer) == [OBS, DONE, PADDING, MATES]


def test_to_append_begins_a_column():
    buffer = AgentBuffer()
    buffer[DONE].append(1.0, padding_value=0.5)
    buffer[MASKS].extend(np.zeros(3))
    buffer[REWARDS].set([1.0, 2.0])
    buffer[OBS].extend([])
    buffer[PADDING].extend(AgentBufferField([3.0]))
    columns = {DONE: [1], MASKS: [0, 0, 0], REWARDS: [1, 2], OBS: [], PADDING: [3]}
    assert list(buffer) == list(columns) and buffer[DONE].padding_value == 0.5
    for key, rows in columns.items():
        assert_rows(buffer[key], rows)


def test_a_column_asked_for_before_it_was_begun_is_that_column():
    buffer = AgentBuffer()
    column = buffer[DONE]
    column.append(1.0)
    buffer[DONE].append(2.0)
    column.append(3.0, padding_value=1)
    assert_rows(column, [1, 2, 3])
    assert len(column) == 3 and column == buffer[DONE] and not column.contains_lists
    assert_rows(column.get_batch(None, 2), [1, 2, 3, 3])
    buffer[MASKS] = column
    assert_rows(buffer[MASKS], [1, 2, 3])


def test_what_does_not_fit_begins_no_column():
    buffer = AgentBuffer()
    with pytest.raises(ValueError, match="must have shape"):
        buffer[DONE].extend([np.zeros(2), np.zeros(3)])
    with pytest.raises(ValueError, match="must have shape"):
        buffer[DONE].set([np.zeros(2), np.zeros(3)])
    assert len(buffer) == 0


def test_ml_agents_own_keys_find_the_same_columns():
    buffer = filled(2)
    assert buffer[TheirKey.DONE] is buffer[DONE]
    assert buffer[TheirPrefix.OBSERVATION, 0] is buffer[OBS]
    assert (TheirPrefix.OBSERVATION, 0) in buffer and TheirKey.DONE in buffer
    buffer[TheirPrefix.OBSERVATION, 1].append(np.zeros(2))
    assert (ObservationKeyPrefix.OBSERVATION, 1) in list(buffer)
    del buffer[TheirKey.DONE]
    assert DONE not in buffer and buffer.get(TheirKey.DONE) is None


@pytest.mark.parametrize("key", ["done", 3, (1, 2), ("obs", 0), (OBS[0], 0, 1), None])
def test_what_is_no_key_is_refused(key):
    buffer = AgentBuffer()
    assert key not in buffer
    with pytest.raises(KeyError, match="expected a BufferKey or a pair"):
        buffer[key]
    with pytest.raises(KeyError, match="expected a BufferKey or a pair"):
        buffer[key] = [1.0]
    assert len(buffer) == 0


@pytest.mark.parametrize("key", [Color.RED, (DONE, 1), (OBS[0], -1), (OBS[0], "x"), OBS[0]])
def test_no_column_is_begun_of_a_name_that_files_do_not_have(key):
    buffer = AgentBuffer()
    with pytest.raises(KeyError, match="must be the name of a column"):
        buffer[key] = [1.0]
    with pytest.raises(KeyError, match="must be the name of a column"):
        buffer[key].append(1.0)
    assert list(buffer) == []


def test_keys_are_read_as_they_are_written():
    signals = [(prefix, "a:b") for prefix in RewardSignalKeyPrefix]
    observations = [(prefix, 12) for prefix in ObservationKeyPrefix]
    for key in [*BufferKey, *signals, *observations]:
        assert key_of(text_of(key)) == key
    assert text_of(BufferKey.GROUP_DISCRETE_ACTION) == "group_discrete_aaction"
    for text in ("obs", "obs:", "obs:x", "rewards:", "rewards", "done:1", "", "colour"):
        with pytest.raises(ValueError, match="must be the name of a column"):
            key_of(text)


def test_each_kind_of_value_of_a_signal_has_a_column():
    one = "extrinsic"
    keys = [
        RewardSignalUtil.rewards_key(one), RewardSignalUtil.value_estimates_key(one),
        RewardSignalUtil.returns_key(one), RewardSignalUtil.advantage_key(one),
        RewardSignalUtil.baseline_estimates_key(one),
    ]  # fmt: skip
    names = ("rewards", "value_estimates", "returns", "advantage", "baselines")
    assert [text_of(key) for key in keys] == [f"{name}:extrinsic" for name in names]


def test_a_buffer_is_a_mapping():
    buffer = filled(2)
    assert buffer.get(MASKS) is None and buffer.get(MASKS, 5) == 5
    assert buffer.get(DONE) is buffer[DONE]
    with pytest.raises(KeyError):
        buffer.pop(MASKS)
    assert buffer.pop(MASKS, None) is None
    assert_rows(buffer.setdefault(MASKS, [1.0, 0.0]), [1, 0])
    assert_rows(buffer.setdefault(MASKS, [2.0]), [1, 0])
    assert_rows(buffer.pop(MASKS, None), [1, 0])
    assert MASKS not in buffer
    with pytest.raises(KeyError):
        del buffer[MASKS]
    buffer.update({MASKS: np.ones(2)})
    assert isinstance(buffer[MASKS], AgentBufferField)
    assert "obs:0: 2" in repr(buffer)
    with pytest.raises(KeyError):
        buffer.get("done")


def test_experiences_are_the_rows_of_the_first_column():
    assert AgentBuffer().num_experiences == 0
    buffer = AgentBuffer()
    buffer[DONE] = [1.0, 2.0]
    buffer[MASKS] = [1.0]
    assert buffer.num_experiences == 2


def test_check_length_tells_whether_columns_are_there_and_of_one_length():
    buffer = filled(3)
    assert buffer.check_length([]) and buffer.check_length([MASKS])
    assert buffer.check_length([DONE, OBS, MATES])
    assert not buffer.check_length([DONE, MASKS])
    assert not buffer.check_length([REWARDS, MASKS])
    buffer[MASKS] = [1.0]
    assert not buffer.check_length([DONE, OBS, MASKS])
    assert MASKS in buffer


def test_reset_empties_columns_and_keeps_them():
    buffer = filled(3)
    buffer.reset_agent()
    assert list(buffer) == [OBS, DONE, PADDING, MATES]
    assert [len(field) for field in buffer.values()] == [0] * 4
    assert buffer[PADDING].padding_value == 1


@given(st.integers(0, 30), st.integers(1, 7), st.integers(0, 99))
@example(30, 4, 0)
def test_shuffled_sequences_stay_together_and_none_is_lost(rows, length, seed):
    buffer = filled(rows, seed)
    if not rows:
        with pytest.raises(BufferException, match="columns of one length to shuffle"):
            AgentBuffer().shuffle(length)
        return
    held = buffer[DONE]
    buffer.shuffle(length)
    numbers = numbers_of(buffer)
    blocks = [numbers[i : i + length] for i in range(0, len(numbers), length)]
    assert all(block == list(range(block[0], block[0] + length)) for block in blocks)
    assert sorted(numbers) == list(range(rows - rows % length))
    assert buffer[DONE] is held and buffer[PADDING].padding_value == 1


def test_every_order_of_sequences_comes():
    seen = set()
    for seed in range(60):
        buffer = filled(7, seed, mates=False)
        buffer.shuffle(2)
        seen.add(tuple(numbers_of(buffer)[::2]))
    assert len(seen) == 6


def test_one_seed_draws_one_order_and_leaves_numpys_own_generator_alone():
    before = np.random.get_state()
    buffers = [filled(20, seed) for seed in (1, 1, 2)]
    for buffer in buffers:
        buffer.shuffle(2)
        buffer[REWARDS] = buffer.sample_mini_batch(20)[DONE]
    orders = [buffer[DONE] for buffer in buffers]
    drawn = [buffer[REWARDS] for buffer in buffers]
    assert orders[0] == orders[1] != orders[2] and drawn[0] == drawn[1] != drawn[2]
    unlike = [AgentBuffer() for _ in range(2)]
    for buffer in unlike:
        buffer[DONE] = np.arange(50)
        buffer.shuffle(1)
    assert unlike[0][DONE] != unlike[1][DONE]
    after = np.random.get_state()
    assert all(np.array_equal(a, b) for a, b in zip(before, after))


def test_columns_may_be_shuffled_alone_and_only_where_their_lengths_agree():
    buffer = filled(8)
    buffer[MASKS] = [1.0]
    with pytest.raises(BufferException, match="one length to shuffle"):
        buffer.shuffle(2)
    with pytest.raises(BufferException, match="one length to shuffle"):
        buffer.shuffle(2, [DONE, MASKS])
    with pytest.raises(BufferException, match="one length to shuffle"):
        buffer.shuffle(2, [])
    with pytest.raises(KeyError, match="no column"):
        buffer.shuffle(2, [REWARDS])
    assert numbers_of(buffer) == list(range(8))
    buffer.shuffle(2, [DONE, OBS])
    assert_rows(buffer[OBS], [np.full(2, i) for i in buffer[DONE]])
    assert_rows(buffer[PADDING], [np.array([i]) for i in range(8)])


@given(st.integers(0, 9), st.integers(-9, 12), st.integers(-9, 12))
def test_a_mini_batch_is_a_slice_of_every_column(rows, start, end):
    buffer = filled(rows)
    batch = buffer.make_mini_batch(start, end)
    expected = list(range(rows))[start:end]
    assert list(batch) == list(buffer)
    if rows:
        assert numbers_of(batch) == expected
        buffer[DONE].append(rows)
        buffer[DONE][0] = 77
        batch[PADDING].append(np.array([1]))
        assert_rows(batch[DONE], expected)
        assert len(buffer[PADDING]) == rows


@given(st.integers(1, 20), st.integers(0, 20), st.integers(1, 5), st.integers(0, 99))
def test_drawn_sequences_are_whole_and_aligned(rows, size, length, seed):
    buffer = filled(rows, seed)
    if rows < length:
        with pytest.raises(ValueError, match=f"at most {rows}, the rows there are, got {length}"):
            buffer.sample_mini_batch(size, length)
        return
    numbers = numbers_of(buffer.sample_mini_batch(size, length))
    assert len(numbers) == size - size % length
    for i in range(0, len(numbers), length):
        assert numbers[i] % length == 0 and numbers[i] + length <= rows
        assert numbers[i : i + length] == list(range(numbers[i], numbers[i] + length))
    assert numbers_of(buffer) == list(range(rows))


def test_sequences_are_drawn_evenly_and_again():
    numbers = numbers_of(filled(7, mates=False).sample_mini_batch(6000, 2))[::2]
    counts = np.bincount(numbers, minlength=7)
    assert counts[1::2].sum() == 0 and counts[6] == 0  # the seventh row is in no whole sequence
    assert np.abs(counts[:6:2] - 1000).max() < 5 * (1000 * 2 / 3) ** 0.5


@given(st.integers(0, 20), st.integers(0, 20), st.integers(1, 5))
def test_truncation_keeps_the_newest_whole_sequences(rows, most, length):
    buffer = filled(rows)
    if not rows:
        return
    held = buffer[PADDING]
    buffer.truncate(most, length)
    keep = most - most % length
    assert numbers_of(buffer) == list(range(rows))[max(rows - keep, 0) :]
    assert buffer[PADDING] is held and held.padding_value == 1
    buffer[DONE].append(5)
    assert int(buffer[DONE][-1]) == 5


def test_truncation_keeps_what_is_short_already():
    buffer = filled(5)
    buffer[MASKS] = [1.0, 2.0]
    buffer.truncate(3)
    assert_rows(buffer[MASKS], [1, 2])


@given(st.integers(1, 9), st.none() | st.integers(1, 4), st.none() | st.integers(1, 3))
@example(3, None, None)
@example(4, 2, 2)
def test_appended_sequences_are_batches_of_every_column(rows, size, length):
    buffer, target = filled(rows), filled(2)
    most = -(-rows // (length or 1))
    if size is not None and size > most:
        with pytest.raises(BufferException, match=f"at most {most} sequences"):
            buffer.resequence_and_append(target, None, size, length)
        assert numbers_of(target) == [0, 1]
        return
    for _ in range(2):
        buffer.resequence_and_append(target, batch_size=size, training_length=length)
    for key in buffer:
        expected = list(buffer[key].get_batch(size, length))
        assert target[key][2:] == [*expected, *expected]
    fresh = AgentBuffer()
    buffer.resequence_and_append(fresh, [DONE, OBS], size, length)
    assert list(fresh) == [DONE, OBS]
    assert fresh[DONE] == buffer[DONE].get_batch(size, length)
    fresh[DONE].append(5)
    fresh[OBS][0] = np.full(2, 7)
    assert numbers_of(buffer) == list(range(rows))


def test_only_columns_of_one_length_are_appended():
    buffer, target = filled(3), AgentBuffer()
    buffer[MASKS] = [1.0]
    with pytest.raises(BufferException, match="one length to append"):
        buffer.resequence_and_append(target)
    with pytest.raises(KeyError, match="no column"):
        buffer.resequence_and_append(target, [REWARDS])
    assert len(target) == 0
    buffer.resequence_and_append(target, [DONE, OBS])
    assert target.num_experiences == 3


def test_a_batch_and_what_it_was_taken_from_change_apart():
    buffer, target = filled(3), AgentBuffer()
    batch = buffer[OBS].get_batch(2)
    buffer.resequence_and_append(target)
    buffer[OBS][2] = np.full(2, 9)
    buffer[DONE].append(5)
    assert_rows(batch, [np.full(2, 1), np.full(2, 2)])
    assert numbers_of(target) == [0, 1, 2]
    assert buffer[PADDING].get_batch(1, 2).padding_value == 1


def test_another_column_leaves_the_buffer_it_was_given_beside_as_it_was():
    buffer = filled(3)
    other = buffer.with_column(DONE, [7.0, 8.0, 9.0])
    assert list(other[DONE]) == [7, 8, 9] and other[OBS] == buffer[OBS]
    assert numbers_of(buffer) == [0, 1, 2]
    assert REWARDS in buffer.with_column(REWARDS, [0.0] * 3) and REWARDS not in buffer


# --- files ----------------------------------------------------------------------------------


def written(buffer):
    file = io.BytesIO()
    buffer.save_to_file(file)
    file.seek(0)
    return file


def of_file(file):
    buffer = AgentBuffer()
    buffer[REWARDS].append(1.0)  # makes room
    buffer.load_from_file(file)
    return buffer


@given(st.integers(0, 5), st.sampled_from(SHAPES), st.integers(0, 99))
def test_a_file_gives_back_what_was_written_into_it(rows, shape, seed):
    draws = np.random.default_rng(seed)
    buffer = AgentBuffer()
    buffer[OBS] = draws.normal(size=(rows, *shape)).astype(np.float32)
    buffer[REWARDS] = [float(i) for i in range(rows)]
    buffer[BufferKey.DISCRETE_ACTION] = np.zeros((rows, 0), np.int64)
    buffer[MATES] = [[np.full(3, i)] * 2 for i in range(rows)]
    buffer[BufferKey.GROUP_DISCRETE_ACTION] = [[] for i in range(rows)]
    read = of_file(written(buffer))
    assert set(read) == set(buffer)
    for key in buffer:
        assert len(read[key]) == rows
        assert read[key].to_ndarray().dtype == np.float32
        np.testing.assert_array_equal(read[key], np.asarray(buffer[key], np.float32))
    read[REWARDS].append(1.0)
    assert len(read[REWARDS]) == rows + 1


def test_groups_of_different_sizes_are_not_written():
    buffer, file = filled(3), io.BytesIO(b"as it was")
    with pytest.raises(BufferException, match=r"groups of one size .*group_continuous_action"):
        buffer.save_to_file(file)
    assert file.getvalue() == b"as it was"


def test_a_file_of_another_spelling_is_read_under_the_same_key():
    file = io.BytesIO()
    with h5py.File(file, "w") as one:
        one.create_dataset("group_discrete_action", data=np.ones((2, 3)))
    buffer = of_file(file)
    assert list(buffer) == [BufferKey.GROUP_DISCRETE_ACTION]
    assert len(buffer[BufferKey.GROUP_DISCRETE_ACTION]) == 2


def scalar(file):
    file.create_dataset("done", data=1.0)


def nothing(file):
    file.create_dataset("done", data=h5py.Empty("f"))


def words(file):
    file.create_dataset("done", data=["a", "b"])


def compound(file):
    file.create_dataset("done", data=np.zeros(2, [("a", "f4"), ("b", "f4")]))


def folder(file):
    file.create_group("done")


def unknown(file):
    file.create_dataset("colour", data=[1.0])


def endless(file):
    file.create_dataset("done", shape=(10**9,), dtype="f", chunks=(10**6,))


def wide(file):
    file.create_dataset("done", shape=(10**7, 10**6), dtype="f", chunks=(10**3, 10**3))


@pytest.mark.parametrize(
    "damage", [scalar, nothing, words, compound, folder, unknown, endless, wide]
)
def test_a_file_of_something_else_is_refused_and_changes_nothing(damage):
    file, buffer = io.BytesIO(), filled(2)
    with h5py.File(file, "w") as one:
        one.create_dataset("masks", data=[1.0])
        damage(one)
    with pytest.raises(BufferException, match="expected an HDF5 file of columns: "):
        buffer.load_from_file(file)
    assert list(buffer) == [OBS, DONE, PADDING, MATES] and numbers_of(buffer) == [0, 1]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_a_file_that_was_cut_is_refused(share):
    whole = written(filled(40, mates=False)).getvalue()
    with pytest.raises(BufferException, match="expected an HDF5 file of columns: "):
        of_file(io.BytesIO(whole[: int(share * len(whole))]))


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=8))
def test_a_damaged_file_is_read_or_refused(changes):
    damaged = bytearray(written(filled(3, mates=False)).getvalue())
    for place, byte in changes:
        damaged[place % len(damaged)] = byte
    try:
        of_file(io.BytesIO(bytes(damaged)))
    except BufferException as error:
        assert "expected an HDF5 file of columns" in str(error)


def test_files_need_h5py(monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'optinfra\[mlagents\]'"):
        AgentBuffer().save_to_file(io.BytesIO())


# --- a trajectory ---------------------------------------------------------------------------


def status(i, mate):
    action = ActionTuple(np.full(2, i + 0.5), np.array([mate, i]))
    return AgentStatus([np.full(3, 10 * i + mate)], i + mate / 8, action, mate == 1 and i == 2)


def step(i, **changes):
    one = AgentExperience(
        obs=[np.full(3, i), np.full((1, 2), -i)],
        reward=float(i),
        done=i == 2,
        action=ActionTuple(np.full(2, i / 4), np.array([i, 1])),
        action_probs=ActionTuple(np.full(2, -i), np.array([-0.5, -i])),
        action_mask=[np.array([False, i == 1, False]), np.array([i == 0, False])],
        prev_action=np.array([i - 1, 0]),
        interrupted=False,
        memory=np.full(4, i),
        group_status=[
            status(i, mate)._replace(obs=[*status(i, mate).obs, np.zeros((1, 2))])
            for mate in range(i)
        ],
        group_reward=-float(i),
    )
    return one._replace(**changes)


def trajectory(*steps):
    following = [np.full(3, 7), np.full((1, 2), 8)]
    return Trajectory(list(steps), following, [following, following, following], "a", "b")


def test_a_trajectory_is_a_row_per_step():
    steps = [step(0), step(1), step(2)]
    buffer = trajectory(*steps).to_agentbuffer()
    mates = [[status(i, mate) for mate in range(i)] for i in range(3)]
    last = [np.full(3, 7)] * 3
    expected = {
        BufferKey.MASKS: [1, 1, 1],
        DONE: [False, False, True],
        BufferKey.ENVIRONMENT_REWARDS: [0, 1, 2],
        BufferKey.GROUP_REWARD: [0, -1, -2],
        BufferKey.CONTINUOUS_ACTION: [np.full(2, i / 4) for i in range(3)],
        BufferKey.DISCRETE_ACTION: [np.array([i, 1]) for i in range(3)],
        BufferKey.NEXT_CONT_ACTION: [np.full(2, 0.25), np.full(2, 0.5), np.zeros(2)],
        BufferKey.NEXT_DISC_ACTION: [np.array([1, 1]), np.array([2, 1]), np.zeros(2)],
        BufferKey.CONTINUOUS_LOG_PROBS: [np.full(2, -i) for i in range(3)],
        BufferKey.DISCRETE_LOG_PROBS: [np.array([-0.5, -i]) for i in range(3)],
        BufferKey.ACTION_MASK: np.array([[1, 1, 1, 0, 1], [1, 0, 1, 1, 1], [1, 1, 1, 1, 1]]),
        BufferKey.PREV_ACTION: [np.array([i - 1, 0]) for i in range(3)],
        BufferKey.MEMORY: [np.full(4, i) for i in range(3)],
        BufferKey.GROUP_CONTINUOUS_ACTION: [[m.action.continuous for m in x] for x in mates],
        BufferKey.GROUP_DISCRETE_ACTION: [[m.action.discrete for m in x] for x in mates],
        BufferKey.GROUP_NEXT_CONT_ACTION: [
            [m.action.continuous for m in x] for x in (mates[1], mates[2], mates[2])
        ],
        BufferKey.GROUP_NEXT_DISC_ACTION: [
            [m.action.discrete for m in x] for x in (mates[1], mates[2], mates[2])
        ],
        BufferKey.GROUPMATE_REWARDS: [[], [1.0], [2.0, 2.125]],
        BufferKey.GROUP_DONES: [[], [False], [False, True]],
        ObsUtil.get_name_at(0): [np.full(3, i) for i in range(3)],
        ObsUtil.get_name_at(1): [np.full((1, 2), -i) for i in range(3)],
        ObsUtil.get_name_at_next(0): [np.full(3, i) for i in (1, 2, 7)],
        ObsUtil.get_name_at_next(1): [np.full((1, 2), i) for i in (-1, -2, 8)],
        GroupObsUtil.get_name_at(0): [[m.obs[0] for m in x] for x in mates],
        GroupObsUtil.get_name_at(1): [[np.zeros((1, 2)) for m in x] for x in mates],
        GroupObsUtil.get_name_at_next(0): [[m.obs[0] for m in mates[1]],
                                           [m.obs[0] for m in mates[2]], last],
        GroupObsUtil.get_name_at_next(1): [[np.zeros((1, 2))], [np.zeros((1, 2))] * 2,
                                           [np.full((1, 2), 8)] * 3],
    }  # fmt: skip
    assert set(buffer) == set(expected)
    for key, rows in expected.items():
        assert_rows(buffer[key], rows)


def test_what_pads_a_trajectory_is_masked_and_its_choices_stay_allowed():
    target = AgentBuffer()
    trajectory(step(0), step(1)).to_agentbuffer().resequence_and_append(target, None, None, 3)
    assert_rows(target[BufferKey.MASKS], [1, 1, 0])
    assert_rows(target[BufferKey.ACTION_MASK][1:], [np.array([1, 0, 1, 1, 1])] * 2)
    assert_rows(target[OBS][2:], [np.zeros(3)])
    assert_rows(target[BufferKey.GROUPMATE_REWARDS], [[], [1.0], []])


def test_a_trajectory_tells_how_it_ended():
    one = trajectory(step(0), step(1))
    assert not one.done_reached and not one.interrupted and not one.all_group_dones_reached
    assert trajectory(step(1), step(0)).all_group_dones_reached  # of nobody
    assert trajectory(step(1), step(2)).done_reached
    assert trajectory(step(2), step(1, interrupted=True)).interrupted


def test_memories_are_a_column_only_where_there_are_any():
    buffer = trajectory(step(0, memory=None)).to_agentbuffer()
    assert BufferKey.MEMORY not in buffer


def test_without_a_mask_there_is_none_of_branches_and_no_guess_at_one():
    with pytest.raises(ValueError, match="`action_mask` must be given for 2 branches"):
        trajectory(step(0), step(1, action_mask=None)).to_agentbuffer()
    action = ActionTuple(np.zeros(2), np.zeros(0))
    buffer = trajectory(step(0, action_mask=None, action=action)).to_agentbuffer()
    assert buffer[BufferKey.ACTION_MASK].to_ndarray().shape == (1, 0)
    told = trajectory(step(0), step(1, action_mask=None)).to_agentbuffer((3, 2))
    assert_rows(told[BufferKey.ACTION_MASK], [np.array([1, 1, 1, 0, 1]), np.ones(5)])


def test_a_trajectory_alone_can_be_written():
    buffer = trajectory(step(0), step(1, group_status=[])).to_agentbuffer()
    for i in range(2):
        buffer[GroupObsUtil.get_name_at_next(i)] = [[], []]
    read = of_file(written(buffer))
    assert set(read) == set(buffer)


def test_observations_are_found_by_number_and_mates_by_place():
    buffer = trajectory(step(0), step(1), step(2)).to_agentbuffer()
    assert [x.to_ndarray().shape for x in ObsUtil.from_buffer(buffer, 2)] == [(3, 3), (3, 1, 2)]
    following = ObsUtil.from_buffer_next(buffer, 2)
    np.testing.assert_array_equal(following[1].to_ndarray()[:, 0, 0], [-1, -2, 8])
    places = GroupObsUtil.from_buffer(buffer, 2)
    assert [[x.shape for x in place] for place in places] == [[(3, 3), (3, 1, 2)]] * 2
    np.testing.assert_array_equal(places[0][0][:, 0], np.float32([np.nan, 10, 20]))
    np.testing.assert_array_equal(places[1][0][:, 0], np.float32([np.nan, np.nan, 21]))
    later = GroupObsUtil.from_buffer_next(buffer, 2)
    np.testing.assert_array_equal(later[2][0][:, 0], np.float32([np.nan, np.nan, 7]))
    alone = trajectory(step(0)).to_agentbuffer()
    assert GroupObsUtil.from_buffer(alone, 2) == []
