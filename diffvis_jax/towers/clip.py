"""CLIP's vision transformer, and SigLIP's: one stack of blocks over rows of tokens.

Source: CLIP (arXiv 2103.00020), transformers `modeling_clip.py`. K rows, D width, N patches; before
the patches stands the class token (SigLIP has none).
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from diffvis_jax.errors import ConfigError
from diffvis_jax.images.geometry import PreprocessConfig
from diffvis_jax.ops.attention import layer_norm
from diffvis_jax.ops.matmul import linear
from diffvis_jax.ops.pointwise import ACTIVATIONS, feed_forward, normalized
from diffvis_jax.towers.base import (
    AttentionBlock,
    Preset,
    Segment,
    TokenStack,
    Tower,
    raster_tokens,
)
from diffvis_jax.towers.forward import hidden_states
from diffvis_jax.towers.params import Param, Params, Specs, affine, norm, normal
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
      pinpoints: (height, width) of canvases that are cut into tiles, each a frame (LLaVA-1.6, see
        `preprocess_tiles`); empty = an image is one frame.

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
    pinpoints: tuple[tuple[int, int], ...] = ()

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
        for canvas in self.pinpoints:
            if len(canvas) != 2 or any(side < 1 or side % self.size for side in canvas):
                raise ConfigError(
                    f"pinpoints must be (height, width) in multiples of {self.size} pixels, "
                    f"got {canvas!r}"
                )
        if self.dtype not in ("float32", "bfloat16"):
            raise ConfigError(f"dtype must be 'float32' or 'bfloat16', got {self.dtype!r}")

    @property
    def preprocess(self) -> PreprocessConfig:
        return PreprocessConfig(
            size=self.size,
            mode=self.resize_mode,  # type: ignore[arg-type]
            pad_color=self.pad_color,
            pinpoints=self.pinpoints,
        )

    def resized(self, height: int, width: int) -> "CLIPConfig":
        """The same architecture for frames of that size, which can only be the one it has.

        Raises:
          ConfigError: any other size: there are no position embeddings for it.
        """
        if (height, width) != (self.size, self.size):
            raise ConfigError(
                f"this CLIP tower has position embeddings for {self.size} x {self.size} pixels "
                f"only, not for {height} x {width}"
            )
        return self

    @property
    def grid(self) -> int:
        """Patches along the side of a frame (pixels beyond the last whole one are not seen)."""
        return self.size // self.patch

    @property
    def num_prefix_tokens(self) -> int:
        """Tokens before the first patch."""
        return int(self.class_token)

    @property
    def length(self) -> int:
        """All tokens, the class token included."""
        return self.num_prefix_tokens + self.grid**2


# so400m-patch14-384 of arXiv 2303.15343.
SIGLIP = CLIPConfig(
    width=1152,
    layers=27,
    heads=16,
    mlp_width=4304,
    patch=14,
    size=384,
    activation="gelu_pytorch_tanh",
    norm_epsilon=1e-6,
    class_token=False,
    patch_bias=True,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    resize_mode="squash",
)


# ---- parameters -------------------------------------------------------------------------------


def _embed_specs(c: CLIPConfig) -> Specs:
    specs: dict[str, Specs | Param] = {
        "patch": affine(c.width, c.patch * c.patch * 3, bias=c.patch_bias),
        "position": Param((c.length, c.width), normal(0.02)),
    }
    if c.class_token:
        specs |= {"class_token": Param((c.width,), normal(0.02)), **norm(c.width)}
    return specs


def _block_specs(c: CLIPConfig) -> Specs:
    gain = c.layers**-0.5
    return {
        "attention": {
            **norm(c.width),
            "query": affine(c.width, c.width),
            "kv": affine(2 * c.width, c.width),
            "output": affine(c.width, c.width, gain),
        },
        "mlp": {
            **norm(c.width),
            "fc1": affine(c.mlp_width, c.width),
            "fc2": affine(c.width, c.mlp_width, gain),
        },
    }


def _other_specs(c: CLIPConfig, blocks: int) -> Specs:
    """What `outputs` needs and the tokens do not: blocks that are left out, the last norm."""
    specs: dict[str, Specs] = {f"block_{i}": _block_specs(c) for i in range(blocks, c.layers)}
    specs["post"] = norm(c.width)
    if c.projection_width:
        specs["projection"] = affine(c.projection_width, c.width, bias=False)
    return specs


# ---- blocks on rows ---------------------------------------------------------------------------


def _norm(c: CLIPConfig, params: Params, x: jax.Array) -> jax.Array:
    return layer_norm(x, params["norm_scale"], params["norm_bias"], c.norm_epsilon)


def _embed(c: CLIPConfig, params: Params, pixels: jax.Array, index: jax.Array) -> jax.Array:
    """`uint8 [K, p, p, 3]` of the patches `index` -> `[K, D]`: patch and position embedding, and
    CLIP's norm after them."""
    x = normalized(pixels, c.mean, c.std)
    x = linear(x.reshape(x.shape[0], -1), **params["patch"])
    x = x + params["position"][c.num_prefix_tokens + index]
    return _norm(c, params, x) if c.class_token else x


