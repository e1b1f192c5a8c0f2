"""Pytree verbs. The only module that imports optree.

optree sorts the keys of a dict, torch's own pytree keeps the order of insertion:
leaves of the one are never paired with leaves of the other.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optree
import torch
from torch import Tensor

# A tree is typed as Any: what `map` returns has the structure of what it was given.
map: Callable[..., Any] = optree.tree_map
leaves: Callable[..., list[Any]] = optree.tree_leaves
flatten: Callable[..., Any] = optree.tree_flatten  # (tree) -> (leaves, structure)
structure: Callable[..., Any] = optree.tree_structure


def stack(trees: Sequence[Any]) -> Any:
    """Stack trees of one structure leaf by leaf: `[…]` each becomes `[E, …]`."""
    return optree.tree_map(lambda *xs: torch.stack(xs), *trees)


def take(tree: Any, index: Tensor | int | slice) -> Any:
    """Index the leading axis of every leaf: one member of a stack, or some of its rows."""
    return optree.tree_map(lambda x: x[index], tree)


def row_major(tree: Any) -> Any:
    """Lay out every leaf row by row, copying those that lie otherwise.

    vmap returns views, with a stride of 0 where all members have one value. A function is
    compiled for the strides it is given, and once more for what its own results have.
    """
    return optree.tree_map(_row_major, tree)


def _row_major(x: Tensor) -> Tensor:
    stride = 1
    for size, actual in zip(reversed(x.shape), reversed(x.stride())):
        if actual != stride:
            return x.clone(memory_format=torch.contiguous_format)
        stride *= max(size, 1)
    return x


def where(condition: Tensor, if_true: Any, if_false: Any) -> Any:
    """Choose leaf by leaf; `condition` `[*B]` is matched with the leading axes of every leaf.

    Both trees have one structure, shapes and dtypes.
    """

    def choose(x: Tensor, y: Tensor) -> Tensor:
        ones = (1,) * (x.ndim - condition.ndim)
        return torch.where(condition.reshape(condition.shape + ones), x, y)

    return optree.tree_map(choose, if_true, if_false)


def blank(keep: Tensor, tree: Any) -> Any:
    """Put zeros where `keep` `[*B]` is False: not even 0 · NaN may reach a gradient from there.

    `keep` is matched with the leading axes of every leaf.
    """

    def choose(x: Tensor) -> Tensor:
        ones = (1,) * (x.ndim - keep.ndim)
        return torch.where(keep.reshape(keep.shape + ones), x, x.new_zeros(()))

    return optree.tree_map(choose, tree)


def named_leaves(tree: Any) -> dict[str, Tensor]:
    """Every leaf under the path that leads to it, in the order of `leaves`.

    Parts are joined by `/`: keys of dicts, names of a NamedTuple's fields, positions in others.
    """
    accessors, values, _ = optree.tree_flatten_with_accessor(tree)
    names = ["/".join(str(getattr(e, "field", e.entry)) for e in path) for path in accessors]
    return dict(zip(names, values))


def replace(tree: Any, values: Mapping[str, Any]) -> Any:
    """Put other leaves in the place of some: to schedule a hyperparameter by hand, or to sweep it.

        state = tree.replace(state, {"hyper/learning_rate/value": torch.tensor(1e-4)})

    Args:
      tree: not changed.
      values: new leaves by the names of `named_leaves`.

    Returns:
      A tree of the same structure.

    Raises:
      ValueError: there is no leaf of a name; the message lists those that end alike.
    """
    named = named_leaves(tree)
    for name in values.keys() - named.keys():
        last = name.rpartition("/")[2]
        alike = [other for other in named if last in other] or list(named)
        raise ValueError(f"`values` must name leaves, got {name!r}. There are {', '.join(alike)}.")
    return unflatten(tree, list({**named, **values}.values()))


def unflatten(like: Any, values: Sequence[Tensor]) -> Any:
    """Put `values` (in the order of `leaves`) into the structure of `like`."""
    return optree.tree_unflatten(optree.tree_structure(like), values)


def broadcast_prefix(prefix: Any, tree: Any) -> list[Any]:
    """Give every leaf of `tree` what `prefix` has at or above its place, as vmap reads `in_dims`.

    `None` is a value of its own in `prefix`. The order is that of `leaves`.
    """
    return optree.broadcast_prefix(prefix, tree, none_is_leaf=True)
