#!/usr/bin/env python3
"""Trains a Token Compensator on a frozen windowed tower, by self-distillation.

    python scripts/training/compensator.py DATA weights/screens-vit/compensator.npz

Degrees are those of `shared_attention.py`. The teacher runs at degree s, the student at
t with the plug-in; what is minimised is the whitened error of its tokens. Told at the end, for
pairs (s, t) that were not trained on: the error without and with the plug-in, on pages of DATA/val.
"""

import argparse
import functools
import json
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from architecture import HEAD
from compensator_file import load_compensator, save_compensator
from compensator_update import (
    DEGREES,
    Plugin,
    compensate,
    init_compensator,
)
from optimiser import optimiser
from screens import Screen, load_screens, pages_of
from shared_attention import shared_tokens

import diffvis_jax as dv
from diffvis_jax.checkpoints.store import load_vision
from diffvis_jax.compress import TokenScale, fit_scale, whitened_error
from diffvis_jax.ops.attention import attention, key_heads, query_heads, value_heads
from diffvis_jax.towers import build
from diffvis_jax.towers.base import AttentionLayer, Tower
from diffvis_jax.towers.forward import read_out, run_layer, run_layers

HELD_OUT = [(0, 6), (0, 12), (2, 10), (4, 16), (6, 14), (10, 2), (12, 4), (14, 6), (16, 8), (8, 12)]


def alternate_leaders(metric: jax.Array, r: Any) -> jax.Array:
    """`merged_vit.alternate_matching` for an r that is traced: whom each token goes with, int32
    `[B, n]`."""
    batch, number, _ = metric.shape
    unit = metric / jnp.linalg.norm(metric, axis=-1, keepdims=True)
    cosine = jnp.einsum("bac,btc->bat", unit[:, ::2], unit[:, 1::2])
    rank = jnp.argsort(jnp.argsort(-cosine.max(-1), axis=1, stable=True), axis=1)
    index = jnp.broadcast_to(jnp.arange(number, dtype=jnp.int32), (batch, number))
    partner = 2 * cosine.argmax(-1).astype(jnp.int32) + 1
    return index.at[:, ::2].set(jnp.where(rank < r, partner, index[:, ::2]))


def merged_attention(
    layer: AttentionLayer, own: dict[str, Any], x: jax.Array, tower: Tower, degree: Any
) -> jax.Array:
    """`shared_attention` for a degree that is traced: a token that went into another stays as a row
    of size 0, so that one program serves all degrees."""
    (batch, height, width, _), block = x.shape, layer.block
    number, origin = height * width, jnp.zeros((batch,), jnp.int32)
    stream = jnp.arange(batch)[:, None]
    key, value = block.key_value(own, x, origin, origin)
    query = block.query(own, x, origin, origin)
    query, key, value = (part.reshape(batch, number, -1) for part in (query, key, value))
    metric = jax.lax.stop_gradient(key).reshape(batch, number, block.heads, -1).mean(2)
    leader = alternate_leaders(metric, shared_tokens(degree, number))
    size = jnp.zeros((batch, number)).at[stream, leader].add(1.0)

    def mean(values: jax.Array) -> jax.Array:
        total = jnp.zeros_like(values).at[stream, leader].add(values)
        return total / jnp.maximum(size, 1)[..., None]

    heads = (
        make(mean(part), block.head_width, tower.dtype)
        for make, part in ((query_heads, query), (key_heads, key), (value_heads, value))
    )
    bias = jnp.where(size > 0, jnp.log(jnp.maximum(size, 1)), -1e30)
    mixed = attention(*heads, bias=bias)
    mixed = jnp.take_along_axis(mixed, leader[..., None], axis=1)
    return block.finish(own, x, mixed.reshape(batch, height, width, -1), origin, origin)


def tokens_at(
    params: dict[str, Any], x: jax.Array, tower: Tower, start: int, degree: Any
) -> jax.Array:
    """Tokens `[B, N, D]` from the map before layer `start`, at this degree of merging."""
    for layer in tower.layers[start:]:
        own = layer.params(params)
        if isinstance(layer, AttentionLayer):
            x = merged_attention(layer, own, x, tower, degree)
        else:
            x = run_layer(params, layer, own, x, tower)
    return read_out(params, x, tower)


@functools.partial(jax.jit, static_argnames=("tower", "start"))
def before(params: dict[str, Any], frames: jax.Array, *, tower: Tower, start: int) -> jax.Array:
    """The map before layer `start`, which no degree alters."""
    return list(run_layers(params, frames, tower, stop=start).values())[-1]


@functools.partial(jax.jit, static_argnames=("tower", "start"))
def error_of(
    params: dict[str, Any],
    plugin: Plugin,
    x: jax.Array,
    scale: TokenScale,
    source: Any,
    target: Any,
    *,
    tower: Tower,
    start: int,
) -> jax.Array:
    """Whitened error of degree `target`, compensated, against `source`: float32 `[B]`."""
    taught = jax.lax.stop_gradient(tokens_at(params, x, tower, start, source))
    own = compensate(params, plugin, source, target)
    return whitened_error(taught, tokens_at(own, x, tower, start, target), scale)


