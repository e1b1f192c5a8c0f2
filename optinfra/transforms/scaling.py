"""Multiplication by a number: fixed, scheduled, or minus the learning rate."""

from typing import NamedTuple

from torch import Tensor

from optinfra import check, tree
from optinfra.schedules import constant
from optinfra.transforms.leaf import counter_leaf, device_of, hyper_leaf
from optinfra.types import PyTree, Schedule, Transform


class ScaleHyper(NamedTuple):
    """Hyperparameters of `scale`."""

    factor: Tensor  # [] float


class ScaleState(NamedTuple):
    """What `scale` remembers: nothing but its factor."""

    hyper: ScaleHyper


class ScaleByScheduleState(NamedTuple):
    """What `scale_by_schedule` and `scale_by_learning_rate` remember between updates."""

    schedule: PyTree  # state of the schedule; of a constant rate, its only leaf is `value`
    step: Tensor  # [] int64, updates seen so far


def scale(factor: float) -> Transform:
    """Multiply every gradient by `factor`.

        u = factor·g

    Args:
      factor: finite.

    Returns:
      A `Transform`.

    Raises:
      ValueError: `factor` is not finite.

    Source: optax.scale, https://optax.readthedocs.io/en/latest/api/transformations.html.
    """
    check.require_number("factor", factor)

    def init(params: PyTree) -> ScaleState:
        return ScaleState(ScaleHyper(hyper_leaf(factor, params)))

    def update(state: ScaleState, grads: PyTree, params: PyTree) -> tuple[ScaleState, PyTree]:
        del params
        return state, tree.map(lambda g: state.hyper.factor * g, grads)

    return Transform(init, update)


def scale_by_schedule(schedule: Schedule) -> Transform:
    """Multiply every gradient by what `schedule` says for the number of updates so far.

        u = schedule(t)·g,   t = 0, 1, 2, …

    Args:
      schedule: its steps are updates of this transformation; the first sees step 0.

    Returns:
      A `Transform`.

    Source: optax.scale_by_schedule,
      https://optax.readthedocs.io/en/latest/api/transformations.html.
    """

    def init(params: PyTree) -> ScaleByScheduleState:
        device = device_of(params)
        state = tree.map(lambda x: x.to(device), schedule.init())
        return ScaleByScheduleState(state, counter_leaf(params))

    def update(
        state: ScaleByScheduleState, grads: PyTree, params: PyTree
    ) -> tuple[ScaleByScheduleState, PyTree]:
        del params
        factor = schedule.value(state.schedule, state.step)
        updates = tree.map(lambda g: factor * g, grads)
        return ScaleByScheduleState(state.schedule, state.step + 1), updates

    return Transform(init, update)


def scale_by_learning_rate(learning_rate: float | Schedule) -> Transform:
    """Multiply every gradient by minus the learning rate: the end of every descent.

        u = −η(t)·g,   t = 0, 1, 2, …

    Args:
      learning_rate: η ≥ 0, or a schedule of it over the updates of this transformation. A
        number is a `constant` schedule: it lies in `state.schedule.value`.

    Returns:
      A `Transform`.

    Raises:
      ValueError: the number is negative or not finite.

    Source: optax.scale_by_learning_rate,
      https://optax.readthedocs.io/en/latest/api/transformations.html.
    """
    if isinstance(learning_rate, Schedule):
        schedule = learning_rate
    else:
        check.require_number("learning_rate", learning_rate, 0.0)
        schedule = constant(learning_rate)

    def minus_rate(state: PyTree, step: Tensor) -> Tensor:
        return -schedule.value(state, step)

    return scale_by_schedule(Schedule(schedule.init, minus_rate))
