"""Continuous batching: which frame of which stream stands at which place of the batch.

B places, T turns.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple


class Seat(NamedTuple):
    """A frame at a place of the batch: the stream's number, and the frame's in it."""

    stream: int
    index: int


def schedule(lengths: Sequence[int], places: int) -> Iterator[tuple[Seat | None, ...]]:
    """Turn after turn what stands at each place; None = nothing is left for it.

    A stream keeps its place until it ends, and the next one in line takes it, in the very next
    turn. Streams begin in the order given.

    Args:
      lengths: frames of each stream, each at least 1.
      places: B.
    """
    waiting = iter(range(len(lengths)))
    seats: list[Seat | None] = [None] * places
    while True:
        for place, seat in enumerate(seats):
            if seat is not None and seat.index + 1 < lengths[seat.stream]:
                seats[place] = Seat(seat.stream, seat.index + 1)
            else:
                stream = next(waiting, None)
                seats[place] = None if stream is None else Seat(stream, 0)
        if not any(seats):
            return
        yield tuple(seats)
