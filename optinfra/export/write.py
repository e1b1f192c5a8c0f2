"""Files of policies."""

import os
from contextlib import suppress
from pathlib import Path

import onnx

from optinfra.export.graph import ExportError

SUFFIX = ".onnx"
PARTIAL = ".partial"  # what a process that was killed leaves is called `.NAME.partial`


def save(path: str | os.PathLike, model: onnx.ModelProto) -> None:
    """Write a model to a file, completely or not at all.

    Args:
      path: of the file, which ends in `.onnx`; what was there is replaced.
      model: as `policy` makes it.

    Raises:
      ValueError: `path` ends otherwise.
      ExportError: the file cannot be written. What was there before still is.
    """
    path = Path(path)
    if path.suffix != SUFFIX:
        raise ValueError(f"`path` must end in {SUFFIX}, got {path.name}.")
    partial = path.with_name(f".{path.name}{PARTIAL}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(model.SerializeToString())
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ExportError(f"{path}: cannot be written: {reason}.") from None
    finally:
        with suppress(OSError):
            partial.unlink()
