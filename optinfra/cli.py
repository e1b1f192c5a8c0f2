"""The command `optinfra`: train, evaluate, record, export, plot."""

import argparse
import math
import signal
import sys
import warnings
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NoReturn

from optinfra.version import VERSION

INTERRUPTED = 130  # the exit status of a command that Ctrl-C ended
FAILED = 1
MISUSED = 2
TRAINERS = ("ppo", "sac", "poca")
DEFAULT_CONFIG = "default"
DEFAULT_ENVS = {"poca": "tensor:Escape-v0"}  # by trainer; the others' is CartPole


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _as_interrupt)
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            return options.run(options)
        except KeyboardInterrupt:
            print("Interrupted.", file=sys.stderr)
            return INTERRUPTED
        except Exception as error:
            if not _is_expected(error):
                raise
            return _fail(_told(error))


def _train(options: argparse.Namespace) -> int:
    from optinfra import settings
    from optinfra.train.loop import drawn_seed, train

    run = settings.load(_configured(options))
    name, behavior = settings.choose_behavior(run, options.behavior)
    for notice in settings.require_supported(run, name):
        print(f"note: {notice}")
    resume = run.checkpoint_settings.resume
    seed = run.env_settings.seed
    env_settings = run.env_settings.model_copy(update={"seed": drawn_seed() if seed < 0 else seed})
    run = run.model_copy(update={"behaviors": {name: behavior}, "env_settings": env_settings})
    device = _device(run.torch_settings.device)
    resumed = _resumed(options, run) if resume else None
    outcome = train(run, name, device=device, chosen=options.run_dir, resumed=resumed)
    folder = outcome.folder
    result = f"{outcome.steps:,} steps, {_episodes(outcome.episodes)}"
    if not math.isnan(outcome.mean_return):
        result += f", mean return {outcome.mean_return:.1f} over the last 100"
    if outcome.interrupted:
        print(f"Interrupted after {result}. Saved in {folder}.")
        print(f"Go on with: optinfra train --resume --run-dir {folder}")
        return INTERRUPTED
    print(f"Done: {result}. Settings, metrics, curve and checkpoints lie in {folder}.")
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    from optinfra.train.evaluate import evaluate

    result = evaluate(
        options.run_folder,
        episodes=options.episodes,
        stochastic=options.stochastic,
        seed=options.seed,
        device=_device(options.device),
    )
    kind = "drawn" if options.stochastic else "likeliest"
    interval = (
        "" if math.isnan(result.half_width) else f" ± {result.half_width:.1f} (95 % interval)"
    )
    print(
        f"mean return {result.mean:.1f}{interval}, {_episodes(len(result.returns))}, "
        f"{kind} actions, min {min(result.returns):.1f}, max {max(result.returns):.1f}, "
        f"policy of step {result.steps:,}"
    )
    return 0


def _record(options: argparse.Namespace) -> int:
    from optinfra.train.record import record

    result = record(
        options.run_folder,
        options.file,
        episodes=options.episodes,
        stochastic=options.stochastic,
        seed=options.seed,
        device=_device(options.device),
        force=options.force,
    )
    kind = "drawn" if options.stochastic else "likeliest"
    print(
        f"{options.file}: {_episodes(options.episodes)}, {result.pairs:,} pairs, "
        f"mean return {result.mean:.1f}, {kind} actions, policy of step {result.steps:,}"
    )
    return 0


def _export(options: argparse.Namespace) -> int:
    from optinfra.train.export import export

    result = export(options.run_folder, options.file, force=options.force)
    print(
        f"{options.file}: {', '.join(result.inputs)} to {', '.join(result.outputs)}; "
        f"policy of step {result.steps:,}"
    )
    return 0


