"""What groups of agents are worth, and what each agent of them would be replaced by."""

from collections.abc import Callable, Collection
from functools import partial
from typing import Any

import torch
from torch import Tensor

from optinfra import moments, tree
from optinfra.learners.acting import Acting, normalized
from optinfra.networks import GroupActorCritic
from optinfra.types import (
    Action,
    Mates,
    Obs,
    PyTree,
    RolloutValues,
    Spec,
    Trajectory,
    TrajectoryValues,
)
from optinfra.values import Critic, Values, rollout_values, trajectory_values

Judge = Callable[..., tuple[Values, PyTree]]  # of `GroupActorCritic`


def group_trajectory_values(
    acting: Acting,
    network: GroupActorCritic,
    *,
    sequence_length: int | None = None,
    ignore_done: Collection[str] = (),
) -> Callable[[PyTree, Trajectory, Obs, Tensor], TrajectoryValues]:
    """Value trajectories of agents with mates, as `values.trajectory_values` does without.

    Args:
      acting: what is static about the learner.
      network: values and baselines.
      sequence_length: S ≥ 1; memories are told every so many steps.
      ignore_done: streams for which nothing ends.

    Returns:
      `(params, trajectory, next_obs, done) -> TrajectoryValues`, with baselines. The trajectory
      has `mates` `[T, *B, G, …]` and `next_mates` `[*B, G, …]`. Memories are those of values and
      of baselines, end to end. The agents' number is seen in the scale of `params.largest`, or
      of the largest group given if that is larger.
    """
    options: dict[str, Any] = {"sequence_length": sequence_length, "ignore_done": ignore_done}
    of_values, of_baselines = (
        trajectory_values(critic, **options) for critic in _critics(acting, network)
    )

    def run(params: Any, trajectory: Trajectory, next_obs: Obs, done: Tensor) -> TrajectoryValues:
        params, (first, second), following = _prepared(acting, params, trajectory, next_obs)
        values = of_values(params, first, following, done)
        baselines = of_baselines(params, second, following, done)
        return values._replace(
            memories=_end_to_end(values.memories, baselines.memories),
            final_memory=_end_to_end(values.final_memory, baselines.final_memory),
            baselines=baselines.values,
        )

    return run


def group_rollout_values(
    acting: Acting, network: GroupActorCritic
) -> Callable[[PyTree, Trajectory, Obs], RolloutValues]:
    """Value rollouts of agents with mates, as `values.rollout_values` does without.

    Args:
      acting: what is static about the learner.
      network: values and baselines.

    Returns:
      `(params, trajectory, next_obs) -> RolloutValues`, with baselines. The trajectory has
      `mates` and `next_mates` `[T, *B, G, …]`.
    """
    of_values, of_baselines = (rollout_values(critic) for critic in _critics(acting, network))

    def run(params: Any, trajectory: Trajectory, next_obs: Obs) -> RolloutValues:
        params, (first, second), following = _prepared(acting, params, trajectory, next_obs)
        values = of_values(params, first, following)
        baselines = of_baselines(params, second, following)
        return values._replace(
            memories=_end_to_end(values.memories, baselines.memories),
            final_memory=_end_to_end(values.final_memory, baselines.final_memory),
            baselines=baselines.values,
        )

    return run


def alone(obs: Obs, spec: Spec) -> Mates:
    """Make the mates of agents that have none."""
    first, action = obs[0], spec.action
    rows = first.shape[: first.ndim - len(spec.obs[0])]

    def nothing(*width: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.zeros(*rows, 0, *width, dtype=dtype, device=first.device)

    choices = nothing(len(action.branches), dtype=torch.int64)
    return Mates(
        obs=tuple(nothing(*shape, dtype=x.dtype) for x, shape in zip(obs, spec.obs)),
        action=Action(nothing(action.continuous), choices),
        present=nothing(dtype=torch.bool),
    )


def normalized_mates(acting: Acting, params: Any, mates: Mates) -> Mates:
    """Pass what the mates see through the normaliser, if there is one."""
    if not acting.normalize:
        return mates
    return mates._replace(obs=moments.normalize_vectors(params.moments, mates.obs))


def largest_of(largest: Tensor, *groups: Mates) -> Tensor:
    """Raise a number of agents `[]` to that of the largest group."""
    for mates in groups:
        size = 1 + mates.present.sum(-1)
        largest = torch.maximum(largest, size.max().to(largest.dtype))
    return largest


def _critics(acting: Acting, network: GroupActorCritic) -> tuple[Critic, Critic]:
    """Make critics of observations that hold the mates, of values and of baselines."""
    values = (network.values, network.values_and_memories)
    baselines = (network.baselines, network.baselines_and_memories)
    return (
        Critic(*(partial(_judged, acting, judge) for judge in values)),
        Critic(*(partial(_judged, acting, judge) for judge in baselines)),
    )


def _judged(
    acting: Acting, judge: Judge, params: Any, packed: Obs, memory: PyTree, reset: Tensor | None
) -> tuple[Values, PyTree]:
    obs, mates = _unpacked(acting, packed)
    obs, mates = normalized(acting, params, obs), normalized_mates(acting, params, mates)
    return judge(params.weights, obs, mates, params.largest, memory, reset)


def _prepared(
    acting: Acting, params: Any, trajectory: Trajectory, next_obs: Obs
) -> tuple[Any, tuple[Trajectory, Trajectory], Obs]:
    """Lay mates beside observations, each with a memory of its own; settle the scale."""
    mates, following = trajectory.mates, trajectory.next_mates
    if not isinstance(mates, Mates) or not isinstance(following, Mates):
        raise ValueError("`mates` and `next_mates` must be given to a learner of groups.")
    if isinstance(trajectory.mask, Tensor):  # whom padding is among is no group
        mask = trajectory.mask
        after = mask if following.present.ndim > mask.ndim else mask.any(0)
        mates = mates._replace(present=mates.present & mask[..., None])
        following = following._replace(present=following.present & after[..., None])
    params = params._replace(largest=largest_of(params.largest, mates, following))
    seen = trajectory._replace(obs=_packed(trajectory.obs, mates), mates=(), next_mates=())
    halves: tuple[PyTree, PyTree] = ((), ())
    if isinstance(trajectory.memory, Tensor):
        first, second = trajectory.memory.chunk(2, -1)
        halves = (first, second)
    apart = (seen._replace(memory=halves[0]), seen._replace(memory=halves[1]))
    return params, apart, _packed(next_obs, following)


def _packed(obs: Obs, mates: Mates) -> Obs:
    return (*obs, *mates.obs, *mates.action, mates.present)


def _unpacked(acting: Acting, packed: Obs) -> tuple[Obs, Mates]:
    count = len(acting.spec.obs)
    own, seen = packed[:count], packed[count : 2 * count]
    continuous, discrete, present = packed[2 * count :]
    return own, Mates(seen, Action(continuous, discrete), present)


def _end_to_end(first: PyTree, second: PyTree) -> PyTree:
    return tree.map(lambda a, b: torch.cat([a, b], -1), first, second)
