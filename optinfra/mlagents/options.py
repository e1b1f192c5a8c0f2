"""Settings under ML-Agents' names: the models of `optinfra.settings`, and its own read as such."""

from collections.abc import Mapping
from enum import Enum
from typing import Any, TypeVar

from pydantic import BaseModel

from optinfra.settings import TrainerSettings

Settings = TypeVar("Settings", bound=BaseModel)
PLUGIN = "optinfra_"  # what our types of trainers begin with among ML-Agents'


class RewardSignalType(str, Enum):
    """Reward signals that ML-Agents has."""

    EXTRINSIC = "extrinsic"
    GAIL = "gail"
    CURIOSITY = "curiosity"
    RND = "rnd"


class ScheduleType(str, Enum):
    """How a hyperparameter changes over training."""

    CONSTANT = "constant"
    LINEAR = "linear"


class EncoderType(str, Enum):
    """What reads an image."""

    FULLY_CONNECTED = "fully_connected"
    MATCH3 = "match3"
    SIMPLE = "simple"
    NATURE_CNN = "nature_cnn"
    RESNET = "resnet"


class ConditioningType(str, Enum):
    """How a goal takes part."""

    HYPER = "hyper"
    NONE = "none"


def settings_of(settings: Any) -> TrainerSettings:
    """Read a behaviour's settings, ours or ML-Agents' own.

    Args:
      settings: `TrainerSettings` of either kind, or a mapping as in a file.

    Raises:
      ValueError: a number is out of range; ML-Agents lets it pass.
    """
    return read_as(TrainerSettings, settings)


def read_as(model: type[Settings], settings: Any) -> Settings:
    """Read settings of one kind, ours or ML-Agents' own, or a mapping as in a file."""
    if isinstance(settings, model):
        return settings
    plain = _plain(settings)
    if isinstance(plain, dict):
        kind = plain.get("trainer_type")
        if isinstance(kind, str):
            plain["trainer_type"] = kind.removeprefix(PLUGIN)
        if isinstance(plain.get("hyperparameters"), dict):
            plain["hyperparameters"].pop("compiled", None)  # of the plugin alone
        plain.pop("encoding_size", None)  # deprecated there, and already in the networks' sizes
        for signal in (plain.get("reward_signals") or {}).values():
            if isinstance(signal, dict):
                signal.pop("encoding_size", None)
    return model.model_validate(plain)


def _plain(value: Any) -> Any:
    """Turn objects of attrs, which ML-Agents' settings are, into mappings."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, BaseModel):
        return value
    if hasattr(type(value), "__attrs_attrs__"):
        names = [each.name for each in type(value).__attrs_attrs__]
        return {name: _plain(getattr(value, name)) for name in names}
    if isinstance(value, Mapping):
        return {_plain(key): _plain(each) for key, each in value.items()}
    return value
