"""Where the pixels of an image go when it is fitted into a tower's input: the geometry.

This module knows sizes and coordinates, no pixels; it imports neither PIL nor JAX, so that the
configs of the towers can embed `PreprocessConfig`.
"""

from __future__ import annotations

import dataclasses
import math
import operator
from typing import Literal, NamedTuple, Protocol, get_args

import numpy as np
from numpy.typing import ArrayLike

from diffvis_jax.errors import ConfigError, DiffvisError

Mode = Literal["pad", "crop", "squash", "native"]

_MOST_ELONGATED = 200  # long over short side of an image in mode "native", as its models were made


class ImageError(DiffvisError, ValueError):
    """An image that cannot be used; the message names it and says what would be right."""


@dataclasses.dataclass(frozen=True)
class PreprocessConfig:
    """How an image of any size becomes a frame: a square, or one of the image's own shape.

    Mean and standard deviation are not here: normalisation happens inside the tower.

    Attributes:
        size: side S of a square frame, in pixels; of no meaning, and 0, in mode "native".
        mode: "pad" puts the image in the middle of a square of its longer side, then resizes
            (LLaVA's and FastVLM's `image_aspect_ratio="pad"`); "crop" resizes the shorter side to
            S, then cuts out the centre (CLIP, and FastVLM's model card); "squash" resizes to
            S x S whatever the aspect ratio (SigLIP); "native" resizes to nearly the image's own
            size (Qwen2.5-VL, see `frame_size`).
        pad_color: the red, green and blue (0-255) around a padded image: black for FastVLM,
            (122, 116, 104), CLIP's mean colour, for LLaVA with a CLIP tower.
        resample: always "bicubic", as Pillow computes it on uint8.
        multiple: both sides of a frame in mode "native" are multiples of so many pixels.
        min_pixels, max_pixels: bounds of height x width in mode "native".
        pinpoints: canvases (height, width) of which tiles are cut beside the frame, in pixels (see
            `anyres.py`); empty = there are no tiles.

    Raises:
        ConfigError: (a ValueError) a field holds something else.
    """

    size: int
    mode: Mode = "pad"
    pad_color: tuple[int, int, int] = (0, 0, 0)
    resample: Literal["bicubic"] = "bicubic"
    multiple: int = 28
    min_pixels: int = 3136
    max_pixels: int = 12_845_056
    pinpoints: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise ConfigError(
                f"mode must be 'pad', 'crop', 'squash' or 'native', got {self.mode!r}"
            )
        if not _is_int(self.size) or self.size < (self.mode != "native"):
            raise ConfigError(f"size must be a positive whole number of pixels, got {self.size!r}")
        for name in ("multiple", "min_pixels", "max_pixels"):
            value = getattr(self, name)
            if not _is_int(value) or value < 1:
                raise ConfigError(f"{name} must be a positive whole number, got {value!r}")
        least = max(self.min_pixels, self.multiple**2)
        if self.max_pixels < least:
            raise ConfigError(
                f"max_pixels {self.max_pixels} must be at least min_pixels and {self.multiple} x "
                f"{self.multiple}, which are {least}"
            )
        if self.resample != "bicubic":
            raise ConfigError(f"resample must be 'bicubic', got {self.resample!r}")
        try:
            color = tuple(self.pad_color)
        except TypeError:
            color = ()
        if len(color) != 3 or not all(_is_int(c) and 0 <= c <= 255 for c in color):
            raise ConfigError(f"pad_color must be three integers 0-255, got {self.pad_color!r}")
        # A config read from JSON brings a list, which could not be hashed (configs are static).
        object.__setattr__(self, "size", int(self.size))
        object.__setattr__(self, "pad_color", tuple(int(c) for c in color))


class HasPreprocess(Protocol):
    """Any config that embeds a `PreprocessConfig`: those of all towers and models."""

    @property
    def preprocess(self) -> PreprocessConfig: ...


def preprocess_config(config: HasPreprocess | PreprocessConfig) -> PreprocessConfig:
    """The `PreprocessConfig` in `config` (which may also be one itself)."""
    found = getattr(config, "preprocess", config)
    if not isinstance(found, PreprocessConfig):
        raise ConfigError(
            "config must have an attribute `preprocess` that is a PreprocessConfig "
            f"(pass `model.config`), got {type(config).__name__}"
        )
    return found


