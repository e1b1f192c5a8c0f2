"""Arrays of zeros, in memory or in files without a name."""

import math
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from optinfra.store.file import StoreError, told

Make = Callable[[Sequence[int], Tensor], Tensor]  # (shape, one) -> zeros of one's dtype and device


def in_memory(shape: Sequence[int], one: Tensor) -> Tensor:
    """Make zeros of the dtype and on the device of `one`."""
    return one.new_zeros(tuple(shape))


def in_files(folder: str | os.PathLike) -> Make:
    """Make zeros that lie in files: the system holds in memory what is being used of them.

    The files have no name, and are gone with the process. What they need is reserved at once:
    a disk that fills up later would end the process at a write.

    Args:
      folder: made if it is not there; on a disk, not in memory as /tmp may be.

    Returns:
      `(shape, one) -> zeros`. It raises ValueError if `one` does not lie on the CPU, and
      StoreError, which names the folder, if there is no room.
    """
    path = Path(folder)

    def make(shape: Sequence[int], one: Tensor) -> Tensor:
        if one.device.type != "cpu":
            raise ValueError(f"`one` must lie on the CPU to be kept in files, got {one.device}.")
        size = math.prod(shape) * one.element_size()
        if not size:
            return in_memory(shape, one)
        try:
            path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=path) as file:
                _reserve(file.fileno(), size)
                content = np.memmap(file, np.uint8, "r+", shape=(size,))
        except OSError as error:
            raise StoreError(f"{path}: cannot hold {size} bytes: {told(error)}.") from None
        return torch.from_numpy(content).view(one.dtype).reshape(tuple(shape))

    return make


def _reserve(file: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
    else:
        os.ftruncate(file, size)
