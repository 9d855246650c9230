"""How a deep tower starts: as nearly the identity, or grown from a shallower one."""

import functools
from typing import Any

import jax
import jax.numpy as jnp


def near_identity(params: dict[str, Any]) -> dict[str, Any]:
    """Makes every block nearly the identity: a start for a deep tower.

    As with layer scale and Fixup (arXiv 2103.17239, 1901.09321): what branches add starts small,
    and so does what the mixers mix.
    """

    def shrink(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
        names = [key.key for key in path]
        if names[-1] == "weight" and names[-2] in ("fc2", "output"):
            return 0.1 * leaf
        if names[-1] == "kernel" and names[-2] in ("mixer", "position"):
            k = leaf.shape[0]
            return (0.1 * leaf).at[k // 2, k // 2].set(1.0)
        return leaf

    return jax.tree_util.tree_map_with_path(shrink, params)


def grow(params: dict[str, Any], depths: tuple[int, ...], deeper: tuple[int, ...]):
    """Parameters of a deeper tower that computes nearly the same.

    A block becomes k blocks of which each does a k-th of what it did: x + f(x) in k smaller steps,
    as a differential equation is refined (arXiv 1710.10348).

    Args:
      params: of the tower with `depths`.
      deeper: a multiple of each depth.

    Raises:
      ValueError: a depth does not divide.
    """
    if any(new % old for old, new in zip(depths, deeper, strict=True)):
        raise ValueError(f"depths {deeper} are not multiples of {depths}")

    def part(path: tuple[Any, ...], leaf: jax.Array, k: int) -> jax.Array:
        names = [key.key for key in path]
        if names[-2] in ("fc2", "output"):
            return leaf / k
        if names[-2] == "mixer":
            if names[-1] == "bias":
                return leaf / k
            middle = leaf.shape[0] // 2
            same = jnp.zeros_like(leaf).at[middle, middle].set(1.0)
            return same + (leaf - same) / k
        return jnp.copy(leaf)  # each block owns its arrays: a training step is given them

    grown = dict(params)
    for stage, (old, new) in enumerate(zip(depths, deeper, strict=True)):
        k, name = new // old, f"stage_{stage}"
        blocks = {
            f"block_{i}": jax.tree_util.tree_map_with_path(
                functools.partial(part, k=k), params[name][f"block_{i // k}"]
            )
            for i in range(new)
        }
        grown[name] = {n: v for n, v in params[name].items() if not n.startswith("block_")} | blocks
    return grown
