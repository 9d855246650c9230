"""Measuring what an agent finds on the screen: boxes, clicks, and how sure the numbers are."""

from diffvis_jax.metrics.boxes import area, as_boxes, contains, iou, iou_matrix, shorter_side
from diffvis_jax.metrics.click import (
    OUTCOMES,
    ClickResult,
    Polygon,
    Refusal,
    accuracy_at_iou,
    click_accuracy,
)
from diffvis_jax.metrics.detection import Counts, detection_counts, smaller_than, total
from diffvis_jax.metrics.errors import BoxError, EvaluationError
from diffvis_jax.metrics.matching import match
from diffvis_jax.metrics.statistics import (
    Paired,
    bootstrap_interval,
    mcnemar,
    mcnemar_p_value,
    wilson_interval,
)

__all__ = [
    "OUTCOMES",
    "BoxError",
    "ClickResult",
    "Counts",
    "EvaluationError",
    "Paired",
    "Polygon",
    "Refusal",
    "accuracy_at_iou",
    "area",
    "as_boxes",
    "bootstrap_interval",
    "click_accuracy",
    "contains",
    "detection_counts",
    "iou",
    "iou_matrix",
    "match",
    "mcnemar",
    "mcnemar_p_value",
    "shorter_side",
    "smaller_than",
    "total",
    "wilson_interval",
]
