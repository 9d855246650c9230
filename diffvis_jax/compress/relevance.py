"""Which tiles of a screen matter most: a logistic sum of what is cheap to know about each.

Every component has a scale that is fixed, so a stream never sees its neighbours.

B screens, R tiles of a screen.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from diffvis_jax.compress.tile_grid import TileGrid, check_screens, windows_of
from diffvis_jax.errors import ConfigError

HALF_LIFE = 4.0  # steps after which a change counts half
SHARP = 0.02  # mean Sobel magnitude, of 1 between black and white: half of the way to 1
REACH = 200.0  # pixels from a pointer at which it counts 0.6

# By hand: each component alone lifts a tile above 0.5, and without any it is at 0.12.
WEIGHTS = {"bias": -2.0, "change": 3.0, "edges": 3.0, "elements": 3.0, "focus": 3.0}


def relevance(
    components: Mapping[str, jax.Array], weights: Mapping[str, Any] | None = None
) -> jax.Array:
    """The relevance of each tile, float32 `[B, R]` in 0-1.

    Args:
      components: by name, float32 `[B, R]` in 0-1 each; those of this module or your own.
      weights: by the same names, and "bias"; traced. None = `WEIGHTS`.

    Raises:
      ConfigError: no components, one without a weight, or of another shape than the first.
    """
    weights = WEIGHTS if weights is None else weights
    if unknown := sorted({"bias", *components} - set(weights)):
        raise ConfigError(f"no weight for {', '.join(unknown)}; there are {', '.join(weights)}")
    shapes = {name: jnp.shape(values) for name, values in components.items()}
    if len(set(shapes.values())) != 1:
        raise ConfigError(f"components must be of one shape [B, R], got {shapes}")
    total = sum(jnp.float32(weights[name]) * values for name, values in components.items())
    return jax.nn.sigmoid(jnp.float32(weights["bias"]) + jnp.asarray(total, jnp.float32))


def change(unchanged: jax.Array) -> jax.Array:
    """How lately a tile's pixels changed: 1 = now, and half of that every `HALF_LIFE` steps.

    Args:
      unchanged: int32 `[B, R]`, steps since then, as `DetailState` counts them.
    """
    return jnp.exp2(jnp.asarray(unchanged, jnp.float32) / -HALF_LIFE)


def edges(screens: jax.Array, grid: TileGrid) -> jax.Array:
    """How much there is to see in a tile: its mean Sobel magnitude m, as `m / (m + SHARP)`.

    Args:
      screens: uint8 `[B, H, W, 3]`.
      grid: of such screens.
    """
    screens = jnp.asarray(screens)
    check_screens(screens, grid)
    red, green, blue = (screens[..., c].astype(jnp.float32) for c in range(3))
    grey = (0.299 * red + 0.587 * green + 0.114 * blue) / 255
    across, down = grey[:, :, 2:] - grey[:, :, :-2], grey[:, 2:] - grey[:, :-2]
    across = (across[:, :-2] + 2 * across[:, 1:-1] + across[:, 2:]) / 8
    down = (down[:, :, :-2] + 2 * down[:, :, 1:-1] + down[:, :, 2:]) / 8
    magnitude = jnp.pad(jnp.hypot(across, down), ((0, 0), (1, 1), (1, 1)))
    mean = windows_of(magnitude[..., None], grid).mean((2, 3, 4))
    return mean / (mean + SHARP)


def elements(boxes: ArrayLike, scores: ArrayLike, grid: TileGrid) -> jax.Array:
    """The highest score of the overview's elements that a tile shows some of.

    Args:
      boxes: float32 `[B, E, 4]` in pixels of the screen: left, top, right, bottom.
      scores: float32 `[B, E]` in 0-1; 0 = there is none.
      grid: of the screen.
    """
    boxes, scores = jnp.asarray(boxes, jnp.float32), jnp.asarray(scores, jnp.float32)
    left, top, right, bottom = (boxes[:, None, :, side] for side in range(4))
    x, y = (jnp.array(at, jnp.float32)[None, :, None] for at in zip(*grid.places, strict=True))
    shown = (left < x + grid.window) & (right > x) & (top < y + grid.window) & (bottom > y)
    return jnp.where(shown, scores[:, None], 0).max(-1, initial=0)


def focus(points: ArrayLike, grid: TileGrid) -> jax.Array:
    """How near a pointer, or the last click, is to a tile: a Gaussian of its distance.

    Args:
      points: float32 `[B, 2]`, x and y in pixels of the screen; not finite = there is none.
      grid: of the screen.
    """
    corner = jnp.array(grid.places, jnp.float32)[None]
    point = jnp.asarray(points, jnp.float32)[:, None]
    outside = jnp.maximum(jnp.maximum(corner - point, point - corner - grid.window), 0)
    near = jnp.exp(-jnp.square(outside / REACH).sum(-1) / 2)
    return jnp.where(jnp.isfinite(point).all(-1), near, 0)
