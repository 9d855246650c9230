"""A small tower of every kind of layer, for frames of any shape: what adding a tower takes.

Pixels /4: a strided convolution, two blocks of two convolutions each; /8: a halving, two blocks of
global attention and a convolution; tokens of 8 px, patches of 16 px.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import lax

from diffvis_jax.images.geometry import PreprocessConfig
from diffvis_jax.ops.attention import layer_norm
from diffvis_jax.ops.broadcast import per_channel
from diffvis_jax.ops.depthwise import depthwise_conv
from diffvis_jax.ops.matmul import linear
from diffvis_jax.ops.pointwise import gelu
from diffvis_jax.towers.base import (
    AttentionBlock,
    AttentionLayer,
    ConvLayer,
    Preset,
    Segment,
    Tower,
    zero_outside,
)
from diffvis_jax.towers.params import Param, affine, norm, normal
from diffvis_jax.towers.registry import Family, register

PATCH, WIDTHS, HEADS = 16, (8, 16), 2


@dataclasses.dataclass(frozen=True)
class ToyConfig:
    height: int = 56
    width: int = 72
    dtype: str = "float32"

    @property
    def preprocess(self) -> PreprocessConfig:
        return PreprocessConfig(size=self.width, mode="squash")

    def resized(self, height: int, width: int) -> "ToyConfig":
        return dataclasses.replace(self, height=height, width=width)


def depthwise_specs(width):
    return {"kernel": Param((3, 3, 1, width), normal(0.3)), "bias": Param((width,), normal(0.1))}


def stem(shape, params, pixels, row, column):
    x = zero_outside(pixels.astype(jnp.float32) / 255 - 0.4, row * 4 - 3, column * 4 - 3, shape)
    y = lax.conv_general_dilated(
        x,
        params["kernel"].astype(x.dtype),
        (4, 4),
        "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return gelu(y + per_channel(params["bias"], y))


def conv_block(shape, params, x, row, column):
    inner = depthwise_conv(x, **params["first"])
    inner = gelu(zero_outside(inner, row - 1, column - 1, shape))
    y = linear(depthwise_conv(inner, **params["second"]), **params["mix"])
    return x[:, 2:-2, 2:-2].astype(jnp.float32) + y


def halve(params, x, row, column):
    return gelu(linear(depthwise_conv(x, **params["conv"], stride=2), **params["mix"]))


def normed(params, x):
    return layer_norm(x, params["norm_scale"], params["norm_bias"], 1e-5)


def query(params, x, row, column):
    return linear(normed(params, x), **params["query"])


def key_value(params, x, row, column):
    return tuple(jnp.split(linear(normed(params, x), **params["kv"]), 2, axis=-1))


def finish(params, x, mixed, row, column):
    return x.astype(jnp.float32) + linear(mixed, **params["output"])


def mix(params, x, row, column):
    y = linear(gelu(depthwise_conv(x, **params["conv"])), **params["mix"])
    return x[:, 1:-1, 1:-1].astype(jnp.float32) + y


def head(params, x):
    x = x.astype(jnp.float32)
    return (x + x.mean((1, 2), keepdims=True)).reshape(x.shape[0], -1, x.shape[-1])


@functools.lru_cache
def tower(config: ToyConfig) -> Tower:
    sides = [tuple(-(-side // n) for side in (config.height, config.width)) for n in (4, 8)]
    first, second = WIDTHS

    def conv(path, apply, specs, stage, macs, before, after, stride=1):
        cell = PATCH // 4 // 2**stage
        return ConvLayer(
            path=path, apply=apply, specs=specs, stage=stage, shape=sides[stage], cell=cell,
            width=WIDTHS[stage], macs=cell**2 * macs, before=before, after=after, stride=stride,
        )  # fmt: skip

    kernel = {"kernel": Param((7, 7, 3, first), normal(0.2)), "bias": Param((first,), normal(0.1))}
    stem_of = functools.partial(stem, (config.height, config.width))
    block_specs = {
        "first": depthwise_specs(first),
        "second": depthwise_specs(first),
        "mix": affine(first, first),
    }
    block = functools.partial(conv_block, sides[0])
    down = {"conv": depthwise_specs(second), "mix": affine(second, second)}
    positions = sides[1][0] * sides[1][1]
    attention = AttentionLayer(
        path=("block_{}", "attention"),
        specs={
            **norm(second),
            "query": affine(second, second),
            "kv": affine(2 * second, second),
            "output": affine(second, second, 0.5),
        },
        stage=1,
        shape=sides[1],
        cell=2,
        width=second,
        macs=4 * (2 * second**2 + 2 * positions * second),
        kv_macs=4 * 2 * second**2,
        block=AttentionBlock(
            heads=HEADS,
            head_width=second // HEADS,
            query=query,
            key_value=key_value,
            finish=finish,
        ),
    )
    mix_specs = {"conv": depthwise_specs(second), "mix": affine(second, second)}
    ffn = conv(("block_{}", "ffn"), mix, mix_specs, 1, 9 * second + second**2, 1, 1)
    halving = conv(("down",), halve, down, 1, 9 * second + second**2, 1, 0, stride=2)
    blocks = conv(("conv_{}",), block, block_specs, 0, 18 * first + first**2, 2, 2)
    return Tower(
        config=config,
        frame=(config.height, config.width),
        patch=PATCH,
        token=8,
        segments=(
            Segment(layers=(conv(("stem",), stem_of, kernel, 0, 49 * 3 * first, 3, 0, stride=4),)),
            Segment(layers=(blocks,), repeat=2),
            Segment(layers=(halving,)),
            Segment(layers=(attention, ffn), repeat=2),
        ),
        presets={"faithful": Preset((2.0, 9.0)), "fast": Preset((1.0, 1.0))},
        head=head,
        token_width=second,
        token_grid=sides[1],
        dtype=jnp.dtype(config.dtype),
    )


register(Family("toy", ToyConfig, tower))


def random_frames(config: ToyConfig, seed: int, batch: int = 1) -> jax.Array:
    return jax.random.randint(
        jax.random.key(seed), (batch, config.height, config.width, 3), 0, 256, jnp.uint8
    )
