#!/usr/bin/env python3
"""How a JAX agent carries the cache: a Python loop, `lax.scan` over frames, several streams.

The "policy" here is a random linear head over the tokens; put your own in its place. Runs on a
tiny random tower and synthetic screens: `python scripts/examples/agent_loop.py`. Nearly all of its
time goes into compiling, minutes the first time; what is compiled is kept for the next.
"""

import argparse
import functools
import sys

import jax
import numpy as np

import diffvis_jax as dv
from diffvis_jax.cli.command_line import Parser, run_script, whole


def act(params: dict, cache: dv.Cache, frame: jax.Array, config: dv.FastViTHDConfig):
    """One agent step, to be jitted: look (differentially), then choose an action for each stream.

    Args:
      params: {"vision": tower, "head": [D, A]}.
      cache: of B streams.
      frame: `uint8 [B, S, S, 3]`.

    Returns:
      action int32 `[B]`, the new cache, and the report.
    """
    tokens, cache, report = dv.encode_step(params["vision"], cache, frame, config=config)
    return (tokens.mean(1) @ params["head"]).argmax(-1), cache, report


def python_loop(
    params: dict, config: dv.FastViTHDConfig, frames: np.ndarray
) -> tuple[np.ndarray, dv.Cache]:
    """Frames `[T, B, S, S, 3]` one by one, as they come from a live screen.

    Returns:
      actions int32 `[T, B]`, and the cache after the last frame.
    """
    step = jax.jit(act, static_argnames="config", donate_argnums=1)  # the cache stays in place
    cache = dv.init_cache(config, batch=frames.shape[1])
    actions = []
    for frame in frames:
        action, cache, _ = step(params, cache, frame, config)
        actions.append(action)
    return np.stack(actions), cache


@functools.partial(jax.jit, static_argnames="config")
def scan_loop(
    params: dict, config: dv.FastViTHDConfig, frames: jax.Array
) -> tuple[jax.Array, dv.Cache]:
    """A recorded episode in one call, as `python_loop`; the cost still follows what changed."""

    def body(cache: dv.Cache, frame: jax.Array):
        action, cache, _ = act(params, cache, frame, config)
        return cache, action

    cache, actions = jax.lax.scan(body, dv.init_cache(config, batch=frames.shape[1]), frames)
    return actions, cache


def synthetic_screens(steps: int, streams: int, size: int, seed: int) -> np.ndarray:
    """`uint8 [T, B, S, S, 3]`: a flat desktop on which one small box a frame changes its colour."""
    rng = np.random.default_rng(seed)
    frames = np.full((steps, streams, size, size, 3), 200, np.uint8)
    for t in range(1, steps):
        frames[t] = frames[t - 1]
        for b in range(streams):
            y, x = rng.integers(0, size - 8, 2)
            frames[t, b, y : y + 8, x : x + 8] = rng.integers(0, 256, 3)
    return frames


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--steps",
        metavar="N",
        type=whole(1, 10**6, "a whole number of frames >= 1"),
        default=6,
        help="frames of the episode (6)",
    )
    parser.add_argument(
        "--streams",
        metavar="N",
        type=whole(1, 10**6, "a whole number of agents >= 1"),
        default=3,
        help="agents at once (3)",
    )
    parser.add_argument(
        "--seed",
        metavar="N",
        type=whole(0, 2**31 - 1, "a whole number, 0-2147483647"),
        default=0,
        help="of weights and screens (0)",
    )
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status."""
    args = build_parser().parse_args(arguments)
    return run_script(lambda: run(args))


def run(args: argparse.Namespace) -> int:
    config = dv.FastViTHDConfig(
        depths=(1, 1, 1, 1, 1),
        widths=(8, 16, 32, 64, 128),
        head_width=16,
        token_width=256,
        squeeze_width=16,
        size=256,
    )
    params = {
        "vision": dv.init_params(config, args.seed),
        "head": jax.random.normal(jax.random.key(args.seed), (config.token_width, 5)),
    }
    frames = synthetic_screens(args.steps, args.streams, config.size, args.seed)
    for name, (actions, _) in (
        ("python loop, 1 stream", python_loop(params, config, frames[:, :1])),
        ("lax.scan, 1 stream", scan_loop(params, config, frames[:, :1])),
        (f"lax.scan, {args.streams} streams", scan_loop(params, config, frames)),
    ):
        print(f"{name:>24}: actions {actions[:, 0].tolist()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
