"""A transformation of all parameters as one vector."""

from typing import NamedTuple

import torch
from torch import Tensor

from optinfra import tree
from optinfra.transforms.agreement import require_agreement
from optinfra.types import PyTree, Transform


class RaveledState(NamedTuple):
    """What the wrapped transformation remembers of the vectors it sees."""

    inner: PyTree


def raveled(transform: Transform) -> Transform:
    """Apply `transform` to all leaves of one dtype laid end to end.

        u = unravel(transform(ravel(g)))

    Without a compiler each operation on a short leaf costs more to start than to run: a
    guarded, clipped Adam takes 0.5 of the time on 13 leaves of 38 000 numbers, 0.26 on 52 of
    12 000 (adam alone 0.8 and 0.64). Compiled, there is little between them.

    The result is the same, on the whole to rounding, for transformations that work element by
    element or on the whole, which is all of this room but `masked`: its mask has the structure
    of the parameters, so write `masked(raveled(…), mask)`.

    Args:
      transform: it is given a dict of vectors by dtype (`"torch.float32"`: `[N]`).

    Returns:
      A `Transform`.

    Raises:
      ValueError: structure or a shape of the gradients differs from the parameters'.

    Source: optax.flatten, https://optax.readthedocs.io/en/latest/api/transformations.html.
    """

    def init(params: PyTree) -> RaveledState:
        leaves = tree.leaves(params)
        return RaveledState(transform.init(_ravel(leaves, _by_dtype(leaves))))

    def update(state: RaveledState, grads: PyTree, params: PyTree) -> tuple[RaveledState, PyTree]:
        require_agreement("grads", grads, params)
        leaves = tree.leaves(grads)
        positions = _by_dtype(leaves)
        inner, updates = transform.update(
            state.inner, _ravel(leaves, positions), _ravel(tree.leaves(params), positions)
        )
        return RaveledState(inner), tree.unflatten(grads, _unravel(updates, leaves, positions))

    return Transform(init, update)


def _by_dtype(leaves: list[Tensor]) -> dict[str, list[int]]:
    """Positions of the leaves of each dtype."""
    positions: dict[str, list[int]] = {}
    for i, x in enumerate(leaves):
        positions.setdefault(str(x.dtype), []).append(i)
    return positions


def _ravel(leaves: list[Tensor], positions: dict[str, list[int]]) -> dict[str, Tensor]:
    """The leaves at the positions of each dtype as one vector `[N]`."""
    return {
        dtype: torch.cat([leaves[i].reshape(-1) for i in chosen])
        for dtype, chosen in positions.items()
    }


def _unravel(
    vectors: dict[str, Tensor], like: list[Tensor], positions: dict[str, list[int]]
) -> list[Tensor]:
    """The inverse of `_ravel`, in the shapes of `like`."""
    leaves = list(like)
    for dtype, chosen in positions.items():
        pieces = vectors[dtype].split([like[i].numel() for i in chosen])
        for i, piece in zip(chosen, pieces):
            leaves[i] = piece.reshape(like[i].shape)
    return leaves
