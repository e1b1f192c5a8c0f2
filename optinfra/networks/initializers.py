"""How parameters are drawn: by key, under the name they have in their module."""

import math
import zlib
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor, nn

from optinfra import random
from optinfra.types import Key, Params

Initializer: TypeAlias = Callable[[Key, tuple[int, ...]], Tensor]  # (key, shape) -> parameter


def constant(value: float) -> Initializer:
    """Fill with `value`."""
    return lambda key, shape: torch.full(shape, value, dtype=torch.float32, device=key.device)


def xavier_uniform(gain: float = 1.0) -> Initializer:
    """Draw from U(±gain·√(6 / (fan_in + fan_out))); shape `[fan_out, fan_in]`.

    Source: Glorot & Bengio 2010, eq. 16.
    """

    def initializer(key: Key, shape: tuple[int, ...]) -> Tensor:
        fan_out, fan_in = shape
        bound = gain * math.sqrt(6 / (fan_in + fan_out))
        return random.uniform(key, shape, minval=-bound, maxval=bound)

    return initializer


def kaiming_normal(gain: float = 1.0) -> Initializer:
    """Draw from N(0, gain² / fan_in); shape `[fan_out, fan_in]`.

    Differs: from He's √2 for rectifiers; ML-Agents takes the variant for linear units.
    Source: He et al. 2015, https://arxiv.org/abs/1502.01852.
    """
    return lambda key, shape: random.normal(key, shape) * (gain / math.sqrt(shape[1]))


def orthogonal(gain: float = 1.0) -> Initializer:
    """Draw a matrix with orthonormal rows or columns, whichever are fewer, times `gain`.

    Source: Saxe et al. 2014, https://arxiv.org/abs/1312.6120.
    """
    return lambda key, shape: random.orthogonal(key, *shape) * gain


def lecun_uniform() -> Initializer:
    """Draw from U(±1/√fan_in), what `torch.nn.Linear` does; shape `[fan_out, fan_in]`."""

    def initializer(key: Key, shape: tuple[int, ...]) -> Tensor:
        bound = 1 / math.sqrt(shape[1])
        return random.uniform(key, shape, minval=-bound, maxval=bound)

    return initializer


def draw(module: nn.Module) -> Callable[[Key], Params]:
    """Describe how every parameter of `module` is drawn.

    A module says so by an attribute `initializers`, a dict from the names of its own
    parameters to `Initializer`s; `torch.nn.Linear` is known without one (uniform weights,
    zero bias). Each parameter draws with the key folded with its full name, so that adding
    a layer changes no other layer's draw.

    Args:
      module: may live on the meta device; its own values are never read.

    Returns:
      `(key [2]) -> {name: parameter}`, pure; vmap it over keys for an ensemble.

    Raises:
      TypeError: a module has parameters and no initializers; the message names it.
    """
    plan = []
    for path, owner in module.named_modules():
        initializers = _initializers_of(owner)
        for name, parameter in owner.named_parameters(recurse=False):
            full = f"{path}.{name}" if path else name
            if name not in initializers:
                raise TypeError(
                    f"`{full}` must have an initializer, got none from {type(owner).__name__}. "
                    f"Give the module an attribute `initializers` with the key {name!r}."
                )
            plan.append((full, name_hash(full), initializers[name], tuple(parameter.shape)))

    def init(key: Key) -> Params:
        return {
            full: initializer(random.fold_in(key, data), shape)
            for full, data, initializer, shape in plan
        }

    return init


def name_hash(name: str) -> int:
    """Turn a name into the number with which a key is folded for it: its CRC-32."""
    return zlib.crc32(name.encode())


def _initializers_of(module: nn.Module) -> dict[str, Initializer]:
    if isinstance(module, nn.Linear):
        return {"weight": lecun_uniform(), "bias": constant(0.0)}
    return getattr(module, "initializers", {})