def frame_size(
    width: int, height: int, config: HasPreprocess | PreprocessConfig
) -> tuple[int, int]:
    """(height, width) of the frame that an image of `width` x `height` pixels becomes.

    In mode "native" each side is rounded to the nearest multiple; if that is more or fewer pixels
    than allowed, both are scaled by one factor, then rounded down or up. So the aspect ratio is
    kept but for the rounding: x and y have scales of their own. As `smart_resize` of Qwen2-VL's
    processor computes it (Python rounds halves to even).

    Raises:
        ImageError: width or height is not a positive whole number, or one is more than 200 times
            the other in mode "native".
    """
    settings = preprocess_config(config)
    if not (_is_int(width) and _is_int(height)) or width < 1 or height < 1:
        raise ImageError(
            "width and height must be positive whole numbers of pixels, "
            f"got width={width!r}, height={height!r}"
        )
    if settings.mode != "native":
        return settings.size, settings.size
    if max(width, height) > _MOST_ELONGATED * min(width, height):
        raise ImageError(
            f"{width} x {height} pixels (width x height) are too elongated: one side may be at "
            f"most {_MOST_ELONGATED} times the other; cut the image into parts"
        )
    multiple, least, most = settings.multiple, settings.min_pixels, settings.max_pixels
    sides = [round(side / multiple) * multiple for side in (height, width)]
    if math.prod(sides) > most:
        shrink = math.sqrt(height * width / most)
        sides = [
            max(multiple, math.floor(side / shrink / multiple) * multiple)
            for side in (height, width)
        ]
    elif math.prod(sides) < least:
        grow = math.sqrt(least / (height * width))
        sides = [math.ceil(side * grow / multiple) * multiple for side in (height, width)]
    return sides[0], sides[1]


class Layout(NamedTuple):
    """The steps from an original to the model's input, all in whole pixels.

    The original is pasted on a canvas at (paste_left, paste_top); the canvas is resized to
    resized_width x resized_height; of that, a frame's pixels from (crop_left, crop_top) are kept.
    Steps that a mode does not have are the identity.
    """

    canvas_width: int
    canvas_height: int
    paste_left: int
    paste_top: int
    resized_width: int
    resized_height: int
    crop_left: int
    crop_top: int


