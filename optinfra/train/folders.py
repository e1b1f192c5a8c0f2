"""Where a run keeps its things."""

from pathlib import Path

from optinfra import checkpoint
from optinfra.settings import RunSettings, SettingsError, load
from optinfra.train.errors import RunError
from optinfra.train.metrics import METRICS_FILE

CONFIGURATION = "configuration.yaml"
METRICS = METRICS_FILE
CURVE = "learning_curve.png"
CHECKPOINTS = "checkpoints"


def begin(run: RunSettings, name: str, chosen: Path | None) -> Path:
    """Make the folder of a new run.

    Without a name of its own a run gets the next free number. A folder that already holds a
    run is taken only with `checkpoint_settings.force`, and then emptied of that run.

    Raises:
      RunError: the folder holds a run, or cannot be made.
    """
    settings = run.checkpoint_settings
    named = chosen or (
        Path(settings.results_dir) / settings.run_id
        if "run_id" in settings.model_fields_set
        else None
    )
    folder = named or _numbered(Path(settings.results_dir), name)
    try:
        if (folder / CONFIGURATION).exists():
            if not settings.force:
                raise RunError(
                    f"{folder}: holds a run already. Go on with it by --resume, overwrite it by "
                    "--force, or choose another folder by --run-dir."
                )
            _clear(folder)
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder}: cannot be made: {error.strerror}.") from error
    return folder


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
        raise RunError(f"{folder}: there is no checkpoint to go on from.")
    return path


def behavior_of(run: RunSettings, folder: Path) -> str:
    """Name the behaviour that the run in `folder` trains."""
    if len(run.behaviors) != 1:
        raise SettingsError(f"{folder}: expected the settings of one behaviour.")
    return next(iter(run.behaviors))


def _numbered(parent: Path, name: str) -> Path:
    stem = "".join(c if c.isalnum() or c in "-_." else "-" for c in name)
    number = 1
    while (parent / f"{stem}-{number}").exists():
        number += 1
    return parent / f"{stem}-{number}"


def _clear(folder: Path) -> None:
    """Delete what a run wrote, and nothing else."""
    for path in (folder / CHECKPOINTS).glob("*"):
        path.unlink()
    for pattern in (CONFIGURATION, METRICS, CURVE, "events.out.tfevents.*"):
        for path in folder.glob(pattern):
            path.unlink()
