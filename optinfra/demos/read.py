"""Read one `.demo` file.

It is not trusted: what it says of lengths and sizes is compared with what it holds before
anything is made of it, so that memory is bounded by a multiple of the file's size.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from optinfra.demos.format import (
    API_VERSIONS,
    BRAIN_OFFSET,
    CONTINUOUS_SPACE,
    GOAL_SIGNAL,
    IMAGE_AXES,
    MOST_ACTIONS,
    MOST_AXES,
    MOST_LENGTH_BYTES,
    MOST_NUMBERS,
    PNG,
    UNCOMPRESSED,
    DemoError,
    messages,
    told,
)
from optinfra.demos.images import Fault, decode
from optinfra.demos.pairs import Demonstrations, Loaded
from optinfra.types import Action, ActionSpec, Spec

# Masks, and actions at an end, may be left out: what stands for them takes at most so many
# bytes, and so many for each byte of the file.
MOST_FILLED, MOST_FILLED_PER_BYTE = 2**26, 2**8


class _Pair(NamedTuple):
    """A pair as a file holds it."""

    offset: int  # byte at which it begins
    obs: tuple[np.ndarray, ...]  # [*shape] float32 each
    continuous: np.ndarray  # [A] float32
    discrete: np.ndarray  # [K] int64
    allowed: np.ndarray  # [choices] bool
    reward: float
    agent: int
    done: bool
    max_step_reached: bool


class _Absent(NamedTuple):
    """What stands for parts that a pair leaves out; shared, so that it takes no memory."""

    continuous: np.ndarray  # [A] zeros
    discrete: np.ndarray  # [K] zeros
    allowed: np.ndarray  # [choices] True


def read(path: Path) -> Loaded:
    """Read a `.demo` file.

    As ML-Agents does, a file is read to its end or until it has given as many pairs as its
    metadata count, where they count any: Unity writes them last, and a second copy behind the
    last pair. A file with fewer pairs was cut off.

    Raises:
      DemoError: the file cannot be read, or is damaged.
      ModuleNotFoundError: protobuf or Pillow is missing.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DemoError(f"{path}: cannot be read: {told(error)}.") from None
    with _faults_at(path, 0):
        number_steps = _number_steps(data)
    with _faults_at(path, BRAIN_OFFSET):
        begin, at = _delimited(data, BRAIN_OFFSET)
        action = _action_spec(_parsed(messages().Brain, data[begin:at]))
    pairs: list[_Pair] = []
    spec, absent = Spec((), action), _absent(action)
    while at < len(data) and (len(pairs) < number_steps or not number_steps):
        with _faults_at(path, at):
            begin, end = _delimited(data, at)
            message = _parsed(messages().Pair, data[begin:end])
            if not pairs:
                spec = Spec(_shapes(message.agent_info), action, _goals(message.agent_info))
            pairs.append(_pair(message, at, spec, absent))
        at = end
    with _faults_at(path, at):
        if len(pairs) < max(number_steps, 1):
            raise Fault(f"{max(number_steps, 1)} pairs were expected, got {len(pairs)}")
    with _faults_at(path, BRAIN_OFFSET):
        _check_filled(len(pairs), action, len(data))
    return Loaded(spec, _columns(path, pairs))


@contextmanager
def _faults_at(path: Path, offset: int) -> Iterator[None]:
    """Tell of a fault where it lies."""
    try:
        yield
    except Fault as fault:
        raise DemoError(f"{path}: at byte {offset}: {fault}.") from None


def _delimited(data: bytes, at: int) -> tuple[int, int]:
    """Find where the message begins and ends whose length stands at `at`."""
    length = 0
    for position in range(MOST_LENGTH_BYTES):
        if at + position >= len(data):
            raise Fault("a length was expected, got the end of the file")
        byte = data[at + position]
        length |= (byte & 0x7F) << 7 * position
        if byte < 0x80:
            break
    else:
        raise Fault("a length was expected, got no varint")
    begin = at + position + 1
    if length > len(data) - begin:
        raise Fault(f"a message of {length} bytes was expected, got {len(data) - begin}")
    return begin, begin + length


