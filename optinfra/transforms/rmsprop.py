"""RMSprop, by the root of the mean square or by the standard deviation."""

from typing import NamedTuple

import torch
from torch import Tensor

from optinfra import check, tree
from optinfra.transforms.agreement import require_agreement
from optinfra.transforms.composition import chain
from optinfra.transforms.interpolation import lerp
from optinfra.transforms.leaf import hyper_leaf
from optinfra.transforms.scaling import scale_by_learning_rate
from optinfra.transforms.sgd import trace
from optinfra.types import PyTree, Schedule, Transform


class ScaleByRmsHyper(NamedTuple):
    """Hyperparameters of `scale_by_rms`."""

    alpha: Tensor  # [] float in [0, 1)
    eps: Tensor  # [] float > 0, unit of the gradient


class ScaleByRmsState(NamedTuple):
    """What `scale_by_rms` remembers between updates."""

    hyper: ScaleByRmsHyper
    second: PyTree  # as params, running mean of g²


class ScaleByStddevHyper(NamedTuple):
    """Hyperparameters of `scale_by_stddev`."""

    alpha: Tensor  # [] float in [0, 1)
    eps: Tensor  # [] float > 0, unit of the gradient


class ScaleByStddevState(NamedTuple):
    """What `scale_by_stddev` remembers between updates."""

    hyper: ScaleByStddevHyper
    mean: PyTree  # as params, running mean of g
    variance: PyTree  # as params, running variance of g, never negative


def scale_by_rms(alpha: float = 0.99, eps: float = 1e-8) -> Transform:
    """Divide each gradient by the root of its running square.

        v ← αv + (1−α)g²      u = g/(√v + ε)

    Args:
      alpha: α in [0, 1), decay per update.
      eps: ε > 0, in the unit of the gradient; added outside the root.

    Returns:
      A `Transform`. Its updates point uphill: `scale_by_learning_rate` comes next.

    Raises:
      ValueError: a number is out of its range; a gradient's shape is not that of its
        parameter. The message names it.

    Source: Hinton 2012, lecture 6e, as in torch.optim.RMSprop; optax.scale_by_rms is the same
      with `eps_in_sqrt=False`.
    """
    _require_numbers(alpha, eps)

    def init(params: PyTree) -> ScaleByRmsState:
        hyper = ScaleByRmsHyper(hyper_leaf(alpha, params), hyper_leaf(eps, params))
        return ScaleByRmsState(hyper, tree.map(torch.zeros_like, params))

    def update(
        state: ScaleByRmsState, grads: PyTree, params: PyTree
    ) -> tuple[ScaleByRmsState, PyTree]:
        require_agreement("grads", grads, state.second)
        del params
        alpha, eps = state.hyper
        second = tree.map(lambda v, g: lerp(g * g, v, alpha), state.second, grads)
        updates = tree.map(lambda g, v: g / (v.sqrt() + eps), grads, second)
        return ScaleByRmsState(state.hyper, second), updates

    return Transform(init, update)


def scale_by_stddev(alpha: float = 0.99, eps: float = 1e-8) -> Transform:
    """Divide each gradient by its running standard deviation.

        s ← αs + α(1−α)(g − m)²      m ← αm + (1−α)g      u = g/(√s + ε)

    Args:
      alpha: α in [0, 1), decay per update.
      eps: ε > 0, in the unit of the gradient; added outside the root.

    Returns:
      A `Transform`. Its updates point uphill: `scale_by_learning_rate` comes next.

    Raises:
      ValueError: a number is out of its range; a gradient's shape is not that of its
        parameter. The message names it.

    Differs: torch.optim.RMSprop keeps v, the mean of g², and takes s = v − m². The same in
      exact arithmetic; rounded, the difference can fall below zero, and its root is NaN.

    Source: Graves 2013, eq. 38–40, https://arxiv.org/abs/1308.0850; the update of s is West
      1979, https://doi.org/10.1145/359146.359153, with exponential weights.
    """
    _require_numbers(alpha, eps)

    def init(params: PyTree) -> ScaleByStddevState:
        hyper = ScaleByStddevHyper(hyper_leaf(alpha, params), hyper_leaf(eps, params))
        zeros = tree.map(torch.zeros_like, params)
        return ScaleByStddevState(hyper, zeros, tree.map(torch.zeros_like, params))

    def update(
        state: ScaleByStddevState, grads: PyTree, params: PyTree
    ) -> tuple[ScaleByStddevState, PyTree]:
        require_agreement("grads", grads, state.mean)
        del params
        alpha, eps = state.hyper
        gain = alpha * (1 - alpha)

        def spread(s: Tensor, g: Tensor, m: Tensor) -> Tensor:
            # A 0-d leaf would take over the dtype of a wider α.
            return (alpha * s + gain * (g - m).square()).to(s.dtype)

        variance = tree.map(spread, state.variance, grads, state.mean)
        mean = tree.map(lambda m, g: lerp(g, m, alpha), state.mean, grads)
        updates = tree.map(lambda g, s: g / (s.sqrt() + eps), grads, variance)
        return ScaleByStddevState(state.hyper, mean, variance), updates

    return Transform(init, update)


def rmsprop(
    learning_rate: float | Schedule,
    alpha: float = 0.99,
    eps: float = 1e-8,
    *,
    momentum: float = 0.0,
) -> Transform:
    """Descend along gradients divided by the root of their running square.

        b ← μb + g/(√v + ε)      p ← p − ηb

    Args:
      learning_rate: η ≥ 0, or a schedule of it over the updates.
      alpha: α in [0, 1), decay of the running square per update.
      eps: ε > 0, in the unit of the gradient; added outside the root.
      momentum: μ in [0, 1).

    Returns:
      A `Transform`, the chain of `scale_by_rms`, `trace` and `scale_by_learning_rate`.

    Raises:
      ValueError: a number is out of its range; the message names it.

    Source: torch.optim.RMSprop,
      https://docs.pytorch.org/docs/stable/generated/torch.optim.RMSprop.html.
    """
    return chain(scale_by_rms(alpha, eps), trace(momentum), scale_by_learning_rate(learning_rate))


def centered_rmsprop(
    learning_rate: float | Schedule,
    alpha: float = 0.99,
    eps: float = 1e-8,
    *,
    momentum: float = 0.0,
) -> Transform:
    """Descend along gradients divided by their running standard deviation.

        b ← μb + g/(√s + ε)      p ← p − ηb

    Args:
      learning_rate: η ≥ 0, or a schedule of it over the updates.
      alpha: α in [0, 1), decay of the running mean and variance per update.
      eps: ε > 0, in the unit of the gradient; added outside the root.
      momentum: μ in [0, 1).

    Returns:
      A `Transform`, the chain of `scale_by_stddev`, `trace` and `scale_by_learning_rate`.

    Raises:
      ValueError: a number is out of its range; the message names it.

    Source: torch.optim.RMSprop with `centered=True`,
      https://docs.pytorch.org/docs/stable/generated/torch.optim.RMSprop.html.
    """
    return chain(
        scale_by_stddev(alpha, eps), trace(momentum), scale_by_learning_rate(learning_rate)
    )


def _require_numbers(alpha: float, eps: float) -> None:
    check.require_number("alpha", alpha, 0.0, 1.0, open_high=True)
    check.require_number("eps", eps, 0.0, open_low=True)
