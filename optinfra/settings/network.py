"""The architecture of a behaviour's networks."""

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator

from optinfra.settings.errors import shown
from optinfra.settings.kinds import Block, Count, Flag


def _even(value: int) -> int:
    if value % 2:
        raise ValueError(f"expected an even number, got {shown(value)}.")
    return value


class MemorySettings(Block):
    """The recurrent memory. Of an LSTM's, half is its output, half its cell state."""

    sequence_length: Count = 64
    memory_size: Annotated[Count, AfterValidator(_even)] = 128


class NetworkSettings(Block):
    """The body of a network."""

    normalize: Flag = False  # vector observations by their running moments
    hidden_units: Count = 128
    num_layers: Count = 2
    vis_encode_type: Literal["simple", "nature_cnn", "resnet", "match3", "fully_connected"] = (
        "simple"
    )
    memory: MemorySettings | None = None
    goal_conditioning_type: Literal["hyper", "none"] = "hyper"
    deterministic: Flag = False

    MemorySettings: ClassVar[type] = MemorySettings  # as ML-Agents has it
