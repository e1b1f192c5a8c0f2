"""The layers under test, what they are given, and how results and gradients are looked at."""

import torch
from torch.func import functional_call

from optinfra import networks, tree
from tests import plain_recurrent as plain
from tests.plain_recurrent import normal

KINDS = {"lstm": networks.LSTM, "gru": networks.GRU}
D, H = 3, 4
LAYER = {kind: make(D, H) for kind, make in KINDS.items()}
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def run(kind, own, x, memory, reset=None, every=False):
    """The layer under test, at these parameters."""
    return functional_call(LAYER[kind], own, (x, memory, reset, every))


def inputs(seed, steps, rows=(), *, kind="lstm", dtype=torch.float32, members=()):
    """x `[*E, S, *B, D]`, memory `[*E, *B, M]`, reset `[*E, S, *B]` with about a third set."""
    size = plain.STATES[kind] * H
    return (
        normal(seed + 10, *members, steps, *rows, D, dtype=dtype),
        normal(seed + 11, *members, *rows, size, dtype=dtype),
        normal(seed + 12, *members, steps, *rows) > 0.4,
    )


def slopes(outputs, memory):
    """A number that depends on every output and on the memory, each in its own way."""
    factors = (torch.arange(1.0, 1.0 + y.numel(), dtype=y.dtype).sin() for y in (outputs, memory))
    return sum((factor * y.flatten()).sum() for factor, y in zip(factors, (outputs, memory)))


def with_gradients(function, own, x, memory):
    """Results of `function(own, x, memory) -> (outputs, memory)`, and a gradient of all of them."""
    own, x, memory = tree.map(lambda y: y.clone().requires_grad_(), (own, x, memory))
    outputs, last = function(own, x, memory)
    leaves = [x, memory, *own.values()]
    gradients = torch.autograd.grad(slopes(outputs, last), leaves, materialize_grads=True)
    return outputs.detach(), last.detach(), list(gradients)
