"""Recurrent layers as operations: with derivatives, with rules for vmap, opaque to compilers.

torch's own have no rule for vmap (https://github.com/pytorch/pytorch/issues/105982), and a
sequence written out step by step would be compiled step by step.
"""

from typing import Any

import torch
from torch import Tensor

from optinfra.networks.cells import CELLS, Unrolled, Weights

Batched = tuple[Tensor, ...]
WEIGHTS = slice(2, 6)  # where they stand among the tensors of a call
Given = tuple[Tensor | None, ...]  # x, memory, four weights, and resets or None


@torch.library.custom_op("optinfra::unroll", mutates_args=())
def _forward(
    cell: str,
    every: bool,
    x: Tensor,
    memory: Tensor,
    ih: Tensor,
    hh: Tensor,
    bias_ih: Tensor,
    bias_hh: Tensor,
    reset: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    tensors = (part.contiguous() for part in (x, memory, ih, hh, bias_ih, bias_hh))
    x, memory, ih, hh, bias_ih, bias_hh = tensors
    return CELLS[cell].forward(x, memory, Weights(ih, hh, bias_ih, bias_hh), reset, every)


@_forward.register_fake
def _(
    cell: str, every: bool, x: Tensor, memory: Tensor, ih: Tensor, hh: Tensor, *_: Tensor | None
) -> Batched:
    members, steps, rows = x.shape[:3]
    hidden = hh.shape[-1]
    outputs = x.new_empty(members, steps, rows, hidden)
    memories = x.new_empty(members, steps if every else 1, rows, memory.shape[-1])
    return outputs, memories, x.new_empty(members, CELLS[cell].saved(x, hidden))


@torch.library.custom_op("optinfra::unroll_backward", mutates_args=())
def _backward(
    cell: str,
    grad_outputs: Tensor,
    grad_memory: Tensor,
    x: Tensor,
    memory: Tensor,
    ih: Tensor,
    hh: Tensor,
    bias_ih: Tensor,
    bias_hh: Tensor,
    reset: Tensor | None,
    outputs: Tensor,
    memories: Tensor,
    saved: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    given = (grad_outputs, grad_memory, x, memory, ih, hh, bias_ih, bias_hh)
    grad_outputs, grad_memory, x, memory, ih, hh, bias_ih, bias_hh = (
        part.contiguous() for part in given
    )
    weights = Weights(ih, hh, bias_ih, bias_hh)
    unrolled = Unrolled(outputs.contiguous(), memories.contiguous(), saved.contiguous())
    if saved.shape[-1] == 0:  # it was of all rows together; these are each agent's own
        unrolled = CELLS[cell].forward(x, memory, weights, reset, False)
    return CELLS[cell].backward(grad_outputs, grad_memory, x, memory, weights, reset, unrolled)


@_backward.register_fake
def _(
    cell: str,
    grad_outputs: Tensor,
    grad_memory: Tensor,
    x: Tensor,
    memory: Tensor,
    ih: Tensor,
    hh: Tensor,
    bias_ih: Tensor,
    bias_hh: Tensor,
    *_: Tensor | None,
) -> Batched:
    differentiable = (x, memory, ih, hh, bias_ih, bias_hh)
    return tuple(part.new_empty(part.shape) for part in differentiable)


class _Unroll(torch.autograd.Function):
    """`(cell, every, x, memory, *weights, reset) -> (outputs, memories, saved)`."""

    @staticmethod
    def forward(cell: str, every: bool, *tensors: Any) -> Batched:
        return _forward(cell, every, *tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Batched) -> None:
        ctx.cell, ctx.every, *tensors = inputs
        ctx.save_for_backward(*tensors, *output)
        ctx.mark_non_differentiable(output[2])
        ctx.set_materialize_grads(False)  # else zeros are made for `saved`, the largest by far

    @staticmethod
    def backward(
        ctx: Any, grad_outputs: Tensor | None, grad_memory: Tensor | None, _: None
    ) -> tuple[Any, ...]:
        if ctx.every:
            raise RuntimeError("`memories` of every step are not differentiable; the last is.")
        outputs, memories, _ = ctx.saved_tensors[-3:]
        if grad_outputs is None:
            grad_outputs = torch.zeros_like(outputs)
        if grad_memory is None:
            grad_memory = torch.zeros_like(memories)
        gradients = _Back.apply(ctx.cell, grad_outputs, grad_memory, *ctx.saved_tensors)
        return (None, None, *gradients, None)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], cell: str, every: bool, *tensors: Any) -> Any:
        dims = in_dims[2:]
        if any(dim is not None for dim in dims[WEIGHTS]):
            members = _as_members(info.batch_size, dims, tensors)
            outputs = _Unroll.apply(cell, every, *members)
            return tuple(_apart(info.batch_size, y) for y in outputs), (0, 0, 0)
        # Shared weights: all agents' rows go through one product.
        x, memory, *weights, reset = tensors
        rows = [
            _as_rows(info.batch_size, dim, part, axis)
            for dim, part, axis in zip(
                (dims[0], dims[1], dims[-1]), (x, memory, reset), (2, 1, 2), strict=True
            )
        ]
        outputs, memories, saved = _Unroll.apply(cell, every, rows[0], rows[1], *weights, rows[2])
        each = (info.batch_size, outputs.shape[2] // info.batch_size)
        return (outputs.unflatten(2, each), memories.unflatten(2, each), saved), (2, 2, None)


class _Back(torch.autograd.Function):
    """`(cell, grad_outputs, grad_memory, x, memory, *weights, reset, *unrolled) -> gradients`."""

    @staticmethod
    def forward(cell: str, *tensors: Any) -> Batched:
        return _backward(cell, *tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Batched) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[Any, ...]:
        raise RuntimeError("A recurrent layer has first derivatives only.")

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], cell: str, *tensors: Any) -> Any:
        *parts, saved = tensors
        *dims, saved_dim = in_dims[1:]
        if saved_dim is None:  # of all agents' rows together: of no use for one agent
            saved = saved[:, :0]
        members = _as_members(info.batch_size, (*dims, saved_dim), (*parts, saved))
        gradients = _Back.apply(cell, *members)
        return tuple(_apart(info.batch_size, y) for y in gradients), (0,) * len(gradients)


