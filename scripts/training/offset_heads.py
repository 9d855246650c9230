"""How a vision transformer starts: as a convolution, each head looking at a neighbour.

From a random start attention takes long to find out what is near what. Sines of the position say
it: the position one column to the right is a rotation of them, so a head whose query is rotated by
that much looks there. (Structured starts of attention: arXiv 2404.01139, 2305.09828.)
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from diffvis_jax.towers.clip import CLIPConfig

NEAR = ((-1, 0), (1, 0), (0, -1), (0, 1), (-2, 0), (2, 0), (0, -2), (0, 2), (-4, 0), (4, 0))
FASTEST, SLOWEST = 1.0, 0.05  # radians a patch: nine tenths of what a head sees is within 2 patches
GAIN = 0.25  # of the scores; the norm before it about doubles them
CONTENT = 0.7  # scale of what the pixels say, beside sines of 1


def position_width(config: CLIPConfig) -> int:
    """So many channels, the first, hold the position: as many as a head is wide."""
    return config.width // config.heads


def look_around(params: dict[str, Any], config: CLIPConfig) -> dict[str, Any]:
    """The same tower whose first channels say where a token is, and whose heads look at neighbours.

    The first `position_width` channels hold sines and cosines of column and row, which all heads of
    all blocks compare; the pixels fill the others.

    Args:
      params: fresh ones of the tower.
      config: of the tower; its heads have a width that 4 divides.
    """
    wide = position_width(config)
    frequency = np.geomspace(FASTEST, SLOWEST, wide // 4)
    embed = params["embed"]
    kernel = (CONTENT * embed["patch"]["kernel"]).at[:, :wide].set(0)
    position = jnp.zeros_like(embed["position"])
    position = position.at[config.lead :, :wide].set(positions(config.grid, frequency))
    new = {**params, "embed": {**embed, "patch": {**embed["patch"], "kernel": kernel}}}
    new["embed"]["position"] = position
    for index in range(config.layers):
        name, first = f"block_{index}", index * config.heads
        offsets = [NEAR[(first + head) % len(NEAR)] for head in range(config.heads)]
        new[name] = {**new[name], "attention": _looking(new[name]["attention"], frequency, offsets)}
    return new


def _looking(
    attention: dict[str, Any], frequency: np.ndarray, offsets: Sequence[tuple[int, int]]
) -> dict[str, Any]:
    """Attention whose n-th head looks at the n-th offset (columns, rows)."""
    wide = 4 * len(frequency)
    gain = (GAIN * wide**0.5) ** 0.5  # attention divides the scores by wide ** 0.5
    query, kv = 0.1 * attention["query"]["kernel"], attention["kv"]["kernel"]
    width = query.shape[1]
    kv = kv.at[:, :width].multiply(0.1)  # keys; values stay as they are
    for head, offset in enumerate(offsets):
        own = slice(head * wide, (head + 1) * wide)
        query = query.at[:wide, own].set(gain * rotation(frequency, offset))
        kv = kv.at[:wide, own].set(gain * np.eye(wide))
    return {
        **attention,
        "query": {**attention["query"], "kernel": query},
        "kv": {**attention["kv"], "kernel": kv},
    }


def positions(grid: int, frequency: np.ndarray) -> np.ndarray:
    """Sines and cosines of column, then of row, float32 `[grid * grid, 4 * frequencies]`."""
    row, column = (np.outer(x.reshape(-1), frequency) for x in np.indices((grid, grid)))
    waves = (np.sin(column), np.cos(column), np.sin(row), np.cos(row))
    return np.concatenate(waves, axis=1).astype(np.float32)


def rotation(frequency: np.ndarray, offset: tuple[int, int]) -> np.ndarray:
    """R with positions @ R = positions of the place `offset` (columns, rows) further."""
    n = len(frequency)
    matrix = np.zeros((4 * n, 4 * n), np.float32)
    for axis, by in enumerate(offset):
        sine, cosine = (slice((2 * axis + i) * n, (2 * axis + i + 1) * n) for i in range(2))
        turn = frequency * by
        matrix[sine, sine] = matrix[cosine, cosine] = np.diag(np.cos(turn))
        matrix[cosine, sine] = np.diag(np.sin(turn))
        matrix[sine, cosine] = -np.diag(np.sin(turn))
    return matrix
