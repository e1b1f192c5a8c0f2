"""What a pure function promises: it is pure, it lifts, it compiles once."""

import itertools
import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.func import vmap

from optinfra import tree
from optinfra.testing.comparison import assert_trees_close, difference

Advance = Callable[[Any, tuple], Sequence[Any]]  # (result, arguments) -> arguments of the next call

_numbers = itertools.count()


def assert_pure(function: Callable[..., Any], *arguments: Any) -> None:
    """Require that two calls give the same result and leave no other trace.

    No argument may be written to, not even with what it held before; nothing may be drawn from
    the global generators of torch and numpy. Returning an argument, or a view of it, is fine.

    Args:
      function: what is tested.
      *arguments: of `function`, pytrees mostly of tensors.

    Raises:
      AssertionError: the message names the argument, or the generator, or the first number of
        the two results that differs.
    """
    before = {name: _trace(x) for name, x in tree.named_leaves(arguments).items()}
    generators = _generators(arguments)
    first = tree.map(_copied, function(*arguments))  # a result may lie where the next one will
    second = function(*arguments)

    after = tree.named_leaves(arguments)
    if after.keys() != before.keys():
        changed = ", ".join(sorted(after.keys() ^ before.keys()))
        raise AssertionError(f"`function` must not add or remove leaves of arguments: {changed}.")
    for name, x in after.items():
        position, _, leaf = name.partition("/")
        where = f"argument {position}" + (f", leaf `{leaf}`" if leaf else "")
        _require_untouched(x, before[name], where)
    for name, state in _generators(arguments).items():
        if difference(state, generators[name]):
            raise AssertionError(f"`function` must not draw from {name}'s global generator.")
    if found := difference(second, first):
        raise AssertionError(f"The same call must give the same result. In the second one {found}")


def assert_lifts(
    function: Callable[..., Any], *members: tuple, rtol: float = 1e-5, atol: float = 1e-6
) -> None:
    """Require that `vmap` over members equals a loop over them.

    Args:
      function: what is tested.
      *members: the arguments of each member, pytrees of tensors; of one structure and one set
        of shapes. Members that are all alike would hide that they mix.
      rtol: relative tolerance ≥ 0. vmap and a loop agree to rounding only.
      atol: absolute tolerance ≥ 0.

    Raises:
      ValueError: there are fewer than two members.
      AssertionError: `function` does not run under vmap, or only in a loop that torch warns of;
        or a number differs, and the message names leaf, index (member first) and both numbers.
    """
    if len(members) < 2:
        raise ValueError(f"`members` must be at least 2, got {len(members)}.")
    looped = tree.stack([function(*arguments) for arguments in members])
    stacked = [tree.stack(parts) for parts in zip(*members)]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=NO_BATCHING_RULE)
            lifted = vmap(function)(*stacked)
    except Exception as error:  # whatever it is: alone, each member went through
        raise AssertionError(f"`function` must run under vmap. {_first_line(error)}") from error
    assert_trees_close(lifted, looped, rtol=rtol, atol=atol)


# The first check that failed, as in `- 3/0: arguments[1] == 0.5  # the line it comes from`.
GUARD = re.compile(r"^ *- \d+/\d+: ([^#\n]*)", re.MULTILINE)
NO_BATCHING_RULE = "There is a performance drop because we have not yet implemented"


def assert_compiles_once(
    function: Callable[..., Any],
    *arguments: Any,
    advance: Advance | None = None,
    calls: int = 3,
    graphs: int = 1,
) -> None:
    """Require that one graph without breaks serves call after call.

    Nothing is generated: tracing is what is tested.

    Args:
      function: what is tested.
      *arguments: of its first call.
      advance: `(result, arguments)` of a call to the arguments of the next one, `advance_state`
        for a step; the same again unless given.
      calls: at least 2.
      graphs: 0 for a function that computes nothing.

    Raises:
      ValueError: `calls` is less than 2.
      AssertionError: tracing breaks, or a call compiles again; the message says why.
    """
    if calls < 2:
        raise ValueError(f"`calls` must be at least 2, got {calls}.")
    made: list[Any] = []

    def backend(graph: Any, _: Any) -> Any:
        made.append(graph)
        return graph.forward

    compiled = _compiled(function, backend)
    result = compiled(*arguments)
    for _ in range(calls - 1):
        arguments = tuple(advance(result, arguments)) if advance else arguments
        result = compiled(*arguments)
    if len(made) != graphs:
        raise AssertionError(f"The number of graphs must be {graphs}, got {len(made)}.")


def advance_state(result: Any, arguments: tuple) -> tuple:
    """Go on with the state that a step `(state, *inputs) -> (state, out)` returned."""
    return result[0], *arguments[1:]


class _Trace(NamedTuple):
    """What a write into an argument would change."""

    leaf: Any  # itself
    content: Any  # a copy
    version: int
    requires_grad: bool
    grad: Any


def _trace(x: Any) -> _Trace:
    if not isinstance(x, Tensor):
        return _Trace(x, x, 0, False, None)
    version = 0 if x.is_inference() else x._version
    grad = x.grad if x.is_leaf else None
    return _Trace(x, _copied(x), version, x.requires_grad, grad)


def _require_untouched(x: Any, was: _Trace, name: str) -> None:
    now = _trace(x)
    if found := difference(now.content, was.content):
        raise AssertionError(f"`function` must not write into {name}. Afterwards {found}")
    if now.leaf is not was.leaf or now.version != was.version:
        raise AssertionError(f"`function` must not write into {name}, not even what it held.")
    if now.requires_grad != was.requires_grad or now.grad is not was.grad:
        raise AssertionError(f"`function` must not change `requires_grad` or `grad` of {name}.")


def _copied(x: Any) -> Any:
    return x.detach().clone() if isinstance(x, Tensor) else x


def _generators(arguments: Any) -> dict[str, Any]:
    """State of the global generators, by name; of CUDA's where the arguments lie."""
    _, words, *position = np.random.get_state()
    states = {"torch": torch.get_rng_state(), "numpy": (torch.tensor(words), *position)}
    devices = {x.device for x in tree.leaves(arguments) if isinstance(x, Tensor) and x.is_cuda}
    return states | {str(device): torch.cuda.get_rng_state(device) for device in devices}


def _compiled(function: Callable[..., Any], backend: Callable[..., Any]) -> Callable[..., Any]:
    """Compile apart from all that was compiled before, and raise AssertionError with the reason."""
    from torch._dynamo import config, exc  # slow to import

    def traced(*arguments: Any) -> Any:
        return function(*arguments)

    # torch keeps what it compiled by code object and name: this one has seen nothing yet, and
    # nothing of the process has to be reset.
    traced.__code__ = traced.__code__.replace(co_name=f"traced_{next(_numbers)}")
    compiled = torch.compile(traced, backend=backend, fullgraph=True, dynamic=False)

    def call(*arguments: Any) -> Any:
        try:
            with config.patch(error_on_recompile=True):
                return compiled(*arguments)
        except exc.RecompileError as error:
            reason = GUARD.search(str(error))
            because = reason[1].strip() if reason else _first_line(error)
            message = f"`function` must compile once, got another call to compile: {because}"
            raise AssertionError(message) from error
        except exc.TorchDynamoException as error:
            message = f"`function` must compile to one graph. {_first_line(error)}"
            raise AssertionError(message) from error

    return call


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