def _parsed(kind: Any, content: bytes) -> Any:
    from google.protobuf.message import DecodeError

    try:
        return kind.FromString(content)
    except (DecodeError, ValueError, RecursionError) as error:  # text that is not UTF-8, depth
        raise Fault(f"a {kind.DESCRIPTOR.name} was expected, got none: {error}") from None


def _number_steps(data: bytes) -> int:
    """Read how many pairs there are; 0 where the recording never was closed."""
    begin, end = _delimited(data, 0)
    metadata = _parsed(messages().Metadata, data[begin:end])
    if metadata.api_version not in API_VERSIONS:
        raise Fault(f"version {API_VERSIONS} was expected, got {metadata.api_version}")
    if metadata.number_steps < 0:
        raise Fault(f"a number of pairs was expected, got {metadata.number_steps}")
    return metadata.number_steps


def _action_spec(brain: Any) -> ActionSpec:
    """Read what the agent does; the deprecated fields where the newer ones are empty."""
    own = brain.action_spec
    continuous, branches = own.num_continuous_actions, tuple(own.discrete_branch_sizes)
    if not continuous and not own.num_discrete_actions:
        sizes = tuple(brain.vector_action_size_deprecated)
        is_continuous = brain.vector_action_space_type_deprecated == CONTINUOUS_SPACE
        continuous, branches = (sum(sizes[:1]), ()) if is_continuous else (0, sizes)
    total = max(continuous, 0) + sum(max(n, 0) for n in branches)
    if continuous < 0 or min(branches, default=1) < 1 or not 0 < total <= MOST_ACTIONS:
        came = f"{continuous} continuous and {len(branches)} branches of {sum(branches)} choices"
        raise Fault(f"1 to {MOST_ACTIONS} actions and choices were expected, got {came}")
    return ActionSpec(continuous, branches)


def _absent(action: ActionSpec) -> _Absent:
    return _Absent(
        np.zeros(action.continuous, np.float32),
        np.zeros(len(action.branches), np.int64),
        np.ones(action.choices, bool),
    )


def _shapes(info: Any) -> tuple[tuple[int, ...], ...]:
    """Read the shapes of the observations from the first pair."""
    if not info.observations:
        raise Fault("an observation was expected, got none")
    shapes = []
    for observation in info.observations:
        axes = len(observation.shape)
        if not 0 < axes <= MOST_AXES:
            raise Fault(f"an observation of 1 to {MOST_AXES} axes was expected, got {axes}")
        shape = tuple(observation.shape)
        if min(shape) < 1 or math.prod(shape) > MOST_NUMBERS:
            raise Fault(
                f"an observation of 1 to {MOST_NUMBERS} numbers was expected, got {list(shape)}"
            )
        shapes.append(shape)
    return tuple(shapes)


def _goals(info: Any) -> tuple[int, ...]:
    """Read which observations are goals."""
    kinds = [observation.observation_type for observation in info.observations]
    return tuple(i for i, kind in enumerate(kinds) if kind == GOAL_SIGNAL)


def _pair(message: Any, offset: int, spec: Spec, absent: _Absent) -> _Pair:
    info = message.agent_info
    if len(info.observations) != len(spec.obs):
        raise Fault(f"{len(spec.obs)} observations were expected, got {len(info.observations)}")
    obs = tuple(_observation(x, shape) for x, shape in zip(info.observations, spec.obs))
    continuous, discrete = _actions(message, spec.action, absent)
    allowed = absent.allowed
    if info.action_mask and spec.action.choices:
        _require_size("an action mask", info.action_mask, spec.action.choices)
        allowed = ~np.array(info.action_mask, bool)
    flags = (info.done, info.max_step_reached)
    return _Pair(offset, obs, continuous, discrete, allowed, info.reward, info.id, *flags)


