"""Demonstrations by their path: a `.demo` file, a folder of them, a data set of Minari's."""

import os
from pathlib import Path

from optinfra.demos.format import SUFFIX, DemoError, told
from optinfra.demos.minari import PREFIX, from_minari
from optinfra.demos.pairs import Demonstrations, Loaded, joined, require_spec, with_bytes
from optinfra.demos.read import read
from optinfra.types import Spec


def load(path: str | os.PathLike, spec: Spec | None = None) -> Loaded:
    """Read demonstrations.

    Args:
      path: a `.demo` file, a folder of which all such files are read in the order of their
        names, or `minari:ID` for a data set that Minari has on this machine.
      spec: what the agent that is to learn sees and does; without it the first file tells, and
        no image is of bytes.

    Returns:
      `Loaded`, with the pairs in the order of the files. Those with one agent id are of one
      episode until it ends.

    Raises:
      DemoError: there is nothing to read, a file is damaged, or one is of another agent; the
        message names the file, and the byte where the fault lies within.
      ModuleNotFoundError: a package is missing; the message tells what to install.

    Differs: ML-Agents reads a folder in the order of the file system, and checks the spec of
      the first file alone.
    """
    if str(path).startswith(PREFIX):
        return from_minari(str(path).removeprefix(PREFIX), spec)
    parts: list[Demonstrations] = []
    for file in _files(Path(path)):
        found, demonstrations = read(file)
        spec = spec or found
        require_spec(str(file), found, spec)
        parts.append(with_bytes(str(file), demonstrations, spec))
    assert spec is not None  # there is a file
    return Loaded(spec, joined(parts))


def _files(path: Path) -> list[Path]:
    """List the files to read, at least one."""
    try:
        if path.is_file():
            return [path]
        if not path.is_dir():
            raise DemoError(f"{path}: there is no such file or folder.")
        files = [file for file in path.iterdir() if file.suffix == SUFFIX and file.is_file()]
    except OSError as error:
        raise DemoError(f"{path}: cannot be read: {told(error)}.") from None
    if not files:
        raise DemoError(f"{path}: there is no {SUFFIX} file in this folder.")
    return sorted(files)
