"""Demonstrations: what an expert saw and did, pair by pair, and the transitions among them."""

from typing import NamedTuple

import torch
from torch import Tensor

from optinfra import tree
from optinfra.check import require_integer
from optinfra.demos.format import BRIGHTEST, DemoError
from optinfra.sequences import cut, is_warmup
from optinfra.types import Action, ActionSpec, Obs, Spec, Transitions


class Demonstrations(NamedTuple):
    """Pairs of an observation and what was done on seeing it; every pair is of one episode.

    An episode that came to an end has its last observation as a pair of its own, which
    carries the flag and on which nothing was done.
    """

    obs: Obs  # [N, *shape] each; images in [0, 1] or, if the spec says so, bytes, channels first
    action: Action  # [N, A] float32 and [N, K], as executed; without meaning at an end
    action_mask: Tensor  # [N, choices] bool, True where allowed
    rewards: Tensor  # [N] float32, received on arriving here: for what was done before
    episode: Tensor  # [N] int64, counted from 0 in the order of the episodes' first pairs
    terminated: Tensor  # [N] bool, the episode came to its own end here
    truncated: Tensor  # [N] bool, the episode was cut here; never both


class Loaded(NamedTuple):
    """Demonstrations and what kind of agent they are of."""

    spec: Spec  # static
    demonstrations: Demonstrations


def require_spec(name: str, found: Spec, expected: Spec) -> None:
    """Raise DemoError unless the demonstrations called `name` are of the agent expected."""
    for part, came, wanted in (
        ("actions", _told(found.action), _told(expected.action)),
        ("observations", _shapes(found), _shapes(expected)),
    ):
        if came != wanted:
            raise DemoError(f"{name}: must have the {part} {wanted}, got {came}.")


def _told(action: ActionSpec) -> str:
    return f"{action.continuous} continuous and branches {list(action.branches)}"


def _shapes(spec: Spec) -> str:
    return str([list(shape) for shape in spec.obs])


def taken(demonstrations: Demonstrations) -> Transitions:
    """Select the pairs whose action was taken, with what followed it.

        r_i, terminated_i, truncated_i, next_obs_i = those of the next pair of i's episode

    These are all pairs but those that end an episode. Where a recording stopped in the
    middle of one, its last action was taken but nothing is known of what followed: that row
    is kept with its own observation as the next one, reward 0, and as truncated.

    Args:
      demonstrations: episodes may be interleaved.

    Returns:
      `Transitions` `[M]` in the order of their pairs; every row counts.

    Raises:
      ValueError: no action was taken.

    Differs: ML-Agents makes a transition of each episode's last observation, into the first
      one of the following episode, and drops the last pair of all.
    """
    return _transitions(demonstrations, _taken_rows(demonstrations))


def sequences(demonstrations: Demonstrations, length: int, burn_in: int = 0) -> Transitions:
    """Cut every episode by itself into sequences of the actions taken in it.

    Args:
      demonstrations: episodes may be interleaved.
      length: S ≥ 1, of a sequence, burn-in included.
      burn_in: k in [0, S), steps that only warm a memory up; see `optinfra.sequences.starts`.

    Returns:
      `Transitions` `[N, S]`, episode by episode; zeros where a sequence goes beyond its
      episode. Those rows do not count, nor do the ones of the burn-in, which keep what they
      hold.

    Raises:
      ValueError: a number is out of range, or no action was taken.
      TypeError: a number is no integer.
    """
    rows = _taken_rows(demonstrations)
    episode, order = demonstrations.episode[rows].sort(stable=True)
    sizes = torch.unique_consecutive(episode, return_counts=True)[1].tolist()
    steps = _transitions(demonstrations, rows[order])
    pieces, begin = [], 0
    for size in sizes:
        piece = cut(tree.take(steps, slice(begin, begin + size)), length, burn_in, axes=1)
        warmup = is_warmup(piece.mask, size, burn_in)
        pieces.append(piece._replace(mask=piece.mask & ~warmup))
        begin += size
    return tree.map(lambda *xs: torch.cat(xs), *pieces)


def with_bytes(name: str, demonstrations: Demonstrations, spec: Spec) -> Demonstrations:
    """Turn those images in [0, 1] into bytes that are bytes in a spec, as round(255·x).

    Raises:
      DemoError: a number of one lies outside [0, 1]; the message names the demonstrations.
    """
    obs = list(demonstrations.obs)
    for i in spec.bytes:
        outside = (obs[i] < 0) | (obs[i] > 1)
        if bool(outside.any()):
            came = obs[i][outside][0].item()
            raise DemoError(f"{name}: observation {i} must lie in [0, 1] as an image, got {came}.")
        obs[i] = (obs[i] * BRIGHTEST).round().to(torch.uint8)
    return demonstrations._replace(obs=tuple(obs))


def first_episodes(demonstrations: Demonstrations, episodes: int) -> Demonstrations:
    """Keep the pairs of the first so many episodes, all of them where there are not more.

    Raises:
      ValueError: `episodes` lies below 1.
      TypeError: `episodes` is no integer.
    """
    require_integer("episodes", episodes, 1)
    rows = (demonstrations.episode < episodes).nonzero()[:, 0]
    return tree.take(demonstrations, rows)


def joined(parts: list[Demonstrations]) -> Demonstrations:
    """Put demonstrations one after the other, each with episodes of its own."""
    numbered, begun = [], 0
    for part in parts:
        numbered.append(part._replace(episode=part.episode + begun))
        begun += int(part.episode.max()) + 1
    return tree.map(lambda *xs: torch.cat(xs), *numbered)


def _taken_rows(demonstrations: Demonstrations) -> Tensor:
    """Rows `[M]` of the pairs that do not end an episode."""
    ended = demonstrations.terminated | demonstrations.truncated
    rows = (~ended).nonzero()[:, 0]
    if not len(rows):
        raise ValueError("`demonstrations` must hold an action that was taken, got none.")
    return rows


def _transitions(demonstrations: Demonstrations, rows: Tensor) -> Transitions:
    """What was done in these pairs, which end no episode, and what followed."""
    now = tree.take(demonstrations, rows)
    next_rows = following(demonstrations.episode)[rows]
    then = tree.take(demonstrations, next_rows)
    unknown = next_rows == rows
    return Transitions(
        obs=now.obs,
        next_obs=then.obs,
        action=now.action,
        rewards=torch.where(unknown, 0.0, then.rewards),
        terminated=then.terminated,
        truncated=then.truncated | unknown,
        mask=torch.ones_like(unknown),
        action_mask=now.action_mask,
    )


def following(episode: Tensor) -> Tensor:
    """Row `[N]` of the next pair of the same episode; the row itself for the last one."""
    grouped, order = episode.sort(stable=True)
    follows = torch.where(grouped[1:] == grouped[:-1], order[1:], order[:-1])
    return torch.arange(len(episode), device=episode.device).index_copy(0, order[:-1], follows)
