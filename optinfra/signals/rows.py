"""Rows of transitions as signals read them: checked, and blank where they do not count."""

from typing import TypeVar

import torch
from torch import Tensor

from optinfra import tree
from optinfra.check import require_dtype, require_shape
from optinfra.types import Action, ActionSpec, Obs, Spec

Tree = TypeVar("Tree")


def require_obs(name: str, spec: Spec, obs: Obs, mask: Tensor) -> None:
    """Raise unless `obs` are the observations of the spec, in as many rows as `mask` `[*N]`."""
    require_dtype("mask", mask, torch.bool)
    if len(obs) != len(spec.obs):
        raise ValueError(f"`{name}` must have {len(spec.obs)} observations, got {len(obs)}.")
    for i, (x, shape) in enumerate(zip(obs, spec.obs)):
        require_shape(f"{name}[{i}]", x, (*mask.shape, *shape), f"*N, D_{i}")


def require_action(spec: Spec, action: Action, mask: Tensor) -> None:
    """Raise unless `action` is one of the spec, in as many rows as `mask` `[*N]`."""
    rows, sizes = mask.shape, spec.action
    require_shape("action.continuous", action.continuous, (*rows, sizes.continuous), "*N, A")
    require_shape("action.discrete", action.discrete, (*rows, len(sizes.branches)), "*N, K")
    require_dtype("action.discrete", action.discrete, torch.int64)


def require_flag(name: str, flag: Tensor, mask: Tensor) -> None:
    """Raise unless `flag` is bool and has a value for each row of `mask` `[*N]`."""
    require_dtype(name, flag, torch.bool)
    require_shape(name, flag, mask.shape, "*N")


def blanked(mask: Tensor, rows: Tree) -> Tree:
    """Let zeros take the place of what a masked row holds: not even 0 · NaN may reach a gradient.

    Args:
      mask: `[*N]` bool. True counts.
      rows: a tree of `[*N, …]`.
    """
    blank: Tree = tree.blank(mask, rows)
    return blank


def flat_action(spec: ActionSpec, action: Action) -> Tensor:
    """Lay the continuous dimensions and then one one-hot per branch side by side.

    Args:
      spec: sizes.
      action: `[*N, A]` and `[*N, K]`.

    Returns:
      `[*N, A + choices]`, of the dtype of the continuous part.
    """
    columns = [action.continuous]
    for k, size in enumerate(spec.branches):
        choices = torch.arange(size, device=action.discrete.device)
        columns.append((action.discrete[..., k : k + 1] == choices).to(action.continuous.dtype))
    return torch.cat(columns, -1)
