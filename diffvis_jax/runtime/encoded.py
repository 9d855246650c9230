"""What a worker runs, and what it hands out."""

import dataclasses
from typing import Any, Literal, NamedTuple, Protocol

Publish = Literal["always", "settled"]


class Outcome(NamedTuple):
    """What one step gave; see `Encoded`. `compiled`: programs that had to be compiled for it."""

    value: Any
    pending: float
    path: str
    recomputed: float
    compiled: int = 0


class Steps(Protocol):
    """What is run. All but `check` and `keep` are called by the worker alone."""

    def check(self, images: Any) -> None:
        """Refuses images that do not fit those of `warm`, without decoding them. By any thread."""
        ...

    def keep(self, images: Any, owned: bool) -> Any:
        """The images as they are now: copied, unless they are owned. By any thread."""
        ...

    def warm(self, images: Any) -> None:
        """Compiles all that steps on such images need."""
        ...

    def step(self, images: Any, fresh: bool) -> Outcome:
        """Encodes the next images, or goes on with the last ones (None); `fresh`: in full, as the
        first ones. Returns when everything has been computed."""
        ...


@dataclasses.dataclass(frozen=True)
class Encoded:
    """Features of one observation, on the host. Times are in seconds of the encoder's clock.

    Attributes:
      value: what `summarise` gave, with NumPy arrays in place of JAX's; of several views a dict by
        their names.
      sequence: number of the observation, as `offer` returned it.
      captured: when its pixels were taken. What an action is late by counts from here.
      started, ready: when the worker took it, and when the value was there.
      epoch: how often the encoder had been reset.
      pending: share of a full encode that is still to be done; 0 = exact, up to the policy.
      path: "full", "partial" or "reuse".
      recomputed: share of a full encode that this step did.
    """

    value: Any
    sequence: int
    captured: float
    started: float
    ready: float
    epoch: int
    pending: float
    path: str
    recomputed: float
