"""A loop of fixed rate that acts on the newest features, and knows how old they are."""

import contextlib
import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from diffvis_jax.errors import ConfigError, StaleError
from diffvis_jax.runtime.encoded import Encoded
from diffvis_jax.runtime.statistics import LoopStats, Tick
from diffvis_jax.runtime.worker import FrameWorker

_PATIENCE = 10  # times the bound on age: then the ticks begin, with whatever there is


class Observation(NamedTuple):
    """What `observe` may return in place of bare images.

    Attributes:
      images: for `AsyncEncoder.offer`.
      captured: when the pixels were taken, on the encoder's clock; None = as `observe` was called.
      owned: whether nobody will write into them again, so that they need not be copied.
    """

    images: Any
    captured: float | None = None
    owned: bool = False


@dataclasses.dataclass(frozen=True)
class LoopConfig:
    """How a loop ticks, and how old its features may be.

    P = 1 / hz seconds; E = seconds of the slowest step of the encoder, preparing the images and
    summarising included.

    **The bound on age.** Features that are acted on are never older than 2E + P: at worst the
    pixels wait P for a step that runs, take E, and are then shown while the next ones take E. It
    holds if an observation is offered at every due time (no tick is late or skipped, and `observe`
    gives new pixels each time), if the pixels are taken when `observe` is called, and with
    publish="always". If ticks are late, P is the longest time between two observations; if pixels
    are older when they come, that age comes on top.

    Attributes:
      hz: ticks a second.
      max_age: seconds; features older than this are *stale*, and no action is chosen from them.
      on_stale: "hold": `act.hold()` is called, if there is one; "stop": the run ends; "raise":
        `StaleError`. None = "hold", but a run is refused whose bound 2E + P, with E as `start` has
        measured it for a full encode, is above `max_age`.
      late: what becomes of due times that pass while a tick runs: "skip" them, or make up for them
        in a "burst".
      patience: seconds for which a tick waits for the features of its own observation, before it
        takes those that are there. With a fast step the age falls from P to that of the step.
      report_every: ticks between two lines to `say`; 0 = none.

    Raises:
      ConfigError: a value that makes no sense; names the field.
    """

    hz: float = 10.0
    max_age: float = 0.5
    on_stale: Literal["hold", "stop", "raise"] | None = None
    late: Literal["skip", "burst"] = "skip"
    patience: float = 0.0
    report_every: int = 0

    def __post_init__(self):
        if not 0 < self.hz < math.inf:
            raise ConfigError(f"hz must be above 0, got {self.hz!r}")
        if not self.max_age >= self.period:
            raise ConfigError(
                f"max_age must be at least a period, 1 / hz = {self.period:g} s, "
                f"got {self.max_age!r}"
            )
        if self.on_stale not in (None, "hold", "stop", "raise"):
            raise ConfigError(f"on_stale must be 'hold', 'stop' or 'raise', got {self.on_stale!r}")
        if self.late not in ("skip", "burst"):
            raise ConfigError(f"late must be 'skip' or 'burst', got {self.late!r}")
        if not 0 <= self.patience < self.period:
            raise ConfigError(
                f"patience must lie within a period, 0-{self.period:g} s, got {self.patience!r}"
            )
        if self.report_every < 0:
            raise ConfigError(f"report_every must be at least 0, got {self.report_every!r}")

    @property
    def period(self) -> float:
        """Seconds between two due times."""
        return 1.0 / self.hz


