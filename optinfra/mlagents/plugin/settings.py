"""ML-Agents' hyperparameters, and whether updates are compiled."""

import attr
from mlagents.trainers.poca.optimizer_torch import POCASettings as UpstreamPOCASettings
from mlagents.trainers.ppo.optimizer_torch import PPOSettings as UpstreamPPOSettings
from mlagents.trainers.sac.optimizer_torch import SACSettings as UpstreamSACSettings
from mlagents.trainers.settings import ScheduleType


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

    compiled: bool | None = None


@attr.s(auto_attribs=True)
class POCASettings(Scheduled, UpstreamPOCASettings):
    """Hyperparameters of POCA."""

    compiled: bool | None = None


@attr.s(auto_attribs=True)
class SACSettings(UpstreamSACSettings):
    """Hyperparameters of SAC."""

    compiled: bool | None = None
