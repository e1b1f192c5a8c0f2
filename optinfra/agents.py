"""Recurrent memories by agent id, for loops that agents enter and leave."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from optinfra import memory, tree
from optinfra.types import PyTree

AgentId: TypeAlias = int | str


class AgentMemories:
    """The memory of every living agent, and of no other.

        memories = AgentMemories(one)
        before = memories.read(ids)  # zeros for agents never seen
        memories.write(ids, after)
        memories.forget(ended)

    An agent's memory is changed by calls that name it, by nothing else. What is stored
    grows and shrinks with the number of living agents. To save everything keep `ids` and
    `read(ids)`; to go on from there write both into a new one.
    """

    _memories: PyTree  # [1 + A, …] each; row 0 stays zero: unknown agents read it
    _rows: dict[AgentId, int]  # 1 … A, row of each living agent, in ascending order

    def __init__(self, one: PyTree) -> None:
        """Begin without agents.

        Args:
          one: `[…]` each. The memory of one agent: structure, shapes, dtypes and device of
            it; its contents are not read.
        """
        self._memories = memory.zeros(one, 1)
        self._rows = {}

    def __len__(self) -> int:
        """A, the number of living agents."""
        return len(self._rows)

    @property
    def ids(self) -> tuple[AgentId, ...]:
        """Living agents, in the order in which they were first written."""
        return tuple(self._rows)

    def read(self, ids: Sequence[AgentId]) -> PyTree:
        """Copy the memories of some agents.

        Args:
          ids: K agents, known or not, in any order.

        Returns:
          `[K, …]` each; zeros for agents never written, or not since they were forgotten.

        Raises:
          TypeError: an id is neither an integer nor a string.
        """
        rows = [self._rows.get(agent, 0) for agent in checked(ids)]
        return memory.read(self._memories, self._index(rows))

    def write(self, ids: Sequence[AgentId], values: PyTree) -> None:
        """Store the memories of some agents; those not known before live from now on.

        Args:
          ids: K agents, each once.
          values: `[K, …]` each; copied, without the graph that led to them.

        Raises:
          ValueError: an agent is named twice, or `values` has another structure or shape.
          TypeError: an id is neither an integer nor a string, or a dtype is another.
        """
        agents = checked(ids)
        for agent, times in Counter(agents).items():
            if times > 1:
                raise ValueError(f"`ids` must name each agent once, got {agent!r} {times} times.")
        new = [agent for agent in agents if agent not in self._rows]
        rows = self._rows | {agent: n for n, agent in enumerate(new, start=1 + len(self))}
        index = self._index([rows[agent] for agent in agents])
        with torch.no_grad():
            memories = memory.write(self._with_room_for(len(new)), index, values)
        self._memories, self._rows = memories, rows

    def forget(self, ids: Iterable[AgentId]) -> None:
        """Let agents end, by termination or by truncation: nothing of them is left.

        Args:
          ids: known or not; should one return, it begins from zeros.

        Raises:
          TypeError: an id is neither an integer nor a string.
        """
        self.keep_only(self._rows.keys() - set(checked(ids)))

    def keep_only(self, ids: Iterable[AgentId]) -> None:
        """Let all agents end but these.

        Args:
          ids: known or not; none is added.

        Raises:
          TypeError: an id is neither an integer nor a string.
        """
        kept = set(checked(ids))
        left = [agent for agent in self._rows if agent in kept]
        if len(left) == len(self):
            return
        index = self._index([0, *(self._rows[agent] for agent in left)])
        self._memories = memory.read(self._memories, index)
        self._rows = {agent: n for n, agent in enumerate(left, start=1)}

    def _index(self, rows: list[int]) -> Tensor:
        device = next((x.device for x in tree.leaves(self._memories)), None)
        return torch.tensor(rows, dtype=torch.int64, device=device)

    def _with_room_for(self, agents: int) -> PyTree:
        """Append rows of zeros; the result is only read."""
        if not agents:
            return self._memories
        return tree.map(
            lambda x: torch.cat([x, x.new_zeros((agents, *x.shape[1:]))]), self._memories
        )


def checked(ids: Iterable[AgentId]) -> list[AgentId]:
    """Read ids, numpy's integers as Python's.

    Raises:
      TypeError: an id is neither an integer nor a string, or `ids` is a string itself.
    """
    if isinstance(ids, str):
        raise TypeError(f"`ids` must be a sequence of ids, got the string {ids!r}.")
    return [agent if isinstance(agent, str) else as_integer(agent) for agent in ids]


def as_integer(agent: AgentId) -> int:
    """Read an id that is no string; a tensor is none, since equal ones are different keys."""
    if not isinstance(agent, int | np.integer):
        kind = type(agent).__name__
        raise TypeError(f"`ids` must hold integers and strings, got {agent!r} of type {kind}.")
    return int(agent)
