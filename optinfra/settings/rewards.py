"""The reward signals of a behaviour, by name."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import (
    ConfigDict,
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from optinfra.settings.errors import closest, did_you_mean, problem_at
from optinfra.settings.kinds import (
    Block,
    Flag,
    Frozen,
    FrozenDict,
    Positive,
    Real,
    Text,
    Unit,
)
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


class RegisteredSignalSettings(RewardSignalSettings):
    """A signal of one's own: `package:name`, registered by the package under that name."""

    learning_rate: Positive = 3e-4
    parameters: Annotated[dict[str, JsonValue], Frozen] = Field(default_factory=FrozenDict)


class RewardSignals(Block):
    """The signals of a behaviour; those it does not have are None."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, RegisteredSignalSettings] = Field(init=False)

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
        """The signals there are; those of one's own by the whole of `package:name`."""
        named = {name: getattr(self, name) for name in type(self).model_fields}
        named |= self.__pydantic_extra__
        return {name: signal for name, signal in named.items() if signal is not None}

    @property
    def streams(self) -> Mapping[str, str]:
        """What the stream of each signal is called: `name` of `package:name`."""
        return {name: name.rpartition(":")[2] for name in self.by_name}

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_names(cls, data: Any) -> Any:
        known = list(cls.model_fields)
        for key in data if isinstance(data, dict) else ():
            package, _, name = key.rpartition(":")
            parts = (*package.split("."), name)
            if key not in known and not all(part.isidentifier() for part in parts):
                hint = did_you_mean(key, known)
                own = "" if closest(key, known) else " One of your own is called package:name."
                raise problem_at(key, data[key], f"unknown key.{hint}{own}")
        return data

    @model_validator(mode="after")
    def _require_one(self) -> "RewardSignals":
        if not self.by_name:
            raise ValueError(f"expected at least one of {', '.join(type(self).model_fields)}.")
        streams = list(self.streams.values())
        for name, stream in self.streams.items():
            if streams.count(stream) > 1 and ":" in name:
                raise ValueError(f"expected one signal called {stream}, got another in {name}.")
        return self

    @model_serializer(mode="wrap")
    def _leave_out_what_is_not_there(self, serialize: SerializerFunctionWrapHandler) -> Any:
        return {name: block for name, block in serialize(self).items() if block is not None}
