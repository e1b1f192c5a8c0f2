"""ML-Agents' `.pt` files."""

import os
import pickle
from pathlib import Path
from typing import Any

import torch

from optinfra.mlagents.exchange import export_modules, import_modules
from optinfra.mlagents.optimizer import TorchOptimizer

LARGEST_FILE = 4 * 2**30  # bytes; larger ones are not read


def save_checkpoint(optimizer: TorchOptimizer, path: str | os.PathLike) -> None:
    """Write everything that an optimizer and its policy know as ML-Agents writes it.

    Args:
      optimizer: see `export_modules`.
      path: of the file, such as `results/run/Walker/checkpoint.pt`: what was there is replaced,
        whole or not at all.
    """
    target = Path(path)
    part = target.with_name(f"{target.name}.part")
    torch.save(export_modules(optimizer), part)
    os.replace(part, target)


def load_checkpoint(optimizer: TorchOptimizer, path: str | os.PathLike) -> None:
    """Take everything from a file that ML-Agents or `save_checkpoint` wrote; all or nothing.

    Args:
      optimizer: see `import_modules`.
      path: of the file. It is read as tensors and numbers alone: nothing in it is run.

    Raises:
      ValueError: the file is damaged, or does not fit the settings. Nothing has changed then.
      FileNotFoundError: there is none.
    """
    target = Path(path)
    size = target.stat().st_size
    if size > LARGEST_FILE:
        raise ValueError(f"{target}: expected at most {LARGEST_FILE} bytes, got {size}.")
    try:
        given: Any = torch.load(target, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{target}: expected a checkpoint of ML-Agents': {reason}") from None
    if not isinstance(given, dict) or not all(isinstance(x, dict) for x in given.values()):
        raise ValueError(f"{target}: expected state dicts by module, got {type(given).__name__}.")
    try:
        import_modules(optimizer, given)
    except ValueError as error:
        raise ValueError(f"{target}: {error}") from None
