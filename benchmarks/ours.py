"""What several cases need of our side."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from benchmarks.timing import Call
from optinfra import tree
from optinfra.learners import PPOBatch, SACBatch
from optinfra.types import Action, PyTree, Spec, Transitions

STREAM, DISCOUNT = "extrinsic", 0.99


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


def transitions(spec: Spec, *rows: int) -> Transitions:
    """Draw steps of random numbers; none of them ends anything, none is masked."""
    nowhere = torch.zeros(rows, dtype=torch.bool)
    discrete = [torch.randint(n, rows) for n in spec.action.branches]
    choices = torch.stack(discrete, -1) if discrete else torch.zeros(*rows, 0, dtype=torch.int64)
    return Transitions(
        obs=tuple(torch.randn(*rows, *shape) for shape in spec.obs),
        next_obs=tuple(torch.randn(*rows, *shape) for shape in spec.obs),
        action=Action(2 * torch.rand(*rows, spec.action.continuous) - 1, choices),
        rewards=torch.randn(rows),
        terminated=nowhere,
        truncated=nowhere,
        mask=~nowhere,
        action_mask=torch.ones(*rows, spec.action.choices, dtype=torch.bool),
    )


def sac_batch(rows: Transitions) -> SACBatch:
    """Make a minibatch with one stream of transitions."""
    return SACBatch(
        obs=rows.obs,
        next_obs=rows.next_obs,
        action=rows.action,
        action_mask=rows.action_mask,
        rewards={STREAM: rows.rewards},
        discounts={STREAM: torch.full_like(rows.rewards, DISCOUNT)},
        terminated=rows.terminated,
        mask=rows.mask,
    )


def shapes(params: PyTree) -> Sequence[Sequence[int]]:
    """Tell the shape of every parameter, as JSON can hold it."""
    return [list(leaf.shape) for leaf in tree.leaves(params)]


def like(params: dict[str, Tensor]) -> dict[str, Tensor]:
    """Draw gradients of these parameters."""
    return {name: torch.randn_like(p) for name, p in params.items()}
