"""Coordinates that know what they mean: pixels, 0-1, 0-1000, or pixels of a resized image.

Every published set and every model has its own, and a number does not show which. Here numbers
come with their frame, and go from one frame to another only by `Points.to`. Positions are real
numbers, x to the right and y downwards; (0, 0) is the upper left corner of the image and
(width, height) the lower right one, as the edges of boxes are in `evaluate.boxes`.

V vertices, K boxes.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from diffvis_jax.datasets.errors import CoordinateError
from diffvis_jax.metrics import Polygon, Refusal
from diffvis_jax.metrics.click import Target as PixelTarget

Kind = Literal["pixels", "0-1", "0-1000", "resized"]
BoxForm = Literal["xywh", "xyxy"]

# How far a position may lie outside its image, as a share of the image's side: rounding.
SLACK = 0.005


@dataclasses.dataclass(frozen=True)
class Frame:
    """A coordinate frame of one image; made by `pixels`, `UNIT`, `THOUSAND` or `resized`.

    Attributes:
      kind: what the frame is called.
      width, height: coordinates of the image's lower right corner.
    """

    kind: Kind
    width: float
    height: float

    def __post_init__(self):
        if not (np.isfinite([self.width, self.height]).all() and min(self.width, self.height) > 0):
            raise CoordinateError(f"an image cannot be {self.width} x {self.height} ({self.kind})")

    def __str__(self) -> str:
        measured = self.kind in ("pixels", "resized")
        return f"{self.kind} {self.width:g} x {self.height:g}" if measured else self.kind


UNIT = Frame("0-1", 1, 1)
THOUSAND = Frame("0-1000", 1000, 1000)


def pixels(width: float, height: float) -> Frame:
    """Pixels of the image as it is."""
    return Frame("pixels", width, height)


def resized(width: float, height: float) -> Frame:
    """Pixels of the image after it was resized, as a whole, to that size.

    Qwen2.5-VL answers so, in an image whose sides are multiples of 28.
    """
    return Frame("resized", width, height)


@dataclasses.dataclass(frozen=True, eq=False)
class Points:
    """Positions in an image.

    Attributes:
      xy: float64 `[.., 2]`; boxes are `[K, 2, 2]`: upper left and lower right corner.
      frame: what the numbers mean.
    """

    xy: np.ndarray
    frame: Frame

    def to(self, frame: Frame) -> "Points":
        """The same positions in another frame of the same image.

        Raises:
          CoordinateError: both are pixels, but not of one image.
        """
        if self.frame == frame:
            return self
        if self.frame.kind == frame.kind == "pixels":
            raise CoordinateError(f"{self.frame} and {frame} are not of one image")
        scale = np.array([frame.width / self.frame.width, frame.height / self.frame.height])
        return Points(self.xy * scale, frame)

    @property
    def inside(self) -> np.ndarray:
        """Whether each position lies in the image, edges and rounding included; bool `[..]`."""
        extent = np.array([self.frame.width, self.frame.height])
        within = (self.xy >= -SLACK * extent) & (self.xy <= (1 + SLACK) * extent)
        return np.asarray(within.all(-1))


@dataclasses.dataclass(frozen=True, eq=False)
class Boxes:
    """A target: any of K boxes will do.

    Attributes:
      corners: `[K, 2, 2]`.
    """

    corners: Points


@dataclasses.dataclass(frozen=True, eq=False)
class Outline:
    """A target with V corners.

    Attributes:
      vertices: `[V, 2]`, in order.
    """

    vertices: Points


Target: TypeAlias = Boxes | Outline | Refusal


def in_pixels(target: Target, width: int, height: int) -> PixelTarget:
    """The target as `evaluate.click_accuracy` takes it, in pixels of an image of that size."""
    if isinstance(target, Refusal):
        return target
    if isinstance(target, Outline):
        return Polygon(target.vertices.to(pixels(width, height)).xy)
    return boxes_in_pixels(target.corners, width, height)


def boxes_in_pixels(corners: Points, width: int, height: int) -> np.ndarray:
    """Boxes `[K, 2, 2]` as float64 `[K, 4]`: left, top, right, bottom in pixels."""
    return corners.to(pixels(width, height)).xy.reshape(-1, 4)


def bounds(target: PixelTarget) -> np.ndarray:
    """The smallest box `[4]` around a target's polygon, or its first box."""
    assert not isinstance(target, Refusal)
    if isinstance(target, Polygon):
        vertices = np.asarray(target.vertices, np.float64)
        return np.concatenate([vertices.min(0), vertices.max(0)])
    return np.asarray(target, np.float64).reshape(-1, 4)[0]


# ---- reading numbers --------------------------------------------------------------------------


def read_box(numbers: Any, form: BoxForm, frame: Frame, where: str) -> Points:
    """One box as corners `[1, 2, 2]`, checked.

    Args:
      numbers: four of them.
      form: "xywh": left, top, width, height; "xyxy": left, top, right, bottom.
      frame: what the numbers are said to mean.

    Raises:
      CoordinateError: not four finite numbers, an inverted box, one that reaches outside the
        image, or numbers that look like those of another frame.
    """
    first, second = written = _numbers(numbers, 4, where).reshape(2, 2)
    if form == "xywh":
        second = first + second
    if (second < first).any():
        other = "left, top, right, bottom" if form == "xywh" else "left, top, width, height"
        raise CoordinateError(f"{where}: inverted box {list(numbers)} (is it {other}?)")
    points = Points(np.stack([first, second])[None], frame)
    _check_frame(points, written, f"box {list(numbers)}", form, where)
    return points


def read_outline(numbers: Any, frame: Frame, where: str) -> Points:
    """A polygon given as x, y, x, y, ...: vertices `[V, 2]`; raises as `read_box`."""
    count = len(numbers) if isinstance(numbers, Sequence | np.ndarray) else 0
    if count < 6 or count % 2:
        raise CoordinateError(
            f"{where}: a polygon needs 3 points x, y or more, got {numbers!r:.100}"
        )
    points = Points(_numbers(numbers, count, where).reshape(-1, 2), frame)
    _check_frame(points, points.xy, "polygon", "x, y, ..", where)
    return points


def _numbers(numbers: Any, count: int, where: str) -> np.ndarray:
    try:
        array = np.asarray(numbers, np.float64)
    except (TypeError, ValueError, OverflowError):
        array = np.empty(0)
    wrong = array.shape != (count,) or any(isinstance(number, bool) for number in numbers)
    if wrong or not np.isfinite(array).all():
        raise CoordinateError(f"{where}: {count} finite numbers are needed, got {numbers!r:.100}")
    return array


def _check_frame(points: Points, written: np.ndarray, what: str, form: str, where: str) -> None:
    """Checks positions, and the numbers as they were written: left + width may well be above 1."""
    large = min(points.frame.width, points.frame.height) > 1
    fractions = (written < 2).all() and (written % 1 != 0).any()  # nobody means those of pixels
    if looks_like_unit(points) or (large and fractions):
        raise CoordinateError(f"{where}: {what} looks like 0-1, not {points.frame}")
    if not points.inside.all():
        raise CoordinateError(
            f"{where}: {what} reaches outside the image ({points.frame}; taken as {form})"
        )


def looks_like_unit(points: Points) -> bool:
    """Whether all positions lie within the first pixel of an image, so in another frame surely."""
    large = min(points.frame.width, points.frame.height) > 1
    xy: ArrayLike = points.xy
    return large and bool(np.size(xy)) and bool((np.asarray(xy) <= 1).all())
