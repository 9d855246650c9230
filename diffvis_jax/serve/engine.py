"""One thread owns the device: it takes one step of every running job in turn.

A job is a generator of events. Steps of several jobs interleave, none waits for a client, and a job
ends early when its ticket is cancelled: between two of its steps.
"""

import collections
import concurrent.futures
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from diffvis_jax.errors import DiffvisError
from diffvis_jax.utils.compile_time import watch_compilation

log = logging.getLogger(__name__)

Start = Callable[[], Iterator[Any] | None]
Emit = Callable[[Any], None]


class EngineDown(DiffvisError):
    """The engine's thread failed, was stopped, or is gone: what ran in it is lost."""


class Ticket:
    """A job that was handed in.

    Attributes:
      cancelled: whether nobody wants it any more.
      compiled: programs that were compiled for it.
    """

    def __init__(self, start: Start, emit: Emit, wake: Callable[[], None]):
        self._start, self._wake, self.emit = start, wake, emit
        self._steps: Iterator[Any] | None = None
        self.cancelled = False
        self.compiled = 0

    def cancel(self) -> None:
        """From any thread; the step that runs is the last."""
        self.cancelled = True
        self._wake()

    def begin(self) -> bool:
        """Whether the job could begin."""
        self._steps = self._start()
        return self._steps is not None

    def step(self) -> bool:
        """One step; whether there may be another."""
        assert self._steps is not None
        with watch_compilation(own_thread=True) as compiled:
            event = next(self._steps, _END)
        self.compiled += compiled.programs
        if event is _END:
            return False
        if event is not None:
            self.emit(event)
        return True

    def close(self) -> None:
        """Ends the generator."""
        if self._steps is not None:
            self._steps.close()  # type: ignore[attr-defined]


_END = object()


class Engine:
    """The thread, and what waits for it.

    Attributes:
      beat: of `time.monotonic`, when it last went round.
      restarts: how often its thread failed.
      dead: whether it failed too often to be started again.
    """

    MOST_RESTARTS, WITHIN_S = 3, 600.0

    def __init__(
        self,
        *,
        max_running: int = 4,
        idle: Callable[[], bool] = lambda: False,
        on_restart: Callable[[], None] = lambda: None,
        on_death: Callable[[], None] = lambda: None,
    ):
        """Args:
        max_running: jobs that take turns.
        idle: called in the thread while nothing runs; whether there is more to do.
        on_restart: called in the thread after it failed, before it goes on.
        on_death: called when it does not go on.
        """
        self._max_running, self._idle = max_running, idle
        self._on_restart, self._on_death = on_restart, on_death
        self._condition = threading.Condition()
        self._waiting: list[Ticket] = []
        self._running: list[Ticket] = []
        self._calls: collections.deque[tuple[Callable[[], Any], concurrent.futures.Future]] = (
            collections.deque()
        )
        self._stopping = self.dead = False
        self._failures: collections.deque[float] = collections.deque()
        self.restarts, self.beat = 0, 0.0
        self._thread = threading.Thread(target=self._live, name="serve-engine", daemon=True)

    def start(self) -> None:
        """Begins."""
        self.beat = time.monotonic()
        self._thread.start()

    def submit(self, start: Start, emit: Emit) -> Ticket:
        """Hands a job in.

        Args:
          start: begins it, in the engine's thread: its events; None = not now, it is asked again.
          emit: is given every event that is not None, and if the job fails, the exception.

        Raises:
          EngineDown: it takes no more.
        """
        ticket = Ticket(start, emit, self._wake)
        with self._condition:
            self._check()
            self._waiting.append(ticket)
            self._condition.notify()
        return ticket

    def call(self, function: Callable[[], Any]) -> concurrent.futures.Future:
        """Runs something in the thread, between two steps."""
        future: concurrent.futures.Future = concurrent.futures.Future()
        with self._condition:
            self._check()
            self._calls.append((function, future))
            self._condition.notify()
        return future

    def stop(self, drain_s: float = 0.0) -> None:
        """Waits until the jobs have ended, at most so long; then ends the thread."""
        ends = time.monotonic() + drain_s
        while self.load and self._thread.is_alive() and time.monotonic() < ends:
            time.sleep(0.01)
        with self._condition:
            self._stopping = True
            self._condition.notify()
        self._thread.join(timeout=60)

    @property
    def load(self) -> int:
        """Jobs that run or wait."""
        return len(self._waiting) + len(self._running)

    @property
    def waiting(self) -> int:
        """Jobs that have not begun."""
        return len(self._waiting)

    def _check(self) -> None:
        if self._stopping or self.dead:
            raise EngineDown("the engine has stopped")

    def _wake(self) -> None:
        with self._condition:
            self._condition.notify()

    # ---- in the thread --------------------------------------------------------------------------

    def _live(self) -> None:
        while True:
            try:
                self._go_round()
            except BaseException as error:  # whatever it was: the thread is needed
                log.error("the engine's thread failed: %s", type(error).__name__, exc_info=error)
            else:
                self._lose_all()
                return
            now = time.monotonic()
            self._failures.append(now)
            while self._failures[0] < now - self.WITHIN_S:
                self._failures.popleft()
            self.dead = len(self._failures) > self.MOST_RESTARTS
            self._lose_all()
            if self.dead:
                self._on_death()
                return
            self.restarts += 1
            self._on_restart()

    def _go_round(self) -> None:
        more_to_do = True
        while not self._stopping:
            self.beat = time.monotonic()
            with self._condition:
                if not (self.load or self._calls or more_to_do or self._stopping):
                    self._condition.wait(1.0)
                calls, self._calls = self._calls, collections.deque()
            for function, future in calls:
                _run(function, future)
            self._admit()
            for ticket in list(self._running):
                self._step(ticket)
            more_to_do = not self.load and self._idle()

    def _admit(self) -> None:
        for ticket in list(self._waiting):
            begun = ended = ticket.cancelled
            if not ended and len(self._running) < self._max_running:
                try:
                    begun = ticket.begin()
                except Exception as error:
                    begun = ended = True
                    ticket.emit(error)
            if begun:
                with self._condition:
                    self._waiting.remove(ticket)
                if not ended:
                    self._running.append(ticket)

    def _step(self, ticket: Ticket) -> None:
        self.beat = time.monotonic()
        try:
            more = not ticket.cancelled and ticket.step()
        except Exception as error:
            more = False
            ticket.emit(error)
        if not more:
            self._running.remove(ticket)
            ticket.close()

    def _lose_all(self) -> None:
        """Tells everybody that what they wait for does not come."""
        lost = EngineDown("the engine's thread has ended")
        with self._condition:
            tickets = [*self._running, *self._waiting]
            calls, self._calls = self._calls, collections.deque()
            self._running, self._waiting = [], []
        for _, future in calls:
            future.set_exception(lost)
        for ticket in tickets:
            with contextlib.suppress(Exception):  # it may be what failed
                ticket.close()
            with contextlib.suppress(Exception):
                ticket.emit(lost)


def _run(function: Callable[[], Any], future: concurrent.futures.Future) -> None:
    try:
        future.set_result(function())
    except Exception as error:
        future.set_exception(error)
