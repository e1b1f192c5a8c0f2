"""A store whose rows have priorities."""

import os
from itertools import pairwise

import torch
from torch import Tensor

from optinfra import replay
from optinfra.check import require_dtype, require_number, require_shape
from optinfra.store.ring import Columns, ReplayStore
from optinfra.types import PyTree, Transitions

LARGEST = 1e28  # priority: 2³¹ of them have a finite sum in float32


class PrioritizedStore(ReplayStore):
    """A store whose rows are drawn in proportion to their priorities.

        pᵢ = (|δᵢ| + ε)^α

        drawn = replay.sample_prioritized(
            store.view(), store.levels, key, 256, weight_exponent=beta
        )
        store.prioritize(drawn.positions, errors)  # before anything is added

    What is added has the highest priority there was so far, 1 at the beginning. Setting
    priorities costs O(N · log(C·B)).

    Source: Schaul et al. 2016, algorithm 1, https://arxiv.org/abs/1511.05952.
    """

    levels: replay.Levels  # see `replay.priority_sums`; as long-lived as `view`
    _highest: Tensor  # [] float32

    def __init__(
        self,
        one: Transitions,
        memory: PyTree = (),
        *,
        capacity: int,
        lanes: int,
        exponent: float = 0.6,
        least_error: float = 1e-6,
        ram_limit: int | None = None,
        folder: str | os.PathLike | None = None,
    ) -> None:
        """Make the arrays, empty.

        Args:
          one: as in `ReplayStore`, and so are those that are not named here.
          memory: likewise.
          capacity: likewise.
          lanes: likewise.
          exponent: α in [0, 1]; 0 draws uniformly.
          least_error: ε > 0, so that nothing is never drawn again.
          ram_limit: likewise; priorities stay in memory, 4.3 bytes a row.
          folder: likewise.

        Raises:
          ValueError, TypeError, StoreError: as in `ReplayStore`.
        """
        require_number("exponent", exponent, 0.0, 1.0)
        require_number("least_error", least_error, 0.0, open_low=True)
        super().__init__(
            one, memory, capacity=capacity, lanes=lanes, ram_limit=ram_limit, folder=folder
        )
        self._exponent, self._least_error = exponent, least_error
        self._highest = one.mask.new_ones((), dtype=torch.float32)
        zeros = one.mask.new_zeros((self.capacity,), dtype=torch.float32)
        self.levels = replay.priority_sums(zeros)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays, filled or not."""
        return super().nbytes + sum(x.nbytes for x in self.levels)

    def prioritize(self, positions: Tensor, errors: Tensor) -> None:
        """Set the priorities of rows by what the learner was wrong by.

        Args:
          positions: `[N]` int64, of rows, as `replay.sample_prioritized` tells them. Of a
            row that is there twice, the greater error counts.
          errors: δ, `[N]` float. One that is not finite gives the highest priority so far.

        Raises:
          ValueError: a shape disagrees; TypeError: a dtype is another.
        """
        require_shape("positions", positions, (len(positions),), "N")
        require_dtype("positions", positions, torch.int64)
        require_shape("errors", errors, positions.shape, "N")
        if not len(positions):
            return
        with torch.no_grad():
            mask = self._columns.transitions.mask.flatten().index_select(0, positions)
            priorities = (errors.float().abs() + self._least_error) ** self._exponent
            priorities = torch.where(errors.isfinite(), priorities, self._highest)
            priorities = priorities.clamp(max=LARGEST)
            self._highest = torch.maximum(self._highest, priorities.max())
            self._set(positions, torch.where(mask, priorities, 0.0))

    def _write(self, slot: int, piece: Columns) -> None:
        super()._write(slot, piece)
        mask = piece.transitions.mask.flatten()
        begin = slot * self._shape[1]
        positions = torch.arange(begin, begin + len(mask), device=mask.device)
        self._set(positions, torch.where(mask, self._highest, 0.0))

    def _set(self, positions: Tensor, priorities: Tensor) -> None:
        """Write priorities `[N]`, and anew the sums above them."""
        self.levels[0].scatter_reduce_(0, positions, priorities, "amax", include_self=False)
        for lower, upper in pairwise(self.levels):
            positions = (positions // replay.FAN_OUT).unique()
            children = lower.reshape(-1, replay.FAN_OUT)[positions]
            upper[positions] = replay.totals(children.flatten())

    def _held(self, steps: int) -> dict[str, Tensor]:
        priorities = self.levels[0][: steps * self._shape[1]].reshape(steps, self._shape[1])
        return super()._held(steps) | {"priorities": priorities, "highest": self._highest}

    def _restore(self) -> None:
        super()._restore()
        self.levels[0][self._steps * self._shape[1] :] = 0.0
        self.levels = replay.priority_sums(self.levels[0][: self.capacity])
