"""How well a tower and its head find the elements of rendered pages."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from screens import Screen

from diffvis_jax.evaluate import Counts, click_accuracy, detection_counts, smaller_than, total
from diffvis_jax.grounding.decode import Element
from diffvis_jax.grounding.find import Head, find_elements
from diffvis_jax.grounding.head import HeadConfig
from diffvis_jax.step import jit_encode

SMALL = 16.0  # pixels of the frame: elements with a shorter side are reported apart


def find(
    tower: Any, head: HeadConfig, params: dict[str, Any], screens: Sequence[Screen]
) -> list[list[Element]]:
    """The elements that are found on each screen, in pixels of its frame."""
    trained = Head(head, params["head"])
    found = []
    for screen in screens:
        pixels = screen.crop(0, 0, screen.size)[None]
        found += find_elements(trained, jit_encode(params["tower"], pixels, config=tower))
    return found


def score(
    tower: Any, head: HeadConfig, params: dict[str, Any], screens: Sequence[Screen]
) -> dict[str, float]:
    """Precision, recall and F1 at IoU 0.5, click accuracy and agreement of kinds; 0-1.

    Small elements neither count as found nor as missed. "click" asks, for each element, whether the
    detection nearest to its middle would click it.
    """
    counts: list[Counts] = []
    points: list[Any] = []
    asked: list[np.ndarray] = []
    for screen, elements in zip(screens, find(tower, head, params, screens), strict=True):
        boxes = np.array([e.box for e in elements]).reshape(-1, 4)
        large = ~smaller_than(screen.boxes, SMALL)
        counts.append(
            detection_counts(
                boxes,
                screen.boxes,
                scores=[e.score for e in elements],
                ignore=~large,
                prediction_kinds=[e.kind for e in elements],
                truth_kinds=[head.kinds[kind] for kind in screen.kinds],
            )
        )
        points += nearest(elements, screen.boxes[large])
        asked += list(screen.boxes[large])
    whole = total(counts)
    return {
        "f1": whole.f1 or 0.0,
        "precision": whole.precision or 0.0,
        "recall": whole.recall or 0.0,
        "kind": whole.kind_agreement or 0.0,
        "click": click_accuracy(points, asked).accuracy or 0.0,
        "elements": float(len(asked)),
    }


def nearest(elements: Sequence[Element], boxes: np.ndarray) -> list[tuple[float, float] | None]:
    """For each box the click point, of those found, that is nearest to its middle."""
    if not elements:
        return [None] * len(boxes)
    points = np.array([e.point for e in elements])
    middles = (boxes[:, :2] + boxes[:, 2:]) / 2
    distance = np.square(points[None] - middles[:, None]).sum(-1)
    return [tuple(points[i]) for i in distance.argmin(1)]
