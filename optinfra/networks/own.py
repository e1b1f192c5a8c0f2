"""Modules of the user's own among those of this library: docs/networks.md has their protocol."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from optinfra.networks.images import as_floats
from optinfra.networks.initializers import draw

TRIED_ROWS = 2  # one could pass for none


class OwnModule(nn.Module):
    """Let a module of the user's own read observations with any leading axes.

        y = module(x_1, x_2, …),   x_i [N, *shape_i], bytes as 255ths,   y [N, h]

    When it is taken in it is tried on zeros, with zeros for parameters that hold nothing.

    Args:
      name: what makes it, as the user calls it.
      module: of the user's own.
      shapes: of what it reads.
      width: h.

    Raises:
      ValueError: it raises, cannot be drawn, or gives something else than `[N, h]`; the message
        has its name.
    """

    def __init__(
        self, name: str, module: nn.Module, shapes: Sequence[tuple[int, ...]], width: int
    ) -> None:
        super().__init__()
        self.module, self.shapes, self.width = module, tuple(shapes), width
        read = ", ".join(map(str, self.shapes))
        expected = f"`{name}` must be a module from rows of {read} to [N, {width}]"
        try:
            made = _tried(module, self.shapes)
            draw(module)
        except Exception as error:  # anyone's code
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise ValueError(f"{expected}, got {reason}") from error
        if not isinstance(made, Tensor) or made.shape != (TRIED_ROWS, width):
            got = list(made.shape) if isinstance(made, Tensor) else type(made).__name__
            raise ValueError(f"{expected}, got {got} from {TRIED_ROWS} rows.")

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Map inputs `[*B, *shape_i]` to `[*B, h]`."""
        rows = inputs[0].shape[: inputs[0].ndim - len(self.shapes[0])]
        flat = (as_floats(x).reshape(-1, *shape) for x, shape in zip(inputs, self.shapes))
        # Images come pixel by pixel, of which a module that calls `view` can make nothing.
        made: Tensor = self.module(*(x.contiguous() for x in flat))
        return made.reshape(*rows, self.width)


def _tried(module: nn.Module, shapes: Sequence[tuple[int, ...]]) -> Tensor:
    """Run a module on rows of zeros, where what it holds lies."""
    held = [x for x in (*module.parameters(), *module.buffers()) if not x.is_meta]
    device = held[0].device if held else torch.device("cpu")
    blank = {
        name: torch.zeros(x.shape, device=device)
        for name, x in module.named_parameters()
        if x.is_meta
    }
    rows = tuple(torch.zeros(TRIED_ROWS, *shape, device=device) for shape in shapes)
    with torch.no_grad():
        made: Tensor = functional_call(module, blank, rows)
    return made
