"""Checkpoints: pytrees of tensors in safetensors files. Loading one executes nothing.

A file is complete or it is not there: it is written beside its place, forced to the disk and
moved. It holds a checksum, so that one changed byte is noticed. One process writes to a folder.
"""

import json
import os
import re
import warnings
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from optinfra import tree
from optinfra.types import PyTree

try:
    import safetensors.torch as safetensors
    from safetensors import SafetensorError
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"`optinfra.checkpoint` needs {error.name}. Run: pip install 'optinfra[train]'",
        name=error.name,
    ) from None

FORMAT = "optinfra.checkpoint"
FORMAT_VERSION = "1"
OWN_KEYS = ("format", "format_version", "checksum")  # of the metadata
SUFFIX = ".safetensors"
PARTIAL = ".partial"  # what a process that was killed leaves is called `.NAME.partial`
STEP_DIGITS = 9
NUMBERED = re.compile(rf"step-(\d{{{STEP_DIGITS},}}){re.escape(SUFFIX)}")
LENGTH_BYTES = 8  # a safetensors file begins with the length of its JSON header
RESERVED_NAME = "__metadata__"  # in that header

Tree = TypeVar("Tree")


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be written or read. Its text is one line that names the file."""


class CheckpointWarning(UserWarning):
    """A checkpoint that was passed over."""


def numbered(folder: str | os.PathLike, step: int) -> Path:
    """Name the checkpoint of an environment step: `step-000012345.safetensors`."""
    if step < 0:
        raise ValueError(f"`step` must be ≥ 0, got {step}.")
    return Path(folder) / f"step-{step:0{STEP_DIGITS}d}{SUFFIX}"


def step_of(path: str | os.PathLike) -> int:
    """Read the step from a checkpoint's name."""
    match = NUMBERED.fullmatch(Path(path).name)
    if match is None:
        raise ValueError(f"`path` must be named as by `numbered`, got {Path(path).name}.")
    return int(match[1])


def save(path: str | os.PathLike, state: PyTree, metadata: Mapping[str, str]) -> None:
    """Write every leaf of `state` and the metadata, completely or not at all.

    Args:
      path: of the file; its folder is made. What processes that were killed left there goes.
      state: tensors of any shape, device and layout; leaves may share memory.
      metadata: text by name.

    Raises:
      CheckpointError: the file cannot be written. What was there before still is.
      TypeError: a leaf is no tensor, or the metadata are not text.
      ValueError: two leaves have one name, or a name or a metadata key is reserved.
    """
    path = Path(path)
    tensors, extra = _tensors(state), _metadata(metadata)
    extra["checksum"] = _checksum(tensors, extra)
    try:
        content = safetensors.save(tensors, extra)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: cannot hold this state: {error}") from None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for leftover in path.parent.glob(f".*{PARTIAL}"):
            leftover.unlink()
        _write(path, content)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written: {_reason(error)}.") from None


def load(path: str | os.PathLike, like: Tree) -> tuple[Tree, dict[str, str]]:
    """Read a checkpoint into the structure of `like`.

    Args:
      path: of the file.
      like: a state of the structure, shapes, dtypes and devices that are expected.

    Returns:
      The state, on the devices of `like`, and the metadata.

    Raises:
      CheckpointError: the file is missing, damaged, of another program or version, or holds a
        state of another structure; then the leaf is named, what was expected and what came.
    """
    path = Path(path)
    tensors, metadata = _read(path)
    expected = _named(like)
    if wrong := _differences(expected, tensors):
        more = f" ({len(wrong) - 1} more differ.)" if len(wrong) > 1 else ""
        raise CheckpointError(f"{path}: {wrong[0]}{more}")
    values = [tensors[name].to(leaf.device) for name, leaf in expected.items()]
    return tree.unflatten(like, values), metadata


def latest(folder: str | os.PathLike) -> Path | None:
    """Find the checkpoint of the highest step that can be read; None if there is none.

    Warns:
      CheckpointWarning: a file of a higher step is damaged. It names the file.
    """
    for path in _newest_first(folder):
        try:
            _read(path)
        except CheckpointError as error:
            warnings.warn(f"Passed over: {error}", CheckpointWarning, stacklevel=2)
        else:
            return path
    return None


