"""LSTM over whole sequences by oneDNN, which torch.nn.LSTM uses on the CPU.

oneDNN knows of no reset within a sequence. What lies between two resets is therefore given to it
as a row of its own: a row that starts from a memory begins with the first step, one that starts
from zeros ends with the last. Before it stand steps whose input gate is shut, so that zeros stay
zeros to the last bit and nothing flows back.
"""

from functools import cache, partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

LSTM_MODE = 2  # how ATen numbers the kinds of recurrent networks
SHUT = -1e4  # what is added to an input gate: its logistic function is then 0
WORTH = 4  # more work than so many times that without resets is left to the loop


class Sequences(NamedTuple):
    """What one member runs, as oneDNN takes it."""

    x: Tensor  # [S, B, D]
    h: Tensor  # [B, H] before the first step
    c: Tensor  # [B, H]
    weights: tuple[Tensor, ...]  # [4H, D], [4H, H], [4H], [4H]


class Packed(NamedTuple):
    """Where each step stands among rows without a reset."""

    steps: int  # L
    rows: int  # V ≥ B, the first B of them start from a memory
    place: Tensor  # [S·B] int64, step of [L, V]
    last: Tensor  # [B] int64, which row ends where the given one does


class Run(NamedTuple):
    """What oneDNN makes of sequences."""

    outputs: Tensor  # [S, B, H]
    memory: Tensor  # [B, 2H] after the last step
    workspace: Tensor  # [N] float32


def does(x: Tensor, hidden: int, least: int) -> bool:
    """Whether oneDNN does sequences `[E, S, B, D]`, with a workspace of so many elements."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.numel() > 0
        and has_onednn()
        and workspace_size(*x.shape[1:], hidden) >= least
    )


@cache
def has_onednn() -> bool:
    """Whether this build of torch has oneDNN."""
    return torch.backends.mkldnn.is_available()


@cache
def workspace_size(steps: int, rows: int, inputs: int, hidden: int) -> int:
    """Ask oneDNN by a call on zeros, for real even where shapes alone are being traced."""
    with _disable_current_modes():
        zeros = partial(torch.zeros, dtype=torch.float32, device="cpu")
        bias, state = zeros(4 * hidden), zeros(rows, hidden)
        weights = (zeros(4 * hidden, inputs), zeros(4 * hidden, hidden), bias, bias)
        return run(Sequences(zeros(steps, rows, inputs), state, state, weights)).workspace.numel()


# --- without resets -------------------------------------------------------------------------


def run(given: Sequences) -> Run:
    """Unroll."""
    x, h, c, weights = given
    with torch.enable_grad():  # else there is no workspace
        y, h, c, workspace = torch.ops.aten.mkldnn_rnn_layer(
            x, *weights, h, c, False, [], LSTM_MODE, h.shape[-1], 1, True, False, False, True
        )  # fmt: skip
    return Run(y, torch.cat([h.view_as(given.h), c.view_as(given.c)], -1), workspace.view(x.dtype))


def back(given: Sequences, came: Run, grad_outputs: Tensor, grad_memory: Tensor) -> list[Tensor]:
    """Give the slopes of x, memory `[B, 2H]` and the four weights."""
    hidden = given.h.shape[-1]
    (h, c), (grad_h, grad_c) = (x.split(hidden, -1) for x in (came.memory, grad_memory))
    x, ih, hh, bias_ih, bias_hh, h, c = torch.ops.aten.mkldnn_rnn_layer_backward(
        given.x, *given.weights, given.h, given.c, came.outputs, h.contiguous(), c.contiguous(),
        grad_outputs, grad_h.contiguous(), grad_c.contiguous(),
        False, LSTM_MODE, hidden, 1, True, True, False, [], False, came.workspace.view(torch.uint8),
    )  # fmt: skip
    memory = torch.cat([h.view_as(given.h), c.view_as(given.c)], -1)
    return [x, memory, ih, hh, bias_ih, bias_hh]


# --- with them ------------------------------------------------------------------------------


def packed(reset: Tensor) -> Packed | None:
    """Lay out sequences whose steps after the first may be reset `[S, B]`; None: not worth it."""
    steps, rows = reset.shape
    starts = reset.mT.clone()  # of rows of their own; in the order of the given rows
    starts[:, 0] = False
    count = starts.flatten().cumsum(0).view(rows, steps)
    own = torch.arange(rows)[:, None]
    row = torch.where(starts.cumsum(1) > 0, rows - 1 + count, own)
    lengths = row.flatten().bincount()
    longest = int(lengths.max())
    if longest * len(lengths) > WORTH * steps * rows:
        return None
    begins = starts.nonzero()[:, 1]
    earlier = torch.cat([torch.zeros(rows, dtype=torch.int64), begins + lengths[rows:] - longest])
    step = torch.arange(steps) - earlier[row]
    place = step * len(lengths) + row
    return Packed(longest, len(lengths), place.mT.flatten(), row[:, -1])


def pack(given: Sequences, layout: Packed) -> Sequences:
    """Lay out sequences; one more input says which steps keep the input gate shut."""
    hidden, inputs = given.h.shape[-1], given.x.shape[-1]
    x = given.x.new_zeros(layout.steps * layout.rows, inputs + 1)
    x[:, -1] = 1.0
    steps = torch.nn.functional.pad(given.x.flatten(0, 1), (0, 1))
    x.index_copy_(0, layout.place, steps)
    ih, *others = given.weights
    gate = ih.new_zeros(len(ih), 1)
    gate[:hidden] = SHUT
    more = (0, 0, 0, layout.rows - len(given.h))
    h, c = (torch.nn.functional.pad(state, more) for state in (given.h, given.c))
    weights = (torch.cat([ih, gate], 1), *others)
    return Sequences(x.view(layout.steps, layout.rows, -1), h, c, weights)


def run_packed(given: Sequences, layout: Packed) -> Run:
    """Unroll sequences with resets; there is no workspace for the way back."""
    came = run(pack(given, layout))
    outputs = came.outputs.flatten(0, 1)[layout.place].view(*given.x.shape[:2], -1)
    return Run(outputs, came.memory[layout.last], came.workspace[:0])


def back_packed(
    given: Sequences, layout: Packed, grad_outputs: Tensor, grad_memory: Tensor
) -> list[Tensor]:
    """Give the slopes of sequences with resets, which are unrolled once more for it."""
    there = pack(given, layout)
    grads = grad_outputs.new_zeros(layout.steps * layout.rows, grad_outputs.shape[-1])
    grads.index_copy_(0, layout.place, grad_outputs.flatten(0, 1))
    last = grad_memory.new_zeros(layout.rows, grad_memory.shape[-1])
    last.index_copy_(0, layout.last, grad_memory)
    came = run(there)
    x, memory, ih, *others = back(there, came, grads.view_as(came.outputs), last)
    inputs = given.x.shape[-1]
    x = x.flatten(0, 1)[layout.place, :inputs].view_as(given.x)
    return [x, memory[: len(given.h)], ih[:, :inputs].contiguous(), *others]
