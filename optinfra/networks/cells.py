"""The arithmetic of LSTM and GRU over whole sequences, forwards and backwards.

Written for plain tensors of E members side by side, with writes into tensors of its own;
`optinfra.networks.unroll` makes operations of it that know derivatives, vmap and compilation.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from optinfra.networks import fused


class Weights(NamedTuple):
    """Of G gates each: G = 4 (i, f, g, o) for LSTM, 3 (r, z, n) for GRU, as in torch.nn."""

    ih: Tensor  # [E, G·H, D]
    hh: Tensor  # [E, G·H, H]
    bias_ih: Tensor  # [E, G·H]
    bias_hh: Tensor  # [E, G·H]


class Unrolled(NamedTuple):
    """What a sequence leads to."""

    outputs: Tensor  # [E, S, B, H], h after each step
    memories: Tensor  # [E, S, B, M] after each step, or [E, 1, B, M] after the last one
    saved: Tensor  # [E, N], for the way back


class Gradients(NamedTuple):
    """With respect to everything that `forward` is given, in its order."""

    x: Tensor
    memory: Tensor
    ih: Tensor
    hh: Tensor
    bias_ih: Tensor
    bias_hh: Tensor


class Cell(NamedTuple):
    """One kind of recurrent layer."""

    gates: int  # G
    states: int  # M / H: h alone, or h and c
    saved: Callable[[Tensor, int], int]  # (x, H) -> N
    # (x [E, S, B, D], memory [E, B, M], weights, reset [E, S, B] bool or None, whether every
    # memory)
    forward: Callable[[Tensor, Tensor, Weights, Tensor | None, bool], Unrolled]
    # (grad of outputs, grad of the last memory [E, 1, B, M], x, memory, weights, reset, unrolled)
    backward: Callable[
        [Tensor, Tensor, Tensor, Tensor, Weights, Tensor | None, Unrolled], Gradients
    ]


# --- what both have in common -------------------------------------------------------------


def started(memory: Tensor, reset: Tensor | None) -> Tensor:
    """Take a memory, or a slope of it, to where the first step begins."""
    return memory if reset is None else memory.masked_fill(reset[:, 0, :, None], 0.0)


def resets_by_step(reset: Tensor | None, steps: int) -> list[Tensor | None]:
    """Give for each step which rows are reset `[E, B, 1]`, None where none is known to be."""
    if reset is None:
        return [None] * steps
    flags = reset[..., None].unbind(1)
    if reset.device.type != "cpu":  # looking would be a wait
        return list(flags)
    resets = reset.any(2).any(0).tolist()
    return [flag if some else None for flag, some in zip(flags, resets)]


def project(x: Tensor, weight: Tensor, bias: Tensor, out: Tensor) -> None:
    """Write x·Wᵀ + b of all steps into `out` `[E, S, B, G·H]` by one product."""
    rows = out.flatten(1, 2)
    torch.baddbmm(bias[:, None], x.flatten(1, 2), weight.mT, out=rows)


def previous(first: Tensor, states: Tensor, reset: Tensor | None) -> Tensor:
    """Shift `[E, S, B, H]` by one step, `first` `[E, B, H]` leading, zeros at resets."""
    shifted = torch.cat([first[:, None], states[:, :-1]], 1)
    return shifted if reset is None else shifted.masked_fill_(reset[..., None], 0.0)


def weight_gradients(slopes: Tensor, inputs: Tensor) -> Tensor:
    """Sum over steps and rows: `[E, S, B, G·H]` and `[E, S, B, D]` to `[E, G·H, D]`."""
    return torch.bmm(slopes.flatten(1, 2).mT, inputs.flatten(1, 2))


def into_inputs(slopes: Tensor, weight: Tensor) -> Tensor:
    """Carry `[E, S, B, G·H]` back through x·Wᵀ to `[E, S, B, D]`."""
    return torch.bmm(slopes.flatten(1, 2), weight).unflatten(1, slopes.shape[1:3])


def last_or_every(every: bool, *states: Tensor) -> Tensor:
    """Put what `memories` holds together from `[E, S, B, H]` each, in memory of its own."""
    return torch.cat(states if every else [state[:, -1:] for state in states], -1)


# --- LSTM -----------------------------------------------------------------------------------

LSTM_SAVED = 5  # times H per row: four gates and the cell state


def lstm_forward(
    x: Tensor, memory: Tensor, weights: Weights, reset: Tensor | None, every: bool
) -> Unrolled:
    """Unroll zₜ = W·xₜ + U·hₜ₋₁ + b, cₜ = σ(f)·cₜ₋₁ + σ(i)·tanh(g), hₜ = σ(o)·tanh(cₜ)."""
    if not every and (found := fused_forward(x, memory, weights, reset)) is not None:
        return found
    hidden = memory.shape[-1] // 2
    saved, gates, cells = lstm_saved(x, hidden)
    outputs = x.new_empty(*x.shape[:3], hidden)
    project(x, weights.ih, weights.bias_ih + weights.bias_hh, out=gates)
    h, c = memory.split(hidden, -1)
    recurrent = weights.hh.mT
    for t, ended in enumerate(resets_by_step(reset, x.shape[1])):
        if ended is not None:
            h, c = (state.masked_fill(ended, 0.0) for state in (h, c))
        z = gates[:, t].baddbmm_(h, recurrent)
        i, f, g, o = z.split(hidden, -1)
        z[..., : 2 * hidden].sigmoid_()
        g.tanh_()
        o.sigmoid_()
        c = torch.addcmul(i * g, f, c, out=cells[:, t])
        h = torch.mul(o, c.tanh(), out=outputs[:, t])
    return Unrolled(outputs, last_or_every(every, outputs, cells), saved)


def lstm_backward(
    grad_outputs: Tensor,
    grad_memory: Tensor,
    x: Tensor,
    memory: Tensor,
    weights: Weights,
    reset: Tensor | None,
    unrolled: Unrolled,
) -> Gradients:
    """Go the way back that `lstm_forward` came."""
    found = fused_backward(grad_outputs, grad_memory, x, memory, weights, reset, unrolled)
    if found is not None:
        return found
    hidden = memory.shape[-1] // 2
    h0, c0 = memory.split(hidden, -1)
    _, gates, cells = lstm_saved(x, hidden, unrolled.saved)
    i, f, g, o = gates.split(hidden, -1)
    tanh_c = cells.tanh()
    into_c = o * (1 - tanh_c.square())
    # What a slope of c becomes at i, f, g, and a slope of h at o; all steps at once.
    before_c = previous(c0, cells, reset)
    of_c = torch.stack([g * i * (1 - i), before_c * f * (1 - f), i * (1 - g.square())], -2)
    of_h = tanh_c * o * (1 - o)
    slopes = torch.empty_like(gates).unflatten(-1, (4, hidden))
    grad_h, grad_c = grad_memory[:, 0].split(hidden, -1)
    resets = resets_by_step(reset, x.shape[1])
    for t in reversed(range(x.shape[1])):
        grad_h = grad_h + grad_outputs[:, t]
        grad_c = torch.addcmul(grad_c, grad_h, into_c[:, t])
        torch.mul(of_c[:, t], grad_c[..., None, :], out=slopes[:, t, :, :3])
        torch.mul(of_h[:, t], grad_h, out=slopes[:, t, :, 3])
        grad_h = torch.bmm(slopes[:, t].flatten(-2), weights.hh)
        grad_c = grad_c * f[:, t]
        if (ended := resets[t]) is not None:
            grad_h, grad_c = grad_h.masked_fill(ended, 0.0), grad_c.masked_fill(ended, 0.0)
    slopes = slopes.flatten(-2)
    bias = slopes.sum((1, 2))
    return Gradients(
        into_inputs(slopes, weights.ih),
        torch.cat([grad_h, grad_c], -1),
        weight_gradients(slopes, x),
        weight_gradients(slopes, previous(h0, unrolled.outputs, reset)),
        bias,
        bias.clone(),
    )


def lstm_saved(
    x: Tensor, hidden: int, saved: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Lay out what the way back needs `[E, N]`: gates `[E, S, B, 4H]`, cells `[E, S, B, H]`."""
    members, steps, rows = x.shape[:3]
    if saved is None:
        saved = x.new_empty(members, lstm_saved_size(x, hidden))
    size = steps * rows * hidden
    gates = saved[:, : 4 * size].view(members, steps, rows, 4 * hidden)
    return saved, gates, saved[:, 4 * size : 5 * size].view(members, steps, rows, hidden)


