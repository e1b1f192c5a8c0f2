"""Demonstrations as buffers."""

import os
from typing import Any

import numpy as np
import torch

from optinfra import demos, tree
from optinfra.demos import DemoError, Demonstrations
from optinfra.mlagents.buffer import AgentBuffer
from optinfra.mlagents.keys import AgentBufferKey, BufferKey
from optinfra.mlagents.specs import (
    ActionSpec,
    BehaviorSpec,
    DimensionProperty,
    ObservationSpec,
    ObservationType,
    spec_of,
)
from optinfra.mlagents.trajectory import ObsUtil
from optinfra.types import Spec, Transitions

AXES = {  # by the number of axes of an observation
    1: (DimensionProperty.NONE,),
    2: (DimensionProperty.VARIABLE_SIZE, DimensionProperty.NONE),
    3: (DimensionProperty.NONE, *[DimensionProperty.TRANSLATIONAL_EQUIVARIANCE] * 2),
}


def load_demonstration(file_path: str | os.PathLike) -> tuple[BehaviorSpec, Demonstrations, int]:
    """Read demonstrations, pair by pair.

    Args:
      file_path: a `.demo` file, a folder of them, or `minari:ID`.

    Returns:
      The behaviour's specification, the pairs, and how many there are.

    Raises:
      ValueError: they cannot be read; the message tells why.
    """
    try:
        spec, pairs = demos.load(file_path)
    except DemoError as error:
        raise ValueError(str(error)) from None
    return _behavior_spec(spec), pairs, len(pairs.rewards)


def demo_to_buffer(
    file_path: str | os.PathLike,
    sequence_length: int,
    expected_behavior_spec: BehaviorSpec | None = None,
) -> tuple[BehaviorSpec, AgentBuffer]:
    """Read the actions that an expert took as a buffer.

    Args:
      file_path: see `load_demonstration`.
      sequence_length: S ≥ 1. Every episode is cut into sequences by itself, the last padded.
      expected_behavior_spec: of the agent that is to learn.

    Returns:
      The specification and a buffer of `OBSERVATION`, `NEXT_OBSERVATION`, actions, `DONE`,
      `ENVIRONMENT_REWARDS`, `ACTION_MASK` and `MASKS`, which is 0 where a row is padding.

    Raises:
      ValueError: they cannot be read, no action was taken, or they are of another agent.

    Differs: ML-Agents makes a row of each episode's last observation, with an action that
    nobody took, and has no `MASKS`.
    """
    try:
        spec, pairs = demos.load(
            file_path, spec_of(expected_behavior_spec) if expected_behavior_spec else None
        )
        rows = demos.taken(pairs)
        if sequence_length > 1:
            rows = _flat(demos.sequences(pairs, sequence_length))
    except DemoError as error:
        raise ValueError(str(error)) from None
    return expected_behavior_spec or _behavior_spec(spec), _buffer(rows, spec)


def _flat(rows: Transitions) -> Transitions:
    flat: Transitions = tree.map(lambda x: x.flatten(0, 1), rows)
    return flat


def _buffer(rows: Transitions, spec: Spec) -> AgentBuffer:
    columns: dict[AgentBufferKey, Any] = {}
    for i, (now, then) in enumerate(zip(rows.obs, rows.next_obs)):
        columns |= {ObsUtil.get_name_at(i): now, ObsUtil.get_name_at_next(i): then}
    columns |= {
        BufferKey.CONTINUOUS_ACTION: rows.action.continuous,
        BufferKey.DISCRETE_ACTION: rows.action.discrete.to(torch.int32),
        BufferKey.DONE: (rows.terminated | rows.truncated).float(),
        BufferKey.ENVIRONMENT_REWARDS: rows.rewards,
        BufferKey.MASKS: rows.mask.float(),
    }
    if isinstance(rows.action_mask, torch.Tensor) and spec.action.branches:
        columns[BufferKey.ACTION_MASK] = rows.action_mask.float()
    buffer = AgentBuffer()
    for key, column in columns.items():
        buffer[key] = np.ascontiguousarray(column.numpy())
    return buffer


def _behavior_spec(spec: Spec) -> BehaviorSpec:
    seen = [
        ObservationSpec(
            shape,
            AXES[len(shape)],
            ObservationType.GOAL_SIGNAL if i in spec.goals else ObservationType.DEFAULT,
            f"obs_{i}",
        )
        for i, shape in enumerate(spec.obs)
    ]
    return BehaviorSpec(seen, ActionSpec(spec.action.continuous, spec.action.branches))
