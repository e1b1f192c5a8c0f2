"""torch itself: its optimizers, and what importing it costs."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import torch


def adam(*, shapes: list[list[int]], fused: bool) -> Callable[[], Any]:
    """Step `torch.optim.Adam`, fused or foreach, which writes in place."""
    params = [torch.randn(shape, requires_grad=True) for shape in shapes]
    for p in params:
        p.grad = torch.randn_like(p)
    return torch.optim.Adam(params, lr=3e-4, fused=fused, foreach=not fused).step


def importing() -> Callable[[], Any]:
    """Import torch in a fresh process."""
    return lambda: subprocess.run([sys.executable, "-c", "import torch"], check=True)


def recurrent_layer(
    *, kind: str, steps: int, rows: int, inputs: int, units: int
) -> Callable[[], Any]:
    """Run `torch.nn.LSTM` or `GRU` and its gradient with respect to weights and inputs."""
    layer = getattr(torch.nn, kind)(inputs, units)
    x = torch.randn(steps, rows, inputs, requires_grad=True)
    wanted = [*layer.parameters(), x]
    return lambda: torch.autograd.grad(layer(x)[0].sum(), wanted)
