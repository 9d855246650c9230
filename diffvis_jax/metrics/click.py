"""Pointing at one element: does the predicted point lie in the target?

One query has one answer and one target, and every query counts: one without an answer is wrong.

Q queries, K boxes, V vertices.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import ArrayLike

from diffvis_jax.metrics.boxes import as_boxes, contains
from diffvis_jax.metrics.errors import EvaluationError

Outcome = Literal[
    "correct",
    "outside",  # a point, but not within the target
    "refused",  # no point, where there was a target
    "not_refused",  # a point, where there was no target
    "wrong_format",  # an answer that is no point
    "no_prediction",  # None
]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)


@dataclasses.dataclass(frozen=True)
class Polygon:
    """A target with corners.

    Attributes:
      vertices: `[V, 2]` x, y in pixels, V >= 3, in order, the last joined to the first.
    """

    vertices: ArrayLike


@dataclasses.dataclass(frozen=True)
class Refusal:
    """As a target: there is nothing to point at. As an answer: the model says so."""


# One box [4], several boxes [K, 4] any of which will do, a polygon, or nothing to point at.
Target: TypeAlias = ArrayLike | Polygon | Refusal


@dataclasses.dataclass(frozen=True)
class ClickResult:
    """The outcome of every query.

    Attributes:
      outcomes: Q of `OUTCOMES`, in the order of the queries.
    """

    outcomes: tuple[Outcome, ...]

    @property
    def correct(self) -> np.ndarray:
        """bool `[Q]`, for `mcnemar`."""
        return np.array([outcome == "correct" for outcome in self.outcomes], bool)

    @property
    def accuracy(self) -> float | None:
        """Share of all queries that are correct; None without queries."""
        return float(self.correct.mean()) if self.outcomes else None


def click_accuracy(points: Iterable[Any], targets: Iterable[Target]) -> ClickResult:
    """Whether each predicted point lies within its target, edges included.

    The rule of ScreenSpot (Cheng et al. 2024), with the polygons and refusals of OSWorld-G (Xie et
    al. 2025). A refusal is right only where the target is one.

    Args:
      points: Q answers: x, y in pixels of the picture that the targets are in; `Refusal()`, into
        which the caller turns what the model writes for it (OSWorld-G: -1, -1); None = nothing
        was predicted. Anything but two finite real numbers is of wrong format, and wrong.
      targets: Q of: a box `[4]` left, top, right, bottom in pixels; boxes `[K, 4]` any of which
        will do; a `Polygon`; `Refusal()`.

    Raises:
      BoxError: a target box that is inverted or not finite; names the query.
      EvaluationError: a target that is none, or not as many points as targets.
    """
    points, targets = list(points), list(targets)
    if len(points) != len(targets):
        raise EvaluationError(f"one point a target: got {len(points)} and {len(targets)}")
    pairs = zip(points, targets, strict=True)
    return ClickResult(tuple(_outcome(i, point, target) for i, (point, target) in enumerate(pairs)))


def _outcome(index: int, answer: Any, target: Target) -> Outcome:
    # The target is checked whatever the answer: a fault of the data must not depend on the model.
    target = _checked(target, f"targets[{index}]")
    if answer is None:
        return "no_prediction"
    if isinstance(answer, Refusal):
        return "correct" if isinstance(target, Refusal) else "refused"
    point = _as_point(answer)
    if point is None:
        return "wrong_format"
    if isinstance(target, Refusal):
        return "not_refused"
    if isinstance(target, Polygon):
        inside = _in_polygon(np.asarray(target.vertices), point)
    else:
        inside = bool(contains(target, point).any())
    return "correct" if inside else "outside"


def _checked(target: Target, name: str) -> np.ndarray | Polygon | Refusal:
    """The target with its numbers as float64: boxes `[4]` or `[K, 4]`, vertices `[V, 2]`."""
    if isinstance(target, Refusal):
        return target
    if isinstance(target, Polygon):
        try:
            vertices = np.asarray(target.vertices, np.float64)
        except (TypeError, ValueError) as error:
            raise EvaluationError(f"{name} must have vertices [V, 2]: {error}") from error
        if vertices.ndim != 2 or vertices.shape[1] != 2 or len(vertices) < 3:
            raise EvaluationError(
                f"{name} must have vertices [V, 2], V >= 3, got {list(vertices.shape)}"
            )
        if not np.isfinite(vertices).all():
            raise EvaluationError(f"{name} has vertices that are not finite: {vertices.tolist()}")
        return Polygon(vertices)
    boxes = as_boxes(target, name)
    if boxes.ndim > 2 or not boxes.size:
        raise EvaluationError(f"{name} must be a box [4] or boxes [K, 4], got {list(boxes.shape)}")
    return boxes


def _as_point(answer: Any) -> np.ndarray | None:
    """float64 `[2]`, or None if the answer is not two finite real numbers."""
    try:
        array = np.asarray(answer)
    except (TypeError, ValueError):  # ragged
        return None
    if array.shape != (2,) or array.dtype.kind not in "iuf" or not np.isfinite(array).all():
        return None
    return array.astype(np.float64)


def _in_polygon(vertices: np.ndarray, point: np.ndarray) -> bool:
    """Even-odd rule: a ray to the right crosses the outline an odd number of times.

    Shimrat 1962 (CACM 5, 434), with the outline itself inside, as the edges of boxes are.
    """
    # Relative to the point, which then is the origin: start and end of every edge.
    (x0, y0), (x1, y1) = (vertices - point).T, (np.roll(vertices, -1, axis=0) - point).T
    side = x0 * y1 - x1 * y0
    between = (x0 * x1 <= 0) & (y0 * y1 <= 0)
    if ((side == 0) & between).any():
        return True
    # Of the two ends of an edge one counts as above, so that a vertex is crossed once.
    spans = (y0 > 0) != (y1 > 0)
    to_the_right = (side > 0) == (y1 > y0)
    return bool((spans & to_the_right).sum() % 2)
