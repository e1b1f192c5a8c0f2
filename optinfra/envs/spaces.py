"""Between Gymnasium's spaces and optinfra's observations and actions, on numpy arrays."""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from optinfra.envs.observations import (
    BYTE,
    Choices,
    Encoder,
    Entities,
    Kind,
    Numbers,
    Part,
    name_of,
)
from optinfra.types import Action, ActionSpec

GOAL = "desired_goal"  # the key of Gymnasium's environments with goals
MOST_CHANNELS = 4  # a last axis of up to so many is always taken for channels
VECTOR, SET, IMAGE = 1, 2, 3  # how many axes an observation has


class Reading(NamedTuple):
    """How observations are read, in what their space does not say.

    Names are paths in nested Dicts and Tuples, such as `task.target` or `1.target`; that of a
    Dict means all that is in it. An observation by itself is called `obs`.
    """

    max_entities: int = 16  # of a Sequence
    goals: tuple[str, ...] = ()  # names of goals, besides those called `desired_goal`
    sets: tuple[str, ...] = ()  # names of Boxes `[N, D]` that are sets of entities


USUAL = Reading()


class Decoder(NamedTuple):
    """How a batch of executed actions becomes one of a space."""

    spec: ActionSpec
    decode: Callable[[Action], np.ndarray]  # (action [N, …]) -> [N, *shape of the space]


def encoder(space: Any, reading: Reading = USUAL) -> Encoder:
    """Make the encoder of an observation space.

    Dict and Tuple give as many observations as they have parts, in their own order and at any
    depth. Each of these is one:

        Box []                          vector [1]
        Box [D]                         vector [D]
        Box [H, W] of bytes             image [1, H, W] of bytes
        Box [H, W, C] or [C, H, W]      image [C, H, W], of bytes or of floats
        Box [N, D] among the sets       set [N, D], absent entities are the rows of zeros
        Box of other axes               vector, laid out row by row
        MultiBinary                     as a Box of floats
        Discrete, MultiDiscrete         vector [Σ nₖ], one-hot, component after component
        Sequence of vectors [D]         set [max_entities, D + 1]

    Bytes are uint8 in [0, 255] and stay so; all else becomes float32 in its own numbers. An
    image's channels are its last axis, if it has at most 4 or fewer than the others; else its
    first, if that is the shortest; else its last. A Sequence, stacked or not, may be of
    whatever becomes vectors, a Dict of them for one. Since zeros stand for an absent entity,
    each that is there has a 1 as its last feature.

    Args:
      space: of a single environment.
      reading: names of goals and sets, and the largest number of entities.

    Returns:
      An `Encoder`.

    Raises:
      ValueError: the space or a part of it is of another kind, nothing is seen, or `reading`
        names what cannot be; the message names it.
    """
    if reading.max_entities < 1:
        raise ValueError(f"`max_entities` must lie in [1, inf), got {reading.max_entities}.")
    parts = tuple(parts_of(space, (), reading))
    if not parts:
        raise unsupported("observation_space", space, "a space with something to see")
    require_known(parts, reading)
    return Encoder(parts)


def parts_of(space: Any, path: tuple[Any, ...], reading: Reading) -> Iterator[Part]:
    """Find the observations of a space, depth first."""
    from gymnasium import spaces

    if isinstance(space, spaces.Dict | spaces.Tuple):
        inner = space.spaces
        for key, each in inner.items() if isinstance(inner, dict) else enumerate(inner):
            yield from parts_of(each, (*path, key), reading)
        return
    is_goal = GOAL in path or is_among(reading.goals, path)
    yield Part(path, kind_of(space, path, reading), is_goal)


def require_known(parts: tuple[Part, ...], reading: Reading) -> None:
    """Raise ValueError unless goals and sets are names of what can be one."""
    for argument, names in (("goals", reading.goals), ("sets", reading.sets)):
        for name in names:
            if not any(is_among((name,), part.path) for part in parts):
                known = ", ".join(part.name for part in parts)
                raise ValueError(
                    f"`{argument}` must name observations, got {name!r}. There are {known}."
                )
    for part in parts:
        is_set = len(part.kind.shape) == SET
        if part.is_goal and is_set:
            raise ValueError(f"`goals` must be vectors or images, got `{part.name}`, a set.")
        if is_among(reading.sets, part.path) and not is_set:
            raise ValueError(f"`sets` must be Boxes [N, D], got `{part.name}`, which is none.")


def is_among(names: tuple[str, ...], path: tuple[Any, ...]) -> bool:
    """Tell whether one of the names is that of an observation, or of what it is a part of."""
    own = name_of(path)
    return any(own == name or own.startswith(f"{name}.") for name in names)


