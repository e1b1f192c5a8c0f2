"""Where a run keeps its things."""

from pathlib import Path

from optinfra import checkpoint
from optinfra.settings import RunSettings, SettingsError, dump, load
from optinfra.train.errors import RunError
from optinfra.train.metrics import METRICS_FILE
from optinfra.train.replaying import SUFFIX as REPLAY_SUFFIX

CONFIGURATION = "configuration.yaml"
METRICS = METRICS_FILE
CURVE = "learning_curve.png"
CHECKPOINTS = "checkpoints"
REPLAY = "replay"
WRITTEN = (  # the settings last: until then the folder holds a run
    f"{CHECKPOINTS}/*{checkpoint.SUFFIX}",
    f"{CHECKPOINTS}/.*{checkpoint.PARTIAL}",
    f"{REPLAY}/*{REPLAY_SUFFIX}",
    METRICS,
    CURVE,
    "events.out.tfevents.*",
    CONFIGURATION,
)


def begin(run: RunSettings, name: str, chosen: Path | None) -> Path:
    """Make the folder of a new run.

    Without a name of its own a run gets the next free number. A folder that already holds a
    run is taken only with `checkpoint_settings.force`, and then emptied of that run.

    Raises:
      RunError: the folder holds a run, or cannot be made.
    """
    settings = run.checkpoint_settings
    if chosen is None and "run_id" in settings.model_fields_set:
        chosen = Path(settings.results_dir) / settings.run_id
    try:
        if chosen is None:
            return _numbered(Path(settings.results_dir), name)
        if _holds_run(chosen):
            if not settings.force:
                raise RunError(
                    f"{chosen}: holds a run already. Go on with it by --resume, overwrite it by "
                    "--force, or choose another folder by --run-dir."
                )
            _clear(chosen)
        chosen.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{error.filename}: cannot be made: {error.strerror}.") from error
    return chosen


def record(folder: Path, run: RunSettings) -> None:
    """Write down the settings of a run, whole or not at all.

    Whether it was to resume or to overwrite was asked of one command and is not repeated.
    """
    asked = run.checkpoint_settings.model_copy(update={"resume": False, "force": False})
    draft = folder / f".{CONFIGURATION}.draft"
    draft.write_text(dump(run.model_copy(update={"checkpoint_settings": asked})), encoding="utf-8")
    draft.replace(folder / CONFIGURATION)


def settings_of(folder: Path) -> RunSettings:
    """Read the settings with which a run was started.

    Raises:
      RunError: the folder holds no run.
      SettingsError: its settings are damaged.
    """
    if not (folder / CONFIGURATION).is_file():
        raise RunError(f"{folder}: holds no run: there is no {CONFIGURATION}.")
    return load(folder / CONFIGURATION)


def newest_checkpoint(folder: Path) -> Path:
    """Find the newest checkpoint of a run that can be read.

    Raises:
      RunError: there is none.
    """
    path = checkpoint.latest(folder / CHECKPOINTS)
    if path is None:
        raise RunError(f"{folder}: there is no checkpoint that can be read.")
    return path


def behavior_of(run: RunSettings, folder: Path) -> str:
    """Name the behaviour that the run in `folder` trains."""
    if len(run.behaviors) != 1:
        raise SettingsError(f"{folder}: expected the settings of one behaviour.")
    return next(iter(run.behaviors))


def _numbered(parent: Path, name: str) -> Path:
    """Make the next free folder; of several runs that begin at once each gets its own."""
    stem = "".join(c if c.isalnum() or c in "-_." else "-" for c in name)
    parent.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        folder = parent / f"{stem}-{number}"
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        else:
            return folder


def _holds_run(folder: Path) -> bool:
    return any((folder / part).exists() for part in (CONFIGURATION, METRICS, CHECKPOINTS))


def _clear(folder: Path) -> None:
    """Delete what a run wrote, and nothing else."""
    for pattern in WRITTEN:
        for path in folder.glob(pattern):
            path.unlink()
