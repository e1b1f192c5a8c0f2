"""Laws of optinfra.schedules; optax and ML-Agents' formula as oracles."""

import math

import chex
import numpy as np
import optax
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch.func import vmap

from optinfra import schedules, tree

# XLA rounds to zero what lies below the smallest normal float32; products of three stay above.
VALUES = st.floats(-10, 10, width=32).filter(lambda x: x == 0 or abs(x) > 2**-20)
FACTORS = st.just(0.0) | st.floats(2**-20, 2, width=32)
RATES = st.floats(2**-20, 10, width=32)
LENGTHS = st.integers(1, 1000)
STEPS = st.integers(0, 1500)
LONG = 50_000_000  # beyond the whole numbers that float32 tells apart
TIGHT = dict(rtol=3e-7, atol=0.0)  # two roundings of float32


def value_at(schedule, step):
    return schedule.value(schedule.init(), torch.tensor(step))


def assert_follows(schedule, oracle, step, scale):
    """Within float32's rounding of the largest number involved."""
    np.testing.assert_allclose(value_at(schedule, step), oracle(step), rtol=0, atol=2e-6 * scale)


@given(VALUES, STEPS)
def test_constant_never_moves(value, step):
    assert value_at(schedules.constant(value), step) == value


@given(VALUES, VALUES, LENGTHS, STEPS)
def test_linear_follows_optax(initial, final, steps, step):
    oracle = optax.linear_schedule(initial, final, steps)
    scale = abs(initial) + abs(final)
    assert_follows(schedules.linear(initial, final, steps), oracle, step, scale)


@given(RATES, st.floats(0, 1, width=32), LENGTHS, STEPS)
def test_cosine_follows_optax(initial, fraction, steps, step):
    oracle = optax.cosine_decay_schedule(initial, steps, alpha=fraction)
    assert_follows(schedules.cosine(initial, fraction * initial, steps), oracle, step, initial)


@given(VALUES, st.dictionaries(LENGTHS, FACTORS, max_size=4), STEPS)
@example(1.0, {100: 0.1, 200: 0.5}, 100)
@example(1.0, {100: 0.1, 200: 0.5}, 199)
@example(1.0, {}, 3)
def test_piecewise_constant_follows_optax(initial, boundaries_and_scales, step):
    oracle = optax.piecewise_constant_schedule(initial, boundaries_and_scales)
    actual = schedules.piecewise_constant(initial, boundaries_and_scales)
    assert_follows(actual, oracle, step, 16 * abs(initial))


@given(RATES, RATES, st.integers(1, 100), LENGTHS, STEPS)
def test_warmup_of_a_decay_follows_optax(peak, final, warm, steps, step):
    oracle = optax.join_schedules(
        [optax.linear_schedule(0.0, peak, warm), optax.linear_schedule(peak, final, steps)], [warm]
    )
    actual = schedules.warmup(schedules.linear(peak, final, steps), warm)
    assert_follows(actual, oracle, step, peak + final)


@given(VALUES, VALUES, VALUES, st.integers(1, 50), st.integers(1, 50), st.integers(0, 120))
@example(1.0, 2.0, 3.0, 10, 20, 10)
@example(1.0, 2.0, 3.0, 10, 20, 30)
def test_join_of_lines_is_piecewise_linear_interpolation(a, b, c, first, second, step):
    joined = schedules.join(
        [schedules.linear(a, b, first), schedules.linear(b, c, second)], [first]
    )
    expected = np.interp(step, [0, first, first + second], [a, b, c])
    assert_follows(joined, lambda _: expected, step, abs(a) + abs(b) + abs(c))


@given(st.integers(0, 30))
def test_join_shows_each_schedule_its_own_time(step):
    parts = [schedules.cosine(3.0, 1.0, 7), schedules.linear(9.0, 2.0, 11), schedules.constant(4.0)]
    joined = schedules.join(parts, [5, 13])
    number, start = (0, 0) if step < 5 else (1, 5) if step < 13 else (2, 13)
    assert value_at(joined, step) == value_at(parts[number], step - start)


