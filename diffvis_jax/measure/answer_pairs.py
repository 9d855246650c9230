"""Answers the same question twice, with full and with differential encodes, and compares."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from diffvis_jax.agent.answering import TIMES, Answer, Answerer, Tokens
from diffvis_jax.images.anyres import Frame, pixels_of
from diffvis_jax.language.splice import PackedTokens
from diffvis_jax.measure.missed import Missed, changed_tokens, missed_at, missed_tails
from diffvis_jax.metrics import tails
from diffvis_jax.model import Model
from diffvis_jax.towers import build, with_size


@dataclasses.dataclass(frozen=True)
class Pair:
    """Both answers about one frame, and how much they differ.

    Attributes:
      full, differential: the answers.
      missed_changed, missed_all, moved: of the image tokens, see `measure.missed.Missed`; None
        where the frame before has another size, too.
      logits_error: largest difference of the logits of the first id, over the largest logit.
      prefill_error: the same against a fresh prefill of the differential encode's tokens: the part
        that the differential prefill adds.
    """

    full: Answer
    differential: Answer
    missed_changed: float | None
    missed_all: float | None
    moved: float | None
    logits_error: float
    prefill_error: float

    @property
    def same_text(self) -> bool:
        """Whether the answers are the same, letter by letter."""
        return self.full.text == self.differential.text

    @property
    def compile_s(self) -> float:
        """Seconds in which XLA compiled."""
        return self.full.compile_s + self.differential.compile_s

    def light(self) -> "Pair":
        """Without the large arrays, to be kept."""
        return dataclasses.replace(
            self, full=self.full.light(), differential=self.differential.light()
        )

    def numbers(self) -> dict[str, Any]:
        """All but the arrays, for JSON."""
        return {
            "full": self.full.numbers(),
            "missed_changed": self.missed_changed,
            "missed_all": self.missed_all,
            "moved": self.moved,
            "logits_error": self.logits_error,
            "prefill_error": self.prefill_error,
            "same_text": self.same_text,
        }


class Comparison:
    """Answers one question about a sequence of frames in both ways, which take turns."""

    def __init__(self, model: Model, question: str, **options: Any):
        """Args: as `Answerer`, without `differential`. Full answers see all tokens of a frame, in
        all layers."""
        self._config = model.config
        fewer = ("compress", "layer_keep")
        whole = {name: value for name, value in options.items() if name not in fewer}
        self._full = Answerer(model, question, **whole, differential=False)
        self.differential = Answerer(model, question, **options)
        self.reset()

    def reset(self) -> None:
        """Forgets the frames seen."""
        self._full.reset()
        self.differential.reset()
        self._before: tuple[Frame, Tokens] | None = None
        self._seen = 0

    def warm_up(self, frames: Sequence[Frame]) -> float:
        """Compiles what these frames need, and forgets them -> seconds of compilation."""
        answers = [
            answerer.answer(frame, limit=2)
            for frame in [*frames, *frames[-1:]]  # the last one again: nothing changes
            for answerer in (self._full, self.differential)
        ]
        self.reset()
        return sum(answer.compile_s for answer in answers)

    def answer(self, frame: Frame, on_text: Callable[[str], None] | None = None) -> Pair:
        """Both answers about the next frame; `on_text` is called with the differential one's."""
        self._seen += 1
        # Whoever comes second may find the machine's caches warm.
        if self._seen % 2:
            full = self._full.answer(frame)
            differential = self.differential.answer(frame, on_text)
        else:
            differential = self.differential.answer(frame, on_text)
            full = self._full.answer(frame)
        missed = Missed()
        if self._before is not None and self._before[0].shape == frame.shape:
            frame_before, tokens_before = self._before
            pixels = pixels_of(frame)
            tower = build(with_size(self._config, pixels.shape[1:3]))
            at = changed_tokens(tower, pixels_of(frame_before), pixels)
            tokens = map(_all_tokens, (differential.tokens[-1], full.tokens[-1], tokens_before))
            missed = missed_at(np.asarray(at).reshape(-1), *tokens)
        self._before = frame, full.tokens[-1]
        fresh = self._full.fresh_logits(differential.shown, differential.grids)
        return Pair(
            full=full,
            differential=differential,
            **missed._asdict(),
            logits_error=_relative_error(differential.logits, full.logits),
            prefill_error=_relative_error(differential.logits, fresh),
        )


def _all_tokens(tokens: Tokens) -> np.ndarray:
    return tokens.tokens if isinstance(tokens, PackedTokens) else tokens


def _relative_error(logits: np.ndarray, right: np.ndarray) -> float:
    return float(np.abs(logits - right).max() / np.abs(right).max())


def compare_times(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Compares times and errors; without pairs all is None or 0.

    Args:
      pairs: those with typical times.

    Returns:
      For each of `TIMES`: `metrics.tails` of both sides, the quotient of the medians, and the
      quotient of the totals, in which frames that change much weigh more; missed change
      (`missed_tails`), and tails of the logits' errors; how many texts are equal; tokens prefilled,
      and in the prompts.
    """
    full, differential = [pair.full for pair in pairs], [pair.differential for pair in pairs]
    result: dict[str, Any] = {"frames": len(pairs)}
    for name, _ in TIMES:
        sides = [[getattr(answer, name) for answer in side] for side in (full, differential)]
        before, after = map(tails, sides)
        totals = [sum(value or 0.0 for value in side) for side in sides]
        result[name] = {
            "full": before,
            "differential": after,
            "speed_up": _quotient(before["median"], after["median"]),
            "speed_up_of_totals": _quotient(*totals),
        }
    result |= missed_tails(pairs)
    for name in ("logits_error", "prefill_error"):
        result[name] = tails(getattr(pair, name) for pair in pairs)
    result["same_text"] = sum(pair.same_text for pair in pairs)
    result["prefilled"] = sum(answer.prefilled["prefilled"] for answer in differential)
    result["prompt_tokens"] = sum(answer.prefilled["total"] for answer in differential)
    return result


def _quotient(a: float | None, b: float | None) -> float | None:
    return a / b if a and b else None
