"""Steps that are not taken because a number in them is not finite."""

from typing import NamedTuple

import torch
from torch import Tensor

from optinfra import tree
from optinfra.transforms.leaf import counter_leaf
from optinfra.types import PyTree, Transform


class SkipNonfiniteState(NamedTuple):
    """What the wrapped transformation remembers, and how often it was not asked."""

    inner: PyTree
    skipped: Tensor  # [] int64, steps skipped so far


def skip_nonfinite(transform: Transform) -> Transform:
    """Leave out a whole step where a gradient, an update or the new state is not finite.

        finite = all(|x| < ∞ for x in g, u, state′),   state′, u = transform(state, g)
        state, u ← state′, u where finite, else state, 0

    The parameters and the state of `transform` stay bit for bit, its step count too; under
    `vmap` this is decided member by member. Nothing branches: both ways are computed. The
    state is looked at because it can overflow on its own: of a finite gradient of 1e20, Adam
    would keep an infinite square and never move again.

    Args:
      transform: the whole chain, the learning rate included, so that what it would add to the
        parameters is what is looked at. A state that begins with an infinity never moves.

    Returns:
      A `Transform`. `state.skipped` counts.

    Differs: optax.apply_if_finite looks at the updates alone, and gives up after some skips.

    Source: optax.apply_if_finite,
      https://optax.readthedocs.io/en/latest/api/transformations.html.
    """

    def init(params: PyTree) -> SkipNonfiniteState:
        return SkipNonfiniteState(transform.init(params), counter_leaf(params))

    def update(
        state: SkipNonfiniteState, grads: PyTree, params: PyTree
    ) -> tuple[SkipNonfiniteState, PyTree]:
        inner, updates = transform.update(state.inner, grads, params)
        finite = _all_finite((grads, updates, inner))
        untouched = state.inner, tree.map(torch.zeros_like, grads)
        inner, updates = tree.where(finite, (inner, updates), untouched)
        skipped = state.skipped + finite.logical_not()
        return SkipNonfiniteState(inner, skipped), updates

    return Transform(init, update)


def _all_finite(xs: PyTree) -> Tensor:
    """`[]` bool: no NaN and no infinity in any leaf."""
    # On a CPU over ten times faster than isfinite().all() (42 000 entries: 5 µs to 100). Shorter
    # still would be 0·x, which is 0 or NaN, but inductor folds it into 0.
    floats = [x for x in tree.leaves(xs) if x.is_floating_point() and x.numel()]
    if not floats:
        return torch.ones((), dtype=torch.bool)
    return torch.stack([x.abs().amax() for x in floats]).amax() < torch.inf
