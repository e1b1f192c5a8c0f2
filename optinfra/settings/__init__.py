"""Settings: ML-Agents' YAML schema, read into frozen, validated models.

Everything ML-Agents 1.1.0 accepts is accepted, with its defaults. What it passes over in
silence (unknown nested keys, duplicate keys, numbers out of range, blocks that have no effect)
is refused or named. A block of our own, `optinfra:`, says what ML-Agents has no word for.

    run = load(override(Path("config.yaml"), ["max_steps=50000"]))
    name, behavior = choose_behavior(run)
    for notice in require_supported(run, name):
        print(notice)
"""

try:
    import pydantic as _pydantic  # noqa: F401
    import yaml as _yaml  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"`optinfra.settings` needs {error.name}. Run: pip install 'optinfra[train]'",
        name=error.name,
    ) from None

from optinfra.settings.document import Document as Document
from optinfra.settings.document import read as read
from optinfra.settings.errors import SettingsError as SettingsError
from optinfra.settings.errors import SettingsWarning as SettingsWarning
from optinfra.settings.network import MemorySettings as MemorySettings
from optinfra.settings.network import NetworkSettings as NetworkSettings
from optinfra.settings.override import override as override
from optinfra.settings.parameters import CompletionCriteriaSettings as CompletionCriteriaSettings
from optinfra.settings.parameters import (
    EnvironmentParameterSettings as EnvironmentParameterSettings,
)
from optinfra.settings.parameters import Lesson as Lesson
from optinfra.settings.parameters import SamplerSettings as SamplerSettings
from optinfra.settings.rewards import CuriositySettings as CuriositySettings
from optinfra.settings.rewards import GAILSettings as GAILSettings
from optinfra.settings.rewards import RewardSignals as RewardSignals
from optinfra.settings.rewards import RewardSignalSettings as RewardSignalSettings
from optinfra.settings.rewards import RNDSettings as RNDSettings
from optinfra.settings.run import CheckpointSettings as CheckpointSettings
from optinfra.settings.run import EngineSettings as EngineSettings
from optinfra.settings.run import EnvironmentSettings as EnvironmentSettings
from optinfra.settings.run import OptinfraSettings as OptinfraSettings
from optinfra.settings.run import RunSettings as RunSettings
from optinfra.settings.run import TorchSettings as TorchSettings
from optinfra.settings.run import choose_behavior as choose_behavior
from optinfra.settings.run import dump as dump
from optinfra.settings.run import load as load
from optinfra.settings.support import require_supported as require_supported
from optinfra.settings.trainer import BehavioralCloningSettings as BehavioralCloningSettings
from optinfra.settings.trainer import POCASettings as POCASettings
from optinfra.settings.trainer import PPOSettings as PPOSettings
from optinfra.settings.trainer import SACSettings as SACSettings
from optinfra.settings.trainer import SelfPlaySettings as SelfPlaySettings
from optinfra.settings.trainer import TrainerSettings as TrainerSettings
