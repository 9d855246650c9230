"""What a tower is made of, as the differential step sees it.

A tower is a list of layers; each maps the map before it to the next, and can do so for the whole
image (`dense`) or for a few cells (`cells`), with the same module.

B streams, K cells, H x W positions of a map, c positions along the side of a cell, C width,
P cells of an image (`rows * columns`), N tokens.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

Params = dict[str, Any]


def zero_outside(x: jax.Array, row: jax.Array, column: jax.Array, side: int) -> jax.Array:
    """Zeroes the positions of windows that lie outside the image.

    The dense network zero-pads the input of *every* convolution, so what the first convolution of
    a block computes beyond the border must not reach the second.

    Args:
      x: `[K, h, w, C]` windows.
      row, column: int `[K]`, the map position of each window's first entry (may be negative).
      side: positions along the side of the valid map.
    """
    rows = row[:, None] + jnp.arange(x.shape[1])
    columns = column[:, None] + jnp.arange(x.shape[2])
    inside_rows = (rows >= 0) & (rows < side)
    inside_columns = (columns >= 0) & (columns < side)
    return jnp.where((inside_rows[:, :, None] & inside_columns[:, None])[..., None], x, 0)


def subtree(params: Params, path: tuple[str, ...]) -> Params:
    """The parameters of one layer."""
    for key in path:
        params = params[key]
    return params


@dataclasses.dataclass(frozen=True)
class Layer:
    """One cached layer.

    Attributes:
      path: where its parameters are in the tree; joined with "/" it is the layer's name.
      module: the linen module that computes it.
      stage: which entry of a per-stage margin applies to it.
      shape: (H, W) valid positions of its output map `[B, H, W, C]`.
      cell: c, output positions along the side of a cell.
      width: C of its output.
      macs: multiply-accumulates for one cell (1 MAC = 2 FLOP).
    """

    path: tuple[str, ...]
    module: nn.Module
    stage: int
    shape: tuple[int, int]
    cell: int
    width: int
    macs: int

    @property
    def name(self) -> str:
        return "/".join(self.path)

    @property
    def window_macs(self) -> int:
        """Multiply-accumulates for one cell that is recomputed by itself."""
        return self.macs

    def own(self, params: Params) -> Any:
        """This layer's parameters out of the tower's; all methods below take these."""
        return subtree(params, self.path)

    def apply(self, own: Params, *args: Any, **kwargs: Any) -> Any:
        return self.module.apply({"params": own}, *args, **kwargs)


@dataclasses.dataclass(frozen=True)
class Source(Layer):
    """Pixels to the first map; the module takes uint8 windows and knows the normalisation.

    Attributes:
      window: pixels along the side of a cell's window.
      start: (cell row, cell column) -> first pixel of the window, in the bordered frame.
      border: pixels of border before the first pixel of the frame.
      dense_windows: pixels `[B, S, S, 3]` -> windows that cover the whole frame.
      dense_merge: what the module makes of them -> map `[B, H, W, C]`.
      halo: cells around a changed patch whose windows can see it.
    """

    window: int
    start: Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
    border: int
    dense_windows: Callable[[jax.Array], tuple[jax.Array, jax.Array, jax.Array]]
    dense_merge: Callable[[jax.Array], jax.Array]
    halo: int

    def dense(self, own: Params, frames: jax.Array) -> jax.Array:
        """`uint8 [B, S, S, 3]` -> `[B, H, W, C]` float32."""
        windows, row, column = self.dense_windows(frames)
        return self.dense_merge(self.apply(own, windows, row, column))

    def cells(self, own: Params, windows: jax.Array, row: jax.Array, column: jax.Array):
        """`uint8 [K, w, w, 3]` and the cells' rows and columns -> `[K, c, c, C]` float32."""
        return self.apply(own, windows, row, column)


