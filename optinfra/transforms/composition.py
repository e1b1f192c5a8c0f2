"""Transformations one after the other, and the addition at the end."""

from optinfra import tree
from optinfra.transforms.agreement import require_agreement
from optinfra.types import PyTree, Transform


def chain(*transforms: Transform) -> Transform:
    """Apply transformations from left to right, the updates of one the gradients of the next.

        u₀ = g      uᵢ = transformᵢ(uᵢ₋₁)

    Args:
      transforms: any number; none at all is the identity.

    Returns:
      A `Transform`. Its state is the tuple of their states, in the same order.

    Source: optax.chain, https://optax.readthedocs.io/en/latest/api/combining_optimizers.html.
    """

    def init(params: PyTree) -> tuple[PyTree, ...]:
        return tuple(transform.init(params) for transform in transforms)

    def update(
        state: tuple[PyTree, ...], grads: PyTree, params: PyTree
    ) -> tuple[tuple[PyTree, ...], PyTree]:
        states = []
        for transform, part in zip(transforms, state):
            part, grads = transform.update(part, grads, params)
            states.append(part)
        return tuple(states), grads

    return Transform(init, update)


def apply_updates(params: PyTree, updates: PyTree) -> PyTree:
    """Add the updates to the parameters, which keep their dtype.

        p ← p + u

    Args:
      params: any pytree of tensors.
      updates: as `params`; minus the learning rate is already in them.

    Returns:
      As `params`.

    Raises:
      ValueError: structure or a shape of `updates` differs; the message names the leaf.

    Source: optax.apply_updates, https://optax.readthedocs.io/en/latest/api/apply_updates.html.
    """
    require_agreement("updates", updates, params)
    return tree.map(lambda p, u: (p + u).to(p.dtype), params, updates)
