"""Continuous batching: which frame of which stream is in which slot of the batch, round by round.

B slots.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple


class Assignment(NamedTuple):
    """A frame in a slot of the batch: the number of the stream, and of the frame in it."""

    stream: int
    index: int


def schedule(lengths: Sequence[int], slots: int) -> Iterator[tuple[Assignment | None, ...]]:
    """Yields, round after round, the assignment of each slot; None = no stream is left for it.

    A stream keeps its slot until it ends; the next stream takes it in the very next round. Streams
    begin in the order given.

    Args:
      lengths: frames of each stream, each at least 1.
      slots: B.
    """
    waiting = iter(range(len(lengths)))
    current: list[Assignment | None] = [None] * slots
    while True:
        for slot, last in enumerate(current):
            if last is not None and last.index + 1 < lengths[last.stream]:
                current[slot] = Assignment(last.stream, last.index + 1)
            else:
                stream = next(waiting, None)
                current[slot] = None if stream is None else Assignment(stream, 0)
        if not any(current):
            return
        yield tuple(current)
