"""A transformation of some parameters and not of others."""

from typing import NamedTuple

from torch import Tensor

from optinfra import tree
from optinfra.types import PyTree, Transform


class MaskedState(NamedTuple):
    """What the wrapped transformation remembers of the leaves it sees."""

    inner: PyTree


def masked(transform: Transform, mask: PyTree) -> Transform:
    """Apply `transform` to the leaves that `mask` marks; the others pass unchanged.

        u = transform(g) where mask, g elsewhere

    What passes is still a gradient: to hold parameters still, scale the others by 0.

    Args:
      transform: it is given the marked leaves as a dict by path (`"actor/weight"`); a norm
        that it takes is theirs alone.
      mask: a pytree with the structure of the parameters and Python bools as leaves, static.

    Returns:
      A `Transform`.

    Raises:
      TypeError: a leaf of `mask` is not a Python bool.
      ValueError: parameters or gradients have another structure than `mask`.

    Source: optax.masked, https://optax.readthedocs.io/en/latest/api/transformations.html.
    """
    marks = tree.named_leaves(mask)
    for path, mark in marks.items():
        if not isinstance(mark, bool):
            raise TypeError(f"`mask[{path}]` must be True or False, got {type(mark).__name__}.")

    def marked(name: str, xs: PyTree) -> dict[str, Tensor]:
        leaves = tree.named_leaves(xs)
        if list(leaves) != list(marks):
            expected = f"have the leaves of `mask` {list(marks)}"
            raise ValueError(f"`{name}` must {expected}, got {list(leaves)}.")
        return {path: x for path, x in leaves.items() if marks[path]}

    def init(params: PyTree) -> MaskedState:
        return MaskedState(transform.init(marked("params", params)))

    def update(state: MaskedState, grads: PyTree, params: PyTree) -> tuple[MaskedState, PyTree]:
        inner, updates = transform.update(
            state.inner, marked("grads", grads), marked("params", params)
        )
        leaves = [updates.get(path, g) for path, g in zip(marks, tree.leaves(grads))]
        return MaskedState(inner), tree.unflatten(grads, leaves)

    return Transform(init, update)
