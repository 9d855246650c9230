"""What the labels of a screen say of what was found on it.

K queries of a screen.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from diffvis_jax.datasets.coordinates import bounds, boxes_in_pixels, in_pixels
from diffvis_jax.datasets.records import Record, Screen
from diffvis_jax.grounding.decode import Element
from diffvis_jax.measure.elements import partners
from diffvis_jax.metrics import Refusal, click_accuracy, detection_counts, iou, smaller_than
from diffvis_jax.metrics.click import Target


def queries(screen: Screen, size: tuple[int, int]) -> list[tuple[Record, Target]]:
    """The records of a screen that ask for a place, with their targets in pixels.

    Queries that are to be refused are left out: finding elements is no answer to them.
    """
    targets = [(r, in_pixels(r.target, *size)) for r in screen.records if r.target is not None]
    return [(record, target) for record, target in targets if not isinstance(target, Refusal)]


def judge(
    found: Sequence[Element],
    asked: Sequence[tuple[Record, Target]],
    screen: Screen,
    size: tuple[int, int],
    small: float,
) -> dict[str, Any]:
    """Clicks, overlaps and counts of one screen, as plain data.

    A tower with a grounding head knows no language: to each query it answers with the element,
    of those found, whose middle is nearest to that of the target. A click is therefore right if
    the target was found at all, with a middle that lies in it.

    Args:
      found: elements in pixels of the screenshot.
      asked: from `queries`.
      screen: labelled with its elements, or not.
      size: width and height of the screenshot.
      small: labelled elements whose shorter side is below so many pixels do not count.

    Returns:
      found: how many elements; clicks: K outcomes; points: K places or None; ious: K overlaps of
      the element answered with, and the target's bounds; counts: of `detection_counts`, or None.
    """
    targets = [target for _, target in asked]
    answers = [_nearest(found, bounds(target)) for target in targets]
    outcomes = click_accuracy([answer and answer.point for answer in answers], targets).outcomes
    boxes = np.array([element.box for element in found]).reshape(-1, 4)
    result: dict[str, Any] = {
        "found": len(found),
        "clicks": list(outcomes),
        "points": [answer and [round(x, 1) for x in answer.point] for answer in answers],
        "ious": [
            round(float(iou(answer.box, bounds(target))), 4) if answer else 0.0
            for answer, target in zip(answers, targets, strict=True)
        ],
        "counts": None,
    }
    if (labelled := screen.elements) is not None:
        truths = boxes_in_pixels(labelled, *size)
        counts = detection_counts(
            boxes,
            truths,
            scores=[element.score for element in found],
            ignore=smaller_than(truths, small),
        )
        result["counts"] = [
            counts.true_positives,
            counts.false_positives,
            counts.false_negatives,
        ]
    return result


def _nearest(found: Sequence[Element], target: np.ndarray) -> Element | None:
    """The element whose middle is nearest to that of a box `[4]`; None: nothing was found."""
    middle = (target[:2] + target[2:]) / 2
    return min(found, key=lambda each: float(np.square(each.point - middle).sum()), default=None)


def differing(
    ours: Sequence[Element], theirs: Sequence[Element]
) -> tuple[list[list[int]], list[list[int]]]:
    """Boxes found in the first alone, and in the second alone (see `grounding.compare`), in whole
    pixels."""
    partner = partners(ours, theirs)
    taken = set(partner.tolist())
    only_ours = [element for element, p in zip(ours, partner, strict=True) if p < 0]
    only_theirs = [element for i, element in enumerate(theirs) if i not in taken]
    return _rounded(only_ours), _rounded(only_theirs)


def _rounded(elements: Sequence[Element]) -> list[list[int]]:
    return [[round(edge) for edge in element.box] for element in elements]
