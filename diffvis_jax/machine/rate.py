"""How fast this machine multiplies."""

import time

import jax
import jax.numpy as jnp

_SIDE = 2048


def macs_per_s(runs: int = 5) -> float:
    """Multiply-accumulates a second of a large float32 product, the best of some runs: no tower is
    faster."""
    product = jax.jit(lambda a, b: a @ b)
    a = jnp.ones((_SIDE, _SIDE), jnp.float32)
    jax.block_until_ready(product(a, a))
    best = float("inf")
    for _ in range(runs):
        start = time.perf_counter()
        jax.block_until_ready(product(a, a))
        best = min(best, time.perf_counter() - start)
    return _SIDE**3 / best
