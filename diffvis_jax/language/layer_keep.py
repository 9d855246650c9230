"""Fewer image tokens in later layers: what the last word hardly looks at goes no deeper.

PyramidDrop (arXiv 2410.17247) keeps falling shares after quarters of the layers, FastV
(arXiv 2403.06764) half after the second; both are a `LayerKeep`. Text always stays. A prompt is
read afresh: which tokens stay depends on all of it.

B streams, R rows of the padded prompt, L layers, n image tokens of each prompt.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from diffvis_jax.errors import ConfigError
from diffvis_jax.language.config import DecoderConfig
from diffvis_jax.language.decoder import forward, read_out
from diffvis_jax.language.generate import rope_delta
from diffvis_jax.language.kv_cache import KVCache
from diffvis_jax.towers.params import Params


@dataclasses.dataclass(frozen=True)
class LayerKeep:
    """Which share of the image tokens goes on after which share of the layers.

    Attributes:
      at: shares of the layers, rising, 0-1.
      keep: share of *all* image tokens that goes on from there, falling, 0-1.

    Raises:
      ConfigError: shares out of range or order, or not as many of one as of the other.
    """

    at: tuple[float, ...] = (0.25, 0.5, 0.75)
    keep: tuple[float, ...] = (0.7, 0.5, 0.4)

    def __post_init__(self):
        if len(self.at) != len(self.keep) or not self.at:
            raise ConfigError(
                "as many shares of tokens as of layers are needed, got keep "
                f"{self.keep} at {self.at}"
            )
        for name, rising in (("at", self.at), ("keep", self.keep[::-1])):
            shares = getattr(self, name)
            if not all(0 < share <= 1 for share in shares) or list(rising) != sorted(rising):
                order = "rising" if name == "at" else "falling"
                raise ConfigError(f"{name} must be {order} shares above 0, at most 1; got {shares}")

    def segments(self, layers: int, images: int) -> list[tuple[range, int]]:
        """The layers of each segment, and how many image tokens they see.

        Args:
          layers: L.
          images: n.
        """
        starts = [0, *(round(share * layers) for share in self.at), layers]
        counts = [images, *(min(images, max(1, round(s * images))) for s in self.keep)]
        runs = zip(starts, starts[1:], counts, strict=False)
        return [(range(first, end), count) for first, end, count in runs if end > first]


def prefill_kept(
    params: Params,
    cache: KVCache,
    x: jax.Array,
    image: jax.Array,
    length: jax.Array,
    *,
    config: DecoderConfig,
    keep: LayerKeep,
    images: int,
    rotary: jax.Array | None = None,
) -> tuple[jax.Array, KVCache]:
    """Runs a whole prompt, as `prefill`; later layers hold fewer of its positions.

    Of the image tokens those stay to which the last position attends most, summed over the heads
    of the last layer before.

    Args:
      cache: of at least R slots; what it holds is overwritten.
      x: float32 `[B, R, D]`, embeddings; rows beyond a prompt's length do not matter.
      image: bool `[B, R]`, which rows are image tokens.
      length: int32 `[B]`, of the prompts.
      config, keep: static.
      images: n; static.
      rotary: int32 `[B, R, 3]` of a model with an `mrope_section`; else None.

    Returns:
      logits of the last position, float32 `[B, V]`; the cache.
    """
    batch, rows = image.shape
    stream = jnp.arange(batch)[:, None]
    delta = rope_delta(rotary, length)
    if rotary is None:
        rotary = jnp.broadcast_to(jnp.arange(rows, dtype=jnp.int32)[:, None], (batch, rows, 1))
    # What an earlier prompt left says nothing of this one.
    cache = dataclasses.replace(cache, rope_delta=delta, dropped=None)
    last, seen, dropped = length.astype(jnp.int32) - 1, images, []
    looked = jnp.zeros(image.shape, jnp.float32)
    for layers, count in keep.segments(config.layers, images):
        if count < seen:
            # Ranked by what the segment before looked at; text before all of it.
            score = jnp.where(image, looked, jnp.inf)
            order = jnp.argsort(-score, axis=1, stable=True)[:, : rows - (seen - count)]
            order = jnp.sort(order, axis=1)
            x, rotary, image = x[stream, order], rotary[stream, order], image[stream, order]
            last, rows, seen = last - (seen - count), rows - (seen - count), count
        slots = jnp.broadcast_to(jnp.arange(rows, dtype=jnp.int32), (batch, rows))
        x, cache, watched = forward(
            params,
            cache,
            x,
            slots,
            config=config,
            rotary=rotary,
            span=rows,
            watch=last,
            layers=layers,
        )
        assert watched is not None
        looked = watched[:, -1].sum(1)
        dropped += [images - seen] * len(layers)
    hidden = jnp.take_along_axis(x, last[:, None, None], axis=1)[:, 0]
    cache = dataclasses.replace(
        cache,
        length=length.astype(jnp.int32),
        dropped=jnp.broadcast_to(jnp.asarray(dropped, jnp.int32), (batch, config.layers)),
    )
    return read_out(params, hidden, config=config), cache


jit_prefill_kept = functools.partial(
    jax.jit, static_argnames=("config", "keep", "images"), donate_argnames="cache"
)(prefill_kept)


def image_tokens(image: np.ndarray) -> int:
    """How many image tokens each of some prompts has.

    Raises:
      ConfigError: they do not all have as many.
    """
    counts = np.unique(np.asarray(image).sum(1))
    if len(counts) > 1:
        raise ConfigError(f"prompts read together need as many image tokens each, got {counts}")
    return int(counts[0])