@dataclasses.dataclass(frozen=True)
class Local(Layer):
    """A convolutional layer: an output cell depends on a window of the map before it.

    Attributes:
      stride: input positions per output position.
      before, after: input positions that the window reaches before and after the cell.
    """

    stride: int
    before: int
    after: int

    @property
    def halo(self) -> int:
        """Cells around a changed input cell whose outputs can change."""
        return -(-max(self.before, self.after) // (self.cell * self.stride))

    def dense(self, own: Params, x: jax.Array) -> jax.Array:
        """`[B, H, W, C]` -> `[B, H / stride, W / stride, C']` float32: one big window.

        The map may reach beyond the frame, up to whole cells; there it is zero.
        """
        needed = self.shape[0] * self.stride + self.after
        pads = [(0, 0, 0), *((self.before, needed - side, 0) for side in x.shape[1:3]), (0, 0, 0)]
        x = lax.pad(x, jnp.zeros((), x.dtype), pads)
        origin = jnp.zeros((x.shape[0],), jnp.int32)
        return self.cells(own, x, origin, origin)

    def cells(self, own: Params, windows: jax.Array, row: jax.Array, column: jax.Array):
        """Windows `[K, h, w, C]` of the cells at (row, column) -> `[K, c, c, C']` float32."""
        return self.apply(own, windows, row * self.cell, column * self.cell, self.shape[0])


@dataclasses.dataclass(frozen=True)
class Joined(Local):
    """Several layers without a stride, one after the other, of which only the last map is kept.

    Less memory, for more work: a cell by itself needs the earlier layers on a window around it.

    Attributes:
      parts: the layers, in their order.
    """

    parts: tuple[Local, ...]

    @classmethod
    def of(cls, parts: Sequence[Local]) -> Local:
        """The parts as one layer, which has the name of the last; a single part as it is."""
        if len(parts) == 1:
            return parts[0]
        fields = {f.name: getattr(parts[-1], f.name) for f in dataclasses.fields(Local)}
        for name in ("macs", "before", "after"):
            fields[name] = sum(getattr(part, name) for part in parts)
        return cls(**fields, parts=tuple(parts))

    @property
    def window_macs(self) -> int:
        found, side = 0, self.cell
        for part in reversed(self.parts):
            found += part.macs * side**2 // self.cell**2
            side += part.before + part.after
        return found

    def own(self, params: Params) -> Any:
        return tuple(part.own(params) for part in self.parts)

    def apply(self, own: Any, x: jax.Array, row: jax.Array, column: jax.Array, side: int) -> Any:
        """Windows of the first part's input -> the last part's output, which begins at (row,
        column) of the map."""
        around = self.before
        for part, held in zip(self.parts, own, strict=True):
            around -= part.before
            at = row - around, column - around
            x = part.apply(held, x, *at, side)
            if around:  # what lies beyond the frame is zero for the next one
                x = zero_outside(x, *at, side)
        return x


@dataclasses.dataclass(frozen=True)
class Global(Layer):
    """An attention layer: every output depends on the keys and values of all positions.

    Attributes:
      macs_key_value: multiply-accumulates to replace the keys and values of one cell;
        `macs` is what one cell of queries costs.
    """

    macs_key_value: int

    def key_value(self, own: Params, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Positions `[..., C]` -> their keys and values, each `[..., C]` float32."""
        return self.apply(own, x, method="key_value")

    def attend(
        self,
        own: Params,
        x: jax.Array,
        key: jax.Array,
        value: jax.Array,
        mask: jax.Array | None = None,
    ) -> jax.Array:
        """Positions `[B, R, C]` against keys and values `[B, N, C]` -> `[B, R, C]` float32."""
        return self.apply(own, x, key, value, mask)

    def attention_to(
        self,
        own: Params,
        x: jax.Array,
        key: jax.Array,
        marked: jax.Array,
        mask: jax.Array | None = None,
    ) -> jax.Array:
        """How much positions `[B, R, C]` attend to marked keys (float32 `[B, N]`): `[B, R]`."""
        return self.apply(own, x, key, marked, mask, method="attention_to")

    def dense(self, own: Params, x: jax.Array, dtype: jnp.dtype) -> jax.Array:
        """`[B, H, W, C]` -> `[B, H, W, C]` float32."""
        flat = x.reshape(x.shape[0], -1, x.shape[-1])
        key, value = (part.astype(dtype) for part in self.key_value(own, flat))
        return self.attend(own, flat, key, value).reshape(x.shape)


@dataclasses.dataclass(frozen=True)
class Tower:
    """A whole tower.

    Attributes:
      config: the architecture's frozen config.
      rows, columns: the grid of cells; P = rows * columns.
      lead: cells before the first patch (1 for CLIP's class token, else 0).
      grid: patches along the side of the frame.
      patch: pixels along the side of a patch.
      layers: a `Source`, then `Local` and `Global` layers.
      readout_module, readout_path: the module from the last map to tokens, and its parameters.
      readout_macs: multiply-accumulates of one readout.
      tokens, token_width: N and D.
      dtype: dtype in which maps, keys and values are kept.
    """

    config: Any
    rows: int
    columns: int
    lead: int
    grid: int
    patch: int
    layers: tuple[Layer, ...]
    readout_module: nn.Module
    readout_path: tuple[str, ...]
    readout_macs: int
    tokens: int
    token_width: int
    dtype: jnp.dtype

    @property
    def cells(self) -> int:
        return self.rows * self.columns

    @property
    def stages(self) -> int:
        return self.layers[-1].stage + 1

    @property
    def macs(self) -> int:
        """Multiply-accumulates of a full encode of one frame."""
        per_cell = sum(x.macs + getattr(x, "macs_key_value", 0) for x in self.layers)
        return per_cell * self.cells + self.readout_macs

    def readout_own(self, params: Params) -> Params:
        """The readout's parameters out of the tower's."""
        return subtree(params, self.readout_path) if self.readout_path else {}

    def readout(self, own: Params, x: jax.Array) -> jax.Array:
        """The last map `[B, H, W, C]` -> tokens `[B, N, D]` float32."""
        tokens = self.readout_module.apply({"params": own}, x)
        assert isinstance(tokens, jax.Array)
        return tokens
