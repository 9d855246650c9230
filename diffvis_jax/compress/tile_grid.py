"""Where the tiles of a screen lie, and their pixels.

B screens, H x W pixels of one, R tiles of a screen, w pixels along the side of a tile's window, S
along the side of its frame.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp

from diffvis_jax.errors import ConfigError, FrameError
from diffvis_jax.images.preprocess_in_graph import resize_bicubic_pil


@dataclasses.dataclass(frozen=True)
class TileGrid:
    """Tiles of a screen: squares of its own pixels, each shown enlarged. Static.

    As many as cover the screen, at even distances, so the last ends where the screen does.

    Attributes:
      height, width: of the screen, in pixels.
      tile: largest distance from one tile to the next, in pixels.
      context: pixels that a tile's window shows on each side of it.
      scale: frame pixels per screen pixel, 1 or more.

    Raises:
      ConfigError: no such numbers, a window that does not fit on the screen, or one that becomes
        no whole number of pixels.
    """

    height: int
    width: int
    tile: int = 256
    context: int = 0
    scale: float = 2.0

    def __post_init__(self):
        for name, least in (("height", 1), ("width", 1), ("tile", 1), ("context", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigError(f"{name} must be a whole number from {least} up, got {value!r}")
        if not (isinstance(self.scale, int | float) and 1 <= self.scale < math.inf):
            raise ConfigError(f"scale must be a number from 1 up, got {self.scale!r}")
        if self.window > min(self.height, self.width):
            raise ConfigError(
                f"tiles of {self.tile} px with {self.context} px around them do not fit on a "
                f"screen of {self.width} x {self.height} px"
            )
        if self.window * self.scale % 1:
            raise ConfigError(
                f"a window of {self.window} px enlarged {self.scale:g} times is no whole number of "
                "pixels: choose tile, context or scale so that it is"
            )

    @property
    def window(self) -> int:
        """w, the side of what a tile shows, in pixels of the screen."""
        return self.tile + 2 * self.context

    @property
    def side(self) -> int:
        """S, the side of a tile's frame."""
        return int(self.window * self.scale)

    @functools.cached_property
    def places(self) -> tuple[tuple[int, int], ...]:
        """Left and top of each tile's window, in reading order."""
        tops, lefts = (self._starts(length) for length in (self.height, self.width))
        return tuple((left, top) for top in tops for left in lefts)

    def _starts(self, length: int) -> list[int]:
        last = math.ceil((length - 2 * self.context) / self.tile) - 1
        return [round(i * (length - self.window) / max(last, 1)) for i in range(last + 1)]


def windows_of(screens: jax.Array, grid: TileGrid) -> jax.Array:
    """What the tiles show, `[B, H, W, C]` -> `[B, R, w, w, C]`."""
    w = grid.window
    return jnp.stack([screens[:, y : y + w, x : x + w] for x, y in grid.places], 1)


def cut_tiles(screens: jax.Array, grid: TileGrid) -> jax.Array:
    """The frames of all tiles, the same bytes as Pillow's bicubic resize gives.

    Args:
      screens: uint8 `[B, H, W, 3]`.
      grid: of such screens.

    Returns:
      uint8 `[B * R, S, S, 3]`.

    Raises:
      FrameError: screens of another size or dtype than the grid's.
    """
    screens = jnp.asarray(screens)
    check_screens(screens, grid)
    windows = windows_of(screens, grid).reshape(-1, grid.window, grid.window, 3)
    return resize_bicubic_pil(windows, grid.side, grid.side)


def check_screens(screens: jax.Array, grid: TileGrid) -> None:
    """Raises a FrameError unless these are screens of the grid, uint8 `[B, H, W, 3]`."""
    size = (grid.height, grid.width, 3)
    if screens.dtype != jnp.uint8 or screens.ndim != 4 or screens.shape[1:] != size:
        raise FrameError(
            f"screens must be uint8 [B, {grid.height}, {grid.width}, 3] as the grid says, got "
            f"{screens.dtype} {list(screens.shape)}"
        )
