"""A behaviour: its trainer, hyperparameters, networks, reward signals and imitation."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from optinfra.settings.errors import problem_at, shown
from optinfra.settings.kinds import (
    Block,
    Count,
    Flag,
    Natural,
    NonNegative,
    Positive,
    Real,
    Text,
    Unit,
    Whole,
    chosen_by,
    real,
)
from optinfra.settings.network import NetworkSettings
from optinfra.settings.rewards import RewardSignals

Schedule = Literal["constant", "linear"]
TrainerType = Literal["ppo", "poca", "sac"]


class HyperparameterSettings(Block):
    """What the hyperparameters of every trainer share."""

    batch_size: Count  # rows of one minibatch
    buffer_size: Count  # rows of an update (ppo, poca) or of the replay buffer (sac)
    learning_rate: Positive = 3e-4
    learning_rate_schedule: Schedule

    @model_validator(mode="after")
    def _fit_the_batch_into_the_buffer(self) -> "HyperparameterSettings":
        if self.batch_size > self.buffer_size:
            expected = f"expected at most buffer_size = {self.buffer_size}"
            raise problem_at("batch_size", self.batch_size, f"{expected}, got {self.batch_size}.")
        return self


def _as_learning_rate(validated: dict[str, Any]) -> Schedule:
    """Follow the learning rate's schedule, as ML-Agents does where a schedule is not given."""
    return validated["learning_rate_schedule"]


class OnPolicySettings(HyperparameterSettings):
    """What PPO and POCA share."""

    batch_size: Count = 1024
    buffer_size: Count = 10240
    learning_rate_schedule: Schedule = "linear"
    beta: NonNegative = 5e-3  # weight of the entropy
    epsilon: Annotated[float, real(0, 1, open_low=True, open_high=True)] = 0.2  # clip range
    lambd: Unit = 0.95  # λ of GAE
    num_epoch: Count = 3
    beta_schedule: Schedule = Field(default_factory=_as_learning_rate)
    epsilon_schedule: Schedule = Field(default_factory=_as_learning_rate)


class PPOSettings(OnPolicySettings):
    """Hyperparameters of PPO."""

    shared_critic: Flag = False  # one network for policy and value


class POCASettings(OnPolicySettings):
    """Hyperparameters of POCA."""


class SACSettings(HyperparameterSettings):
    """Hyperparameters of SAC."""

    batch_size: Count = 128
    buffer_size: Count = 50000
    learning_rate_schedule: Schedule = "constant"
    buffer_init_steps: Natural = 0
    tau: Annotated[float, real(0, 1, open_low=True)] = 0.005  # rate of the target network
    steps_per_update: Positive = 1.0  # environment steps per gradient step
    save_replay_buffer: Flag = False
    init_entcoef: Positive = 1.0  # its logarithm is what is learned
    reward_signal_steps_per_update: Positive = Field(
        default_factory=lambda validated: validated["steps_per_update"]
    )


HYPERPARAMETERS: Mapping[str, type[PPOSettings] | type[POCASettings] | type[SACSettings]] = {
    "ppo": PPOSettings,
    "poca": POCASettings,
    "sac": SACSettings,
}


class BehavioralCloningSettings(Block):
    """Imitation of demonstrations beside the policy's own update."""

    demo_path: Text
    steps: Natural = 0  # the learning rate decays over them; 0: it does not
    strength: NonNegative = 1.0  # times the policy's learning rate
    samples_per_update: Natural = 0  # 0: all
    num_epoch: Count | None = None
    batch_size: Count | None = None


class SelfPlaySettings(Block):
    """Play against earlier versions of the policy."""

    save_steps: Count = 20000
    team_change: Count = Field(default_factory=lambda validated: 5 * validated["save_steps"])
    swap_steps: Count = 2000
    window: Count = 10
    play_against_latest_model_ratio: Unit = 0.5
    initial_elo: Real = 1200.0


class TrainerSettings(Block):
    """All settings of one behaviour."""

    trainer_type: TrainerType = "ppo"
    hyperparameters: Annotated[
        PPOSettings | POCASettings | SACSettings, chosen_by("trainer_type", HYPERPARAMETERS)
    ] = Field(default_factory=lambda validated: HYPERPARAMETERS[validated["trainer_type"]]())
    checkpoint_interval: Count = 500000  # steps
    network_settings: NetworkSettings = NetworkSettings()
    reward_signals: RewardSignals = RewardSignals.default()
    init_path: Text | None = None
    keep_checkpoints: Whole = 5  # ≤ 0 keeps all
    even_checkpoints: Flag = False
    max_steps: Count = 500000
    time_horizon: Count = 64  # steps of a trajectory
    summary_freq: Count = 50000  # steps
    threaded: Flag = False
    self_play: SelfPlaySettings | None = None
    behavioral_cloning: BehavioralCloningSettings | None = None

    @property
    def checkpoint_every(self) -> int:
        """Steps from one checkpoint to the next, `even_checkpoints` heeded."""
        if self.even_checkpoints:
            return max(1, self.max_steps // self.keep_checkpoints)
        return self.checkpoint_interval

    @model_validator(mode="before")
    @classmethod
    def _require_trainer_type(cls, data: Any) -> Any:
        if isinstance(data, dict) and "hyperparameters" in data and "trainer_type" not in data:
            for name, model in HYPERPARAMETERS.items():
                if type(data["hyperparameters"]) is model:
                    return data | {"trainer_type": name}
            types = ", ".join(HYPERPARAMETERS)
            text = f"missing. `hyperparameters` need it beside them, one of {types}."
            raise problem_at("trainer_type", None, text)
        return data

    @model_validator(mode="after")
    def _fit_a_sequence_into_the_batch(self) -> "TrainerSettings":
        memory, batch = self.network_settings.memory, self.hyperparameters.batch_size
        if memory is not None and memory.sequence_length > batch:
            text = f"expected at most batch_size = {batch}, got {memory.sequence_length}."
            path = "network_settings.memory.sequence_length"
            raise problem_at(path, memory.sequence_length, text)
        return self

    @model_validator(mode="after")
    def _know_how_many_even_checkpoints(self) -> "TrainerSettings":
        if self.even_checkpoints and self.keep_checkpoints < 1:
            text = f"expected ≥ 1 with even_checkpoints, got {shown(self.keep_checkpoints)}."
            raise problem_at("keep_checkpoints", self.keep_checkpoints, text)
        return self
