"""What Gymnasium's observations become: vectors, images of floats or bytes, and sets, in numpy."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from optinfra.types import ActionSpec, Spec

ALONE = "obs"  # what an observation is called that is no part of a Dict or Tuple
BYTE = 255  # the largest
PRESENT = 1.0  # last feature of every entity of a Sequence: none that is there is all zeros

Who = Callable[[int], str]  # whose the observation in a row is, for messages


def environment(row: int) -> str:
    """Tell whose a row is that is an environment's."""
    return f"environment {row}"


class Kind(Protocol):
    """How rows of one observation become an array. Kinds that are equal do the same."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one observation."""

    @property
    def dtype(self) -> Any:
        """Of the array, float32 or uint8."""

    def encode(self, rows: Any, name: str, who: Who) -> np.ndarray:
        """Make of N rows `[N, *shape]`, in memory of its own."""


@dataclass(frozen=True)
class Numbers:
    """Numbers as they are: a vector, an image whose channels come first, or a set."""

    given: tuple[int, ...]  # shape in the space
    shape: tuple[int, ...]
    channels_last: bool = False  # in the space
    dtype: Any = np.float32

    def encode(self, rows: Any, name: str, who: Who) -> np.ndarray:
        """Copy numbers, and refuse those that are not finite, or no bytes where these are wanted.

        Raises:
          ValueError: a number or a shape is refused; the message names the observation, whose
            it is, and the number's position in it.
        """
        x = stacked(rows, self.given, name, who)
        if self.dtype == np.uint8 and x.dtype != np.uint8:
            with np.errstate(invalid="ignore"):
                fits = (x >= 0) & (x <= BYTE) & (x % 1 == 0)
            require(fits, x, name, who, "hold whole numbers from 0 to 255")
        x = np.moveaxis(x, -1, 1) if self.channels_last else x
        x = np.array(x, self.dtype, order="C")  # a copy: environments reuse their buffers
        if self.dtype != np.uint8:
            require(np.isfinite(x), x, name, who, "be finite")
        return x.reshape(len(x), *self.shape)


@dataclass(frozen=True)
class Choices:
    """One-hot marks of each of K components."""

    numbers: tuple[int, ...]  # nₖ, how many values a component has
    starts: tuple[int, ...]  # the least of each
    given: tuple[int, ...]  # shape in the space
    dtype: Any = np.float32

    @property
    def shape(self) -> tuple[int, ...]:
        """`[Σ nₖ]`."""
        return (sum(self.numbers),)

    def encode(self, rows: Any, name: str, who: Who) -> np.ndarray:
        """Mark the value of each component.

        Raises:
          ValueError: a value is none of its component, or a shape another; the message names
            the observation and whose it is.
        """
        chosen = stacked(rows, self.given, name, who).reshape(-1, len(self.numbers))
        component, values = self._columns
        marks = chosen[:, component] == values
        if np.count_nonzero(marks) != chosen.size:
            row = int(np.argmax(marks.sum(axis=1) != len(self.numbers)))
            last = [s + n - 1 for n, s in zip(self.numbers, self.starts)]
            raise ValueError(
                f"`{name}` of {who(row)} must lie in {list(self.starts)} to {last}, "
                f"got {chosen[row].tolist()}."
            )
        return marks.astype(np.float32, order="C")

    @cached_property
    def _columns(self) -> tuple[np.ndarray, np.ndarray]:
        """Which component a column is of, and which value it marks."""
        values = [np.arange(s, s + n) for n, s in zip(self.numbers, self.starts)]
        return np.repeat(np.arange(len(values)), self.numbers), np.concatenate(values)


@dataclass(frozen=True)
class Entities:
    """A sequence of vectors as a set, `[most, D + 1]`: the last feature of who is there is 1."""

    element: "Encoder"  # of one entity: all that it has is laid side by side
    most: int
    stack: bool  # whether a row is a batch of entities, or else a tuple of them
    dtype: Any = np.float32

    @property
    def shape(self) -> tuple[int, ...]:
        """`[most, D + 1]`."""
        return self.most, sum(part.kind.shape[0] for part in self.element.parts) + 1

    def encode(self, rows: Any, name: str, who: Who) -> np.ndarray:
        """Lay entities one under the other; zeros stand for those that are absent.

        Raises:
          ValueError: a row has more than `most`, or an entity is refused; the message names
            the observation and whose it is.
        """
        sets = [self._features(row, name, who(i)) for i, row in enumerate(rows)]
        encoded = np.zeros((len(sets), *self.shape), np.float32)
        for i, features in enumerate(sets):
            if len(features) > self.most:
                raise ValueError(
                    f"`{name}` of {who(i)} must have at most {self.most} entities, got "
                    f"{len(features)}. Raise `max_entities`."
                )
            encoded[i, : len(features), :-1] = features
            encoded[i, : len(features), -1] = PRESENT
        return encoded

    def _features(self, row: Any, name: str, whose: str) -> np.ndarray:
        """Encode the n entities of one row, `[n, D]`."""
        encode = self.element.encode if self.stack else self.element.encode_rows
        return np.concatenate(encode(row, lambda k: f"entity {k} of {whose}", name), axis=1)


