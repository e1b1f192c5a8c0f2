"""What can go wrong with a run and be said in one line."""

import importlib
from collections.abc import Callable
from typing import Any

from optinfra.demos import DemoError


class RunError(RuntimeError):
    """A run that cannot begin or go on. Its text is one line for whoever started it."""


def imported(setting: str, module: str) -> Any:
    """Import a module that a setting names.

    Raises:
      RunError: it is not there, or raises; the text begins with the setting.
    """
    try:
        return told_by(setting, importlib.import_module)(module)
    except RunError as error:
        cause = error.__cause__
        if isinstance(cause, ModuleNotFoundError) and f"{module}.".startswith(f"{cause.name}."):
            advice = f"cannot import {cause.name}. Install it, or put its folder in PYTHONPATH."
            raise RunError(f"{setting}: {advice}") from cause
        raise


def told_by(setting: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Let what a function raises, which may be anyone's, tell which setting asked for it."""

    def call(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except (RunError, DemoError):
            raise
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise RunError(f"{setting}: {reason}") from error

    return call
