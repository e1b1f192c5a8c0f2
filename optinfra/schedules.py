"""Numbers that change with time: `(init, value)` pairs.

What a schedule was given lives in its state as tensors, so that it can be stacked and swept:
values are 0-d float32, counts of steps 0-d int64 (float32 cannot tell 50 000 000 from
50 000 001, and a decay is most delicate near its end). A step is whatever the caller counts:
optimiser updates, environment steps; a 0-d int64 or float tensor.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from optinfra import check
from optinfra.types import PyTree, Schedule

# What ML-Agents decays towards; see `linear_to_floor`.
LEARNING_RATE_FLOOR = 1e-10
EPSILON_FLOOR = 0.1
BETA_FLOOR = 1e-5


class ConstantState(NamedTuple):
    """What `constant` was given."""

    value: Tensor  # [] float32


class LinearState(NamedTuple):
    """What `linear` was given."""

    initial: Tensor  # [] float32
    final: Tensor  # [] float32
    steps: Tensor  # [] int64


class LinearToFloorState(NamedTuple):
    """What `linear_to_floor` was given."""

    initial: Tensor  # [] float32
    floor: Tensor  # [] float32
    steps: Tensor  # [] int64


class CosineState(NamedTuple):
    """What `cosine` was given."""

    initial: Tensor  # [] float32
    final: Tensor  # [] float32
    steps: Tensor  # [] int64


class PiecewiseConstantState(NamedTuple):
    """What `piecewise_constant` was given."""

    initial: Tensor  # [] float32
    boundaries: Tensor  # [P] int64, in any order
    scales: Tensor  # [P] float32


class WarmupState(NamedTuple):
    """What `warmup` was given."""

    schedule: PyTree  # state of the wrapped schedule
    steps: Tensor  # [] int64


class JoinState(NamedTuple):
    """What `join` was given."""

    schedules: tuple[PyTree, ...]  # states of the P joined schedules
    boundaries: Tensor  # [P − 1] int64, ascending


def constant(value: float) -> Schedule:
    """Stay at `value`.

    Args:
      value: finite; the unit is the caller's.

    Returns:
      A `Schedule`.

    Raises:
      ValueError: `value` is not finite.

    Source: optax.constant_schedule,
      https://optax.readthedocs.io/en/latest/api/optimizer_schedules.html.
    """
    check.require_number("value", value)

    def init() -> ConstantState:
        return ConstantState(_number(value))

    def at(state: ConstantState, step: Tensor) -> Tensor:
        del step
        return state.value

    return Schedule(init, at)


def linear(initial: float, final: float, steps: int) -> Schedule:
    """Go from `initial` to `final` in a straight line, then stay.

        e = min(t, T)/T      value = initial·(1−e) + final·e

    Both ends are met bit for bit, and the value is precise relative to itself near both.

    Args:
      initial: value at step 0, finite.
      final: value from step T on, finite.
      steps: T ≥ 1, in the unit of the step that `value` is given.

    Returns:
      A `Schedule`.

    Raises:
      ValueError: an argument is out of its range; the message names it.

    Source: optax.linear_schedule,
      https://optax.readthedocs.io/en/latest/api/optimizer_schedules.html.
    """
    check.require_number("initial", initial)
    check.require_number("final", final)
    _require_steps("steps", steps)

    def init() -> LinearState:
        return LinearState(_number(initial), _number(final), _count(steps))

    def at(state: LinearState, step: Tensor) -> Tensor:
        elapsed, remaining = _fractions(step, state.steps)
        return _between(state.initial, state.final, elapsed, remaining)

    return Schedule(init, at)


def linear_to_floor(initial: float, floor: float, steps: int) -> Schedule:
    """Decay in a straight line to `floor`, or stay where that would be a rise.

        value = (initial − f)·(1 − min(t, T)/T) + f,   f = min(initial, floor)

    It equals `linear(initial, min(initial, floor), steps)` and has a name of its own because
    the minimum belongs to the state: it holds for every member of a sweep over `initial`.

    Args:
      initial: value at step 0, finite.
      floor: value from step T on if `initial` lies above it, finite. ML-Agents' floors are
        `LEARNING_RATE_FLOOR`, `EPSILON_FLOOR` and `BETA_FLOOR`.
      steps: T ≥ 1, in the unit of the step that `value` is given.

    Returns:
      A `Schedule`.

    Raises:
      ValueError: an argument is out of its range; the message names it.

    Differs: ML-Agents' `polynomial_decay` ends at `floor` even from below, so that an epsilon
      of 0.05 grows to 0.1 during training.

    Source: ML-Agents 1.1, mlagents/trainers/torch_entities/utils.py, `DecayedValue`,
      https://github.com/Unity-Technologies/ml-agents.
    """
    check.require_number("initial", initial)
    check.require_number("floor", floor)
    _require_steps("steps", steps)

    def init() -> LinearToFloorState:
        return LinearToFloorState(_number(initial), _number(floor), _count(steps))

    def at(state: LinearToFloorState, step: Tensor) -> Tensor:
        elapsed, remaining = _fractions(step, state.steps)
        final = torch.minimum(state.initial, state.floor)
        return _between(state.initial, final, elapsed, remaining)

    return Schedule(init, at)


def cosine(initial: float, final: float, steps: int) -> Schedule:
    """Go from `initial` to `final` along half a cosine, then stay.

        e = min(t, T)/T      value = final + (initial − final)·(1 + cos πe)/2

    Args:
      initial: value at step 0, finite.
      final: value from step T on, finite.
      steps: T ≥ 1, in the unit of the step that `value` is given.

    Returns:
      A `Schedule`.

    Raises:
      ValueError: an argument is out of its range; the message names it.

    Source: Loshchilov & Hutter 2017, eq. 5, https://arxiv.org/abs/1608.03983;
      optax.cosine_decay_schedule with α = final/initial.
    """
    check.require_number("initial", initial)
    check.require_number("final", final)
    _require_steps("steps", steps)

    def init() -> CosineState:
        return CosineState(_number(initial), _number(final), _count(steps))

    def at(state: CosineState, step: Tensor) -> Tensor:
        elapsed, remaining = _fractions(step, state.steps)
        # (1 + cos πe)/2 = sin²(π(1−e)/2), which keeps its digits where the cosine nears −1.
        down = torch.sin(math.pi / 2 * remaining).square()
        up = torch.sin(math.pi / 2 * elapsed).square()
        return _between(state.initial, state.final, up, down)

    return Schedule(init, at)


def piecewise_constant(initial: float, boundaries_and_scales: Mapping[int, float]) -> Schedule:
    """Multiply the value by a factor at each boundary.

        value = initial · Π { scaleᵢ : t ≥ boundaryᵢ }

    Pieces of any other shape are put together by `join`.

    Args:
      initial: value before the first boundary, finite.
      boundaries_and_scales: factor ≥ 0 by the step ≥ 1 from which on it applies.

    Returns:
      A `Schedule`.

    Raises:
      ValueError: an argument is out of its range; the message names it.

    Source: optax.piecewise_constant_schedule,
      https://optax.readthedocs.io/en/latest/api/optimizer_schedules.html.
    """
    check.require_number("initial", initial)
    for boundary, scale in boundaries_and_scales.items():
        _require_steps("boundaries_and_scales", boundary)
        check.require_number(f"boundaries_and_scales[{boundary}]", scale, 0.0)
    boundaries, scales = list(boundaries_and_scales), list(boundaries_and_scales.values())

    def init() -> PiecewiseConstantState:
        return PiecewiseConstantState(
            _number(initial),
            torch.tensor(boundaries, dtype=torch.int64),
            torch.tensor(scales, dtype=torch.float32),
        )

    def at(state: PiecewiseConstantState, step: Tensor) -> Tensor:
        reached = torch.where(step >= state.boundaries, state.scales, 1.0)
        return state.initial * reached.prod(0)

    return Schedule(init, at)


def warmup(schedule: Schedule, steps: int) -> Schedule:
    """Rise in a straight line from 0 to where `schedule` begins, then follow it.

        value = schedule(max(t − T, 0)) · min(t, T)/T

    The wrapped schedule sees step 0 all through the warm-up and counts from its end on, so
    that a decay over N steps still takes N steps, T + N in all.

    Args:
      schedule: what follows the warm-up.
      steps: T ≥ 1, length of the warm-up, in the unit of the step that `value` is given.

    Returns:
      A `Schedule`.

    Raises:
      ValueError: `steps` is not a whole number of at least 1.

    Source: Goyal et al. 2017, section 2.2, https://arxiv.org/abs/1706.02677; optax's
      join_schedules([linear_schedule(0, peak, T), schedule], [T]).
    """
    _require_steps("steps", steps)

    def init() -> WarmupState:
        return WarmupState(schedule.init(), _count(steps))

    def at(state: WarmupState, step: Tensor) -> Tensor:
        elapsed, _ = _fractions(step, state.steps)
        return elapsed * schedule.value(state.schedule, (step - state.steps).clamp(min=0))

    return Schedule(init, at)


def join(schedules: Sequence[Schedule], boundaries: Sequence[int]) -> Schedule:
    """Follow one schedule after the other, each counting from the boundary where it begins.

        value = scheduleᵢ(t − boundaryᵢ₋₁)   where boundaryᵢ₋₁ ≤ t < boundaryᵢ,   boundary₋₁ = 0

    Piecewise linear interpolation is a `join` of `linear` ones.

    Args:
      schedules: P ≥ 1 of them.
      boundaries: P − 1 steps ≥ 1, ascending: where the second, third, … begins.

    Returns:
      A `Schedule`.

    Raises:
      ValueError: the lengths disagree or the boundaries do not ascend.

    Source: optax.join_schedules,
      https://optax.readthedocs.io/en/latest/api/optimizer_schedules.html.
    """
    if len(boundaries) != len(schedules) - 1:
        expected = f"have one entry less than `schedules` = {len(schedules) - 1}"
        raise ValueError(f"`boundaries` must {expected}, got {len(boundaries)}.")
    for boundary in boundaries:
        _require_steps("boundaries", boundary)
    if list(boundaries) != sorted(set(boundaries)):
        raise ValueError(f"`boundaries` must ascend, got {list(boundaries)}.")

    def init() -> JoinState:
        starts = torch.tensor(list(boundaries), dtype=torch.int64)
        return JoinState(tuple(schedule.init() for schedule in schedules), starts)

    def at(state: JoinState, step: Tensor) -> Tensor:
        value = schedules[0].value(state.schedules[0], step)
        for k, schedule in enumerate(schedules[1:]):
            start = state.boundaries[k]
            after = schedule.value(state.schedules[k + 1], (step - start).clamp(min=0))
            value = torch.where(step >= start, after, value)
        return value

    return Schedule(init, at)


def _number(x: float) -> Tensor:
    return torch.tensor(x, dtype=torch.float32)


def _count(steps: int) -> Tensor:
    return torch.tensor(steps, dtype=torch.int64)


def _require_steps(name: str, steps: int) -> None:
    check.require_number(name, steps, 1)
    if steps != int(steps):
        raise ValueError(f"`{name}` must be a whole number of steps, got {steps}.")


def _fractions(step: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
    """Parts of `steps` that are over and still to come; each precise relative to itself."""
    elapsed = torch.minimum(step.clamp(min=0), steps)
    # In float32 before the division: int64 / int64 would follow torch's default dtype.
    length = steps.to(torch.float32)
    return elapsed.to(torch.float32) / length, (steps - elapsed).to(torch.float32) / length


def _between(initial: Tensor, final: Tensor, elapsed: Tensor, remaining: Tensor) -> Tensor:
    """`initial·remaining + final·elapsed` for parts that sum to 1, exact at both ends.

    It starts from the nearer end, so that equal ends give a constant, bit for bit.
    """
    early = initial + (final - initial) * elapsed
    late = final + (initial - final) * remaining
    return torch.where(elapsed < remaining, early, late)
