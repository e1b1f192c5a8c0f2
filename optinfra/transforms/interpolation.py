"""The step of an exponential average, shared by whoever keeps one."""

import torch
from torch import Tensor


def lerp(x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    """`(1 − weight)·x + weight·y`, of one dtype, where `weight` `[]` may have another.

    One operation, no rounded 1 − weight, and exact at both ends: torch.lerp starts from the
    nearer one.
    """
    return torch.lerp(x, y, weight if weight.dtype == x.dtype else weight.to(x.dtype))
