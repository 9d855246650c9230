"""The state machine between a loop and a worker that is slower than it: the newest frame wins.

Three places, under one lock: a mailbox of one observation, what runs, and what was published. The
worker takes the newest observation, encodes it and publishes the result; with none waiting it goes
on with the last frame while something of it is pending (a *slice*); else it waits. Nothing here
knows of JAX.
"""

import functools
import math
import threading
from typing import Any, NamedTuple

from diffvis_jax.errors import ConfigError, EncoderError, FrameError
from diffvis_jax.runtime.clock import Clock, SystemClock
from diffvis_jax.runtime.encoded import Encoded, Publish, Steps
from diffvis_jax.runtime.executor import Executor, Handle, ThreadExecutor
from diffvis_jax.runtime.statistics import EncoderStats, Span


class _Observation(NamedTuple):
    images: Any
    sequence: int
    captured: float


class FrameWorker:
    """See `AsyncEncoder`, which is this with a model's steps."""

    def __init__(
        self,
        steps: Steps,
        *,
        settle: bool = True,
        publish: Publish = "always",
        clock: Clock | None = None,
        executor: Executor | None = None,
    ):
        if publish not in ("always", "settled"):
            raise ConfigError(f"publish must be 'always' or 'settled', got {publish!r}")
        if publish == "settled" and not settle:
            raise ConfigError("publish='settled' needs settle=True: else nothing is published")
        self.clock: Clock = clock or SystemClock()
        self.encode_seconds = math.nan  # of the full encode of the last `start`
        self._steps, self._settle, self._publish = steps, settle, publish
        self._executor: Executor = executor or ThreadExecutor()
        # It is taken again by a job that is run by whoever brings it.
        self._lock = threading.RLock()
        self._stats = EncoderStats()
        self._closed = self._ready = False  # ready: everything is compiled
        self._sequence = self._epoch = 0
        self._busy, self._running_sequence = False, 0
        self._running: Handle | None = None
        self._clear()

    def _clear(self) -> None:
        """What belongs to an epoch, as at its beginning."""
        self._waiting: _Observation | None = None
        self._unsettled: _Observation | None = None  # the last one, if a slice would help it
        self._published: Encoded | None = None
        self._failure: BaseException | None = None
        self._failed_at = 0
        self._fresh, self._begun, self._last_captured = True, False, -math.inf

    # ---- for the loop ---------------------------------------------------------------------------

    def start(self, images: Any) -> Encoded:
        """Compiles all that will be needed, encodes the images in full, and returns the result;
        measures `encode_seconds`. Blocks, and is called before anything is offered.

        Raises:
          EncoderError: closed, started already, or failed before (`reset` first).
          ImageError, FrameError: images that cannot be encoded.
        """
        captured = self.clock.now()
        with self._lock:
            self._refuse_closed()
            self._refuse_failed()
            if self._begun:
                raise EncoderError("the encoder has started already: reset() begins anew")
            self._begun, self._ready = True, False
            before = self._running if self._busy else None
        try:
            if before is not None:  # a step of before the reset
                before.result()
            kept = self._steps.keep(images, False)
            self._executor.submit(functools.partial(self._steps.warm, kept)).result()
        except BaseException:
            with self._lock:
                self._begun = False
            raise
        with self._lock:
            self._ready = True
            sequence = self._accept(kept, captured)
        first = self.wait(sequence, None)
        self.encode_seconds = first.ready - first.started
        return first

    def offer(self, images: Any, captured: float | None = None, *, owned: bool = False) -> int:
        """Puts an observation into the mailbox; one that still waits there is superseded.

        Neither waits nor computes; arrays and decoded pictures are copied, so that a camera's
        driver may write into them again.

        Args:
          images: as `start` was given, of the same size.
          captured: when the pixels were taken, on the encoder's clock; None = now.
          owned: whether nobody will write into the images again: then they are not copied.

        Returns:
          the observation's number, from 1.

        Raises:
          FrameError: images that do not fit; a time that is none, lies in the future, or before
            the last one offered.
          ImageError: no images, or such that cannot be read.
          EncoderError: not started, closed, or failed; then its cause is the worker's error.
        """
        now = self.clock.now()
        captured = now if captured is None else captured
        if not captured <= now:
            what = "is no time" if math.isnan(captured) else f"lies in the future (now: {now:g})"
            raise FrameError(f"captured={captured:g} {what}: give seconds of the encoder's clock")
        self._refuse_unready()
        self._steps.check(images)
        kept = self._steps.keep(images, owned)
        with self._lock:
            self._refuse_unready()  # it may have failed meanwhile
            if captured < self._last_captured:
                raise FrameError(
                    f"captured={captured:g} lies before the last offered, {self._last_captured:g}: "
                    "offer observations in the order in which they were taken"
                )
            return self._accept(kept, captured)

    @property
    def started(self) -> bool:
        """Whether this episode has begun, by `start` or by an offer after a `reset`."""
        with self._lock:
            return self._begun

    def latest(self) -> Encoded:
        """The newest features. Never waits; `sequence` never goes back.

        Raises:
          EncoderError: the worker has failed (its error is the cause), or there are none yet.
        """
        with self._lock:
            self._refuse_failed()
            if self._published is None:
                raise EncoderError(
                    "nothing is encoded yet: start() the encoder, after a reset() again"
                )
            return self._published

    def wait(self, sequence: int, timeout: float | None = 10.0) -> Encoded:
        """The features of that observation or a newer one, once they are there.

        Args:
          sequence: as `offer` returned it.
          timeout: seconds; None = without end.

        Raises:
          TimeoutError: not within that time.
          EncoderError: they will never come: the worker failed, it was never offered, `reset` or
            `close` dropped it, or with publish="settled" the policy settles no further.
        """
        end = math.inf if timeout is None else self.clock.now() + timeout
        while True:
            with self._lock:
                self._refuse_failed()
                found, running = self._published, self._running if self._busy else None
            if found is not None and found.sequence >= sequence:
                return found
            if running is None:
                raise EncoderError(
                    f"observation {sequence} will not come: it was not offered, was dropped, or "
                    "cannot be settled"
                )
            try:
                running.result(None if timeout is None else max(0.0, end - self.clock.now()))
            except TimeoutError:
                raise TimeoutError(
                    f"observation {sequence} was not encoded in {timeout} s"
                ) from None

    def reset(self) -> None:
        """A new episode: what waits or runs is dropped, the next frame is encoded in full. A failed
        encoder works again."""
        with self._lock:
            self._refuse_closed()
            self._stats.dropped += (self._waiting is not None) + self._busy
            self._epoch += 1
            self._clear()

    def close(self, timeout: float = 10.0) -> None:
        """Ends the worker; what runs is waited for. May be called twice.

        Raises:
          EncoderError: a step has not ended in `timeout` seconds.
        """
        with self._lock:
            self._closed = True
            self._waiting = self._unsettled = None
            running = self._running if self._busy else None
        if running is not None:
            try:
                running.result(timeout)
            except TimeoutError as error:
                self._executor.shutdown(wait=False)
                raise EncoderError(
                    f"the encoder's worker has not ended its step on observation "
                    f"{self._running_sequence} in {timeout:g} s: it still runs"
                ) from error
        self._executor.shutdown()

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def stats(self, since: EncoderStats | None = None) -> dict[str, Any]:
        """What was done, as plain numbers; see `EncoderStats.as_dict`.

        Args:
          since: of what `snapshot` gave then; None = from the beginning.
        """
        with self._lock:
            return {**self._stats.as_dict(since), "epoch": self._epoch}

    def snapshot(self) -> EncoderStats:
        """The counts as they are now."""
        with self._lock:
            return self._stats.copy()

    # ---- under the lock -------------------------------------------------------------------------

    def _accept(self, images: Any, captured: float) -> int:
        self._sequence += 1
        self._begun, self._last_captured = True, captured
        self._stats.offered += 1
        self._stats.superseded += self._waiting is not None
        self._waiting = _Observation(images, self._sequence, captured)
        self._advance()
        return self._sequence

    def _advance(self) -> None:
        """Gives the worker what there is to do."""
        if self._busy or self._closed or self._failure is not None:
            return
        if self._waiting is not None:
            observation, self._waiting, slicing = self._waiting, None, False
        elif self._settle and self._unsettled is not None:
            observation, slicing = self._unsettled, True
        else:
            return
        self._busy, self._running_sequence = True, observation.sequence
        self._unsettled = None
        fresh, self._fresh = self._fresh, False
        times = self._epoch, self.clock.now()
        job = functools.partial(self._run, observation, slicing, fresh, *times)
        try:
            self._running = self._executor.submit(job)
        except RuntimeError as error:  # the interpreter is about to end
            self._busy = False
            self._fail(error, observation.sequence)

    def _fail(self, error: BaseException, sequence: int) -> None:
        self._stats.failures += 1
        self._failure, self._failed_at = error, sequence
        self._waiting = self._unsettled = None

    def _refuse_closed(self) -> None:
        if self._closed:
            raise EncoderError("the encoder is closed")

    def _refuse_failed(self) -> None:
        if (error := self._failure) is not None:
            raise EncoderError(
                f"the encoder failed on observation {self._failed_at}: {type(error).__name__}: "
                f"{error} (reset() and start() begin anew)"
            ) from error

    def _refuse_unready(self) -> None:
        with self._lock:
            self._refuse_closed()
            self._refuse_failed()
            if not self._ready:
                raise EncoderError("the encoder has not started: start() it with the first images")

    # ---- the worker -----------------------------------------------------------------------------

    def _run(
        self, observation: _Observation, slicing: bool, fresh: bool, epoch: int, started: float
    ) -> None:
        """One step, by the worker."""
        try:
            outcome = self._steps.step(None if slicing else observation.images, fresh)
            ready = self.clock.now()
            if ready < started:
                raise ConfigError(f"the clock went back, from {started:g} to {ready:g}")
        except BaseException as error:
            with self._lock:
                self._busy = False
                if epoch == self._epoch:
                    self._fail(error, observation.sequence)
                else:  # the new episode begins with a cache of its own
                    self._stats.failures += 1
                    self._advance()
            if not isinstance(error, Exception):
                raise
            return
        value, pending, path, recomputed, compiled = outcome
        with self._lock:
            self._busy = False
            shown = pending == 0 or self._publish == "always"
            if current := epoch == self._epoch:
                if shown:
                    times = observation.captured, started, ready, epoch
                    self._published = Encoded(
                        value, observation.sequence, *times, pending, path, recomputed
                    )
                # A slice that did nothing would do nothing again.
                helps = pending > 0 and (recomputed > 0 or not slicing)
                self._unsettled = observation if helps and not self._closed else None
            self._stats.add(
                Span(
                    observation.sequence, observation.captured, started, ready, path, slicing,
                    recomputed, pending, shown and current,
                ),
                compiled,
            )  # fmt: skip
            self._advance()
