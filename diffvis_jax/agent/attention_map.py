"""Attention over the patches, as a picture: where a language model looked before it answered.

gh, gw: patches down and across the model's input.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from diffvis_jax.errors import ConfigError, FrameError
from diffvis_jax.images.geometry import Placement
from diffvis_jax.report.patches import as_picture, patch_boxes, patch_edges

if TYPE_CHECKING:
    import PIL.Image

    from diffvis_jax.agent.click_regions import ClickRegion

Mode = Literal["smooth", "tile"]
MODES: tuple[Mode, ...] = get_args(Mode)

# From cold to hot, evenly spaced: light yellow to a deep red, which shows on white pages, where
# heat is most often laid, and on dark ones.
_COLORS = np.array([(255, 225, 110), (253, 150, 40), (235, 50, 30), (190, 0, 45)])


def attention_map(
    attention: Any, grid: tuple[int, int], *, layer: int = -1, average: int = 1
) -> np.ndarray:
    """What a prompt's last position attends to on the screen, as a map.

    Args:
      attention: `[layers, heads, gh * gw]`, softmax weights of that position over one image.
      grid: gh, gw.
      layer: of the language model; negative numbers count from the last one.
      average: the mean over so many layers, of which `layer` is the last.

    Returns:
      float32 `[gh, gw]`, the mean over heads and layers.

    Raises:
      ConfigError: a layer that does not exist, or more layers than there are up to it.
      FrameError: attention of another shape.
    """
    weights = np.asarray(attention, np.float32)
    if weights.ndim != 3 or weights.shape[-1] != grid[0] * grid[1]:
        raise FrameError(
            f"attention must be [layers, heads, {grid[0] * grid[1]}], got {list(weights.shape)}"
        )
    layers = weights.shape[0]
    if not -layers <= layer < layers:
        raise ConfigError(f"layer {layer} does not exist: there are {layers}, 0 to {layers - 1}")
    end = layer % layers + 1
    if not 1 <= average <= end:
        raise ConfigError(f"there are {end} layers up to layer {end - 1}, not {average} to average")
    return weights[end - average : end].mean((0, 1)).reshape(grid)


def relative_heat(heat: Any, seen: np.ndarray) -> np.ndarray:
    """Heat between 0, the coldest patch of the screen, and 1, the hottest one.

    Patches that lie wholly in the padding are left out: attention likes to rest there, and what
    rests there says nothing about the screen.

    Args:
      heat: real `[gh, gw]`, finite.
      seen: bool `[gh, gw]`, which patches show the screen at all.

    Returns:
      float64 `[gh, gw]`; 0 in the padding, and everywhere if all patches are alike.

    Raises:
      FrameError: heat of another shape, or that is not finite.
    """
    values = np.asarray(heat, np.float64)
    if values.shape != seen.shape or not np.isfinite(values).all():
        raise FrameError(f"heat must be finite {list(seen.shape)}, got {list(values.shape)}")
    if not seen.any():
        return np.zeros_like(values)
    low, high = values[seen].min(), values[seen].max()
    if high == low:
        return np.zeros_like(values)
    return np.where(seen, (values - low) / (high - low), 0.0)


def seen_patches(boxes: np.ndarray) -> np.ndarray:
    """Which patches have pixels on the screenshot: bool `[gh, gw]`, of `patch_boxes`' result."""
    return (boxes[..., 2] > boxes[..., 0]) & (boxes[..., 3] > boxes[..., 1])


