"""What every public pure function promises. Parametrized over all of `tests/cases`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import numpy as np
import torch
from torch._dynamo.testing import CompileCounter
from torch.func import vmap

from optinfra import tree


class Case(NamedTuple):
    """One public function with three different members' worth of arguments.

    `arguments(k)` returns the positional arguments (pytrees of tensors only) of member
    k = 0, 1, 2: one structure, shapes and dtypes, different contents. What is static is
    bound in `function`. A `step` has the signature `(state, *inputs) -> (state, out)`.
    """

    function: Callable[..., Any]
    arguments: Callable[[int], tuple]
    step: bool = False
    graphs: int = 1  # 0 for a function that computes nothing


def assert_pure(case: Case) -> None:
    """Same call, same result; nothing written; global generators untouched; no graph."""
    arguments = case.arguments(0)
    before = [(x, x._version, x.clone()) for x in tree.leaves(arguments)]
    generators = torch.get_rng_state(), np.random.get_state()[1].copy()
    out = case.function(*arguments)
    chex.assert_trees_all_equal(case.function(*arguments), out)
    for x, version, copy in before:
        assert x._version == version, "wrote into an argument"
        assert torch.equal(torch.nan_to_num(x), torch.nan_to_num(copy)), "changed an argument"
    assert torch.equal(generators[0], torch.get_rng_state()), "drew from torch's generator"
    assert (generators[1] == np.random.get_state()[1]).all(), "drew from numpy's generator"
    for x in tree.leaves(out):
        assert isinstance(x, torch.Tensor) and not x.requires_grad
    if case.step:
        chex.assert_trees_all_equal_shapes_and_dtypes(arguments[0], out[0])


def assert_lifts(case: Case) -> None:
    """vmap over three different members equals a loop over them."""
    members = [case.arguments(k) for k in range(3)]
    lifted = vmap(case.function)(*(tree.stack(parts) for parts in zip(*members)))
    looped = tree.stack([case.function(*arguments) for arguments in members])
    chex.assert_trees_all_close(lifted, looped, rtol=1e-5, atol=1e-6)


def assert_compiles_once(case: Case) -> None:
    """One graph without breaks, and no recompile while the state advances or inputs change."""
    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = torch.compile(case.function, backend=counter, fullgraph=True)
    state = case.arguments(0)[0]
    for k in range(3):
        arguments = case.arguments(k)
        if case.step:
            state, _ = compiled(state, *arguments[1:])
        else:
            compiled(*arguments)
    assert counter.frame_count == case.graphs, f"compiled {counter.frame_count} times"
