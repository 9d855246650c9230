"""AnyRes (LLaVA-1.6): a picture as an overview and tiles, each of the tower's one size.

The picture is fitted into the best of some canvases, which is cut into tiles; the overview is the
whole of it, squashed. A prompt shows the overview's tokens and then the tiles', row by row across
the canvas, without those of the padding and with a token of its own at the end of every row.
Source: LLaVA-NeXT; transformers `image_processing_llava_next.py`, `modeling_llava_next.py`.

S pixels and G tokens along a side of a frame, N = G G, T tiles.
"""

import dataclasses
import math
from typing import Any, Protocol

import numpy as np

from diffvis_jax.images.frame_stream import FrameStream
from diffvis_jax.images.geometry import HasPreprocess, ImageError
from diffvis_jax.images.preprocess import ImageLike, open_rgb, preprocess, resized

NEWLINE = -1  # the end of a row of tokens in a packing


class HasTiles(HasPreprocess, Protocol):
    """A config of a tower whose images may be tiled."""

    @property
    def grid(self) -> int: ...


@dataclasses.dataclass(frozen=True, eq=False)
class TiledImage:
    """A picture as such a model sees it.

    Attributes:
      frames: `uint8 [1 + T, S, S, 3]`: the overview, and the tiles row by row.
      packing: int32 `[M]`, the tokens that a prompt shows, among the (1 + T) N of the frames;
        `NEWLINE` at the end of every row.
    """

    frames: np.ndarray
    packing: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the frames."""
        return self.frames.shape


Frame = np.ndarray | TiledImage


def pixels_of(frame: Frame) -> np.ndarray:
    """`uint8 [B, H, W, 3]`; B is 1, or 1 + T of an image with tiles."""
    return frame.frames if isinstance(frame, TiledImage) else frame


def make_frame(image: ImageLike, config: Any, stream: FrameStream | None = None) -> Frame:
    """One image as a model with that config is shown it: in tiles, or as `preprocess` makes it.

    Args:
      stream: of the images before, with that config: what did not change is not resized again.
    """
    if config.preprocess.pinpoints:
        return preprocess_tiles(image, config)
    return preprocess(image, config) if stream is None else stream(image)


def best_canvas(width: int, height: int, pinpoints: tuple[tuple[int, int], ...]) -> tuple[int, int]:
    """The canvas (height, width) that shows most of a picture, and of these the smallest.

    Args:
      pinpoints: the canvases, (height, width) in pixels each.
    """

    def shown(canvas: tuple[int, int]) -> tuple[int, int]:
        scale = min(canvas[1] / width, canvas[0] / height)
        pixels = min(int(width * scale) * int(height * scale), width * height)
        return pixels, pixels - canvas[0] * canvas[1]

    return max(pinpoints, key=shown)  # the first of several equal ones


def fitted_size(width: int, height: int, canvas: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of a picture that fills a canvas as far as its shape lets it."""
    across, down = canvas[1] / width, canvas[0] / height
    if across < down:
        return min(math.ceil(height * across), canvas[0]), canvas[1]
    return canvas[0], min(math.ceil(width * down), canvas[1])


def packing(width: int, height: int, config: HasTiles) -> np.ndarray:
    """Which tokens a prompt shows of a picture of width x height pixels, see `TiledImage`."""
    settings, grid = config.preprocess, config.grid
    canvas = best_canvas(width, height, settings.pinpoints)
    rows, columns = (side // settings.size for side in canvas)
    tokens = np.arange(grid**2, (1 + rows * columns) * grid**2, dtype=np.int32)
    tokens = tokens.reshape(rows, columns, grid, grid).swapaxes(1, 2)
    tokens = _unpadded(tokens.reshape(rows * grid, columns * grid), width, height)
    lines = np.pad(tokens, ((0, 0), (0, 1)), constant_values=NEWLINE)
    return np.concatenate([np.arange(grid**2, dtype=np.int32), lines.reshape(-1)])


def _unpadded(tokens: np.ndarray, width: int, height: int) -> np.ndarray:
    """Without the rows or columns that show nothing but padding."""
    down, across = tokens.shape
    if width / height > across / down:
        padding = (down - int(round(height * (across / width), 7))) // 2
        return tokens[padding : down - padding]
    padding = (across - int(round(width * (down / height), 7))) // 2
    return tokens[:, padding : across - padding]


def preprocess_tiles(image: ImageLike, config: HasTiles) -> TiledImage:
    """A picture as overview and tiles; `preprocess` gives the overview alone.

    Args:
      image: as `preprocess` takes one.
      config: a model's config whose `preprocess.pinpoints` are not empty.

    Raises:
      ImageError: see `preprocess`; or the model's images are not tiled.
    """
    from PIL import Image

    settings = config.preprocess
    if not settings.pinpoints:
        raise ImageError("this model's images are not cut into tiles: use preprocess")
    rgb = open_rgb(image, settings)
    size = settings.size
    canvas = best_canvas(*rgb.size, settings.pinpoints)
    height, width = fitted_size(*rgb.size, canvas)
    whole = Image.new("RGB", (canvas[1], canvas[0]))  # black
    place = (canvas[1] - width) // 2, (canvas[0] - height) // 2
    whole.paste(resized(rgb, (width, height)), place)
    frames = [resized(rgb, (size, size))]
    for top in range(0, canvas[0], size):
        frames += [
            whole.crop((left, top, left + size, top + size)) for left in range(0, canvas[1], size)
        ]
    return TiledImage(
        frames=np.stack([np.asarray(frame) for frame in frames]),
        packing=packing(*rgb.size, config),
    )
