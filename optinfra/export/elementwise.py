"""Operations number by number, of one shape or of shapes that are broadcast."""

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from optinfra.export.graph import ExportError, Graph, Named, Result, Spread

# (graph, what it yields, *arguments, **options) -> the name of the result, or one for each
Operator: TypeAlias = Callable[..., Any]

# What ONNX calls alike.
SAME = {
    "abs": "Abs", "acos": "Acos", "acosh": "Acosh", "asin": "Asin", "asinh": "Asinh",
    "atan": "Atan", "atanh": "Atanh", "ceil": "Ceil", "cos": "Cos", "cosh": "Cosh", "erf": "Erf",
    "exp": "Exp", "floor": "Floor", "log": "Log", "neg": "Neg", "reciprocal": "Reciprocal",
    "relu": "Relu", "sigmoid": "Sigmoid", "sign": "Sign", "sin": "Sin", "sinh": "Sinh",
    "sqrt": "Sqrt", "tan": "Tan", "tanh": "Tanh",
}  # fmt: skip
LOGARITHMS = {"log2": 2.0, "log10": 10.0}


def common(*values: Any) -> torch.dtype:
    """Tell the dtype in which values are compared, as torch promotes them."""
    x, y = (_example(value) for value in values)
    return torch.result_type(x, y)


def _example(value: Any) -> Any:
    if isinstance(value, Named):
        return torch.empty((1,) * len(value.shape), dtype=value.dtype)
    return value.constant if isinstance(value, Spread) else value


def same(kind: str) -> Operator:
    """Make a row of an operation that ONNX has."""
    return lambda g, out, x: g.add(kind, g.given(x, out.dtype))


def _arithmetic(kind: str) -> Operator:
    def emit(g: Graph, out: Result, x: Any, y: Any, alpha: float = 1) -> str:
        y = g.given(y, out.dtype)
        if alpha != 1:
            y = g.add("Mul", y, g.given(alpha, out.dtype))
        return g.add(kind, g.given(x, out.dtype), y)

    return emit


def _multiply(g: Graph, out: Result, x: Any, y: Any) -> str:
    kind = "And" if out.dtype == torch.bool else "Mul"  # torch.isfinite multiplies truths
    return g.add(kind, g.given(x, out.dtype), g.given(y, out.dtype))


def _divide(g: Graph, out: Result, x: Any, y: Any, rounding_mode: str | None = None) -> str:
    ratio = g.add("Div", g.given(x, out.dtype), g.given(y, out.dtype))
    if rounding_mode is None:
        return ratio
    _require_floats(out, "rounded division")
    if rounding_mode == "trunc":
        return _trunc(g, out, Named(ratio, out.dtype, out.shape))
    return g.add("Floor", ratio)


def _remainder(g: Graph, out: Result, x: Any, y: Any) -> str:
    """Emit x − ⌊x / y⌋·y."""
    _require_floats(out, "remainder")
    x, y = g.given(x, out.dtype), g.given(y, out.dtype)
    return g.add("Sub", x, g.add("Mul", g.add("Floor", g.add("Div", x, y)), y))


def _trunc(g: Graph, out: Result, x: Any) -> str:
    x = g.given(x, out.dtype)
    return g.add("Mul", g.add("Sign", x), g.add("Floor", g.add("Abs", x)))


def _require_floats(out: Result, what: str) -> None:
    if not out.dtype.is_floating_point:
        raise ExportError(f"ONNX of opset 9 has no {what} of whole numbers.")


def _power(g: Graph, out: Result, x: Any, y: Any) -> str:
    if y == 2 and not isinstance(y, Tensor):
        x = g.given(x, out.dtype)
        return g.add("Mul", x, x)
    return g.add("Pow", g.given(x, out.dtype), g.given(y, out.dtype))


def _extreme(kind: str) -> Operator:
    def emit(g: Graph, out: Result, x: Any, y: Any) -> str:
        _require_floats(out, kind.lower())
        return g.add(kind, g.given(x, out.dtype), g.given(y, out.dtype))

    return emit


def _clamp(g: Graph, out: Result, x: Any, low: Any = None, high: Any = None) -> str:
    _require_floats(out, "clamp")
    limits = {"min": low, "max": high}
    if all(limit is None or isinstance(limit, int | float) for limit in limits.values()):
        told: dict[str, Any] = {k: float(x) for k, x in limits.items() if x is not None}
        return g.add("Clip", g.given(x, out.dtype), **told)
    y = g.given(x, out.dtype)
    for kind, limit in (("Max", low), ("Min", high)):
        y = y if limit is None else g.add(kind, y, g.given(limit, out.dtype))
    return y


def _hardtanh(g: Graph, out: Result, x: Any, low: float = -1.0, high: float = 1.0) -> str:
    return _clamp(g, out, x, low, high)


# --- truth ----------------------------------------------------------------------------------


def _compare(kind: str, *, equal: bool = False) -> Operator:
    """Make a row of x < y or x > y, or with `equal` of its negation's mirror: x ≥ y, x ≤ y."""

    def emit(g: Graph, out: Result, x: Any, y: Any) -> str:
        dtype = common(x, y)
        names = g.given(x, dtype), g.given(y, dtype)
        if not equal:
            return g.add(kind, *names)
        return _unless_nan(g, dtype, names, g.add("Not", g.add(kind, *names)))

    return emit


def _equal(g: Graph, out: Result, x: Any, y: Any) -> str:
    dtype = common(x, y)
    names = g.given(x, dtype), g.given(y, dtype)
    if not dtype.is_floating_point:
        return g.add("Equal", *names)
    either = g.add("Or", g.add("Less", *names), g.add("Greater", *names))
    return _unless_nan(g, dtype, names, g.add("Not", either))


