"""An answer as it comes: what reading the prompt took, pieces of text, and how it ended.

Whoever takes the events decides when the next id is chosen, so several answers can be made in turn;
closing the iterator ends one.
"""

import dataclasses
import time
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import jax
import numpy as np

from diffvis_jax.language.generate import make_stops
from diffvis_jax.language.positions import Grid
from diffvis_jax.language.prompt_session import Prefilled, PromptSession
from diffvis_jax.language.splice import Ids
from diffvis_jax.language.tokenizer import TextStream, Tokenizer


@dataclasses.dataclass(frozen=True)
class Started:
    """The prompt was read.

    Attributes:
      prefilled: what that gave.
      prefill_ms: wall time.
    """

    prefilled: Prefilled
    prefill_ms: float


@dataclasses.dataclass(frozen=True)
class Text:
    """One more id; the text that it completes may be empty."""

    text: str


@dataclasses.dataclass(frozen=True)
class Done:
    """The end.

    Attributes:
      ids: int32 `[n]`, the stop id included.
      reason: "stop": a stop id or a stop string came; "length": as many ids as there may be.
      times_ms: from the beginning of decoding to each id.
      generate_ms: to the end.
    """

    ids: np.ndarray
    reason: Literal["stop", "length"]
    times_ms: tuple[float, ...]
    generate_ms: float


Event = Started | Text | Done


class StopStrings:
    """Cuts a text that comes in pieces before the first of some strings; what could begin one is
    held back.

    Attributes:
      found: whether one came.
    """

    def __init__(self, strings: Sequence[str]):
        """Args: strings: none of them empty."""
        self._strings, self._held, self.found = tuple(strings), "", False

    def push(self, text: str) -> str:
        """What can be given out now."""
        text, self._held = self._held + text, ""
        places = [place for s in self._strings if (place := text.find(s)) >= 0]
        if places:
            self.found = True
            return text[: min(places)]
        longest = max((len(s) for s in self._strings), default=1) - 1
        for begin in range(max(0, len(text) - longest), len(text)):
            if any(s.startswith(text[begin:]) for s in self._strings):
                self._held = text[begin:]
                return text[:begin]
        return text

    def flush(self) -> str:
        """What was held back, of a text that is over."""
        text, self._held = self._held, ""
        return text


def answer_events(
    session: PromptSession,
    images: Any,
    input_ids: Ids,
    grids: Sequence[Grid] | None = None,
    *,
    tokenizer: Tokenizer,
    padded: int | None = None,
    limit: int | None = None,
    stop: Sequence[str] = (),
) -> Iterator[Event]:
    """Reads a prompt and answers it: one `Started`, a `Text` for each id (and one for what is left
    of the text, if anything is), one `Done`.

    Args:
      session, images, input_ids, grids, padded: see `PromptSession.prefill`.
      limit: ids at most; None = the session's `options.max_new_tokens`.
      stop: strings that end the answer and are no part of it; with beams there can be none.

    Raises:
      PromptError: see `PromptSession.prefill`.
    """
    start = time.perf_counter()
    prefilled = session.prefill(images, input_ids, grids, padded=padded)
    jax.block_until_ready(prefilled.logits)
    yield Started(prefilled, _since(start))
    stream, stops = TextStream(tokenizer), StopStrings(stop)
    ids: list[int] = []
    times: list[float] = []
    start = time.perf_counter()
    for identity in _ids(session, limit):
        times.append(_since(start))
        ids.append(identity)
        yield Text(stops.push(stream.push(identity)))
        if stops.found:
            break
    generate_ms = _since(start)
    if not stops.found:
        rest = stops.push(stream.flush())
        if rest := rest if stops.found else rest + stops.flush():
            yield Text(rest)
    ends = np.asarray(make_stops(session.config, session.options.stop_ids).ids)
    ended = stops.found or ids[-1] in ends
    yield Done(np.array(ids, np.int32), "stop" if ended else "length", tuple(times), generate_ms)


def _ids(session: PromptSession, limit: int | None) -> Iterator[int]:
    if session.options.num_beams > 1:
        yield from session.generate().tolist()
        return
    for number, identity in enumerate(session.stream(), 1):
        yield identity
        if number == limit:
            return


def _since(start: float) -> float:
    """Milliseconds."""
    return 1e3 * (time.perf_counter() - start)
