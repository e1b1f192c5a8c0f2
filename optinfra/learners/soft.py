"""What SAC learns from: transitions or sequences of them, checked, and blank where masked."""

from typing import NamedTuple

import torch
from torch import Tensor

from optinfra import tree
from optinfra.check import require_dtype, require_leading, require_shape
from optinfra.learners.batch import check_obs
from optinfra.types import Action, Memories, Obs, PyTree, Spec


class SACBatch(NamedTuple):
    """One minibatch of transitions."""

    obs: Obs  # [*N, D_i] each
    next_obs: Obs  # [*N, D_i] each, what really followed
    action: Action  # [*N, A] in [−1, 1] and [*N, K], as executed
    action_mask: Tensor  # [*N, choices] bool, True where the choice is allowed
    rewards: dict[str, Tensor]  # [*N] by stream, strength included
    discounts: dict[str, Tensor]  # [*N] by stream, γ
    terminated: Tensor  # [*N] bool, the episode came to its own end with this step
    mask: Tensor  # [*N] bool, True where the row counts
    live: PyTree = ()  # [*N] bool by stream, False where it has failed; () where none has
    # What follows is for learners that remember. A row is then a sequence, `*N` is `N, S`.
    memory: PyTree = ()  # Memories [N, M], what each sequence starts from
    reset: PyTree = ()  # [N, S] bool, True where a step starts from an empty memory; () nowhere
    # Only targets without a value network ask what the policy would do next.
    next_action_mask: PyTree = ()  # [*N, choices] bool, of next_obs; () where all is allowed


def check_batch(
    spec: Spec, batch: SACBatch, *, sequences: bool, value_network: bool = True
) -> None:
    """Raise unless shapes and dtypes of a batch are those of the spec."""
    rows, sizes = batch.mask.shape, spec.action
    if sequences and len(rows) != 2:
        raise ValueError(f"`mask` must have shape [N, S], got {list(rows)}.")
    require_dtype("mask", batch.mask, torch.bool)
    require_dtype("terminated", batch.terminated, torch.bool)
    require_dtype("action_mask", batch.action_mask, torch.bool)
    require_dtype("action.discrete", batch.action.discrete, torch.int64)
    for name, obs in (("obs", batch.obs), ("next_obs", batch.next_obs)):
        check_obs(spec, obs)
        for i, (x, shape) in enumerate(zip(obs, spec.obs)):
            require_shape(f"{name}[{i}]", x, (*rows, *shape))
    require_shape("action.continuous", batch.action.continuous, (*rows, sizes.continuous))
    require_shape("action.discrete", batch.action.discrete, (*rows, len(sizes.branches)))
    require_shape("action_mask", batch.action_mask, (*rows, sizes.choices))
    for x in tree.leaves(batch.next_action_mask):
        require_dtype("next_action_mask", x, torch.bool)
        require_shape("next_action_mask", x, (*rows, sizes.choices))
    require_shape("terminated", batch.terminated, rows)
    for column in ("rewards", "discounts", "live"):
        for name, x in dict(getattr(batch, column)).items():
            require_shape(f"{column}[{name!r}]", x, rows)
    if sequences:
        _check_sequences(batch, value_network)


def check_streams(values: dict[str, Tensor], batch: SACBatch) -> None:
    """Raise unless a batch has the streams that the networks have values for."""
    for column in ("rewards", "discounts", *(("live",) if batch.live else ())):
        streams = getattr(batch, column)
        if set(streams) != set(values):
            raise ValueError(
                f"`{column}` must have the streams of the network, {sorted(values)}, "
                f"got {sorted(streams)}."
            )


def _check_sequences(batch: SACBatch, value_network: bool) -> None:
    memories = tree.leaves(batch.memory)
    # Qs begin a sequence with an empty memory: without V the policy's is all that is read.
    read = batch.memory if value_network else batch.memory[:1]
    if len(tree.leaves(read)) < (len(Memories._fields) if value_network else 1):
        raise ValueError("`memory` must be given to a learner that remembers.")
    for x in memories:
        require_leading("memory", x, batch.mask.shape[:1], "N")
    for flag in tree.leaves(batch.reset):
        require_dtype("reset", flag, torch.bool)
        require_shape("reset", flag, batch.mask.shape, "N, S")


def blanked(batch: SACBatch) -> SACBatch:
    """Let zeros take the place of what a masked row holds: 0 · NaN may not reach a gradient."""
    rows = batch._replace(memory=(), reset=())
    counted = tree.blank(batch.mask, rows)
    memory = batch.memory
    if tree.leaves(memory):  # of a sequence that is padding from end to end nothing counts either
        memory = tree.blank(batch.mask.any(-1), memory)
    return counted._replace(memory=memory, reset=batch.reset)


def time_first(batch: SACBatch) -> SACBatch:
    """Turn sequences `[N, S, …]` into `[S, N, …]`, as networks with a memory have them."""
    turned = tree.map(lambda x: x.movedim(1, 0), batch._replace(memory=()))
    return turned._replace(memory=batch.memory)


def reset_of(batch: SACBatch) -> Tensor | None:
    """Tell which steps start from an empty memory, or None where none does."""
    return batch.reset if isinstance(batch.reset, Tensor) else None


def live_rows(batch: SACBatch) -> dict[str, Tensor]:
    """Tell by stream `[*N]` bool where a row counts: nowhere where the stream has failed."""
    live = dict(batch.live)
    return {name: batch.mask & live.get(name, batch.mask) for name in batch.rewards}
