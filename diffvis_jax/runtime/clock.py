"""Clocks: the machine's, and one that tests and simulations move by hand."""

import heapq
import itertools
import math
import time
from collections.abc import Callable
from typing import Protocol


class Clock(Protocol):
    """Time in seconds that never goes back; where zero lies means nothing."""

    def now(self) -> float: ...

    def sleep_until(self, moment: float) -> None:
        """Returns at once if that has passed."""
        ...


class SystemClock:
    """The machine's monotonic clock. (Wall clocks jump, when they are set.)"""

    def now(self) -> float:
        return time.monotonic()

    def sleep_until(self, moment: float) -> None:
        time.sleep(max(0.0, moment - time.monotonic()))


class FakeClock:
    """Time that passes only when somebody sleeps; what was to happen meanwhile happens then.

    Of one thread, in whole nanoseconds: moments that are the same by arithmetic are equal. Events
    of one moment happen in the order in which they were asked for, and before whoever sleeps until
    that moment goes on.
    """

    def __init__(self, start: float = 0.0):
        self._now = start
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def now(self) -> float:
        return self._now

    def call_at(self, moment: float, event: Callable[[], None]) -> None:
        """Calls `event` when the time has come, not before now."""
        moment = max(round(moment, 9), self._now)
        heapq.heappush(self._events, (moment, next(self._numbers), event))

    def sleep_until(self, moment: float) -> None:
        self.run_until(lambda: False, moment)

    def run_until(self, happened: Callable[[], bool], moment: float = math.inf) -> bool:
        """Lets time pass until `happened()`, or to that moment; returns `happened()`.

        Raises:
          RuntimeError: it never would: no moment is given, and nothing is to come any more.
        """
        moment = round(moment, 9) if math.isfinite(moment) else moment
        while not happened():
            if not self._events or self._events[0][0] > moment:
                if math.isinf(moment):
                    raise RuntimeError("waiting for ever: nothing is to come on this clock")
                self._now = max(self._now, moment)
                return False
            self._now, _, event = heapq.heappop(self._events)
            event()
        return True
