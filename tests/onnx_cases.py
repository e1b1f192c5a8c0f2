"""Exported functions, and what onnxruntime makes of them."""

from collections.abc import Callable

import numpy as np
import onnxruntime
import torch
from torch import Tensor

from optinfra.export.convert import ROWS, Output, onnx_of

onnxruntime.set_default_logger_severity(3)  # it advises of what it optimises


def session(model):
    """A run of a model; its draws differ from session to session."""
    return onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )


def ran(running, feed) -> dict[str, Tensor]:
    """What one run yields, by name."""
    names = [x.name for x in running.get_outputs()]
    arrays = running.run(None, {name: np.asarray(x) for name, x in feed.items()})
    return {name: torch.from_numpy(np.asarray(x)) for name, x in zip(names, arrays)}


def exported(functions: dict[str, Callable], inputs: dict[str, tuple[int, ...]]):
    """Export functions of named inputs side by side; rows lead in what they return."""

    def together(_, *given):
        return [function(**dict(zip(inputs, given))) for function in functions.values()]

    example = {name: torch.ones(2, *shape) for name, shape in inputs.items()}
    outputs = []
    for name, function in functions.items():
        y = function(**example)
        outputs.append(Output(name, y.dtype, (ROWS, *y.shape[1:])))
    return onnx_of(together, {}, inputs, outputs)
