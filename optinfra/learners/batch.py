"""What PPO learns from: rows or sequences, checked, and blank where they do not count."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from optinfra import tree
from optinfra.check import require_dtype, require_leading, require_shape, require_trailing
from optinfra.types import Action, Mates, Memories, Obs, PyTree, Spec


class PPOBatch(NamedTuple):
    """One minibatch of rows, or a whole rollout of them."""

    obs: Obs  # [*N, D_i] each
    action: Action  # [*N, A] and [*N, K], as drawn
    action_mask: Tensor  # [*N, choices] bool, True where the choice is allowed
    log_prob: Tensor  # [*N, A + K], when the action was drawn
    advantages: Tensor  # [*N], already normalised
    values: dict[str, Tensor]  # [*N] by stream, when the action was drawn
    returns: dict[str, Tensor]  # [*N] by stream
    mask: Tensor  # [*N] bool, True where the row counts
    live: PyTree = ()  # [*N] bool by stream, False where it has failed; () where none has
    # What follows is for learners that remember. A row is then a sequence, `*N` is `N, S`.
    memory: PyTree = ()  # Memories [N, M], what each sequence starts from
    reset: PyTree = ()  # [N, S] bool, True where a step starts from an empty memory
    warmup: PyTree = ()  # [N, S] bool, True where a step that does not count warms the memory up
    # What follows is for learners of groups.
    mates: PyTree = ()  # Mates [*N, G, …]
    baselines: PyTree = ()  # [*N] by stream, when the action was drawn


def blanked(batch: PPOBatch) -> PPOBatch:
    """Let zeros take the place of what a masked row holds: not even 0 · NaN may reach a gradient.

    A step that warms a memory up keeps its observations, and its mates.
    """
    seen = batch.mask | batch.warmup if isinstance(batch.warmup, Tensor) else batch.mask
    obs, mates = tree.blank(seen, (batch.obs, batch.mates))
    rest = batch._replace(obs=(), mates=(), memory=(), reset=(), warmup=())
    counted = tree.blank(batch.mask, rest)._replace(obs=obs, mates=mates)
    memory = batch.memory
    if tree.leaves(memory):  # of a sequence that is padding from end to end nothing counts either
        memory = tree.blank(seen.any(-1), memory)
    return counted._replace(memory=memory, reset=batch.reset, warmup=batch.warmup)


def time_first(batch: PPOBatch) -> PPOBatch:
    """Turn sequences `[N, S, …]` into `[S, N, …]`, as networks with a memory have them."""
    turned = tree.map(lambda x: x.movedim(1, 0), batch._replace(memory=()))
    return turned._replace(memory=batch.memory)


def check_obs(spec: Spec, obs: Obs) -> None:
    """Raise unless there are as many observations as in the spec, of its shapes."""
    if len(obs) != len(spec.obs):
        raise ValueError(f"`obs` must have {len(spec.obs)} observations, got {len(obs)}.")
    for i, (x, shape) in enumerate(zip(obs, spec.obs)):
        require_trailing(f"obs[{i}]", x, shape)


def check_batch(spec: Spec, batch: PPOBatch) -> None:
    """Raise unless shapes and dtypes of a batch are those of the spec."""
    rows = batch.mask.shape
    sizes = spec.action
    width = sizes.continuous + len(sizes.branches)
    require_dtype("mask", batch.mask, torch.bool)
    require_dtype("action_mask", batch.action_mask, torch.bool)
    require_dtype("action.discrete", batch.action.discrete, torch.int64)
    check_obs(spec, batch.obs)
    for i, (x, shape) in enumerate(zip(batch.obs, spec.obs)):
        require_shape(f"obs[{i}]", x, (*rows, *shape))
    require_shape("action.continuous", batch.action.continuous, (*rows, sizes.continuous))
    require_shape("action.discrete", batch.action.discrete, (*rows, len(sizes.branches)))
    require_shape("action_mask", batch.action_mask, (*rows, sizes.choices))
    require_shape("log_prob", batch.log_prob, (*rows, width))
    require_shape("advantages", batch.advantages, rows)
    for column, streams in (("values", batch.values), ("returns", batch.returns)):
        for name, x in streams.items():
            require_shape(f"{column}[{name!r}]", x, rows)
    for name, x in dict(batch.live).items():
        require_dtype(f"live[{name!r}]", x, torch.bool)
        require_shape(f"live[{name!r}]", x, rows)


def live_rows(batch: PPOBatch) -> dict[str, Tensor]:
    """Tell by stream `[*N]` bool where a row counts: nowhere where the stream has failed."""
    live = dict(batch.live)
    return {name: batch.mask & live.get(name, batch.mask) for name in batch.values}


def check_sequences(batch: PPOBatch, burn_in: int) -> None:
    """Raise unless a batch is one of sequences, with what a learner that remembers needs."""
    rows = batch.mask.shape
    if len(rows) != 2 or rows[1] <= burn_in:
        expected = f"[N, S] with S > {burn_in}"
        raise ValueError(f"`mask` must have shape {expected}, got {list(rows)}.")
    memories = tree.leaves(batch.memory)
    if not isinstance(batch.reset, Tensor) or len(memories) < len(Memories._fields):
        raise ValueError("`memory` and `reset` must be given to a learner that remembers.")
    for x in memories:
        require_leading("memory", x, rows[:1], "N")
    for name, x in (("reset", batch.reset), ("warmup", batch.warmup)):
        for flag in tree.leaves(x):
            require_dtype(name, flag, torch.bool)
            require_shape(name, flag, rows, "N, S")


def check_mates(spec: Spec, batch: PPOBatch) -> None:
    """Raise unless a batch has what a learner of groups needs; its networks check the rest."""
    if not isinstance(batch.mates, Mates) or not batch.baselines:
        raise ValueError("`mates` and `baselines` must be given to a learner of groups.")
    require_dtype("mates.present", batch.mates.present, torch.bool)
    require_dtype("mates.action.discrete", batch.mates.action.discrete, torch.int64)
    for x in tree.leaves(batch.mates):
        require_leading("mates", x, batch.mask.shape, "*N")
    check_obs(spec, batch.mates.obs)
    for name, x in batch.baselines.items():
        require_shape(f"baselines[{name!r}]", x, batch.mask.shape)


def check_streams(values: Mapping[str, Tensor], batch: PPOBatch) -> None:
    """Raise unless a batch has the streams that the network has values for."""
    columns = {"values": batch.values, "returns": batch.returns}
    others = {"live": batch.live, "baselines": batch.baselines}
    for column, streams in (columns | {name: x for name, x in others.items() if x}).items():
        if set(streams) != set(values):
            raise ValueError(
                f"`{column}` must have the streams of the network, {sorted(values)}, "
                f"got {sorted(streams)}."
            )
