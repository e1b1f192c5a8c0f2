"""Leaves that every state needs, made where the parameters are."""

import torch
from torch import Tensor

from optinfra import tree
from optinfra.types import PyTree


def device_of(params: PyTree) -> torch.device | None:
    """Device of the first leaf; None (torch's default) for a tree without leaves."""
    leaves = tree.leaves(params)
    return leaves[0].device if leaves else None


def hyper_leaf(number: float, params: PyTree) -> Tensor:
    """A hyperparameter as `[]`: float64 where a parameter is float64, float32 elsewhere."""
    wide = any(x.dtype == torch.float64 for x in tree.leaves(params))
    dtype = torch.float64 if wide else torch.float32
    return torch.tensor(number, dtype=dtype, device=device_of(params))


def counter_leaf(params: PyTree) -> Tensor:
    """A counter as `[]` int64, at zero."""
    return torch.zeros((), dtype=torch.int64, device=device_of(params))
