"""Run members side by side: seeds, hyperparameters, agents."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from torch.func import vmap

from optinfra import tree

Functions = TypeVar("Functions")  # a pure function, or a NamedTuple of them such as a Learner


def ensemble(functions: Functions) -> Functions:
    """Give every tensor of a function's arguments and results a leading axis of members.

    A member is computed as if it were alone: nothing crosses over, and one member's NaN
    harms no other. Sweep a hyperparameter by replacing its leaf in the stacked state by
    one number per member:

        many = ensemble(learner)
        state = many.init(random.split(key, 8))
        state, stats = many.update(state, batches)

    Args:
      functions: a pure function of pytrees of tensors, or a NamedTuple of such functions.

    Returns:
      The same, over stacked arguments: every leaf `[…]` becomes `[E, …]`.
    """
    return over_functions(_over_members, functions)


def _over_members(function: Callable[..., Any]) -> Callable[..., Any]:
    lifted = vmap(function, randomness="error")
    return lambda *arguments: tree.row_major(lifted(*arguments))


def members(stacked: Any) -> list[Any]:
    """Take a stacked tree apart: `[E, …]` leaves become E trees with leaves `[…]`."""
    size = tree.leaves(stacked)[0].shape[0]
    return [tree.take(stacked, i) for i in range(size)]


def over_functions(lift: Callable[[Callable[..., Any]], Callable[..., Any]], functions: Any) -> Any:
    """Lift a function, or each function of a NamedTuple."""
    if isinstance(functions, tuple) and hasattr(functions, "_fields"):
        return type(functions)(*(over_functions(lift, function) for function in functions))
    lifted = lift(functions)

    @wraps(functions)
    def call(*arguments: Any) -> Any:
        return lifted(*arguments)

    return call
