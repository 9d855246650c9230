"""Chunks of actions that come late: their first actions have passed."""

import collections
import math
from collections.abc import Callable

import numpy as np

from diffvis_jax.errors import ConfigError

Blend = Callable[[np.ndarray, np.ndarray], np.ndarray]


class ActionQueue:
    """The actions to come, of policies that give a chunk of T at once.

    Action number i of a chunk is meant for i / hz seconds after the pixels that it was chosen from
    were taken. A chunk that comes `delay` seconds after them has lost its first ceil(delay * hz).

    Args:
      hz: actions a second.
      blend: makes one of what was still to come and of what comes now for the same moments,
        `[n, ...]` each, as `crossfade`; None = what comes now.

    Raises:
      ConfigError: hz is not above 0.
    """

    def __init__(self, hz: float, blend: Blend | None = None):
        if not 0 < hz < math.inf:
            raise ConfigError(f"hz must be above 0, got {hz!r}")
        self._hz, self._blend = hz, blend
        self._actions: collections.deque[np.ndarray] = collections.deque()

    def put(self, chunk: np.ndarray, delay: float) -> int:
        """Replaces what is to come.

        Args:
          chunk: `[T, ...]`, an action for each period.
          delay: seconds since the pixels were taken: the age of the features.

        Returns:
          how many were dropped, since their time had passed. If all were, nothing is replaced.

        Raises:
          ConfigError: a delay below 0.
        """
        if not delay >= 0:
            raise ConfigError(f"delay must be at least 0 s, got {delay!r}")
        chunk = np.asarray(chunk)
        # A delay of whole periods is not to be one more, for rounding.
        dropped = min(len(chunk), math.ceil(delay * self._hz - 1e-9))
        coming = chunk[dropped:]
        both = min(len(self._actions), len(coming))
        if both and self._blend is not None:
            waiting = np.stack(list(self._actions)[:both])
            coming = np.concatenate([self._blend(waiting, coming[:both]), coming[both:]])
        if len(coming):
            self._actions = collections.deque(coming)
        return dropped

    def pop(self) -> np.ndarray | None:
        """The next action; None if there is none."""
        return self._actions.popleft() if self._actions else None

    def __len__(self) -> int:
        return len(self._actions)


def crossfade(before: np.ndarray, now: np.ndarray) -> np.ndarray:
    """From what was to come to what comes now, `[n, ...]` each, in n even steps: the first is
    nearly the old, the last nearly the new."""
    share = np.arange(1, len(now) + 1) / (len(now) + 1)
    share = share.reshape(-1, *[1] * (now.ndim - 1))
    return (1 - share) * before + share * now