def _plot(options: argparse.Namespace) -> int:
    from optinfra.train import folders
    from optinfra.train.errors import RunError
    from optinfra.train.plots import learning_curve

    single = len(options.run_folders) == 1
    default = options.run_folders[0] / folders.CURVE if single else Path("learning_curves.png")
    output = options.output or default
    for folder in options.run_folders:
        folders.settings_of(folder)
    try:
        learning_curve({str(path): path / folders.METRICS for path in options.run_folders}, output)
    except ValueError as error:  # a file without rows, or a damaged one
        raise RunError(str(error)) from error
    print(output)
    return 0


def _configured(options: argparse.Namespace) -> Any:
    """Lay the command's options over the file it names, over the run's, or over what is shipped."""
    from optinfra import settings
    from optinfra.train import folders

    if options.config is not None:
        source = settings.read(options.config)
    elif options.resume and options.run_dir is not None:
        folders.settings_of(options.run_dir)  # complains if there is no run
        source = settings.read(options.run_dir / folders.CONFIGURATION)
    else:
        usual = DEFAULT_ENVS.get(options.trainer, "CartPole-v1")
        source = settings.read(_shipped(options.env or usual, options.trainer))
    assignments = list(options.set)
    for path, value in (
        ("optinfra.env", options.env),
        ("max_steps", options.steps),
        ("env_settings.seed", options.seed),
        ("torch_settings.device", options.device),
        ("checkpoint_settings.resume", options.resume or None),
        ("checkpoint_settings.force", options.force or None),
    ):
        if value is not None:
            assignments.append(f"{path}={str(value).lower() if value is True else value}")
    return settings.override(source, assignments, options.behavior)


def _shipped(env: str, trainer: str = "ppo") -> Path:
    """Find the shipped configuration for an environment: its own, or the default one."""
    shipped = resources.files("optinfra") / "configs"
    name = env.removeprefix("tensor:").replace("/", "-")
    suffix = ".yaml" if trainer == "ppo" else f".{trainer}.yaml"
    own = shipped / f"{name}{suffix}"
    return Path(str(own if own.is_file() else shipped / f"{DEFAULT_CONFIG}{suffix}"))


def _resumed(options: argparse.Namespace, run: Any) -> Path:
    from optinfra.train import folders
    from optinfra.train.errors import RunError

    settings = run.checkpoint_settings
    if options.run_dir is None and "run_id" not in settings.model_fields_set:
        raise RunError("--resume needs the folder of a run: add --run-dir FOLDER.")
    folder = options.run_dir or Path(settings.results_dir) / settings.run_id
    folders.settings_of(folder)
    return folder


def _device(name: str | None) -> Any:
    import torch

    from optinfra.train.errors import RunError

    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        tried = torch.zeros((), device=name)
        tried.item()  # "meta" makes tensors that hold nothing
        return tried.device
    except (RuntimeError, AssertionError, ModuleNotFoundError) as error:
        reason = str(error).partition("\n")[0]
        raise RunError(f"device {name}: cannot be used here: {reason}") from error


