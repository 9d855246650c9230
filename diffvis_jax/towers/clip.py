"""CLIP's vision transformer, and SigLIP's, as one list of global layers over a row of tokens.

Source: CLIP (arXiv 2103.00020), transformers `modeling_clip.py`. The map of this tower is
`[B, L, 1, D]`: L = 1 + N tokens, the class token first (SigLIP has none: L = N); a cell is a token.
"""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffvis_jax.errors import ConfigError
from diffvis_jax.images.geometry import PreprocessConfig
from diffvis_jax.ops.attention import attention, attention_to, layer_norm
from diffvis_jax.ops.pointwise import ACTIVATIONS, feed_forward, linear
from diffvis_jax.towers.base import Global, Params, Source, Tower
from diffvis_jax.utils.config_checks import require_positive

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclasses.dataclass(frozen=True)
class CLIPConfig:
    """Architecture of a CLIP vision tower; the defaults are ViT-L/14-336, LLaVA-1.5's.

    Attributes:
      width, layers, heads, mlp_width: of the transformer.
      patch: pixels along the side of a patch (14 for L/14; its grid at 336 px is 24 x 24).
      size: S, pixels along the side of a frame.
      activation: "quick_gelu" (OpenAI), "gelu" (LAION) or "gelu_pytorch_tanh" (SigLIP).
      norm_epsilon: of the layer norms.
      class_token: whether there is one (SigLIP: no; it has no norm before the first block either).
      patch_bias: whether the patch embedding has a bias (SigLIP).
      projection_width: width of the joint text-image space, 0 = no projection in the checkpoint.
      mean, std: of the normalisation `(pixel / 255 - mean) / std`.
      dtype: "float32", or "bfloat16": operands and maps in bfloat16, sums in float32.
      pad_color: colour of the square padding.
      resize_mode: "pad", "crop" or "squash" (see `preprocess`).

    Raises:
      ConfigError: sizes that do not fit together, or an unknown activation; names them.
    """

    width: int = 1024
    layers: int = 24
    heads: int = 16
    mlp_width: int = 4096
    patch: int = 14
    size: int = 336
    activation: str = "quick_gelu"
    norm_epsilon: float = 1e-5
    class_token: bool = True
    patch_bias: bool = False
    projection_width: int = 0
    mean: tuple[float, float, float] = OPENAI_MEAN
    std: tuple[float, float, float] = OPENAI_STD
    dtype: str = "float32"
    pad_color: tuple[int, int, int] = (122, 116, 104)
    resize_mode: str = "crop"

    def __post_init__(self):
        require_positive(self, "width", "layers", "heads", "mlp_width", "patch", "size")
        if self.width % self.heads:
            raise ConfigError(f"width {self.width} does not divide into {self.heads} heads")
        if self.activation not in list(ACTIVATIONS):  # a list: no hash is needed
            raise ConfigError(f"activation {self.activation!r} is none of {sorted(ACTIVATIONS)}")
        if self.size < self.patch:
            raise ConfigError(f"size {self.size} must be at least one patch of {self.patch} pixels")
        if self.layers < 2:
            raise ConfigError(f"at least 2 layers are needed (LLaVA skips the last): {self.layers}")
        if self.dtype not in ("float32", "bfloat16"):
            raise ConfigError(f"dtype must be 'float32' or 'bfloat16', got {self.dtype!r}")

    @property
    def preprocess(self) -> PreprocessConfig:
        return PreprocessConfig(size=self.size, mode=self.resize_mode, pad_color=self.pad_color)  # type: ignore[arg-type]

    @property
    def grid(self) -> int:
        """Patches along the side of a frame (pixels beyond the last whole one are not seen)."""
        return self.size // self.patch

    @property
    def lead(self) -> int:
        """Tokens before the first patch."""
        return int(self.class_token)

    @property
    def length(self) -> int:
        """L: all tokens, the class token included."""
        return self.lead + self.grid**2


