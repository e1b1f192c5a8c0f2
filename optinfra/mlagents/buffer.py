"""A buffer of experience: columns of one length, by key."""

from collections.abc import Callable, Iterable, Iterator, MutableMapping, Sequence
from functools import cached_property
from typing import Any, BinaryIO

import numpy as np

from optinfra.mlagents.fields import AgentBufferField, BufferException
from optinfra.mlagents.keys import GROUPS, AgentBufferKey, key_of, text_of

LARGEST_FILE_ROWS = 10**8  # more than that are not read from a file


class AgentBuffer(MutableMapping[AgentBufferKey, AgentBufferField]):
    """Columns by key. Both ours and ML-Agents' own keys find one.

    A column that is not there can be appended to, which begins it. To read it is an error, and
    leaves the buffer as it was.

    Args:
      seed: of `generator`, as numpy's global one is left alone; None draws one.
    """

    def __init__(self, seed: int | None = None) -> None:
        self._columns: dict[str, AgentBufferField] = {}
        self._seed = seed

    @cached_property
    def generator(self) -> np.random.Generator:
        """What `shuffle` and `sample_mini_batch` draw by; made when first asked for."""
        return np.random.default_rng(self._seed)

    def __getitem__(self, key: Any) -> AgentBufferField:
        """Find a column."""
        text = text_of(key)
        return self._columns[text] if text in self._columns else _Absent(self, text)

    def __setitem__(self, key: Any, value: Any) -> None:
        """Put a column in place: a field, an array or rows."""
        text = _checked(text_of(key))
        if isinstance(value, _Absent):
            value = value._found()
        field = value if isinstance(value, AgentBufferField) else AgentBufferField(value)
        self._columns[text] = field

    def __delitem__(self, key: Any) -> None:
        """Take a column out."""
        del self._columns[text_of(key)]

    def __iter__(self) -> Iterator[AgentBufferKey]:
        """Go through the keys."""
        return map(key_of, self._columns)

    def __len__(self) -> int:
        """Count the columns."""
        return len(self._columns)

    def __contains__(self, key: object) -> bool:
        """Tell whether a column is there."""
        try:
            return text_of(key) in self._columns
        except KeyError:
            return False

    def get(self, key: Any, default: Any = None) -> Any:
        """Find a column, or give `default` where there is none."""
        return self._columns.get(text_of(key), default)

    def setdefault(self, key: Any, default: Any = ()) -> AgentBufferField:
        """Find a column; where there is none, put `default` in place."""
        if key not in self:
            self[key] = default
        return self[key]

    def pop(self, key: Any, *default: Any) -> Any:
        """Take a column out and give it, or `default` where there is none."""
        if key in self or not default:
            return self._columns.pop(text_of(key))
        return default[0]

    def __repr__(self) -> str:
        """Show the columns and their lengths."""
        columns = ", ".join(f"{text}: {len(field)}" for text, field in self._columns.items())
        return f"AgentBuffer({columns})"

    @property
    def by_name(self) -> dict[str, AgentBufferField]:
        """The columns by the names that files have."""
        return dict(self._columns)

    @property
    def num_experiences(self) -> int:
        """How many rows the first column has; 0 where there is none."""
        return len(next(iter(self._columns.values()), ()))

    def check_length(self, key_list: Sequence[AgentBufferKey]) -> bool:
        """Tell whether columns are there and of one length. Fewer than two always are."""
        if len(key_list) < 2:
            return True
        lengths = {len(self[key]) if key in self else None for key in key_list}
        return len(lengths) == 1 and None not in lengths

    def reset_agent(self) -> None:
        """Empty every column."""
        for field in self._columns.values():
            field.reset_field()

    def shuffle(
        self, sequence_length: int, key_list: Sequence[AgentBufferKey] | None = None
    ) -> None:
        """Put whole sequences into another order, the same in every column.

        Args:
          sequence_length: rows ≥ 1 that stay together. What is left over of the last is dropped.
          key_list: columns; None for all.

        Raises:
          BufferException: there is no column, or their lengths differ.
        """
        keys = list(self) if key_list is None else list(key_list)
        if not keys or not self.check_length(keys):
            raise BufferException("expected columns of one length to shuffle.")
        count = len(self[keys[0]]) // sequence_length
        order = self.generator.permutation(count)
        rows = _rows_of(order, sequence_length)
        for key in keys:
            self[key]._keep(rows)

    def make_mini_batch(self, start: int, end: int) -> "AgentBuffer":
        """Take the rows from `start` to before `end` of every column. Nothing is copied."""
        return self._from(lambda field: field[start:end])

    def sample_mini_batch(self, batch_size: int, sequence_length: int = 1) -> "AgentBuffer":
        """Draw whole sequences, with replacement.

        Args:
          batch_size: rows; as many whole sequences are drawn as fit into them.
          sequence_length: rows ≥ 1 of each.

        Raises:
          ValueError: there is no whole sequence.
        """
        there = self.num_experiences // sequence_length
        if there < 1:
            raise ValueError(
                f"`sequence_length` must be at most {self.num_experiences}, the rows there are, "
                f"got {sequence_length}."
            )
        drawn = self.generator.integers(0, there, batch_size // sequence_length)
        rows = _rows_of(drawn, sequence_length)
        return self._from(lambda field: field._taken(rows))

    def with_column(self, key: Any, value: Any) -> "AgentBuffer":
        """Give a buffer of these very columns, with this one added or in the place of its own."""
        other = AgentBuffer()
        other._columns = dict(self._columns)
        other[key] = value
        return other

    def _from(self, change: Any) -> "AgentBuffer":
        batch = AgentBuffer(seed=int(self.generator.integers(2**31)))
        for text, field in self._columns.items():
            batch._columns[text] = change(field)
        return batch

    def truncate(self, max_length: int, sequence_length: int = 1) -> None:
        """Keep the newest rows, of whole sequences, where there are more."""
        keep = max_length - max_length % sequence_length
        if self.num_experiences > keep:
            for field in self._columns.values():
                field._keep(range(max(len(field) - keep, 0), len(field)))

    def resequence_and_append(
        self,
        target_buffer: "AgentBuffer",
        key_list: Iterable[AgentBufferKey] | None = None,
        batch_size: int | None = None,
        training_length: int | None = None,
    ) -> None:
        """Append sequences of this buffer to another, the last padded; see `get_batch`.

        Raises:
          BufferException: lengths of columns differ.
        """
        keys = None if key_list is None else list(key_list)
        fields = self._columns if keys is None else {text_of(key): self[key] for key in keys}
        if not self.check_length(keys) if keys else len({*map(len, fields.values())}) > 1:
            raise BufferException("expected columns of one length to append.")
        for text, field in fields.items():
            rows = field.get_batch(batch_size, training_length)
            if text in target_buffer._columns:
                target_buffer._columns[text].extend(rows)
            else:
                target_buffer._columns[text] = rows

    def save_to_file(self, file_object: BinaryIO) -> None:
        """Write every column into an HDF5 file, as ML-Agents does.

        Raises:
          BufferException: a column is one of groups of different sizes, which such a file has
            no form for.
          ModuleNotFoundError: h5py is missing.
        """
        columns = {text: _as_written(text, field) for text, field in self._columns.items()}
        with _h5py().File(file_object, "w") as file:
            for text, rows in columns.items():
                file.create_dataset(text, data=rows, dtype="f", compression="gzip")

    def load_from_file(self, file_object: BinaryIO) -> None:
        """Read every column from an HDF5 file, in the place of what is here.

        Groups come back as plain rows `[mates, *shape]`, as in ML-Agents.

        Raises:
          BufferException: the file is none of a buffer.
          ModuleNotFoundError: h5py is missing.
        """
        h5py = _h5py()
        columns: dict[str, AgentBufferField] = {}
        try:
            with h5py.File(file_object, "r") as file:
                for text in file:
                    name = text_of(key_of(text))
                    if not file[text].shape or file[text].shape[0] > LARGEST_FILE_ROWS:
                        raise ValueError(f"{text} has shape {file[text].shape}")
                    columns[name] = AgentBufferField(file[text][()].astype(np.float32))
        except Exception as error:  # h5py raises errors of every kind about a damaged file
            raise BufferException(f"expected an HDF5 file of columns: {error}.") from None
        self._columns = columns


class _Absent(AgentBufferField):
    """A column that is not there: to append begins it, to read is an error until then."""

    def __init__(self, buffer: AgentBuffer, text: str) -> None:
        self._buffer, self._text, self.padding_value = buffer, text, 0.0
        self._clear()

    def _begin(self, change: Callable[[AgentBufferField], None]) -> None:
        field = self._buffer._columns.get(_checked(self._text), AgentBufferField())
        change(field)
        self._buffer._columns[self._text] = field

    def _found(self) -> AgentBufferField:
        if self._text not in self._buffer._columns:
            raise KeyError(f"the buffer has no column {self._text}; it has {self._buffer!r}")
        return self._buffer._columns[self._text]

    def append(self, row: Any, padding_value: float = 0.0) -> None:
        """Begin the column."""
        self._begin(lambda field: field.append(row, padding_value))

    def extend(self, rows: Iterable[Any]) -> None:
        """Begin the column."""
        self._begin(lambda field: field.extend(rows))

    def set(self, data: Iterable[Any]) -> None:
        """Begin the column."""
        self._begin(lambda field: field.set(data))


def _of_the_column(name: str) -> Any:
    """Make what reads a column that was not there when it was asked for."""
    own = getattr(AgentBufferField, name)
    if isinstance(own, property):
        return property(lambda absent: getattr(absent._found(), name))
    return lambda absent, *args, **kwargs: own(absent._found(), *args, **kwargs)


for _name in (
    "__len__", "__iter__", "__getitem__", "__setitem__", "__array__", "__eq__", "__repr__",
    "to_ndarray", "padded_to_batch", "padded_groups", "get_batch", "reset_field", "_taken",
    "_keep", "contains_lists", "group_counts",
):  # fmt: skip
    setattr(_Absent, _name, _of_the_column(_name))


def _checked(text: str) -> str:
    """Refuse what is no column's name."""
    try:
        key_of(text)
    except ValueError as error:
        raise KeyError(str(error)) from None
    return text


def _as_written(text: str, field: AgentBufferField) -> Any:
    """Give what a file holds of a column."""
    if not field.contains_lists:
        return np.asarray(field, np.float32)
    counts = field.group_counts
    if (counts != counts[0]).any():
        raise BufferException(f"expected groups of one size to write, got some of others: {text}.")
    return field.padded_groups()


def _rows_of(starts: Any, length: int) -> Any:
    """Tell the rows of sequences by their numbers."""
    return (np.asarray(starts)[:, None] * length + np.arange(length)).reshape(-1)


def _h5py() -> Any:
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "files of buffers need h5py. Run: pip install 'optinfra[mlagents]'", name="h5py"
        ) from error
    return h5py


def is_group(text: str) -> bool:
    """Tell whether a column of this name is one of groups."""
    return text.partition(":")[0] in GROUPS
