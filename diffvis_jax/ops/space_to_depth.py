"""Squares of positions put side by side in one: a smaller map of more channels."""

import jax


def space_to_depth(x: jax.Array, rows: int, columns: int | None = None) -> jax.Array:
    """`[B, h * r, w * c, C]` -> `[B, h, w, r * c * C]`: r x c positions as one, row by row.

    Args:
      x: a map whose sides are multiples of r and c.
      rows, columns: r and c; without columns c = r.
    """
    columns = rows if columns is None else columns
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // rows, rows, width // columns, columns, channels)
    return x.swapaxes(2, 3).reshape(batch, height // rows, width // columns, -1)
