"""From a pure function to ONNX: what it does, written down operation by operation.

The function is traced by `torch.export`, with any number of rows, and brought to torch's core
operations, a documented and closed set. Each of them has a row in a table here or is refused by
its name. torch.onnx.export is not used: by default it writes opsets from 18 on, while Unity reads
7 to 15, and its other exporter, which ML-Agents uses, is deprecated and runs no functional_call.
"""

import operator
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import onnx
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, export
from torch.fx import Node
from torch.fx.node import map_arg

from optinfra.export.elementwise import ELEMENTWISE
from optinfra.export.graph import (
    DTYPES,
    OPSET,
    ExportError,
    Graph,
    Named,
    Result,
    Shape,
    Size,
    Spread,
)
from optinfra.export.layers import LAYERS, RANDOM
from optinfra.version import VERSION

IR_VERSION = 4  # the first in which constants are no inputs, and what ML-Agents writes
ROWS = "batch"  # what ML-Agents calls the axis of rows
TRACED_ROWS = 2  # torch.export takes 0 and 1 for constants
OPERATORS = {**ELEMENTWISE, **LAYERS, **RANDOM}
CHECKS = {"_assert_tensor_metadata", "_assert_async", "_assert_scalar", "sym_constrain_range"}
PLACEMENT = {"layout", "device", "pin_memory", "memory_format", "dtype"}
FULL = {"full", "full_like"}
UNKNOWN = Named | Size | Spread
# Arithmetic with the number of rows.
SIZES: dict[Any, str] = {
    operator.mul: "Mul", operator.add: "Add", operator.sub: "Sub", operator.floordiv: "Div",
}  # fmt: skip


class Output(NamedTuple):
    """A result of the function, as the file declares it."""

    name: str
    dtype: torch.dtype
    shape: tuple[int | str, ...]  # `batch` for the rows


def onnx_of(
    function: Callable[..., Sequence[Tensor]],
    constants: Mapping[str, Tensor],
    inputs: Mapping[str, tuple[int, ...]],
    outputs: Sequence[Output],
) -> onnx.ModelProto:
    """Write a function down in ONNX.

    Args:
      function: `(constants, *inputs) -> outputs`, pure; each input is a float32 tensor.
      constants: tensors on the CPU by name, which become part of the file.
      inputs: shape of each by name, without the axis of rows, which comes first.
      outputs: what the results are called.

    Returns:
      A model of opset 9, which takes any number of rows.

    Raises:
      ExportError: the function decides in Python by what it is given, works for one number of
        rows only, or does something that the tables do not hold.
    """
    program = _traced(_Module(function, constants), inputs)
    graph = Graph()
    names = _written(graph, program, list(inputs), list(constants))
    for output, name in zip(outputs, names, strict=True):
        graph.add("Identity", name, output=output.name)
    graph.needed([output.name for output in outputs])
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            graph.nodes,
            "policy",
            [_declared(name, torch.float32, (ROWS, *shape)) for name, shape in inputs.items()],
            [_declared(*output) for output in outputs],
            list(graph.constants.values()),
        ),
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="optinfra",
        producer_version=VERSION,
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def _declared(name: str, dtype: torch.dtype, shape: Shape) -> onnx.ValueInfoProto:
    return onnx.helper.make_tensor_value_info(name, DTYPES[dtype], list(shape))


