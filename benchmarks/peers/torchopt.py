"""TorchOpt's functional optimizers."""

from collections.abc import Callable
from typing import Any

import torch
import torchopt


def adam(*, shapes: list[list[int]]) -> Callable[[], Any]:
    """Apply its Adam without writing in place."""
    params = tuple(torch.randn(shape) for shape in shapes)
    grads = tuple(torch.randn(shape) for shape in shapes)
    optimizer = torchopt.adam(3e-4)
    state = optimizer.init(params)

    def update() -> None:
        nonlocal params, state
        updates, state = optimizer.update(grads, state, params=params, inplace=False)
        params = torchopt.apply_updates(params, updates, inplace=False)

    return update
