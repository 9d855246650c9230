"""What a differential prefill leaves to the machine, in one place; see `core/tuning.py`."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class PrefillTuning:
    """How a differential prefill is laid out for one kind of machine.

    Attributes:
      chunk: positions that go through the decoder together; half a chunk is computed for nothing.
      full_above: share of a prompt above which one dense pass is faster than chunks.
    """

    chunk: int
    full_above: float


# On CPU a row costs hardly more in a chunk of 32 than in a dense pass
# (docs/lab/2026-11-29_language_on_a_cpu.md).
CPU = PrefillTuning(chunk=32, full_above=0.55)
# Not measured: no accelerator was at hand. Fewer, larger launches.
ACCELERATOR = PrefillTuning(chunk=256, full_above=0.8)
