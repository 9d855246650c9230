"""Weights that were trained at one degree of merging, made to suit another (Token Compensator,
arXiv 2408.06798).

A small plug-in beside the queries and values of each block adds to them, from the normed input x,

    D(s -> t)(x) = c * ((x @ down) * (mask(t) - mask(s))) @ up

where mask(d) has ones in its last 2 d entries. So nothing is added from a degree to itself, there
and back cancel, and two steps add up to one. Without an activation it is an update of the weights,
and costs an encode nothing.

D width, b = 2 * 16 entries of the bottleneck.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from diffvis_jax.errors import ConfigError
from diffvis_jax.towers.params import Params
from diffvis_jax.utils.validation import concrete

DEGREES = 16  # the strongest; 0 = nothing is merged
BOTTLENECK = 2 * DEGREES
STRENGTH = 0.1  # c; 0.05-0.15 in the paper

Plugin = dict[str, dict[str, dict[str, jax.Array]]]  # block, "query" or "value", "down" or "up"


def init_compensator(blocks: Sequence[str], width: int, key: jax.Array) -> Plugin:
    """A plug-in that adds nothing yet: `down` float32 `[D, b]` at unit gain, `up` `[b, D]` zeros.

    Args:
      blocks: their names in the parameters, such as "block_0".
      width: D.
    """
    plugin: Plugin = {}
    for number, block in enumerate(blocks):
        keys = jax.random.split(jax.random.fold_in(key, number))
        plugin[block] = {
            part: {
                "down": width**-0.5 * jax.random.normal(own, (width, BOTTLENECK), jnp.float32),
                "up": jnp.zeros((BOTTLENECK, width), jnp.float32),
            }
            for part, own in zip(("query", "value"), keys, strict=True)
        }
    return plugin


def degree_mask(degree: Any) -> jax.Array:
    """Ones in the last `2 * degree` entries, float32 `[..., b]`.

    Args:
      degree: 0-16, int32 `[...]`; traced.

    Raises:
      ConfigError: another number.
    """
    known = concrete(degree)
    if known is not None and not ((known >= 0) & (known <= DEGREES) & (known % 1 == 0)).all():
        raise ConfigError(f"degrees must be whole numbers in 0-{DEGREES}, got {degree!r}")
    entry = jnp.arange(BOTTLENECK, dtype=jnp.int32)
    return (entry >= BOTTLENECK - 2 * jnp.asarray(degree, jnp.int32)[..., None]).astype(jnp.float32)


def compensate(
    params: Params, plugin: Mapping[str, Any], source: Any, target: Any, *, c: float = STRENGTH
) -> Params:
    """The parameters of a tower that was trained at degree `source`, for degree `target`.

    Args:
      params: of a transformer whose blocks have `attention/query` and `attention/kv`.
      plugin: see `init_compensator`.
      source, target: int32, 0-16; traced.

    Raises:
      ConfigError: degrees outside 0-16, or a plug-in of another tower.
    """
    difference = c * (degree_mask(target) - degree_mask(source))
    changed = dict(params)
    for block, parts in plugin.items():
        attention = params.get(block, {}).get("attention", {})
        width = parts["query"]["down"].shape[0]
        found = attention["query"]["weight"].shape if "query" in attention else None
        if found != (width, width):
            raise ConfigError(
                f"the plug-in is of a tower with a {block} of width {width}; this one has there a "
                f"query of {found}"
            )

        def update(part: str, parts=parts) -> jax.Array:
            down, up = parts[part]["down"], parts[part]["up"]
            return ((down * difference[None]) @ up).T  # matrices are [out, in]

        query, kv = attention["query"]["weight"], attention["kv"]["weight"]
        value = jnp.pad(update("value"), ((width, 0), (0, 0)))  # keys stand before values
        changed[block] = {
            **params[block],
            "attention": {
                **attention,
                "query": {**attention["query"], "weight": _added(query, update("query"))},
                "kv": {**attention["kv"], "weight": _added(kv, value)},
            },
        }
    return changed


def _added(weight: jax.Array, update: jax.Array) -> jax.Array:
    return (weight.astype(jnp.float32) + update).astype(weight.dtype)
