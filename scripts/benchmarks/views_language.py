"""What the language side of several views costs: the moving view first, or last."""

import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import diffvis_jax as dv
from diffvis_jax.checkpoints.architectures import expected_shapes
from diffvis_jax.checkpoints.store import unflatten
from diffvis_jax.language.differential_prefill import jit_prefill_fresh, prefill_next
from diffvis_jax.language.language_model import Language
from diffvis_jax.language.prompt_cache import Prompt, init_prompt_cache
from diffvis_jax.report.text import decimal, milliseconds, percent

TEXT = 40  # tokens after the images
ROUNDS = 5


def macs(config: dv.DecoderConfig, first: int, length: int) -> float:
    """Multiply-accumulates to prefill positions first..length, by arithmetic, without the head."""
    heads, kv = config.heads * config.head_width, config.kv_heads * config.head_width
    products = config.width * (2 * heads + 2 * kv + 3 * config.mlp_width)
    attention = 2 * heads * (first + length + 1) / 2  # of a mean position
    return (length - first) * config.layers * (products + attention)


def prefill_rows(tokens: int, views: int, layers: int) -> list[dict[str, Any]]:
    """Work and time of a prompt of all views and a text in which one view changed, against that of
    the whole prompt.

    Args:
      tokens: of each view.
      views: V.
      layers: of the decoder that is timed, with random weights in the widths of the 0.5B one; 0 =
        nothing is timed.
    """
    length = views * tokens + TEXT
    rows = []
    for place, number in (("first", 0), ("last", views - 1)):
        first = number * tokens
        share = macs(dv.DecoderConfig(), first, length) / macs(dv.DecoderConfig(), 0, length)
        ms = _timed(tokens, views, number, layers) if layers else (None, None)
        rows.append(
            {
                "moving": place,
                "prefilled": length - first,
                "total": length,
                "macs": share,
                "differential_ms": ms[0],
                "fresh_ms": ms[1],
            }
        )
    return rows


def random_language(layers: int, projector_input: int) -> Language:
    """A decoder with random weights in the widths of the 0.5B one, and few words."""
    config = dv.DecoderConfig(
        layers=layers, vocabulary=1024, eos_ids=(1,), projector_input=projector_input
    )
    rng = np.random.default_rng(0)
    shapes = expected_shapes(config).items()
    return Language(
        config,
        unflatten(
            {
                path: jnp.asarray(rng.standard_normal(shape, np.float32) * shape[-1] ** -0.5)
                for path, shape in shapes
            }
        ),
    )


def _timed(tokens: int, views: int, moving: int, layers: int) -> tuple[float, float]:
    """Median milliseconds of a differential and a fresh prefill."""
    language = random_language(layers, 64)
    config, params, rng = language.config, language.params, np.random.default_rng(0)
    length = views * tokens + TEXT
    embeddings = rng.standard_normal((1, length, config.width), np.float32)
    image = np.arange(length)[None] < views * tokens
    cache = init_prompt_cache(config, 1, length, length + 1)
    fresh = init_prompt_cache(config, 1, length, length + 1)
    seen: list[tuple[float, float]] = []
    for _ in range(ROUNDS + 2):  # the first two compile
        at = slice(moving * tokens, (moving + 1) * tokens)
        embeddings[:, at] = rng.standard_normal(embeddings[:, at].shape, np.float32)
        prompt = Prompt(
            embeddings=jnp.asarray(embeddings),
            image=jnp.asarray(image),
            length=jnp.full((1,), length, jnp.int32),
        )
        start = time.perf_counter()
        cache, _ = jax.block_until_ready(
            prefill_next(params, cache, prompt, dv.PrefillPolicy.exact(), config=config)
        )
        middle = time.perf_counter()
        fresh, _ = jax.block_until_ready(jit_prefill_fresh(params, fresh, prompt, config=config))
        seen.append((middle - start, time.perf_counter() - middle))
    differential, whole = zip(*seen[2:], strict=True)
    return 1e3 * statistics.median(differential), 1e3 * statistics.median(whole)


def prefill_table(rows: list[dict[str, Any]]) -> list[list[str]]:
    """Rows of text, the first their heads."""
    head = ["the moving view is", "prefilled", "MACs of a 0.5B decoder", "prefill", "whole prompt"]
    head += ["whole / this"]
    cells = [
        [
            row["moving"],
            f"{row['prefilled']} of {row['total']}",
            percent(row["macs"]),
            *(milliseconds(row[f"{name}_ms"]) for name in ("differential", "fresh")),
            "-" if row["fresh_ms"] is None
            else decimal(row["fresh_ms"] / row["differential_ms"], ".2f") + "x",
        ]
        for row in rows
    ]  # fmt: skip
    return [head, *cells]
