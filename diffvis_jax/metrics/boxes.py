"""Boxes on the screen: area, overlap, containment.

A box is left, top, right, bottom in pixels, y downwards, its edges real positions: a box from 0 to
10 is 10 pixels wide, not 11. A box without area is allowed and overlaps nothing.

P predictions, T truths.
"""

import numpy as np
from numpy.typing import ArrayLike

from diffvis_jax.metrics.errors import BoxError, EvaluationError


def as_boxes(boxes: ArrayLike, name: str = "boxes") -> np.ndarray:
    """The boxes as float64 `[.., 4]`, checked.

    Args:
      boxes: `[.., 4]` left, top, right, bottom in pixels, of any real dtype; `[]` is no boxes.
      name: what the error calls them.

    Raises:
      BoxError: not `[.., 4]`, or a box that is not finite or inverted; names the first such.
    """
    try:
        array = np.asarray(boxes, np.float64)
    except (TypeError, ValueError) as error:
        raise BoxError(f"{name} must be numbers [.., 4]: {error}") from error
    if array.shape == (0,):
        return array.reshape(0, 4)
    if array.ndim == 0 or array.shape[-1] != 4:
        raise BoxError(f"{name} must be [.., 4], got {list(array.shape)}")
    _refuse(name, array, ~np.isfinite(array).all(-1), "is not finite")
    inverted = (array[..., 2] < array[..., 0]) | (array[..., 3] < array[..., 1])
    _refuse(name, array, inverted, "is inverted (is it left, top, width, height?)")
    return array


def _refuse(name: str, boxes: np.ndarray, bad: np.ndarray | np.bool, why: str) -> None:
    """Raises for the first box that is marked."""
    if bad.any():
        index = tuple(int(i) for i in np.argwhere(bad)[0])
        at = f"[{', '.join(map(str, index))}]" if index else ""
        numbers = boxes[index].tolist()
        raise BoxError(f"{name}{at} {why}: left, top, right, bottom = {numbers}")


def area(boxes: ArrayLike) -> np.ndarray:
    """Areas of boxes `[.., 4]` in square pixels, float64 `[..]`; raises BoxError as `as_boxes`."""
    boxes = as_boxes(boxes)
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def iou(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    """Intersection over union of boxes, pair by pair (Jaccard 1912; Everingham et al. 2010).

    Whole pixels give the correctly rounded quotient, so `iou == 0.6` where it is 3/5.

    Args:
      a, b: `[.., 4]` pixels, of shapes that broadcast.

    Returns:
      float64 `[..]` in 0-1; 0 where neither box has an area.

    Raises:
      BoxError: see `as_boxes`.
      ValueError: shapes that do not broadcast.
    """
    a, b = as_boxes(a, "a"), as_boxes(b, "b")
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    # Boxes apart have negative sides, two of which would make a positive area.
    sides = np.maximum(sides, 0)
    shared = sides[..., 0] * sides[..., 1]
    union = area(a) + area(b) - shared
    ratio = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return np.minimum(ratio, 1)  # rounding of fractions of pixels


def iou_matrix(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    """Intersection over union of every box of one list with every one of another.

    Args:
      a: `[P, 4]` pixels; may be empty.
      b: `[T, 4]` pixels; may be empty.

    Returns:
      float64 `[P, T]` in 0-1, see `iou`.

    Raises:
      BoxError: not such lists, or a box that is inverted or not finite.
    """
    a, b = as_boxes(a, "a"), as_boxes(b, "b")
    for name, boxes in (("a", a), ("b", b)):
        if boxes.ndim != 2:
            raise BoxError(f"{name} must be [N, 4], got {list(boxes.shape)}")
    return iou(a[:, None], b[None])


def contains(box: ArrayLike, point: ArrayLike) -> np.ndarray:
    """Whether points lie within boxes, edges included.

    Args:
      box: `[.., 4]` pixels.
      point: `[.., 2]` x, y in pixels, of a shape that broadcasts; one that is not finite lies
        nowhere.

    Returns:
      bool `[..]`.

    Raises:
      BoxError: see `as_boxes`.
      EvaluationError: points that are not `[.., 2]`.
      ValueError: shapes that do not broadcast.
    """
    box, point = as_boxes(box, "box"), np.asarray(point, np.float64)
    if point.ndim == 0 or point.shape[-1] != 2:
        raise EvaluationError(f"point must be [.., 2], got {list(point.shape)}")
    inside = (box[..., :2] <= point) & (point <= box[..., 2:])
    return inside[..., 0] & inside[..., 1]