def _as_members(size: int, dims: tuple[int | None, ...], tensors: Given) -> list[Tensor | None]:
    """Fold an axis of agents into the leading one of members."""

    def folded(dim: int | None, x: Tensor | None) -> Tensor | None:
        if x is None:
            return None
        x = x[None].expand(size, *x.shape) if dim is None else x.movedim(dim, 0)
        return x.flatten(0, 1)

    return [folded(dim, x) for dim, x in zip(dims, tensors, strict=True)]


def _apart(size: int, x: Tensor) -> Tensor:
    """Undo `_as_members`."""
    return x.unflatten(0, (size, x.shape[0] // size))


def _as_rows(size: int, dim: int | None, x: Tensor | None, axis: int) -> Tensor | None:
    """Fold an axis of agents into the axis of rows, `axis` of the tensor without it."""
    if x is None:
        return None
    if dim is None:
        x = x.unsqueeze(axis).expand(*x.shape[:axis], size, *x.shape[axis:])
    else:
        x = x.movedim(dim, axis)
    return x.flatten(axis, axis + 1)


def unroll(cell: str, every: bool, *tensors: Tensor | None) -> Batched:
    """Run a layer over sequences; see `cells.Cell.forward` for the tensors' shapes."""
    return _Unroll.apply(cell, every, *tensors)


def keep_whole_in_graphs() -> None:
    """Tell torch's compiler to take `unroll` as it is: its tracer knows no such Function in grad.

    Said when the first recurrent layer is made, not at import: it loads the compiler.
    """
    torch.compiler.allow_in_graph(unroll)
