"""Operations on shapes, over axes, and layers."""

import math
from collections.abc import Sequence
from typing import Any

import torch

from optinfra.export.elementwise import Operator
from optinfra.export.graph import DTYPES, ExportError, Graph, Result

END = 2**63 - 1  # what torch writes for "to the end"


def axis_of(axis: int, rank: int) -> int:
    """Count an axis from the front."""
    return axis % max(rank, 1)


def _axes(axes: Any, rank: int) -> list[int]:
    """Count axes from the front; none stands for all."""
    if axes is None or axes == []:
        return list(range(rank))
    return [axis_of(axis, rank) for axis in ([axes] if isinstance(axes, int) else axes)]


def _static(size: int | str, what: str) -> int:
    if isinstance(size, str):
        raise ExportError(f"{what} along the axis of rows cannot be exported.")
    return size


# --- shapes ---------------------------------------------------------------------------------


def _view(g: Graph, out: Result, x: Any, _: Any) -> str:
    return g.given(x) if x.shape == out.shape else g.reshaped(g.given(x), out.shape)


def _expand(g: Graph, out: Result, x: Any, _: Any, **__: Any) -> str:
    """Emit a repetition; ONNX leaves an axis as it is where it is asked for 1."""
    if x.shape == out.shape:
        return g.given(x)
    new = len(out.shape) - len(x.shape)
    kept = [1 if own == wanted else wanted for own, wanted in zip(x.shape, out.shape[new:])]
    return g.add("Expand", g.given(x), g.shape((*out.shape[:new], *kept)))


def _permute(g: Graph, out: Result, x: Any, axes: Sequence[int]) -> str:
    return g.add("Transpose", g.given(x), perm=_axes(axes, len(out.shape)))


def _unsqueeze(g: Graph, out: Result, x: Any, axis: int) -> str:
    return g.add("Unsqueeze", g.given(x), axes=[axis_of(axis, len(out.shape))])


def _squeeze(g: Graph, out: Result, x: Any, axes: Any) -> str:
    gone = [axis for axis in _axes(axes, len(x.shape)) if x.shape[axis] == 1]
    return g.add("Squeeze", g.given(x), axes=gone) if gone else g.given(x)


def _select(g: Graph, out: Result, x: Any, axis: int, index: int) -> str:
    axis = axis_of(axis, len(x.shape))
    if index < 0:
        index += _static(x.shape[axis], "A choice from the end")
    at = g.constant(torch.tensor(index), f"index_{index}")
    return g.add("Gather", g.given(x), at, axis=axis)


