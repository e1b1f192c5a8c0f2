"""A column of a buffer: rows that lie one after another in one array."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from optinfra.mlagents.stacking import Array, nobody, together

FIRST_CAPACITY = 64  # rows


class BufferException(Exception):
    """A buffer that cannot give what it is asked for."""


class AgentBufferField:
    """A column that is read and appended to like a list of rows.

    A row is an array or a number, the same shape in all of them; or, in a column of groups, a
    list of such, one per mate, of any length. Rows are kept in one array, so that a slice
    copies nothing. Groups are padded in it, by as many mates as the largest has. What was read
    stays as it was when a column is appended to or another row is put in the place of one.

    Args:
      rows: what it holds from the beginning.
      padding_value: factor on the last row in what pads it; see `get_batch`.

    Raises:
      ValueError: rows differ in shape.
    """

    def __init__(self, rows: Iterable[Any] = (), padding_value: float = 0.0) -> None:
        self.padding_value = padding_value
        self._clear()
        if isinstance(rows, np.ndarray):
            self._adopt(rows)
        else:
            self.extend(rows)

    def _clear(self) -> None:
        self._rows: Array | None = None  # [capacity, *shape], or [capacity, mates, *shape]
        self._counts: Array | None = None  # [capacity], mates of each row; None of plain rows
        self._length = 0
        self._shared = False  # whether somebody else may see the rows that there are

    def _adopt(self, rows: Array) -> None:
        self._rows, self._length, self._shared = rows, len(rows), True

    # --- like a list ------------------------------------------------------------------------

    def __len__(self) -> int:
        """Count the rows."""
        return self._length

    def __iter__(self) -> Iterator[Any]:
        """Go through the rows."""
        return (self[i] for i in range(self._length))

    def __getitem__(self, index: Any) -> Any:
        """Take one row, or some as a field of their own; the mates of a row are a field too."""
        if isinstance(index, slice):
            return self._sliced(index)
        i = range(self._length)[index]
        assert self._rows is not None
        if self._counts is None:
            self._shared = True
            return self._rows[i]
        return AgentBufferField(self._rows[i, : self._counts[i]])

    def _sliced(self, index: slice) -> "AgentBufferField":
        part = AgentBufferField()
        if self._rows is not None:
            chosen = range(self._length)[index]
            where = slice(chosen.start, chosen.stop if chosen.stop >= 0 else None, chosen.step)
            part._adopt(self._rows[where])
            if self._counts is not None:
                part._counts = self._counts[where]
            self._shared = True
        return part

    def __setitem__(self, index: Any, row: Any) -> None:
        """Put another row in the place of one, or other rows in the place of some.

        Raises:
          ValueError: its shape is another than that of the rows before.
        """
        if isinstance(index, slice):
            rows = list(self)
            rows[index] = row
            self.set(rows)
            return
        i = range(self._length)[index]
        if self._counts is not None or isinstance(row, list | AgentBufferField):
            rows = list(self)
            rows[i] = row
            self.set(rows)
            return
        assert self._rows is not None
        new = np.asarray(row)
        self._require_shape(new)
        self._reserve(self._length, new.dtype, own=True)
        self._rows[i] = new

    def __eq__(self, other: object) -> bool:
        """Compare row by row."""
        if not isinstance(other, AgentBufferField | list):
            return NotImplemented
        return len(self) == len(other) and all(_same(a, b) for a, b in zip(self, other))

    __hash__ = None  # type: ignore[assignment]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """Let numpy read it."""
        array = self._view()
        if copy is False and dtype not in (None, array.dtype):
            raise ValueError(f"`dtype` must be {array.dtype} without a copy, got {dtype}.")
        return array.astype(dtype or array.dtype, copy=bool(copy))

    def __repr__(self) -> str:
        """Show the rows."""
        return f"AgentBufferField({list(self)!r})"

    def append(self, row: Any, padding_value: float = 0.0) -> None:
        """Add one row.

        Raises:
          ValueError: its shape is another than that of the rows before.
        """
        if not self._length:
            self._clear()
        if isinstance(row, list | AgentBufferField):
            self._append_group([np.asarray(mate) for mate in row])
        else:
            self._append_plain(np.asarray(row))
        self.padding_value = padding_value

    def _append_plain(self, new: Array) -> None:
        if self._counts is not None:
            raise ValueError(f"a row must be a list, one entry per mate, got {new!r}.")
        if self._rows is None:
            self._rows = np.empty((FIRST_CAPACITY, *new.shape), new.dtype)
        self._require_shape(new)
        self._reserve(self._length + 1, new.dtype)
        self._rows[self._length] = new
        self._length += 1

    def _require_shape(self, row: Array) -> None:
        assert self._rows is not None
        if row.shape != self._rows.shape[1:]:
            raise ValueError(
                f"a row must have shape {list(self._rows.shape[1:])}, got {list(row.shape)}."
            )

    def _append_group(self, mates: list[Array]) -> None:
        """Add a row of mates, of whom there may be more than in any before."""
        if self._rows is not None and self._counts is None:
            raise ValueError("a row must not be a list where the rows before are none.")
        shape = mates[0].shape if mates else None
        nothing = np.dtype(np.float32) if self._rows is None else self._rows.dtype
        kind = np.result_type(*mates) if mates else nothing
        if self._counts is None:
            self._rows = np.zeros((FIRST_CAPACITY, 0, *(shape or ())), kind)
            self._counts = np.zeros(FIRST_CAPACITY, np.int64)
        assert self._rows is not None
        if self._rows.shape[1] == 0 and shape is not None:  # nobody told the shape so far
            self._rows = np.zeros((len(self._rows), 0, *shape), kind)
        for mate in mates:
            if mate.shape != self._rows.shape[2:]:
                expected = list(self._rows.shape[2:])
                raise ValueError(f"a mate must have shape {expected}, got {list(mate.shape)}.")
        self._reserve(self._length + 1, kind, len(mates))
        if mates:
            self._rows[self._length, : len(mates)] = mates
        self._counts[self._length] = len(mates)
        self._length += 1

    def _reserve(
        self, length: int, kind: np.dtype[Any], mates: int = 0, *, own: bool = False
    ) -> None:
        """Make room for so many rows of such numbers.

        Nobody else sees the room behind the rows; `own` says that the rows are to be written
        into, too.
        """
        assert self._rows is not None
        capacity = len(self._rows)
        grows = length > capacity
        kind = np.result_type(self._rows.dtype, kind)
        groups = self._counts is not None
        wider = groups and mates > self._rows.shape[1]
        if not (grows or wider or (own and self._shared) or kind != self._rows.dtype):
            return
        size = max(2 * capacity, length, FIRST_CAPACITY) if grows else capacity
        shape = (size, *self._rows.shape[1:])
        if wider:
            shape = (size, mates, *self._rows.shape[2:])
        rows = np.zeros(shape, kind)
        old = self._rows[: self._length]
        if groups:
            assert self._counts is not None
            rows[: self._length, : old.shape[1]] = old
            counts = np.zeros(size, np.int64)
            counts[: self._length] = self._counts[: self._length]
            self._counts = counts
        else:
            rows[: self._length] = old
        self._rows, self._shared = rows, False

    def extend(self, rows: Iterable[Any]) -> None:
        """Add rows, one after another; the padding value stays."""
        padding = self.padding_value
        fresh = not isinstance(rows, AgentBufferField)
        given = _at_once(list(rows)) if fresh else rows
        if isinstance(given, AgentBufferField):
            if fresh and not self._length:
                self._rows, self._counts, self._length = given._rows, given._counts, given._length
                self._shared = False
                return
            if self._joins(given):
                return
        for row in given:
            self.append(row, padding)

    def _joins(self, other: "AgentBufferField") -> bool:
        """Add rows all at once, where they fit; row by row it is told what is wrong."""
        if not self._length:
            self._clear()
        if other._rows is None or not other._length:
            return False
        new = other._rows[: other._length]
        if self._rows is None:
            self._rows, self._length = new.copy(), len(new)
            if other._counts is not None:
                self._counts = other.group_counts.copy()
            return True
        groups = self._counts is not None
        if groups != (other._counts is not None):
            return False
        if groups and self._rows.shape[1] == 0:  # in which there is nobody looks as the other does
            self._rows = nobody(len(self._rows), new)
        elif groups and new.shape[1] == 0:
            new = nobody(len(new), self._rows)
        if new.shape[1 + groups :] != self._rows.shape[1 + groups :]:
            return False
        total = self._length + len(new)
        self._reserve(total, new.dtype, new.shape[1] if groups else 0)
        if groups:
            assert self._counts is not None
            self._rows[self._length : total, : new.shape[1]] = new
            self._counts[self._length : total] = other.group_counts
        else:
            self._rows[self._length : total] = new
        self._length = total
        return True

    def set(self, data: Iterable[Any]) -> None:
        """Replace all rows; the padding value stays."""
        fresh = AgentBufferField(data, self.padding_value)
        self.__dict__.update(fresh.__dict__)

    def reset_field(self) -> None:
        """Empty it."""
        self._clear()

    # --- as ML-Agents reads it --------------------------------------------------------------

    @property
    def contains_lists(self) -> bool:
        """Whether rows are those of groups."""
        return self._counts is not None and self._length > 0

    @property
    def group_counts(self) -> Array:
        """`[rows]`, how many mates each row lists."""
        if self._counts is None:
            raise BufferException("expected a column of groups, got one of plain rows.")
        return self._counts[: self._length]

    def to_ndarray(self) -> Array:
        """Give all rows as one array `[rows, *shape]` of its own; mates are padded by zeros."""
        return self._view().copy()

    def _view(self) -> Array:
        if self._rows is None:
            return np.zeros(0, np.float32)
        self._shared = True
        return self._rows[: self._length]

    def padded_to_batch(self, pad_value: float = 0, dtype: Any = np.float32) -> Array | list[Array]:
        """Give all rows as one array; of groups a list with one such array per place of a mate.

        Args:
          pad_value: stands where nobody is.
          dtype: of the arrays.

        Returns:
          `[rows, *shape]`, or as many of them as the largest group has mates, `[]` for none.
        """
        if not self.contains_lists:
            return self._view().astype(dtype) if self._length else []
        padded = self.padded_groups(pad_value, dtype)
        return [padded[:, k] for k in range(padded.shape[1])]

    def padded_groups(self, pad_value: float = 0, dtype: Any = np.float32) -> Array:
        """Give the mates of all rows, `[rows, mates, *shape]`, `pad_value` where nobody is."""
        counts = self.group_counts
        assert self._rows is not None
        most = int(counts.max(initial=0))
        padded = self._rows[: self._length, :most].astype(dtype)
        padded[np.arange(most)[None] >= counts[:, None]] = pad_value
        return padded

    def get_batch(
        self,
        batch_size: int | None = None,
        training_length: int | None = 1,
        sequential: bool = True,
    ) -> "AgentBufferField":
        """Take the last sequences.

        Args:
          batch_size: how many; None for all there are.
          training_length: L ≥ 1, rows of each.
          sequential: whether one begins where another ends. Otherwise each begins one row after
            the one before, and none is padded.

        Returns:
          The last `batch_size · L` rows; where there are fewer, all of them and then what pads
          the last sequence: its last row times `padding_value`, a row of nobody in a column of
          groups. Nothing is copied unless it is padded.

        Raises:
          BufferException: there are fewer sequences.
        """
        length = training_length or 1
        if sequential:
            return self._sequences(batch_size, length)
        most = max(self._length - length + 1, 0)
        chosen = most if batch_size is None else batch_size
        if chosen > most:
            raise BufferException(_too_few(chosen, most))
        ends = range(self._length - chosen + 1, self._length + 1)
        return self._taken([i for end in ends for i in range(end - length, end)])

    def _sequences(self, batch_size: int | None, length: int) -> "AgentBufferField":
        most = -(-self._length // length)
        chosen = most if batch_size is None else batch_size
        if chosen > most:
            raise BufferException(_too_few(chosen, most))
        missing = chosen * length - self._length
        batch = self._sliced(slice(max(-missing, 0), None))
        batch.padding_value = self.padding_value
        if missing <= 0:
            return batch
        if self._counts is not None:
            batch.extend([] for _ in range(missing))
        elif self._length:
            last = (np.asarray(self[-1]) * self.padding_value).astype(np.float32)
            batch.extend(last for _ in range(missing))
        return batch

    def _keep(self, index: Sequence[int]) -> None:
        """Keep the rows of these numbers, in this order."""
        self.__dict__.update(self._taken(index).__dict__)

    def _taken(self, index: Sequence[int]) -> "AgentBufferField":
        """Copy the rows of these numbers."""
        taken = AgentBufferField(padding_value=self.padding_value)
        if self._rows is not None:
            where = np.asarray(index, np.int64)
            taken._rows, taken._length = self._rows[where], len(where)
            if self._counts is not None:
                taken._counts = self._counts[where]
        return taken


def _too_few(asked: int, there: int) -> str:
    return f"expected at most {there} sequences to be asked for, got {asked}."


def _same(a: Any, b: Any) -> bool:
    """Compare two rows; one without mates has no shape."""
    if isinstance(a, AgentBufferField) and len(a) == 0:
        return isinstance(b, AgentBufferField | list) and len(b) == 0
    return np.array_equal(np.asarray(a), np.asarray(b))


def _at_once(rows: list[Any]) -> Any:
    """Make a field of rows that are alike at one go; otherwise give them back."""
    found = together(rows)
    if found is None:
        return rows
    field = AgentBufferField()
    field._rows, field._counts = found
    field._length = len(rows)
    return field
