"""Data sets of Minari as demonstrations."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from optinfra import tree
from optinfra.demos.format import DemoError, missing
from optinfra.demos.pairs import Demonstrations, Loaded, joined, require_spec
from optinfra.envs.observations import Encoder, Entities
from optinfra.envs.spaces import SET, Reading, decoder, encoder
from optinfra.types import Action, Obs, Spec

PREFIX = "minari:"


def from_minari(dataset: Any, spec: Spec | None = None) -> Loaded:
    """Read a data set of Minari's.

    Observations and actions become what they are to `optinfra.envs` in an environment with
    these spaces: continuous actions lie in [−1, 1], observations of a Discrete are one-hot,
    Dicts are several observations. What a space does not say, which observations are sets and
    goals and how many entities a Sequence has, `spec` tells.

        a = clip((x − centre) / half, −1, 1),  centre = (low + high)/2,  half = (high − low)/2

    An episode that the data set neither terminates nor truncates was cut where it stops.

    Args:
      dataset: a `minari.MinariDataset`, or the id of one that is on this machine: nothing is
        downloaded.
      spec: what the agent that is to learn sees and does.

    Returns:
      `Loaded`, with the episodes in the order of the data set.

    Raises:
      DemoError: there is no such data set, it has no episode, it is of another agent or of
        spaces that are not supported, or holds a number that is not finite.
      ModuleNotFoundError: Minari is missing; the message tells what to install.
    """
    dataset = _opened(dataset) if isinstance(dataset, str) else dataset
    name = f"{PREFIX}{dataset.id}"
    try:
        seen = _fitting(dataset.observation_space, spec)
        found = seen.spec(decoder(dataset.action_space, 1).spec)
    except ValueError as error:
        raise DemoError(f"{name}: {error}") from None
    spec = spec or found
    require_spec(name, found, spec)
    if found.bytes != spec.bytes:
        bytes_told = f"{list(spec.bytes)}, got {list(found.bytes)}"
        raise DemoError(f"{name}: must have as bytes the observations {bytes_told}.")
    parts = []
    for number, episode in enumerate(dataset.iterate_episodes()):
        try:
            action = _actions(dataset.action_space, episode.actions)
            obs = seen.encode(episode.observations, _step, "observations")
            parts.append(_pairs(tuple(map(torch.from_numpy, obs)), action, episode, spec))
        except ValueError as error:
            raise DemoError(f"{name}: episode {number}: {error}") from None
    if not parts:
        raise DemoError(f"{name}: there is no episode in this data set.")
    return Loaded(spec, joined(parts))


def _opened(dataset_id: str) -> Any:
    try:
        import minari
    except ModuleNotFoundError as error:
        raise missing(error, "minari") from None
    try:
        return minari.load_dataset(dataset_id)
    except (OSError, ValueError) as error:
        raise DemoError(f"{PREFIX}{dataset_id}: cannot be read: {error}") from None


def _fitting(space: Any, spec: Spec | None) -> Encoder:
    """Make the encoder of a space that sees what `spec` says, as far as the space allows."""
    usual = encoder(space)
    if spec is None or len(spec.obs) != len(usual.parts):
        return usual
    is_set = [len(shape) == SET for shape in spec.obs]
    own = [isinstance(part.kind, Entities) for part in usual.parts]  # sets whatever is asked
    sizes = [shape[0] for shape, *both in zip(spec.obs, is_set, own) if all(both)]
    sets = [name for name, asked, already in zip(usual.names, is_set, own) if asked and not already]
    most = max(sizes, default=Reading().max_entities)
    return encoder(space, Reading(max_entities=most, sets=tuple(sets)))


def _step(row: int) -> str:
    return f"step {row}"


def _pairs(obs: Obs, action: Action, episode: Any, spec: Spec) -> Demonstrations:
    """Lay out an episode of T actions as T + 1 pairs."""
    steps = len(episode.rewards)
    lengths = (len(action.discrete), *map(len, obs))
    if lengths != (steps, *(steps + 1 for _ in obs)) or not steps:
        raise ValueError(
            f"`rewards` must be as many as actions and one less than observations, got {steps} "
            f"and {lengths}."
        )
    _require_finite("rewards", episode.rewards)
    rewards = torch.tensor(np.asarray(episode.rewards), dtype=torch.float32)
    last = torch.arange(steps + 1) == steps
    terminated = last & bool(episode.terminations[-1])
    nothing = tree.map(lambda x: torch.zeros_like(x[:1]), action)
    return Demonstrations(
        obs=obs,
        action=tree.map(lambda x, y: torch.cat([x, y]), action, nothing),
        action_mask=torch.ones(steps + 1, spec.action.choices, dtype=torch.bool),
        rewards=torch.cat([torch.zeros(1), rewards]),
        episode=torch.zeros(steps + 1, dtype=torch.int64),
        terminated=terminated,
        truncated=last & ~terminated,
    )


def _actions(space: Any, actions: Any) -> Action:
    """Turn actions of a space into executed ones: the inverse of `envs.spaces.decoder`."""
    from gymnasium import spaces

    rows = len(actions)
    if isinstance(space, spaces.Box):
        return Action(_shares(space, actions), torch.zeros(rows, 0, dtype=torch.int64))
    chosen = np.reshape(actions, (rows, -1)).astype(np.int64) - np.ravel(space.start)
    choices = np.ravel(space.n if isinstance(space, spaces.Discrete) else space.nvec)
    if ((chosen < 0) | (chosen >= choices)).any():
        raise ValueError(f"`actions` must lie in {space}, got others.")
    return Action(torch.zeros(rows, 0), torch.from_numpy(chosen))


def _shares(space: Any, actions: Any) -> Tensor:
    """Scale the bounds of a Box to [−1, 1]; 0 where they leave no choice."""
    _require_finite("actions", actions)
    flat = np.reshape(actions, (len(actions), -1)).astype(np.float64)
    low, high = (np.ravel(bound).astype(np.float64) for bound in (space.low, space.high))
    half = (high - low) / 2
    shares = np.where(half > 0, (flat - (low + half)) / np.where(half > 0, half, 1.0), 0.0)
    return torch.from_numpy(np.clip(shares, -1.0, 1.0).astype(np.float32))


def _require_finite(name: str, numbers: Any) -> None:
    if not np.isfinite(numbers).all():
        raise ValueError(f"`{name}` must be finite, got a number that is not.")
