"""The reward signals of a behaviour, by name."""

from collections.abc import Mapping
from typing import Any

from pydantic import SerializerFunctionWrapHandler, model_serializer, model_validator

from optinfra.settings.kinds import Block, Flag, Positive, Real, Text, Unit
from optinfra.settings.network import NetworkSettings


class RewardSignalSettings(Block):
    """What every reward signal has; all there is to the extrinsic one."""

    gamma: Unit = 0.99
    strength: Real = 1.0
    network_settings: NetworkSettings = NetworkSettings()


class CuriositySettings(RewardSignalSettings):
    """Reward for what a forward model did not foresee."""

    learning_rate: Positive = 3e-4


class GAILSettings(RewardSignalSettings):
    """Reward for what a discriminator takes for the expert's."""

    learning_rate: Positive = 3e-4
    use_actions: Flag = False
    use_vail: Flag = False
    demo_path: Text


class RNDSettings(RewardSignalSettings):
    """Reward for what a predictor of a random network has not seen."""

    learning_rate: Positive = 1e-4


class RewardSignals(Block):
    """The signals of a behaviour; those it does not have are None."""

    extrinsic: RewardSignalSettings | None = None
    curiosity: CuriositySettings | None = None
    gail: GAILSettings | None = None
    rnd: RNDSettings | None = None

    @classmethod
    def default(cls) -> "RewardSignals":
        """Make what a behaviour has that names no signal."""
        return cls(extrinsic=RewardSignalSettings())

    @property
    def by_name(self) -> Mapping[str, RewardSignalSettings]:
        """The signals there are."""
        named = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: signal for name, signal in named.items() if signal is not None}

    @model_validator(mode="after")
    def _require_one(self) -> "RewardSignals":
        if not self.by_name:
            raise ValueError(f"expected at least one of {', '.join(type(self).model_fields)}.")
        return self

    @model_serializer(mode="wrap")
    def _leave_out_what_is_not_there(self, serialize: SerializerFunctionWrapHandler) -> Any:
        return {name: block for name, block in serialize(self).items() if block is not None}
