"""How long XLA compiled: what has to be known to read the time of a first call."""

import contextlib
import dataclasses
import functools
import threading
from collections.abc import Iterator

import jax

_COMPILED = "/jax/core/compile/backend_compile_duration"


@dataclasses.dataclass(eq=False)
class Compiled:
    """What was compiled.

    Attributes:
      seconds: that it took, reading from a compilation cache included.
      programs: how many.
      thread: the one whose compilations count; None = all.
    """

    seconds: float = 0.0
    programs: int = 0
    thread: int | None = None


@contextlib.contextmanager
def watch_compilation(*, own_thread: bool = False) -> Iterator[Compiled]:
    """Counts what is compiled while the context lasts, in any thread, or in this one alone."""
    _register()
    compiled = Compiled(thread=threading.get_ident() if own_thread else None)
    _watching.append(compiled)
    try:
        yield compiled
    finally:
        _watching.remove(compiled)


_watching: list[Compiled] = []


@functools.cache
def _register() -> None:
    """Once and for good: JAX 0.8 has no public way to take a listener back."""
    jax.monitoring.register_event_duration_secs_listener(_listen)


def _listen(event: str, duration_secs: float, **kwargs: str | int) -> None:
    if event == _COMPILED:
        for compiled in tuple(_watching):  # other threads enter and leave meanwhile
            if compiled.thread in (None, threading.get_ident()):
                compiled.seconds += duration_secs
                compiled.programs += 1
