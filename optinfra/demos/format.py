"""The messages of ML-Agents' `.demo` files, and where in a file they stand.

    0   metadata: 32 bytes are set aside for it and its length
    33  parameters of the brain: its name, and which actions it has
    …   pairs of what an agent saw and did, to the end of the file

Every message follows its length, a varint. The classes come from descriptors in a pool of
their own, so that ML-Agents' generated ones may live in the same process.

Source: ML-Agents, https://github.com/Unity-Technologies/ml-agents/tree/release_22/protobuf-definitions.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

SUFFIX = ".demo"
BRAIN_OFFSET = 33  # bytes
METADATA_BYTES = BRAIN_OFFSET - 1  # the length before it takes one byte
API_VERSIONS = (0, 1)  # 0 stands in no file that a release of ML-Agents wrote
UNCOMPRESSED, PNG = 0, 1  # an observation's compression_type
CONTINUOUS_SPACE = 1  # the brain's vector_action_space_type_deprecated; 0 is discrete
MOST_LENGTH_BYTES = 10  # of a varint of 64 bits
GOAL_SIGNAL = 1  # an observation's observation_type; 0 is any other
IMAGE_AXES = MOST_AXES = 3  # of an observation
BRIGHTEST = 255  # the byte of an image that stands for 1
MOST_NUMBERS = 2**22  # in an observation: 16 MiB
MOST_ACTIONS = 2**16  # continuous dimensions, and choices of all branches, together

PACKAGE = "communicator_objects"
REPEATED = "*"
# By message: number, type and name of the fields. Enumerations are numbers on the wire.
MESSAGES: Mapping[str, tuple[tuple[int, str, str], ...]] = {
    "DemonstrationMetaProto": (
        (1, "int32", "api_version"),
        (2, "string", "demonstration_name"),
        (3, "int32", "number_steps"),
        (4, "int32", "number_episodes"),
        (5, "float", "mean_reward"),
    ),
    "ActionSpecProto": (
        (1, "int32", "num_continuous_actions"),
        (2, "int32", "num_discrete_actions"),
        (3, "int32*", "discrete_branch_sizes"),
        (4, "string*", "action_descriptions"),
    ),
    "BrainParametersProto": (
        (3, "int32*", "vector_action_size_deprecated"),
        (5, "string*", "vector_action_descriptions_deprecated"),
        (6, "int32", "vector_action_space_type_deprecated"),
        (7, "string", "brain_name"),
        (8, "bool", "is_training"),
        (9, "ActionSpecProto", "action_spec"),
    ),
    "FloatData": ((1, "float*", "data"),),
    "ObservationProto": (
        (1, "int32*", "shape"),
        (2, "int32", "compression_type"),
        (3, "bytes", "compressed_data"),
        (4, "FloatData", "float_data"),
        (5, "int32*", "compressed_channel_mapping"),
        (6, "int32*", "dimension_properties"),
        (7, "int32", "observation_type"),
        (8, "string", "name"),
    ),
    "AgentInfoProto": (
        (7, "float", "reward"),
        (8, "bool", "done"),
        (9, "bool", "max_step_reached"),
        (10, "int32", "id"),
        (11, "bool*", "action_mask"),
        (13, "ObservationProto*", "observations"),
        (14, "int32", "group_id"),
        (15, "float", "group_reward"),
    ),
    "AgentActionProto": (
        (1, "float*", "vector_actions_deprecated"),
        (4, "float", "value"),
        (6, "float*", "continuous_actions"),
        (7, "int32*", "discrete_actions"),
    ),
    "AgentInfoActionPairProto": (
        (1, "AgentInfoProto", "agent_info"),
        (2, "AgentActionProto", "action_info"),
    ),
}


class DemoError(ValueError):
    """Demonstrations that cannot be read or written. Its text begins with the file's name."""


class Messages(NamedTuple):
    """The classes of the messages that follow a length."""

    Metadata: Any
    Brain: Any
    Pair: Any


@cache
def messages() -> Messages:
    """Make the classes, with whatever protobuf is installed from 3.20 on.

    Raises:
      ModuleNotFoundError: there is none; the message tells what to install.
    """
    try:
        from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    except ModuleNotFoundError as error:
        raise missing(error) from None
    file = descriptor_pb2.FileDescriptorProto(
        name="optinfra/demos.proto", package=PACKAGE, syntax="proto3"
    )
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, kind, field in fields:
            _declare(message.field.add(name=field, number=number), kind)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    if hasattr(message_factory, "GetMessageClass"):  # from protobuf 4.22 on
        make = message_factory.GetMessageClass
    else:
        make = message_factory.MessageFactory(pool).GetPrototype

    def of(name: str) -> Any:
        return make(pool.FindMessageTypeByName(f"{PACKAGE}.{name}"))

    return Messages(
        of("DemonstrationMetaProto"), of("BrainParametersProto"), of("AgentInfoActionPairProto")
    )


def _declare(field: Any, kind: str) -> None:
    """Give a field of a descriptor the type and label that `MESSAGES` has for it."""
    field.label = field.LABEL_REPEATED if kind.endswith(REPEATED) else field.LABEL_OPTIONAL
    kind = kind.removesuffix(REPEATED)
    if kind in MESSAGES:
        field.type, field.type_name = field.TYPE_MESSAGE, f".{PACKAGE}.{kind}"
    else:
        field.type = getattr(field, f"TYPE_{kind.upper()}")


def missing(error: ModuleNotFoundError, extra: str = "demos") -> ModuleNotFoundError:
    """The error that tells how to install what demonstrations need."""
    return ModuleNotFoundError(
        f"`optinfra.demos` needs {error.name}. Run: pip install 'optinfra[{extra}]'",
        name=error.name,
    )


def told(error: OSError) -> str:
    """Say what the system said, without its path."""
    return (error.strerror or str(error)).lower()
