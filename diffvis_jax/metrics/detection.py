"""Detection of all elements of a picture: precision, recall and F1 over boxes.

P predictions, T truths of one picture.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from diffvis_jax.metrics.boxes import as_boxes, iou_matrix
from diffvis_jax.metrics.errors import EvaluationError
from diffvis_jax.metrics.matching import as_mask, match


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counts:
    """Detections of one picture, or of several together (see `total`).

    Attributes:
      true_positives: pairs of a prediction and a truth that counts.
      false_positives: predictions without a truth. A second prediction of one truth is one.
      false_negatives: truths that count, without a prediction.
      ignored_predictions: predictions of ignored truths; neither right nor false.
      kinds_compared: true positives whose kinds were given.
      kinds_agreed: those of them with the same kind on both sides.
    """

    true_positives: int = 0
    false_positives: int = 0
    false_negatives: int = 0
    ignored_predictions: int = 0
    kinds_compared: int = 0
    kinds_agreed: int = 0

    @property
    def precision(self) -> float | None:
        """Share of the predictions that are right; None without predictions."""
        return _share(self.true_positives, self.true_positives + self.false_positives)

    @property
    def recall(self) -> float | None:
        """Share of the truths that have a prediction; None without truths."""
        return _share(self.true_positives, self.true_positives + self.false_negatives)

    @property
    def f1(self) -> float | None:
        """Harmonic mean of precision and recall (van Rijsbergen 1979, ch. 7; Dice 1945).

        2 TP / (2 TP + FP + FN): 0 without true positives, None without predictions and truths.
        """
        right = 2 * self.true_positives
        return _share(right, right + self.false_positives + self.false_negatives)

    @property
    def kind_agreement(self) -> float | None:
        """Share of the true positives that are of the right kind; None if none was compared."""
        return _share(self.kinds_agreed, self.kinds_compared)


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def detection_counts(
    predictions: ArrayLike,
    truths: ArrayLike,
    *,
    scores: ArrayLike | None = None,
    threshold: float = 0.5,
    ignore: ArrayLike | None = None,
    prediction_kinds: Sequence[Any] | None = None,
    truth_kinds: Sequence[Any] | None = None,
) -> Counts:
    """Compares the predicted boxes of one picture with the true ones, one to one.

    Without scores the counts depend on no order. The agreement of kinds is that of the pairs that
    the boxes alone make (see `match`).

    Args:
      predictions: `[P, 4]` left, top, right, bottom in pixels; may be empty.
      truths: `[T, 4]` likewise.
      scores: `[P]`; if given, matched in order of confidence, otherwise as many pairs as possible:
        see `match`.
      threshold: least IoU of a pair, itself enough; above 0, at most 1.
      ignore: bool `[T]`, truths that count neither as detected nor as missed, see `smaller_than`.
        A prediction matched with one does not count as false; one without any truth does, however
        small it is (COCO leaves it out).
      prediction_kinds, truth_kinds: P and T names, compared by `==`; both or neither.

    Raises:
      BoxError: a box that is inverted or not finite.
      EvaluationError: other arguments that do not fit.
    """
    predictions, truths = as_boxes(predictions, "predictions"), as_boxes(truths, "truths")
    truth_of = match(iou_matrix(predictions, truths), scores, threshold, ignore=ignore)
    ignored = as_mask(ignore, len(truths), "ignore")
    paired = truth_of >= 0
    right = paired.copy()
    right[paired] = ~ignored[truth_of[paired]]
    matched = int(right.sum())

    compared = agreed = 0
    if (prediction_kinds is None) != (truth_kinds is None):
        raise EvaluationError("prediction_kinds and truth_kinds are given both or neither")
    if prediction_kinds is not None and truth_kinds is not None:
        lengths, expected = (len(prediction_kinds), len(truth_kinds)), (len(paired), len(truths))
        if lengths != expected:
            raise EvaluationError(f"expected {expected} prediction and truth kinds, got {lengths}")
        compared = matched
        agreed = sum(
            bool(prediction_kinds[int(p)] == truth_kinds[int(truth_of[p])])
            for p in np.flatnonzero(right)
        )
    return Counts(
        true_positives=matched,
        false_positives=int((~paired).sum()),
        false_negatives=int((~ignored).sum()) - matched,
        ignored_predictions=int(paired.sum()) - matched,
        kinds_compared=compared,
        kinds_agreed=agreed,
    )


def smaller_than(boxes: ArrayLike, pixels: float = 16.0) -> np.ndarray:
    """The boxes `[T, 4]` whose shorter side is below so many pixels, to be ignored; bool `[T]`.

    The default is a choice, not a standard: say which was used. Raises BoxError as `as_boxes`.
    """
    boxes = as_boxes(boxes)
    return (boxes[..., 2:] - boxes[..., :2]).min(-1) < pixels


def total(counts: Iterable[Counts]) -> Counts:
    """The counts of all pictures together: each element weighs the same, not each picture."""
    rows = [dataclasses.astuple(one) for one in counts]
    sums = [sum(column) for column in zip(*rows, strict=True)]
    names = [field.name for field in dataclasses.fields(Counts)]
    return Counts(**dict(zip(names, sums, strict=True))) if rows else Counts()