@dataclass(frozen=True)
class Part:
    """One observation of a space."""

    path: tuple[Any, ...]  # keys of Dicts and numbers in Tuples that lead to it
    kind: Kind
    is_goal: bool = False

    @property
    def name(self) -> str:
        """Its path, such as `task.target`; `obs` where there is none."""
        return name_of(self.path)


@dataclass(frozen=True)
class Encoder:
    """How observations of a space become arrays, one for each of its parts."""

    parts: tuple[Part, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Of the observations, in their order."""
        return tuple(part.name for part in self.parts)

    def spec(self, action: ActionSpec) -> Spec:
        """Say what an agent sees through it, beside what it does."""
        return Spec(
            obs=tuple(part.kind.shape for part in self.parts),
            action=action,
            goals=tuple(i for i, part in enumerate(self.parts) if part.is_goal),
            bytes=tuple(i for i, part in enumerate(self.parts) if part.kind.dtype == np.uint8),
        )

    def encode(
        self, batch: Any, who: Who = environment, name: str = ALONE
    ) -> tuple[np.ndarray, ...]:
        """Encode N observations as Gymnasium batches them.

        Args:
          batch: of a Dict a dict of batches, of a Tuple a tuple of them, of a Sequence a tuple
            of N, of any other space an array `[N, …]`.
          who: whose a row is, for messages.
          name: of what is encoded, likewise.

        Returns:
          `[N, *shape]` each, float32 or uint8, in memory of their own.

        Raises:
          ValueError: an observation is not of its space, or not finite; the message names it
            and whose it is.
        """
        return tuple(
            part.kind.encode(found(batch, part.path, name), label(name, part.path), who)
            for part in self.parts
        )

    def encode_rows(
        self, rows: Sequence[Any], who: Who = environment, name: str = ALONE
    ) -> tuple[np.ndarray, ...]:
        """Encode N observations, each by itself an element of the space; see `encode`."""
        return tuple(
            part.kind.encode(
                [found(row, part.path, name, who, i) for i, row in enumerate(rows)],
                label(name, part.path),
                who,
            )
            for part in self.parts
        )

    def blank(self, rows: tuple[int, ...]) -> tuple[np.ndarray, ...]:
        """Make zeros `[*rows, *shape]` each."""
        return tuple(np.zeros((*rows, *p.kind.shape), p.kind.dtype) for p in self.parts)


def name_of(path: tuple[Any, ...]) -> str:
    """Name what lies at a path."""
    return ".".join(map(str, path)) or ALONE


def label(name: str, path: tuple[Any, ...]) -> str:
    """Name a part of what is called `name` in messages."""
    return ".".join([name, *map(str, path)]) if path else name


def found(x: Any, path: tuple[Any, ...], name: str, who: Who | None = None, row: int = 0) -> Any:
    """Follow a path into dicts and tuples, or tell what lacks a part, and whose it is."""
    for key in path:
        try:
            x = x[key]
        except (KeyError, IndexError, TypeError):
            whose = f" of {who(row)}" if who else ""
            raise ValueError(
                f"`{name}`{whose} must have the part {key!r}, got {x!r:.100}."
            ) from None
    return x


def stacked(rows: Any, shape: tuple[int, ...], name: str, who: Who) -> np.ndarray:
    """Make one array `[N, *shape]` of N rows, or give it back where it is one."""
    if hasattr(rows, "shape"):  # an array of numpy's or of another library
        rows = np.asarray(rows)
        if rows.shape[1:] == shape:
            return rows
    for i, row in enumerate(rows):
        if np.shape(row) != shape:
            raise ValueError(
                f"`{name}` of {who(i)} must have shape {list(shape)}, got {list(np.shape(row))}."
            )
    return np.stack(list(map(np.asarray, rows))) if len(rows) else np.empty((0, *shape), np.uint8)


def require(holds: np.ndarray, x: np.ndarray, name: str, who: Who, expected: str) -> None:
    """Raise ValueError unless `holds` `[N, …]` is true everywhere; the message tells where not."""
    if not holds.all():
        row = int(np.argwhere(~holds)[0, 0])
        at = int(np.flatnonzero(~np.ravel(holds[row]))[0])
        raise ValueError(
            f"`{name}` of {who(row)} must {expected}, got {np.ravel(x[row])[at]} at position {at}."
        )
