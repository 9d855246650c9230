"""How a vision transformer's patch embedding starts: as whitened principal components of patches.

Most of what a random kernel says of a patch is how bright it is, beside which a letter's strokes
are hardly seen. (First layers of convolutional networks are started so: arXiv 2404.00498.)
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from diffvis_jax.towers.clip import CLIPConfig

LEAST = 1e-3  # added to each component's variance (pixels are -1 to 1): rare ones are not blown up


def whitened(
    params: dict[str, Any],
    config: CLIPConfig,
    crops: Sequence[np.ndarray],
    *,
    first: int,
    scale: float,
) -> dict[str, Any]:
    """The same tower whose channels from `first` on hold the largest components of these patches,
    each with mean 0 and a standard deviation of about `scale`.

    Args:
      params: of the tower.
      config: of the tower; its patch embedding needs no bias, position embeddings take the mean.
      crops: batches `uint8 [B, s, s, 3]` of the frames it is for; s a multiple of the patch.
    """
    patches = np.concatenate([_patches(batch, config) for batch in crops])
    mean = patches.mean(0)
    variance, components = np.linalg.eigh(np.cov(patches, rowvar=False))
    largest = np.argsort(variance)[::-1][: config.width - first]
    kernel = scale * components[:, largest] / np.sqrt(variance[largest] + LEAST)
    embed = params["embed"]
    held, position = embed["patch"]["kernel"], embed["position"]
    new = {
        **embed,
        "patch": {**embed["patch"], "kernel": held.at[:, first:].set(kernel)},
        "position": position.at[config.lead :, first:].add(-(mean @ kernel)),
    }
    return {**params, "embed": new}


def _patches(crops: np.ndarray, config: CLIPConfig) -> np.ndarray:
    """float64 `[n, patch * patch * 3]`, as the tower's embedding takes them."""
    batch, side = crops.shape[:2]
    grid, patch = side // config.patch, config.patch
    x = (crops / 255 - np.array(config.mean)) / np.array(config.std)
    x = x.reshape(batch, grid, patch, grid, patch, 3).swapaxes(2, 3)
    return x.reshape(-1, patch * patch * 3)
