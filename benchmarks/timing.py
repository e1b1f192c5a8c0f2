"""The clock that both sides carry. Standard library only: peers' interpreters run it too."""

from collections.abc import Callable
from time import perf_counter

Call = Callable[[], object]  # does the work once and waits until it is done


class Timer:
    """Time one call, again and again."""

    def __init__(self, call: Call) -> None:
        """Make the first call, which compiles where something compiles."""
        self._call = call
        began = perf_counter()
        call()
        self.first_seconds = perf_counter() - began

    def seconds_per_call(self, calls: int) -> float:
        """Time so many calls in a row; the mean of them.

        A call that is not timed goes before short ones: it wakes the threads and fills the
        caches that slept while another side was at work.
        """
        if calls > 1:
            self._call()
        began = perf_counter()
        for _ in range(calls):
            self._call()
        return (perf_counter() - began) / calls
