"""Stochastic gradient descent, with momentum or without."""

from typing import NamedTuple

import torch
from torch import Tensor

from optinfra import check, tree
from optinfra.transforms.agreement import require_agreement
from optinfra.transforms.composition import chain
from optinfra.transforms.leaf import hyper_leaf
from optinfra.transforms.scaling import scale_by_learning_rate
from optinfra.types import PyTree, Schedule, Transform


class TraceHyper(NamedTuple):
    """Hyperparameters of `trace`."""

    momentum: Tensor  # [] float in [0, 1)


class TraceState(NamedTuple):
    """What `trace` remembers between updates."""

    hyper: TraceHyper
    velocity: PyTree  # as params, decayed sum of g


def trace(momentum: float, *, nesterov: bool = False) -> Transform:
    """Replace each gradient by the decayed sum of all so far.

        b ← μb + g      u = b,   or g + μb with Nesterov's look ahead

    Args:
      momentum: μ in [0, 1); 0 leaves the gradients as they are.
      nesterov: look ahead. Static: it changes the formula and not the state.

    Returns:
      A `Transform`.

    Raises:
      ValueError: `momentum` lies outside [0, 1); a gradient's shape is not that of its
        parameter.

    Source: Sutskever et al. 2013, http://proceedings.mlr.press/v28/sutskever13.html, in the
      form of torch.optim.SGD without dampening and of optax.trace.
    """
    check.require_number("momentum", momentum, 0.0, 1.0, open_high=True)

    def init(params: PyTree) -> TraceState:
        hyper = TraceHyper(hyper_leaf(momentum, params))
        return TraceState(hyper, tree.map(torch.zeros_like, params))

    def update(state: TraceState, grads: PyTree, params: PyTree) -> tuple[TraceState, PyTree]:
        require_agreement("grads", grads, state.velocity)
        del params
        mu = state.hyper.momentum
        # A 0-d leaf would take over the dtype of a wider μ.
        velocity = tree.map(lambda b, g: (mu * b + g).to(b.dtype), state.velocity, grads)
        updates = tree.map(lambda g, b: g + mu * b, grads, velocity) if nesterov else velocity
        return TraceState(state.hyper, velocity), updates

    return Transform(init, update)


def sgd(
    learning_rate: float | Schedule, momentum: float = 0.0, *, nesterov: bool = False
) -> Transform:
    """Descend along the gradient or along its decayed sum.

        b ← μb + g      p ← p − η·(b, or g + μb with Nesterov's look ahead)

    It is torch.optim.SGD without dampening; `chain(add_decayed_weights(λ), sgd(…))` is the
    same with its `weight_decay`.

    Args:
      learning_rate: η ≥ 0, or a schedule of it over the updates.
      momentum: μ in [0, 1). 0 is plain descent; its sum is kept all the same, so that μ can
        be swept.
      nesterov: look ahead.

    Returns:
      A `Transform`, the chain of `trace` and `scale_by_learning_rate`.

    Raises:
      ValueError: a number is out of its range; the message names it.

    Source: torch.optim.SGD, https://docs.pytorch.org/docs/stable/generated/torch.optim.SGD.html.
    """
    return chain(trace(momentum, nesterov=nesterov), scale_by_learning_rate(learning_rate))