def lstm_saved_size(x: Tensor, hidden: int) -> int:
    """N: room for the gates and cells, and for oneDNN's workspace where it may do the work."""
    own: int = x.shape[1] * x.shape[2] * hidden * LSTM_SAVED
    return fused.workspace_size(*x.shape[1:], hidden) if fused.does(x, hidden, own) else own


def fused_forward(
    x: Tensor, memory: Tensor, weights: Weights, reset: Tensor | None
) -> Unrolled | None:
    """Let oneDNN unroll member by member, unless a loop is better."""
    found = fused_members(x, memory, weights, reset)
    if found is None:
        return None
    runs = [
        fused.run(own) if layout is None else fused.run_packed(own, layout) for own, layout in found
    ]
    saved = [
        one.workspace if layout is None else x.new_empty(lstm_saved_size(x, memory.shape[-1] // 2))
        for one, (_, layout) in zip(runs, found)
    ]
    memories = [one.memory[None] for one in runs]
    return Unrolled(stacked([one.outputs for one in runs]), stacked(memories), stacked(saved))


def fused_backward(
    grad_outputs: Tensor,
    grad_memory: Tensor,
    x: Tensor,
    memory: Tensor,
    weights: Weights,
    reset: Tensor | None,
    unrolled: Unrolled,
) -> Gradients | None:
    """Let oneDNN go the way back that it came."""
    found = fused_members(x, memory, weights, reset)
    if found is None:
        return None
    slopes = []
    for m, (own, layout) in enumerate(found):
        grads = (grad_outputs[m], grad_memory[m, 0])
        if layout is None:
            came = fused.Run(unrolled.outputs[m], unrolled.memories[m, 0], unrolled.saved[m])
            slopes.append(fused.back(own, came, *grads))
        else:
            slopes.append(fused.back_packed(own, layout, *grads))
    gradients = Gradients(*(stacked(each) for each in zip(*slopes)))
    return gradients._replace(memory=started(gradients.memory, reset))


def fused_members(
    x: Tensor, memory: Tensor, weights: Weights, reset: Tensor | None
) -> list[tuple[fused.Sequences, fused.Packed | None]] | None:
    """Tell what oneDNN is to run of each member, and how it is laid out where steps are reset."""
    hidden = memory.shape[-1] // 2
    if not fused.does(x, hidden, least=x.shape[1] * x.shape[2] * hidden * LSTM_SAVED):
        return None
    h, c = (state.contiguous() for state in started(memory, reset).split(hidden, -1))
    found = []
    for m in range(len(x)):
        own = fused.Sequences(x[m], h[m], c[m], tuple(w[m] for w in weights))
        layout = None
        if reset is not None and reset[m, 1:].any():
            layout = fused.packed(reset[m])
            if layout is None:
                return None
        found.append((own, layout))
    return found


def stacked(each: Sequence[Tensor]) -> Tensor:
    """Stack members; a single one is not copied."""
    return each[0][None] if len(each) == 1 else torch.stack(tuple(each))


# --- GRU --------------------------------------------------------------------------------------

GRU_SAVED = 4  # times H per row: r, z, n and U·h + b of n


def gru_forward(
    x: Tensor, memory: Tensor, weights: Weights, reset: Tensor | None, every: bool
) -> Unrolled:
    """Unroll n = tanh(W·xₜ + b + σ(r)·(U·hₜ₋₁ + b′)), hₜ = (1 − σ(z))·n + σ(z)·hₜ₋₁."""
    hidden = memory.shape[-1]
    members, steps, rows = x.shape[:3]
    saved = x.new_empty(members, gru_saved_size(x, hidden))
    gates = saved.view(members, steps, rows, 4, hidden)
    projected = x.new_empty(members, steps, rows, 3 * hidden)
    project(x, weights.ih, weights.bias_ih, out=projected)
    outputs = x.new_empty(members, steps, rows, hidden)
    h, recurrent = memory, weights.hh.mT
    for t, ended in enumerate(resets_by_step(reset, x.shape[1])):
        if ended is not None:
            h = h.masked_fill(ended, 0.0)
        own = torch.baddbmm(weights.bias_hh[:, None], h, recurrent)
        from_x, from_h = (y.unflatten(-1, (3, hidden)) for y in (projected[:, t], own))
        r, z, n, of_n = gates[:, t].unbind(-2)
        torch.add(from_x[..., :2, :], from_h[..., :2, :], out=gates[:, t, :, :2])
        gates[:, t, :, :2].sigmoid_()
        of_n.copy_(from_h[..., 2, :])
        torch.addcmul(from_x[..., 2, :], r, of_n, out=n).tanh_()
        h = torch.addcmul(n, z, h - n, out=outputs[:, t])
    return Unrolled(outputs, last_or_every(every, outputs), saved)


def gru_backward(
    grad_outputs: Tensor,
    grad_memory: Tensor,
    x: Tensor,
    memory: Tensor,
    weights: Weights,
    reset: Tensor | None,
    unrolled: Unrolled,
) -> Gradients:
    """Go the way back that `gru_forward` came."""
    hidden = memory.shape[-1]
    r, z, n, of_n = unrolled.saved.view(*x.shape[:3], 4, hidden).unbind(-2)
    before = previous(memory, unrolled.outputs, reset)
    of_z = (before - n) * z * (1 - z)
    into_n = (1 - z) * (1 - n.square())
    # What a slope of h becomes at r, z, n where they meet x, and where they meet h.
    at_x = torch.stack([into_n * of_n * r * (1 - r), of_z, into_n], -2)
    at_h = torch.stack([at_x[..., 0, :], of_z, into_n * r], -2)
    slopes_x, slopes_h = torch.empty_like(at_x), torch.empty_like(at_h)
    grad_h = grad_memory[:, 0]
    resets = resets_by_step(reset, x.shape[1])
    for t in reversed(range(x.shape[1])):
        grad_h = grad_h + grad_outputs[:, t]
        torch.mul(at_x[:, t], grad_h[..., None, :], out=slopes_x[:, t])
        torch.mul(at_h[:, t], grad_h[..., None, :], out=slopes_h[:, t])
        grad_h = torch.baddbmm(grad_h * z[:, t], slopes_h[:, t].flatten(-2), weights.hh)
        if (ended := resets[t]) is not None:
            grad_h = grad_h.masked_fill(ended, 0.0)
    slopes_x, slopes_h = slopes_x.flatten(-2), slopes_h.flatten(-2)
    return Gradients(
        into_inputs(slopes_x, weights.ih),
        grad_h,
        weight_gradients(slopes_x, x),
        weight_gradients(slopes_h, before),
        slopes_x.sum((1, 2)),
        slopes_h.sum((1, 2)),
    )


def gru_saved_size(x: Tensor, hidden: int) -> int:
    """N: room for the gates."""
    return x.shape[1] * x.shape[2] * hidden * GRU_SAVED


CELLS = {
    "lstm": Cell(4, 2, lstm_saved_size, lstm_forward, lstm_backward),
    "gru": Cell(3, 1, gru_saved_size, gru_forward, gru_backward),
}