class _Linear(nn.Module):
    shape: tuple[int, int]
    gain: float = 1.0
    use_bias: bool = True

    @nn.compact
    def __call__(self) -> Params:
        init = nn.initializers.variance_scaling(self.gain**2, "fan_in", "normal")
        held = {"kernel": self.param("kernel", init, self.shape)}
        if self.use_bias:
            held["bias"] = self.param("bias", nn.initializers.zeros, self.shape[-1:])
        return held


class LayerNorm(nn.Module):
    """Scale and bias named as this library's trees name them."""

    width: int
    epsilon: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("norm_scale", nn.initializers.ones, (self.width,))
        bias = self.param("norm_bias", nn.initializers.zeros, (self.width,))
        return layer_norm(x, scale, bias, self.epsilon)


class Embed(nn.Module):
    """Patch embedding, class token, position embedding and, for CLIP, the norm after them."""

    config: CLIPConfig

    @nn.compact
    def __call__(self, pixels: jax.Array, row: jax.Array, column: jax.Array) -> jax.Array:
        """`uint8 [K, p, p, 3]` of the tokens `row` (0 = class token) -> `[K, 1, 1, D]`."""
        c = self.config
        x = (pixels.astype(jnp.float32) / 255 - jnp.array(c.mean)) / jnp.array(c.std)
        shape = (c.patch * c.patch * 3, c.width)
        patch = _Linear(shape, use_bias=c.patch_bias, name="patch")()
        x = linear(x.reshape(x.shape[0], -1), **patch)
        normal = nn.initializers.normal(0.02)
        if c.class_token:
            token = self.param("class_token", normal, (c.width,))
            x = jnp.where((row == 0)[:, None], token.astype(jnp.float32), x)
        position = self.param("position", normal, (c.length, c.width))
        x = x + position[row].astype(jnp.float32)
        if c.class_token:
            norm = LayerNorm(c.width, c.norm_epsilon)
            nn.share_scope(self, norm)
            x = norm(x)
        return x[:, None, None]


