"""What one agent's data leaves behind is no other agent's business."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from optinfra import tree
from optinfra.testing.comparison import difference, identical, kind, place, written
from optinfra.types import Trajectory

Change = Callable[[Tensor, int], Tensor]  # (leaf, axis of the agents) -> what others are given

# Where the agents of a trajectory lie, for `in_dims`: time leads, but for the memory.
AXES: Any = (1, 0, 1, 1, 1)
TRAJECTORY_AXES: Any = Trajectory(*AXES)

SEED = 0
SCALE = 10.0  # so that what is given differs from what networks are used to


def assert_memory_isolated(
    function: Callable[..., Any], *arguments: Any, in_dims: Any, out_dims: Any
) -> None:
    """Require that an agent's results depend on no other agent's data, bit for bit.

    For each agent the data of all others is exchanged: for random numbers, NaN, infinity, for
    one another's, and all flags set or cleared, so that their episodes end at every step or
    never. The agent's own results must stay what they were. With one agent there is nothing
    to exchange, and nothing is found.

    Args:
      function: what is tested, for all agents together; called 7 times per agent.
      *arguments: of `function`, pytrees mostly of tensors.
      in_dims: as of `torch.func.vmap`: an axis of agents for all arguments, or a tuple of one
        entry per argument. An entry may be a tree of axes; None marks what is shared, such as
        parameters.
      out_dims: likewise for the result; what is shared there is not looked at.

    Raises:
      ValueError: `in_dims` or `out_dims` has another structure than what it describes, names no
        axis at all, or one that a leaf does not have, or the numbers of agents differ.
      AssertionError: a result changed; the message names agent, leaf, index and both numbers.
    """
    in_axes = _axes("in_dims", in_dims, arguments)
    agents = _count_agents("in_dims", arguments, in_axes)

    def results(change: Change, agent: int) -> Any:
        others = torch.arange(agents) != agent
        leaves = [
            x if axis is None else _exchanged(x, axis, others, change(x, axis))
            for x, axis in zip(tree.leaves(arguments), in_axes)
        ]
        return tree.map(torch.clone, function(*tree.unflatten(arguments, leaves)))

    for agent in range(agents):
        expected = results(_same, agent)
        out_axes = _axes("out_dims", out_dims, expected)
        if (found := _count_agents("out_dims", expected, out_axes)) != agents:
            raise ValueError(f"`out_dims` must name axes of {agents} agents, got {found}.")
        for name, change in CHANGES.items():
            if noticed := _own_difference(results(change, agent), expected, out_axes, agent):
                raise AssertionError(f"Agent {agent} must not notice others: {noticed}, {name}.")


def _same(x: Tensor, axis: int) -> Tensor:
    return x


def _noise(x: Tensor, axis: int) -> Tensor:
    if x.dtype in (torch.bool, torch.uint8):  # of an image's bytes 255 − x
        return ~x
    if not x.is_floating_point():
        return _neighbours(x, axis)  # a number made up could lie out of range
    generator = torch.Generator().manual_seed(SEED)
    return (SCALE * torch.randn(x.shape, generator=generator)).to(x)


def _neighbours(x: Tensor, axis: int) -> Tensor:
    return x.roll(1, axis)


def _floats(value: float) -> Change:
    return lambda x, axis: torch.full_like(x, value) if x.is_floating_point() else x


def _flags(value: bool) -> Change:
    return lambda x, axis: torch.full_like(x, value) if x.dtype == torch.bool else x


CHANGES: dict[str, Change] = {
    "though the others were given what they had": _same,
    "after the others were given other numbers": _noise,
    "after the others were given one another's data": _neighbours,
    "after the others were given NaN": _floats(math.nan),
    "after the others were given infinity": _floats(math.inf),
    "after all flags of the others were set": _flags(True),
    "after all flags of the others were cleared": _flags(False),
}


def _exchanged(x: Tensor, axis: int, others: Tensor, changed: Tensor) -> Tensor:
    """Take the changed numbers where other agents lie."""
    shape = [1] * x.ndim
    shape[axis] = -1
    return torch.where(others.to(x.device).reshape(shape), changed, x)


def _own_difference(actual: Any, expected: Any, axes: Sequence[int | None], agent: int) -> str:
    """Name the first of an agent's own numbers that changed; empty where there is none."""

    def own(result: Any) -> Any:
        pairs = zip(tree.leaves(result), axes)
        return [x.narrow(axis, agent, 1) for x, axis in pairs if axis is not None]

    if tree.structure(actual) != tree.structure(expected):
        return difference(actual, expected)
    names = [name for name, axis in zip(tree.named_leaves(expected), axes) if axis is not None]
    kept = [axis for axis in axes if axis is not None]
    for name, axis, a, e in zip(names, kept, own(actual), own(expected)):
        if kind(a) != kind(e):
            return f"{place(name, ())} is {kind(a)} where it was {kind(e)}"
        differing = (~identical(a, e)).nonzero().tolist()
        if differing:
            index = differing[0]
            numbers = f"is {written(a[tuple(index)])} where it was {written(e[tuple(index)])}"
            index[axis] = agent
            return f"{place(name, index)} {numbers}"
    return ""


def _axes(name: str, dims: Any, described: Any) -> list[int | None]:
    """Give every leaf its axis of agents."""
    try:
        return tree.broadcast_prefix(dims, described)
    except ValueError as error:
        raise ValueError(f"`{name}` must have the structure it describes. {error}") from error


def _count_agents(name: str, described: Any, axes: Sequence[int | None]) -> int:
    """Count the agents of all leaves that have an axis of them."""
    counts = {}
    for (leaf, x), axis in zip(tree.named_leaves(described).items(), axes):
        if axis is None:
            continue
        if not isinstance(x, Tensor) or not -x.ndim <= axis < x.ndim:
            raise ValueError(
                f"`{name}` must name an axis of {place(leaf, ())}, got {axis} for {kind(x)}."
            )
        counts[leaf] = x.shape[axis]
    if not counts:
        raise ValueError(f"`{name}` must name an axis of agents, got none.")
    if len(set(counts.values())) > 1:
        raise ValueError(f"`{name}` must name axes of one number of agents, got {counts}.")
    return next(iter(counts.values()))
