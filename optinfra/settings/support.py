"""What this version does not do: refused by name where it would change the run, else noted."""

from typing import Any, NamedTuple

from optinfra.settings.errors import SettingsError, shown
from optinfra.settings.kinds import Block
from optinfra.settings.run import RunSettings
from optinfra.settings.trainer import TrainerSettings


class Rule(NamedTuple):
    """A setting that takes no effect unless it has its default value."""

    path: str  # from the behaviour, or else from the top
    reason: str


REFUSED = (
    Rule(
        "network_settings.deterministic",
        "training needs actions that are drawn; `optinfra evaluate` takes the likeliest.",
    ),
    Rule("self_play", "self-play is not supported. Remove the block."),
    Rule("init_path", "starting from another run's networks is not supported."),
    Rule("environment_parameters", "they reach Unity builds alone. Use optinfra.env_kwargs."),
    Rule("env_settings.env_path", "Unity builds are not run. Name an environment in optinfra.env."),
    Rule("env_settings.env_args", "Unity builds are not run. Use optinfra.env_kwargs."),
    Rule("env_settings.num_areas", "it belongs to Unity builds. Use env_settings.num_envs."),
    Rule(
        "checkpoint_settings.initialize_from",
        "starting from another run's networks is not supported.",
    ),
    Rule("checkpoint_settings.inference", "use `optinfra evaluate` on the run."),
)
NO_EXTRINSIC = ": there is no extrinsic among them: the environment's reward teaches nothing."
REFUSED_WITH_SAC = (Rule("optinfra.burn_in", "sequences from replay have none."),)
REFUSED_WITH_POCA = (
    Rule("optinfra.initialization", "POCA's networks begin as ML-Agents' do."),
    Rule("optinfra.burn_in", "POCA learns from all steps of a sequence."),
)
REFUSED_WITH = {"sac": REFUSED_WITH_SAC, "poca": REFUSED_WITH_POCA}
UNUSED = (
    Rule("threaded", "no effect: collecting and updating take turns."),
    Rule("reward_signals.extrinsic.network_settings", "no effect: this signal has no network."),
    *(
        Rule(f"reward_signals.{signal}.network_settings.{key}", f"no effect: {reason}.")
        for signal in ("curiosity", "gail", "rnd")
        for key, reason in (
            ("memory", "a signal remembers nothing"),
            ("deterministic", "a signal does not act"),
        )
    ),
    Rule("env_settings.base_port", "no effect: it belongs to Unity builds."),
    Rule("env_settings.timeout_wait", "no effect: it belongs to Unity builds."),
    Rule("env_settings.max_lifetime_restarts", "no effect: it belongs to Unity builds."),
    Rule("env_settings.restarts_rate_limit_n", "no effect: it belongs to Unity builds."),
    Rule("env_settings.restarts_rate_limit_period_s", "no effect: it belongs to Unity builds."),
    Rule("engine_settings", "no effect: they belong to Unity builds."),
    Rule("debug", "no effect: there is no other kind of log."),
)


def require_supported(run: RunSettings, behavior: str) -> tuple[str, ...]:
    """Refuse what this version cannot do for one of the run's behaviours.

    Returns:
      One line for each setting that has no effect here and does no harm.

    Raises:
      SettingsError: one line for each setting that would have to take effect and cannot.
    """
    rules = REFUSED + REFUSED_WITH.get(run.behaviors[behavior].trainer_type, ())
    if refused := _departures(rules, run, behavior):
        raise SettingsError(*refused)
    notes = _departures(UNUSED, run, behavior)
    if "extrinsic" not in run.behaviors[behavior].reward_signals.by_name:
        notes += (f"behaviors.{behavior}.reward_signals{NO_EXTRINSIC}",)
    return notes


def _departures(rules: tuple[Rule, ...], run: RunSettings, behavior: str) -> tuple[str, ...]:
    """Write a line for each rule whose setting has not its default value."""
    lines = []
    for rule in rules:
        path = rule.path
        of_behavior = path.partition(".")[0] in TrainerSettings.model_fields
        owner: Block = run.behaviors[behavior] if of_behavior else run
        parent, _, key = path.rpartition(".")
        block = _at(owner, parent) if parent else owner
        if block is None:
            continue
        value = getattr(block, key)
        default = type(block).model_fields[key].get_default(call_default_factory=True)
        if value == default:
            continue
        full = f"behaviors.{behavior}.{path}" if of_behavior else path
        lines.append(f"{full}{_written(value, default)}: {rule.reason}")
    return tuple(lines)


def _at(block: Any, path: str) -> Any:
    """Follow a dotted path; None where a block on it is not there."""
    for key in path.split("."):
        block = getattr(block, key, None)
    return block


def _written(value: Any, default: Any) -> str:
    """Write a value; of a block only what is not as by default, and nothing where there is none."""
    if isinstance(value, Block) and isinstance(default, Block):
        usual = default.model_dump(mode="json")
        block = value.model_dump(mode="json")
        value = {key: part for key, part in block.items() if part != usual[key]}
    elif isinstance(value, Block | dict):
        return ""
    return f" = {shown(value)}"
