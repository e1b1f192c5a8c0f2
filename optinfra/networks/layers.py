"""Layers that remember, LSTM and GRU, and what runs them over sequences.

A memory belongs to one agent. Whoever runs a sequence passes in the memory it starts from
and is given the one it ends with; nothing is remembered anywhere else.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from optinfra import random, tree
from optinfra.check import require_dtype, require_shape, require_trailing
from optinfra.networks.cells import CELLS
from optinfra.networks.initializers import Initializer, xavier_uniform
from optinfra.networks.unroll import keep_whole_in_graphs, unroll
from optinfra.types import Key, Obs, Params, PyTree

FORGET_BIAS = 1.0  # of both biases, so that a young memory keeps what it holds, as in ML-Agents


class Recurrent(nn.Module):
    """What LSTM and GRU have in common; parameters are named and laid out as torch.nn's.

    Args:
      inputs: D, width of the inputs.
      hidden_units: H, width of the outputs.
    """

    cell: str
    # One step, from `[*B, D]` and `[*B, M]` to the next memory; H of it are the output.
    step: Callable[[Tensor, Tensor], Tensor]

    def __init__(self, inputs: int, hidden_units: int) -> None:
        super().__init__()
        keep_whole_in_graphs()
        gates = CELLS[self.cell].gates

        def parameter(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(gates * hidden_units, *shape, device="meta"))

        self.hidden_units = hidden_units
        self.memory_size = CELLS[self.cell].states * hidden_units  # M
        self.weight_ih_l0, self.weight_hh_l0 = parameter(inputs), parameter(hidden_units)
        self.bias_ih_l0, self.bias_hh_l0 = parameter(), parameter()
        weight, bias = by_gate(gates, xavier_uniform()), self.bias
        self.initializers = {
            "weight_ih_l0": weight, "weight_hh_l0": weight, "bias_ih_l0": bias, "bias_hh_l0": bias,
        }  # fmt: skip

    def forward(
        self, x: Tensor, memory: Tensor, reset: Tensor | None = None, every: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Run a sequence.

        Args:
          x: `[S, *B, D]`, S ≥ 1.
          memory: `[*B, M]` before the first step.
          reset: `[S, *B]` bool; steps where it is True start from zeros, whatever came before.
          every: whether to return the memory after each step, without gradient.

        Returns:
          Outputs `[S, *B, H]`; the memory after the last step `[*B, M]`, or `[S, *B, M]`.

        Raises:
          ValueError: a shape disagrees.
          TypeError: `reset` is not bool.
        """
        rows = x.shape[1:-1]
        require_trailing("x", x, self.weight_ih_l0.shape[1:])
        require_shape("memory", memory, (*rows, self.memory_size), "*B, M")
        if reset is not None:
            require_dtype("reset", reset, torch.bool)
            require_shape("reset", reset, x.shape[:-1], "S, *B")
        if len(x) == 1 and not every:
            if reset is not None:
                memory = torch.where(reset[0][..., None], 0.0, memory)
            memory = self.step(x[0], memory)
            return memory[None, ..., : self.hidden_units], memory
        weights = (self.weight_ih_l0, self.weight_hh_l0, self.bias_ih_l0, self.bias_hh_l0)
        steps, count = len(x), math.prod(rows)
        columns = [
            x.reshape(steps, count, x.shape[-1]), memory.reshape(count, self.memory_size),
            *weights,
        ]  # fmt: skip
        flags = None if reset is None else reset.reshape(1, steps, count)
        outputs, memories, _ = unroll(self.cell, every, *(part[None] for part in columns), flags)
        outputs, memories = (
            y[0].reshape(y.shape[1], *rows, y.shape[-1]) for y in (outputs, memories)
        )
        return outputs, memories.detach() if every else memories[0]

    @staticmethod
    def bias(key: Key, shape: tuple[int, ...]) -> Tensor:
        """Draw both biases: zeros."""
        return torch.zeros(shape, device=key.device)


