"""The whole of a run's settings: read, chosen from, and written back."""

from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Field, JsonValue, ValidationError

from optinfra.settings.document import Document, Source, read
from optinfra.settings.errors import SettingsError, did_you_mean, sentence_of
from optinfra.settings.kinds import (
    Block,
    Count,
    Flag,
    Frozen,
    FrozenDict,
    Natural,
    NonNegative,
    Positive,
    Real,
    Seed,
    Text,
    whole,
)
from optinfra.settings.parameters import EnvironmentParameterSettings
from optinfra.settings.resolve import DEFAULT_ENV, resolved
from optinfra.settings.trainer import TrainerSettings

LARGEST_PORT = 65535
UNLIMITED = -1


class EnvironmentSettings(Block):
    """Where experience comes from. Most of it concerns Unity builds alone."""

    env_path: Text | None = None
    env_args: tuple[Text, ...] | None = None
    base_port: Annotated[int, whole(0, LARGEST_PORT)] = 5005
    num_envs: Count = 1  # environments side by side
    num_areas: Count = 1
    timeout_wait: Natural = 60  # seconds
    seed: Seed = -1
    max_lifetime_restarts: Annotated[int, whole(UNLIMITED)] = 10
    restarts_rate_limit_n: Annotated[int, whole(UNLIMITED)] = 1
    restarts_rate_limit_period_s: Count = 60


class EngineSettings(Block):
    """How a Unity build runs."""

    width: Count = 84
    height: Count = 84
    quality_level: Natural = 5
    time_scale: Positive = 20.0
    target_frame_rate: Annotated[int, whole(UNLIMITED)] = -1
    capture_frame_rate: Natural = 60
    no_graphics: Flag = False
    no_graphics_monitor: Flag = False


class CheckpointSettings(Block):
    """The run folder `results_dir/run_id`, and what is done with one that exists."""

    run_id: Text = "ppo"
    initialize_from: Text | None = None
    resume: Flag = False
    force: Flag = False
    inference: Flag = False
    results_dir: Text = "results"


class TorchSettings(Block):
    """Where tensors live."""

    device: Text | None = None  # None: CUDA where there is one


