"""The grounding head: from what a tower sees to "is there an element, which kind, its box".

A token covers a patch that may hold a dozen menu rows. Each patch is therefore divided into
`rows x columns` places, and one output of the head answers for each: an element belongs to the
places near its centre. The head sees the tokens and, of a FastViTHD tower, the last maps whose
positions are a half, a quarter and an eighth of a patch: all are kept by a differential encode, so
what it changes in them is what it changes in the answers.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from diffvis_jax.errors import ConfigError
from diffvis_jax.ops.space_to_depth import space_to_depth

KINDS = ("button", "link", "text_field", "checkbox", "icon", "menu_item", "tab", "select")
UNIT = 16.0  # pixels: boxes are predicted in this unit, so that outputs are of the order of 1


@dataclasses.dataclass(frozen=True)
class HeadConfig:
    """Architecture of a head.

    Attributes:
      token_width: D of the tower's tokens.
      map_width: C of the map with 2 x 2 positions in a patch; 0 = the head sees the tokens alone.
      detail_width: C of the map with 4 x 4 positions in a patch, beside the other; 0 = not seen.
      finest_width: C of the map with 8 x 8 positions in a patch, beside those; 0 = not seen.
      patch: pixels along the side of the patch of a token.
      hidden: width of the hidden layer, of each position of the map (of each token without one).
      detail_hidden: width of the hidden layer of each position of the map with 4 x 4.
      finest_hidden: width of the hidden layer of each place that sees the map with 8 x 8.
      place_width: width of the hidden layer of each place.
      rows, columns: places in a patch; places are wider than high, as elements are.
      kinds: names of the element kinds.
      dtype: in which the matrices are kept, "float32" or "bfloat16"; computed in float32.
      threshold: least score of an element, 0-1, chosen on validation pages.
    """

    token_width: int
    map_width: int = 0
    detail_width: int = 0
    finest_width: int = 0
    patch: int = 64
    hidden: int = 256
    detail_hidden: int = 128
    finest_hidden: int = 64
    place_width: int = 48
    rows: int = 8
    columns: int = 4
    kinds: tuple[str, ...] = KINDS
    dtype: str = "float32"
    threshold: float = 0.35

    def __post_init__(self):
        if self.dtype not in ("float32", "bfloat16"):
            raise ConfigError(f"dtype must be 'float32' or 'bfloat16', got {self.dtype!r}")
        if not 0 <= self.threshold <= 1:
            raise ConfigError(f"threshold must lie between 0 and 1, got {self.threshold!r}")
        if self.patch % self.rows or self.patch % self.columns:
            raise ConfigError(
                f"a patch of {self.patch} px does not divide into {self.rows} x {self.columns}"
            )
        if self.detail_width and not self.map_width:
            raise ConfigError("a head with detail_width needs map_width too")
        if self.finest_width and not self.detail_width:
            raise ConfigError("a head with finest_width needs detail_width too")
        for fine, _ in self.maps:
            # A position has several places, or of the finer maps a place has several positions.
            sides = (self.rows, self.columns)
            if any(side % fine and (fine == 2 or fine % side) for side in sides):
                raise ConfigError(
                    f"{self.rows} x {self.columns} places do not divide among the "
                    f"{fine} x {fine} map positions of a patch"
                )
        object.__setattr__(self, "kinds", tuple(self.kinds))

    @property
    def fine(self) -> int:
        """Map positions along the side of a patch; 1 without a map."""
        return 2 if self.map_width else 1

    @property
    def maps(self) -> tuple[tuple[int, int], ...]:
        """The maps that the head sees beside the tokens, the coarsest first: positions along the
        side of a patch, and C."""
        seen = ((2, self.map_width), (4, self.detail_width), (8, self.finest_width))
        return tuple((positions, width) for positions, width in seen if width)

    @property
    def outputs(self) -> int:
        """Numbers predicted for a place: objectness, kinds, centre x and y, width, height."""
        return 1 + len(self.kinds) + 4


class GroundingHead(nn.Module):
    """Two hidden layers: one for each map position, one for each place; the last layer is the same
    for all places. The maps with 4 x 4 and 8 x 8 positions in a patch add to the hidden layer of
    the places.
    """

    config: HeadConfig

    @nn.compact
    def __call__(self, tokens: jax.Array, maps: Sequence[jax.Array] = ()) -> dict[str, jax.Array]:
        """Answers for every place.

        Args:
          tokens: `[B, N, D]`, N = g * k in raster order (without a class token); without a map
            g = k.
          maps: those that the config names, `[B, n * g, n * k, C]` for n = 2, 4, 8.

        Returns:
          for the h x w = (g * rows) x (k * columns) places of the frame, float32:
          "object" `[B, h, w]` logits, "kind" `[B, h, w, kinds]` logits, and "box" `[B, h, w, 4]`,
          centre x and y from the middle of the place and width and height, in pixels.

        Raises:
          ConfigError: tokens or maps of other shapes.
        """
        c = self.config
        grid = _grid(c, tokens, maps)
        batch, f = tokens.shape[0], c.fine
        x = nn.LayerNorm(name="norm")(tokens.astype(jnp.float32))
        x = nn.Dense(f * f * c.hidden, name="hidden")(x)
        x = _spread(x.reshape(batch, *grid, f, f, c.hidden))
        if c.map_width:
            y = nn.LayerNorm(name="map_norm")(maps[0].astype(jnp.float32))
            x = x + nn.Dense(c.hidden, use_bias=False, name="map_hidden")(y)
        rows, columns = c.rows // f, c.columns // f
        x = nn.gelu(x, approximate=False)
        place = nn.Dense(rows * columns * c.place_width, name="places")(x)
        place = _spread(place.reshape(*x.shape[:3], rows, columns, c.place_width))
        if c.detail_width:
            hidden = self._beside(x, maps[1], c.detail_hidden, "detail", 4)
            place = place + self._at_places(hidden, grid, "detail_places")
            if c.finest_width:
                hidden = self._beside(hidden, maps[2], c.finest_hidden, "finest", 8)
                place = place + self._at_places(hidden, grid, "finest_places")
        place = nn.Dense(c.outputs, name="answers")(nn.gelu(place, approximate=False))
        kinds = len(c.kinds)
        return {
            # Nearly all places are empty: start from there (focal loss, arXiv 1708.02002, 4.1).
            "object": place[..., 0] - 4.0,
            "kind": place[..., 1 : 1 + kinds],
            "box": jnp.concatenate(
                [UNIT * place[..., -4:-2], UNIT * jnp.exp(jnp.clip(place[..., -2:], -4.0, 4.5))],
                -1,
            ),
        }

    def _beside(
        self,
        x: jax.Array,
        seen: jax.Array,
        width: int,
        name: str,
        fine: int,
    ) -> jax.Array:
        """Hidden layer of a map `[B, H, W, C]` with `fine` x `fine` positions in a patch, seen
        beside a coarser one's, `x` `[B, h, w, K]`: `[B, H / r, W / c, width]`, the r x c positions
        of a place as one."""
        together = max(1, fine // self.config.rows), max(1, fine // self.config.columns)
        y = nn.LayerNorm(name=f"{name}_norm")(seen.astype(jnp.float32))
        y = nn.Dense(width, name=f"{name}_hidden")(space_to_depth(y, *together))
        batch, high, wide = x.shape[:3]
        rows, columns = y.shape[1] // high, y.shape[2] // wide
        around = nn.Dense(rows * columns * width, use_bias=False, name=f"{name}_context")(x)
        y = y + _spread(around.reshape(batch, high, wide, rows, columns, width))
        return nn.gelu(y, approximate=False)

    def _at_places(self, x: jax.Array, grid: tuple[int, int], name: str) -> jax.Array:
        """What a hidden layer `[B, h, w, C]` adds to those of the places in each of its positions.

        Nothing at first, so that a head without it can be trained on with it.
        """
        c = self.config
        batch, height, width = x.shape[:3]
        rows, columns = grid[0] * c.rows // height, grid[1] * c.columns // width
        y = nn.Dense(
            rows * columns * c.place_width,
            use_bias=False,
            kernel_init=nn.initializers.zeros,
            name=name,
        )(x)
        return _spread(y.reshape(batch, height, width, rows, columns, c.place_width))


def _grid(config: HeadConfig, tokens: jax.Array, maps: Sequence[jax.Array]) -> tuple[int, int]:
    """Rows and columns of tokens: those of the first map, or of a square frame without one."""
    grid = math.isqrt(tokens.shape[1]), math.isqrt(tokens.shape[1])
    if maps and config.maps:
        rows, columns = (side // config.fine for side in maps[0].shape[1:3])
        if rows * columns == tokens.shape[1]:
            grid = rows, columns
    if grid[0] * grid[1] != tokens.shape[1] or tokens.shape[2] != config.token_width:
        raise ConfigError(
            f"{grid[0]} x {grid[1]} tokens [B, N, {config.token_width}] are needed, got "
            f"{list(tokens.shape)}"
        )
    wanted = [(n * grid[0], n * grid[1], width) for n, width in config.maps]
    given = [each.shape[1:] for each in maps]
    if given != wanted:
        raise ConfigError(
            f"the head wants {_listed(wanted)} beside {grid[0]} x {grid[1]} tokens, got "
            f"{_listed(given)}"
        )
    return grid


def _listed(shapes: Sequence[tuple[int, ...]]) -> str:
    if not shapes:
        return "no map"
    return " and ".join(f"a map of {' x '.join(map(str, shape))}" for shape in shapes)


def _spread(x: jax.Array) -> jax.Array:
    """`[B, h, w, r, c, C]`, r x c parts of each position, -> `[B, h * r, w * c, C]`."""
    batch, height, width, rows, columns, channels = x.shape
    x = x.transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, height * rows, width * columns, channels)


def places(config: HeadConfig, height: int, width: int) -> tuple[jax.Array, jax.Array]:
    """Middle of each place in pixels of the frame: x `[width]` and y `[height]`, float32."""
    across, down = config.patch / config.columns, config.patch / config.rows
    x, y = (jnp.arange(side, dtype=jnp.float32) + 0.5 for side in (width, height))
    return x * across, y * down


def corner_boxes(config: HeadConfig, box: jax.Array) -> jax.Array:
    """`[B, h, w, 4]` of the head to left, top, right, bottom in pixels of the frame."""
    x, y = places(config, box.shape[1], box.shape[2])
    middle = jnp.stack(jnp.broadcast_arrays(x[None, None, :], y[None, :, None]), -1)
    centre, half = middle + box[..., :2], box[..., 2:] / 2
    return jnp.concatenate([centre - half, centre + half], -1)


def head_shapes(config: HeadConfig) -> dict[str, tuple[int, ...]]:
    """Path of every parameter of a head, such as "hidden/kernel" -> its shape."""
    tokens = jax.ShapeDtypeStruct((1, 1, config.token_width), jnp.float32)
    maps = [jax.ShapeDtypeStruct((1, n, n, width), jnp.float32) for n, width in config.maps]
    params = jax.eval_shape(GroundingHead(config).init, jax.random.key(0), tokens, maps)["params"]
    leaves: Any = flatten_dict(params, sep="/")
    return {path: leaf.shape for path, leaf in leaves.items()}
