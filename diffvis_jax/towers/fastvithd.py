"""FastViTHD, the vision tower of FastVLM, in its fused inference form.

Source: FastVLM (arXiv 2412.13303), apple/ml-fastvlm `mobileclip/mci.py`; timm `fastvit_mci3`.
BatchNorm and layer scale are folded into the neighbouring kernels by the converter. Every function
maps windows `[K, h + halo, w + halo, C]` to `[K, h, w, C]` with VALID convolutions: the full encode
is one big window, the differential step many small ones.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from diffvis_jax.errors import ConfigError
from diffvis_jax.images.geometry import PreprocessConfig
from diffvis_jax.ops.attention import layer_norm
from diffvis_jax.ops.broadcast import per_channel
from diffvis_jax.ops.depthwise import depthwise_conv
from diffvis_jax.ops.matmul import linear
from diffvis_jax.ops.pointwise import feed_forward, gelu, normalized
from diffvis_jax.towers.base import (
    AttentionBlock,
    AttentionLayer,
    ConvLayer,
    FusedLayers,
    Preset,
    Segment,
    Tower,
    zero_outside,
)
from diffvis_jax.towers.params import Param, Params, Specs, affine, norm
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

    def resized(self, height: int, width: int) -> "FastViTHDConfig":
        """The same architecture for frames of another size; any square will do.

        Raises:
          ConfigError: not a square.
        """
        if height != width:
            raise ConfigError(f"FastViTHD takes square frames, not {height} x {width} pixels")
        return dataclasses.replace(self, size=height)

    def side(self, halvings: int) -> int:
        """Positions along the side of the map after that many halvings."""
        return -(-self.size // 2**halvings)


# ---- parameters -------------------------------------------------------------------------------


def _normal(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jax.random.normal(key, shape, jnp.float32)


def _conv(side: int, width: int, multiplier: int = 1, init=None, **kwargs) -> Specs:
    """Kernel `[k, k, 1, C]` and bias of a depthwise convolution."""
    init = init or (lambda key, shape: _normal(key, shape) / side)
    kernel = Param((side, side, 1, width * multiplier), init, **kwargs)
    return {"kernel": kernel, "bias": Param((width * multiplier,))}


def _near_identity(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """A fused RepMixer or position kernel: the folded residual in the centre plus a little."""
    k = shape[0]
    return (0.3 / k * _normal(key, shape)).at[k // 2, k // 2].add(1.0)


def _scaled(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """A branch's last matrix `[O, I]` with a layer scale of 0.1-0.5 folded in."""
    key, scale_key = jax.random.split(key)
    scale = jax.random.uniform(scale_key, shape[:1], jnp.float32, 0.1, 0.5)
    # 0.65 is the RMS of gelu(x) for standard normal x.
    return _normal(key, shape) * shape[1] ** -0.5 / 0.65 * scale[:, None]


def _scaled_affine(outputs: int, inputs: int) -> Specs:
    weight = Param((outputs, inputs), _scaled)
    return {"weight": weight, "bias": Param((outputs,))}


def _with_scale(specs: Specs, name: str) -> Specs:
    """The same, of which this parameter sets the scale of the layer's output."""
    return {**specs, name: dataclasses.replace(specs[name], sets_scale=True)}


# ---- blocks on windows ------------------------------------------------------------------------