def _slice(
    g: Graph, out: Result, x: Any, axis: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> str:
    axis = axis_of(axis, len(x.shape))
    start, end = start or 0, END if end is None else end
    if (start, end, step) == (0, END, 1):
        return g.given(x)
    size = _static(x.shape[axis], "A part")
    if step != 1:
        taken = g.whole(*range(*slice(start, end, step).indices(size)))
        return g.add("Gather", g.given(x), taken, axis=axis)
    start, end, _ = slice(start, end).indices(size)
    return g.add("Slice", g.given(x), axes=[axis], starts=[start], ends=[end])


def _split(g: Graph, out: list[Result], x: Any, sizes: Sequence[int], axis: int = 0) -> list[str]:
    axis, starts = axis_of(axis, len(x.shape)), [sum(sizes[:i]) for i in range(len(sizes))]
    return [
        g.add("Slice", g.given(x), axes=[axis], starts=[start], ends=[start + size])
        for start, size in zip(starts, sizes)
    ]


def _cat(g: Graph, out: Result, parts: Sequence[Any], axis: int = 0) -> str:
    axis = axis_of(axis, len(out.shape))
    names = [g.given(x, out.dtype) for x in parts if x.shape != (0,) and 0 not in x.shape]
    return g.add("Concat", *names, axis=axis)


def _repeat(g: Graph, out: Result, x: Any, times: Sequence[int]) -> str:
    wide = (1,) * (len(out.shape) - len(x.shape)) + tuple(x.shape)
    name = g.given(x) if wide == tuple(x.shape) else g.reshaped(g.given(x), wide)
    return g.add("Tile", name, g.whole(*times))


def _pad(g: Graph, out: Result, x: Any, pads: Sequence[int], value: float = 0.0) -> str:
    rank = len(x.shape)
    before, after = [0] * rank, [0] * rank
    for i, (low, high) in enumerate(zip(pads[::2], pads[1::2])):
        before[rank - 1 - i], after[rank - 1 - i] = low, high
    return g.add("Pad", g.given(x), pads=[*before, *after], value=float(value))


def _index(g: Graph, out: Result, x: Any, indices: Sequence[Any]) -> str:
    """Emit x[:, …, index] of one index."""
    given = [(axis, index) for axis, index in enumerate(indices) if index is not None]
    if len(given) != 1:
        raise ExportError("An index along several axes at once cannot be exported.")
    [(axis, index)] = given
    return g.add("Gather", g.given(x), g.given(index, torch.int64), axis=axis)


def _index_select(g: Graph, out: Result, x: Any, axis: int, index: Any) -> str:
    return g.add("Gather", g.given(x), g.given(index), axis=axis_of(axis, len(x.shape)))


def _embedding(g: Graph, out: Result, weight: Any, index: Any, *_: Any) -> str:
    return g.add("Gather", g.given(weight), g.given(index), axis=0)


# --- over axes ------------------------------------------------------------------------------


def _reduce(kind: str) -> Operator:
    def emit(
        g: Graph, out: Result, x: Any, axes: Any = None, keepdim: bool = False, **_: Any
    ) -> str:
        every = _axes(axes, len(x.shape))
        return g.add(kind, g.given(x, out.dtype), axes=every, keepdims=int(keepdim))

    return emit


def _norm(
    g: Graph, out: Result, x: Any, order: float = 2, axes: Any = None, keepdim: bool = False
) -> str:
    if order not in (1, 2):
        raise ExportError(f"ONNX has no norm of order {order}.")
    return _reduce(f"ReduceL{int(order)}")(g, out, x, axes, keepdim)


def _variance(
    g: Graph, out: Result, x: Any, axes: Any = None, *, correction: Any = 1, keepdim: bool = False
) -> str:
    """Emit Σ(x − μ)² / (n − correction)."""
    every = _axes(axes, len(x.shape))
    count = math.prod(_static(x.shape[axis], "A variance") for axis in every)
    centred = _centred(g, g.given(x), every)
    total = g.add("ReduceSum", g.add("Mul", centred, centred), axes=every, keepdims=int(keepdim))
    correction = 1 if correction is None else correction
    return g.add("Div", total, g.given(float(count - correction), out.dtype))


def _centred(g: Graph, x: str, axes: list[int]) -> str:
    return g.add("Sub", x, g.add("ReduceMean", x, axes=axes, keepdims=1))


def _best(kind: str) -> Operator:
    def emit(g: Graph, out: Result, x: Any, axis: int | None = None, keepdim: bool = False) -> str:
        if axis is None:
            raise ExportError(f"{kind} over all axes cannot be exported.")
        axis = axis_of(axis, len(x.shape))
        return g.add(kind, g.given(x), axis=axis, keepdims=int(keepdim))

    return emit


def _best_with_index(kind: str) -> Operator:
    def emit(g: Graph, out: list[Result], x: Any, axis: int, keepdim: bool = False) -> list[str]:
        axis, kept, name = axis_of(axis, len(x.shape)), int(keepdim), g.given(x)
        best = g.add(f"Reduce{kind}", name, axes=[axis], keepdims=kept)
        return [best, g.add(f"Arg{kind}", name, axis=axis, keepdims=kept)]

    return emit


def _any(g: Graph, out: Result, x: Any, axis: Any = None, keepdim: bool = False) -> str:
    every = _axes(axis, len(x.shape))
    number = g.given(x, torch.float32)
    largest = g.add("ReduceMax", g.add("Abs", number), axes=every, keepdims=int(keepdim))
    return g.cast(largest, torch.bool)


def _softmax(kind: str) -> Operator:
    """Make a row of a softmax, which ONNX of opset 9 has over the last axis."""

    def emit(g: Graph, out: Result, x: Any, axis: int, *_: Any) -> str:
        rank = len(x.shape)
        axis, name = axis_of(axis, rank), g.given(x, out.dtype)
        if axis == rank - 1:
            return g.add(kind, name, axis=axis)
        order = list(range(rank))
        order[axis], order[-1] = order[-1], order[axis]
        turned = g.add(kind, g.add("Transpose", name, perm=order), axis=rank - 1)
        return g.add("Transpose", turned, perm=order)

    return emit


# --- layers ---------------------------------------------------------------------------------


def _affine(
    g: Graph, out: Result, bias: Any, x: Any, weight: Any, *, beta: float = 1, alpha: float = 1
) -> str:
    names = g.given(x), g.given(weight), g.given(bias)
    return g.add("Gemm", *names, alpha=float(alpha), beta=float(beta))


def _product(g: Graph, out: Result, x: Any, y: Any) -> str:
    return g.add("MatMul", g.given(x), g.given(y))


def _layer_norm(
    g: Graph, out: list[Result], x: Any, shape: Sequence[int], weight: Any, bias: Any, eps: float
) -> list[str]:
    """Emit w·(x − μ)/√(σ² + ε) + b over the last axes."""
    rank = len(x.shape)
    return [_normed(g, out[0], g.given(x), list(range(rank - len(shape), rank)), weight, bias, eps)]


def _normed(
    g: Graph, out: Result, x: str, axes: list[int], weight: Any, bias: Any, eps: float
) -> str:
    centred = _centred(g, x, axes)
    variance = g.add("ReduceMean", g.add("Mul", centred, centred), axes=axes, keepdims=1)
    deviation = g.add("Sqrt", g.add("Add", variance, g.given(eps, out.dtype)))
    y = g.add("Div", centred, deviation)
    y = y if weight is None else g.add("Mul", y, g.given(weight))
    return y if bias is None else g.add("Add", y, g.given(bias))


def _group_norm(
    g: Graph, out: list[Result], x: Any, weight: Any, bias: Any,
    rows: Any, channels: int, pixels: Any, groups: int, eps: float,
) -> list[str]:  # fmt: skip
    shape, (first, *sides) = x.shape, x.shape[1:]
    wide = (shape[0], groups, channels // groups, *sides)
    axes = list(range(2, len(wide)))
    y = g.reshaped(_normed(g, out[0], g.reshaped(g.given(x), wide), axes, None, None, eps), shape)
    column = (first, *(1 for _ in sides))
    y = y if weight is None else g.add("Mul", y, g.reshaped(g.given(weight), column))
    return [y if bias is None else g.add("Add", y, g.reshaped(g.given(bias), column))]


def _batch_norm(
    g: Graph, out: list[Result], x: Any, weight: Any, bias: Any, mean: Any, variance: Any,
    momentum: float, eps: float,
) -> list[str]:  # fmt: skip
    weight = torch.ones_like(mean) if weight is None else weight
    bias = torch.zeros_like(mean) if bias is None else bias
    names = [g.given(part) for part in (x, weight, bias, mean, variance)]
    return [g.add("BatchNormalization", *names, epsilon=float(eps))]


def _convolution(
    g: Graph, out: Result, x: Any, weight: Any, bias: Any, stride: Sequence[int],
    padding: Sequence[int], dilation: Sequence[int], transposed: bool,
    output_padding: Sequence[int], groups: int,
) -> str:  # fmt: skip
    names = [g.given(part) for part in (x, weight, bias) if part is not None]
    options: dict[str, Any] = {
        "strides": stride, "pads": [*padding, *padding], "dilations": dilation, "group": groups,
        "kernel_shape": list(weight.shape[2:]),
    }  # fmt: skip
    if transposed:
        return g.add("ConvTranspose", *names, output_padding=output_padding, **options)
    return g.add("Conv", *names, **options)


def _max_pool(
    g: Graph, out: list[Result], x: Any, kernel: Sequence[int], stride: Any = (),
    padding: Any = (0, 0), dilation: Any = (1, 1), ceil_mode: bool = False,
) -> list[str]:  # fmt: skip
    if ceil_mode or set(_pair(dilation)) != {1}:
        raise ExportError("ONNX of opset 9 pools without dilation and rounds sizes down.")
    return [g.add("MaxPool", g.given(x), **_window(kernel, stride, padding))]


def _mean_pool(
    g: Graph, out: Result, x: Any, kernel: Sequence[int], stride: Any = (), padding: Any = (0, 0),
    ceil_mode: bool = False, count_padding: bool = True, divisor: Any = None,
) -> str:  # fmt: skip
    if ceil_mode or divisor is not None:
        raise ExportError("ONNX of opset 9 pools by its own divisor and rounds sizes down.")
    window = _window(kernel, stride, padding)
    return g.add("AveragePool", g.given(x), count_include_pad=int(count_padding), **window)


def _window(kernel: Sequence[int], stride: Any, padding: Any) -> dict[str, Any]:
    pads = _pair(padding)
    return {
        "kernel_shape": _pair(kernel), "strides": _pair(stride or kernel), "pads": [*pads, *pads],
    }  # fmt: skip


def _pair(sizes: Any) -> list[int]:
    return list(sizes) * 2 if len(sizes) == 1 else list(sizes)


def _adaptive_mean_pool(g: Graph, out: Result, x: Any, sizes: Sequence[int]) -> str:
    given = [_static(size, "Pooling") for size in x.shape[-2:]]
    if any(size % wanted for size, wanted in zip(given, sizes)):
        raise ExportError("Adaptive pooling to sizes that do not divide cannot be exported.")
    window = [size // wanted for size, wanted in zip(given, sizes)]
    return g.add("AveragePool", g.given(x), kernel_shape=window, strides=window)


# --- chance ---------------------------------------------------------------------------------


def _like(kind: str) -> Operator:
    def emit(g: Graph, out: Result, x: Any, **_: Any) -> str:
        return g.add(kind, g.given(x), dtype=DTYPES[out.dtype])

    return emit


def _multinomial(g: Graph, out: Result, probs: Any, samples: int, *_: Any, **__: Any) -> str:
    """Emit draws of log-probabilities, which ONNX asks for."""
    log = g.add("Log", g.given(probs))
    return g.add("Multinomial", log, sample_size=samples, dtype=DTYPES[torch.int64])


RANDOM: dict[str, Operator] = {
    "randn_like": _like("RandomNormalLike"), "rand_like": _like("RandomUniformLike"),
    "multinomial": _multinomial,
}  # fmt: skip
LAYERS: dict[str, Operator] = {
    "view": _view, "expand": _expand, "permute": _permute,
    "unsqueeze": _unsqueeze, "squeeze": _squeeze, "select": _select, "slice": _slice,
    "split_with_sizes": _split, "cat": _cat, "repeat": _repeat, "constant_pad_nd": _pad,
    "index": _index, "index_select": _index_select,
    "embedding": _embedding,
    "sum": _reduce("ReduceSum"), "mean": _reduce("ReduceMean"), "prod": _reduce("ReduceProd"),
    "amax": _reduce("ReduceMax"), "amin": _reduce("ReduceMin"), "var": _variance, "any": _any,
    "linalg_vector_norm": _norm,
    "argmax": _best("ArgMax"), "argmin": _best("ArgMin"),
    "max": _best_with_index("Max"), "min": _best_with_index("Min"),
    "_softmax": _softmax("Softmax"), "_log_softmax": _softmax("LogSoftmax"),
    "addmm": _affine, "mm": _product, "bmm": _product, "native_layer_norm": _layer_norm,
    "native_group_norm": _group_norm, "_native_batch_norm_legit_no_training": _batch_norm,
    "convolution": _convolution, "max_pool2d_with_indices": _max_pool,
    "avg_pool2d": _mean_pool, "_adaptive_avg_pool2d": _adaptive_mean_pool,
}  # fmt: skip
