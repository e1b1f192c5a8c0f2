"""Values of trajectories, one agent's at a time, and what a critic remembers of each agent."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from optinfra import tree
from optinfra.lift.epochs import Stage
from optinfra.mlagents.actor import critic_pass
from optinfra.mlagents.columns import Columns, Reader
from optinfra.mlagents.compiling import longer
from optinfra.mlagents.fields import AgentBufferField
from optinfra.mlagents.keys import ObservationKeyPrefix
from optinfra.types import Learner, Memories, PyTree, Trajectory, TrajectoryValues

Values = dict[str, np.ndarray]
NextValues = dict[str, float]


class Asked(NamedTuple):
    """One agent's trajectory, and how it ended."""

    batch: Mapping[Any, Any]  # its columns
    next_obs: Sequence[Any]  # what followed the last step, [*shape] each
    next_mates: Sequence[Sequence[Any]]  # what the mates saw then
    done: bool  # whether the last step ended the episode by itself
    agent_id: str
    interrupted: bool  # whether the episode was cut there


class Valued(NamedTuple):
    """What a critic says of it, as ML-Agents' callers take it."""

    values: Values  # [T] by stream
    baselines: Values  # [T] by stream; {} where there are none
    following: NextValues  # of what followed the last step
    memories: tuple[AgentBufferField | None, ...]  # [T, M]: the values', and the baselines'


class Valuer:
    """Values trajectories, and keeps what the critic remembers of every agent that lives.

    Args:
      learner: whose critic.
      reader: of its batches.
      ignore_done: streams for which an episode's end is none.
      grouped: whether the critic sees an agent's mates.
      horizon: steps of most trajectories.
      stage: applied to a group's critic without memory. A single agent's takes longer to be
        called, compiled, than to run: 0.45 ms against 0.29 for 100 steps.
    """

    def __init__(
        self,
        learner: Learner,
        reader: Reader,
        *,
        ignore_done: Collection[str],
        grouped: bool,
        horizon: int,
        stage: Stage | None,
    ) -> None:
        self._learner, self._reader = learner, reader
        self._ignore_done, self._grouped, self._horizon = ignore_done, grouped, horizon
        self._remembers = reader.sequence_length is not None
        self._value, self._staged = learner.trajectory_values, False
        if stage is not None and grouped and not self._remembers:
            self._value, self._staged = stage(self._value), True
        self.memories: dict[str, Tensor] = {}  # [1, 1, M] by agent that lives

    def value(self, params: Any, asked: Asked) -> Valued:
        """Value a trajectory from what is remembered of its agent, and remember what comes of it.

        Raises:
          ValueError: a column is missing, or of another length or shape. Nothing is remembered
            then.
        """
        columns, spec = self._reader.columns(asked.batch), self._reader.spec
        obs = tuple(columns.tensor(f"obs:{i}", shape) for i, shape in enumerate(spec.obs))
        following = _observed("next_obs", asked.next_obs, spec.obs)
        if not self._grouped and not self._remembers:
            return self._at_once(params, obs, following, asked.done)
        out = self._in_order(params, obs, following, asked, columns)
        over = asked.done or asked.interrupted or _cut(columns)
        self._remember(asked.agent_id, () if over else out.final_memory)
        return Valued(
            values={name: x[:, 0].cpu().numpy() for name, x in out.values.items()},
            baselines={name: x[:, 0].cpu().numpy() for name, x in dict(out.baselines).items()},
            following={name: float(x[0]) for name, x in out.bootstrap.items()},
            memories=self._fields(out.memories, len(obs[0])),
        )

    def _at_once(
        self, params: Any, obs: tuple[Tensor, ...], following: tuple[Tensor, ...], done: bool
    ) -> Valued:
        """Value steps that nothing connects, and what followed them, as so many rows."""
        rows = tuple(torch.cat([x, last]) for x, last in zip(obs, following))
        with torch.no_grad():
            told = self._learner.values(params, rows)
        values = {name: x.cpu().numpy() for name, x in told.items()}
        return Valued(
            values={name: x[:-1] for name, x in values.items()},
            baselines={},
            following={
                name: 0.0 if done and name not in self._ignore_done else float(x[-1])
                for name, x in values.items()
            },
            memories=(None, None),
        )

    def _in_order(
        self,
        params: Any,
        obs: tuple[Tensor, ...],
        following: tuple[Tensor, ...],
        asked: Asked,
        columns: Columns,
    ) -> TrajectoryValues:
        """Value steps one after another, from what is remembered, or beside mates."""
        length = len(obs[0])
        one = Trajectory(
            obs=tuple(x[:, None] for x in obs),
            memory=self._remembered(asked.agent_id),
            terminated=(),
            truncated=(),
            mask=(),
        )
        if self._grouped:
            one = self._with_mates(one, columns, asked.next_mates)
        one = self._padded(one)
        out: TrajectoryValues = self._value(params, one, following, torch.tensor([asked.done]))
        values, baselines = tree.map(lambda x: x[:length], (out.values, out.baselines))
        return out._replace(values=values, baselines=baselines)

    def _with_mates(
        self, one: Trajectory, columns: Columns, next_mates: Sequence[Sequence[Any]]
    ) -> Trajectory:
        shapes = self._reader.spec.obs
        seen = [_observed("next_groupmate_obs", mate, shapes) for mate in next_mates]
        later = {
            (ObservationKeyPrefix.NEXT_GROUP_OBSERVATION, i): np.concatenate(
                [np.zeros((0, *shape), np.float32), *(mate[i] for mate in seen)]
            )[None]
            for i, shape in enumerate(shapes)
        }
        return one._replace(
            mates=tree.map(lambda x: x[:, None], self._reader.mates(columns)),
            next_mates=self._reader.mates(
                self._reader.columns(later, rows=1), prefix="next_group_obs"
            ),
        )

    def _padded(self, one: Trajectory) -> Trajectory:
        """Add rows where nothing connects them, so that few lengths are compiled for."""
        rows = len(one.obs[0])
        missing = longer(rows, self._horizon) - rows if self._staged else 0
        if not missing:
            return one

        def filled(x: Tensor) -> Tensor:
            return torch.cat([x, x[:1].expand(missing, *x.shape[1:])])

        obs, mates = tree.map(filled, (one.obs, one.mates))
        return one._replace(obs=obs, mates=mates)

    # --- what is remembered -----------------------------------------------------------------

    def _remembered(self, agent_id: str) -> PyTree:
        zeros = self._learner.memories((1,)).critic
        memory = self.memories.get(agent_id)
        if memory is None or not isinstance(zeros, Tensor):
            return zeros
        if memory.numel() != zeros.numel():
            raise ValueError(
                f"`critic_memory_dict[{agent_id!r}]` must have shape "
                f"{[1, 1, zeros.shape[-1]]}, got {list(memory.shape)}."
            )
        return memory.reshape(zeros.shape)

    def _remember(self, agent_id: str, memory: PyTree) -> None:
        if isinstance(memory, Tensor):
            self.memories[agent_id] = memory[None]
        else:
            self.memories.pop(agent_id, None)

    def _fields(self, memories: PyTree, length: int) -> tuple[AgentBufferField | None, ...]:
        """Lay out for each step what its sequence starts with."""
        if not isinstance(memories, Tensor):
            return (None, None)
        each = memories[:, 0].repeat_interleave(self._reader.sequence_length or 1, 0)[:length]
        parts = each.chunk(2, -1) if self._grouped else (each,)
        return tuple(AgentBufferField(part.cpu().numpy()) for part in parts)


