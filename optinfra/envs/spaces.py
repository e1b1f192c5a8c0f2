"""Between Gymnasium's spaces and optinfra's observations and actions, on numpy arrays."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from optinfra.types import Action, ActionSpec


class Encoder(NamedTuple):
    """How a batch of observations of one space becomes float32."""

    shape: tuple[int, ...]  # of one observation
    encode: Callable[[Any], np.ndarray]  # (batch [N, …]) -> [N, *shape] in memory of its own


class Decoder(NamedTuple):
    """How a batch of executed actions becomes one of a space."""

    spec: ActionSpec
    decode: Callable[[Action], np.ndarray]  # (action [N, …]) -> [N, *shape of the space]


def encoder(space: Any) -> Encoder:
    """Make the encoder of an observation space.

    A Box keeps its shape (one of rank 0 becomes `[1]`) and its numbers. Discrete and
    MultiDiscrete become one-hot `[Σ nₖ]`, component after component.

    Args:
      space: of a single environment.

    Returns:
      An `Encoder`. `encode` raises ValueError where an observation is not finite or not of
      its space; the message names the environment.

    Raises:
      ValueError: the space is of another kind; the message names it.
    """
    from gymnasium import spaces

    if isinstance(space, spaces.Box):
        return box_encoder(space.shape or (1,))
    if isinstance(space, spaces.Discrete):
        return one_hot_encoder(np.array([space.n]), np.array([space.start]))
    if isinstance(space, spaces.MultiDiscrete):
        return one_hot_encoder(space.nvec.ravel(), space.start.ravel())
    raise unsupported("observation_space", space, "Box, Discrete or MultiDiscrete")


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


def unsupported(name: str, space: Any, kinds: str) -> ValueError:
    """The error that names a space of a kind that cannot be read or written here."""
    return ValueError(f"`{name}` must be {kinds}, got {space}. Wrap the environment to change it.")


def box_encoder(shape: tuple[int, ...]) -> Encoder:
    """Copy numbers as they are, and refuse those that are not finite."""

    def encode(batch: Any) -> np.ndarray:
        obs = np.array(batch, dtype=np.float32)  # a copy: environments reuse their buffers
        finite = np.isfinite(obs)
        if not finite.all():
            env = int(np.argwhere(~finite)[0, 0])
            row = np.ravel(obs[env])
            at = int(np.flatnonzero(~np.isfinite(row))[0])
            raise ValueError(
                f"`obs` of environment {env} must be finite, got {row[at]} at position {at}."
            )
        return obs.reshape(-1, *shape)

    return Encoder(shape, encode)


def one_hot_encoder(choices: np.ndarray, start: np.ndarray) -> Encoder:
    """Mark the value of each component: `choices` `[K]` many, from `start` `[K]` on."""
    values = np.concatenate([np.arange(s, s + n) for n, s in zip(choices, start)])
    component = np.repeat(np.arange(len(choices)), choices)

    def encode(batch: Any) -> np.ndarray:
        chosen = np.reshape(batch, (-1, len(choices)))
        marks = chosen[:, component] == values
        if np.count_nonzero(marks) != chosen.size:
            env = int(np.argmax(marks.sum(axis=1) != len(choices)))
            raise ValueError(
                f"`obs` of environment {env} must lie in {start.tolist()} to "
                f"{(start + choices - 1).tolist()}, got {chosen[env].tolist()}."
            )
        return marks.astype(np.float32)

    return Encoder((len(values),), encode)


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
