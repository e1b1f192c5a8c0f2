"""Values of trajectories: what each step is worth, what follows the last, what is remembered."""

from collections.abc import Callable, Collection
from typing import NamedTuple

import torch
from torch import Tensor

from optinfra import sequences, tree
from optinfra.check import require_dtype, require_integer, require_leading, require_shape
from optinfra.networks import step_by_step
from optinfra.types import Obs, PyTree, RolloutValues, TrajectoryValues
from optinfra.types import Trajectory as Trajectory

Values = dict[str, Tensor]


class Critic(NamedTuple):
    """A value function over sequences, as `networks.RecurrentActorCritic` has them."""

    # (params, obs [S, *B, D_i], memory [*B, M], reset [S, *B]) -> (values [S, *B], memory after)
    values: Callable[[PyTree, Obs, PyTree, Tensor | None], tuple[Values, PyTree]]
    # the same, with the memory after each step [S, *B, M]; step by step unless given
    values_and_memories: (
        Callable[[PyTree, Obs, PyTree, Tensor | None], tuple[Values, PyTree]] | None
    ) = None

    def with_memories(
        self, params: PyTree, obs: Obs, memory: PyTree, reset: Tensor
    ) -> tuple[Values, PyTree]:
        """Value a sequence and tell the memory after each of its steps."""
        run = self.values_and_memories or step_by_step(self.values)
        return run(params, obs, memory, reset)


def trajectory_values(
    critic: Critic, *, sequence_length: int | None = None, ignore_done: Collection[str] = ()
) -> Callable[[PyTree, Trajectory, Obs, Tensor], TrajectoryValues]:
    """Value trajectories of one agent or of many.

    Args:
      critic: memoryless ones are given `()` for a memory.
      sequence_length: S ≥ 1; memories are told every so many steps, from the first one on.
        Only that of the first unless given.
      ignore_done: streams for which nothing ends: their bootstrap stays at a termination.

    Returns:
      `(params, trajectory, next_obs, done) -> TrajectoryValues`. `next_obs` `[*B, D_i]` each is
      what followed the last step, `done` `[*B]` bool whether that step terminated an episode:
      the bootstrap is then 0. Where an episode ends, by termination or by truncation, the
      memory is reset for the next. Without flags in the trajectory (`()`) nothing ends within
      it, which is the fastest. Rows that are padding come last, and what they hold changes
      nothing; their values are 0, as are memories of sequences that are padding only. No
      gradient flows through the results. To value many agents with a memory each, let
      them follow time in every leaf, or vmap: the same numbers.

    Raises:
      ValueError: `sequence_length` is less than 1; or a shape disagrees.
      TypeError: a flag is not bool.
    """
    if sequence_length is not None:
        require_integer("sequence_length", sequence_length, 1)

    def run(
        params: PyTree, trajectory: Trajectory, next_obs: Obs, done: Tensor
    ) -> TrajectoryValues:
        _check(trajectory, next_obs, done)
        params, trajectory, next_obs = tree.map(Tensor.detach, (params, trajectory, next_obs))
        steps = len(trajectory.obs[0])
        begin = sequences.starts(steps, sequence_length or steps)
        # Which one is settled by what is given, never by what it holds: else an agent's values
        # would depend in their last bits on whether another agent's episode ends.
        value = _by_lookup if _has_flags(trajectory) else _by_sequence
        values, memories, last = value(critic, params, trajectory, begin)
        bootstrap = _at_once(critic, params, next_obs, last)
        return TrajectoryValues(
            values=values,
            bootstrap={
                name: x if name in ignore_done else torch.where(done, 0.0, x)
                for name, x in bootstrap.items()
            },
            memories=memories,
            final_memory=_cleared(done | _ended_at_the_end(trajectory, done), last),
        )

    return run


def rollout_values(critic: Critic) -> Callable[[PyTree, Trajectory, Obs], RolloutValues]:
    """Value rollouts, in which episodes end anywhere.

    Args:
      critic: memoryless ones are given `()` for a memory.

    Returns:
      `(params, trajectory, next_obs) -> RolloutValues`. `next_obs` `[T, *B, D_i]` each is what
      really followed each step, valued with what was remembered after that step. A row that
      is no transition ends what is remembered. No gradient flows through the results.

    Raises:
      ValueError: a shape disagrees.
      TypeError: a flag is not bool.
    """

    def run(params: PyTree, trajectory: Trajectory, next_obs: Obs) -> RolloutValues:
        _check(trajectory, next_obs)
        params, trajectory, next_obs = tree.map(Tensor.detach, (params, trajectory, next_obs))
        ends = cuts(trajectory)
        values, after = critic.with_memories(
            params, trajectory.obs, trajectory.memory, resets(ends)
        )
        next_values = _at_once(critic, params, next_obs, after)
        onward = _cleared(ends, after)
        before = tree.map(
            lambda first, x: torch.cat([first[None], x[:-1]]), trajectory.memory, onward
        )
        return RolloutValues(values, next_values, before, tree.take(onward, -1))

    return run


def cuts(trajectory: Trajectory) -> Tensor:
    """Mark the steps `[T, *B]` after which nothing is remembered: ends, and what is no step."""
    ends = _ends(trajectory)
    return ends | ~trajectory.mask if isinstance(trajectory.mask, Tensor) else ends


