"""The newest transitions of some lanes, in arrays that are made once."""

import os
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from optinfra import replay, tree
from optinfra.check import require_dtype, require_integer, require_shape
from optinfra.random import INT32_MAX
from optinfra.store import arrays, file
from optinfra.store.file import StoreError
from optinfra.types import PyTree, Transitions

FLAGS = ("terminated", "truncated", "mask")
ORDER_BYTES = 4  # a row's place in `_order`


class Columns(NamedTuple):
    """What is kept of every step."""

    transitions: Transitions  # [C, B, …] each
    memory: PyTree  # [C, B, M] each, before each step; () where none is kept
    cuts: Tensor  # [C, B] bool, see `replay.View`


class ReplayStore:
    """The newest transitions of some lanes: a ring of C steps of all B lanes.

        store = ReplayStore(one, capacity=50_000, lanes=16)
        store.add(transitions)  # [T, 16, …]
        batch = replay.sample(store.view(), key, 256)

    Arrays are made once. Adding writes what is added, over the oldest steps once all are
    filled, always steps of all lanes; nothing else is touched, copied or moved. Rows whose
    mask is False take their place, so that lanes stay aligned, and are never drawn.

    Differs: ML-Agents drops a fifth of its buffer when that is full, by rows, and so leaves
      trajectories beginning within the blocks it draws.
    """

    _columns: Columns
    _order: Tensor  # [C·B] int32, positions of the rows that count, the oldest first, in a ring
    _first: int  # where in `_order` the oldest is
    _rows: int  # how many rows count
    _next: int  # slot to write
    _steps: int  # slots that are filled

    def __init__(
        self,
        one: Transitions,
        memory: PyTree = (),
        *,
        capacity: int,
        lanes: int,
        ram_limit: int | None = None,
        folder: str | os.PathLike | None = None,
    ) -> None:
        """Make the arrays, empty.

        Args:
          one: `[…]` each. One transition: structure, shapes, dtypes and device of it; its
            contents are not read.
          memory: `[M]` each, likewise, what a learner remembers before a step.
          capacity: rows to keep, of all lanes together. C = capacity // lanes steps are.
          lanes: B ≥ 1, environments or agents side by side.
          ram_limit: bytes; what needs more is kept in files that are mapped into memory.
          folder: where these files lie, without a name, as long as the store lives; on a
            disk, which /tmp need not be. Needed with `ram_limit`.

        Raises:
          ValueError: a number is out of range, or `folder` is missing.
          TypeError: a number is no integer, or a flag of `one` is not bool.
          StoreError: there is no room in `folder`.
        """
        require_integer("lanes", lanes, 1)
        require_integer("capacity", capacity, lanes)
        if capacity > INT32_MAX:
            raise ValueError(f"`capacity` must be at most 2³¹ − 1, got {capacity}.")
        for name in FLAGS:
            require_shape(f"one.{name}", getattr(one, name), ())
            require_dtype(f"one.{name}", getattr(one, name), torch.bool)
        self._shape = (capacity // lanes, lanes)
        like = Columns(one, memory, one.mask)
        make = self._maker(like, ram_limit, folder)
        self._columns = tree.map(lambda x: make((*self._shape, *x.shape), x), like)
        self._order = make((self.capacity,), one.mask.new_zeros((), dtype=torch.int32))
        self._first = self._rows = self._next = self._steps = 0

    def __len__(self) -> int:
        """Number of transitions that can be drawn."""
        return self._rows

    @property
    def capacity(self) -> int:
        """C·B, number of transitions there is room for."""
        return self._shape[0] * self._shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays, filled or not."""
        return sum(x.nbytes for x in tree.leaves((self._columns, self._order)))

    def view(self) -> replay.View:
        """Show what is held, without copying it: until the next `add`, `cut` or `load`."""
        oldest = (self._next - self._steps) % self._shape[0]
        device = self._order.device
        first, rows, begin, steps = (
            torch.tensor(x, device=device) for x in (self._first, self._rows, oldest, self._steps)
        )
        return replay.View(*self._columns, self._order, first, rows, begin, steps)

    def add(self, transitions: Transitions, memory: PyTree = ()) -> None:
        """Add transitions, in time proportional to their number.

        Args:
          transitions: `[T, B, …]` each, a rollout: each lane goes on where the last one ended.
            Or `[N, …]` each, a stream such as `demos.taken` makes: it is laid out in B lanes,
            each with consecutive rows of it. There a row follows another where that one led
            to its observation, to the last bit, and ended nothing. Of more than there is room
            for, the last are kept.
          memory: `[T, B, M]` each, what the learner remembered before each step. Where nothing
            is known of it, as with demonstrations, `()`: zeros are kept.

        Raises:
          ValueError: structure or shape is another than that of `one`; TypeError: a dtype is.
        """
        rows = transitions.mask.shape
        if len(rows) not in (1, 2):
            raise ValueError(f"`transitions.mask` must have shape [T, B] or [N], got {list(rows)}.")
        memory = memory if tree.leaves(memory) else self._forgotten(rows)
        columns = Columns(transitions, memory, transitions.mask)
        with torch.no_grad():
            if len(rows) == 1:
                self._check(columns, rows, "N")
                self._add_stream(columns)
            else:
                self._check(columns, (rows[0], self._shape[1]), "T, B")
                self._append(columns._replace(cuts=_ends(transitions)))

    def cut(self) -> None:
        """Let nothing that is added from now on follow what was added before.

        For a stream that begins anew without an end in the flags: environments that were
        reset between two rollouts, for one.
        """
        if self._steps:
            self._columns.cuts[(self._next - 1) % self._shape[0]] = True

    def save(self, path: str | os.PathLike) -> None:
        """Write all that is held to a safetensors file, completely or not at all.

        Raises:
          StoreError: the file cannot be written. What was there before still is.
          TypeError: safetensors has no word for a dtype.
        """
        numbers = {"capacity": self.capacity, "next": self._next, "steps": self._steps}
        file.write(Path(path), self._held(self._steps), numbers)

    def load(self, path: str | os.PathLike) -> None:
        """Read what a store of this kind wrote, in the place of what is held.

        What is drawn from here on is what would have been drawn had nothing stopped.

        Raises:
          StoreError: the file is missing, damaged or of another kind of store; what was held
            still is, unless the disk fails within: then nothing is.
        """
        path = Path(path)
        with file.open_file(path) as source:
            try:
                found = file.header(path, source)
                following, steps = self._place(path, found.numbers)
                held = self._held(steps)
                file.require(path, source, found, held)
                self._next = self._steps = 0
                try:
                    file.read_into(source, found, held)
                    self._next, self._steps = following, steps
                finally:
                    self._restore()
            except OSError as error:
                raise StoreError(f"{path}: cannot be read: {file.told(error)}.") from None

    def _maker(
        self, like: Columns, ram_limit: int | None, folder: str | os.PathLike | None
    ) -> arrays.Make:
        """Choose where the arrays lie."""
        if ram_limit is None:
            return arrays.in_memory
        require_integer("ram_limit", ram_limit, 0)
        if folder is None:
            raise ValueError("`folder` must be given with `ram_limit`, got None.")
        row = sum(x.nbytes for x in tree.leaves(like)) + ORDER_BYTES
        fits = row * self.capacity <= ram_limit
        return arrays.in_memory if fits else arrays.in_files(folder)

    def _add_stream(self, columns: Columns) -> None:
        """Add `[N, …]`, the newest that there is room for, with a cut before and after."""
        columns = tree.take(columns, slice(max(len(columns.cuts) - self.capacity, 0), None))
        stream = columns.transitions
        columns = columns._replace(cuts=_ends(stream) | ~_follows(stream))
        steps = -(-len(columns.cuts) // self._shape[1])
        columns = tree.map(lambda x: _in_lanes(x, steps, self._shape[1]), columns)
        padding = ~columns.transitions.mask
        self.cut()
        self._append(columns._replace(cuts=columns.cuts | padding))
        self.cut()

    def _append(self, columns: Columns) -> None:
        """Write steps `[T, B, …]` one after the other, over the oldest."""
        slots = self._shape[0]
        if len(columns.cuts) <= slots - self._next:  # the usual case, a single step, in one piece
            return self._write(self._next, columns)
        begun = max(len(columns.cuts) - slots, 0)
        while begun < len(columns.cuts):
            piece = tree.take(columns, slice(begun, begun + slots - self._next))
            begun += len(piece.cuts)
            self._write(self._next, piece)

    def _write(self, slot: int, piece: Columns) -> None:
        """Write steps from a slot on, as many as there are up to the last slot at most."""
        steps = len(piece.cuts)
        slots = slice(slot, slot + steps)
        lost = int(self._columns.transitions.mask[slots].sum())  # False where never filled
        for own, new in zip(tree.leaves(self._columns), tree.leaves(piece)):
            own[slots].copy_(new)
        self._first, self._rows = (self._first + lost) % self.capacity, self._rows - lost
        self._list(slot, piece.transitions.mask)
        self._next = (slot + steps) % self._shape[0]
        self._steps = min(self._steps + steps, self._shape[0])

    def _list(self, slot: int, mask: Tensor) -> None:
        """Put the rows `[n, B]` from a slot on that count at the end of the order."""
        positions = mask.flatten().nonzero()[:, 0] + slot * self._shape[1]
        begin = (self._first + self._rows) % self.capacity
        until_seam = positions[: self.capacity - begin]
        self._order[begin : begin + len(until_seam)] = until_seam
        self._order[: len(positions) - len(until_seam)] = positions[len(until_seam) :]
        self._rows += len(positions)

    def _held(self, steps: int) -> dict[str, Tensor]:
        """Name what a file holds: the first so many slots of each column."""
        named = tree.named_leaves(self._columns)
        return {name: x[:steps] for name, x in named.items()}

    def _place(self, path: Path, numbers: dict[str, int]) -> tuple[int, int]:
        """Read the next slot and the number of steps, if they can be those of this store."""
        slots = self._shape[0]
        capacity, following, steps = (numbers.get(x, -1) for x in ("capacity", "next", "steps"))
        if capacity != self.capacity:
            raise StoreError(f"{path}: `capacity` must be {self.capacity}, got {capacity}.")
        if not (0 <= steps <= slots and 0 <= following < slots) or (
            steps < slots and following != steps
        ):
            raise StoreError(f"{path}: damaged: {steps} steps, to be followed at {following}.")
        return following, steps

    def _restore(self) -> None:
        """Count and order what the columns hold."""
        mask = self._columns.transitions.mask
        mask[self._steps :] = False
        self._first = self._rows = 0
        oldest = self._next if self._steps == self._shape[0] else 0
        self._list(oldest, mask[oldest : self._steps])
        self._list(0, mask[:oldest])

    def _forgotten(self, rows: torch.Size) -> PyTree:
        return tree.map(lambda x: x.new_zeros((*rows, *x.shape[2:])), self._columns.memory)

    def _check(self, columns: Columns, rows: tuple[int, ...], letters: str) -> None:
        """Raise unless `columns` are `[*rows, …]` and of the kind of those that are kept."""
        expected, actual = tree.structure(self._columns), tree.structure(columns)
        if expected != actual:
            raise ValueError(f"`transitions` must have the structure {expected}, got {actual}.")
        if not rows[0]:
            raise ValueError(f"`transitions` must have {letters[0]} ≥ 1 rows, got 0.")
        own = tree.leaves(self._columns)
        if all(
            x.shape == (*rows, *kept.shape[2:]) and x.dtype == kept.dtype
            for x, kept in zip(tree.leaves(columns), own)
        ):
            return  # names, which only an error needs, would cost more than adding a step
        for (name, x), kept in zip(tree.named_leaves(columns).items(), own):
            require_shape(name, x, (*rows, *kept.shape[2:]), f"{letters}, …")
            require_dtype(name, x, kept.dtype)


def _ends(transitions: Transitions) -> Tensor:
    """Mark the steps `[*N]` that no other follows: ends, and what is no transition."""
    return transitions.terminated | transitions.truncated | ~transitions.mask


def _follows(stream: Transitions) -> Tensor:
    """Mark the rows `[N]` whose action led to what the next row saw; not the last one."""
    follows = torch.ones_like(stream.mask)
    follows[-1:] = False
    for after, then in zip(stream.next_obs, stream.obs):
        follows[:-1] &= (after[:-1] == then[1:])[..., None].flatten(1).all(1)
    return follows


def _in_lanes(stream: Tensor, steps: int, lanes: int) -> Tensor:
    """Lay `[N, …]` out as `[n, B, …]`: consecutive rows in each lane, zeros at the end."""
    padded = torch.cat([stream, stream.new_zeros(steps * lanes - len(stream), *stream.shape[1:])])
    return padded.reshape(lanes, steps, *stream.shape[1:]).movedim(0, 1)
