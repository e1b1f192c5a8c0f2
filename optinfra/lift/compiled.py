"""Compile pure functions, and go on without a compiler where there is none."""

import re
import warnings
from collections.abc import Callable, Sequence
from functools import wraps
from inspect import signature
from typing import Any

import torch

from optinfra.lift import products
from optinfra.lift.ensemble import Functions, over_functions


def _may_change(guards: Sequence[Any]) -> list[bool]:
    """Tell which of torch's checks before a call are needed: not those of what is static.

    The functions are pure: what they close over and what is global stays as it was traced.
    """
    return [not guard.is_global and bool(GIVEN.match(guard.name)) for guard in guards]


# How torch names what is reached from the arguments; modes such as whether gradients are
# recorded have no name. All else is of the function, of classes, or of torch itself.
GIVEN = re.compile(r"$|(L\[')?arguments\b")


# Learners made by one factory share their code object, and torch counts recompilations per
# code object unless told otherwise, which older versions cannot be.
ISOLATION = "isolate_recompiles"
ISOLATED = ISOLATION in signature(torch.compile).parameters


def options() -> dict[str, Any]:
    """Make the keyword arguments of one `torch.compile`, which takes entries out of them."""
    # Inductor copies an expression into each of its uses up to so many operations. The 20 rounds
    # of a random draw, where every word is used twice, then take 14 s to compile; so 1 s, and
    # the kernels are as fast (torch 2.13, `uniform` of 64×4: 18 µs either way).
    # What a kernel returns has the shape it was compiled for: to assert it costs 2 % of a SAC step.
    inductor: dict[str, Any] = {"realize_opcount_threshold": 8, "size_asserts": False}
    if products.available():
        inductor["post_grad_custom_post_pass"] = products.faster_products()
    keywords: dict[str, Any] = {"fullgraph": True, "dynamic": False, "options": inductor}
    if ISOLATED:
        keywords[ISOLATION] = True
        # Only where nothing is shared: else a check is what keeps two functions apart.
        inductor["guard_filter_fn"] = _may_change
    return keywords


class TooManyShapesError(RuntimeError):
    """A function would have to be compiled for more shapes than torch is ready for."""


def compiled(functions: Functions) -> Functions:
    """Compile a pure function, or each function of a NamedTuple such as a Learner.

    Every function becomes one graph without breaks, made at the first call for the shapes
    of that call. Compilation is the outermost lift: compile an ensemble, never the other
    way round. Results agree with the eager ones to rounding.

    Without a working C++ compiler (for CUDA: without Triton) the functions run eagerly,
    and one warning says so.

    Raises:
      TooManyShapesError: from a function, its arguments came in more shapes or strides than torch
        is ready to compile for (8 unless told otherwise).

    Args:
      functions: a pure function of pytrees of tensors, or a NamedTuple of such functions.

    Returns:
      The same, compiled on first use.
    """
    return over_functions(_compiled, functions)


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    from torch._dynamo.exc import FailOnRecompileLimitHit  # `torch.compile` loads it anyway

    def traced(*arguments: Any) -> Any:
        return function(*arguments)

    fast = torch.compile(traced, **options())
    runs_eagerly = False

    @wraps(function)
    def call(*arguments: Any) -> Any:
        nonlocal runs_eagerly
        if runs_eagerly:
            return function(*arguments)
        try:
            return fast(*arguments)
        except FailOnRecompileLimitHit as error:
            raise TooManyShapesError(TOO_MANY_SHAPES) from error
        except RuntimeError as error:
            if not _is_missing_compiler(error):
                raise
        runs_eagerly = True
        warnings.warn(NO_COMPILER, RuntimeWarning, stacklevel=2)
        return function(*arguments)

    return call


NO_COMPILER = (
    "No working C++ compiler was found (on CUDA: no Triton), so compiled functions run eagerly, "
    "several times slower. Install g++ or clang++, or set CXX."
)


TOO_MANY_SHAPES = (
    "A compiled function was given arguments of too many shapes or strides: it is compiled for "
    "each of them. Pad them to few shapes, lay out views with `tree.row_major`, or raise "
    "`torch._dynamo.config.recompile_limit`."
)


def _is_missing_compiler(error: BaseException | None) -> bool:
    """Whether inductor failed for want of a compiler, directly or as a cause."""
    names = ("InvalidCxxCompiler", "TritonMissing", "CppCompileError")
    while error is not None:
        inner = getattr(error, "inner_exception", None)
        if type(error).__name__ in names or type(inner).__name__ in names:
            return True
        error = error.__cause__
    return False
