#!/usr/bin/env python3
"""What it saves to let image tokens go no deeper: prefills of a decoder with random weights.

    python scripts/benchmarks/benchmark_layer_keep.py --images 256 576 1024 2048 --keep 0.7 0.5 0.4

In the widths of the 0.5B decoder. Beside the times stands the share of the multiply-accumulates by
arithmetic.
"""

import argparse
import statistics
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from views_language import macs, random_language

from diffvis_jax.cli.command_line import number, run_script, whole
from diffvis_jax.language.generate import jit_prefill
from diffvis_jax.language.kv_cache import init_kv_cache
from diffvis_jax.language.layer_keep import LayerKeep, jit_prefill_kept
from diffvis_jax.report.table import machine_text, print_table
from diffvis_jax.report.text import milliseconds, percent, times
from diffvis_jax.utils.progress import Progress

TEXT = 52


def run() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--images", type=whole(1, 30000, "tokens"), nargs="+", default=[256, 576, 1024, 2048])
    add("--keep", type=number(0, 1, "shares, 0-1"), nargs="+", default=[0.7, 0.5, 0.4])
    add("--decoder-layers", type=whole(1, 64, "layers"), default=24, help="(24)")
    add("--rounds", type=whole(1, 1000, "rounds"), default=7, help="(7)")
    args = parser.parse_args()
    language = random_language(args.decoder_layers, 64)
    config, params = language.config, language.params
    parts = len(args.keep) + 1
    keep = LayerKeep(tuple(n / parts for n in range(1, parts)), tuple(args.keep))
    print(f"{args.decoder_layers} layers of the 0.5B decoder, float32; {machine_text()}; {keep}")
    rows = [["image tokens", "plain: median", "kept", "plain / kept: median, 10 %", "MACs"]]
    with Progress(len(args.images) * (args.rounds + 1), "prefills") as progress:
        for images in args.images:
            length = images + TEXT
            x = jnp.asarray(np.random.default_rng(0).standard_normal((1, length, config.width)))
            x = x.astype(jnp.float32)
            image = (jnp.arange(length) >= TEXT // 4)[None] & (
                jnp.arange(length) < TEXT // 4 + images
            )[None]
            count = jnp.full((1,), length, jnp.int32)
            seen: list[tuple[float, float]] = []
            for _ in range(args.rounds + 1):  # the first compiles
                caches = [init_kv_cache(config, 1, length + 1) for _ in range(2)]
                jax.block_until_ready(caches)
                start = time.perf_counter()
                jax.block_until_ready(jit_prefill(params, caches[0], x, count, config=config))
                middle = time.perf_counter()
                kept = jit_prefill_kept(
                    *(params, caches[1], x, image, count),
                    **{"config": config, "keep": keep, "images": images},
                )
                jax.block_until_ready(kept)
                seen.append((middle - start, time.perf_counter() - middle))
                progress(f"{images} image tokens")
            plain, fewer = zip(*seen[1:], strict=True)
            ratios = [a / b for a, b in seen[1:]]
            work = sum(
                len(layers) / config.layers * macs(config, 0, n + TEXT)
                for layers, n in keep.segments(config.layers, images)
            )
            rows.append(
                [
                    f"{images}",
                    *(milliseconds(1e3 * statistics.median(t)) for t in (plain, fewer)),
                    f"{times(statistics.median(ratios))}, {times(float(np.quantile(ratios, 0.1)))}",
                    percent(work / macs(config, 0, length)),
                ]
            )
    print_table(rows)
    return 0


if __name__ == "__main__":
    sys.exit(run_script(run))
