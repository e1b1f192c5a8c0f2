"""Priorities: what is added comes first, what was learnt from goes by its error."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from optinfra import random, replay, tree
from optinfra.store import PrioritizedStore
from tests.plain_replay import BytesTouched, assert_same, one, stream, transitions

LANES = 2


def store_of(slots=20, **options):
    row = one(transitions(0, 1, 1))
    return PrioritizedStore(row, capacity=slots * LANES, lanes=LANES, **options)


class PlainPriorities:
    """One number for each position of a ring, written in a loop."""

    def __init__(self, slots, exponent, least_error):
        self.values, self.next, self.highest = [[0.0] * LANES for _ in range(slots)], 0, 1.0
        self.exponent, self.least_error = exponent, least_error

    def add(self, mask):
        for row in mask[-len(self.values) :]:
            self.values[self.next] = [self.highest if counts else 0.0 for counts in row]
            self.next = (self.next + 1) % len(self.values)

    def prioritize(self, positions, errors):
        new = {}
        for position, error in zip(positions, errors):
            if math.isfinite(error):
                priority = (abs(error) + self.least_error) ** self.exponent
            else:
                priority = self.highest
            new[position] = max(priority, new.get(position, 0.0))
        self.highest = max([self.highest, *new.values()])
        for position, priority in new.items():
            self.values[position // LANES][position % LANES] = priority


ERRORS = st.one_of(
    st.floats(-100, 100, width=32), st.sampled_from([0.0, math.nan, math.inf, -math.inf])
)


@given(
    st.integers(1, 40),
    st.lists(st.tuples(st.integers(1, 12), st.lists(ERRORS, max_size=6)), max_size=6),
    st.sampled_from([0.0, 0.6, 1.0]),
    st.sampled_from([1e-6, 0.1]),
    st.integers(0, 99),
)
def test_priorities_are_those_of_a_plain_loop(slots, turns, exponent, least_error, seed):
    store = store_of(slots, exponent=exponent, least_error=least_error)
    plain = PlainPriorities(slots, exponent, least_error)
    for turn, (steps, errors) in enumerate(turns):
        made = transitions(seed + turn, steps, LANES)
        store.add(made)
        plain.add(made.mask.tolist())
        if errors and len(store):
            drawn = replay.sample_prioritized(
                store.view(), store.levels, random.key(turn), len(errors),
                weight_exponent=torch.tensor(0.4),
            )  # fmt: skip
            store.prioritize(drawn.positions, torch.tensor(errors))
            plain.prioritize(drawn.positions.tolist(), errors)
    expected = torch.tensor(plain.values).flatten()
    assert torch.allclose(store.levels[0][: len(expected)], expected, rtol=1e-6)
    assert_same(store.levels, replay.priority_sums(store.levels[0][: len(expected)]))


def test_rows_that_hold_no_transition_have_no_priority_whatever_is_set():
    store = store_of()
    made = transitions(1, 5, LANES)
    store.add(made)
    every = torch.arange(5 * LANES)
    store.prioritize(every, torch.full((5 * LANES,), 3.0))
    assert torch.equal(store.levels[0][: 5 * LANES] > 0, made.mask.flatten())


def test_what_is_added_has_the_highest_priority_there_ever_was():
    store = store_of(4, exponent=1.0)
    made = transitions(1, 1, LANES, masked=0.0)
    store.add(made)
    assert store.levels[0][:4].tolist() == [1, 1, 0, 0]
    store.prioritize(torch.tensor([0, 1]), torch.tensor([-8.0, 2.0]))
    store.prioritize(torch.tensor([0, 1]), torch.tensor([0.5, 0.5]))
    store.add(made)
    assert torch.allclose(store.levels[0][:4], torch.tensor([0.5, 0.5, 8.0, 8.0]), rtol=1e-5)


@pytest.mark.parametrize("errors", [[5.0, 1.0, 2.0], [1.0, 5.0, 2.0]])
def test_the_greater_of_two_errors_of_one_row_counts(errors):
    store = store_of(exponent=1.0)
    store.add(transitions(1, 20, LANES, masked=0.0))
    store.prioritize(torch.tensor([3, 3, 6]), torch.tensor(errors))
    assert torch.allclose(store.levels[0][[3, 6]], torch.tensor([5.0, 2.0]), rtol=1e-5)


def test_priorities_come_back_with_the_highest_there_was(tmp_path):
    store, other = store_of(), store_of()
    made = transitions(1, 3, LANES, masked=0.0)
    store.add(made)
    store.prioritize(torch.arange(6), torch.full((6,), 50.0))
    store.prioritize(torch.arange(6), torch.arange(6.0))
    store.save(tmp_path / "a.safetensors")
    other.add(transitions(2, 20, LANES, masked=0.0))  # beyond what the file holds
    other.load(tmp_path / "a.safetensors")
    assert_same(other.levels, store.levels)
    for now in (store, other):
        now.add(made)
    assert_same(other.levels, store.levels)


def test_errors_beyond_measure_leave_the_sums_finite():
    store = store_of(exponent=1.0)
    store.add(transitions(1, 20, LANES, masked=0.0))
    store.prioritize(torch.arange(40), torch.full((40,), 3e38))
    assert all(level.isfinite().all() for level in store.levels)
    drawn = replay.sample_prioritized(
        store.view(), store.levels, random.key(0), 30, weight_exponent=torch.tensor(1.0)
    )
    assert drawn.transitions.mask.all() and drawn.weights.isfinite().all()


def test_large_errors_are_drawn_often_and_weigh_little():
    store = store_of(exponent=0.5, least_error=1e-9)
    store.add(transitions(1, 20, LANES, masked=0.0))
    errors = torch.ones(40)
    errors[7] = 10_000.0
    store.prioritize(torch.arange(40), errors)
    drawn = replay.sample_prioritized(
        store.view(), store.levels, random.key(0), 1390, weight_exponent=torch.tensor(1.0)
    )
    assert (drawn.positions == 7).sum().item() in (999, 1000, 1001)  # 100 of 139 parts, stratified
    assert torch.allclose(drawn.weights[drawn.positions == 7], torch.tensor(0.01))
    assert torch.allclose(drawn.weights[drawn.positions != 7], torch.tensor(1.0))


def test_a_stream_has_priorities_too():
    store = store_of(20)
    store.add(stream(1, 33))
    counts = store.view().transitions.mask.flatten()
    assert torch.equal(store.levels[0][:40] > 0, counts) and counts.sum() == len(store)


def test_setting_priorities_touches_few():
    def touched(slots, rows):
        store = store_of(slots)
        store.add(transitions(1, 50, LANES, masked=0.0))
        positions, errors = torch.arange(0, 2 * rows, 2), torch.ones(rows)
        with BytesTouched() as count:
            store.prioritize(positions, errors)
        with BytesTouched() as added:
            store.add(transitions(1, 8, LANES))
        return count.total, added.total

    little, much, many = touched(100, 4), touched(20_000, 4), touched(100, 40)
    assert all(large <= 2.5 * few for few, large in zip(little, much)), "two levels more"
    assert many[0] <= 10 * little[0]


def test_the_sums_take_a_few_bytes_a_row():
    store = store_of(10_000)
    plain = super(PrioritizedStore, store).nbytes
    assert 4.0 <= (store.nbytes - plain) / 20_000 < 4.4


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((torch.zeros(2, 2).long(), torch.ones(2, 2)), ValueError, r"`positions` must .* \[N\]"),
        ((torch.zeros(2).int(), torch.ones(2)), TypeError, "`positions` must .* torch.int64, got"),
        ((torch.zeros(2).long(), torch.ones(3)), ValueError, r"`errors` must .* \[N\] = \[2\]"),
        ((torch.tensor([40]), torch.ones(1)), (IndexError, RuntimeError), "out of range"),
        ((torch.tensor([-1]), torch.ones(1)), (IndexError, RuntimeError), "out of range"),
    ],
)  # fmt: skip
def test_positions_and_errors_that_cannot_be_are_refused(arguments, error, message):
    store = store_of()
    store.add(transitions(1, 20, LANES))
    before = tree.map(torch.clone, store.levels)
    with pytest.raises(error, match=message):
        store.prioritize(*arguments)
    assert_same(store.levels, before)


def test_no_positions_change_nothing():
    store = store_of()
    before = tree.map(torch.clone, store.levels)
    store.prioritize(torch.zeros(0).long(), torch.zeros(0))
    assert_same(store.levels, before)


def test_settings_out_of_range_are_named():
    for options, message in [
        ({"exponent": 1.5}, r"`exponent` must lie in \[0.0, 1.0\], got 1.5"),
        ({"least_error": 0.0}, r"`least_error` must lie in \(0.0, inf\), got 0.0"),
    ]:
        with pytest.raises(ValueError, match=message):
            store_of(**options)