def _unless_nan(g: Graph, dtype: torch.dtype, names: tuple[str, ...], truth: str) -> str:
    """Let a comparison with NaN be false."""
    if dtype.is_floating_point:
        for name in names:
            if name not in g.constants:
                truth = g.add("And", truth, g.add("Not", g.add("IsNaN", name)))
    return truth


def _differ(g: Graph, out: Result, x: Any, y: Any) -> str:
    return g.add("Not", _equal(g, out, x, y))


def _logical(kind: str) -> Operator:
    return lambda g, out, x, y: g.add(kind, g.given(x, torch.bool), g.given(y, torch.bool))


def _bitwise(kind: str) -> Operator:
    def emit(g: Graph, out: Result, x: Any, y: Any) -> str:
        if out.dtype != torch.bool:
            raise ExportError("ONNX of opset 9 has no operations on bits.")
        return g.add(kind, g.given(x), g.given(y))

    return emit


def _not(g: Graph, out: Result, x: Any) -> str:
    return g.add("Not", g.given(x, torch.bool))


def _is_nan(g: Graph, out: Result, x: Any) -> str:
    return g.add("IsNaN", g.given(x))


def _is_infinite(g: Graph, out: Result, x: Any) -> str:
    name = g.given(x)
    finite = g.add("Less", g.add("Abs", name), g.given(math.inf, x.dtype))
    return g.add("Not", g.add("Or", finite, g.add("IsNaN", name)))


def _where(g: Graph, out: Result, condition: Any, x: Any, y: Any) -> str:
    return g.add("Where", g.given(condition), g.given(x, out.dtype), g.given(y, out.dtype))


# --- activations ----------------------------------------------------------------------------


def _gelu(g: Graph, out: Result, x: Any, approximate: str = "none") -> str:
    """Emit ½x·(1 + erf(x/√2)), or ½x·(1 + tanh √(2/π)·(x + 0.044715x³))."""
    name = g.given(x)

    def times(y: str, factor: float) -> str:
        return g.add("Mul", y, g.given(factor, out.dtype))

    if approximate == "tanh":
        cube = g.add("Mul", g.add("Mul", name, name), name)
        inner = g.add("Add", name, times(cube, 0.044715))
        part = g.add("Tanh", times(inner, math.sqrt(2 / math.pi)))
    else:
        part = g.add("Erf", times(name, 1 / math.sqrt(2)))
    return times(g.add("Mul", name, g.add("Add", part, g.given(1.0, out.dtype))), 0.5)


def _leaky_relu(g: Graph, out: Result, x: Any, slope: float = 0.01) -> str:
    return g.add("LeakyRelu", g.given(x), alpha=float(slope))


def _elu(
    g: Graph, out: Result, x: Any, alpha: float = 1.0, scale: float = 1.0, inner: float = 1.0
) -> str:
    if inner != 1.0:
        raise ExportError("ONNX has no elu with a scale of its input.")
    y = g.add("Elu", g.given(x), alpha=float(alpha))
    return y if scale == 1 else g.add("Mul", y, g.given(float(scale), out.dtype))


def _logarithm(base: float) -> Operator:
    def emit(g: Graph, out: Result, x: Any) -> str:
        log = g.add("Log", g.given(x, out.dtype))
        return g.add("Div", log, g.given(math.log(base), out.dtype))

    return emit


def _one_more(g: Graph, out: Result, x: Any) -> str:
    return g.add("Log", g.add("Add", g.given(x, out.dtype), g.given(1.0, out.dtype)))


def _one_less(g: Graph, out: Result, x: Any) -> str:
    return g.add("Sub", g.add("Exp", g.given(x, out.dtype)), g.given(1.0, out.dtype))


def _reciprocal_root(g: Graph, out: Result, x: Any) -> str:
    return g.add("Reciprocal", g.add("Sqrt", g.given(x, out.dtype)))


def _as_it_is(g: Graph, out: Result, x: Any, **_: Any) -> str:
    """Emit nothing, or a change of dtype."""
    return g.given(x, out.dtype)


ELEMENTWISE: dict[str, Operator] = {
    **{name: same(kind) for name, kind in SAME.items()},
    **{name: _logarithm(base) for name, base in LOGARITHMS.items()},
    "log1p": _one_more, "expm1": _one_less, "rsqrt": _reciprocal_root, "trunc": _trunc,
    "add": _arithmetic("Add"), "sub": _arithmetic("Sub"), "mul": _multiply,
    "div": _divide, "remainder": _remainder, "pow": _power,
    "maximum": _extreme("Max"), "minimum": _extreme("Min"), "clamp": _clamp, "hardtanh": _hardtanh,
    "lt": _compare("Less"), "gt": _compare("Greater"), "eq": _equal, "ne": _differ,
    "ge": _compare("Less", equal=True), "le": _compare("Greater", equal=True),
    "logical_and": _logical("And"), "logical_or": _logical("Or"), "logical_xor": _logical("Xor"),
    "bitwise_and": _bitwise("And"), "bitwise_or": _bitwise("Or"), "bitwise_xor": _bitwise("Xor"),
    "logical_not": _not, "bitwise_not": _not, "isnan": _is_nan, "isinf": _is_infinite,
    "where": _where, "gelu": _gelu, "leaky_relu": _leaky_relu, "elu": _elu,
    "clone": _as_it_is, "alias": _as_it_is, "_to_copy": _as_it_is,
}  # fmt: skip
