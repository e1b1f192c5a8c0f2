"""ML-Agents' hyperparameters, and whether updates are compiled."""

from typing import Optional

import attr
from mlagents.trainers.poca.optimizer_torch import POCASettings as UpstreamPOCASettings
from mlagents.trainers.ppo.optimizer_torch import PPOSettings as UpstreamPPOSettings
from mlagents.trainers.sac.optimizer_torch import SACSettings as UpstreamSACSettings
from mlagents.trainers.settings import ScheduleType

# Whether updates are; None: if they will be many. The cattrs of ML-Agents reads no `bool | None`.
Compiled = Optional[bool]  # noqa: UP045


@attr.s(auto_attribs=True)
class Scheduled:
    """Schedules that are like that of the learning rate unless given.

    ML-Agents sees to that for its own types of trainers alone.
    """

    learning_rate_schedule: ScheduleType = ScheduleType.LINEAR
    beta_schedule: ScheduleType = attr.ib()
    epsilon_schedule: ScheduleType = attr.ib()

    @beta_schedule.default
    @epsilon_schedule.default
    def _as_learning_rate(self) -> ScheduleType:
        return self.learning_rate_schedule


@attr.s(auto_attribs=True)
class PPOSettings(Scheduled, UpstreamPPOSettings):
    """Hyperparameters of PPO."""

    compiled: Compiled = None


@attr.s(auto_attribs=True)
class POCASettings(Scheduled, UpstreamPOCASettings):
    """Hyperparameters of POCA."""

    compiled: Compiled = None


@attr.s(auto_attribs=True)
class SACSettings(UpstreamSACSettings):
    """Hyperparameters of SAC."""

    compiled: Compiled = None
