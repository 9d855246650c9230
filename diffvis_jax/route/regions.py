"""Boxes that are hidden: where they are in a screenshot, and pixels without them."""

import dataclasses
import io
import itertools
import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from diffvis_jax.images.geometry import ImageError
from diffvis_jax.images.preprocess import open_image, upright_rgb
from diffvis_jax.route.labels import Region, Screen, StaysHere

Pixels: TypeAlias = tuple[int, int, int, int]  # left, top, right, bottom: edges, in whole pixels

FILL = (0, 0, 0)  # one colour: a blur or a mosaic can be undone
_PATCH = 32  # pixels that are compared together


def pixel_box(region: Region, screen: Screen, size: tuple[int, int]) -> Pixels:
    """Where a region is in a screenshot of `size` (width, height), in whole pixels.

    Raises:
      StaysHere: it is not there, or its scale is not known. A box in CSS pixels taken for one in
        pixels covers a quarter of what it should on a screen of twice the scale.
    """
    across = down = 1.0
    if region.source == "dom":
        if screen.viewport is None or min(screen.viewport) <= 0:
            raise StaysHere("a region from a DOM needs the viewport in CSS pixels")
        across, down = size[0] / screen.viewport[0], size[1] / screen.viewport[1]
        if abs(across - down) * max(screen.viewport) > 1:  # pixel; sides are rounded
            raise StaysHere("a viewport of another shape than the screenshot")
    left, top, right, bottom = np.multiply(region.box, (across, down, across, down)).tolist()
    good = all(map(math.isfinite, region.box)) and left < right and top < bottom
    if not good or right <= 0 or bottom <= 0 or left >= size[0] or top >= size[1]:
        raise StaysHere("a region that is empty or outside its screenshot")
    return math.floor(left), math.floor(top), math.ceil(right), math.ceil(bottom)


def union(before: Screen, after: Screen) -> Screen:
    """The regions of a screenshot that was taken between two looks at the page, which may have
    scrolled: each box covers the places of its kind and label in both looks."""
    if before.regions is None or after.regions is None:
        return Screen(None, after.viewport)
    if before.viewport != after.viewport:
        raise StaysHere("the viewport changed while the screenshot was taken")
    hulls = list(before.regions + after.regions)
    for one, two in itertools.product(before.regions, after.regions):
        if dataclasses.replace(two, box=one.box) == one:
            hulls.append(dataclasses.replace(one, box=hull(one.box, two.box)))
    return Screen(tuple(dict.fromkeys(hulls)), after.viewport)


def hull(one: Any, two: Any) -> Any:
    """The smallest box around two."""
    return (*map(min, one[:2], two[:2]), *map(max, one[2:], two[2:]))


def open_pixels(png: bytes, size: tuple[int, int]) -> np.ndarray:
    """The colours of a picture, `uint8 [H, W, 3]`, those under transparent pixels as they are.

    Raises:
      StaysHere: it cannot be read, or is of another size than was said.
    """
    try:
        with open_image(png, "a picture") as image:
            pixels = np.asarray(upright_rgb(image, "a picture"))
    except ImageError:
        pixels = np.zeros((0, 0, 3), np.uint8)
    if pixels.shape[1::-1] != tuple(size):
        raise StaysHere("a picture that cannot be read, or of another size than was said")
    return pixels


def mask(pixels: np.ndarray, boxes: Sequence[Pixels], margin: int) -> tuple[np.ndarray, np.ndarray]:
    """The pixels with boxes filled, `uint8 [H, W, 3]`, and which were: bool `[H, W]`."""
    pixels, hidden = pixels.copy(), np.zeros(pixels.shape[:2], bool)
    for left, top, right, bottom in boxes:
        rows = slice(max(top - margin, 0), bottom + margin)
        columns = slice(max(left - margin, 0), right + margin)
        pixels[rows, columns], hidden[rows, columns] = FILL, True
    return pixels, hidden


def write_png(pixels: np.ndarray) -> bytes:
    """A new file: no metadata, no alpha."""
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "PNG")
    return file.getvalue()


def changed_boxes(before: np.ndarray, after: np.ndarray, most: int = 3) -> list[Pixels]:
    """At most so many boxes around all that differs between two frames of one size."""
    from scipy import ndimage

    (height, width), p = before.shape[:2], _PATCH
    differs = (before != after).any(-1)
    for axis, side in enumerate((height, width)):
        differs = np.logical_or.reduceat(differs, np.arange(0, side, p), axis)
    labels: Any = ndimage.label(differs, np.ones((3, 3)))[0]  # type: ignore[index]
    found: list[Any] = ndimage.find_objects(labels)
    boxes = [
        (p * x.start, p * y.start, min(p * x.stop, width), min(p * y.stop, height))
        for y, x in found
    ]
    while len(boxes) > most:  # the two whose hull is smallest become one
        pairs = itertools.combinations(boxes, 2)
        one, two = min(pairs, key=lambda pair: _area(hull(*pair)))
        boxes = [hull(one, two), *(box for box in boxes if box not in (one, two))]
    return boxes


def _area(box: Pixels) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])
