"""The same question answered twice: with everything computed afresh, and differentially."""

import dataclasses
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from diffvis_jax.agent.answering import TIMES, Answer, Answerer, median_of
from diffvis_jax.measure.recording_run import changed_tokens, missed_change
from diffvis_jax.model import Model


@dataclasses.dataclass(frozen=True)
class Pair:
    """Both answers about one frame, and how far they are apart.

    Attributes:
      full, differential: the answers.
      missed_changed: share of the true change of the image tokens that the differential encode
        did not deliver, at the tokens whose own pixels differ from the frame before; None where
        there is none.
      missed_all: the same over all tokens.
      logits_error: largest difference of the logits of the first id, over the largest logit.
      prefill_error: the part of it that the prefill is to blame for: against a fresh prefill of
        the differential encode's tokens.
    """

    full: Answer
    differential: Answer
    missed_changed: float | None
    missed_all: float | None
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
            "logits_error": self.logits_error,
            "prefill_error": self.prefill_error,
            "same_text": self.same_text,
        }


class Comparison:
    """Answers one question about a sequence of frames in both ways, which take turns."""

    def __init__(self, model: Model, question: str, **options: Any):
        """Args: as `Answerer`, without `differential`."""
        self._model = model
        self._full = Answerer(model, question, **options, differential=False)
        self.differential = Answerer(model, question, **options)
        self.reset()

    def reset(self) -> None:
        """Forgets the frames seen."""
        self._full.reset()
        self.differential.reset()
        self._before: tuple[np.ndarray, np.ndarray] | None = None
        self._seen = 0

    def warm_up(self, frames: Sequence[np.ndarray]) -> float:
        """Compiles what these frames need, and forgets them -> seconds of compilation."""
        answers = [
            answerer.answer(frame, limit=2)
            for frame in [*frames, *frames[-1:]]  # the last one again: nothing changes
            for answerer in (self._full, self.differential)
        ]
        self.reset()
        return sum(answer.compile_s for answer in answers)

    def answer(self, frame: np.ndarray, on_text: Callable[[str], None] | None = None) -> Pair:
        """Both answers about the next frame; `on_text` is called with the differential one's."""
        self._seen += 1
        # Whoever comes second may find the machine's caches warm.
        if self._seen % 2:
            full = self._full.answer(frame)
            differential = self.differential.answer(frame, on_text)
        else:
            differential = self.differential.answer(frame, on_text)
            full = self._full.answer(frame)
        missed_changed = missed_all = None
        if self._before is not None:
            frame_before, tokens_before = self._before
            moved = changed_tokens(self._model, frame_before[0], frame[0])
            if moved.any():
                found, true = differential.tokens[-1], full.tokens[-1]
                missed_changed = missed_change(found[moved], true[moved], tokens_before[moved])
                missed_all = missed_change(found, true, tokens_before)
        self._before = frame, full.tokens[-1]
        fresh = self._full.fresh_logits(differential.tokens)
        return Pair(
            full=full,
            differential=differential,
            missed_changed=missed_changed,
            missed_all=missed_all,
            logits_error=_apart(differential.logits, full.logits),
            prefill_error=_apart(differential.logits, fresh),
        )


def _apart(logits: np.ndarray, right: np.ndarray) -> float:
    return float(np.abs(logits - right).max() / np.abs(right).max())


def compare_times(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Times side by side, and what the difference costs; without pairs all is None or 0.

    Args:
      pairs: those with typical times.

    Returns:
      For each of `TIMES`: medians full and differential, the quotient of the medians, and the
      quotient of the totals, in which the frames that change much weigh more; then medians and
      maxima of what is missed and of the logits' errors, answers that are the same, and the
      tokens prefilled of how many.
    """
    found: dict[str, Any] = {"frames": len(pairs)}
    full, ours = [pair.full for pair in pairs], [pair.differential for pair in pairs]
    for name, _ in TIMES:
        before, after = median_of(full, name), median_of(ours, name)
        row = {"full": before, "differential": after, "speed_up": None, "speed_up_of_totals": None}
        if before is not None and after is not None:
            totals = [
                sum(value for answer in side if (value := getattr(answer, name)) is not None)
                for side in (full, ours)
            ]
            row |= {"speed_up": before / after, "speed_up_of_totals": totals[0] / totals[1]}
        found[name] = row
    for name in ("missed_changed", "missed_all", "logits_error", "prefill_error"):
        values = [value for pair in pairs if (value := getattr(pair, name)) is not None]
        found[name] = {
            "median": statistics.median(values) if values else None,
            "max": max(values, default=None),
        }
    found["same_text"] = sum(pair.same_text for pair in pairs)
    found["prefilled"] = sum(answer.prefilled["prefilled"] for answer in ours)
    found["prompt_tokens"] = sum(answer.prefilled["total"] for answer in ours)
    return found
