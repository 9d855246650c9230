"""Who runs the encoder's steps: a thread, the caller, or a test by hand.

An executor runs one job at a time, in order. Those of `concurrent.futures` with one worker are
executors, too.
"""

import collections
import math
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

from diffvis_jax.runtime.clock import FakeClock

Job = Callable[[], None]


class Handle(Protocol):
    """A job that was given to an executor."""

    def done(self) -> bool: ...

    def result(self, timeout: float | None = None) -> Any:
        """Waits for its end, at most `timeout` seconds; raises TimeoutError after them."""
        ...


class Executor(Protocol):
    """Runs jobs one after the other."""

    def submit(self, job: Job, /) -> Handle: ...

    def shutdown(self, wait: bool = True) -> None: ...


class ThreadExecutor(ThreadPoolExecutor):
    """One thread. It is no daemon: the interpreter waits for it at its end, since XLA must not lose
    a thread in the middle of a step. Start no process by `fork` beside it."""

    def __init__(self, name: str = "diffvis-encoder"):
        super().__init__(max_workers=1, thread_name_prefix=name)


class InlineExecutor:
    """Runs a job when it comes, in the thread that brings it: the synchronous encoder."""

    def __init__(self):
        self._jobs: collections.deque[tuple[Job, Future[None]]] = collections.deque()
        self._busy = False

    def submit(self, job: Job, /) -> Handle:
        future: Future[None] = Future()
        self._jobs.append((job, future))
        if not self._busy:  # a job that brings the next one does not run it inside itself
            self._busy = True
            try:
                while self._jobs:
                    _run(*self._jobs.popleft())
            finally:
                self._busy = False
        return future

    def shutdown(self, wait: bool = True) -> None: ...


class ManualExecutor:
    """Keeps jobs until `run` is called. Waiting for one without a timeout runs it, since nobody
    else would; with a timeout it is over at once."""

    def __init__(self):
        self._jobs: collections.deque[tuple[Job, _Manual]] = collections.deque()

    @property
    def waiting(self) -> int:
        """Jobs that have not been run."""
        return len(self._jobs)

    def submit(self, job: Job, /) -> Handle:
        future = _Manual(self)
        self._jobs.append((job, future))
        return future

    def run(self, jobs: int = 1) -> None:
        """Runs so many, the oldest first.

        Raises:
          IndexError: there are not so many.
        """
        for _ in range(jobs):
            _run(*self._jobs.popleft())

    def shutdown(self, wait: bool = True) -> None: ...


class _Manual(Future[None]):
    def __init__(self, executor: ManualExecutor):
        super().__init__()
        self._executor = executor

    def result(self, timeout: float | None = None) -> None:
        while not self.done() and timeout is None:
            self._executor.run()
        return super().result(0)


class TimedExecutor:
    """A worker on a fake clock: a job takes as long as it is told, and happens at its end.

    Args:
      clock: of those who wait for it.
      seconds: of the next job; infinite = it never ends.
    """

    def __init__(self, clock: FakeClock, seconds: Callable[[], float]):
        self._clock, self._seconds, self._free = clock, seconds, -math.inf

    def submit(self, job: Job, /) -> Handle:
        future = _Timed(self._clock)
        self._free = max(self._free, self._clock.now()) + self._seconds()
        if math.isfinite(self._free):
            self._clock.call_at(self._free, lambda: _run(job, future))
        return future

    def shutdown(self, wait: bool = True) -> None: ...


class _Timed(Future[None]):
    def __init__(self, clock: FakeClock):
        super().__init__()
        self._clock = clock

    def result(self, timeout: float | None = None) -> None:
        end = math.inf if timeout is None else self._clock.now() + timeout
        self._clock.run_until(self.done, end)
        return super().result(0)


def _run(job: Job, future: "Future[None]") -> None:
    try:
        job()
    except BaseException as error:
        future.set_exception(error)
        raise
    future.set_result(None)
