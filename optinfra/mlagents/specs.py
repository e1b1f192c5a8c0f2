"""What an agent sees and does, in ML-Agents' words, and in ours."""

from enum import Enum, IntFlag
from typing import Any, NamedTuple

from optinfra.types import ActionSpec as CoreActionSpec
from optinfra.types import Spec


class DimensionProperty(IntFlag):
    """What is known of one axis of an observation."""

    UNSPECIFIED = 0
    NONE = 1
    TRANSLATIONAL_EQUIVARIANCE = 2
    VARIABLE_SIZE = 4


class ObservationType(Enum):
    """What an observation is for."""

    DEFAULT = 0
    GOAL_SIGNAL = 1


class ObservationSpec(NamedTuple):
    """One observation."""

    shape: tuple[int, ...]
    dimension_property: tuple[DimensionProperty, ...]  # one per axis
    observation_type: ObservationType = ObservationType.DEFAULT
    name: str = ""


class ActionSpec(NamedTuple):
    """What an agent does: continuous dimensions and discrete branches side by side."""

    continuous_size: int = 0
    discrete_branches: tuple[int, ...] = ()  # choices of each

    @property
    def discrete_size(self) -> int:
        """How many branches there are."""
        return len(self.discrete_branches)

    @staticmethod
    def create_continuous(continuous_size: int) -> "ActionSpec":
        """Make one without branches."""
        return ActionSpec(continuous_size, ())

    @staticmethod
    def create_discrete(discrete_branches: tuple[int, ...]) -> "ActionSpec":
        """Make one of branches alone."""
        return ActionSpec(0, tuple(discrete_branches))

    @staticmethod
    def create_hybrid(continuous_size: int, discrete_branches: tuple[int, ...]) -> "ActionSpec":
        """Make one of both."""
        return ActionSpec(continuous_size, tuple(discrete_branches))


class BehaviorSpec(NamedTuple):
    """What agents of one behaviour see and do."""

    observation_specs: list[ObservationSpec]
    action_spec: ActionSpec


VECTORS = ({"NONE"}, {"UNSPECIFIED"})
IMAGE = ("NONE", "TRANSLATIONAL_EQUIVARIANCE", "TRANSLATIONAL_EQUIVARIANCE")
SET = ("VARIABLE_SIZE", "NONE")


def spec_of(behavior_spec: Any) -> Spec:
    """Read a behaviour's specification, ours or ML-Agents' own.

    Args:
      behavior_spec: with `observation_specs` and `action_spec`.

    Returns:
      The same as the core has it. A set is `[N, D]`, an image `[C, H, W]`, a vector `[D]`.

    Raises:
      ValueError: an observation is of no kind that can be read; the message tells which.
    """
    seen = behavior_spec.observation_specs
    for i, each in enumerate(seen):
        kinds = tuple(DimensionProperty(int(axis)).name for axis in each.dimension_property)
        known = {
            1: set(kinds) in VECTORS,
            2: kinds == SET,
            3: kinds == IMAGE or set(kinds) == {"UNSPECIFIED"},
        }
        if len(kinds) != len(each.shape) or not known.get(len(each.shape), False):
            raise ValueError(
                f"`observation_specs[{i}]` must be a vector, an image (C, H, W) or a set of "
                f"entities, got shape {tuple(each.shape)} with properties {list(kinds)}."
            )
    action = behavior_spec.action_spec
    goals = (i for i, each in enumerate(seen) if each.observation_type.name == "GOAL_SIGNAL")
    return Spec(
        obs=tuple(tuple(int(size) for size in each.shape) for each in seen),
        action=CoreActionSpec(
            int(action.continuous_size), tuple(int(n) for n in action.discrete_branches)
        ),
        goals=tuple(goals),
    )
