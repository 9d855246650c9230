"""Metrics of detections, clicks and actions, with their confidence intervals."""

from diffvis_jax.metrics.boxes import area, as_boxes, contains, iou, iou_matrix
from diffvis_jax.metrics.click import (
    OUTCOMES,
    ClickResult,
    Polygon,
    Refusal,
    click_accuracy,
)
from diffvis_jax.metrics.detection import Counts, detection_counts, smaller_than, total
from diffvis_jax.metrics.errors import BoxError, EvaluationError
from diffvis_jax.metrics.matching import match
from diffvis_jax.metrics.statistics import (
    Paired,
    bootstrap_interval,
    mcnemar,
    tails,
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
    "smaller_than",
    "tails",
    "total",
    "wilson_interval",
]
