"""From the head's answers to a list of elements."""

import dataclasses
from collections.abc import Mapping

import jax
import numpy as np

from diffvis_jax.grounding.head import HeadConfig, corner_boxes

MOST = 400  # elements of a frame


@dataclasses.dataclass(frozen=True)
class Element:
    """One clickable element.

    Attributes:
      box: left, top, right, bottom in pixels of the frame.
      kind: one of the head's kinds.
      score: confidence of the head, 0-1: the intersection over union that it expects of the box and
        an element.
    """

    box: tuple[float, float, float, float]
    kind: str
    score: float

    @property
    def point(self) -> tuple[float, float]:
        """Where to click: the middle of the box."""
        left, top, right, bottom = self.box
        return (left + right) / 2, (top + bottom) / 2


def decode(
    config: HeadConfig,
    answers: Mapping[str, jax.Array],
    *,
    threshold: float | None = None,
    overlap: float = 0.5,
    limit: int = MOST,
) -> list[list[Element]]:
    """Elements of each frame, by falling score.

    Args:
      config: of the head.
      answers: what the head returned for B frames.
      threshold: least score; None = the head's own.
      overlap: of two boxes whose intersection over union is larger, that of higher score is kept.
      limit: most elements of a frame.

    Returns:
      B lists of elements.
    """
    threshold = config.threshold if threshold is None else threshold
    boxes = np.asarray(corner_boxes(config, answers["box"]), np.float64)
    scores = 1 / (1 + np.exp(-np.asarray(answers["object"], np.float64)))
    kinds = np.asarray(answers["kind"]).argmax(-1)
    elements = []
    for frame_boxes, frame_scores, frame_kinds in zip(boxes, scores, kinds, strict=True):
        chosen = frame_scores >= threshold
        order = np.argsort(-frame_scores[chosen], kind="stable")
        box, score, kind = (a[chosen][order] for a in (frame_boxes, frame_scores, frame_kinds))
        kept = _without_overlaps(box, overlap)[:limit]
        elements.append(
            [Element(tuple(box[i].tolist()), config.kinds[kind[i]], float(score[i])) for i in kept]
        )
    return elements


def _without_overlaps(boxes: np.ndarray, overlap: float) -> list[int]:
    """Greedy non-maximum suppression over boxes `[n, 4]` that are sorted by score."""
    left, top, right, bottom = boxes.T
    area = (right - left) * (bottom - top)
    free = np.ones(len(boxes), bool)
    kept = []
    for i in range(len(boxes)):
        if not free[i]:
            continue
        kept.append(i)
        width = np.minimum(right, right[i]) - np.maximum(left, left[i])
        height = np.minimum(bottom, bottom[i]) - np.maximum(top, top[i])
        shared = np.clip(width, 0, None) * np.clip(height, 0, None)
        free &= shared / (area + area[i] - shared) <= overlap
    return kept