def test_warmup_shows_the_wrapped_schedule_its_first_step_until_it_is_over():
    wrapped = schedules.piecewise_constant(8.0, {1: 0.5, 2: 0.5})
    values = [value_at(schedules.warmup(wrapped, 4), step).item() for step in range(8)]
    assert values == [0.0, 2.0, 4.0, 6.0, 8.0, 4.0, 2.0, 2.0]


@pytest.mark.parametrize("make", [schedules.linear, schedules.cosine])
@given(VALUES, VALUES, LENGTHS, st.integers(0, 100))
def test_a_descent_meets_both_ends_bit_for_bit_and_stays(make, initial, final, steps, more):
    schedule = make(initial, final, steps)
    assert value_at(schedule, 0) == initial
    assert value_at(schedule, -more) == initial
    assert value_at(schedule, steps + more) == final


@pytest.mark.parametrize("make", [schedules.linear, schedules.cosine])
@given(VALUES, LENGTHS, STEPS)
def test_a_descent_between_equal_ends_is_constant(make, value, steps, step):
    assert value_at(make(value, value, steps), step) == value


@pytest.mark.parametrize("make", [schedules.linear, schedules.cosine])
@given(VALUES, VALUES, LENGTHS, st.integers(0, 999))
def test_a_descent_never_turns_back(make, initial, final, steps, step):
    schedule = make(initial, final, steps)
    before, after = value_at(schedule, step), value_at(schedule, step + 1)
    slack = 1e-6 * max(abs(initial), abs(final))
    assert (after - before) * np.sign(final - initial) >= -slack


@pytest.mark.parametrize("left", [1, 3, 1000])
def test_linear_is_precise_near_the_end_of_a_long_run(left):
    actual = value_at(schedules.linear(3e-4, 0.0, LONG), LONG - left)
    chex.assert_trees_all_close(actual, torch.tensor(3e-4 * left / LONG), **TIGHT)


@pytest.mark.parametrize("left", [1, 3, 1000])
def test_linear_is_precise_near_the_beginning_of_a_long_rise(left):
    actual = value_at(schedules.linear(0.0, 3e-4, LONG), left)
    chex.assert_trees_all_close(actual, torch.tensor(3e-4 * left / LONG), **TIGHT)


@pytest.mark.parametrize("left", [1, 3, 1000])
def test_cosine_is_precise_near_both_ends_of_a_long_run(left):
    part = math.sin(math.pi / 2 * left / LONG) ** 2
    end = value_at(schedules.cosine(1.0, 0.0, LONG), LONG - left)
    begin = value_at(schedules.cosine(0.0, 1.0, LONG), left)
    expected = torch.tensor(part)
    chex.assert_trees_all_close(end, expected, rtol=1e-6, atol=0.0)
    chex.assert_trees_all_close(begin, expected, rtol=1e-6, atol=0.0)


@given(st.sampled_from([(3e-4, 1e-10), (0.2, 0.1), (5e-3, 1e-5)]), LENGTHS, STEPS)
def test_linear_to_floor_is_ml_agents_decay_from_above_the_floor(values, steps, step):
    initial, floor = values
    expected = (initial - floor) * (1 - min(step, steps) / steps) + floor
    actual = value_at(schedules.linear_to_floor(initial, floor, steps), step)
    chex.assert_trees_all_close(actual, torch.tensor(expected), rtol=1e-6, atol=0.0)


@given(st.floats(0, 3 / 32, width=32), LENGTHS, STEPS)
@example(0.05, 10, 10)
def test_linear_to_floor_does_not_rise_from_below_the_floor(initial, steps, step):
    assert value_at(schedules.linear_to_floor(initial, 0.1, steps), step) == initial


def test_linear_to_floor_does_not_rise_in_a_swept_member():
    state = schedules.linear_to_floor(0.2, 0.1, 10).init()
    swept = state._replace(initial=torch.tensor([0.2, 0.05]))
    value = schedules.linear_to_floor(0.2, 0.1, 10).value
    actual = vmap(value, in_dims=(type(state)(0, None, None), None))(swept, torch.tensor(10))
    chex.assert_trees_all_equal(actual, torch.tensor([0.1, 0.05]))