def _word(value: Any) -> Any:
    """Undo YAML 1.1, which reads `on` and `off` as true and false."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


class SoftSettings(Block):
    """What ML-Agents' SAC has no word for.

    critics: independent action values.
    value_network: whether a network's V is what targets aim at, as in ML-Agents, or the critics'
        own averages (SAC v2).
    target_critics: without a value network, how many critics, drawn anew at each update, a target
        takes the least of (REDQ); null: all.
    layer_norm: normalise the critics' layers.
    target_entropy_scale: factor on the entropies that the policy's randomness is held to.
    random_steps: environment steps at the beginning whose actions are drawn evenly.
    prefill_replay: demonstrations that the replay buffer holds from the beginning.
    replay_memory: GiB of memory; a larger replay buffer is kept in files of the run's folder.
    """

    critics: Count = 2
    value_network: Flag = True
    target_critics: Count | None = None
    layer_norm: Flag = False
    target_entropy_scale: Real = 1.0
    random_steps: Natural = 0
    prefill_replay: Text | None = None
    replay_memory: NonNegative = 8.0


class OptinfraSettings(Block):
    """What ML-Agents has no word for: the block `optinfra:` of a file.

    env: id of a Gymnasium environment or of one of `optinfra.envs`.
    env_kwargs: keyword arguments it is made with.
    max_entities: largest number of entities in an observation of a Sequence space.
    goals: names of observations that are goals, besides those called `desired_goal`.
    sets: names of observations [N, D] that are sets of entities.
    compile: `torch.compile` what is done over and over: `auto` where the run is long enough to
        repay it, `on` always, `off` never.
    max_grad_norm: clip the gradient's global norm; null never clips, as ML-Agents.
    initialization: of the networks: `mlagents`, or `orthogonal` as implementations of PPO, and of
        SAC, have it.
    activation: of the hidden layers: `swish` as ML-Agents, `tanh` or `relu`.
    value_clipping: values move by at most epsilon a rollout. It wants returns of the size of 1:
        scale them by the reward signals' strength, or switch it off.
    recurrent_cell: of `network_settings.memory`: `lstm` as ML-Agents, or `gru`.
    burn_in: steps at the start of each sequence that only warm its memory up.
    encoder: `package.module:function`, makes encoders of single observations; see docs/networks.md.
    body: likewise, makes what turns all observations into one encoding.
    network: likewise, makes the whole actor and critic.
    rnd_reward_normalization: divide RND's reward by its running deviation.
    threads: of the CPU that torch uses during the run; null leaves torch's own number.
    sac: see `SoftSettings`.
    """

    env: Text = DEFAULT_ENV
    env_kwargs: Annotated[dict[str, JsonValue], Frozen] = Field(default_factory=FrozenDict)
    max_entities: Count = 16
    goals: tuple[Text, ...] = ()
    sets: tuple[Text, ...] = ()
    compile: Annotated[Literal["auto", "on", "off"], BeforeValidator(_word)] = "auto"
    max_grad_norm: Positive | None = None
    initialization: Literal["mlagents", "orthogonal"] = "mlagents"
    activation: Literal["swish", "tanh", "relu"] = "swish"
    value_clipping: Flag = True
    recurrent_cell: Literal["lstm", "gru"] = "lstm"
    burn_in: Natural = 0
    encoder: Text | None = None
    body: Text | None = None
    network: Text | None = None
    rnd_reward_normalization: Flag = False
    threads: Count | None = None
    sac: SoftSettings = SoftSettings()


class RunSettings(Block):
    """All settings of a file. Its `default_settings` have gone into the behaviours."""

    behaviors: Annotated[dict[str, TrainerSettings], Frozen] = Field(default_factory=FrozenDict)
    env_settings: EnvironmentSettings = EnvironmentSettings()
    engine_settings: EngineSettings = EngineSettings()
    environment_parameters: Annotated[dict[str, EnvironmentParameterSettings], Frozen] | None = None
    checkpoint_settings: CheckpointSettings = CheckpointSettings()
    torch_settings: TorchSettings = TorchSettings()
    debug: Flag = False
    optinfra: OptinfraSettings = OptinfraSettings()

    @classmethod
    def known_keys(cls) -> list[str]:
        """List the keys a file may hold."""
        return ["default_settings", *cls.model_fields]


def load(source: Source) -> RunSettings:
    """Read, resolve and validate settings.

    Args:
      source: a `Path` is a file, a `str` is YAML text, a mapping is its content; or what `read`
        and `override` return.

    Returns:
      Settings in which everything has its value. There is at least one behaviour: a file that
      names none describes one, named after its environment.

    Raises:
      SettingsError: one line per mistake: file, line, path, what was expected, what came.

    Warns:
      SettingsWarning: a deprecated key was dropped or read as another.
    """
    document = resolved(read(source))
    try:
        return RunSettings.model_validate(document.data)
    except ValidationError as error:
        raise SettingsError(*_lines(document, error)) from None


def choose_behavior(run: RunSettings, name: str | None = None) -> tuple[str, TrainerSettings]:
    """Choose the behaviour to train: the one of this name, or the only one there is.

    Raises:
      SettingsError: there is none of this name, or several and no name. It lists them.
    """
    chosen = chosen_name(list(run.behaviors), name)
    return chosen, run.behaviors[chosen]


def dump(run: RunSettings) -> str:
    """Write settings as YAML text that `load` reads back as equal settings."""
    # In ASCII: PyYAML 6 writes U+0085 between single quotes and reads a space back.
    return yaml.safe_dump(run.model_dump(mode="json"), sort_keys=False)


def chosen_name(names: list[str], name: str | None) -> str:
    """Choose one of the names: `name` if it is there, or the only one if `name` is None."""
    if name is None:
        if len(names) != 1:
            raise SettingsError(f"behaviors: choose one of {', '.join(names)} by its name.")
        return names[0]
    if name not in names:
        hint = did_you_mean(name, names)
        known = "" if hint.startswith(" Known") else f" Known: {', '.join(names)}."
        raise SettingsError(f"behaviors.{name}: no such behaviour.{hint}{known}")
    return name


def _lines(document: Document, error: ValidationError) -> list[str]:
    """Write one line per mistake."""
    errors = error.errors(include_url=False)
    return [f"{document.locate(line['loc'])}: {sentence_of(line)}" for line in errors]
