"""How parameters are drawn: by key, under the name they have in their module."""

import math
import zlib
from collections.abc import Callable
from functools import partial
from typing import TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from optinfra import random
from optinfra.types import Key, Params

Initializer: TypeAlias = Callable[[Key, tuple[int, ...]], Tensor]  # (key, shape) -> parameter


Module = TypeVar("Module", bound=nn.Module)


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

    return lambda key, shape: uniform_by_inputs(shape[1])(key, shape)


def uniform_by_inputs(inputs: int) -> Initializer:
    """Draw from U(±1/√inputs), whatever the shape: weights and biases of torch's convolutions."""
    bound = 1 / math.sqrt(inputs)
    return lambda key, shape: random.uniform(key, shape, minval=-bound, maxval=bound)


def draw(module: nn.Module) -> Callable[[Key], Params]:
    """Describe how every parameter of `module` is drawn.

    A module says so by an attribute `initializers`, a dict from the names of its own
    parameters to `Initializer`s. Of torch's layers, linear ones (uniform weights, zero bias),
    convolutions, embeddings, attention and normalisations of a row are known without one. Each
    parameter draws with the key folded with its full name, so that adding a layer changes no
    other layer's draw. One that several modules share is drawn once, by its first name.

    Args:
      module: may live on the meta device; its own values are never read.

    Returns:
      `(key [2]) -> {name: parameter}`, pure; vmap it over keys for an ensemble.

    Raises:
      TypeError: a module has parameters and no initializers, or is no pure function of single
        rows, as batch normalisation and dropout are none in training; the message names it.
    """
    plan = []
    first = {full for full, _ in module.named_parameters()}
    for path, owner in module.named_modules():
        _require_pure(path, owner)
        initializers = _initializers_of(owner)
        for name, parameter in owner.named_parameters(recurse=False):
            full = f"{path}.{name}" if path else name
            if full not in first:
                continue
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


def pretrained(module: Module) -> Module:
    """Let a module begin with the weights that it holds, whatever the key.

    Args:
      module: of the user's own; not on the meta device. It is given the attribute
        `initializers` throughout.

    Returns:
      The same module.

    Raises:
      ValueError: a parameter is on the meta device and holds nothing.
    """
    for path, owner in module.named_modules():
        held = dict(owner.named_parameters(recurse=False))
        for name, parameter in held.items():
            if parameter.is_meta:
                full = f"{path}.{name}" if path else name
                raise ValueError(f"`{full}` must hold values, got a parameter on the meta device.")
        owner.__dict__["initializers"] = {name: given(x.detach()) for name, x in held.items()}
    return module


def given(value: Tensor) -> Initializer:
    """Begin with these values, whatever the key and the shape."""
    return lambda key, shape: value.to(key.device, copy=True)


def _initializers_of(module: nn.Module) -> dict[str, Initializer]:
    if hasattr(module, "initializers"):
        own: dict[str, Initializer] = module.initializers  # type: ignore[assignment]
        return own
    if isinstance(module, nn.Linear):
        return {"weight": lecun_uniform(), "bias": constant(0.0)}
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        of_torch = uniform_by_inputs(math.prod(module.weight.shape[1:]))
        return {"weight": of_torch, "bias": of_torch}
    if isinstance(module, nn.LayerNorm | nn.GroupNorm | nn.RMSNorm):
        return {"weight": constant(1.0), "bias": constant(0.0)}
    if isinstance(module, nn.Embedding):
        return {"weight": partial(_embeddings, module.padding_idx)}
    if isinstance(module, nn.MultiheadAttention):
        projections = ("in_proj", "q_proj", "k_proj", "v_proj")
        weights = {f"{name}_weight": xavier_uniform() for name in projections}
        return {**weights, "in_proj_bias": constant(0.0)}
    return {}


def _embeddings(padding: int | None, key: Key, shape: tuple[int, ...]) -> Tensor:
    """Draw from N(0, 1); what stands for nothing is zero."""
    drawn = random.normal(key, shape)
    if padding is None:
        return drawn
    return torch.where((torch.arange(shape[0], device=key.device) == padding)[:, None], 0.0, drawn)


def _require_pure(path: str, module: nn.Module) -> None:
    """Raise TypeError where a module mixes rows, writes into itself or draws by itself."""
    if (does := _impurity(module)) is None:
        return
    name, kind = path or "module", type(module).__name__
    raise TypeError(f"`{name}` must be a pure function of single rows, got {kind}, which {does}")


def _impurity(module: nn.Module) -> str | None:
    batch_norm, norm = nn.modules.batchnorm._BatchNorm, nn.modules.batchnorm._NormBase
    if isinstance(module, batch_norm) and (module.training or not module.track_running_stats):
        return "normalises over a batch. Take LayerNorm or GroupNorm, or freeze it by `eval()`."
    if isinstance(module, norm) and module.training and module.track_running_stats:
        return "keeps running statistics. Take `track_running_stats=False`."
    dropped = isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0
    if isinstance(module, nn.MultiheadAttention):
        dropped = module.dropout > 0
    if dropped and module.training:
        return "draws by itself. Leave the dropout out, or call `eval()`."
    return None
