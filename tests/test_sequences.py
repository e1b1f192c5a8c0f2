"""Trajectories cut into sequences, against lists of Python numbers."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from optinfra import sequences, tree

BATCHES = st.sampled_from([(), (1,), (3,), (2, 2)])


@st.composite
def cuts(draw):
    """T, S and k."""
    length = draw(st.integers(1, 6))
    return draw(st.integers(1, 20)), length, draw(st.integers(0, length - 1))


def pieces(steps, length, burn_in):
    """The steps of each sequence: lists of Python numbers, with None where there is none.

    Pieces of new steps one after the other, each led by the last `burn_in` steps before it.
    """
    first = list(range(min(length, steps)))
    made, new = [first], length
    while new < steps:
        made.append(list(range(new - burn_in, min(new - burn_in + length, steps))))
        new += length - burn_in
    return [piece + [None] * (length - len(piece)) for piece in made]


@given(cuts())
def test_sequences_begin_where_those_of_a_plain_loop_do(cut):
    assert list(sequences.starts(*cut)) == [piece[0] for piece in pieces(*cut)]


@given(cuts(), BATCHES)
def test_sequences_hold_the_steps_of_a_plain_loop_and_zeros_beyond_the_end(cut, batch):
    steps, length, burn_in = cut
    axes = 1 + len(batch)
    numbers = 1 + torch.arange(steps * torch.Size(batch).numel()).reshape(steps, *batch)
    columns = {
        "number": numbers,
        "wide": numbers[..., None, None] * torch.tensor([1.0, -1.0])[:, None],
        "counts": numbers > 0,
    }
    got = sequences.cut(columns, length, burn_in, axes=axes)
    expected = [
        [0 if t is None else numbers[(t, *index)].item() for t in piece]
        for piece in pieces(steps, length, burn_in)
        for index in torch.ones(batch).nonzero().tolist()
    ]
    assert got["number"].tolist() == expected
    assert torch.equal(got["counts"], torch.tensor(expected) > 0)
    wide = torch.tensor(expected)[..., None, None] * torch.tensor([1.0, -1.0])[:, None]
    assert torch.equal(got["wide"], wide)
    assert {name: x.dtype for name, x in got.items()} == {
        name: x.dtype for name, x in columns.items()
    }


@given(cuts(), BATCHES)
def test_memories_are_those_before_the_first_step_of_each_sequence(cut, batch):
    steps, length, burn_in = cut
    axes = 1 + len(batch)
    number = torch.arange(steps * torch.Size(batch).numel()).reshape(steps, *batch)
    memories = (number[..., None].expand(*number.shape, 3), number[..., None] + 0.5)
    starts = sequences.at_starts(memories, length, burn_in, axes=axes)
    first = sequences.cut(number, length, burn_in, axes=axes)[:, 0]
    assert torch.equal(starts[0], first[:, None].expand(-1, 3))
    assert torch.equal(starts[1], first[:, None] + 0.5)


@given(cuts(), BATCHES)
def test_every_step_is_learnt_from_exactly_once_and_padding_comes_last(cut, batch):
    steps, length, burn_in = cut
    axes = 1 + len(batch)
    number = torch.arange(steps * torch.Size(batch).numel()).reshape(steps, *batch)
    got, mask = sequences.cut((number, torch.ones_like(number).bool()), length, burn_in, axes=axes)
    warmup = sequences.is_warmup(mask, steps, burn_in)
    learnt = got[mask & ~warmup]
    assert sorted(learnt.tolist()) == list(range(number.numel()))
    assert (mask[:, 1:] <= mask[:, :-1]).all() and mask[:, 0].all()
    assert not (warmup & ~mask).any(), "padding within the steps that warm up"
    of_one = [t < burn_in for t in range(length)]
    begins = got[:, 0] < torch.Size(batch).numel()  # trajectories' first steps
    for marked, beginning in zip(warmup, begins):
        assert marked.tolist() == ([False] * length if beginning else of_one)


def test_without_burn_in_nothing_warms_up():
    assert not sequences.is_warmup(torch.ones(6, 3), 9, 0).any()


def test_empty_trees_stay_empty():
    columns = {"x": torch.ones(3, 2), "nothing": ()}
    assert sequences.cut(columns, 2)["nothing"] == ()
    assert sequences.at_starts((), 2) == () and tree.leaves(sequences.at_starts((), 2)) == []


def test_numbers_out_of_range_are_named():
    for arguments, message in [
        ((0, 2), r"`steps` must lie in \[1, inf\), got 0"),
        ((3, 0), r"`length` must lie in \[1, inf\), got 0"),
        ((3, 2, -1), r"`burn_in` must lie in \[0, inf\), got -1"),
        ((3, 2, 2), r"`burn_in` must lie in \[0, 2\), got 2"),
        ((3, 2, 5), r"`burn_in` must lie in \[0, 2\), got 5"),
    ]:
        with pytest.raises(ValueError, match=message):
            sequences.starts(*arguments)
    for function in (sequences.cut, sequences.at_starts):
        with pytest.raises(ValueError, match="`burn_in` must lie in"):
            function(torch.ones(4, 2), 3, 3)
    with pytest.raises(TypeError, match=r"`length` must be an integer, got 2\.0"):
        sequences.starts(3, 2.0)