class ControlLoop:
    """Observes, offers, and acts on the newest features, at a fixed rate.

    A tick is due at t0 + k / hz, however late others were. It calls `observe`, offers what it gave,
    takes the newest features, and calls `act`, which must not touch the encoder's device: its
    features are NumPy arrays.

    Attributes:
      stats: of the last run, or of the one that goes on.
    """

    def __init__(
        self,
        encoder: FrameWorker,
        observe: Callable[[], Any],
        act: Callable[[Encoded, Any, float], Any],
        config: LoopConfig | None = None,
        *,
        say: Callable[[str], None] = print,
        on_tick: Callable[[Tick], None] | None = None,
    ):
        """Args:
        encoder: an `AsyncEncoder`; its clock is the loop's.
        observe: gives the images, or an `Observation`; None = nothing new to be seen.
        act: (features, images of this tick or None, age in seconds) -> anything. It may have a
          method `hold()`, called in its place when the features are stale.
        config: None = `LoopConfig()`.
        say: is told a line every `report_every` ticks.
        on_tick: is told of each tick at its end.
        """
        self.stats = LoopStats(0.0)
        self._encoder, self._observe, self._act = encoder, observe, act
        self._config = LoopConfig() if config is None else config
        self._say, self._on_tick = say, on_tick
        self._last = -math.inf

    def run(self, ticks: int | None = None, stop: Callable[[], bool] | None = None) -> LoopStats:
        """Starts the encoder if it has not started, and ticks.

        Args:
          ticks: due times, skipped ones included; None = without end.
          stop: asked before each tick whether to end.

        Raises:
          ConfigError: the bound on age is above `max_age` (see `LoopConfig`), or the clock goes
            back.
          EncoderError, FrameError, ImageError: the encoder has failed, or what `observe` gave does
            not fit; at the very tick.
          StaleError: with on_stale="raise".
          Whatever `observe` and `act` raise. `stats` tells how far it came.
        """
        self.stats, self._last = LoopStats(self._config.hz), -math.inf
        self._begin()
        before = self._encoder.snapshot()
        try:
            self._tick_on(ticks, stop)
        except BaseException as error:
            self.stats.ended = type(error).__name__
            raise
        finally:
            self.stats.encoder = self._encoder.stats(before)
        return self.stats

    def _begin(self) -> None:
        """Everything slow: compiling, and a full encode. Then the pixels of now."""
        config, encoder = self._config, self._encoder
        seen = self._look()
        if seen is None:
            raise ConfigError("observe() gave nothing to start with: it must give images at first")
        if not encoder.started:
            encoder.start(seen.images)
            seen = self._look() or seen
        bound = 2 * encoder.encode_seconds + config.period
        if config.on_stale is None and bound > config.max_age:
            raise ConfigError(
                f"a full encode takes {encoder.encode_seconds:.3g} s, so features may be "
                f"2E + P = {bound:.3g} s old at {config.hz:g} Hz, more than max_age = "
                f"{config.max_age:g} s: allow more, or say what to do then (on_stale)"
            )
        # Observations come at the loop's rate from here on, or the bound would not hold at first.
        first, start, waited = self._offer(seen), self._now(), 1
        encoder.clock.sleep_until(start + config.period)
        while encoder.latest().sequence < first and self._now() < start + _PATIENCE * bound:
            self._offer(self._look())
            waited += 1
            encoder.clock.sleep_until(start + waited * config.period)

    def _tick_on(self, ticks: int | None, stop: Callable[[], bool] | None) -> None:
        config, stats = self._config, self.stats
        start, index = self._now(), 0

        def due(number: int) -> float:
            return round(start + number * config.period, 9)

        while ticks is None or index < ticks:
            if stop is not None and stop():
                stats.ended = "stop"
                return
            self._encoder.clock.sleep_until(due(index))
            began = self._now()
            encoded, age, stale = self._tick()
            ended = self._now()
            missed = ended > due(index + 1)
            tick = Tick(index, due(index), began, ended, age, encoded.sequence, stale, missed)
            stats.add(tick)
            if self._on_tick is not None:
                self._on_tick(tick)
            if config.report_every and stats.ticks % config.report_every == 0:
                self._say(stats.line())
            if stale and config.on_stale == "stop":
                stats.ended = "stale"
                return
            if stale and config.on_stale == "raise":
                raise StaleError(
                    f"tick {index}: features are {age:.3g} s old, more than max_age = "
                    f"{config.max_age:g} s"
                )
            index += 1
            while config.late == "skip" and due(index) < ended and (ticks is None or index < ticks):
                index += 1
                stats.skipped += 1
        stats.ended = "ticks"

    def _tick(self) -> tuple[Encoded, float, bool]:
        config, encoder = self._config, self._encoder
        seen = self._look()
        sequence = self._offer(seen)
        if seen is not None and config.patience:
            with contextlib.suppress(TimeoutError):  # then with what is there
                encoder.wait(sequence, config.patience)
        encoded = encoder.latest()
        age = self._now() - encoded.captured
        stale = age > config.max_age
        if not stale:
            self._act(encoded, None if seen is None else seen.images, age)
        elif config.on_stale in (None, "hold") and (hold := getattr(self._act, "hold", None)):
            hold()
        return encoded, age, stale

    def _look(self) -> Observation | None:
        now = self._now()
        seen = self._observe()
        if not isinstance(seen, Observation):
            return None if seen is None else Observation(seen, now)
        return seen._replace(captured=now) if seen.captured is None else seen

    def _offer(self, seen: Observation | None) -> int:
        """Number of the observation; 0 if there is none."""
        return 0 if seen is None else self._encoder.offer(*seen[:2], owned=seen.owned)

    def _now(self) -> float:
        now = self._encoder.clock.now()
        if now < self._last:
            raise ConfigError(
                f"the clock went back, from {self._last:g} to {now:g} s: give a monotonic one"
            )
        self._last = now
        return now