def layout(width: int, height: int, config: HasPreprocess | PreprocessConfig) -> Layout:
    """What the preprocessing does with an original of `width` x `height` pixels.

    Rounding is that of transformers' CLIPImageProcessor and LLaVA's expand2square: the long side
    of a crop is truncated, and so are the offsets of the crop and of the padding.

    Raises:
        ImageError: as `frame_size`.
    """
    settings = preprocess_config(config)
    new_height, new_width = frame_size(width, height, settings)
    width, height, size = int(width), int(height), settings.size
    if settings.mode == "pad":
        side = max(width, height)
        return Layout(side, side, (side - width) // 2, (side - height) // 2, size, size, 0, 0)
    if settings.mode in ("squash", "native"):
        return Layout(width, height, 0, 0, new_width, new_height, 0, 0)
    # transformers writes int(size * long / short); keep the expression, for its float rounding.
    if width <= height:
        resized_width, resized_height = size, int(size * height / width)
    else:
        resized_width, resized_height = int(size * width / height), size
    left, top = (resized_width - size) // 2, (resized_height - size) // 2
    return Layout(width, height, 0, 0, resized_width, resized_height, left, top)


def vertical_first(width: int, height: int, new_width: int, new_height: int) -> bool:
    """Which pass of a bicubic resize comes first; between the two, pixels are rounded to uint8.

    Pillow resized horizontally first until version 13, which turns to vertically first where the
    height shrinks by far more pixels than the width (its pull request 9549; the exact rule was
    found by experiment). The order changes the grey levels, so we fix it to this rule whatever
    Pillow is installed. It matters only to images much taller than wide: padded images and
    landscape screens are resized horizontally first by either.
    """
    return new_height < height and height - new_height > 2 * (width - new_width)


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where an original lies in the model's input, and back: what an agent needs to click.

    "Original" is the image as people see it: after its EXIF orientation was applied.

    *Points* name pixels by their centres: (0, 0) is the middle of the top left pixel, and
    (width - 1, height - 1) of the bottom right one; round a mapped point to get a pixel.
    *Boxes* (left, top, right, bottom) name the edges between pixels, as in Pillow:
    (0, 0, width, height) is the whole original, (3, 5, 4, 6) the one pixel (3, 5).

    Coordinates may be numbers or arrays; results are float64. Nothing is clipped: a model point in
    the padding maps to a place outside the original, and a part of the original that was cropped
    away maps to a place outside the model's input. `contains` tells.

    Attributes:
        width, height: the original, in pixels.
        frame_width, frame_height: the model's input, in pixels.
        scale_x, scale_y: model pixels per original pixel.
        offset_x, offset_y: the original's left and top edge, in the model's pixels.
    """

    width: int
    height: int
    frame_width: int
    frame_height: int
    scale_x: float
    scale_y: float
    offset_x: float
    offset_y: float

    def to_model(self, x: ArrayLike, y: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """Model pixels of the original's points (x, y), [...] each."""
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        # Edges scale, centres do not: half a pixel is another length on either side.
        return (
            (x + 0.5) * self.scale_x + self.offset_x - 0.5,
            (y + 0.5) * self.scale_y + self.offset_y - 0.5,
        )

    def to_original(self, x: ArrayLike, y: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """The original's pixels of the model's points (x, y), [...] each."""
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        return (
            (x + 0.5 - self.offset_x) / self.scale_x - 0.5,
            (y + 0.5 - self.offset_y) / self.scale_y - 0.5,
        )

    def box_to_model(self, box: ArrayLike) -> np.ndarray:
        """Model edges of the original's boxes, [..., 4] -> float64 [..., 4]."""
        return _box(box) * self._box_scale + self._box_offset

    def box_to_original(self, box: ArrayLike) -> np.ndarray:
        """The original's edges of the model's boxes, [..., 4] -> float64 [..., 4]."""
        return (_box(box) - self._box_offset) / self._box_scale

    def contains(self, x: ArrayLike, y: ArrayLike) -> np.ndarray:
        """Whether the model's points (x, y) show the original: bool [...].

        False in the padding, outside the model's input, and for NaN.
        """
        left, top, right, bottom = self.box_to_model((0, 0, self.width, self.height))
        x, y = np.asarray(x, np.float64) + 0.5, np.asarray(y, np.float64) + 0.5
        return (
            (x >= max(left, 0.0))
            & (x < min(right, self.frame_width))
            & (y >= max(top, 0.0))
            & (y < min(bottom, self.frame_height))
        )

    @property
    def _box_scale(self) -> np.ndarray:
        return np.array([self.scale_x, self.scale_y, self.scale_x, self.scale_y])

    @property
    def _box_offset(self) -> np.ndarray:
        return np.array([self.offset_x, self.offset_y, self.offset_x, self.offset_y])


def placement(width: int, height: int, config: HasPreprocess | PreprocessConfig) -> Placement:
    """How an original of `width` x `height` pixels is placed in the model's input.

    Args:
        width, height: the original after its EXIF orientation, in pixels (for a photo with
            orientation 5-8 these are the file's height and width).
        config: a model's config, or a PreprocessConfig.

    Raises:
        ImageError: as `frame_size`.
    """
    settings = preprocess_config(config)
    steps = layout(width, height, settings)
    frame_height, frame_width = frame_size(width, height, settings)
    scale_x = steps.resized_width / steps.canvas_width
    scale_y = steps.resized_height / steps.canvas_height
    return Placement(
        width=int(width),
        height=int(height),
        frame_width=frame_width,
        frame_height=frame_height,
        scale_x=scale_x,
        scale_y=scale_y,
        offset_x=steps.paste_left * scale_x - steps.crop_left,
        offset_y=steps.paste_top * scale_y - steps.crop_top,
    )


def _is_int(value: object) -> bool:
    if isinstance(value, (bool, np.bool_)):
        return False
    try:
        operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return False
    return True


def _box(box: ArrayLike) -> np.ndarray:
    edges = np.asarray(box, np.float64)
    if edges.ndim == 0 or edges.shape[-1] != 4:
        raise ValueError(
            "a box is (left, top, right, bottom), an array of boxes [..., 4]; "
            f"got shape {edges.shape}"
        )
    return edges