class _Attention(nn.Module):
    config: CLIPConfig

    def setup(self):
        c = self.config
        self.norm = LayerNorm(c.width, c.norm_epsilon)
        nn.share_scope(self, self.norm)
        self.query = _Linear((c.width, c.width))
        self.kv = _Linear((c.width, 2 * c.width))
        self.output = _Linear((c.width, c.width), c.layers**-0.5)

    def key_value(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        key, value = jnp.split(linear(self.norm(x), **self.kv()), 2, axis=-1)
        return key, value

    def __call__(self, x, key, value, mask):
        mixed = attention(self.queries(x, key), key, value, heads=self.config.heads, mask=mask)
        return x.astype(jnp.float32) + linear(mixed, **self.output())

    def attention_to(self, x, key, marked, mask):
        return attention_to(self.queries(x, key), key, marked, heads=self.config.heads, mask=mask)

    def queries(self, x: jax.Array, key: jax.Array) -> jax.Array:
        """Of positions, in the dtype of the keys."""
        return linear(self.norm(x), **self.query()).astype(key.dtype)


class _Mlp(nn.Module):
    config: CLIPConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c = self.config
        norm = LayerNorm(c.width, c.norm_epsilon)
        nn.share_scope(self, norm)
        fc1 = _Linear((c.width, c.mlp_width), name="fc1")()
        fc2 = _Linear((c.mlp_width, c.width), c.layers**-0.5, name="fc2")()
        return feed_forward(norm(x), x, fc1, fc2, ACTIVATIONS[c.activation])


class Block(nn.Module):
    """`x += attention(ln1 x)`, `x += mlp(ln2 x)` for some tokens against all keys and values."""

    config: CLIPConfig

    def setup(self):
        self.attention = _Attention(self.config)
        self.mlp = _Mlp(self.config)

    def key_value(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        return self.attention.key_value(x)

    def __call__(self, x, key, value, mask=None):
        return self.mlp(self.attention(x, key, value, mask))

    def attention_to(self, x, key, marked, mask=None) -> jax.Array:
        return self.attention.attention_to(x, key, marked, mask)


class Patches(nn.Module):
    """Drops the class token: what LLaVA gives its projector."""

    lead: int

    def __call__(self, x: jax.Array) -> jax.Array:
        return x[:, self.lead :, 0].astype(jnp.float32)


@functools.lru_cache(maxsize=64)
def tower(config: CLIPConfig, blocks: int | None = None) -> Tower:
    """The tower up to and including `blocks` blocks; None = all but the last, as LLaVA takes it."""
    blocks = config.layers - 1 if blocks is None else blocks
    width, length = config.width, config.length
    return Tower(
        config=config,
        rows=length,
        columns=1,
        lead=config.lead,
        grid=config.grid,
        patch=config.patch,
        layers=(_embed(config), *(_block(config, i) for i in range(blocks))),
        readout_module=Patches(config.lead),
        readout_path=(),
        readout_macs=0,
        tokens=length - config.lead,
        token_width=width,
        dtype=jnp.dtype(config.dtype),
    )


def _embed(config: CLIPConfig) -> Source:
    grid, patch, lead = config.grid, config.patch, config.lead

    def start(row: jax.Array, column: jax.Array) -> tuple[jax.Array, jax.Array]:
        index = jnp.maximum(row - lead, 0)  # the class token looks at some pixels and ignores them
        return index // grid * patch, index % grid * patch

    def dense_windows(frames: jax.Array):
        side = grid * patch
        x = frames[:, :side, :side].reshape(-1, grid, patch, grid, patch, 3)
        x = x.swapaxes(2, 3).reshape(-1, grid * grid, patch, patch, 3)
        x = jnp.concatenate([x[:, :lead], x], axis=1)
        row = jnp.tile(jnp.arange(config.length), frames.shape[0])
        return x.reshape(-1, patch, patch, 3), row, jnp.zeros_like(row)

    return Source(
        path=("embed",),
        module=Embed(config),
        stage=0,
        shape=(config.length, 1),
        cell=1,
        width=config.width,
        macs=3 * patch * patch * config.width,
        window=patch,
        start=start,
        border=0,
        dense_windows=dense_windows,
        dense_merge=lambda x: x.reshape(-1, config.length, 1, config.width),
        halo=0,
    )


def _block(config: CLIPConfig, index: int) -> Global:
    width, length = config.width, config.length
    return Global(
        path=(f"block_{index}",),
        module=Block(config),
        stage=0,
        shape=(length, 1),
        cell=1,
        width=width,
        macs=2 * width * width + 2 * length * width + 2 * width * config.mlp_width,
        macs_key_value=2 * width * width,
    )


def hidden_states(params: Params, frames: jax.Array, config: CLIPConfig) -> list[jax.Array]:
    """All of them, `[B, L, D]` float32: after the embedding, then after every block."""
    full = tower(config, config.layers)
    source = full.layers[0]
    assert isinstance(source, Source)
    x = source.dense(source.own(params), frames)
    states = [x]
    for layer in full.layers[1:]:
        assert isinstance(layer, Global)
        x = layer.dense(layer.own(params), x, full.dtype)
        states.append(x)
    return [x[:, :, 0] for x in states]


def outputs(params: Params, frames: jax.Array, config: CLIPConfig) -> dict[str, jax.Array]:
    """The customary outputs of a CLIP tower, by name.

    Returns:
      "patch": `hidden_states[-2]` without the class token (LLaVA); "cls_patch": with it;
      "last_hidden_state": after the last block (SigLIP: and the post norm); "pooled": the post
      norm of the class token; "embedding": its projection, if the checkpoint has one.
    """
    states = hidden_states(params, frames, config)
    found = {"patch": states[-2][:, config.lead :], "cls_patch": states[-2]}
    norm = LayerNorm(config.width, config.norm_epsilon)

    def post(x: jax.Array) -> jax.Array:
        y = norm.apply({"params": params["post"]}, x)
        assert isinstance(y, jax.Array)
        return y

    if not config.class_token:
        return found | {"last_hidden_state": post(states[-1])}
    found |= {"last_hidden_state": states[-1], "pooled": post(states[-1][:, 0])}
    if config.projection_width:
        found["embedding"] = linear(found["pooled"], **params["projection"])
    return found