def crops(pages: list[np.ndarray], side: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """`uint8 [count, side, side, 3]`, at random."""
    found = []
    large = [page for page in pages if min(page.shape[:2]) >= side]
    for _ in range(count):
        page = large[rng.integers(len(large))]
        top, left = (rng.integers(0, edge - side + 1) for edge in page.shape[:2])
        found.append(page[top : top + side, left : left + side])
    return np.stack(found)


class Setting(NamedTuple):
    """What is trained on: the frozen tower, where its degrees begin to matter, and its scale."""

    config: dv.Qwen25VisionConfig
    params: dict[str, Any]
    start: int
    scale: TokenScale

    @property
    def fresh(self) -> Plugin:
        """A plug-in that adds nothing."""
        full = [layer.path[0] for layer in build(self.config).layers if layer.global_]
        return init_compensator(full, self.config.width, jax.random.key(0))

    def error(self, plugin: Plugin, x: jax.Array, source: Any, target: Any, tower: Tower):
        return error_of(
            *(self.params, plugin, x, self.scale, source, target), tower=tower, start=self.start
        )


def prepare(args: argparse.Namespace, rng: np.random.Generator) -> tuple[Setting, np.ndarray]:
    """The setting, and maps float32 `[crops, h, w, C]` before the first degree matters."""
    config, params = load_vision(args.weights, "float32")
    if not isinstance(config, dv.Qwen25VisionConfig):
        raise ValueError(f"{args.weights} holds no windowed tower")
    pages = load_screens(args.data / "train", HEAD.kinds, args.pages, config.preprocess)
    tower = build(config.resized(args.side, args.side))
    start = next(i for i, layer in enumerate(tower.layers) if isinstance(layer, AttentionLayer))
    pixels = crops([page.pixels for page in pages], args.side, args.crops, rng)
    parts = np.array_split(pixels, -(-args.crops // 8))
    maps = np.concatenate([before(params, part, tower=tower, start=start) for part in parts])
    tokens = [tokens_at(params, x[None], tower, start, 0) for x in maps[:64]]
    return Setting(config, params, start, fit_scale(np.concatenate(tokens))), maps


def train(
    setting: Setting, maps: np.ndarray, args: argparse.Namespace, rng: np.random.Generator
) -> Plugin:
    """Minimises the error of degree t against degree s, of pairs that are not held out."""
    tower = build(setting.config.resized(args.side, args.side))
    plugin, taker = setting.fresh, optimiser(args.rate, args.steps)
    state: Any = taker.init(plugin)  # type: ignore[arg-type]

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(plugin: Plugin, state: Any, x: jax.Array, source: Any, target: Any):
        def loss(plugin: Plugin) -> jax.Array:
            return setting.error(plugin, x, source, target, tower).mean()

        value, grads = jax.value_and_grad(loss)(plugin)
        updates, state = taker.update(grads, state, plugin)  # type: ignore[arg-type]
        return optax.apply_updates(plugin, updates), state, value  # type: ignore[arg-type]

    began, seen, done = time.monotonic(), [], 0
    while done < args.steps:
        source, target = rng.integers(0, DEGREES + 1, 2).tolist()
        # Half of them from the degree that the tower was trained at.
        source *= done % 2
        if source == target or (source, target) in HELD_OUT:
            continue
        x = maps[rng.integers(0, len(maps), args.batch)]
        plugin, state, value = step(plugin, state, x, jnp.int32(source), jnp.int32(target))
        seen.append(float(value))
        done += 1
        if done % 50 == 0:
            seconds = round(time.monotonic() - began)
            print(json.dumps({"step": done, "seconds": seconds, "loss": np.mean(seen)}), flush=True)
            seen = []
    return plugin


def compare(setting: Setting, plugin: Plugin, screens: list[Screen]) -> dict[str, dict[str, float]]:
    """Mean whitened errors of the held-out pairs over whole pages, without and with the plug-in."""
    tried = {"without": setting.fresh, "with": plugin}
    found = {pair: {name: 0.0 for name in tried} for pair in HELD_OUT}
    for screen in screens:
        tower = build(setting.config.resized(*screen.pixels.shape[:2]))
        x = before(setting.params, screen.pixels[None], tower=tower, start=setting.start)
        for pair, row in found.items():
            source, target = (jnp.int32(degree) for degree in pair)
            for name, own in tried.items():
                error = setting.error(own, x, source, target, tower)
                row[name] += float(error[0]) / len(screens)
    return {f"{s} -> {t}": row for (s, t), row in found.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("data", type=Path, help="written by render_pages.py; holds train/ and val/")
    add("output", type=Path, help="the plug-in is written there, .npz")
    add("--weights", type=Path, default=Path("weights/screens-vit"), help="(%(default)s)")
    add("--side", type=int, default=512, help="pixels along the side of a crop (512)")
    add("--batch", type=int, default=4, help="crops of a step (4)")
    add("--steps", type=int, default=550)
    add("--rate", type=float, default=3e-3, help="largest learning rate (3e-3)")
    add("--pages", type=int, default=300, help="pages that crops are taken from (300)")
    add("--crops", type=int, default=512, help="crops in all (512)")
    add("--validation", type=int, default=12, help="pages of the comparison (12)")
    add("--seed", type=int, default=0)
    args = parser.parse_args()
    try:
        if args.output.suffix != ".npz":
            parser.error(f"the plug-in is an .npz file, got {args.output}")
        for split in ("val", "train"):
            pages_of(args.data / split)
        rng = np.random.default_rng(args.seed)
        setting, maps = prepare(args, rng)
        save_compensator(train(setting, maps, args, rng), args.output)
        screens = load_screens(
            args.data / "val", HEAD.kinds, args.validation, setting.config.preprocess
        )
        table = compare(setting, load_compensator(args.output), screens)
    except (ValueError, OSError) as error:
        print(f"compensator.py: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    for pair, row in table.items():
        less = 1 - row["with"] / row["without"]
        print(f"{pair:>9}  {row['without']:.3f}  {row['with']:.3f}  {less:.0%} less")
    ratios = [row["with"] / row["without"] for row in table.values()]
    print(f"median {1 - np.median(ratios):.0%} less")
    return 0


if __name__ == "__main__":
    sys.exit(main())
