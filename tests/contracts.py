"""What every public pure function promises. Parametrized over all of `tests/cases`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from optinfra import testing, tree


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
    testing.assert_pure(case.function, *arguments)
    out = case.function(*arguments)
    for x in tree.leaves(out):
        assert isinstance(x, torch.Tensor) and not x.requires_grad
    if case.step:
        assert tree.structure(out[0]) == tree.structure(arguments[0])
        for before, after in zip(tree.leaves(arguments[0]), tree.leaves(out[0])):
            assert (after.shape, after.dtype) == (before.shape, before.dtype)


def assert_lifts(case: Case) -> None:
    """vmap over three different members equals a loop over them."""
    testing.assert_lifts(case.function, *(case.arguments(k) for k in range(3)))


def assert_compiles_once(case: Case) -> None:
    """One graph without breaks, and no recompile while the state advances or inputs change."""
    following = iter([case.arguments(1), case.arguments(2)])

    def advance(result: Any, _: tuple) -> tuple:
        arguments = next(following)
        return testing.advance_state(result, arguments) if case.step else arguments

    testing.assert_compiles_once(
        case.function, *case.arguments(0), advance=advance, graphs=case.graphs
    )