def prune(folder: str | os.PathLike, limit: int) -> None:
    """Delete all but the `limit` newest checkpoints that can be read; ≤ 0 keeps all.

    Raises:
      CheckpointError: a file cannot be deleted.
    """
    if limit <= 0:
        return
    kept = 0
    for path in _newest_first(folder):
        if kept < limit:
            kept += _is_readable(path)
            continue
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be deleted: {_reason(error)}.") from None


def _newest_first(folder: str | os.PathLike) -> list[Path]:
    """List a folder's numbered checkpoints; a folder that is not there has none."""
    named = [path for path in Path(folder).glob(f"*{SUFFIX}") if NUMBERED.fullmatch(path.name)]
    return sorted(named, key=step_of, reverse=True)


def _is_readable(path: Path) -> bool:
    try:
        _read(path)
    except CheckpointError:
        return False
    return True


def _named(state: PyTree) -> dict[str, Tensor]:
    """Name the leaves, every name once."""
    named = tree.named_leaves(state)
    if len(named) != len(tree.leaves(state)):
        raise ValueError("`state` must not have two leaves of one name, such as a/b and a → b.")
    if RESERVED_NAME in named:
        raise ValueError(f"`state` must not have a leaf named {RESERVED_NAME}.")
    for name, leaf in named.items():
        if not isinstance(leaf, Tensor):
            raise TypeError(f"`state` must have tensors as leaves, got {type(leaf)} at {name}.")
    return named


def _tensors(state: PyTree) -> dict[str, Tensor]:
    """Copy the leaves to the CPU, dense and apart: safetensors refuses memory that is shared."""
    return {
        name: leaf.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, leaf in _named(state).items()
    }


def _metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    for key, value in metadata.items():
        if not (isinstance(key, str) and isinstance(value, str)):
            raise TypeError(f"`metadata` must hold text, got {key!r}: {value!r}.")
        if key in OWN_KEYS:
            raise ValueError(f"`metadata` must not have the reserved key {key}.")
    return {**metadata, "format": FORMAT, "format_version": FORMAT_VERSION}


def _checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Condense names, shapes, dtypes, contents and metadata into 32 bits."""
    about = [(name, list(x.shape), str(x.dtype)) for name, x in sorted(tensors.items())]
    texts = sorted((key, value) for key, value in metadata.items() if key != "checksum")
    total = zlib.crc32(json.dumps([about, texts]).encode())
    for name in sorted(tensors):
        content = tensors[name].reshape(-1).view(torch.uint8).numpy()
        total = zlib.crc32(content.data, total)
    return f"{total:08x}"


def _write(path: Path, content: bytes) -> None:
    """Put a file in its place in one step, after it has reached the disk."""
    partial = path.with_name(f".{path.name}{PARTIAL}")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    if hasattr(os, "O_DIRECTORY"):  # elsewhere a folder cannot be forced to the disk
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read tensors and metadata, and verify that they are what was written."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"{path}: there is no such checkpoint.") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {_reason(error)}.") from None
    try:
        tensors = safetensors.load(content)
        header = LENGTH_BYTES + int.from_bytes(content[:LENGTH_BYTES], "little")
        metadata = json.loads(content[LENGTH_BYTES:header]).get(RESERVED_NAME, {})
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise CheckpointError(f"{path}: damaged, or no checkpoint: {error}.") from None
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"{path}: written by something else: no {FORMAT}.")
    if metadata.get("format_version") != FORMAT_VERSION:
        came = metadata.get("format_version")
        raise CheckpointError(f"{path}: expected format version {FORMAT_VERSION}, got {came}.")
    if metadata.get("checksum") != _checksum(tensors, metadata):
        raise CheckpointError(f"{path}: damaged: its checksum is not that of its content.")
    return tensors, {key: text for key, text in metadata.items() if key not in OWN_KEYS}


def _differences(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[str]:
    """Write a sentence for each leaf that is not as expected."""
    wrong = []
    for name, leaf in expected.items():
        if name not in found:
            wrong.append(f"leaf {name} is missing.")
        elif found[name].shape != leaf.shape:
            shapes = f"{list(leaf.shape)}, got {list(found[name].shape)}"
            wrong.append(f"leaf {name} must have shape {shapes}.")
        elif found[name].dtype != leaf.dtype:
            wrong.append(f"leaf {name} must have dtype {leaf.dtype}, got {found[name].dtype}.")
    return wrong + [f"leaf {name} is not expected." for name in found if name not in expected]


def _reason(error: OSError) -> str:
    """Say what the system said, without its path."""
    return (error.strerror or str(error)).lower()
