"""What is decided by the machine: every constant that depends on the platform, in one place.

`encode_step` takes the one of the platform that it is lowered for; `Tuning` can also be passed.
The figures behind the numbers are in docs/lab.
"""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Tuning:
    """How a step is laid out for one kind of machine.

    Attributes:
      loops: whether work follows the change by loops of unknown length over a few windows at a
        time, which cost nothing where there is nothing to do and update buffers in place (CPU); or
        by gathers and scatters of many windows and by conditionals (accelerators, where a loop of
        unknown length waits for the host at every trip).
      blocks: how a segment of equal blocks runs. "switch": one body, and `lax.switch` picks the
        weights of each product where they lie. "stack": one body that slices stacked weights.
        "unroll": one body for each block.
      window_rows: positions that a chunk of windows holds, in several sizes: the largest is the
        chunk, and what is left over takes the smallest that holds it. Each is compiled.
      query_rows: queries of attention in one chunk.
      row_capacities: rows that go through a token stack together; each is compiled. More rows than
        the largest, or than half the tokens of a stream, are computed as a whole stream.
      attention_rows: rows of one stream that attend together in a token stack.
      dense_streams: streams that are encoded in full together. The maps of one stay in a CPU's
        cache; an accelerator wants enough to fill it, and few enough for its memory.
      break_even: share of a layer's cost above which one pass over the stream's whole map is
        cheaper than windows: these repeat their halo and cost copies.
      full_above: share of the whole cost above which a step does everything, which is also exact.
    """

    loops: bool
    blocks: Literal["switch", "stack", "unroll"]
    window_rows: tuple[int, ...]
    query_rows: int
    row_capacities: tuple[int, ...]
    attention_rows: int
    dense_streams: int
    break_even: float
    full_above: float

    def window_sizes(self, positions: int, cells: int) -> tuple[int, ...]:
        """Cells of a chunk, for cells of that many positions, of which there are so many: in
        ascending order."""
        sizes = {min(cells, max(1, rows // positions)) for rows in self.window_rows}
        return tuple(sorted(sizes))


CPU = Tuning(
    loops=True,
    blocks="switch",
    window_rows=(16, 32, 64),
    query_rows=64,
    row_capacities=(1, 8, 16, 32, 64, 128, 256),
    attention_rows=8,
    dense_streams=1,
    break_even=0.7,
    full_above=0.85,
)
# Not measured: no accelerator was at hand.
GPU = Tuning(
    loops=False,
    blocks="unroll",
    window_rows=(4096,),
    query_rows=1024,
    row_capacities=(64, 256),
    attention_rows=16,
    dense_streams=8,
    break_even=0.5,
    full_above=0.85,
)
TPU = dataclasses.replace(GPU, blocks="stack")