def _observation(observation: Any, shape: tuple[int, ...]) -> np.ndarray:
    axes = len(observation.shape)
    if axes != len(shape) or tuple(observation.shape) != shape:
        came = list(observation.shape) if axes <= MOST_AXES else f"{axes} axes"
        raise Fault(f"an observation of the shape {list(shape)} was expected, got {came}")
    if observation.compression_type == UNCOMPRESSED:
        numbers = observation.float_data.data
        _require_size("an observation", numbers, math.prod(shape))
        return np.array(numbers, np.float32).reshape(shape)
    if observation.compression_type != PNG or axes != IMAGE_AXES:
        kind = observation.compression_type
        raise Fault(f"floats, or PNGs for an image, were expected, got compression {kind}")
    return decode(observation.compressed_data, shape, list(observation.compressed_channel_mapping))


def _actions(message: Any, spec: ActionSpec, absent: _Absent) -> tuple[np.ndarray, np.ndarray]:
    """Read what was done: from the newer fields, else from the deprecated one."""
    action = message.action_info
    continuous, discrete = action.continuous_actions, action.discrete_actions
    if not continuous and not discrete:
        deprecated = action.vector_actions_deprecated
        if not deprecated and message.agent_info.done:
            return absent.continuous, absent.discrete
        if spec.continuous:
            continuous = deprecated
        else:
            discrete = deprecated
    _require_size("a continuous action", continuous, spec.continuous)
    _require_size("a discrete action", discrete, len(spec.branches))
    for choice, branch in zip(discrete, spec.branches):
        if not 0 <= choice < branch or choice != int(choice):
            raise Fault(f"a choice of {branch} was expected, got {choice}")
    return np.array(continuous, np.float32), np.array(discrete, np.int64)


def _require_size(what: str, numbers: Any, size: int) -> None:
    if len(numbers) != size:
        raise Fault(f"{what} of {size} numbers was expected, got {len(numbers)}")


def _check_filled(pairs: int, action: ActionSpec, size: int) -> None:
    """Refuse sizes of actions that a file of so many bytes does not account for."""
    each = sum(part.nbytes for part in _absent(action))
    if pairs * each > MOST_FILLED + MOST_FILLED_PER_BYTE * size:
        raise Fault(f"actions and masks that fit the file were expected, got {each} bytes a pair")


def _columns(path: Path, pairs: list[_Pair]) -> Demonstrations:
    """Lay the pairs out by columns, with every pair in its episode."""
    columns = Demonstrations(
        obs=tuple(torch.from_numpy(np.stack(each)) for each in zip(*(p.obs for p in pairs))),
        action=Action(
            torch.from_numpy(np.stack([pair.continuous for pair in pairs])),
            torch.from_numpy(np.stack([pair.discrete for pair in pairs])),
        ),
        action_mask=torch.from_numpy(np.stack([pair.allowed for pair in pairs])),
        rewards=torch.tensor([pair.reward for pair in pairs], dtype=torch.float32),
        episode=torch.tensor(_episodes(pairs)),
        terminated=torch.tensor([pair.done and not pair.max_step_reached for pair in pairs]),
        truncated=torch.tensor([pair.done and pair.max_step_reached for pair in pairs]),
    )
    for what, column in (
        *((f"observation {i}", x) for i, x in enumerate(columns.obs)),
        ("continuous action", columns.action.continuous),
        ("reward", columns.rewards),
    ):
        finite = column.isfinite().flatten(1).all(1) if column.ndim > 1 else column.isfinite()
        if not finite.all():
            with _faults_at(path, pairs[int(finite.int().argmin())].offset):
                raise Fault(f"a finite {what} was expected, got one that is not")
    return columns


def _episodes(pairs: list[_Pair]) -> list[int]:
    """Number each pair's episode: an agent is in one until it is done."""
    numbers, numbered, current = count(), [], dict[int, int]()
    for pair in pairs:
        if pair.agent not in current:
            current[pair.agent] = next(numbers)
        numbered.append(current.pop(pair.agent) if pair.done else current[pair.agent])
    return numbered
