"""Exponential moving averages of parameters: target networks."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from optinfra import check, tree
from optinfra.transforms.agreement import require_agreement
from optinfra.transforms.interpolation import lerp
from optinfra.transforms.leaf import hyper_leaf
from optinfra.types import PyTree


class Average(NamedTuple):
    """A running average of parameters: two pure functions and nothing else."""

    init: Callable[[PyTree], PyTree]  # (params) -> state
    update: Callable[
        [PyTree, PyTree], tuple[PyTree, PyTree]
    ]  # (state, params) -> (state, averaged)


class EmaHyper(NamedTuple):
    """Hyperparameters of `ema`."""

    tau: Tensor  # [] float in [0, 1]


class EmaState(NamedTuple):
    """What `ema` remembers between updates."""

    hyper: EmaHyper
    average: PyTree  # as params


def ema(tau: float) -> Average:
    """Follow the parameters at a distance, beginning with a copy of the first.

        a ← (1−τ)·a + τ·p

    Args:
      tau: τ in [0, 1], the weight of the newcomer: 0 never moves, 1 copies. ML-Agents' `tau`
        and optax's `step_size`; a decay of 0.995 is τ = 0.005.

    Returns:
      An `Average`. `state.average` and what `update` yields are the target network's
      parameters.

    Raises:
      ValueError: `tau` lies outside [0, 1]; a parameter's shape has changed.

    Source: Lillicrap et al. 2016, algorithm 1, https://arxiv.org/abs/1509.02971;
      optax.incremental_update.
    """
    check.require_number("tau", tau, 0.0, 1.0)

    def init(params: PyTree) -> EmaState:
        average = tree.map(lambda p: p.detach().clone(), params)
        return EmaState(EmaHyper(hyper_leaf(tau, params)), average)

    def update(state: EmaState, params: PyTree) -> tuple[EmaState, PyTree]:
        require_agreement("params", params, state.average)
        tau = state.hyper.tau
        average = tree.map(lambda a, p: lerp(a, p, tau), state.average, params)
        return EmaState(state.hyper, average), average

    return Average(init, update)
