"""Named parts of a network, each as a pure function of the parameters of the whole."""

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.func import functional_call

from optinfra.types import Params


def part(parts: nn.ModuleDict, name: str) -> Callable[..., Any]:
    """Make a part callable with the parameters of all: `(params, *inputs, **options)`.

    Args:
      parts: modules by name; parameters are named `<part>.<its own name>`.
      name: which part is called.

    Returns:
      A pure function of what the part's `forward` takes; it reads the parameters that begin
      with `<name>.` only. Buffers are constants, and go where the parameters are.
    """
    module, prefix = parts[name], f"{name}."
    names = [(own, prefix + own) for own, _ in module.named_parameters()]
    constants = dict(module.named_buffers())

    def call(params: Params, *inputs: Any, **options: Any) -> Any:
        own = {short: params[full] for short, full in names}
        if constants and own:
            device = next(iter(own.values())).device
            own |= {short: x.to(device) for short, x in constants.items()}
        return functional_call(module, own, inputs, options)

    return call
