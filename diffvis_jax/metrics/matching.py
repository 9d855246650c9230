"""One-to-one matching of predictions and truths.

P predictions, T truths.
"""

import numpy as np
from numpy.typing import ArrayLike

from diffvis_jax.metrics.errors import EvaluationError


def match(
    iou: ArrayLike,
    scores: ArrayLike | None = None,
    threshold: float = 0.5,
    *,
    ignore: ArrayLike | None = None,
) -> np.ndarray:
    """Pairs predictions with truths, one to one, where they overlap enough.

    With scores, as COCO does (`COCOeval.evaluateImg`; Lin et al. 2014): in order of falling
    confidence, each prediction takes the truth that it overlaps most of those still free. Equal
    scores go in the order given; of equal overlaps the first truth is taken (COCO: the last).

    Without scores, the assignment with the most pairs, and of those the one with the largest total
    overlap.

    Args:
      iou: `[P, T]` in 0-1, see `iou_matrix`.
      scores: `[P]` confidences of any scale, or None.
      threshold: least overlap of a pair, itself enough; above 0, at most 1.
      ignore: bool `[T]`, truths that do not count: matched only with predictions left over.

    Returns:
      int64 `[P]`: the truth of each prediction, -1 = none.

    Raises:
      EvaluationError: shapes, dtypes or numbers that make no sense.
    """
    overlap = np.asarray(iou, np.float64)
    if overlap.ndim != 2 or not ((overlap >= 0) & (overlap <= 1)).all():
        raise EvaluationError(f"iou must be [P, T] in 0-1, got {list(overlap.shape)}")
    predictions, truths = overlap.shape
    allowed = overlap >= checked_threshold(threshold)
    ignored = as_mask(ignore, truths, "ignore")
    if scores is None:
        return _maximum_matching(overlap, allowed, ignored)
    confidence = np.asarray(scores, np.float64)
    if confidence.shape != (predictions,) or not np.isfinite(confidence).all():
        raise EvaluationError(
            f"scores must be finite [{predictions}], one a prediction, "
            f"got {list(confidence.shape)}: {confidence}"
        )
    return _by_confidence(overlap, allowed, ignored, confidence)


def checked_threshold(threshold: float) -> float:
    """The threshold, if it is one."""
    if not 0 < threshold <= 1:
        raise EvaluationError(f"threshold must lie above 0 and be at most 1, got {threshold}")
    return float(threshold)


def as_mask(mask: ArrayLike | None, length: int, name: str) -> np.ndarray:
    """The mask as bool `[length]`; None marks nothing."""
    if mask is None:
        return np.zeros(length, bool)
    array = np.asarray(mask)
    if array.shape != (length,) or (array.dtype != bool and length):
        raise EvaluationError(
            f"{name} must be bool [{length}], got {array.dtype} {list(array.shape)}"
        )
    return array.astype(bool)


def _by_confidence(
    overlap: np.ndarray, allowed: np.ndarray, ignored: np.ndarray, confidence: np.ndarray
) -> np.ndarray:
    truth_of = np.full(len(overlap), -1)
    free = np.ones(overlap.shape[1], bool)
    for prediction in np.argsort(-confidence, kind="stable"):
        for group in (~ignored, ignored):
            candidates = np.flatnonzero(allowed[prediction] & free & group)
            if candidates.size:
                best = candidates[np.argmax(overlap[prediction, candidates])]
                truth_of[prediction], free[best] = best, False
                break
    return truth_of


def _maximum_matching(overlap: np.ndarray, allowed: np.ndarray, ignored: np.ndarray) -> np.ndarray:
    from scipy.optimize import linear_sum_assignment

    # Any pair outweighs all overlaps together, a pair with a truth that counts all other pairs.
    pair = min(overlap.shape) + 1.0
    counted = pair * (pair + 1)
    weight = np.where(allowed, overlap + np.where(ignored, pair, counted), 0.0)
    rows, columns = linear_sum_assignment(weight, maximize=True)
    truth_of = np.full(len(overlap), -1)
    truth_of[rows] = np.where(allowed[rows, columns], columns, -1)
    return truth_of
