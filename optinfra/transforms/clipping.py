"""Gradients of bounded length or size."""

from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

from optinfra import check, tree
from optinfra.transforms.leaf import hyper_leaf
from optinfra.types import PyTree, Transform


class ClipByGlobalNormHyper(NamedTuple):
    """Hyperparameters of `clip_by_global_norm`."""

    max_norm: Tensor  # [] float > 0, unit of the gradient


class ClipByGlobalNormState(NamedTuple):
    """What `clip_by_global_norm` remembers: nothing but its hyperparameter."""

    hyper: ClipByGlobalNormHyper


class ClipByValueHyper(NamedTuple):
    """Hyperparameters of `clip_by_value`."""

    limit: Tensor  # [] float ≥ 0, unit of the gradient


class ClipByValueState(NamedTuple):
    """What `clip_by_value` remembers: nothing but its hyperparameter."""

    hyper: ClipByValueHyper


def global_norm(xs: PyTree) -> Tensor:
    """Euclidean length of all leaves taken as one vector.

        ‖x‖ = √(Σᵢ xᵢ²)

    Args:
      xs: any pytree of float tensors.

    Returns:
      `[]`, in the unit of the leaves. Its derivative at zero is zero. A leaf of zeros
      more or less changes not a bit.

    Source: optax.global_norm, https://optax.readthedocs.io/en/latest/api/utilities.html.
    """
    norms = [torch.linalg.vector_norm(x) for x in tree.leaves(xs)]
    return reduce(_hypotenuse, norms) if norms else torch.zeros(())


def _hypotenuse(a: Tensor, b: Tensor) -> Tensor:
    return torch.linalg.vector_norm(torch.stack([a, b]))


def clip_by_global_norm(max_norm: float) -> Transform:
    """Shorten the gradient to `max_norm` where it is longer; its direction stays.

        u = g · max_norm/max(‖g‖, max_norm)

    A gradient within the bound passes bit for bit; a NaN anywhere makes all of it NaN.

    Args:
      max_norm: bound > 0 on the length of all leaves taken as one vector.

    Returns:
      A `Transform`.

    Raises:
      ValueError: `max_norm` is not finite and above 0.

    Differs: torch.nn.utils.clip_grad_norm_ divides by ‖g‖ + 1e-6; optax.clip_by_global_norm
      is the same as here.

    Source: Pascanu et al. 2013, algorithm 1, https://arxiv.org/abs/1211.5063.
    """
    check.require_number("max_norm", max_norm, 0.0, open_low=True)

    def init(params: PyTree) -> ClipByGlobalNormState:
        return ClipByGlobalNormState(ClipByGlobalNormHyper(hyper_leaf(max_norm, params)))

    def update(
        state: ClipByGlobalNormState, grads: PyTree, params: PyTree
    ) -> tuple[ClipByGlobalNormState, PyTree]:
        del params
        bound = state.hyper.max_norm
        factor = bound / torch.maximum(global_norm(grads), bound)
        return state, tree.map(lambda g: factor * g, grads)

    return Transform(init, update)


def clip_by_value(limit: float) -> Transform:
    """Bound the size of every entry of the gradient.

        u = min(max(g, −limit), limit)

    Args:
      limit: bound ≥ 0 on each entry; NaN stays NaN.

    Returns:
      A `Transform`.

    Raises:
      ValueError: `limit` is negative or not finite.

    Source: optax.clip, https://optax.readthedocs.io/en/latest/api/transformations.html;
      torch.nn.utils.clip_grad_value_ is the same.
    """
    check.require_number("limit", limit, 0.0)

    def init(params: PyTree) -> ClipByValueState:
        return ClipByValueState(ClipByValueHyper(hyper_leaf(limit, params)))

    def update(
        state: ClipByValueState, grads: PyTree, params: PyTree
    ) -> tuple[ClipByValueState, PyTree]:
        del params
        limit = state.hyper.limit

        # torch.clamp with tensor bounds takes several times as long on a CPU.
        def clip(g: Tensor) -> Tensor:
            return torch.minimum(torch.maximum(g, -limit), limit)

        return state, tree.map(clip, grads)

    return Transform(init, update)
