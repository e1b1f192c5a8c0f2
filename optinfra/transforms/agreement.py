"""Trees that must agree before their leaves are paired."""

from optinfra import check, tree
from optinfra.types import PyTree


def require_agreement(name: str, given: PyTree, like: PyTree) -> None:
    """Raise ValueError unless `given` has the structure and the shapes of `like`.

    Broadcasting would accept a gradient of another shape and spread it over a parameter.
    """
    xs, structure = tree.flatten(given)
    ys, expected_structure = tree.flatten(like)
    if structure != expected_structure:
        expected, actual = list(tree.named_leaves(like)), list(tree.named_leaves(given))
        raise ValueError(f"`{name}` must have the leaves {expected}, got {actual}.")
    if [x.shape for x in xs] != [y.shape for y in ys]:
        for path, x, y in zip(tree.named_leaves(like), xs, ys):
            check.require_shape(f"{name}[{path}]", x, y.shape)
