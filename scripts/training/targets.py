"""What the head should answer for a frame: which places belong to which element."""

from collections.abc import Sequence

import numpy as np

from diffvis_jax.grounding.head import HeadConfig

CENTRAL = 0.5  # share of an element's width and height around its middle that is "near its centre"


def targets(
    config: HeadConfig, size: int, boxes: np.ndarray, kinds: Sequence[int], sure: np.ndarray
) -> dict[str, np.ndarray]:
    """Targets of one frame.

    A place belongs to the smallest element whose central part holds the middle of the place, or
    whose middle lies in the place.

    Args:
      config: of the head.
      size: pixels along the side of the frame, a multiple of the patch.
      boxes: float `[n, 4]`, left, top, right, bottom in pixels of the frame.
      kinds: n indices into `config.kinds`.
      sure: bool `[n]`; an element that is not (cut off by the edge of a crop) is neither asked
        for nor held against the head.

    Returns:
      "object" float32 `[h, w]`, "weight" float32 `[h, w]` (0 where nothing is known), "kind" int32
      `[h, w]` and "box" float32 `[h, w, 4]` (corners), of the h x w places.
    """
    across, down = config.patch // config.columns, config.patch // config.rows
    h, w = size // down, size // across
    out = {
        "object": np.zeros((h, w), np.float32),
        "weight": np.ones((h, w), np.float32),
        "kind": np.zeros((h, w), np.int32),
        "box": np.zeros((h, w, 4), np.float32),
    }
    out["box"][..., 2:] = 1
    x, y = (np.arange(w) + 0.5) * across, (np.arange(h) + 0.5) * down
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    for n in np.argsort(-area, kind="stable"):  # the smallest last: it overwrites
        left, top, right, bottom = boxes[n]
        middle_x, middle_y = (left + right) / 2, (top + bottom) / 2
        columns = np.abs(x - middle_x) <= CENTRAL / 2 * (right - left)
        rows = np.abs(y - middle_y) <= CENTRAL / 2 * (bottom - top)
        columns[min(w - 1, max(0, int(middle_x // across)))] = True
        rows[min(h - 1, max(0, int(middle_y // down)))] = True
        at = np.ix_(rows, columns)
        out["object"][at] = float(sure[n])
        out["weight"][at] = float(sure[n])
        out["kind"][at] = kinds[n]
        out["box"][at] = boxes[n]
    return out
