"""Compares detected elements: with those of another encode, with labelled boxes."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from diffvis_jax.grounding.decode import Element
from diffvis_jax.metrics import iou_matrix, match


@dataclasses.dataclass(frozen=True)
class Agreement:
    """Elements in both of two lists, or in one alone.

    Attributes:
      both: pairs whose boxes overlap by half (IoU) and whose kinds are equal.
      only_first, only_second: elements without such a partner.
    """

    both: int
    only_first: int
    only_second: int

    @property
    def same(self) -> bool:
        """Whether both lists name the same elements."""
        return not (self.only_first or self.only_second)


def agreement(first: Sequence[Element], second: Sequence[Element]) -> Agreement:
    """Compares two lists of elements of one frame, one to one."""
    pairs = int((partners(first, second) >= 0).sum())
    return Agreement(pairs, len(first) - pairs, len(second) - pairs)


def partners(first: Sequence[Element], second: Sequence[Element]) -> np.ndarray:
    """For each element of the first list the number of the same one in the second, -1 = none;
    int64 `[len(first)]`."""
    if not first or not second:
        return np.full(len(first), -1)
    boxes = [np.array([element.box for element in part]) for part in (first, second)]
    alike = np.array([[a.kind == b.kind for b in second] for a in first])
    return match(np.where(alike, iou_matrix(*boxes), 0.0))


def nearest(
    elements: Sequence[Element], boxes: Sequence[np.ndarray] | np.ndarray
) -> list[Element | None]:
    """For each box `[4]` the element whose centre is nearest to its centre; None of no elements."""
    if not elements:
        return [None] * len(boxes)
    points = np.array([element.point for element in elements])
    centres = [(box[:2] + box[2:]) / 2 for box in boxes]
    return [elements[np.square(points - centre).sum(-1).argmin()] for centre in centres]
