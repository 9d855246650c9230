"""What a tower is made of, as the differential step sees it.

A tower is a list of layers; each maps the map before it to the next. A layer's function takes
*windows* of the map before it: the full encode is one big window, the differential step many small
ones. So every block is written once.

B streams, K windows, H x W positions of a map, c positions along the side of a cell, C width,
rows x columns cells of a frame (P in all), N tokens, D token width.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffvis_jax.towers.params import Params, Specs, flatten, put, subtree

Shape2 = tuple[int, int]


def zero_outside(x: jax.Array, row: jax.Array, column: jax.Array, shape: Shape2) -> jax.Array:
    """Zeroes the positions of windows that lie outside the image.

    The dense network zero-pads the input of *every* convolution, so what the first convolution of
    a block computes beyond the border must not reach the second.

    Args:
      x: `[K, h, w, C]` windows.
      row, column: int32 `[K]`, the map position of each window's first entry (may be negative).
      shape: (H, W) of the valid map.
    """

    def inside(first: jax.Array, length: int, side: int) -> jax.Array:
        at = first[:, None] + jnp.arange(length, dtype=jnp.int32)[None]
        return (at >= 0) & (at < side)

    rows, columns = inside(row, x.shape[1], shape[0]), inside(column, x.shape[2], shape[1])
    return jnp.where((rows[:, :, None] & columns[:, None])[..., None], x, jnp.zeros((), x.dtype))


def raster_tokens(params: Params, x: jax.Array) -> jax.Array:
    """A head that gives the positions of the last map `[B, H, W, C]` as they are, row by row:
    `[B, H * W, C]`."""
    return x.reshape(x.shape[0], -1, x.shape[-1]).astype(jnp.float32)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Layer:
    """One cached layer: its output map is kept from step to step.

    Attributes:
      path: where its parameters are in the tree; "{}" stands for the number of the block.
      specs: its parameters.
      stage: which entry of a per-stage margin applies to it.
      shape: (H, W) valid positions of its output map.
      cell: c, output positions along the side of a cell.
      width: C of its output.
      macs: multiply-accumulates for one cell (1 MAC = 2 FLOP), in a pass over the whole map.
    """

    path: tuple[str, ...]
    specs: Specs
    stage: int
    shape: Shape2
    cell: int
    width: int
    macs: int

    kv_macs: int = 0  # to replace the keys and values of one cell
    global_: bool = False  # whether an output depends on all positions

    @property
    def window_macs(self) -> int:
        """Multiply-accumulates for one cell that is recomputed by itself."""
        return self.macs

    @property
    def reach(self) -> Shape2:
        """Positions of the input map that a window reaches before and after its cell."""
        return 0, 0

    def params(self, params: Params, block: int = 0) -> Params:
        """This layer's parameters out of the tower's."""
        return subtree(params, tuple(name.format(block) for name in self.path))


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ConvLayer(Layer):
    """A layer whose output cell depends on a window of the map before it (or of the pixels).

    Attributes:
      apply: (params, x `[K, h, w, C]`, row, column) -> `[K, h', w', C']` float32: windows of the
        input, and int32 `[K]` the output position where each window's output begins. A window is
        either of a cell, or of the whole map, whose sides may be no multiple of a cell.
      stride: input positions per output position.
      before, after: input positions that the window reaches before and after the cell.
    """

    apply: Callable[[Params, jax.Array, jax.Array, jax.Array], jax.Array]
    stride: int = 1
    before: int = 0
    after: int = 0

    @property
    def reach(self) -> Shape2:
        return self.before, self.after


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class FusedLayers(ConvLayer):
    """Several layers without a stride, one after the other, of which only the last map is kept.

    Less memory, for more work: a cell by itself needs the earlier layers on a window around it.

    Attributes:
      parts: the layers, in their order; `path` and `specs` are unused.
    """

    parts: tuple[ConvLayer, ...]

    @classmethod
    def of(cls, parts: tuple[ConvLayer, ...]) -> "FusedLayers":
        last = parts[-1]
        return cls(
            path=last.path,
            specs={},
            stage=last.stage,
            shape=last.shape,
            cell=last.cell,
            width=last.width,
            macs=sum(part.macs for part in parts),
            before=sum(part.before for part in parts),
            after=sum(part.after for part in parts),
            apply=functools.partial(_apply_parts, parts),
            parts=parts,
        )

    @property
    def window_macs(self) -> int:
        total, side = 0, self.cell
        for part in reversed(self.parts):
            total += part.macs * side**2 // self.cell**2
            side += part.before + part.after
        return total

    def params(self, params: Params, block: int = 0) -> Params:
        first = block * len(self.parts)
        return {
            str(number): part.params(params, first + number)
            for number, part in enumerate(self.parts)
        }


def _apply_parts(
    parts: tuple[ConvLayer, ...], params: Params, x: jax.Array, row: jax.Array, column: jax.Array
) -> jax.Array:
    around = sum(part.before for part in parts)
    for number, part in enumerate(parts):
        around -= part.before
        at = row - around, column - around
        x = part.apply(params[str(number)], x, *at)
        if around:  # what lies beyond the frame is zero for the next one
            x = zero_outside(x, *at, part.shape)
    return x


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class AttentionBlock:
    """A block with global attention, in three parts. What is between them is the library's.

    Attributes:
      heads, head_width: H and d.
      query: (params, x `[K, h, w, C]`, row, column) -> `[K, h, w, H * d]`.
      key_value: likewise -> keys and values, each `[K, h, w, H * d]`.
      finish: (params, x, mixed `[K, h, w, H * d]`, row, column) -> `[K, h, w, C]` float32: the
        output projection, its residual, and whatever follows inside a cell.
      moved: (keys `[..., d]`, int32 `[2]`) -> what they are so many rows and columns of positions
        further on; None = keys know their place in another way.
    """

    heads: int
    head_width: int
    query: Callable[..., jax.Array]
    key_value: Callable[..., tuple[jax.Array, jax.Array]]
    finish: Callable[..., jax.Array]
    moved: Callable[[jax.Array, jax.Array], jax.Array] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class AttentionLayer(Layer):
    """A layer in which every output position attends to all positions of the map before it."""

    block: AttentionBlock
    global_: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class TokenStack(Layer):
    """A whole vision transformer as one layer: pixels to tokens, every block global.

    The rows to recompute are the same in all blocks. So they are gathered once and go straight
    through; what is kept is keys, values and tokens, and no map.

    Attributes:
      depth: number of blocks.
      block: what each block does; x is `[..., D]`, row and column are not looked at.
      block_path: where the parameters of a block are; "{}" stands for its number.
      block_specs: parameters of a block.
      embed: (params, pixels `uint8 [K, p, p, 3]`, index int32 `[K]` of the patch) -> `[K, D]`.
      prefix: params -> `[num_prefix_tokens, D]`, what stands before the patches (class token).
      num_prefix_tokens: how many those are.
    """

    depth: int
    block: AttentionBlock
    block_path: tuple[str, ...]
    block_specs: Specs
    embed: Callable[[Params, jax.Array, jax.Array], jax.Array]
    prefix: Callable[[Params], jax.Array]
    num_prefix_tokens: int = 0
    global_: bool = True

    def embed_all(self, params: Params, frames: jax.Array, patch: int) -> jax.Array:
        """Frames `uint8 [B, H, W, 3]` -> `[B, num_prefix_tokens + P, D]`, before all blocks."""
        own, batch, (rows, columns) = self.params(params), frames.shape[0], self.shape
        x = frames[:, : rows * patch, : columns * patch]
        x = x.reshape(batch, rows, patch, columns, patch, 3).swapaxes(2, 3)
        index = jnp.tile(jnp.arange(rows * columns, dtype=jnp.int32), batch)
        x = self.embed(own, x.reshape(-1, patch, patch, 3), index).reshape(batch, -1, self.width)
        prefix = jnp.broadcast_to(self.prefix(own), (batch, self.num_prefix_tokens, self.width))
        return jnp.concatenate([prefix, x], 1)

    def block_params(self, params: Params, block: int) -> Params:
        """Parameters of one block out of the tower's."""
        return subtree(params, tuple(name.format(block) for name in self.block_path))


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Segment:
    """Some layers, repeated: one compiled body, whatever the depth.

    Attributes:
      layers: of one repetition, all with maps of one shape if there are several repetitions.
      repeat: how often.
      first_block: number of the first repetition's block.
    """

    layers: tuple[Layer, ...]
    repeat: int = 1
    first_block: int = 0

    def params(self, params: Params, repetition: int) -> tuple[Params, ...]:
        """Parameters of the layers of one repetition."""
        block = self.first_block + repetition
        return tuple(layer.params(params, block) for layer in self.layers)