class _Parser(argparse.ArgumentParser):
    """A parser that tells a mistake as everything else does: in one line."""

    def error(self, message: str) -> NoReturn:
        """Tell what is wrong and where to find help."""
        self.exit(MISUSED, f"error: {message}. See {self.prog} --help.\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="optinfra", description="Train reinforcement-learning agents.")
    parser.add_argument("--version", action="version", version=f"optinfra {VERSION}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_train(commands.add_parser("train", help="train an agent (PPO on CartPole by default)"))
    _add_evaluate(commands.add_parser("evaluate", help="measure a trained policy"))
    _add_record(commands.add_parser("record", help="write what a trained policy does to a file"))
    _add_export(commands.add_parser("export", help="write a trained policy for Unity ML-Agents"))
    _add_plot(commands.add_parser("plot", help="draw the learning curves of runs"))
    return parser


def _add_train(train: argparse.ArgumentParser) -> None:
    train.set_defaults(run=_train)
    train.add_argument("config", nargs="?", type=Path, help="YAML file in ML-Agents' schema")
    train.add_argument("--behavior", metavar="NAME", help="which behaviour of the file to train")
    train.add_argument(
        "--env", metavar="ID", help="Gymnasium id, tensor:CartPole-v1, pettingzoo:… and such"
    )
    train.add_argument(
        "--trainer", choices=TRAINERS, default="ppo", help="whose shipped configuration"
    )
    train.add_argument("--steps", type=_positive, metavar="N", help="environment steps in all")
    train.add_argument("--seed", type=_not_negative, metavar="N", help="drawn if not given")
    train.add_argument("--run-dir", type=Path, metavar="D", help="folder of the run")
    existing = train.add_mutually_exclusive_group()
    existing.add_argument("--resume", action="store_true", help="go on with the run in --run-dir")
    existing.add_argument("--force", action="store_true", help="overwrite the run in --run-dir")
    train.add_argument("--device", metavar="D", help="cpu, cuda, cuda:1, …")
    train.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change one setting, such as hyperparameters.learning_rate=1e-3; may be repeated",
    )


def _add_evaluate(evaluate: argparse.ArgumentParser) -> None:
    evaluate.set_defaults(run=_evaluate)
    _add_policy(evaluate, episodes=100)


def _add_record(record: argparse.ArgumentParser) -> None:
    record.set_defaults(run=_record)
    _add_policy(record, episodes=10)
    record.add_argument("file", type=Path, metavar="FILE", help="to write, ends in .demo")
    record.add_argument("--force", action="store_true", help="overwrite FILE")


def _add_export(export: argparse.ArgumentParser) -> None:
    export.set_defaults(run=_export)
    export.add_argument("run_folder", type=Path, metavar="RUN", help="folder of the run")
    export.add_argument("file", type=Path, metavar="FILE", help="to write, ends in .onnx")
    export.add_argument("--force", action="store_true", help="overwrite FILE")


def _add_policy(command: argparse.ArgumentParser, *, episodes: int) -> None:
    """Add the options of a command that runs the policy of a run."""
    command.add_argument("run_folder", type=Path, metavar="RUN", help="folder of the run")
    command.add_argument("--episodes", type=_positive, default=episodes, metavar="N")
    command.add_argument("--stochastic", action="store_true", help="draw actions as in training")
    command.add_argument("--seed", type=_not_negative, default=0, metavar="N")
    command.add_argument("--device", metavar="D")


def _add_plot(plot: argparse.ArgumentParser) -> None:
    plot.set_defaults(run=_plot)
    plot.add_argument("run_folders", type=Path, nargs="+", metavar="RUN", help="folders of runs")
    plot.add_argument("--output", type=Path, metavar="FILE", help="PNG to write")


def _episodes(number: int) -> str:
    return "1 episode" if number == 1 else f"{number:,} episodes"


def _positive(text: str) -> int:
    return _whole(text, 1)


def _not_negative(text: str) -> int:
    return _whole(text, 0)


def _whole(text: str, lowest: int) -> int:
    try:
        number = int(text)
    except ValueError:
        number = lowest - 1
    if number < lowest:
        raise argparse.ArgumentTypeError(f"expected a whole number ≥ {lowest}, got {text}")
    return number


def _is_expected(error: Exception) -> bool:
    """Whether an error is one that its text explains to the user."""
    if isinstance(error, OSError | ModuleNotFoundError):
        return True
    from optinfra.checkpoint import CheckpointError
    from optinfra.demos import DemoError
    from optinfra.settings import SettingsError
    from optinfra.store import StoreError
    from optinfra.train.errors import RunError

    return isinstance(error, SettingsError | CheckpointError | DemoError | StoreError | RunError)


def _told(error: Exception) -> str:
    """Put an error into words; the system's own begin with a number."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror.lower()}." if error.filename else error.strerror
    return str(error)


def _fail(text: str) -> int:
    for line in text.splitlines():
        print(f"error: {line}", file=sys.stderr)
    return FAILED


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"warning: {message}", file=sys.stderr)


def _as_interrupt(*_: Any) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
