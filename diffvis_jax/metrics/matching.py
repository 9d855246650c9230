"""Which prediction is which truth: every one of either has at most one partner.

P predictions, T truths.
"""

from collections import deque

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

    Without scores, as many pairs as there can be (augmenting paths, Berge 1957), started from the
    pairs of largest overlap. How many pairs there are depends on no order; which they are may,
    where overlaps are equal or one pair had to make room for another.

    Args:
      iou: `[P, T]` in 0-1, see `iou_matrix`.
      scores: `[P]` confidences of any scale, or None.
      threshold: least overlap of a pair, itself enough; above 0, at most 1.
      ignore: bool `[T]`, truths that do not matter: they get what the others leave.

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
    idle = as_mask(ignore, truths, "ignore")
    if scores is None:
        return _as_many_as_possible(overlap, allowed, idle)
    confidence = np.asarray(scores, np.float64)
    if confidence.shape != (predictions,) or not np.isfinite(confidence).all():
        raise EvaluationError(
            f"scores must be finite [{predictions}], one a prediction, "
            f"got {list(confidence.shape)}: {confidence}"
        )
    return _by_confidence(overlap, allowed, idle, confidence)


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
    overlap: np.ndarray, allowed: np.ndarray, idle: np.ndarray, confidence: np.ndarray
) -> np.ndarray:
    truth_of = np.full(len(overlap), -1)
    free = np.ones(overlap.shape[1], bool)
    for prediction in np.argsort(-confidence, kind="stable"):
        for group in (~idle, idle):
            candidates = np.flatnonzero(allowed[prediction] & free & group)
            if candidates.size:
                best = candidates[np.argmax(overlap[prediction, candidates])]
                truth_of[prediction], free[best] = best, False
                break
    return truth_of


def _as_many_as_possible(overlap: np.ndarray, allowed: np.ndarray, idle: np.ndarray) -> np.ndarray:
    predictions, truths = overlap.shape
    truth_of, prediction_of = np.full(predictions, -1), np.full(truths, -1)
    pairs = np.argwhere(allowed)
    pairs = pairs[np.argsort(-overlap[allowed], kind="stable")].tolist()
    neighbours: list[list[int]] = [[] for _ in range(truths)]
    for prediction, truth in pairs:
        neighbours[truth].append(prediction)
    # A truth once paired stays so, whatever comes after: those that matter therefore come first.
    for group in (~idle, idle):
        for prediction, truth in pairs:
            if group[truth] and truth_of[prediction] < 0 and prediction_of[truth] < 0:
                truth_of[prediction], prediction_of[truth] = truth, prediction
        for truth in np.flatnonzero(group & (prediction_of < 0)).tolist():
            _augment(truth, neighbours, truth_of, prediction_of)
    return truth_of


def _augment(
    start: int, neighbours: list[list[int]], truth_of: np.ndarray, prediction_of: np.ndarray
) -> None:
    """Finds a partner for one truth, if need be by moving others to other partners."""
    reached_from: dict[int, int] = {}  # the truth from which the search came to a prediction
    queue = deque([start])
    while queue:
        truth = queue.popleft()
        for prediction in neighbours[truth]:
            if prediction in reached_from:
                continue
            reached_from[prediction] = truth
            holder = int(truth_of[prediction])
            if holder >= 0:
                queue.append(holder)
                continue
            while prediction >= 0:  # free: every truth on the way back gives up its partner
                truth = reached_from[prediction]
                left = int(prediction_of[truth])
                truth_of[prediction], prediction_of[truth] = truth, prediction
                prediction = left
            return
