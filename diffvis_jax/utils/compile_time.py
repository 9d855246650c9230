"""How long XLA compiled: what has to be known to read the time of a first call."""

import contextlib
import dataclasses
from collections.abc import Iterator

import jax

_COMPILED = "/jax/core/compile/backend_compile_duration"


@dataclasses.dataclass
class Compiled:
    """What was compiled.

    Attributes:
      seconds: that it took, reading from a compilation cache included.
      programs: how many.
    """

    seconds: float = 0.0
    programs: int = 0


@contextlib.contextmanager
def watch_compilation() -> Iterator[Compiled]:
    """Counts what is compiled while the context lasts, in any thread."""
    compiled = Compiled()

    def listen(event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event == _COMPILED:
            compiled.seconds += duration_secs
            compiled.programs += 1

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield compiled
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