class _Module(nn.Module):
    """A function as torch.export takes it."""

    def __init__(self, function: Callable[..., Any], constants: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.function, self.names = function, list(constants)
        for i, x in enumerate(constants.values()):
            self.register_buffer(_buffer(i), x)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        constants = {name: getattr(self, _buffer(i)) for i, name in enumerate(self.names)}
        return tuple(self.function(constants, *inputs))


def _buffer(index: int) -> str:
    return f"constant_{index}"


def _traced(module: nn.Module, inputs: Mapping[str, tuple[int, ...]]) -> ExportedProgram:
    """Trace a module with any number of rows, down to core operations."""
    given = tuple(torch.zeros(TRACED_ROWS, *shape) for shape in inputs.values())
    rows = Dim(ROWS)
    axes = (tuple({0: rows} for _ in given),)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch 2.13 warns of what it uses itself
            program = export(module.eval(), given, dynamic_shapes=axes, strict=False)
            return program.run_decompositions()
    except (RuntimeError, ValueError, TypeError) as error:
        raise ExportError(f"The policy cannot be traced: {_reason(str(error))}") from error


def _reason(text: str) -> str:
    """Say in one line why torch.export gave up."""
    if "Constraints violated" in text:
        return "it takes a certain number of rows only (`len(x)` where `x.shape[0]` would do?)."
    if "data-dependent" in text:
        return "it decides in Python by what it is given, where torch.where would do."
    return next((line.strip() for line in text.splitlines() if line.strip()), "torch says nothing.")


# --- operation by operation -----------------------------------------------------------------


def _written(
    graph: Graph, program: ExportedProgram, inputs: list[str], constants: list[str]
) -> list[str]:
    """Write all operations, and return the names of the results."""
    values = _placeholders(graph, program, inputs, constants)
    nodes = list(program.graph.nodes)
    for node in nodes:
        if node.op == "call_function" and _name(node) not in CHECKS:
            values[node] = _value(graph, node, values)
    return [graph.given(values[each]) for each in nodes[-1].args[0]]


def _placeholders(
    graph: Graph, program: ExportedProgram, inputs: list[str], constants: list[str]
) -> dict[Node, Any]:
    """Tell what the placeholders stand for."""
    signature, waiting = program.graph_signature, iter(inputs)
    if signature.buffers_to_mutate:
        raise ExportError("The policy changes a buffer: what it remembers must be its memory.")
    owners = {**signature.inputs_to_buffers, **signature.inputs_to_parameters,
              **signature.inputs_to_lifted_tensor_constants}  # fmt: skip
    stored = {**program.constants, **program.state_dict}
    called = {_buffer(i): name for i, name in enumerate(constants)}
    values: dict[Node, Any] = {}
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in owners:
            owner = owners[node.name]
            values[node] = stored[owner].detach()
            graph.called[id(values[node])] = called.get(owner, owner)
        elif node.op == "placeholder":
            if not isinstance(node.meta["val"], Tensor):
                raise ExportError("The policy draws with a generator of its own.")
            values[node] = Named(next(waiting), *_result(node.meta["val"]))
            _count(graph, values[node], 0)
    return values


def _count(graph: Graph, tensor: Named, axis: int) -> None:
    """Write down the size of an axis, if it is not known yet."""
    if (formula := str(tensor.shape[axis])) not in graph.sizes:
        shape = graph.add("Shape", tensor.name)
        graph.sizes[formula] = graph.add("Gather", shape, graph.whole(axis), axis=0)


def _value(graph: Graph, node: Node, values: dict[Node, Any]) -> Any:
    """Make the value of an operation: at once where it is known, else by nodes of the graph."""
    arguments, options = _given((node.args, node.kwargs), values)
    if node.target is operator.getitem:
        return _part(node, *arguments)
    if isinstance(node.meta.get("val"), torch.SymInt):
        return _size(graph, node, arguments)
    unknown = [x for x in _leaves((arguments, options)) if isinstance(x, UNKNOWN)]
    if not unknown and _name(node) not in RANDOM:
        return _known(graph, node, arguments, options)
    if (spread := _spread(node, arguments, options)) is not None:
        return spread
    return _emitted(graph, node, arguments, options)


def _known(graph: Graph, node: Node, arguments: Any, options: Any) -> Any:
    """Compute what depends on constants alone."""
    result = node.target(*arguments, **options)  # type: ignore[operator]
    sources = [graph.called.get(id(x)) for x in _leaves(arguments) if isinstance(x, Tensor)]
    for i, part in enumerate(_leaves(result)):
        source = next(filter(None, sources), "")
        graph.called[id(part)] = f"{source}/{node.name}_{i}" if source else f"{node.name}_{i}"
    return result


def _spread(node: Node, arguments: Any, options: Any) -> Spread | None:
    """Keep what is the same for all rows as one row, if this operation leaves it so."""
    name, first, val = _name(node), arguments[0], node.meta["val"]
    if not isinstance(val, Tensor):
        return None
    shape = _shape(val)
    if name in FULL:
        one = [1 if isinstance(size, str) else size for size in shape]
        return Spread(torch.full(one, arguments[1], dtype=val.dtype), shape)
    if name == "expand" and isinstance(first, Tensor):
        return Spread(first.reshape((1,) * (len(shape) - first.ndim) + first.shape), shape)
    if name == "select" and isinstance(first, Spread):
        _, axis, index = arguments
        if isinstance(first.shape[axis], int):
            at = 0 if first.constant.shape[axis] == 1 else index
            return Spread(first.constant.select(axis, at), shape)
    alike = all(not isinstance(x, Named | Size) for x in _leaves((arguments, options)))
    if name in ELEMENTWISE and alike:
        arguments, options = _one_row((arguments, options))
        return Spread(node.target(*arguments, **options), shape)  # type: ignore[operator]
    return None


def _emitted(graph: Graph, node: Node, arguments: Any, options: Any) -> Any:
    """Write an operation down."""
    name, val = _name(node), node.meta["val"]
    if name not in OPERATORS:
        raise ExportError(f"The policy does `{name}`, which cannot be exported.")
    single = isinstance(val, Tensor)
    results = [_result(part) for part in ([val] if single else val)]
    if name in ELEMENTWISE:
        whole = [x for x in arguments if isinstance(x, Named) and x.shape == _shape(val)]
        arguments = _one_row(arguments) if whole else arguments
    told = {key: x for key, x in options.items() if key not in PLACEMENT}
    try:
        made = OPERATORS[name](graph, results[0] if single else results, *arguments, **told)
    except TypeError as error:
        raise ExportError(f"The policy does `{node.target}`, which cannot be exported.") from error
    named = [Named(each, *what) for each, what in zip([made] if single else made, results)]
    return named[0] if single else named


def _part(node: Node, parts: Sequence[Any], index: int) -> Any:
    if index >= len(parts):
        source = node.args[0]
        raise ExportError(f"The policy reads result {index} of `{source}`, which is not exported.")
    return parts[index]


def _size(graph: Graph, node: Node, arguments: Any) -> Size:
    """Write down a number of rows, or what is made of it."""
    formula = str(node.meta["val"])
    if formula in graph.sizes:
        return Size(formula)
    if _name(node) == "sym_size":
        _count(graph, *arguments)
    elif node.target in SIZES:
        parts = [graph.sizes[x.formula] if isinstance(x, Size) else graph.whole(x)
                 for x in arguments]  # fmt: skip
        graph.sizes[formula] = graph.add(SIZES[node.target], *parts)
    else:
        raise ExportError(f"The policy computes a size by {_name(node)}, which is not exported.")
    return Size(formula)


def _name(node: Node) -> str:
    """Name an operation: torch's own without the overload, `add`, and others in full."""
    parts = str(node.target).split(".")
    return parts[1] if parts[0] == "aten" and len(parts) > 1 else str(node.target)


def _result(example: Tensor) -> Result:
    return Result(example.dtype, _shape(example))


def _shape(example: Tensor) -> Shape:
    return tuple(size if isinstance(size, int) else str(size) for size in example.shape)


def _given(arguments: Any, values: Mapping[Node, Any]) -> Any:
    """Put values into the places of the nodes that yield them."""
    return map_arg(arguments, lambda node: values[node])


def _one_row(arguments: Any) -> Any:
    """Replace what is repeated by one row of it."""
    if isinstance(arguments, Spread):
        return arguments.constant
    if isinstance(arguments, dict):
        return {key: _one_row(x) for key, x in arguments.items()}
    if isinstance(arguments, tuple | list) and not isinstance(arguments, UNKNOWN):
        return type(arguments)(_one_row(x) for x in arguments)
    return arguments


def _leaves(arguments: Any) -> list[Any]:
    """List values, however they are nested."""
    if isinstance(arguments, dict):
        return _leaves(list(arguments.values()))
    if isinstance(arguments, tuple | list) and not isinstance(arguments, UNKNOWN):
        return [leaf for x in arguments for leaf in _leaves(x)]
    return [arguments]
