"""FastViTHD, the vision tower of FastVLM, in its fused inference form.

Source: FastVLM (arXiv 2412.13303), apple/ml-fastvlm `mobileclip/mci.py`; timm `fastvit_mci3`.
BatchNorm and layer scale are folded into the neighbouring kernels by the converter. Every module
maps a halo'd window `[K, h + halo, w + halo, C]` to `[K, h, w, C]` with VALID convolutions: the
full encode is one big window, the differential step many small ones.
"""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffvis_jax.errors import ConfigError
from diffvis_jax.images.geometry import PreprocessConfig
from diffvis_jax.ops.attention import attention, attention_to, layer_norm
from diffvis_jax.ops.depthwise import depthwise_conv
from diffvis_jax.ops.pointwise import feed_forward, gelu, linear
from diffvis_jax.towers.base import (
    Global,
    Joined,
    Layer,
    Local,
    Params,
    Source,
    Tower,
    zero_outside,
)
from diffvis_jax.utils.config_checks import require_positive

TOKEN_STRIDE = 64  # input pixels per token: six halvings


@dataclasses.dataclass(frozen=True)
class FastViTHDConfig:
    """Architecture of a FastViTHD tower; the defaults are FastVLM's.

    Attributes:
      depths: blocks of each stage; the last `attention_stages` stages hold attention blocks.
      widths: channels of each stage.
      attention_stages: stages with global attention instead of RepMixer blocks.
      head_width: channels of an attention head.
      mlp_ratio: hidden over outer width of the feed-forward networks.
      token_width: D, channels of a token.
      squeeze_width: hidden channels of the squeeze-excite.
      size: S, pixels along the side of a frame (any; the token grid is ceil(S / 64)).
      mean, std: of the normalisation `(pixel / 255 - mean) / std`.
      dtype: "float32", or "bfloat16": operands and maps in bfloat16, sums in float32.
      pad_color: colour of the square padding.
      resize_mode: "pad", "crop" or "squash" (see `preprocess`).
      blocks_per_map: for each of the first stages, how many RepMixer blocks are computed together
        (1 for stages that are not named), so that a cache holds the output of the last of them
        alone: less memory, more work for small changes. The same parameters serve all values.

    Raises:
      ConfigError: sizes that do not fit together; names them.
    """

    depths: tuple[int, ...] = (2, 12, 24, 4, 2)
    widths: tuple[int, ...] = (96, 192, 384, 768, 1536)
    attention_stages: int = 2
    head_width: int = 32
    mlp_ratio: int = 4
    token_width: int = 3072
    squeeze_width: int = 192
    size: int = 1024
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    dtype: str = "float32"
    pad_color: tuple[int, int, int] = (0, 0, 0)
    resize_mode: str = "pad"
    blocks_per_map: tuple[int, ...] = ()

    def __post_init__(self):
        if len(self.depths) != 5 or len(self.widths) != 5:
            raise ConfigError(
                f"FastViTHD has 5 stages; got depths {self.depths}, widths {self.widths}"
            )
        require_positive(self, "depths", "widths", "head_width", "mlp_ratio")
        require_positive(self, "token_width", "squeeze_width", "size")
        if self.attention_stages not in range(6):
            raise ConfigError(f"attention_stages must be 0 to 5, got {self.attention_stages!r}")
        for before, after in zip(self.widths, self.widths[1:], strict=False):
            if after % before:
                raise ConfigError(f"each width must be a multiple of the one before: {self.widths}")
        if self.token_width % self.widths[-1]:
            raise ConfigError(
                f"token_width {self.token_width} must be a multiple of the last width "
                f"{self.widths[-1]}"
            )
        for width in self.widths[5 - self.attention_stages :]:
            if width % self.head_width:
                raise ConfigError(f"width {width} does not divide into heads of {self.head_width}")
        convolving = 5 - self.attention_stages
        if len(self.blocks_per_map) > convolving or any(n < 1 for n in self.blocks_per_map):
            raise ConfigError(
                f"blocks_per_map must be at most {convolving} numbers of blocks, one for each "
                f"stage of RepMixer blocks, each at least 1; got {self.blocks_per_map}"
            )
        if self.dtype not in ("float32", "bfloat16"):
            raise ConfigError(f"dtype must be 'float32' or 'bfloat16', got {self.dtype!r}")

    @property
    def preprocess(self) -> PreprocessConfig:
        return PreprocessConfig(size=self.size, mode=self.resize_mode, pad_color=self.pad_color)  # type: ignore[arg-type]

    @property
    def grid(self) -> int:
        """Tokens along the side of a frame."""
        return -(-self.size // TOKEN_STRIDE)

    def side(self, halvings: int) -> int:
        """Positions along the side of the map after that many halvings."""
        return -(-self.size // 2**halvings)


def _he(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
    """Normal with the variance 1 / fan-in, fan-in being all axes but the last."""
    fan_in = 1
    for n in shape[:-1]:
        fan_in *= n
    return jax.random.normal(key, shape, dtype) * fan_in**-0.5


def _near_identity(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
    """A fused RepMixer or position kernel: the folded residual in the centre plus a little."""
    k = shape[0]
    return (0.3 / k * jax.random.normal(key, shape, dtype)).at[k // 2, k // 2].add(1.0)


def _scaled(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
    """A branch's last kernel with a layer scale of 0.1-0.5 folded in."""
    kernel_key, scale_key = jax.random.split(key)
    scale = jax.random.uniform(scale_key, shape[-1:], dtype, 0.1, 0.5)
    # 0.65 is the RMS of gelu(x) for standard normal x.
    return _he(kernel_key, shape, dtype) / 0.65 * scale


class _Affine(nn.Module):
    """Holds `kernel` and `bias`; how they are applied is the caller's business."""

    shape: tuple[int, ...]
    initializer: nn.initializers.Initializer = _he
    use_bias: bool = True

    @nn.compact
    def __call__(self) -> Params:
        held = {"kernel": self.param("kernel", self.initializer, self.shape)}
        if self.use_bias:
            held["bias"] = self.param("bias", nn.initializers.zeros, self.shape[-1:])
        return held


class Stem(nn.Module):
    """conv 3x3 s2, GELU, depthwise 3x3 s2, GELU, 1x1, GELU: pixels to the /4 map."""

    width: int
    size: int
    patch: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @nn.compact
    def __call__(self, pixels: jax.Array, row: jax.Array, column: jax.Array) -> jax.Array:
        """`uint8 [K, 4h + 3, 4w + 3, 3]` of the cells at (row, column) -> `[K, h, w, C]`."""
        x = (pixels.astype(jnp.float32) / 255 - jnp.array(self.mean)) / jnp.array(self.std)
        if any(self.mean):  # else the border's zeros are already the padding's zeros
            x = zero_outside(x, row * self.patch - 3, column * self.patch - 3, self.size)
        first = _Affine((3, 3, 3, self.width), name="conv_0")()
        x = _dense_conv(x, first["kernel"]) + first["bias"]
        half = -(-self.size // 2)
        start = self.patch // 2
        x = zero_outside(gelu(x), row * start - 1, column * start - 1, half)
        second = _Affine((3, 3, 1, self.width), name="conv_1")()
        x = gelu(depthwise_conv(x, second["kernel"], second["bias"], stride=2))
        return gelu(linear(x, **_Affine((self.width, self.width), name="conv_2")()))


def _dense_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """VALID 3x3 stride-2 convolution `[K, 2h + 1, 2w + 1, I]` -> `[K, h, w, O]` as one product.

    With three input channels the patches of 27 values make a better matrix than a convolution.
    Even and odd rows apart, neighbouring columns side by side: no read is strided.
    """
    x = jnp.pad(x.astype(kernel.dtype), ((0, 0), (0, 1), (0, 1), (0, 0)))
    count, height, width, channels = (n // m for n, m in zip(x.shape, (1, 2, 2, 1), strict=True))
    pairs = x.reshape(count, height, 2, width, 2 * channels)

    def row(parity: int) -> jax.Array:
        x = pairs[:, :, parity]
        return jnp.concatenate([x[:, :, :-1], x[:, :, 1:, :channels]], -1)

    even, odd = row(0), row(1)
    taps = jnp.concatenate([even[:, :-1], odd[:, :-1], even[:, 1:]], -1)
    return linear(taps, kernel.reshape(-1, kernel.shape[-1]))


class ConvFfn(nn.Module):
    """x + depthwise 7x7 (BatchNorm folded) -> 1x1 -> GELU -> 1x1 (layer scale folded)."""

    width: int
    hidden: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[K, h + 6, w + 6, C]` -> `[K, h, w, C]`."""
        conv = _Affine((7, 7, 1, self.width), name="conv")()
        fc1 = _Affine((self.width, self.hidden), name="fc1")()
        fc2 = _Affine((self.hidden, self.width), _scaled, name="fc2")()
        return feed_forward(depthwise_conv(x, **conv), x, fc1, fc2, inset=3)


class RepMixerBlock(nn.Module):
    """depthwise 3x3 (its residual folded into the centre), then the residual ConvFFN; halo 4."""

    width: int
    hidden: int

    @nn.compact
    def __call__(self, x: jax.Array, row: jax.Array, column: jax.Array, side: int) -> jax.Array:
        mixed = depthwise_conv(x, **_Affine((3, 3, 1, self.width), _near_identity, name="mixer")())
        mixed = zero_outside(mixed, row - 3, column - 3, side)
        return ConvFfn(self.width, self.hidden, name="ffn")(mixed)


class Downsample(nn.Module):
    """depthwise 7x7 s2, GELU, 1x1, GELU; halo 3 before, 2 after."""

    width: int
    multiplier: int

    @nn.compact
    def __call__(self, x: jax.Array, row: jax.Array, column: jax.Array, side: int) -> jax.Array:
        conv = _Affine((7, 7, 1, self.width), name="conv")()
        x = gelu(depthwise_conv(x, **conv, stride=2))
        return gelu(linear(x, **_Affine((self.width, self.width), name="project")()))


class DepthwiseLayer(nn.Module):
    """One depthwise convolution: the position encoding (residual folded), the head's expansion."""

    kernel_side: int
    width: int
    initializer: nn.initializers.Initializer = _near_identity

    @nn.compact
    def __call__(self, x: jax.Array, row: jax.Array, column: jax.Array, side: int) -> jax.Array:
        shape = (self.kernel_side, self.kernel_side, 1, self.width)
        affine = _Affine(shape, self.initializer)
        nn.share_scope(self, affine)
        return depthwise_conv(x, **affine())


class AttentionResidual(nn.Module):
    """`x + proj(attention(layer_norm(x)))`, layer scale folded into proj."""

    width: int
    heads: int

    def setup(self):
        self.norm_scale = self.param("norm_scale", nn.initializers.ones, (self.width,))
        self.norm_bias = self.param("norm_bias", nn.initializers.zeros, (self.width,))
        self.query = _Affine((self.width, self.width), use_bias=False)
        self.kv = _Affine((self.width, 2 * self.width), use_bias=False)
        self.output = _Affine((self.width, self.width), _scaled)

    def _normalise(self, x: jax.Array) -> jax.Array:
        return layer_norm(x, self.norm_scale, self.norm_bias, 1e-5)

    def key_value(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        key, value = jnp.split(linear(self._normalise(x), **self.kv()), 2, axis=-1)
        return key, value

    def __call__(
        self, x: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array | None = None
    ) -> jax.Array:
        mixed = attention(self.queries(x, key), key, value, heads=self.heads, mask=mask)
        return x.astype(jnp.float32) + linear(mixed, **self.output())

    def attention_to(self, x, key, marked, mask=None) -> jax.Array:
        return attention_to(self.queries(x, key), key, marked, heads=self.heads, mask=mask)

    def queries(self, x: jax.Array, key: jax.Array) -> jax.Array:
        """Of positions, in the dtype of the keys."""
        return linear(self._normalise(x), **self.query()).astype(key.dtype)


class FfnResidual(nn.Module):
    """`x + ConvFFN(x)` of an attention stage; halo 3."""

    width: int
    hidden: int

    @nn.compact
    def __call__(self, x: jax.Array, row: jax.Array, column: jax.Array, side: int) -> jax.Array:
        ffn = ConvFfn(self.width, self.hidden)
        nn.share_scope(self, ffn)
        return ffn(x)


class SqueezeExcite(nn.Module):
    """Channel gates from the mean over the map, then GELU: the last map to tokens."""

    width: int
    hidden: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[B, H, W, D]` -> `[B, H * W, D]` float32."""
        x = x.astype(jnp.float32)
        pooled = x.mean((1, 2))
        squeezed = nn.relu(linear(pooled, **_Affine((self.width, self.hidden), name="reduce")()))
        gate = linear(squeezed, **_Affine((self.hidden, self.width), name="expand")())
        tokens = gelu(x * nn.sigmoid(gate)[:, None, None])
        return tokens.reshape(x.shape[0], -1, self.width)


@functools.lru_cache(maxsize=64)
def tower(config: FastViTHDConfig) -> Tower:
    """The tower's layers, in the order in which they run."""
    layers: list[Layer] = [_stem(config)]
    for stage in range(len(config.depths)):
        layers += _stage(config, stage)
    width, last = config.token_width, len(config.depths) - 1
    expand = DepthwiseLayer(3, width, initializer=_he)
    layers.append(_local(config, last, ("head", "conv"), expand, width, 9 * width, (1, 1)))
    return Tower(
        config=config,
        rows=config.grid,
        columns=config.grid,
        lead=0,
        grid=config.grid,
        patch=TOKEN_STRIDE,
        layers=tuple(layers),
        readout_module=SqueezeExcite(width, config.squeeze_width),
        readout_path=("head", "gate"),
        readout_macs=2 * width * config.squeeze_width,
        tokens=config.grid**2,
        token_width=width,
        dtype=jnp.dtype(config.dtype),
    )


def _stage(config: FastViTHDConfig, stage: int) -> list[Layer]:
    """Downsampling, position encoding and blocks of one stage, as far as it has them."""
    width = config.widths[stage]
    hidden = width * config.mlp_ratio
    ffn_macs = width * (49 + 2 * hidden)
    local = functools.partial(_local, config, stage, width=width)
    name = f"stage_{stage}"
    layers: list[Layer] = []
    if stage:
        module = Downsample(width, width // config.widths[stage - 1])
        macs = width * (49 + width)
        path = (name, "downsample")
        layers.append(local(path=path, module=module, macs=macs, reach=(3, 2), stride=2))
    if stage < len(config.depths) - config.attention_stages:
        module, macs = RepMixerBlock(width, hidden), 9 * width + ffn_macs
        blocks = [
            local(path=(name, f"block_{block}"), module=module, macs=macs, reach=(4, 4))
            for block in range(config.depths[stage])
        ]
        together = (*config.blocks_per_map, *[1] * 5)[stage]
        joined = (blocks[i : i + together] for i in range(0, len(blocks), together))
        return [*layers, *map(Joined.of, joined)]
    position = DepthwiseLayer(7, width)
    layers.append(local(path=(name, "position"), module=position, macs=49 * width, reach=(3, 3)))
    for block in range(config.depths[stage]):
        path = (name, f"block_{block}")
        layers.append(_attention(config, stage, (*path, "attention")))
        module = FfnResidual(width, hidden)
        layers.append(local(path=(*path, "ffn"), module=module, macs=ffn_macs, reach=(3, 3)))
    return layers


def _cell(stage: int) -> int:
    """Positions along the side of a cell: 64 px at a stride of 4 in stage 0, doubling after."""
    return TOKEN_STRIDE // 4 // 2**stage


def _local(
    config: FastViTHDConfig,
    stage: int,
    path: tuple[str, ...],
    module: nn.Module,
    width: int,
    macs: int,
    reach: tuple[int, int],
    stride: int = 1,
) -> Local:
    """A convolutional layer; `macs` are those of one output position."""
    return Local(
        path=path,
        module=module,
        stage=stage,
        shape=(config.side(2 + stage), config.side(2 + stage)),
        cell=_cell(stage),
        width=width,
        macs=_cell(stage) ** 2 * macs,
        stride=stride,
        before=reach[0],
        after=reach[1],
    )


def _attention(config: FastViTHDConfig, stage: int, path: tuple[str, ...]) -> Global:
    width, side = config.widths[stage], config.side(2 + stage)
    positions = _cell(stage) ** 2
    return Global(
        path=path,
        module=AttentionResidual(width, width // config.head_width),
        stage=stage,
        shape=(side, side),
        cell=_cell(stage),
        width=width,
        macs=positions * (2 * width * width + 2 * side * side * width),
        macs_key_value=positions * 2 * width * width,
    )


def _stem(config: FastViTHDConfig) -> Source:
    width = config.widths[0]
    side, patch = config.side(2), TOKEN_STRIDE

    def dense_windows(frames: jax.Array):
        after = 4 * side - frames.shape[1]
        window = jnp.pad(frames, ((0, 0), (3, after), (3, after), (0, 0)))
        origin = jnp.zeros((frames.shape[0],), jnp.int32)
        return window, origin, origin

    # Per /4 position: four /2 positions of the first convolution, one of the others.
    macs = width * (4 * 27 + 9 + width)
    return Source(
        path=("stem",),
        module=Stem(width, config.size, patch, config.mean, config.std),
        stage=0,
        shape=(side, side),
        cell=patch // 4,
        width=width,
        macs=(patch // 4) ** 2 * macs,
        window=patch + 3,
        start=lambda row, column: (row * patch, column * patch),
        border=3,
        dense_windows=dense_windows,
        dense_merge=lambda x: x,
        halo=1,
    )
