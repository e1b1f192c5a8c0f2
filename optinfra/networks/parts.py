"""Modules as pure functions: alone, or of the parameters of a network that they are part of."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
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
    places = _places(module)

    def call(params: Params, *inputs: Any, **options: Any) -> Any:
        own = {short: params[full] for short, full in names.items()}
        if constants and own:
            device = next(iter(own.values())).device
            own |= {short: x.to(device) for short, x in constants.items()}
        if torch.compiler.is_compiling():
            return functional_call(module, own, inputs, options)
        return _called(module, places, own, inputs, options)

    return call


class _Place(NamedTuple):
    """Where a module keeps a parameter or a constant."""

    table: dict[str, Any]
    name: str
    short: str  # what it is called in the whole


def _places(module: nn.Module) -> list[_Place]:
    """Find every place of every parameter and constant; a shared one has several."""
    first: dict[int, str] = {}
    places = []
    for prefix, part in module.named_modules(remove_duplicate=False):
        for table in (part._parameters, part._buffers):
            for name, x in table.items():
                if x is not None:
                    short = first.setdefault(id(x), f"{prefix}.{name}" if prefix else name)
                    places.append(_Place(table, name, short))
    return places


def _called(
    module: nn.Module,
    places: Sequence[_Place],
    own: Mapping[str, Any],
    inputs: tuple[Any, ...],
    options: dict[str, Any],
) -> Any:
    """Do what `functional_call` does, which looks for the places anew at each call.

    Of a small network that takes longer than the call itself.
    """
    before = [(table, name, table[name]) for table, name, _ in places]
    try:
        for table, name, short in places:
            if short in own:
                table[name] = own[short]
        return module(*inputs, **options)
    finally:
        for table, name, x in before:
            table[name] = x
