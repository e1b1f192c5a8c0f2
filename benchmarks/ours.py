"""What several cases need of our side."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from benchmarks.timing import Call
from optinfra import tree
from optinfra.learners import PPOBatch
from optinfra.types import Action, PyTree, Spec

STREAM = "extrinsic"


def updating(update: Callable[[PyTree, PyTree], tuple[PyTree, PyTree]], state: PyTree,
             batch: PyTree) -> Call:  # fmt: skip
    """Update again and again, each time from where the last one ended."""

    def call() -> None:
        nonlocal state
        state, _ = update(state, batch)

    return call


def ppo_batch(spec: Spec, *rows: int) -> PPOBatch:
    """Draw a minibatch of random rows; with two sizes, the first one counts members."""
    sizes = spec.action
    width = sizes.continuous + len(sizes.branches)
    choices = [torch.randint(n, (*rows, 1)) for n in sizes.branches]
    discrete = torch.cat(choices, -1) if choices else torch.zeros(*rows, 0, dtype=torch.int64)
    return PPOBatch(
        obs=tuple(torch.randn(*rows, *shape) for shape in spec.obs),
        action=Action(torch.randn(*rows, sizes.continuous), discrete),
        action_mask=torch.ones(*rows, sizes.choices, dtype=torch.bool),
        log_prob=torch.randn(*rows, width) - 1,
        advantages=torch.randn(*rows),
        values={STREAM: torch.randn(*rows)},
        returns={STREAM: torch.randn(*rows)},
        mask=torch.ones(*rows, dtype=torch.bool),
    )


def shapes(params: PyTree) -> Sequence[Sequence[int]]:
    """Tell the shape of every parameter, as JSON can hold it."""
    return [list(leaf.shape) for leaf in tree.leaves(params)]


def like(params: dict[str, Tensor]) -> dict[str, Tensor]:
    """Draw gradients of these parameters."""
    return {name: torch.randn_like(p) for name, p in params.items()}
