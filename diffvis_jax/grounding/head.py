"""The grounding head: tokens to "is there an element, which kind, its box", at many places a token.

A token covers a patch that may hold a dozen menu rows. Each patch is therefore divided into
`rows x columns` places, and one output of the head answers for each: an element belongs to the
places near its centre. The head sees nothing but tokens, so what a differential encode changes in
them is what it changes in the answers.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffvis_jax.errors import ConfigError

KINDS = ("button", "link", "text_field", "checkbox", "icon", "menu_item", "tab", "select")
UNIT = 16.0  # pixels: boxes are predicted in this unit, so that outputs are of the order of 1


@dataclasses.dataclass(frozen=True)
class HeadConfig:
    """Architecture of a head.

    Attributes:
      token_width: D of the tower's tokens.
      patch: pixels along the side of the patch of a token.
      hidden: width of the hidden layer.
      rows, columns: places in a patch; places are wider than high, as elements are.
      kinds: names of the element kinds.
      dtype: in which the matrices are kept, "float32" or "bfloat16"; computed in float32.
      threshold: least score of an element, 0-1, chosen on validation pages.
    """

    token_width: int
    patch: int = 64
    hidden: int = 384
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
        object.__setattr__(self, "kinds", tuple(self.kinds))

    @property
    def outputs(self) -> int:
        """Numbers predicted for a place: objectness, kinds, centre x and y, width, height."""
        return 1 + len(self.kinds) + 4


class GroundingHead(nn.Module):
    """Layer norm, one hidden layer, and a linear layer to all places of the patch."""

    config: HeadConfig

    @nn.compact
    def __call__(self, tokens: jax.Array) -> dict[str, jax.Array]:
        """Answers for every place.

        Args:
          tokens: `[B, N, D]`, N = g * g in raster order (without a class token).

        Returns:
          for the h x w = (g * rows) x (g * columns) places of the frame, float32:
          "object" `[B, h, w]` logits, "kind" `[B, h, w, kinds]` logits, and "box" `[B, h, w, 4]`,
          centre x and y from the middle of the place and width and height, in pixels.
        """
        c = self.config
        grid = round(tokens.shape[1] ** 0.5)
        if grid * grid != tokens.shape[1] or tokens.shape[2] != c.token_width:
            raise ConfigError(
                f"tokens [B, g * g, {c.token_width}] are needed, got {list(tokens.shape)}"
            )
        x = nn.LayerNorm(name="norm")(tokens.astype(jnp.float32))
        x = nn.gelu(nn.Dense(c.hidden, name="hidden")(x), approximate=False)
        x = nn.Dense(c.rows * c.columns * c.outputs, name="places")(x)
        x = x.reshape(-1, grid, grid, c.rows, c.columns, c.outputs).transpose(0, 1, 3, 2, 4, 5)
        x = x.reshape(x.shape[0], grid * c.rows, grid * c.columns, c.outputs)
        kinds = len(c.kinds)
        return {
            # Nearly all places are empty: start from there (focal loss, arXiv 1708.02002, 4.1).
            "object": x[..., 0] - 4.0,
            "kind": x[..., 1 : 1 + kinds],
            "box": jnp.concatenate(
                [UNIT * x[..., -4:-2], UNIT * jnp.exp(jnp.clip(x[..., -2:], -4.0, 4.5))], -1
            ),
        }


def places(config: HeadConfig, height: int, width: int) -> tuple[jax.Array, jax.Array]:
    """Middle of each place in pixels of the frame: x `[width]` and y `[height]`, float32."""
    across, down = config.patch / config.columns, config.patch / config.rows
    return (jnp.arange(width) + 0.5) * across, (jnp.arange(height) + 0.5) * down


def corner_boxes(config: HeadConfig, box: jax.Array) -> jax.Array:
    """`[B, h, w, 4]` of the head to left, top, right, bottom in pixels of the frame."""
    x, y = places(config, box.shape[1], box.shape[2])
    middle = jnp.stack(jnp.broadcast_arrays(x[None, :], y[:, None]), -1)
    centre, half = middle + box[..., :2], box[..., 2:] / 2
    return jnp.concatenate([centre - half, centre + half], -1)


def head_shapes(config: HeadConfig) -> dict[str, tuple[int, ...]]:
    """Path of every parameter of a head, such as "hidden/kernel" -> its shape."""
    outputs = config.rows * config.columns * config.outputs
    return {
        "norm/scale": (config.token_width,),
        "norm/bias": (config.token_width,),
        "hidden/kernel": (config.token_width, config.hidden),
        "hidden/bias": (config.hidden,),
        "places/kernel": (config.hidden, outputs),
        "places/bias": (outputs,),
    }
