"""Modules as pure functions: alone, or of the parameters of a network that they are part of."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn
from torch.func import functional_call

from optinfra.types import Params


def whole(module: nn.Module) -> Callable[..., Any]:
    """Make a module callable with its parameters: `(params, *inputs, **options)`.

    Returns:
      A pure function of what the module's `forward` takes. Buffers are constants, and go where
      the parameters are.
    """
    return _calling(module, {name: name for name, _ in module.named_parameters()})


def part(parts: nn.ModuleDict, name: str) -> Callable[..., Any]:
    """Make a part callable with the parameters of all: `(params, *inputs, **options)`.

    Args:
      parts: modules by name; parameters are named `<part>.<its own name>`, those of a module that
        several parts share by the first of them.
      name: which part is called.

    Returns:
      A pure function like `whole`'s, which reads the parameters of this part only.
    """
    named = {parameter: full for full, parameter in parts.named_parameters()}
    own = parts[name].named_parameters()
    return _calling(parts[name], {short: named[parameter] for short, parameter in own})


def _calling(module: nn.Module, names: Mapping[str, str]) -> Callable[..., Any]:
    """Call a module with parameters that are known by other names."""
    constants = dict(module.named_buffers())

    def call(params: Params, *inputs: Any, **options: Any) -> Any:
        own = {short: params[full] for short, full in names.items()}
        if constants and own:
            device = next(iter(own.values())).device
            own |= {short: x.to(device) for short, x in constants.items()}
        return functional_call(module, own, inputs, options)

    return call
