"""How a run ends before its time."""

import signal
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

STOPPING = (signal.SIGINT, signal.SIGTERM)
Result = TypeVar("Result")


class Stop:
    """What Ctrl-C does: it ends an iteration at once, and lets what is written be written.

    A second one must not end the saving that the first began.
    """

    def __init__(self) -> None:
        """Prepare; entering the context takes the signals."""
        self.asked = False
        self._at_once = False
        self._handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Stop":
        """Take the signals, where that is possible."""
        with suppress(ValueError):  # not the main thread: signals go elsewhere
            for number in STOPPING:
                if callable(signal.getsignal(number)):  # neither ignored nor the system's
                    self._handlers[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *error: object) -> None:
        """Give them back."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def within(self, function: Callable[[], Result]) -> Result | None:
        """Call a function that may be ended anywhere; None if it was."""
        try:
            self._at_once = True
            result = function()
            self._at_once = False
        except KeyboardInterrupt:
            self.asked, self._at_once = True, False
            return None
        return result

    def _handle(self, *_: object) -> None:
        self.asked = True
        if self._at_once:
            self._at_once = False
            raise KeyboardInterrupt