class LSTM(Recurrent):
    """Long short-term memory; a memory is [h; c], M = 2·H. Gates come in the order i, f, g, o.

    Source: Hochreiter & Schmidhuber 1997; the formula is torch.nn.LSTM's.
    """

    cell = "lstm"

    def step(self, x: Tensor, memory: Tensor) -> Tensor:
        """Take one step."""
        h, c = memory.chunk(2, -1)
        z = nn.functional.linear(x, self.weight_ih_l0, self.bias_ih_l0)
        z = z + nn.functional.linear(h, self.weight_hh_l0, self.bias_hh_l0)
        i, f, g, o = z.chunk(4, -1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return torch.cat([o.sigmoid() * c.tanh(), c], -1)

    @staticmethod
    def bias(key: Key, shape: tuple[int, ...]) -> Tensor:
        """Draw both biases: zeros, and ones for the forget gate (two in sum, as in ML-Agents)."""
        i, f, g, o = torch.zeros(shape, device=key.device).chunk(4)
        return torch.cat([i, f + FORGET_BIAS, g, o])


class GRU(Recurrent):
    """Gated recurrent unit; a memory is h, M = H. Gates come in the order r, z, n.

    Source: Cho et al. 2014, https://arxiv.org/abs/1406.1078; the formula is torch.nn.GRU's.
    """

    cell = "gru"

    def step(self, x: Tensor, memory: Tensor) -> Tensor:
        """Take one step."""
        from_x = nn.functional.linear(x, self.weight_ih_l0, self.bias_ih_l0)
        from_h = nn.functional.linear(memory, self.weight_hh_l0, self.bias_hh_l0)
        (r, z, n), (own_r, own_z, own_n) = from_x.chunk(3, -1), from_h.chunk(3, -1)
        z = (z + own_z).sigmoid()
        n = (n + (r + own_r).sigmoid() * own_n).tanh()
        return (1 - z) * n + z * memory


LAYERS: dict[str, type[Recurrent]] = {"lstm": LSTM, "gru": GRU}


def by_gate(gates: int, initializer: Initializer) -> Initializer:
    """Draw each gate's block of a weight by itself, as ML-Agents does."""

    def init(key: Key, shape: tuple[int, ...]) -> Tensor:
        block = (shape[0] // gates, *shape[1:])
        return torch.cat([initializer(each, block) for each in random.split(key, gates).unbind()])

    return init


def recurrent_layer(cell: str, memory_size: int) -> tuple[int, type[Recurrent]]:
    """Tell H and the kind of the layer that remembers so much."""
    if cell not in LAYERS:
        raise ValueError(f"`cell` must be one of {sorted(LAYERS)}, got {cell!r}.")
    states = CELLS[cell].states
    if memory_size < states or memory_size % states:
        raise ValueError(f"`memory_size` must be a multiple of {states}, got {memory_size}.")
    return memory_size // states, LAYERS[cell]


class Remembering(nn.Module):
    """A body, then a memory, then a head, under these names.

    Args:
      body: `(obs) -> [S, *B, h]`.
      memory: an `LSTM` or `GRU` of such inputs.
      head: `(encoding [S, *B, H]) -> outputs`.
    """

    def __init__(self, body: nn.Module, memory: Recurrent, head: nn.Module) -> None:
        super().__init__()
        self.body, self.memory, self.head = body, memory, head

    def forward(
        self, obs: Obs, memory: Tensor, reset: Tensor | None = None, every: bool = False
    ) -> tuple[Any, Tensor]:
        """Run a sequence of observations `[S, *B, D_i]`; see `Recurrent.forward`."""
        encoding, memory = self.memory(self.body(obs), memory, reset, every)
        return self.head(encoding), memory


def after_each(
    module: nn.Module, run: Callable[..., tuple[Any, PyTree]]
) -> Callable[..., tuple[Any, PyTree]]:
    """Make what a recurrent module computes tell the memory after each step."""
    return partial(run, every=True) if isinstance(module, Remembering) else step_by_step(run)


def step_by_step(
    run: Callable[[Params, Obs, PyTree, Tensor | None], tuple[Any, PyTree]],
) -> Callable[[Params, Obs, PyTree, Tensor | None], tuple[Any, PyTree]]:
    """Run a sequence by single steps: the same outputs, and the memory after each step."""

    def every(params: Params, obs: Obs, memory: PyTree, reset: Tensor | None) -> tuple[Any, PyTree]:
        outputs, memories = [], []
        for t in range(len(obs[0])):
            now = None if reset is None else reset[t : t + 1]
            output, memory = run(params, tree.take(obs, slice(t, t + 1)), memory, now)
            outputs.append(output)
            memories.append(memory)
        together = tree.map(lambda *xs: torch.cat(xs), *outputs)
        return together, tree.map(Tensor.detach, tree.stack(memories))

    return every
