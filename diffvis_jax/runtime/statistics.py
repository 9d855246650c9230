"""What an encoder and a loop count: shares, and times with their tails."""

import array
import collections
import copy
import dataclasses
import statistics
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

KEPT_SPANS = 4096  # of the newest steps, of which times and means are given


class Span(NamedTuple):
    """One step of the worker. Times are in seconds of the encoder's clock.

    Attributes:
      sequence: of the observation.
      captured, started, ready: when its pixels were taken, the step began, and ended.
      path: "full", "partial" or "reuse".
      slicing: whether it went on with a frame that had been encoded before.
      recomputed, pending: shares of a full encode that were done, and that remained.
      published: whether it was shown.
    """

    sequence: int
    captured: float
    started: float
    ready: float
    path: str
    slicing: bool
    recomputed: float
    pending: float
    published: bool


@dataclasses.dataclass
class EncoderStats:
    """Counts of a worker, and its newest steps.

    Attributes:
      offered, superseded, dropped: observations offered; replaced by newer ones before they were
        encoded; and given up by a reset.
      encodes, slices: steps on a new observation, and on one that was encoded before.
      failures: steps that raised.
      compiled_after_start: programs compiled during steps; each one stopped the encoder for long.
      spans: the newest `KEPT_SPANS` steps.
    """

    offered: int = 0
    superseded: int = 0
    dropped: int = 0
    encodes: int = 0
    slices: int = 0
    failures: int = 0
    compiled_after_start: int = 0
    spans: collections.deque[Span] = dataclasses.field(
        default_factory=lambda: collections.deque(maxlen=KEPT_SPANS)
    )

    def add(self, span: Span, compiled: int) -> None:
        self.spans.append(span)
        self.compiled_after_start += compiled
        if span.slicing:
            self.slices += 1
        else:
            self.encodes += 1

    def copy(self) -> "EncoderStats":
        return dataclasses.replace(self, spans=copy.copy(self.spans))

    def as_dict(self, since: "EncoderStats | None" = None) -> dict[str, Any]:
        """The counts; "encode_ms" (`tails_ms` of steps on new observations); "recomputed" and
        "pending", means over all steps; "paths", how often each. Times, means and paths are of the
        newest `KEPT_SPANS` steps; None where there were none.

        Args:
          since: an earlier state: only what came after it counts.
        """
        before = since or EncoderStats()
        counts = {
            field.name: getattr(self, field.name) - getattr(before, field.name)
            for field in dataclasses.fields(self)
            if field.name != "spans"
        }
        new = counts["encodes"] + counts["slices"]
        spans = list(self.spans)[max(0, len(self.spans) - new) :] if new else []
        taken = [span.ready - span.started for span in spans if not span.slicing]
        return {
            **counts,
            "encode_ms": tails_ms(taken),
            "recomputed": statistics.fmean(s.recomputed for s in spans) if spans else None,
            "pending": statistics.fmean(s.pending for s in spans) if spans else None,
            "paths": dict(collections.Counter(span.path for span in spans)),
        }


class Tick(NamedTuple):
    """One tick of a loop. Times are in seconds of the clock.

    Attributes:
      index: number of its due time, from 0.
      due, began, ended: when it was due, began and ended.
      age: seconds since the pixels were taken that its action was chosen from, at that moment.
      sequence: of the observation that was used.
      stale: whether that was too old, and no action was chosen.
      missed: whether it ended after the next tick was due.
    """

    index: int
    due: float
    began: float
    ended: float
    age: float
    sequence: int
    stale: bool
    missed: bool


@dataclasses.dataclass
class LoopStats:
    """What a run of a `ControlLoop` did.

    Attributes:
      hz: ticks a second that were wanted.
      ticks, missed, skipped: ticks that ran; those of them that ended after the next due time; and
        due times that were passed over.
      stale: ticks whose features were too old.
      ended: why the run ended: "ticks", "stop", "stale", or the name of an error.
      lateness, ages: seconds, of every tick: after its due time, and `Tick.age`.
      encoder: `AsyncEncoder.stats` of the time of the run.
    """

    hz: float
    ticks: int = 0
    missed: int = 0
    skipped: int = 0
    stale: int = 0
    ended: str = ""
    lateness: array.array = dataclasses.field(default_factory=lambda: array.array("d"))
    ages: array.array = dataclasses.field(default_factory=lambda: array.array("d"))
    encoder: dict[str, Any] = dataclasses.field(default_factory=dict)

    def add(self, tick: Tick) -> None:
        self.ticks += 1
        self.missed += tick.missed
        self.stale += tick.stale
        self.lateness.append(tick.began - tick.due)
        self.ages.append(tick.age)

    @property
    def kept(self) -> float | None:
        """Share of the due times at which a tick ran, and ended before the next one."""
        due = self.ticks + self.skipped
        return (self.ticks - self.missed) / due if due else None

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain numbers, for JSON; times in ms, as `tails_ms`. "actions_per_encode"
        counts ticks that were not stale; the encoder's numbers follow under their own names."""
        encodes = self.encoder.get("encodes")
        return {
            "hz": self.hz,
            "ticks": self.ticks,
            "kept": self.kept,
            "missed": self.missed,
            "skipped": self.skipped,
            "stale": self.stale,
            "ended": self.ended,
            "lateness_ms": tails_ms(self.lateness),
            "age_ms": tails_ms(self.ages),
            "actions_per_encode": (self.ticks - self.stale) / encodes if encodes else None,
            **self.encoder,
        }

    def line(self) -> str:
        """The run so far, in a line."""
        age = tails_ms(self.ages)
        shown = "-" if age["p50"] is None else " / ".join(f"{age[k]:.0f}" for k in TAILS)
        kept = "-" if self.kept is None else f"{self.kept:.1%}"
        return (
            f"{self.ticks} ticks, {kept} kept, {self.skipped} skipped, {self.stale} stale; "
            f"age {shown} ms (p50 / p95 / max)"
        )


TAILS = ("p50", "p95", "max")


def tails_ms(seconds: Iterable[float]) -> dict[str, float | None]:
    """Median, 95th percentile (linear) and maximum in milliseconds, as "p50", "p95" and "max"; None
    of no values."""
    values = np.fromiter(seconds, np.float64)
    if not values.size:
        return dict.fromkeys(TAILS)
    found = 1e3 * np.quantile(values, [0.5, 0.95, 1.0])
    return dict(zip(TAILS, found.tolist(), strict=True))
