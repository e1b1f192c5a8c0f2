"""Gradients of losses at a tree of weights."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, func

from optinfra import tree
from optinfra.types import PyTree


def grad_and_value(
    loss: Callable[[PyTree], Any], *, has_aux: bool = False
) -> Callable[[PyTree], tuple[PyTree, Any]]:
    """Make a function that tells a loss and its gradient, as `torch.func.grad_and_value` does.

    Inside a transform of `torch.func` or a compiler it is that function. Anywhere else plain
    autograd does the same in less time: `torch.func` wraps every tensor that the loss touches.
    What comes back then carries no graph. Tensors made in inference mode are no concern of the
    caller: autograd takes none, and `torch.func` does it.

    Args:
      loss: `(weights) -> []`, or with `has_aux` a pair of that and a tree of tensors.
      has_aux: whether the loss gives a pair.

    Raises:
      ValueError: from the function, the loss is no scalar.

    Returns:
      `(weights) -> (gradient, what the loss gave)`, the gradient in the form of the weights; zeros
      for those that the loss does not read.
    """
    transformed = func.grad_and_value(loss, has_aux=has_aux)

    def call(weights: PyTree) -> tuple[PyTree, Any]:
        if (
            torch.compiler.is_compiling()
            or torch.is_inference_mode_enabled()
            or torch._C._are_functorch_transforms_active()
        ):
            return transformed(weights)
        try:
            return _by_autograd(loss, weights, has_aux)
        except RuntimeError as error:
            if "nference tensor" not in str(error):
                raise
        return transformed(weights)

    return call


def _by_autograd(
    loss: Callable[[PyTree], Any], weights: PyTree, has_aux: bool
) -> tuple[PyTree, Any]:
    with torch.enable_grad():
        leaves = [x.detach().requires_grad_() for x in tree.leaves(weights)]
        given = loss(tree.unflatten(weights, leaves))
    value: Tensor = given[0] if has_aux else given
    if value.ndim:
        raise ValueError(f"`loss` must give a scalar, got shape {list(value.shape)}.")
    if value.requires_grad:
        found = torch.autograd.grad(value, leaves, allow_unused=True, materialize_grads=True)
    else:
        found = tuple(torch.zeros_like(x) for x in leaves)
    return tree.unflatten(weights, list(found)), tree.map(Tensor.detach, given)
