"""Exceptions of reward signals: told once, and turned into what a signal that fails gives."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor


class SignalWarning(UserWarning):
    """A reward signal has failed and is left out."""


class Faults:
    """Watches the reward signals of one run; each that fails is named in one warning."""

    def __init__(self) -> None:
        """Begin without a fault."""
        self._told: set[str] = set()

    def guard(
        self, name: str, function: Callable[..., Any], otherwise: Callable[..., Any]
    ) -> Callable[..., Any]:
        """Call `otherwise` in the place of a signal's function that raises: a `Guard`."""

        def call(*arguments: Any) -> Any:
            try:
                return function(*arguments)
            except Exception as error:  # a signal may be anyone's code, and the run is to go on
                reason = str(error).strip().partition("\n")[0].rstrip(".")
                self._tell(name, f"{type(error).__name__}: {reason}" if reason else repr(error))
                return otherwise(*arguments)

        return call

    def notice(self, before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> None:
        """Name the signals that have failed by giving what is not finite.

        Args:
          before: `[]` failures by name, before an iteration; a run that goes on may have some.
          after: the same after it.
        """
        for name, count in after.items():
            if count > before[name]:
                self._tell(name, "it gave or learnt what is not finite, or too large")

    def _tell(self, name: str, reason: str) -> None:
        if name in self._told:
            return
        self._told.add(name)
        text = f"reward signal `{name}` is left out where it fails: {reason}."
        warnings.warn(text, SignalWarning, stacklevel=2)