def _stem(config: FastViTHDConfig, params: Params, pixels, row, column) -> jax.Array:
    """conv 3x3 s2, GELU, depthwise 3x3 s2, GELU, 1x1, GELU: `uint8 [K, 4h + 3, 4w + 3, 3]` to
    `[K, h, w, C]`, the /4 map."""
    x = normalized(pixels, config.mean, config.std)
    if any(config.mean):  # else the border's zeros are already the padding's zeros
        x = zero_outside(x, row * 4 - 3, column * 4 - 3, (config.size, config.size))
    x = _dense_conv(x, params["conv_0"]["kernel"])
    x = x + per_channel(params["conv_0"]["bias"], x)
    half = -(-config.size // 2)
    x = zero_outside(gelu(x), row * 2 - 1, column * 2 - 1, (half, half))
    x = gelu(depthwise_conv(x, **params["conv_1"], stride=2))
    return gelu(linear(x, **params["conv_2"]))


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
    return linear(taps, kernel.reshape(-1, kernel.shape[-1]).T)


def _conv_ffn(params: Params, x: jax.Array) -> jax.Array:
    """x + depthwise 7x7 (BatchNorm folded) -> 1x1 -> GELU -> 1x1 (layer scale folded); halo 3."""
    return feed_forward(
        depthwise_conv(x, **params["conv"]), x, params["fc1"], params["fc2"], gelu, inset=3
    )


def _conv_ffn_specs(width: int, hidden: int) -> Specs:
    return {
        "conv": _conv(7, width),
        "fc1": affine(hidden, width),
        "fc2": _scaled_affine(width, hidden),
    }


def _repmixer(side: int, params: Params, x, row, column) -> jax.Array:
    """depthwise 3x3 (its residual folded into the centre), then the residual ConvFFN; halo 4."""
    mixed = depthwise_conv(x, **params["mixer"])
    return _conv_ffn(params["ffn"], zero_outside(mixed, row - 3, column - 3, (side, side)))


def _downsample(params: Params, x, row, column) -> jax.Array:
    """depthwise 7x7 s2, GELU, 1x1, GELU; halo 3 before, 2 after."""
    x = gelu(depthwise_conv(x, **params["conv"], stride=2))
    return gelu(linear(x, **params["project"]))


def _depthwise(params: Params, x, row, column) -> jax.Array:
    """One depthwise convolution: the position encoding (residual folded), the head's expansion."""
    return depthwise_conv(x, **params)


def _ffn_residual(params: Params, x, row, column) -> jax.Array:
    return _conv_ffn(params, x)


def _normalise(params: Params, x: jax.Array) -> jax.Array:
    return layer_norm(x, params["norm_scale"], params["norm_bias"], 1e-5)


def _query(params: Params, x, row, column) -> jax.Array:
    return linear(_normalise(params, x), **params["query"])


def _key_value(params: Params, x, row, column) -> tuple[jax.Array, jax.Array]:
    key, value = jnp.split(linear(_normalise(params, x), **params["kv"]), 2, axis=-1)
    return key, value


def _output(params: Params, x, mixed, row, column) -> jax.Array:
    """`x + proj(attention(layer_norm(x)))`, layer scale folded into proj."""
    return x.astype(jnp.float32) + linear(mixed, **params["output"])


def _squeeze_excite(params: Params, x: jax.Array) -> jax.Array:
    """Channel gates from the mean over the map, then GELU: `[B, H, W, D]` -> `[B, H * W, D]`."""
    x = x.astype(jnp.float32)
    squeezed = jax.nn.relu(linear(x.mean((1, 2)), **params["reduce"]))
    gate = linear(squeezed, **params["expand"])
    tokens = gelu(x * jax.nn.sigmoid(gate)[:, None, None])
    return tokens.reshape(x.shape[0], -1, x.shape[-1])


# ---- the tower --------------------------------------------------------------------------------


@functools.lru_cache(maxsize=64)
def tower(config: FastViTHDConfig) -> Tower:
    """The tower's layers, in the order in which they run."""
    segments = [Segment(layers=(_stem_layer(config),))]
    for stage in range(len(config.depths)):
        segments += _stage(config, stage)
    width, last = config.token_width, len(config.depths) - 1
    expand = _layer(
        config,
        last,
        ("head", "conv"),
        _depthwise,
        _conv(3, config.widths[-1], width // config.widths[-1], sets_scale=True),
        width=width,
        macs=9 * width,
        reach=(1, 1),
    )
    return Tower(
        config=config,
        frame=(config.size, config.size),
        patch=TOKEN_STRIDE,
        token=TOKEN_STRIDE,
        segments=(*segments, Segment(layers=(expand,))),
        # The last two stages attend globally, so a change reaches every token. On trained weights
        # little of it does, but enough that detections differ elsewhere where it is left out:
        # faithful recomputes those stages for every token. Fast has the narrowest margins with
        # which a tenth of the steps at most misses half of a change, in each of the sessions
        # recorded without idle steps; below 4 in stage 2 what is left out of one change outweighs
        # the small ones that follow it (docs/lab/2026-11-29_tails.md).
        presets={
            "faithful": Preset((1.0, 1.0, 4.0, 32.0, 32.0)),
            "fast": Preset((1.0, 1.0, 4.0, 6.0, 8.0)),
        },
        head=_squeeze_excite,
        head_path=("head", "gate"),
        head_specs={
            "reduce": affine(config.squeeze_width, width),
            "expand": affine(width, config.squeeze_width),
        },
        head_macs=2 * width * config.squeeze_width,
        token_width=width,
        token_grid=(config.grid, config.grid),
        dtype=jnp.dtype(config.dtype),
    )


def _stage(config: FastViTHDConfig, stage: int) -> list[Segment]:
    """Downsampling, position encoding and blocks of one stage, as far as it has them."""
    width, depth = config.widths[stage], config.depths[stage]
    hidden = width * config.mlp_ratio
    ffn_macs, ffn_specs = width * (49 + 2 * hidden), _conv_ffn_specs(width, hidden)
    layer = functools.partial(_layer, config, stage, width=width)
    name = f"stage_{stage}"
    segments: list[Segment] = []
    if stage:
        before = config.widths[stage - 1]
        specs = {
            "conv": _conv(7, before, width // before),
            "project": _with_scale(affine(width, width), "weight"),
        }
        macs, path = width * (49 + width), (name, "downsample")
        down = layer(path, _downsample, specs, macs=macs, reach=(3, 2), stride=2)
        segments.append(Segment(layers=(down,)))
    path = (name, "block_{}")
    if stage < len(config.depths) - config.attention_stages:
        apply = functools.partial(_repmixer, config.side(2 + stage))
        mixer = _with_scale(_conv(3, width, init=_near_identity), "kernel")
        specs, macs = {"mixer": mixer, "ffn": ffn_specs}, 9 * width + ffn_macs
        block = layer(path, apply, specs, macs=macs, reach=(4, 4))
        return segments + _fused(block, depth, (*config.blocks_per_map, *[1] * 5)[stage])
    specs = _with_scale(_conv(7, width, init=_near_identity), "kernel")
    position = layer((name, "position"), _depthwise, specs, macs=49 * width, reach=(3, 3))
    attention = _attention(config, stage, (*path, "attention"))
    ffn = layer((*path, "ffn"), _ffn_residual, ffn_specs, macs=ffn_macs, reach=(3, 3))
    blocks = Segment(layers=(attention, ffn), repeat=depth)
    return [*segments, Segment(layers=(position,)), blocks]


def _fused(block: ConvLayer, depth: int, together: int) -> list[Segment]:
    """The blocks of a stage, so many of them computed together, and those left over."""
    if together == 1:
        return [Segment(layers=(block,), repeat=depth)]
    whole, rest = divmod(depth, together)
    segments = []
    if whole:
        segments.append(Segment(layers=(FusedLayers.of((block,) * together),), repeat=whole))
    if rest:
        left = Segment(layers=(block,), repeat=rest, first_block=whole * together)
        segments.append(left)
    return segments


def _cell(stage: int) -> int:
    """Positions along the side of a cell: 64 px at a stride of 4 in stage 0, doubling after."""
    return TOKEN_STRIDE // 4 // 2**stage


def _layer(
    config: FastViTHDConfig,
    stage: int,
    path: tuple[str, ...],
    apply,
    specs: Specs,
    *,
    width: int,
    macs: int,
    reach: tuple[int, int],
    stride: int = 1,
) -> ConvLayer:
    """A convolutional layer; `macs` are those of one output position."""
    return ConvLayer(
        path=path,
        specs=specs,
        stage=stage,
        shape=(config.side(2 + stage), config.side(2 + stage)),
        cell=_cell(stage),
        width=width,
        macs=_cell(stage) ** 2 * macs,
        apply=apply,
        stride=stride,
        before=reach[0],
        after=reach[1],
    )


def _attention(config: FastViTHDConfig, stage: int, path: tuple[str, ...]) -> AttentionLayer:
    width, side = config.widths[stage], config.side(2 + stage)
    positions = _cell(stage) ** 2
    output = {"weight": Param((width, width), _scaled), "bias": Param((width,))}
    return AttentionLayer(
        path=path,
        specs={
            **norm(width),
            "query": affine(width, width, bias=False),
            "kv": affine(2 * width, width, bias=False),
            "output": output,
        },
        stage=stage,
        shape=(side, side),
        cell=_cell(stage),
        width=width,
        macs=positions * (2 * width * width + 2 * side * side * width),
        kv_macs=positions * 2 * width * width,
        block=AttentionBlock(
            heads=width // config.head_width,
            head_width=config.head_width,
            query=_query,
            key_value=_key_value,
            finish=_output,
        ),
    )


def _stem_layer(config: FastViTHDConfig) -> ConvLayer:
    width, side, cell = config.widths[0], config.side(2), _cell(0)
    first = Param((3, 3, 3, width), lambda key, shape: _normal(key, shape) / 27**0.5)
    return ConvLayer(
        path=("stem",),
        specs={
            "conv_0": {"kernel": first, "bias": Param((width,))},
            "conv_1": _conv(3, width),
            "conv_2": _with_scale(affine(width, width), "weight"),
        },
        stage=0,
        shape=(side, side),
        cell=cell,
        width=width,
        # Per /4 position: four /2 positions of the first convolution, one of the others.
        macs=cell**2 * width * (4 * 27 + 9 + width),
        apply=functools.partial(_stem, config),
        stride=4,
        before=3,
    )
