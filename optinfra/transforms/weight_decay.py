"""Weight decay."""

from typing import NamedTuple

from torch import Tensor

from optinfra import check, tree
from optinfra.transforms.agreement import require_agreement
from optinfra.transforms.leaf import hyper_leaf
from optinfra.types import PyTree, Transform


class AddDecayedWeightsHyper(NamedTuple):
    """Hyperparameters of `add_decayed_weights`."""

    weight_decay: Tensor  # [] float ≥ 0


class AddDecayedWeightsState(NamedTuple):
    """What `add_decayed_weights` remembers: nothing but its hyperparameter."""

    hyper: AddDecayedWeightsHyper


def add_decayed_weights(weight_decay: float) -> Transform:
    """Add to every gradient a pull towards zero.

        u = g + λp

    Before a preconditioner it is torch.optim's coupled `weight_decay` (the gradient of λp²/2),
    after one it is AdamW's decoupled decay.

    Args:
      weight_decay: λ ≥ 0.

    Returns:
      A `Transform`.

    Raises:
      ValueError: `weight_decay` is negative or not finite; a gradient's shape is not that of
        its parameter.

    Source: optax.add_decayed_weights,
      https://optax.readthedocs.io/en/latest/api/transformations.html.
    """
    check.require_number("weight_decay", weight_decay, 0.0)

    def init(params: PyTree) -> AddDecayedWeightsState:
        return AddDecayedWeightsState(AddDecayedWeightsHyper(hyper_leaf(weight_decay, params)))

    def update(
        state: AddDecayedWeightsState, grads: PyTree, params: PyTree
    ) -> tuple[AddDecayedWeightsState, PyTree]:
        require_agreement("grads", grads, params)
        decay = state.hyper.weight_decay
        return state, tree.map(lambda g, p: g + decay * p, grads, params)

    return Transform(init, update)
