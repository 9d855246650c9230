"""Scores the detections on a screen against its labels.

Q queries of a screen.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from diffvis_jax.datasets.coordinates import bounds, boxes_in_pixels, in_pixels
from diffvis_jax.datasets.records import Record, Screen
from diffvis_jax.grounding.decode import Element
from diffvis_jax.grounding.find import on_screenshot
from diffvis_jax.images.geometry import Placement
from diffvis_jax.measure.elements import nearest, partners
from diffvis_jax.metrics import Refusal, click_accuracy, detection_counts, iou, smaller_than
from diffvis_jax.metrics.click import Target


def screen_queries(
    screen: Screen, size: tuple[int, int], small: float
) -> list[tuple[Record, Target]]:
    """The queries of a screen, each a record with its target in pixels of the screenshot.

    A record with a target is one; refusals are left out, since detecting elements cannot answer
    them. On a screen without such records, each labelled element is one, but for those whose
    shorter side is below `small` pixels.

    Args:
      screen: with its records.
      size: width and height of the screenshot.
      small: in pixels of the screenshot.
    """
    targets = [(r, in_pixels(r.target, *size)) for r in screen.records if r.target is not None]
    if targets or screen.elements is None:
        return [(record, target) for record, target in targets if not isinstance(target, Refusal)]
    boxes, record = boxes_in_pixels(screen.elements, *size), screen.records[0]
    return [
        (dataclasses.replace(record, id=f"{record.id}/{index}"), boxes[index])
        for index in np.flatnonzero(~smaller_than(boxes, small))
    ]


def score_screen(
    elements: Sequence[Element],
    queries: Sequence[tuple[Record, Target]],
    screen: Screen,
    size: tuple[int, int],
    small: float,
) -> dict[str, Any]:
    """Clicks, overlaps and counts of one screen, as plain data.

    A tower with a grounding head knows no language: it answers each query with the detected
    element whose centre is nearest to that of the target. A click is therefore correct if any
    element was detected whose centre lies in the target.

    Args:
      elements: detected, in pixels of the screenshot.
      queries: from `screen_queries`.
      screen: with or without labelled elements.
      size: width and height of the screenshot.
      small: labelled elements whose shorter side is below so many pixels do not count.

    Returns:
      elements: how many were detected; clicks: Q outcomes; points: Q points or None; ious: Q
      overlaps of the answer's box and the target's bounds; counts: true positives, false positives
      and false negatives of `detection_counts`, None without labels.
    """
    targets = [target for _, target in queries]
    answers = nearest(elements, [bounds(target) for target in targets])
    outcomes = click_accuracy([answer and answer.point for answer in answers], targets).outcomes
    result: dict[str, Any] = {
        "elements": len(elements),
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
            np.array([element.box for element in elements]).reshape(-1, 4),
            truths,
            scores=[element.score for element in elements],
            ignore=smaller_than(truths, small),
        )
        result["counts"] = list(dataclasses.astuple(counts)[:3])
    return result


def unmatched(
    first: Sequence[Element], second: Sequence[Element], where: Placement
) -> tuple[list[list[int]], list[list[int]]]:
    """Boxes detected in the first list alone, and in the second alone (see `partners`).

    Compared in pixels of the frame: clipped to the screenshot, boxes that cross its edge overlap
    differently.

    Args:
      first, second: in pixels of the frame; elements in the padding are left out.
      where: the screenshot in the frame.

    Returns:
      Left, top, right, bottom in whole pixels of the screenshot.
    """
    first, second = ([e for e in x if on_screenshot([e], where)] for x in (first, second))
    partner = partners(first, second)
    matched = set(partner.tolist())
    only_first = [element for element, p in zip(first, partner, strict=True) if p < 0]
    only_second = [element for index, element in enumerate(second) if index not in matched]
    return _rounded(only_first, where), _rounded(only_second, where)


def _rounded(elements: list[Element], where: Placement) -> list[list[int]]:
    return [[round(edge) for edge in each.box] for each in on_screenshot(elements, where)]