def resets(ends: Tensor) -> Tensor:
    """Mark the steps `[T, *B]` that begin with an empty memory: those after an end."""
    return torch.cat([torch.zeros_like(ends[:1]), ends[:-1]])


def _by_sequence(
    critic: Critic, params: PyTree, trajectory: Trajectory, begin: tuple[int, ...]
) -> tuple[Values, PyTree, PyTree]:
    """Value trajectories in which nothing ends, sequence by sequence."""
    memory, values, memories = trajectory.memory, [], []
    for start, stop in zip(begin, (*begin[1:], len(trajectory.obs[0]))):
        memories.append(memory)
        obs = tree.take(trajectory.obs, slice(start, stop))
        value, memory = critic.values(params, obs, memory, None)
        values.append(value)
    together = tree.map(lambda *xs: torch.cat(xs), *values)
    return together, tree.stack(memories), memory


def _by_lookup(
    critic: Critic, params: PyTree, trajectory: Trajectory, begin: tuple[int, ...]
) -> tuple[Values, PyTree, PyTree]:
    """Value trajectories of different lengths, and look up what was remembered where."""
    ends, mask = _ends(trajectory), _mask(trajectory)
    obs = tree.blank(mask, trajectory.obs)
    values, after = critic.with_memories(params, obs, trajectory.memory, resets(ends))
    values = {name: torch.where(mask, x, 0.0) for name, x in values.items()}
    onward = _cleared(ends, after)
    before = tree.map(lambda first, x: torch.cat([first[None], x]), trajectory.memory, onward)
    at_starts = tree.take(before, torch.tensor(begin, device=mask.device))
    padding = ~mask[list(begin)]
    length = mask.sum(0)

    def at_the_end(first: Tensor, x: Tensor) -> Tensor:
        index = (length - 1).clamp(min=0)[None, ..., None].expand(1, *x.shape[1:])
        return torch.where((length > 0)[..., None], x.gather(0, index)[0], first)

    last = tree.map(at_the_end, trajectory.memory, after)
    return values, _cleared(padding, at_starts), last


def _ended_at_the_end(trajectory: Trajectory, done: Tensor) -> Tensor:
    """Tell `[*B]` whether the last step that is no padding ended an episode."""
    if not _has_flags(trajectory):
        return torch.zeros_like(done)
    mask = _mask(trajectory)
    following = torch.cat([mask[1:], torch.zeros_like(mask[:1])])
    return (_ends(trajectory) & ~following).any(0)


def _has_flags(trajectory: Trajectory) -> bool:
    """Whether something may end within, or be padding."""
    return bool(tree.leaves((trajectory.terminated, trajectory.truncated, trajectory.mask)))


def _ends(trajectory: Trajectory) -> Tensor:
    """Mark the steps `[T, *B]` that end an episode; those of the padding do not."""
    mask = _mask(trajectory)
    ends = torch.zeros_like(mask)
    for flag in (trajectory.terminated, trajectory.truncated):
        ends = ends | flag if isinstance(flag, Tensor) else ends
    return ends & mask


def _mask(trajectory: Trajectory) -> Tensor:
    """Mark the steps `[T, *B]` that count."""
    if isinstance(trajectory.mask, Tensor):
        return trajectory.mask
    given = [x for x in (trajectory.terminated, trajectory.truncated) if isinstance(x, Tensor)]
    return torch.ones_like(given[0])


def _cleared(ended: Tensor, memory: PyTree) -> PyTree:
    """Leave zeros where `ended`, whatever was there."""
    return tree.blank(~ended, memory)


def _at_once(critic: Critic, params: PyTree, obs: Obs, memory: PyTree) -> Values:
    """Value observations `[*B, D_i]`, each with what is remembered: a sequence of one step."""
    if not tree.leaves(memory):
        return critic.values(params, obs, memory, None)[0]
    values, _ = critic.values(params, tree.map(lambda x: x[None], obs), memory, None)
    return {name: x[0] for name, x in values.items()}


def _check(trajectory: Trajectory, next_obs: Obs, done: Tensor | None = None) -> None:
    flags = [(name, getattr(trajectory, name)) for name in ("terminated", "truncated", "mask")]
    given = [(name, x) for name, x in flags if isinstance(x, Tensor)]
    if done is not None:
        require_dtype("done", done, torch.bool)
    if given:
        rows = given[0][1].shape
    elif done is not None:
        rows = torch.Size((len(trajectory.obs[0]), *done.shape))
    else:
        raise ValueError("`terminated` must be the [T, *B] flags of a rollout, got ().")
    for name, flag in given:
        require_dtype(name, flag, torch.bool)
        require_shape(name, flag, rows, "T, *B")
    if done is not None:
        require_shape("done", done, rows[1:], "*B")
    for x in tree.leaves(trajectory.memory):
        require_leading("memory", x, rows[1:], "*B")
    for x in trajectory.obs:
        require_leading("obs", x, rows, "T, *B")
    after, letters = (rows, "T, *B") if done is None else (rows[1:], "*B")
    for x in next_obs:
        require_leading("next_obs", x, after, letters)
