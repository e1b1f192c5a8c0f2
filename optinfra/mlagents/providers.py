"""Reward providers: reward signals with the state they have come to."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from optinfra import random
from optinfra.mlagents.columns import Reader
from optinfra.mlagents.demonstrations import demo_to_buffer
from optinfra.mlagents.options import RewardSignalType, read_as
from optinfra.mlagents.specs import BehaviorSpec, spec_of
from optinfra.networks import name_hash
from optinfra.settings import (
    CuriositySettings,
    GAILSettings,
    OptinfraSettings,
    RewardSignalSettings,
    RNDSettings,
)
from optinfra.train.names import tagged
from optinfra.train.signals import Asked, make
from optinfra.types import Memories, Transitions


class BaseRewardProvider:
    """A reward signal.

    Args:
      specs: of the behaviour that is rewarded.
      settings: of the signal, ours or ML-Agents'.
      seed: of its networks and of what it draws.

    Raises:
      ValueError: settings are out of range, or demonstrations cannot be read.
    """

    signal_type: str
    settings_class: type[RewardSignalSettings] = RewardSignalSettings

    def __init__(
        self, specs: BehaviorSpec, settings: RewardSignalSettings, *, seed: int = 0
    ) -> None:
        self.settings = read_as(self.settings_class, settings)
        self.spec = spec_of(specs)
        self._reader = Reader(
            self.spec, (), sequence_length=None, memories=lambda *_: Memories((), ())
        )
        self._prepare(specs)
        self._make()
        self.state = self._signal.init(
            random.fold_in(random.key(seed), name_hash(self.signal_type))
        )

    def _prepare(self, specs: BehaviorSpec) -> None:
        """Get ready what the signal is made with."""

    def _make(self) -> None:
        """Make the signal; its state is another matter."""
        made = make(self.signal_type, self._asked())
        self._signal, self._ignore_done = made.signal, made.ignore_done

    def _asked(self) -> Asked:
        return Asked(self.spec, self.settings, OptinfraSettings(), self._expert, "ppo")

    def _expert(self, path: str) -> Transitions:
        raise ValueError(f"{self.name} reads no demonstrations, got {path}.")

    @property
    def name(self) -> str:
        """What it is called."""
        return type(self).__name__.removesuffix("RewardProvider")

    @property
    def stat_name(self) -> str:
        """What its episodes' rewards are called in TensorBoard."""
        return f"Policy/{self.name.capitalize()} Reward"

    @property
    def gamma(self) -> float:
        """Discount of its stream per step."""
        return self.settings.gamma

    @property
    def strength(self) -> float:
        """Factor that whoever adds rewards up puts on what `evaluate` gives."""
        return self.settings.strength

    @property
    def ignore_done(self) -> bool:
        """Whether the end of an episode is none for its stream."""
        return self._ignore_done

    def evaluate(self, mini_batch: Mapping[Any, Any]) -> np.ndarray:
        """Tell the reward of each row `[rows]`, without its strength; padding is rewarded, too.

        Raises:
          ValueError: a column is missing or of another length or shape.
        """
        rows = self._reader.transitions(mini_batch, whole=True)
        with torch.no_grad():
            rewards: Tensor = self._signal.evaluate(self.state, rows)
        return rewards.cpu().numpy()

    def update(self, mini_batch: Mapping[Any, Any]) -> dict[str, float]:
        """Learn from rows that count.

        Returns:
          Its statistics, by ML-Agents' names.

        Raises:
          ValueError: a column is missing or of another length or shape; nothing is learnt then.
        """
        return self.learn(self._reader.transitions(mini_batch))

    def learn(self, rows: Transitions) -> dict[str, float]:
        """Learn from rows that have been read; see `update`."""
        self.state, stats = self._signal.update(self.state, rows)
        return tagged({name: float(x) for name, x in stats.items()})

    def read(self, mini_batch: Mapping[Any, Any]) -> Transitions:
        """Read what `learn` takes."""
        return self._reader.transitions(mini_batch)


class ExtrinsicRewardProvider(BaseRewardProvider):
    """What the environment pays; with `add_groupmate_rewards`, what it pays the mates, too."""

    signal_type = "extrinsic"
    _adds = False

    @property
    def add_groupmate_rewards(self) -> bool:
        """Whether the mates' rewards are added."""
        return self._adds

    @add_groupmate_rewards.setter
    def add_groupmate_rewards(self, adds: bool) -> None:
        self._adds = adds
        self._make()

    def _asked(self) -> Asked:
        return super()._asked()._replace(trainer_type="poca" if self._adds else "ppo")


class CuriosityRewardProvider(BaseRewardProvider):
    """Pays for what a forward model did not foresee."""

    signal_type = "curiosity"
    settings_class = CuriositySettings


class RNDRewardProvider(BaseRewardProvider):
    """Pays for what a predictor of a random network has not seen."""

    signal_type = "rnd"
    settings_class = RNDSettings


class GAILRewardProvider(BaseRewardProvider):
    """Pays for what a discriminator takes for the expert's."""

    signal_type = "gail"
    settings_class = GAILSettings

    def _prepare(self, specs: BehaviorSpec) -> None:
        assert isinstance(self.settings, GAILSettings)
        self._buffer = demo_to_buffer(self.settings.demo_path, 1, specs)[1]

    def _expert(self, path: str) -> Transitions:
        del path
        return self._reader.transitions(self._buffer)

    @property
    def demonstration_buffer(self) -> Any:
        """What the expert did, as a buffer; to set it takes others in their place."""
        return self._buffer

    @demonstration_buffer.setter
    def demonstration_buffer(self, buffer: Any) -> None:
        self._buffer = buffer
        self._make()


PROVIDERS: Mapping[str, Callable[..., BaseRewardProvider]] = {
    each.signal_type: each
    for each in (
        ExtrinsicRewardProvider,
        CuriosityRewardProvider,
        GAILRewardProvider,
        RNDRewardProvider,
    )
}


def create_reward_provider(
    name: RewardSignalType | str,
    specs: BehaviorSpec,
    settings: RewardSignalSettings,
    *,
    seed: int = 0,
) -> BaseRewardProvider:
    """Make the provider of a reward signal.

    Args:
      name: which, ours or ML-Agents'.
      specs: of the behaviour.
      settings: of the signal.
      seed: of its networks and of what it draws.

    Raises:
      ValueError: there is no such signal.
    """
    kind = str(getattr(name, "value", name))
    if kind not in PROVIDERS:
        raise ValueError(f"`name` must be one of {', '.join(PROVIDERS)}, got {kind!r}.")
    return PROVIDERS[kind](specs, settings, seed=seed)