def draw_heatmap(
    image: PIL.Image.Image | np.ndarray,
    heat: Any,
    *,
    placement: Placement | None = None,
    patch_size: int,
    mode: Mode = "smooth",
    alpha: float = 0.45,
    regions: Sequence[ClickRegion] = (),
) -> PIL.Image.Image:
    """Lays heat over a picture: the hotter, the stronger and the redder.

    Args:
      image: PIL image (its EXIF orientation is applied) or `uint8 [H, W, 3]`.
      heat: real `[gh, gw]`, of any scale, such as `attention_map`'s.
      placement: where the picture lies in the frame that the heat belongs to, if it is the
        original screenshot: `dv.placement(W, H, model.config)`. None: the picture is the frame.
      patch_size: pixels of the frame along the side of a patch: `towers.build(config).patch`.
      mode: "smooth" interpolates between the middles of patches, "tile" shows each by itself.
      alpha: strength where it is hottest, 0-1.
      regions: to be framed and numbered, see `click_regions`.

    Returns:
      An RGB picture of the same size.

    Raises:
      FrameError: a picture or heat of another shape or dtype.
      ConfigError: a mode, strength or size that makes no sense.
    """
    from PIL import Image

    if mode not in MODES:
        raise ConfigError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
    if not 0 <= alpha <= 1:
        raise ConfigError(f"alpha must lie in 0-1, got {alpha!r}")
    picture = as_picture(image)
    values = np.asarray(heat)
    if values.ndim != 2 or 0 in values.shape:
        raise FrameError(f"heat must be [gh, gw], got {list(values.shape)}")
    boxes = patch_boxes(picture.size, values.shape, placement, patch_size)
    relative = relative_heat(values, seen_patches(boxes))
    if mode == "tile":
        spread = np.zeros((picture.height, picture.width))
        for at in np.ndindex(relative.shape):
            left, top, right, bottom = boxes[at]
            spread[top:bottom, left:right] = relative[at]
    else:
        edges = patch_edges(picture.size, values.shape, placement, patch_size)
        down = _bilinear(picture.height, edges[:, 0, 1], edges[:, 0, 3])
        across = _bilinear(picture.width, edges[0, :, 0], edges[0, :, 2])
        spread = down @ relative @ across.T
    strength = (alpha * spread)[..., None]
    shown = (1 - strength) * np.asarray(picture) + strength * _color(spread)
    drawn = Image.fromarray(np.rint(shown).astype(np.uint8))
    _frame(drawn, regions)
    return drawn


def _bilinear(pixels: int, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Weights of `n` patches at each of a row of pixels, float64 `[pixels, n]`.

    `low` and `high` `[n]` are the patches' edges. Pixels that no patch shows have no weights.
    """
    middles, at = (low + high) / 2, np.arange(pixels) + 0.5
    weights = np.stack([np.interp(at, middles, one) for one in np.eye(len(middles))], 1)
    return weights * ((at >= low[0]) & (at < high[-1]))[:, None]


def _color(heat: np.ndarray) -> np.ndarray:
    """Colours of heat in 0-1: `[H, W]` -> float64 `[H, W, 3]`."""
    steps = np.linspace(0, 1, len(_COLORS))
    return np.stack([np.interp(heat, steps, channel) for channel in _COLORS.T], -1)


def _frame(picture: PIL.Image.Image, regions: Sequence[ClickRegion]) -> None:
    """Draws a frame around each region, its rank into the corner, and a cross where to click."""
    from PIL import ImageDraw

    draw = ImageDraw.Draw(picture)
    line = max(1, round(max(picture.size) / 640))
    for rank, region in enumerate(regions, 1):
        left, top, right, bottom = (round(edge) for edge in region.box)
        draw.rectangle((left, top, right - 1, bottom - 1), outline=(255, 255, 255), width=3 * line)
        inner = (left + line, top + line, right - 1 - line, bottom - 1 - line)
        draw.rectangle(inner, outline=(0, 0, 0), width=line)
        (x, y), arm = region.point.pixel, 6 * line
        for wide, color in ((3 * line, (255, 255, 255)), (line, (0, 0, 0))):
            draw.line((x - arm, y, x + arm, y), fill=color, width=wide)
            draw.line((x, y - arm, x, y + arm), fill=color, width=wide)
        draw.text(
            (left + 5 * line, top + 4 * line),
            str(rank),
            fill=(0, 0, 0),
            font_size=14 * line,
            stroke_width=line,
            stroke_fill=(255, 255, 255),
        )