def kind_of(space: Any, path: tuple[Any, ...], reading: Reading) -> Kind:
    """Decide what an observation becomes."""
    from gymnasium import spaces

    is_set = is_among(reading.sets, path)
    if isinstance(space, spaces.Box):
        is_bytes = space.dtype == np.uint8 and (space.low == 0).all() and (space.high == BYTE).all()
        return box_kind(space.shape, bool(is_bytes), is_set)
    if isinstance(space, spaces.MultiBinary):
        return box_kind(space.shape, False, is_set)
    if isinstance(space, spaces.Discrete):
        return Choices((int(space.n),), (int(space.start),), ())
    if isinstance(space, spaces.MultiDiscrete):
        numbers, starts = space.nvec.ravel().tolist(), space.start.ravel().tolist()
        return Choices(tuple(numbers), tuple(starts), space.nvec.shape)
    if isinstance(space, spaces.Sequence):
        element = Encoder(tuple(parts_of(space.feature_space, (), USUAL)))
        if not element.parts or any(len(p.kind.shape) != VECTOR for p in element.parts):
            raise unsupported("observation_space", space, "a Sequence of vectors", path)
        return Entities(element, reading.max_entities, space.stack)
    kinds = "Box, Discrete or MultiDiscrete, or a Dict, Tuple or Sequence of them"
    raise unsupported("observation_space", space, kinds, path)


def box_kind(shape: tuple[int, ...], is_bytes: bool, is_set: bool) -> Kind:
    """Decide what an array of numbers becomes."""
    if len(shape) == SET and is_set:
        return Numbers(shape, shape)
    dtype = np.uint8 if is_bytes else np.float32
    if len(shape) == IMAGE:
        last = channels_last(shape)
        return Numbers(shape, (shape[2], *shape[:2]) if last else shape, last, dtype)
    if len(shape) == 2 and is_bytes:
        return Numbers(shape, (1, *shape), dtype=np.uint8)
    return Numbers(shape, (math.prod(shape),))


def channels_last(shape: tuple[int, ...]) -> bool:
    """Tell whether an image `[H, W, C]` came, or else `[C, H, W]`; see `encoder`."""
    first, middle, last = shape
    return last <= MOST_CHANNELS or last < min(first, middle) or first >= min(middle, last)


def decoder(space: Any, num_envs: int) -> Decoder:
    """Make the decoder of an action space.

    A Box of floats becomes continuous dimensions in [−1, 1], Discrete one branch,
    MultiDiscrete a branch for each component; choices count from the space's `start`.

    Args:
      space: of a single environment.
      num_envs: N ≥ 1, rows of every batch of actions.

    Returns:
      A `Decoder`. `decode` raises ValueError where a part has not the shape `[N, A]` or
      `[N, K]`; the message names the part.

    Raises:
      ValueError: the space is of another kind or has a dimension without bounds; the
        message names it.
    """
    from gymnasium import spaces

    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
        return box_decoder(space, num_envs)
    if isinstance(space, spaces.Discrete):
        return branch_decoder(np.array(space.n), np.array(space.start, space.dtype), num_envs)
    if isinstance(space, spaces.MultiDiscrete):
        return branch_decoder(space.nvec, space.start.astype(space.dtype), num_envs)
    raise unsupported("action_space", space, "a float Box, Discrete or MultiDiscrete")


def unsupported(name: str, space: Any, kinds: str, path: tuple[Any, ...] = ()) -> ValueError:
    """The error that names a space of a kind that cannot be read or written here."""
    at = ".".join([name, *map(str, path)])
    return ValueError(f"`{at}` must be {kinds}, got {space}. Wrap the environment to change it.")


def box_decoder(space: Any, num_envs: int) -> Decoder:
    """Scale [−1, 1] to the bounds of a Box, as x = (low + high)/2 + (high − low)/2 · a."""
    low, high = space.low.ravel(), space.high.ravel()
    with np.errstate(over="ignore", invalid="ignore"):
        # Bounds of ±3.4e38 stand for none as ±∞ do: their difference is ∞ in float32.
        half = (high - low) / 2
    if not np.isfinite(half).all():
        raise ValueError(f"`action_space` must have finite bounds in every dimension, got {space}.")
    centre = low + half

    def decode(action: Action) -> np.ndarray:
        share = part("action.continuous", action.continuous, (num_envs, len(half)))
        # Rounding may carry a sum beyond its bound, and some environments refuse it then.
        scaled = np.minimum(np.maximum(centre + half * share, low), high)
        return scaled.astype(space.dtype, copy=False).reshape(-1, *space.shape)

    return Decoder(ActionSpec(continuous=len(half)), decode)


def branch_decoder(choices: np.ndarray, start: np.ndarray, num_envs: int) -> Decoder:
    """Count choices from `start`; both have the shape of the space's elements."""
    branches = tuple(int(n) for n in choices.ravel())

    def decode(action: Action) -> np.ndarray:
        chosen = part("action.discrete", action.discrete, (num_envs, len(branches)))
        return chosen.astype(start.dtype).reshape(-1, *start.shape) + start

    return Decoder(ActionSpec(branches=branches), decode)


def part(name: str, x: Any, shape: tuple[int, int]) -> np.ndarray:
    """Read one part of an action, an array or a tensor on the CPU, as an array."""
    x = np.asarray(x)
    if x.shape != shape:
        raise ValueError(f"`{name}` must have shape {list(shape)}, got {list(x.shape)}.")
    return x