def _prefix(c: CLIPConfig, params: Params) -> jax.Array:
    """The class token as it enters the first block, `[1, D]`; SigLIP: `[0, D]`."""
    if not c.class_token:
        return jnp.zeros((0, c.width), jnp.float32)
    return _norm(c, params, params["class_token"][None] + params["position"][:1])


def _query(c: CLIPConfig, params: Params, x, row, column) -> jax.Array:
    own = params["attention"]
    return linear(_norm(c, own, x), **own["query"])


def _key_value(c: CLIPConfig, params: Params, x, row, column) -> tuple[jax.Array, jax.Array]:
    own = params["attention"]
    key, value = jnp.split(linear(_norm(c, own, x), **own["kv"]), 2, axis=-1)
    return key, value


def add_mixed(params: Params, x: jax.Array, mixed: jax.Array) -> jax.Array:
    """`x + output(mixed)`, float32 `[..., D]`: the second half of attention in a block."""
    return x.astype(jnp.float32) + linear(mixed, **params["attention"]["output"])


def add_mlp(c: CLIPConfig, params: Params, x: jax.Array) -> jax.Array:
    """`x + mlp(ln2 x)` of a block, `[..., D]`."""
    own, activation = params["mlp"], ACTIVATIONS[c.activation]
    return feed_forward(_norm(c, own, x), x, own["fc1"], own["fc2"], activation)


def _finish(c: CLIPConfig, params: Params, x, mixed, row, column) -> jax.Array:
    return add_mlp(c, params, add_mixed(params, x, mixed))


# ---- the tower --------------------------------------------------------------------------------


def stack(c: CLIPConfig, blocks: int) -> TokenStack:
    """The first `blocks` blocks, and the embedding before them."""
    width, length = c.width, c.length
    block_macs = 4 * width * width + 2 * length * width + 2 * width * c.mlp_width
    return TokenStack(
        path=("embed",),
        specs=_embed_specs(c),
        stage=0,
        shape=(c.grid, c.grid),
        cell=1,
        width=width,
        macs=3 * c.patch**2 * width + blocks * block_macs,
        depth=blocks,
        block=AttentionBlock(
            heads=c.heads,
            head_width=width // c.heads,
            query=functools.partial(_query, c),
            key_value=functools.partial(_key_value, c),
            finish=functools.partial(_finish, c),
        ),
        block_path=("block_{}",),
        block_specs=_block_specs(c),
        embed=functools.partial(_embed, c),
        prefix=functools.partial(_prefix, c),
        num_prefix_tokens=c.num_prefix_tokens,
    )


@functools.lru_cache(maxsize=64)
def tower(config: CLIPConfig) -> Tower:
    """The tower up to the last block but one, as LLaVA takes it."""
    blocks = config.layers - 1
    return Tower(
        config=config,
        frame=(config.size, config.size),
        patch=config.patch,
        token=config.patch,
        segments=(Segment(layers=(stack(config, blocks),)),),
        presets={"faithful": Preset((1.0,)), "fast": Preset((0.0,))},
        head=raster_tokens,
        extra_specs=_other_specs(config, blocks),
        token_width=config.width,
        token_grid=(config.grid, config.grid),
        dtype=jnp.dtype(config.dtype),
    )


def outputs(params: Params, frames: jax.Array, config: CLIPConfig) -> dict[str, jax.Array]:
    """The customary outputs of a CLIP tower, by name.

    Returns:
      "patch": `hidden_states[-2]` without the class token (LLaVA); "cls_patch": with it;
      "last_hidden_state": after the last block (SigLIP: and the post norm); "pooled": the post
      norm of the class token; "embedding": its projection, if the checkpoint has one.
    """
    states = hidden_states(params, stack(config, config.layers), frames, tower(config))
    *_, penultimate, last = (x.astype(jnp.float32) for x in states)
    named = {"patch": penultimate[:, config.num_prefix_tokens :], "cls_patch": penultimate}
    if not config.class_token:
        return named | {"last_hidden_state": _norm(config, params["post"], last)}
    named |= {"last_hidden_state": last, "pooled": _norm(config, params["post"], last[:, 0])}
    if config.projection_width:
        named["embedding"] = linear(named["pooled"], **params["projection"])
    return named
