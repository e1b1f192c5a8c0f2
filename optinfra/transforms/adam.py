"""Adam, and Adam with decoupled weight decay."""

from typing import NamedTuple

import torch
from torch import Tensor

from optinfra import check, tree
from optinfra.transforms.agreement import require_agreement
from optinfra.transforms.composition import chain
from optinfra.transforms.interpolation import lerp
from optinfra.transforms.leaf import counter_leaf, hyper_leaf
from optinfra.transforms.scaling import scale_by_learning_rate
from optinfra.transforms.weight_decay import add_decayed_weights
from optinfra.types import PyTree, Schedule, Transform


class ScaleByAdamHyper(NamedTuple):
    """Hyperparameters of `scale_by_adam`."""

    b1: Tensor  # [] float in [0, 1)
    b2: Tensor  # [] float in [0, 1)
    eps: Tensor  # [] float > 0, unit of the gradient


class ScaleByAdamState(NamedTuple):
    """What Adam remembers between updates."""

    hyper: ScaleByAdamHyper
    step: Tensor  # [] int64, updates seen so far
    first: PyTree  # as params, running mean of g
    second: PyTree  # as params, running mean of g²


def scale_by_adam(b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> Transform:
    """Divide the running mean of each gradient by the root of its running square.

        m ← β₁m + (1−β₁)g      v ← β₂v + (1−β₂)g²
        u = m/(1−β₁ᵗ) / (√(v/(1−β₂ᵗ)) + ε),   t = 1, 2, …

    Args:
      b1: β₁ in [0, 1), decay of the first moment per update.
      b2: β₂ in [0, 1), decay of the second moment per update.
      eps: ε > 0, in the unit of the gradient; added outside the root.

    Returns:
      A `Transform`. Its updates point uphill: `scale_by_learning_rate` comes next.

    Raises:
      ValueError: a number is out of its range; a gradient's shape is not that of its
        parameter. The message names it.

    Source: Kingma & Ba 2015, algorithm 1, https://arxiv.org/abs/1412.6980; torch.optim.Adam
      and optax.scale_by_adam define the same.
    """
    check.require_number("b1", b1, 0.0, 1.0, open_high=True)
    check.require_number("b2", b2, 0.0, 1.0, open_high=True)
    check.require_number("eps", eps, 0.0, open_low=True)

    def init(params: PyTree) -> ScaleByAdamState:
        return ScaleByAdamState(
            hyper=ScaleByAdamHyper(*(hyper_leaf(number, params) for number in (b1, b2, eps))),
            step=counter_leaf(params),
            first=tree.map(torch.zeros_like, params),
            second=tree.map(torch.zeros_like, params),
        )

    def update(
        state: ScaleByAdamState, grads: PyTree, params: PyTree
    ) -> tuple[ScaleByAdamState, PyTree]:
        require_agreement("grads", grads, state.first)
        del params
        b1, b2, eps = state.hyper
        step = state.step + 1
        first = tree.map(lambda m, g: lerp(g, m, b1), state.first, grads)
        second = tree.map(lambda v, g: lerp(g * g, v, b2), state.second, grads)
        # 1 − βᵗ, as −expm1(t·log β): in float32 the plain form is off by up to 7e-6.
        seen1 = -torch.expm1(torch.xlogy(step, b1))
        seen2 = -torch.expm1(torch.xlogy(step, b2))
        # Numerator and denominator times 1 − β₁ᵗ: two passes over the parameters fewer.
        root, floor = seen1 * seen2.rsqrt(), seen1 * eps
        updates = tree.map(lambda m, v: m / (v.sqrt() * root + floor), first, second)
        return ScaleByAdamState(state.hyper, step, first, second), updates

    return Transform(init, update)


def adam(
    learning_rate: float | Schedule, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8
) -> Transform:
    """Descend with Adam.

        p ← p − η·m/(1−β₁ᵗ) / (√(v/(1−β₂ᵗ)) + ε)

    Args:
      learning_rate: η ≥ 0, or a schedule of it over the updates.
      b1: β₁ in [0, 1), decay of the first moment per update.
      b2: β₂ in [0, 1), decay of the second moment per update.
      eps: ε > 0, in the unit of the gradient; added outside the root.

    Returns:
      A `Transform`, the chain of `scale_by_adam` and `scale_by_learning_rate`.

    Raises:
      ValueError: a number is out of its range; the message names it.

    Source: Kingma & Ba 2015, algorithm 1, https://arxiv.org/abs/1412.6980; defaults of
      torch.optim.Adam and optax.adam.
    """
    return chain(scale_by_adam(b1, b2, eps), scale_by_learning_rate(learning_rate))


def adamw(
    learning_rate: float | Schedule,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    *,
    weight_decay: float = 1e-2,
) -> Transform:
    """Descend with Adam and shrink the parameters beside it.

        p ← p − η·(m/(1−β₁ᵗ) / (√(v/(1−β₂ᵗ)) + ε) + λp)

    Args:
      learning_rate: η ≥ 0, or a schedule of it over the updates.
      b1: β₁ in [0, 1), decay of the first moment per update.
      b2: β₂ in [0, 1), decay of the second moment per update.
      eps: ε > 0, in the unit of the gradient; added outside the root.
      weight_decay: λ ≥ 0, decoupled from the gradient but not from η.

    Returns:
      A `Transform`, the chain of `scale_by_adam`, `add_decayed_weights` and
      `scale_by_learning_rate`.

    Raises:
      ValueError: a number is out of its range; the message names it.

    Source: Loshchilov & Hutter 2019, algorithm 2, https://arxiv.org/abs/1711.05101; defaults
      of torch.optim.AdamW (optax.adamw decays by 1e-4).
    """
    return chain(
        scale_by_adam(b1, b2, eps),
        add_decayed_weights(weight_decay),
        scale_by_learning_rate(learning_rate),
    )