def test_floors_are_those_of_ml_agents():
    floors = schedules.LEARNING_RATE_FLOOR, schedules.EPSILON_FLOOR, schedules.BETA_FLOOR
    assert floors == (1e-10, 0.1, 1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int32])
def test_a_step_may_have_any_dtype_and_the_value_is_float32(dtype):
    for schedule in [
        schedules.linear(1.0, 0.0, 8),
        schedules.cosine(1.0, 0.0, 8),
        schedules.piecewise_constant(1.0, {3: 0.5}),
        schedules.warmup(schedules.linear(1.0, 0.0, 4), 2),
        schedules.join([schedules.constant(1.0), schedules.constant(2.0)], [2]),
    ]:
        actual = schedule.value(schedule.init(), torch.tensor(3, dtype=dtype))
        assert actual.dtype == torch.float32
        assert actual == value_at(schedule, 3)


def test_a_step_may_be_a_fraction():
    assert value_at(schedules.linear(1.0, 0.0, 4), 2.5) == 0.375


def test_every_number_of_a_schedule_can_be_swept():
    members = [schedules.warmup(schedules.cosine(1.0 + k, 0.2 * k, 9 - k), 2 + k) for k in range(3)]
    states = tree.stack([member.init() for member in members])
    for step in range(12):
        swept = vmap(members[0].value, in_dims=(0, None))(states, torch.tensor(step))
        alone = torch.stack([value_at(member, step) for member in members])
        chex.assert_trees_all_close(swept, alone, rtol=1e-6, atol=1e-7)


CONSTANT = schedules.constant(1.0)
BAD = {
    r"`value` must lie in \(-inf, inf\), got nan\.": lambda: schedules.constant(math.nan),
    r"`initial` must lie in .*, got inf\.": lambda: schedules.linear(math.inf, 0.0, 3),
    r"`final` must lie in .*, got nan\.": lambda: schedules.linear(1.0, math.nan, 3),
    r"`steps` must lie in \[1, inf\), got 0\.": lambda: schedules.linear(1.0, 0.0, 0),
    r"`steps` must be a whole number of steps, got 2\.5\.": lambda: schedules.cosine(1.0, 0.0, 2.5),
    r"`initial` must lie in .*, got nan\.": lambda: schedules.cosine(math.nan, 0.0, 3),
    r"`final` must lie in .*, got inf\.": lambda: schedules.cosine(0.0, math.inf, 3),
    r"`floor` must lie in .*, got nan\.": lambda: schedules.linear_to_floor(1.0, math.nan, 3),
    r"`initial` must lie in .*, got -inf\.": lambda: schedules.linear_to_floor(-math.inf, 0.0, 3),
    r"`steps` must lie in .*, got -1\.": lambda: schedules.linear_to_floor(1.0, 0.0, -1),
    r"`steps` must lie in .*, got -2\.": lambda: schedules.warmup(CONSTANT, -2),
    r"`boundaries_and_scales\[3\]` must lie in \[0\.0, inf\), got -1\.": lambda: (
        schedules.piecewise_constant(1.0, {3: -1.0})
    ),
    r"`boundaries_and_scales` must lie in \[1, inf\), got 0\.": lambda: (
        schedules.piecewise_constant(1.0, {0: 1.0})
    ),
    r"`initial` must lie in .*, got -inf": lambda: schedules.piecewise_constant(-math.inf, {}),
    r"`boundaries` must have one entry less than `schedules` = 1, got 0\.": lambda: schedules.join(
        [CONSTANT, CONSTANT], []
    ),
    r"`boundaries` must ascend, got \[5, 5\]\.": lambda: schedules.join([CONSTANT] * 3, [5, 5]),
    r"`boundaries` must lie in \[1, inf\), got 0\.": lambda: schedules.join([CONSTANT] * 2, [0]),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_arguments_are_named(message):
    with pytest.raises(ValueError, match=message):
        BAD[message]()
