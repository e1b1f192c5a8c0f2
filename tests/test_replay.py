"""Sampling from replay: what is drawn, how often, and what it costs."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.func import vmap

from optinfra import random, replay, tree
from optinfra.store import ReplayStore
from tests import plain_replay
from tests.cases.replay import levels, view
from tests.plain_replay import BytesTouched, PlainReplay, assert_same, one, transitions

SEEDS = st.integers(0, 2**20)
# Each chi-square test fails with this chance by itself, were its key drawn anew: half of it where
# the draws are too uneven, half where they are too even. The keys are fixed.
ERROR_RATE = 1e-6


def store(slots, lanes, made, memory=(), **options):
    return ReplayStore(
        one(made), one(memory) if memory else (), capacity=slots * lanes, lanes=lanes, **options
    )


def chi_square_chance(counted, expected):
    """Chance of a statistic at least as large, Σ (n − e)² / e, with one bin less of freedom."""
    statistic = ((counted - expected) ** 2 / expected).sum()
    return torch.special.gammaincc(
        torch.tensor((len(counted) - 1) / 2.0, dtype=torch.float64), statistic.double() / 2
    ).item()


def filled(slots=6, lanes=3, steps=11, **flags):
    """A store that has wrapped around, what is in it, and the list that knows."""
    made, memory = transitions(1, steps, lanes, **flags), plain_replay.memories(1, steps, lanes)
    ours, plain = store(slots, lanes, made, memory), PlainReplay(slots, lanes, one(memory))
    for t in range(0, steps, 4):
        piece = [tree.take(x, slice(t, t + 4)) for x in (made, memory)]
        ours.add(*piece)
        plain.add(*piece)
    return ours, plain


def test_transitions_are_drawn_equally_often():
    ours, plain = filled()
    expected = [int(plain.steps[t][b].content.rewards) for t, b in plain.places()]
    assert 10 < len(expected) < 18, "some are masked"
    drawn = replay.sample(ours.view(), random.key(5), 40_000).rewards.tolist()
    counted = torch.tensor([drawn.count(number) for number in expected])
    assert counted.sum() == 40_000, "nothing else is drawn"
    chance = chi_square_chance(counted, torch.tensor(40_000 / len(expected)))
    assert ERROR_RATE / 2 < chance < 1 - ERROR_RATE / 2


def test_sequences_begin_equally_often_at_every_row_that_counts():
    ours, plain = filled()
    expected = [int(plain.steps[t][b].content.rewards) for t, b in plain.places()]
    drawn = replay.sample_sequences(ours.view(), random.key(6), 20_000, 3)
    first = drawn.transitions.rewards[:, 0].tolist()
    counted = torch.tensor([first.count(number) for number in expected])
    assert counted.sum() == 20_000
    chance = chi_square_chance(counted, torch.tensor(20_000 / len(expected)))
    assert ERROR_RATE / 2 < chance < 1 - ERROR_RATE / 2


def test_rows_are_drawn_in_proportion_to_their_priorities():
    shown, rows = view(0), 10_000
    sums = levels(0)

    def one_row(key):  # of many in one call, each has a part of the range to itself
        beta = torch.tensor(1.0)
        return replay.sample_prioritized(shown, sums, key, 1, weight_exponent=beta).positions[0]

    drawn = vmap(one_row)(random.split(random.key(7), rows))
    counted = drawn.bincount(minlength=10)
    expected = rows * sums[0][:10] / sums[0].sum()
    chance = chi_square_chance(counted, expected)
    assert ERROR_RATE / 2 < chance < 1 - ERROR_RATE / 2


def test_one_draw_of_integers_decides(monkeypatch):
    ours, plain = filled()
    calls = []

    def recorded(key, shape, low, high):
        calls.append((shape, low, int(high)))
        return torch.arange(shape[0])

    monkeypatch.setattr(random, "randint", recorded)
    rows = len(plain.places())
    drawn = replay.sample(ours.view(), random.key(0), rows)
    assert_same(drawn, tree.stack([plain.steps[t][b].content for t, b in plain.places()]))
    replay.sample_sequences(ours.view(), random.key(0), 2, 3)
    assert calls == [((rows,), 0, rows), ((2,), 0, rows)]


@pytest.mark.parametrize(("added", "slots"), [(0, 3), (3, 3), (0, 200)])
def test_what_is_drawn_where_nothing_counts_is_masked(added, slots):
    made = transitions(3, 4, 2, masked=0.0)
    ours = store(slots, 2, made)
    if added:
        ours.add(made)
        ours.add(made._replace(mask=torch.zeros_like(made.mask)))
    assert len(ours) == 0
    beta = torch.tensor(0.5)
    sums = replay.priority_sums(torch.zeros(2 * slots))
    drawn = [
        replay.sample(ours.view(), random.key(1), 5),
        replay.sample_sequences(ours.view(), random.key(1), 5, 4).transitions,
        (
            none := replay.sample_prioritized(
                ours.view(), sums, random.key(1), 5, weight_exponent=beta
            )
        ).transitions,
    ]
    assert not any(x.mask.any() for x in drawn)
    assert torch.equal(none.weights, torch.ones(5)), "and no weight is NaN"


@given(SEEDS, st.integers(1, 8), st.integers(1, 9))
def test_no_sequence_goes_over_an_end_without_its_flag_or_over_the_seam(seed, length, steps):
    made = transitions(seed, steps, 2)
    numbered = torch.arange(steps)[:, None] * 2 + torch.arange(2)
    ours = store(5, 2, made)
    ours.add(made._replace(rewards=numbered.double()))
    if not len(ours):
        return
    got = replay.sample_sequences(ours.view(), random.key(seed), 16, length)
    seen, mask = got.transitions, got.transitions.mask
    number = seen.rewards.long()
    assert mask[:, 0].all() and not got.reset[:, 0].any()
    for n in range(16):
        for i in range(length):
            if not mask[n, i]:
                continue
            assert number[n, i] == number[n, 0] + 2 * i, "consecutive steps of one lane"
            assert number[n, i] >= 2 * (steps - 5), "overwritten"
            if i:
                over = seen.terminated[n, i - 1] | seen.truncated[n, i - 1] | ~mask[n, i - 1]
                assert got.reset[n, i] == over
    blank = tree.where(mask, tree.map(torch.zeros_like, seen), seen)
    assert not any(x.any() for x in tree.leaves(blank)), "what does not count is zeros"


@given(st.lists(st.floats(0, 1e6, width=32), min_size=1, max_size=300), SEEDS)
def test_every_level_holds_the_sums_of_the_one_below(priorities, seed):
    sums = replay.priority_sums(torch.tensor(priorities))
    assert len(sums[-1]) == 16 and all(len(level) % 16 == 0 for level in sums)
    assert sums[0][: len(priorities)].tolist() == priorities
    for lower, upper in pairwise(sums):
        expected = lower.double().reshape(-1, 16).sum(1)
        assert torch.allclose(upper[: len(expected)].double(), expected, rtol=1e-6)
        assert not upper[len(expected) :].any()
        assert len(lower) > 16
    total = sums[-1].double().sum()
    assert torch.allclose(total, torch.tensor(priorities).double().sum(), rtol=1e-5)


@given(SEEDS, st.integers(1, 40))
def test_sums_are_rounded_in_one_order_however_many_are_made_at_once(seed, nodes):
    level = torch.rand(16 * nodes, generator=torch.Generator().manual_seed(seed))
    expected = []
    for c in level.numpy().reshape(nodes, 16):
        even = ((c[0] + c[8]) + (c[4] + c[12])) + ((c[2] + c[10]) + (c[6] + c[14]))
        odd = ((c[1] + c[9]) + (c[5] + c[13])) + ((c[3] + c[11]) + (c[7] + c[15]))
        expected.append(even + odd)
    assert replay.totals(level).tolist() == expected


def wide_view(priorities):
    """A view of as many rows in one lane, of which each tells its number."""
    made = transitions(2, len(priorities), 1, masked=0.0)
    ours = store(len(priorities), 1, made)
    ours.add(made._replace(rewards=torch.arange(len(priorities)).double()[:, None]))
    return ours.view()


PRIORITIES = torch.tensor([0.0, 0.0, 1e-30, 1e-3, 1.0, 3.0, 2.5])


@given(st.sampled_from([1, 2, 15, 16, 17, 255, 256, 257, 900]), SEEDS, st.floats(0, 1, width=32))
def test_draws_by_priority_are_those_of_a_plain_search(size, seed, beta):
    """Stratified: the n-th number lies in the n-th part; it is found by adding one by one."""
    generator = torch.Generator().manual_seed(seed)
    p = PRIORITIES[torch.randint(len(PRIORITIES), (size,), generator=generator)]
    p[seed % size] = 1.0
    rows, key = 9, random.key(seed)
    drawn = replay.sample_prioritized(
        wide_view(p), replay.priority_sums(p), key, rows, weight_exponent=torch.tensor(beta)
    )
    until = p.double().cumsum(0)
    target = (torch.arange(rows) + random.uniform(key, (rows,)).double()) / rows * until[-1]
    slack = 1e-5 * until[-1]  # sums in float32
    position = drawn.positions
    assert torch.equal(drawn.transitions.rewards.long(), position)
    assert (p[position] > 0).all(), "what has no priority is never drawn"
    assert (until[position] >= target - slack).all()
    assert (until[position] - p[position].double() <= target + slack).all()
    chance = p[position].double() / until[-1]
    weights = (len(p) * chance) ** -beta
    assert torch.allclose(drawn.weights.double(), weights / weights.max(), rtol=1e-4, atol=0)
    assert drawn.weights.dtype == torch.float32


@pytest.mark.parametrize("uniform", [0.0, 1.0 - 2.0**-24])
def test_nothing_without_priority_is_drawn_at_either_end_of_the_range(monkeypatch, uniform):
    """Sums are rounded: beyond the last row that has a priority there may seem to be more."""
    p = torch.zeros(600)
    monkeypatch.setattr(random, "uniform", lambda key, shape: torch.full(shape, uniform))
    for seed in range(40):
        p[100:111] = torch.rand(11, generator=torch.Generator().manual_seed(seed))
        drawn = replay.sample_prioritized(
            wide_view(p), replay.priority_sums(p), random.key(0), 1,
            weight_exponent=torch.tensor(1.0),
        )  # fmt: skip
        assert drawn.positions.item() == (100 if uniform == 0.0 else 110)


@pytest.mark.parametrize("where", ["first", "last", "middle"])
def test_the_only_row_with_a_priority_is_found_among_many(where):
    p = torch.zeros(5000)
    only = {"first": 0, "last": 4999, "middle": 2047}[where]
    p[only] = 0.1
    made = transitions(2, 1, 1)
    shown = store(5000, 1, made).view()
    sums, beta = replay.priority_sums(p), torch.tensor(0.4)
    assert len(sums) == 4
    drawn = replay.sample_prioritized(shown, sums, random.key(3), 64, weight_exponent=beta)
    assert drawn.positions.tolist() == [only] * 64


def test_drawing_costs_what_is_drawn():
    def touched(slots, rows):
        made = transitions(4, 8, 2)
        shown, sums = store(slots, 2, made), replay.priority_sums(torch.ones(2 * slots))
        shown.add(made)
        key, beta = random.key(0), torch.tensor(0.5)
        totals = []
        for draw in (
            lambda: replay.sample(shown.view(), key, rows),
            lambda: replay.sample_sequences(shown.view(), key, rows, 3),
            lambda: replay.sample_prioritized(shown.view(), sums, key, rows, weight_exponent=beta),
        ):
            with BytesTouched() as count:
                draw()
            totals.append(count.total)
        return totals

    little, much, many = touched(100, 8), touched(10_000, 8), touched(100, 80)
    assert little[:2] == much[:2]
    assert much[2] <= 2.5 * little[2], "two levels more"
    assert all(2 * x < y <= 11 * x for x, y in zip(little, many))


def test_what_is_drawn_shares_nothing_with_the_view():
    ours, _ = filled()
    shown = ours.view()
    drawn = (
        replay.sample_sequences(shown, random.key(0), 4, 1),
        replay.sample(shown, random.key(0), 4),
    )
    held = {x.untyped_storage().data_ptr() for x in tree.leaves(shown) if x.numel()}
    assert not held & {x.untyped_storage().data_ptr() for x in tree.leaves(drawn) if x.numel()}


def test_what_is_out_of_range_is_named():
    shown, key, beta = view(0), random.key(0), torch.tensor(0.5)
    by_priority = lambda *args, **kwargs: replay.sample_prioritized(
        *args, **({"weight_exponent": beta} | kwargs)
    )
    for call, message in [
        (lambda: replay.sample(shown, key, 0), "`rows` must be at least 1, got 0"),
        (lambda: replay.sample_sequences(shown, key, 0, 2), "`count` must be at least 1, got 0"),
        (lambda: replay.sample_sequences(shown, key, 2, -1), "`length` must be at least 1, got -1"),
        (lambda: by_priority(shown, levels(0), key, 0), "`rows` must be at least 1, got 0"),
        (
            lambda: by_priority(shown, levels(0), key, 2, weight_exponent=torch.ones(2)),
            r"`weight_exponent` must have shape \[\], got \[2\]",
        ),
        (lambda: replay.priority_sums(torch.ones(0)), r"`priorities` must have shape \[C·B\]"),
        (lambda: replay.priority_sums(torch.ones(2, 2)), r"C·B ≥ 1, got \[2, 2\]"),
        (lambda: replay.totals(torch.ones(17)), r"`level` must have shape \[16·n\], got \[17\]"),
        (lambda: replay.totals(torch.ones(1, 16)), r"\[16·n\], got \[1, 16\]"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"cuts": torch.zeros(5) > 0}, r"`view.cuts` must have shape \[C, B\], not empty, got"),
        ({"cuts": torch.zeros(0, 2) > 0}, r"not empty, got \[0, 2\]"),
        ({"memory": torch.zeros(5)}, r"`view.memory` must begin with the axes \[C, B\] = \[5, 2\]"),
        ({"transitions": view(0).transitions._replace(rewards=torch.zeros(4, 2))},
         r"`view.transitions` must begin with the axes \[C, B\] = \[5, 2\], got \[4, 2\]"),
        ({"order": torch.zeros(9).int()}, r"`view.order` must have shape \[C·B\] = \[10\], got"),
    ],
)  # fmt: skip
def test_a_view_whose_columns_disagree_is_refused(changed, message):
    for draw in (
        lambda shown: replay.sample(shown, random.key(0), 2),
        lambda shown: replay.sample_sequences(shown, random.key(0), 2, 2),
        lambda shown: replay.sample_prioritized(
            shown, levels(0), random.key(0), 2, weight_exponent=torch.tensor(0.5)
        ),
    ):
        with pytest.raises(ValueError, match=message):
            draw(view(0)._replace(**changed))