@dataclasses.dataclass(frozen=True)
class Place:
    """Where the output of a layer is kept.

    Attributes:
      array: number of the array among the cache's maps; -1 = the layer keeps no map.
      slot: number of the map within it.
    """

    array: int
    slot: int


@dataclasses.dataclass(frozen=True)
class Preset:
    """What the name of a policy stands for in a tower.

    Attributes:
      margins: of each stage, in patches.
      full_above: share of the patches, 0-1; a frame of which more changed, and more than one, is
        encoded in full. 1 = never for that reason.
    """

    margins: tuple[float, ...]
    full_above: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Tower:
    """A whole tower.

    Attributes:
      config: the architecture's frozen config.
      frame: (height, width) in pixels.
      patch: pixels along the side of a patch: what is compared with the reference, and the square
        under one cell.
      token: pixels along the side of a token.
      segments: the layers; the first reads pixels.
      presets: what the named policies ("faithful", "fast") stand for.
      head: (params, last map `[B, H, W, C]`) -> tokens `[B, N, D]` float32.
      head_path, head_specs: where the head's parameters are, and which.
      head_macs: multiply-accumulates of the head, of a frame.
      extra_specs: further parameters of the tree, which tokens do not depend on.
      token_width: D.
      dtype: dtype in which maps, keys and values are kept.
    """

    config: Any
    frame: Shape2
    patch: int
    token: int
    segments: tuple[Segment, ...]
    presets: Mapping[str, Preset]
    head: Callable[[Params, jax.Array], jax.Array]
    head_path: tuple[str, ...] = ()
    head_specs: Specs = dataclasses.field(default_factory=dict)
    head_macs: int = 0
    extra_specs: Specs = dataclasses.field(default_factory=dict)
    token_width: int
    token_grid: Shape2
    dtype: jnp.dtype

    @functools.cached_property
    def grid(self) -> Shape2:
        """(rows, columns) of cells, which are the patches that are compared."""
        layer = self.layers[0]
        rows, columns = (-(-side // layer.cell) for side in layer.shape)
        return rows, columns

    @property
    def cells(self) -> int:
        """P."""
        return self.grid[0] * self.grid[1]

    @property
    def tokens(self) -> int:
        """N."""
        return self.token_grid[0] * self.token_grid[1]

    @functools.cached_property
    def layers(self) -> tuple[Layer, ...]:
        """All layers, each as often as it runs."""
        return tuple(
            layer
            for segment in self.segments
            for _ in range(segment.repeat)
            for layer in segment.layers
        )

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """The name of each layer: its path, joined with "/"."""
        return tuple(
            "/".join(layer.path).format(segment.first_block + number)
            for segment in self.segments
            for number in range(segment.repeat)
            for layer in segment.layers
        )

    @functools.cached_property
    def places(self) -> tuple[Place, ...]:
        """Where each layer's map is kept: those of equal shape that follow each other are stacked
        in one array, so that a loop over blocks can index them."""
        places: list[Place] = []
        array, slot, before = -1, 0, None
        for layer in self.layers:
            if isinstance(layer, TokenStack):
                places.append(Place(-1, 0))
                continue
            kind = layer.shape, layer.cell, layer.width
            array, slot = (array, slot + 1) if kind == before else (array + 1, 0)
            before = kind
            places.append(Place(array, slot))
        return tuple(places)

    @functools.cached_property
    def borders(self) -> tuple[int, ...]:
        """For each array of maps: the zeros around them, as wide as any layer's window reaches."""
        borders = [0] * (1 + max(place.array for place in self.places))
        for place, reader in zip(self.places, self.layers[1:], strict=False):
            borders[place.array] = max(borders[place.array], *reader.reach)
        return tuple(borders)

    @functools.cached_property
    def map_arrays(self) -> tuple[tuple[Layer, int, int], ...]:
        """For each array of maps: a layer of its shape, how many maps it holds, and its border."""
        kept = [
            (p, layer) for p, layer in zip(self.places, self.layers, strict=True) if p.array >= 0
        ]
        slots = [
            sum(place.array == number for place, _ in kept) for number in range(len(self.borders))
        ]
        layers = {place.array: layer for place, layer in kept}
        return tuple((layers[n], slots[n], border) for n, border in enumerate(self.borders))

    @functools.cached_property
    def attention_arrays(self) -> tuple[int | None, ...]:
        """For each segment, the number of its arrays of keys and values; None = it has none."""
        numbers, found = [], 0
        for segment in self.segments:
            attends = any(
                isinstance(layer, AttentionLayer | TokenStack) for layer in segment.layers
            )
            numbers.append(found if attends else None)
            found += attends
        return tuple(numbers)

    @property
    def stages(self) -> int:
        return self.layers[-1].stage + 1

    @functools.cached_property
    def layer_macs(self) -> np.ndarray:
        """Of each layer, for one cell, keys and values included; int64 `[L]`."""
        return np.array([layer.macs + layer.kv_macs for layer in self.layers])

    @property
    def macs(self) -> int:
        """Multiply-accumulates of a full encode of one frame."""
        return int(self.layer_macs.sum()) * self.cells + self.head_macs

    @functools.cached_property
    def reaches(self) -> tuple[tuple[float, float], ...]:
        """For each layer, how far a changed pixel reaches in its map, in pixels: to the right and
        down, and to the left and up. Infinite from the first global layer on."""
        reaches, down, up, stride = [], 0.0, 0.0, 1.0
        for layer in self.layers:
            down, up = down + layer.reach[0] * stride, up + layer.reach[1] * stride
            if layer.global_:
                down = up = np.inf
            stride = self.patch / layer.cell
            reaches.append((down, up))
        return tuple(reaches)

    @functools.cached_property
    def specs(self) -> Specs:
        """All parameters of the tower."""
        tree: dict[str, Any] = {}
        for segment in self.segments:
            for number in range(segment.repeat):
                for layer in segment.layers:
                    for path, specs in _specs_of(layer, segment.first_block + number):
                        put(tree, path, specs)
        put(tree, self.head_path, self.head_specs)
        put(tree, (), self.extra_specs)
        return tree

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Path of every parameter, such as "stem/conv_0/kernel" -> its shape."""
        return {path: spec.shape for path, spec in flatten(self.specs)}


def _specs_of(layer: Layer, block: int) -> list[tuple[tuple[str, ...], Specs]]:
    if isinstance(layer, FusedLayers):
        first = block * len(layer.parts)
        parts = enumerate(layer.parts, first)
        return [found for number, part in parts for found in _specs_of(part, number)]
    own = tuple(name.format(block) for name in layer.path), layer.specs
    if not isinstance(layer, TokenStack):
        return [own]
    blocks = range(layer.depth)
    paths = [tuple(name.format(number) for name in layer.block_path) for number in blocks]
    return [own, *((path, layer.block_specs) for path in paths)]
