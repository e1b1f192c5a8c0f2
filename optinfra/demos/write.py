"""Write demonstrations as ML-Agents' `.demo` files."""

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from optinfra import tree
from optinfra.check import require_dtype, require_shape
from optinfra.demos.format import (
    API_VERSIONS,
    BRAIN_OFFSET,
    BRIGHTEST,
    GOAL_SIGNAL,
    METADATA_BYTES,
    MOST_ACTIONS,
    MOST_AXES,
    MOST_NUMBERS,
    SUFFIX,
    DemoError,
    messages,
    told,
)
from optinfra.demos.pairs import Demonstrations, following
from optinfra.types import Spec

NAME_OVERHEAD = 2  # bytes of a text's tag and length
PARTIAL = ".partial"  # what a process that was killed leaves is called `.NAME.partial`


def save(path: str | os.PathLike, demonstrations: Demonstrations, *, name: str, spec: Spec) -> None:
    """Write a `.demo` file that ML-Agents reads, completely or not at all.

    Episodes stand one after the other, in their order, and each has an agent id of its own.
    `load` returns what was saved, bit for bit, given the spec. Images are written as floats,
    those of bytes as 255ths.

    Args:
      path: of the file, which ends in `.demo`; what was there is replaced.
      demonstrations: on any device. ML-Agents takes the observation after an episode that has
        no end for the next of that episode: let those end that another one follows.
      name: of the behaviour; the metadata hold as much of it as they have room for.
      spec: what the agent sees and does.

    Raises:
      ValueError: `path` ends otherwise, a shape or value disagrees with the spec or is not
        finite, or an episode goes on after its end.
      TypeError: a column has another dtype.
      DemoError: the file cannot be written. What was there before still is.
      ModuleNotFoundError: protobuf is missing; the message tells what to install.
    """
    path = Path(path)
    if path.suffix != SUFFIX:
        raise ValueError(f"`path` must end in {SUFFIX}, got {path.name}.")
    demonstrations = tree.map(lambda x: x.detach().cpu(), demonstrations)
    _check(demonstrations, spec)
    order = demonstrations.episode.argsort(stable=True)
    content = _content(tree.take(demonstrations, order), name, spec)
    partial = path.with_name(f".{path.name}{PARTIAL}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            for piece in content:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise DemoError(f"{path}: cannot be written: {told(error)}.") from None
    finally:
        with suppress(OSError):
            partial.unlink()


def _content(demonstrations: Demonstrations, name: str, spec: Spec) -> Iterator[bytes]:
    """The parts of a file, whose pairs stand episode by episode."""
    metadata = delimited(_metadata(demonstrations, name))
    yield metadata.ljust(BRAIN_OFFSET, b"\0")
    brain = messages().Brain(brain_name=name)
    brain.action_spec.num_continuous_actions = spec.action.continuous
    brain.action_spec.num_discrete_actions = len(spec.action.branches)
    brain.action_spec.discrete_branch_sizes.extend(spec.action.branches)
    yield delimited(brain)
    for row in range(len(demonstrations.episode)):
        yield delimited(_pair(tree.take(demonstrations, row), spec))


def _metadata(demonstrations: Demonstrations, name: str) -> Any:
    """Counts of pairs and episodes, and as much of the name as there is room for."""
    episodes = len(demonstrations.episode.unique())
    metadata = messages().Metadata(
        api_version=max(API_VERSIONS),
        number_steps=len(demonstrations.episode),
        number_episodes=episodes,
        mean_reward=demonstrations.rewards.double().sum().item() / episodes,
    )
    room = METADATA_BYTES - len(metadata.SerializeToString()) - NAME_OVERHEAD
    metadata.demonstration_name = name.encode()[:room].decode(errors="ignore")
    return metadata


def _pair(pair: Demonstrations, spec: Spec) -> Any:
    """The message of one pair, whose columns have lost their axis `N`."""
    message = messages().Pair()
    info = message.agent_info
    info.reward, info.id = pair.rewards.item(), int(pair.episode)
    info.done = bool(pair.terminated | pair.truncated)
    info.max_step_reached = bool(pair.truncated)
    if not pair.action_mask.all():
        info.action_mask.extend((~pair.action_mask).tolist())
    for i, obs in enumerate(pair.obs):
        numbers = obs / BRIGHTEST if i in spec.bytes else obs
        observation = info.observations.add(observation_type=GOAL_SIGNAL * (i in spec.goals))
        observation.shape.extend(obs.shape)
        observation.float_data.data.extend(numbers.flatten().tolist())
    message.action_info.continuous_actions.extend(pair.action.continuous.tolist())
    message.action_info.discrete_actions.extend(pair.action.discrete.tolist())
    return message


def delimited(message: Any) -> bytes:
    """The bytes of a message behind their number, a varint."""
    content = message.SerializeToString()
    length, prefix = len(content), bytearray()
    while length >= 0x80:
        prefix.append(0x80 | length & 0x7F)
        length >>= 7
    prefix.append(length)
    return bytes(prefix) + content


def _check(demonstrations: Demonstrations, spec: Spec) -> None:
    """Refuse what would be read otherwise than it was written, or not at all."""
    _check_spec(spec)
    _check_columns(demonstrations, spec)
    action, ended = demonstrations.action, demonstrations.terminated | demonstrations.truncated
    if bool((demonstrations.terminated & demonstrations.truncated).any()):
        raise ValueError("`truncated` must be False where `terminated` is True, got both.")
    if bool((ended & (following(demonstrations.episode) != torch.arange(len(ended)))).any()):
        raise ValueError("`episode` must have no pair after its end, got one.")
    for name, x in (
        *((f"obs[{i}]", x) for i, x in enumerate(demonstrations.obs)),
        ("action.continuous", action.continuous),
        ("rewards", demonstrations.rewards),
    ):
        if not bool(x.isfinite().all()):
            raise ValueError(f"`{name}` must be finite, got a number that is not.")
    branches = torch.tensor(spec.action.branches, dtype=torch.int64)
    outside = (action.discrete < 0) | (action.discrete >= branches)
    if bool(outside.any()):
        choice = int(action.discrete[outside][0])
        raise ValueError(f"`action.discrete` must be choices of {branches.tolist()}, got {choice}.")


def _check_spec(spec: Spec) -> None:
    """Refuse sizes that `load` takes for damage."""
    total = spec.action.continuous + spec.action.choices
    if not 0 < total <= MOST_ACTIONS:
        raise ValueError(f"`spec.action` must have 1 to {MOST_ACTIONS} actions, got {total}.")
    if not spec.obs:
        raise ValueError("`spec.obs` must have an observation, got none.")
    for shape in spec.obs:
        if not 0 < len(shape) <= MOST_AXES or not 0 < math.prod(shape) <= MOST_NUMBERS:
            raise ValueError(
                f"`spec.obs` must have 1 to {MOST_AXES} axes and {MOST_NUMBERS} numbers each, "
                f"got {list(shape)}."
            )


def _check_columns(demonstrations: Demonstrations, spec: Spec) -> None:
    """Refuse other shapes and dtypes than those of the spec."""
    action, rows = demonstrations.action, len(demonstrations.episode)
    if not rows:
        raise ValueError("`demonstrations` must hold a pair, got none.")
    if len(demonstrations.obs) != len(spec.obs):
        raise ValueError(f"`obs` must have {len(spec.obs)} parts, got {len(demonstrations.obs)}.")
    columns = {
        **{f"obs[{i}]": pair for i, pair in enumerate(zip(demonstrations.obs, spec.obs))},
        "action.continuous": (action.continuous, (spec.action.continuous,)),
        "action.discrete": (action.discrete, (len(spec.action.branches),)),
        "action_mask": (demonstrations.action_mask, (spec.action.choices,)),
        "rewards": (demonstrations.rewards, ()),
        "episode": (demonstrations.episode, ()),
        "terminated": (demonstrations.terminated, ()),
        "truncated": (demonstrations.truncated, ()),
    }
    dtypes = {"action.discrete": torch.int64, "episode": torch.int64, "action_mask": torch.bool,
              "terminated": torch.bool, "truncated": torch.bool,
              **{f"obs[{i}]": torch.uint8 for i in spec.bytes}}  # fmt: skip
    for name, (x, shape) in columns.items():
        require_shape(name, x, (rows, *shape), "N, …")
        require_dtype(name, x, dtypes.get(name, torch.float32))