def _cut(columns: Columns) -> bool:
    """Tell whether the column says that the episode ended with the last step."""
    return columns.has("done") and bool(columns.array("done")[-1])


def _observed(
    name: str, seen: Sequence[Any], shapes: Sequence[tuple[int, ...]]
) -> tuple[Tensor, ...]:
    """Read what one agent observed after the last step, `[1, *shape]` each."""
    given = [torch.tensor(np.asarray(x, np.float32)) for x in seen]
    got = [tuple(x.shape) for x in given]
    if got == list(shapes):
        return tuple(x[None] for x in given)
    if got == [(1, *shape) for shape in shapes]:
        return tuple(given)
    expected, found = ([list(shape) for shape in x] for x in (shapes, got))
    raise ValueError(f"`{name}` must have the shapes {expected}, got {found}.")


class Critic:
    """What tells values, by the weights that its optimizer has at the moment.

    Args:
      learner: whose.
      params: gives its parameters of the moment.
      state_dict: gives them by ML-Agents' names.
    """

    def __init__(
        self,
        learner: Learner,
        params: Callable[[], Any],
        state_dict: Callable[[], dict[str, Tensor]],
    ) -> None:
        self._learner, self._params = learner, params
        self.state_dict = state_dict

    @property
    def memory_size(self) -> int:
        """M, numbers that one critic remembers; 0 without a memory."""
        zeros: Memories = self._learner.memories((1,))
        return zeros.actor.shape[-1] if isinstance(zeros.critic, Tensor) else 0

    def critic_pass(
        self,
        inputs: Sequence[Tensor],
        memories: Tensor | None = None,
        sequence_length: int = 1,
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """Tell values.

        Args:
          inputs: observations `[rows, *shape]`, one sequence after another.
          memories: `[1, rows / S, M]`, what each sequence begins with; zeros unless given.
          sequence_length: S.

        Returns:
          Values `[rows]` by stream, and what is remembered after each sequence.

        Raises:
          ValueError: a shape disagrees.
        """
        obs = tuple(torch.as_tensor(x, dtype=torch.float32) for x in inputs)
        return critic_pass(self._learner, self._params(), obs, memories, sequence_length)

    def update_normalization(self, buffer: Mapping[Any, Any]) -> None:
        """Do nothing: policy and critic share one normaliser, which the actor keeps."""
