"""ONNX nodes and constants as they come, and what stands for a value among them."""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

try:
    import onnx
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"`optinfra.export` needs {error.name}. Run: pip install 'optinfra[export]'",
        name=error.name,
    ) from None

OPSET = 9  # what ML-Agents writes; Unity reads 7 to 15
DTYPES = {
    torch.float32: onnx.TensorProto.FLOAT,
    torch.float64: onnx.TensorProto.DOUBLE,
    torch.float16: onnx.TensorProto.FLOAT16,
    torch.int64: onnx.TensorProto.INT64,
    torch.int32: onnx.TensorProto.INT32,
    torch.uint8: onnx.TensorProto.UINT8,
    torch.bool: onnx.TensorProto.BOOL,
}

# Sizes of axes; a text is the formula of one that is known at run time, such as `s0` or `3*s0`.
Shape: TypeAlias = tuple[int | str, ...]


class ExportError(RuntimeError):
    """What cannot be exported. Its text is one line for whoever asked for it."""


class Named(NamedTuple):
    """A tensor that is known at run time."""

    name: str
    dtype: torch.dtype
    shape: Shape


class Size(NamedTuple):
    """A whole number that is known at run time: the number of rows, or what is made of it."""

    formula: str


class Spread(NamedTuple):
    """A constant that is repeated as often as the run has rows."""

    constant: Tensor  # of as many axes as `shape`, of size 1 where it is repeated
    shape: Shape


class Result(NamedTuple):
    """What an operation yields."""

    dtype: torch.dtype
    shape: Shape


class Graph:
    """Nodes in the order of their work, and the constants they read."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self.sizes: dict[str, str] = {}  # by formula, a tensor `[1]` int64 that holds it
        self.called: dict[int, str] = {}  # by id of a constant, what it is to be called

    def add(self, kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Add a node of one output, and return its name."""
        output = output or f"{kind}_{len(self.nodes)}"
        self.nodes.append(onnx.helper.make_node(kind, inputs, [output], output, **attributes))
        return output

    def constant(self, x: Tensor, name: str = "") -> str:
        """Return the name of a constant."""
        name = name or f"constant_{len(self.constants)}"
        if name not in self.constants:
            array = x.detach().cpu().contiguous().numpy()
            self.constants[name] = onnx.numpy_helper.from_array(array, name)
        return name

    def whole(self, *numbers: int) -> str:
        """Return the name of whole numbers `[n]`."""
        text = "_".join(map(str, numbers))
        return self.constant(torch.tensor(numbers, dtype=torch.int64), f"int64_{text}")

    def shape(self, shape: Shape) -> str:
        """Return the name of a shape `[n]` int64."""
        if all(isinstance(size, int) for size in shape):
            return self.whole(*shape)  # type: ignore[arg-type]
        for size in shape:
            if isinstance(size, str) and size not in self.sizes:
                raise ExportError(f"The policy makes {size} rows of nothing it was given.")
        parts = [self.sizes[x] if isinstance(x, str) else self.whole(x) for x in shape]
        return self.add("Concat", *parts, axis=0) if len(parts) > 1 else parts[0]

    def given(self, x: Any, dtype: torch.dtype | None = None) -> str:
        """Return the name of a tensor, a constant or a number, as `dtype` where that is told."""
        if isinstance(x, Named):
            return x.name if dtype in (None, x.dtype) else self.cast(x.name, dtype)
        if isinstance(x, Size):
            return self.cast(self.sizes[x.formula], dtype or torch.int64)
        if isinstance(x, Spread):
            return self.add("Expand", self.given(x.constant, dtype), self.shape(x.shape))
        if isinstance(x, Tensor):
            name = self.called.get(id(x), "") if dtype in (None, x.dtype) else ""
            return self.constant(x if dtype is None else x.to(dtype), name)
        number = torch.tensor(x, dtype=dtype)
        return self.constant(number, f"{number.dtype}_{x}".removeprefix("torch."))

    def cast(self, name: str, dtype: torch.dtype | None) -> str:
        """Return the name of a tensor as another dtype."""
        if dtype not in DTYPES:
            raise ExportError(f"ONNX has no counterpart of {dtype}.")
        return self.add("Cast", name, to=DTYPES[dtype])

    def reshaped(self, name: str, shape: Shape) -> str:
        """Give a tensor another shape, one of whose sizes may be left to the run."""
        unknown = [size for size in shape if isinstance(size, str)]
        if len(unknown) > 1:
            return self.add("Reshape", name, self.shape(shape))
        sizes = [-1 if isinstance(size, str) else size for size in shape]
        return self.add("Reshape", name, self.whole(*sizes))

    def needed(self, outputs: Sequence[str]) -> None:
        """Drop the nodes and constants that none of the outputs depends on."""
        wanted, kept = set(outputs), []
        for node in reversed(self.nodes):
            if node.output[0] in wanted:
                kept.append(node)
                wanted.update(node.input)
        self.nodes = kept[::-1]
        self.constants = {name: x for name, x in self.constants.items() if name in wanted}
