"""Qwen2.5-VL's vision transformer: most blocks attend inside windows, a few over the whole image.

Source: Qwen2.5-VL (arXiv 2502.13923), transformers `modeling_qwen2_5_vl.py`. Here all maps are in
raster order: attention is over sets, so the order in which the original packs windows is no part
of the result. A window is a cell without a halo: what changes in one window stays there until the
next block that attends to everything. The windows at the right and lower edge may be partial.

K windows of a map, h x w positions (patches) of it, D width, H heads of width d.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from diffvis_jax.errors import ConfigError
from diffvis_jax.images.geometry import PreprocessConfig
from diffvis_jax.ops.attention import attention, key_heads, query_heads, rms_norm, value_heads
from diffvis_jax.ops.matmul import linear
from diffvis_jax.ops.pointwise import feed_forward, gelu, normalized
from diffvis_jax.ops.rotary import rotate
from diffvis_jax.ops.space_to_depth import space_to_depth
from diffvis_jax.towers.base import (
    AttentionBlock,
    AttentionLayer,
    ConvLayer,
    Layer,
    Preset,
    Segment,
    Shape2,
    Tower,
    raster_tokens,
)
from diffvis_jax.towers.clip import OPENAI_MEAN, OPENAI_STD
from diffvis_jax.towers.conv_stem import STRIDE, stem_macs, stem_specs, stem_stage
from diffvis_jax.towers.params import Param, Params, Specs, affine, normal, ones
from diffvis_jax.utils.config_checks import require_positive

_EPSILON = 1e-6  # of all norms, whatever a checkpoint's files say of the language model's
_THETA = 10_000.0  # of the rotary embedding


@dataclasses.dataclass(frozen=True)
class Qwen25VisionConfig:
    """Architecture of a Qwen2.5-VL vision tower; the defaults are those of the 3B model.

    Attributes:
      width, depth, heads, mlp_width: of the transformer.
      full_blocks: numbers of the blocks that attend to the whole image, ascending; the others
        attend inside windows.
      patch: pixels along the side of a patch.
      merge: patches along the side of a token.
      window: pixels along the side of a window: what is compared, and recomputed, as one.
      token_width: channels of a token.
      stem_widths: channels of the stages of a convolutional patch embedding (`conv_stem.py`);
        none = a linear one, as the released models have.
      size: (height, width) of a frame in pixels, multiples of `patch * merge`; one number = both.
        Sides in multiples of `window` leave no partial windows.
      min_pixels, max_pixels: bounds of the size that an image gets (see `frame_size`).
      mean, std: of the normalisation `(pixel / 255 - mean) / std`.
      dtype: "float32", or "bfloat16": operands and maps in bfloat16, sums in float32.

    Raises:
      ConfigError: sizes that do not fit together; names them.
    """

    width: int = 1280
    depth: int = 32
    heads: int = 16
    mlp_width: int = 3420
    full_blocks: tuple[int, ...] = (7, 15, 23, 31)
    patch: int = 14
    merge: int = 2
    window: int = 112
    token_width: int = 2048
    stem_widths: tuple[int, ...] = ()
    size: tuple[int, int] = (1008, 1792)
    min_pixels: int = 3136
    max_pixels: int = 12_845_056
    mean: tuple[float, float, float] = OPENAI_MEAN
    std: tuple[float, float, float] = OPENAI_STD
    dtype: str = "float32"

    def __post_init__(self):
        if isinstance(self.size, int):
            object.__setattr__(self, "size", (self.size, self.size))
        require_positive(self, "width", "depth", "heads", "mlp_width", "patch", "merge", "window")
        require_positive(self, "token_width", "size", "min_pixels", "max_pixels")
        if self.width % self.heads or self.width // self.heads % 4:
            raise ConfigError(
                f"width {self.width} does not divide into {self.heads} heads of a multiple of 4 "
                "channels (rotary embeddings of two axes)"
            )
        blocks = self.full_blocks
        if list(blocks) != sorted(set(blocks) & set(range(self.depth))):
            raise ConfigError(
                f"full_blocks must be ascending numbers of the {self.depth} blocks, from 0 to "
                f"{self.depth - 1}; got {blocks}"
            )
        if self.window % self.token:
            raise ConfigError(
                f"window {self.window} must be a multiple of patch x merge = {self.token} pixels"
            )
        if self.patch % self.stem_stride:
            raise ConfigError(
                f"{len(self.stem_widths)} stem_widths need a patch of a multiple of "
                f"{self.stem_stride} pixels, got {self.patch}"
            )
        if len(self.size) != 2 or any(side % self.token for side in self.size):
            raise ConfigError(
                f"size must be (height, width), both multiples of patch x merge = {self.token} "
                f"pixels (dv.frame_size gives such), got {self.size}"
            )
        if self.dtype not in ("float32", "bfloat16"):
            raise ConfigError(f"dtype must be 'float32' or 'bfloat16', got {self.dtype!r}")
        _ = self.preprocess  # says what is wrong with the bounds

    @property
    def preprocess(self) -> PreprocessConfig:
        return PreprocessConfig(
            size=0,
            mode="native",
            multiple=self.token,
            min_pixels=self.min_pixels,
            max_pixels=self.max_pixels,
        )

    def resized(self, height: int, width: int) -> "Qwen25VisionConfig":
        """The same architecture for frames of another size.

        Raises:
          ConfigError: a side that is no multiple of `patch * merge`.
        """
        return dataclasses.replace(self, size=(height, width))

    @property
    def token(self) -> int:
        """Pixels along the side of a token."""
        return self.patch * self.merge

    @property
    def stem_stride(self) -> int:
        """Pixels along the side of a position of the stem's last stage; 1 without a stem."""
        return STRIDE * 2 ** (len(self.stem_widths) - 1) if self.stem_widths else 1

    @property
    def patch_inputs(self) -> int:
        """Numbers that the embedding of a patch takes: of pixels, or of the stem's last stage."""
        channels = self.stem_widths[-1] if self.stem_widths else 3
        return channels * (self.patch // self.stem_stride) ** 2

    @property
    def cell(self) -> int:
        """Patches along the side of a window."""
        return self.window // self.patch

    @property
    def grid(self) -> Shape2:
        """(rows, columns) of patches."""
        return self.size[0] // self.patch, self.size[1] // self.patch

    @property
    def runs(self) -> tuple[range, ...]:
        """The blocks before the first full one, and after each: those that attend in windows."""
        ends = (*self.full_blocks, self.depth)
        starts = (0, *(block + 1 for block in self.full_blocks))
        return tuple(range(start, end) for start, end in zip(starts, ends, strict=True))


# ---- parameters -------------------------------------------------------------------------------


def _norm(width: int) -> Specs:
    return {"norm_scale": Param((width,), ones)}


def _block_specs(c: Qwen25VisionConfig) -> Specs:
    gain = c.depth**-0.5
    return {
        "attention": {
            **_norm(c.width),
            "query": affine(c.width, c.width),
            "kv": affine(2 * c.width, c.width),
            "output": affine(c.width, c.width, gain),
        },
        "mlp": {
            **_norm(c.width),
            "fc1": affine(2 * c.mlp_width, c.width),  # gate, then up
            "fc2": affine(c.width, c.mlp_width, gain),
        },
    }


def _embed_specs(c: Qwen25VisionConfig) -> Specs:
    if c.stem_widths:
        return {**_norm(c.stem_widths[-1]), **affine(c.width, c.patch_inputs)}
    # No `weight`: the sum of the kernels of two equal frames, which is kept in float32.
    return {"filters": Param((c.width, c.patch_inputs), normal(c.patch_inputs**-0.5))}


def _merger_specs(c: Qwen25VisionConfig) -> Specs:
    inner = c.width * c.merge**2
    return {
        **_norm(c.width),
        "fc1": affine(inner, inner),
        "fc2": affine(c.token_width, inner),
    }


# ---- blocks -----------------------------------------------------------------------------------


def _turned(c: Qwen25VisionConfig, x: jax.Array, row: jax.Array, column: jax.Array) -> jax.Array:
    """Queries or keys `[K, h, w, D]`, the first patch of each window at (row, column) `[K]`,
    turned: the first quarter of each half of a head by the row, the second by the column."""
    quarter = c.width // c.heads // 4
    frequency = _THETA ** -(np.arange(quarter, dtype=np.float32) / quarter)
    length = max(-(-side // c.cell) * c.cell for side in c.grid)
    angle = np.arange(length, dtype=np.float32)[:, None] * frequency[None].astype(np.float32)

    def at(table: np.ndarray) -> jax.Array:
        """`[K, h, w, 1, d / 2]`."""
        found, (height, width) = jnp.asarray(table), x.shape[1:3]
        rows = found[row[:, None] + jnp.arange(height, dtype=jnp.int32)[None]][:, :, None]
        columns = found[column[:, None] + jnp.arange(width, dtype=jnp.int32)[None]][:, None]
        shape = (row.shape[0], height, width, quarter)
        both = [jnp.broadcast_to(part, shape) for part in (rows, columns)]
        return jnp.concatenate(both, -1)[..., None, :]

    heads = x.reshape(*x.shape[:3], c.heads, 4 * quarter)
    return rotate(heads, at(np.cos(angle)), at(np.sin(angle))).reshape(x.shape)


def _moved_keys(c: Qwen25VisionConfig, keys: jax.Array, by: jax.Array) -> jax.Array:
    """Keys `[..., d]`, turned on by so many (rows, columns) of patches."""
    quarter = keys.shape[-1] // 4
    frequency = _THETA ** -(np.arange(quarter, dtype=np.float32) / quarter)
    angle = (by.astype(jnp.float32)[:, None] * frequency[None]).reshape(-1)
    angle = angle.reshape(*[1] * (keys.ndim - 1), -1)
    return rotate(keys.astype(jnp.float32), jnp.cos(angle), jnp.sin(angle))


def _normalise(params: Params, x: jax.Array) -> jax.Array:
    return rms_norm(x, params["norm_scale"], _EPSILON)


def _query(c: Qwen25VisionConfig, params: Params, x, row, column) -> jax.Array:
    own = params["attention"]
    return _turned(c, linear(_normalise(own, x), **own["query"]), row, column)


def _key_value(c: Qwen25VisionConfig, params: Params, x, row, column):
    own = params["attention"]
    key, value = jnp.split(linear(_normalise(own, x), **own["kv"]), 2, axis=-1)
    return _turned(c, key, row, column), value


def _gated(hidden: jax.Array) -> jax.Array:
    gate, up = jnp.split(hidden, 2, axis=-1)
    return jax.nn.silu(gate) * up


def _finish(params: Params, x, mixed, row, column) -> jax.Array:
    """`x += attention(norm1 x)`, `x += mlp(norm2 x)`."""
    x = x.astype(jnp.float32) + linear(mixed, **params["attention"]["output"])
    own = params["mlp"]
    return feed_forward(_normalise(own, x), x, own["fc1"], own["fc2"], _gated)


def _run(
    c: Qwen25VisionConfig, blocks: range, params: Params, x: jax.Array, row, column
) -> jax.Array:
    """Blocks that attend in windows, one after the other: `[K, h, w, D]`, either whole windows or
    all of the map."""
    windows = -(-x.shape[1] // c.cell), -(-x.shape[2] // c.cell)
    inside = _inside(c, row, column, windows)
    for block in blocks:
        x = _windowed(c, params[f"block_{block}"], x.astype(c.dtype), windows, inside)
    return x


def _windowed(
    c: Qwen25VisionConfig, params: Params, x: jax.Array, windows: Shape2, inside: jax.Array | None
) -> jax.Array:
    """A block on `[K, h, w, D]`, so many (rows, columns) of windows, each by itself.

    Args:
      inside: bool `[n, cell * cell]`, positions of windows that may be attended to; None = all.
    """
    (count, height, width, _), (high, wide), cell = x.shape, windows, c.cell
    beyond = high * cell - height, wide * cell - width

    def cut(x: jax.Array) -> jax.Array:
        """Each window by itself, `[n, cell * cell, D]`; zeros beyond the map."""
        if any(beyond):
            x = jnp.pad(x, ((0, 0), (0, beyond[0]), (0, beyond[1]), (0, 0)))
        x = x.reshape(count, high, cell, wide, cell, -1).swapaxes(2, 3)
        return x.reshape(-1, cell**2, x.shape[-1])

    # Scores depend on differences of positions alone: where a window lies does not matter.
    origin, head, dtype = jnp.zeros((1,), jnp.int32), c.width // c.heads, jnp.dtype(c.dtype)
    key, value = _key_value(c, params, x, origin, origin)
    mixed = attention(
        query_heads(cut(_query(c, params, x, origin, origin)), head, dtype),
        key_heads(cut(key), head, dtype),
        value_heads(cut(value), head, dtype),
        inside,
    )
    mixed = mixed.reshape(count, high, wide, cell, cell, -1).swapaxes(2, 3)
    mixed = mixed.reshape(count, high * cell, wide * cell, -1)[:, :height, :width]
    return _finish(params, x, mixed, origin, origin)


def _inside(c: Qwen25VisionConfig, row, column, windows: Shape2) -> jax.Array | None:
    """Which positions lie in the image, bool `[n, cell * cell]` window by window; None = all of
    any. So many (rows, columns) of windows begin at each (row, column) `[K]`."""
    if not any(side % c.cell for side in c.grid):
        return None
    rows, columns = (
        (first[:, None] + jnp.arange(number * c.cell, dtype=jnp.int32)[None] < valid).reshape(
            -1, number, c.cell
        )
        for first, number, valid in zip((row, column), windows, c.grid, strict=True)
    )
    both = rows[:, :, None, :, None] & columns[:, None, :, None]
    return both.reshape(-1, c.cell**2)


def embed(c: Qwen25VisionConfig, params: Params, x: jax.Array) -> jax.Array:
    """Pixels `uint8 [K, h * p, w * p, 3]`, or what the stem made of them, to patches
    `[K, h, w, D]`."""
    if c.stem_widths:
        x = space_to_depth(_normalise(params, x), c.patch // c.stem_stride)
        return linear(x, params["weight"], params["bias"])
    return linear(space_to_depth(normalized(x, c.mean, c.std), c.patch), params["filters"])


def _first_run(c: Qwen25VisionConfig, params: Params, x, row, column) -> jax.Array:
    return _run(c, c.runs[0], params, embed(c, params["embed"], x), row, column)


def _stem(
    c: Qwen25VisionConfig, cell: int, stride: int, params: Params, x, row, column
) -> jax.Array:
    """A stage of the stem: `[K, s h, s w, C]`, pixels `uint8` or the stage before, either whole
    windows or all of the map, to `[K, h, w, S]`; so many positions of it in a window."""
    height, width = (n // stride for n in x.shape[1:3])
    # Beyond the frame is what a step finds there: black pixels, zeros in a map.
    beyond = [(0, -n % (cell * stride)) for n in x.shape[1:3]]
    x = jnp.pad(x, ((0, 0), *beyond, (0, 0)))
    if x.dtype == jnp.uint8:
        x = normalized(x, c.mean, c.std)
    return stem_stage(params, x, cell)[:, :height, :width]


def _merge(c: Qwen25VisionConfig, params: Params, x, row, column) -> jax.Array:
    """The patches of a token side by side, row by row, through two layers: `[K, m h, m w, D]` to
    `[K, h, w, token_width]`."""
    hidden = gelu(linear(space_to_depth(_normalise(params, x), c.merge), **params["fc1"]))
    return linear(hidden, **params["fc2"])


# ---- the tower --------------------------------------------------------------------------------


@functools.lru_cache(maxsize=64)
def tower(config: Qwen25VisionConfig) -> Tower:
    """The tower's layers: a run of windowed blocks, a full block, a run, and so on; the merger."""
    c = config
    (first, *runs), stages = c.runs, len(c.full_blocks)
    layers: list[Layer] = [_stem_layer(c, number) for number in range(len(c.stem_widths))]
    layers.append(_run_layer(c, 0, first))
    for stage, (block, run) in enumerate(zip(c.full_blocks, runs, strict=True), 1):
        layers.append(_full_layer(c, stage, block))
        if run:
            layers.append(_run_layer(c, stage, run))
    inner, positions = c.width * c.merge**2, (c.cell // c.merge) ** 2
    merger = ConvLayer(
        path=("merger",),
        specs=_merger_specs(c),
        stage=stages,
        shape=(c.size[0] // c.token, c.size[1] // c.token),
        cell=c.cell // c.merge,
        width=c.token_width,
        macs=positions * inner * (inner + c.token_width),
        apply=functools.partial(_merge, c),
        stride=c.merge,
    )
    return Tower(
        config=c,
        frame=c.size,
        patch=c.window,
        token=c.token,
        segments=tuple(Segment(layers=(layer,)) for layer in (*layers, merger)),
        presets=_presets(c),
        head=raster_tokens,
        token_width=c.token_width,
        token_grid=merger.shape,
        dtype=jnp.dtype(c.dtype),
    )


def _presets(c: Qwen25VisionConfig) -> dict[str, Preset]:
    """Windows around a changed one that take part from the first full block on."""
    around = len(c.full_blocks)
    if not c.stem_widths:
        # With random weights nearly all of a change stays in the windows that changed, so `fast`
        # recomputes them alone; trained weights are to be calibrated.
        return {"faithful": Preset((0.0, *[1.0] * around)), "fast": Preset((0.0, *[0.0] * around))}
    # The trained tower (docs/fidelity.md). Half of its windows cost as much as all of them: a full
    # encode of what changed more costs little, and settles what is pending.
    return {
        "faithful": Preset((0.0, *[1.0] * around), full_above=0.045),
        "fast": Preset((0.0, *[0.0] * around), full_above=0.09),
    }


def _block_macs(c: Qwen25VisionConfig, keys: int) -> int:
    """Of one position of a block that attends to so many, without its own key and value."""
    return 2 * c.width**2 + 2 * keys * c.width + 3 * c.width * c.mlp_width


def _run_layer(c: Qwen25VisionConfig, stage: int, blocks: range) -> ConvLayer:
    """Windowed blocks, of which the last map alone is kept: without a halo, no work is repeated."""
    specs: dict[str, Specs] = {f"block_{block}": _block_specs(c) for block in blocks}
    area = c.cell**2
    macs = len(blocks) * (_block_macs(c, area) + 2 * c.width**2)
    if not stage:
        specs["embed"] = _embed_specs(c)
        macs += c.patch_inputs * c.width
    return ConvLayer(
        path=(f"run_{blocks.start}",),
        specs=specs,
        stage=stage,
        shape=c.grid,
        cell=c.cell,
        width=c.width,
        macs=area * macs,
        apply=functools.partial(_run, c, blocks) if stage else functools.partial(_first_run, c),
        stride=1 if stage else c.patch // c.stem_stride,
    )


def _stem_layer(c: Qwen25VisionConfig, number: int) -> ConvLayer:
    """Its maps are kept for heads that look at details (`grounding`)."""
    pixels, width = STRIDE * 2**number, c.stem_widths[number]
    before, cell = c.stem_widths[number - 1] if number else 0, c.window // pixels
    stride = 2 if number else STRIDE
    return ConvLayer(
        path=(f"stem_{number}",),
        specs=stem_specs(width, before),
        stage=0,
        shape=(c.size[0] // pixels, c.size[1] // pixels),
        cell=cell,
        width=width,
        macs=cell**2 * stem_macs(width, before),
        apply=functools.partial(_stem, c, cell, stride),
        stride=stride,
    )


def _full_layer(c: Qwen25VisionConfig, stage: int, block: int) -> AttentionLayer:
    area = c.cell**2
    return AttentionLayer(
        path=(f"full_{block}",),
        specs=_block_specs(c),
        stage=stage,
        shape=c.grid,
        cell=c.cell,
        width=c.width,
        macs=area * _block_macs(c, c.grid[0] * c.grid[1]),
        kv_macs=area * 2 * c.width**2,
        block=AttentionBlock(
            heads=c.heads,
            head_width=c.width // c.heads,
            query=functools.partial(_query, c),
            key_value=functools.partial(_key_value, c),
            finish=_finish,
            moved=functools.partial(_moved_keys, c),
        ),
    )
