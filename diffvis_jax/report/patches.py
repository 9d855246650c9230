"""Draws what changed, and what was recomputed, onto a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from diffvis_jax.errors import ConfigError, FrameError
from diffvis_jax.images.geometry import Placement
from diffvis_jax.images.preprocess import upright_rgb

if TYPE_CHECKING:
    import PIL.Image

Color = tuple[int, int, int]

CHANGED: Color = (230, 57, 0)
RECOMPUTED: Color = (20, 110, 235)


def visualize_changed_patches(
    image: PIL.Image.Image | np.ndarray,
    mask: Any,
    *,
    heat: Any = None,
    placement: Placement | None = None,
    patch_size: int,
    color: Color = CHANGED,
    alpha: float = 0.15,
    outline: int = 3,
    heat_color: Color = RECOMPUTED,
    heat_alpha: float = 0.35,
) -> PIL.Image.Image:
    """Draws the changed patches onto a picture: a tint, and a line around each group of them.

    Args:
      image: PIL image (its EXIF orientation is applied) or `uint8 [H, W, 3]`.
      mask: bool `[gh, gw]`, the patches to mark: from `compute_patch_diff`, or
        `report.changed[stream]`.
      heat: float `[gh, gw]` in 0..1, or a second mask; tinted under the marks in another colour,
        the stronger the larger, e.g. `report.cell_recomputed[stream].reshape(gh, gw)`.
      placement: where the picture lies in the frame that the mask belongs to, if it is the
        original screenshot: `dv.placement(W, H, model.config)`. None: the picture is the frame.
      patch_size: pixels of the frame along the side of a patch: `towers.build(config).patch`.
        The grid does not tell: the last patches may reach beyond the frame, or end before its edge.
      color: of the changed patches, red, green and blue, 0-255.
      alpha: strength of their tint, 0-1; 0 = outlines only.
      outline: thickness of the lines, in pixels of the picture; 0 = none.
      heat_color, heat_alpha: colour and strength of the heat where it is 1.

    Returns:
      An RGB picture of the same size.

    Raises:
      FrameError: a picture, mask or heat of another shape or dtype.
      ImageError: a damaged picture.
      ConfigError: a colour, strength or size that makes no sense.
    """
    from PIL import Image, ImageDraw

    picture = as_picture(image)
    marked = _grid("mask", mask)
    if marked.dtype != np.bool_:
        raise FrameError(f"mask must be bool [gh, gw], got {marked.dtype}")
    _check_look(color, alpha, outline, "color", "alpha")
    _check_look(heat_color, heat_alpha, outline, "heat_color", "heat_alpha")
    boxes = patch_boxes(picture.size, marked.shape, placement, patch_size)

    layer = Image.new("RGBA", picture.size, (*color, 0))
    draw = ImageDraw.Draw(layer)
    if heat is not None:
        shares = _grid("heat", heat).astype(np.float32)
        if shares.shape != marked.shape or not np.isfinite(shares).all():
            raise FrameError(
                f"heat must be finite and of the mask's shape {marked.shape}, got {shares.shape}"
            )
        for at in zip(*np.nonzero(shares > 0), strict=True):
            strength = heat_alpha * min(float(shares[at]), 1.0)
            _fill(draw, boxes[at], (*heat_color, round(255 * strength)))
        picture = Image.alpha_composite(picture.convert("RGBA"), layer).convert("RGB")
        layer = Image.new("RGBA", picture.size, (*color, 0))
        draw = ImageDraw.Draw(layer)
    for at in zip(*np.nonzero(marked), strict=True):
        _fill(draw, boxes[at], (*color, round(255 * alpha)))
    if outline:
        for line in _contour(marked, boxes, outline):
            _fill(draw, line, (*color, 255))
    return Image.alpha_composite(picture.convert("RGBA"), layer).convert("RGB")


def as_picture(image: Any) -> PIL.Image.Image:
    """RGB, upright, of a PIL image or of `uint8 [H, W, 3]`; raises FrameError otherwise."""
    from PIL import Image

    if isinstance(image, Image.Image):
        return upright_rgb(image, "image")
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[-1] != 3 or 0 in array.shape:
        raise FrameError(
            f"image must be a PIL image or uint8 [H, W, 3], got {array.dtype} {list(array.shape)}"
        )
    return Image.fromarray(array)


def _grid(name: str, values: Any) -> np.ndarray:
    array = np.asarray(values)
    if array.ndim != 2 or 0 in array.shape:
        hint = f"; pass one stream: {name}[0]" if array.ndim == 3 else ""
        raise FrameError(f"{name} must be [gh, gw], got shape {list(array.shape)}{hint}")
    return array


def _check_look(color: Color, alpha: float, outline: int, color_name: str, alpha_name: str):
    if len(color) != 3 or any(not 0 <= c <= 255 or c != int(c) for c in color):
        raise ConfigError(f"{color_name} must be three whole numbers 0-255, got {color!r}")
    if not 0 <= alpha <= 1:
        raise ConfigError(f"{alpha_name} must lie in 0-1, got {alpha!r}")
    if outline != int(outline) or outline < 0:
        raise ConfigError(f"outline must be a whole number of pixels >= 0, got {outline!r}")


def patch_boxes(
    size: tuple[int, int],
    grid: tuple[int, ...],
    placement: Placement | None,
    patch_size: int,
) -> np.ndarray:
    """The pixels of a picture that the patches of a frame show.

    Args: as `patch_edges`.

    Returns:
      Edges left, top, right, bottom of every patch, clipped to the picture, right and bottom
      exclusive: int `[gh, gw, 4]`.
    """
    width, height = size
    edges = patch_edges(size, grid, placement, patch_size)
    return np.clip(np.rint(edges), 0, [width, height, width, height]).astype(int)


def patch_edges(
    size: tuple[int, int],
    grid: tuple[int, ...],
    placement: Placement | None,
    patch_size: int,
) -> np.ndarray:
    """Where the patches of a frame lie in a picture, or beside it.

    Args:
      size: width and height of the picture.
      grid: patches down and across, gh and gw.
      placement, patch_size: see `visualize_changed_patches`.

    Returns:
      Edges left, top, right, bottom of every patch in pixels of the picture: float64
      `[gh, gw, 4]`.

    Raises:
      FrameError: the placement of a picture of another size.
      ConfigError: a patch of less than a pixel.
    """
    rows, columns = grid
    if placement is not None and (placement.width, placement.height) != size:
        raise FrameError(
            f"the placement is of a picture of {placement.width} x {placement.height} pixels, "
            f"this one has {size[0]} x {size[1]}"
        )
    if patch_size < 1:
        raise ConfigError(f"patch_size must be at least 1 pixel, got {patch_size}")
    left, top = np.meshgrid(np.arange(columns) * patch_size, np.arange(rows) * patch_size)
    edges = np.stack([left, top, left + patch_size, top + patch_size], -1).astype(np.float64)
    return edges if placement is None else placement.box_to_original(edges)


def _fill(draw: Any, box: Any, color: tuple[int, ...]) -> None:
    left, top, right, bottom = (int(edge) for edge in box)
    if right > left and bottom > top:  # Patches in the padding have no pixels on the picture.
        draw.rectangle((left, top, right - 1, bottom - 1), fill=color)


def _contour(marked: np.ndarray, boxes: np.ndarray, thick: int) -> list[tuple[int, ...]]:
    """The inner edges of marked patches towards unmarked ones, as boxes."""
    around = np.pad(marked, 1)
    lines: list[tuple[int, ...]] = []
    for row, column in zip(*np.nonzero(marked), strict=True):
        left, top, right, bottom = boxes[row, column]
        if right <= left or bottom <= top:
            continue
        for step_down, step_right, line in (
            (-1, 0, (left, top, right, min(top + thick, bottom))),
            (1, 0, (left, max(bottom - thick, top), right, bottom)),
            (0, -1, (left, top, min(left + thick, right), bottom)),
            (0, 1, (max(right - thick, left), top, right, bottom)),
        ):
            if not around[row + 1 + step_down, column + 1 + step_right]:
                lines.append(line)
    return lines
