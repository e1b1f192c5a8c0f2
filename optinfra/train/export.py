"""Export what a run has learnt, for Unity ML-Agents' runtime."""

from pathlib import Path
from typing import NamedTuple

import torch

from optinfra import export as onnx
from optinfra.train.errors import RunError
from optinfra.train.trained import newest

CPU = torch.device("cpu")


class Exported(NamedTuple):
    """What was exported."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    steps: int  # environment steps the policy was trained for


def export(folder: Path, file: Path, *, force: bool = False) -> Exported:
    """Write the newest policy of a run into an `.onnx` file; see `optinfra.export.policy`.

    Args:
      folder: of the run.
      file: to write; completely or not at all.
      force: overwrite the file.

    Raises:
      RunError: the file exists, ends otherwise or cannot be written, the folder holds no run or
        no checkpoint, its environment cannot be made, or the policy cannot be exported.
      CheckpointError: the checkpoint does not fit the run's settings.
    """
    if file.suffix != onnx.SUFFIX:
        raise RunError(f"{file}: a policy's name must end in {onnx.SUFFIX}.")
    if file.is_dir():
        raise RunError(f"{file}: is a folder. Choose another name.")
    if file.exists() and not force:
        raise RunError(f"{file}: exists already. Overwrite it by --force, or choose another name.")
    trained = newest(folder, 1, stochastic=False, seed=0, device=CPU)
    trained.source.close()
    try:
        model = onnx.policy(trained.learner, trained.params, trained.spec)
    except onnx.ExportError as error:
        raise RunError(f"{folder}: cannot be exported: {error}") from error
    try:
        onnx.save(file, model)
    except onnx.ExportError as error:
        raise RunError(str(error)) from error
    inputs, outputs = (
        tuple(x.name for x in side) for side in (model.graph.input, model.graph.output)
    )
    return Exported(inputs, outputs, trained.steps)
