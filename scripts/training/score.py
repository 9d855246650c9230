"""How well a tower and its head find the elements of rendered pages."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from screens import Screen

from diffvis_jax.grounding.decode import Element, decode
from diffvis_jax.grounding.find import encode_for_head, head_answers
from diffvis_jax.grounding.head import HeadConfig
from diffvis_jax.measure.elements import nearest
from diffvis_jax.metrics import (
    Counts,
    click_accuracy,
    detection_counts,
    smaller_than,
    total,
    wilson_interval,
)
from diffvis_jax.towers.registry import with_size

SMALL = 1 / 64  # of a frame's longer side (16 of 1024 px): shorter elements are reported apart
THRESHOLDS = tuple(round(0.02 * n, 2) for n in range(5, 36))
FLAT = 0.02  # of F1: where it depends little on the threshold, clicks depend on it a lot


def answer(
    tower: Any, head: HeadConfig, params: dict[str, Any], screens: Sequence[Screen]
) -> list[dict[str, jax.Array]]:
    """What the head says of each screen."""
    answers = []
    for screen in screens:
        config = with_size(tower, screen.pixels.shape[:2])
        seen = encode_for_head(params["tower"], screen.pixels[None], config=config, head=head)
        answers.append(head_answers(params["head"], *seen, config=head))
    return answers


def score(
    tower: Any, head: HeadConfig, params: dict[str, Any], screens: Sequence[Screen]
) -> dict[str, Any]:
    """`measure` at the head's own threshold."""
    answers = answer(tower, head, params, screens)
    return measure(head, [decode(head, a)[0] for a in answers], screens)


def best_threshold(
    head: HeadConfig, answers: Sequence[dict[str, jax.Array]], screens: Sequence[Screen]
) -> float:
    """The lowest of `THRESHOLDS` whose F1 is within `FLAT` of the largest."""
    f1 = {}
    for threshold in THRESHOLDS:
        found = [decode(head, a, threshold=threshold)[0] for a in answers]
        f1[threshold] = measure(head, found, screens)["f1"]
    return min(threshold for threshold in THRESHOLDS if f1[threshold] >= max(f1.values()) - FLAT)


def measure(
    head: HeadConfig, found: Sequence[list[Element]], screens: Sequence[Screen]
) -> dict[str, Any]:
    """Precision, recall and F1 at IoU 0.5, click accuracy and agreement of kinds; 0-1.

    Small elements neither count as found nor as missed; "small_recall" is theirs. "click" asks, for
    each element, whether the detection nearest to its middle would click it; with its 95 % Wilson
    interval.
    """
    counts: list[Counts] = []
    small: list[Counts] = []
    points: list[Any] = []
    asked: list[np.ndarray] = []
    for screen, elements in zip(screens, found, strict=True):
        boxes = np.array([e.box for e in elements]).reshape(-1, 4)
        large = ~smaller_than(screen.boxes, SMALL * screen.long_side)

        def counted(ignore: np.ndarray, boxes=boxes, elements=elements, screen=screen) -> Counts:
            return detection_counts(
                boxes,
                screen.boxes,
                scores=[e.score for e in elements],
                ignore=ignore,
                prediction_kinds=[e.kind for e in elements],
                truth_kinds=[head.kinds[kind] for kind in screen.kinds],
            )

        counts.append(counted(~large))
        small.append(counted(large))
        points += [e and e.point for e in nearest(elements, screen.boxes[large])]
        asked += list(screen.boxes[large])
    whole = total(counts)
    clicks = click_accuracy(points, asked)
    hits = int(clicks.correct.sum())
    return {
        "f1": whole.f1 or 0.0,
        "precision": whole.precision or 0.0,
        "recall": whole.recall or 0.0,
        "kind": whole.kind_agreement or 0.0,
        "click": clicks.accuracy or 0.0,
        "click_interval": wilson_interval(hits, len(asked)) if asked else None,
        "elements": len(asked),
        "small_recall": total(small).recall,
    }
