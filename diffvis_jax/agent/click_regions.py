"""Candidate places to click, from a map of attention.

What is hot is what the model looked at, which need not be what it wants clicked: the regions are
candidates, in order, and no more. gh, gw: patches down and across the model's input.
"""

import dataclasses
import itertools
from typing import Any, Literal, get_args

import numpy as np

from diffvis_jax.agent.actions import Point
from diffvis_jax.agent.attention_map import relative_heat, seen_patches
from diffvis_jax.errors import ConfigError, FrameError
from diffvis_jax.images.geometry import Placement
from diffvis_jax.metrics.boxes import iou
from diffvis_jax.report.patches import patch_boxes

Order = Literal[
    "peak",  # the hottest patch of the region
    "share",  # all of its attention
    "area",
]
ORDERS: tuple[Order, ...] = get_args(Order)

# An adaptive threshold is the mean plus one standard deviation, but within these bounds: lower,
# and half the screen is a candidate; higher, and only the hottest patch is.
_THRESHOLDS = (0.3, 0.8)


@dataclasses.dataclass(frozen=True)
class ClickRegion:
    """One candidate.

    Attributes:
      box: left, top, right, bottom in pixels of the screenshot.
      point: where to click: the middle of the heat around the hottest patch, in pixels of it.
      peak: relative heat of the hottest patch, 0-1.
      share: the region's share of all the attention that fell on the screen, 0-1.
    """

    box: tuple[float, float, float, float]
    point: Point
    peak: float
    share: float

    @property
    def area(self) -> float:
        """Square pixels of the box."""
        left, top, right, bottom = self.box
        return (right - left) * (bottom - top)


def click_regions(
    heat: Any,
    placement: Placement,
    *,
    patch_size: int,
    threshold: float | None = None,
    merge: float = 0.3,
    order: Order = "peak",
    limit: int = 5,
) -> list[ClickRegion]:
    """Regions of hot patches, the best candidate first.

    Patches above the threshold that touch, at corners too, make a region; its box is the smallest
    around them. Regions whose boxes overlap much become one.

    Args:
      heat: real `[gh, gw]` >= 0, such as `attention_map`'s.
      placement: of the screenshot in the frame: `dv.placement(W, H, model.config)`.
      patch_size: pixels of the frame along the side of a patch: `towers.build(config).patch`.
      threshold: least relative heat of a patch, 0-1 (see `relative_heat`); None: the mean plus one
        standard deviation over the screen, within 0.3-0.8.
      merge: regions whose boxes have a larger intersection over union are merged, 0-1.
      order: what makes a candidate good.
      limit: most regions.

    Returns:
      At most `limit` regions; none where all patches are equally hot.

    Raises:
      FrameError: heat of another shape, or that is negative or not finite somewhere.
      ConfigError: a threshold, order or limit that makes no sense.
    """
    for name, value in (("threshold", threshold), ("merge", merge)):
        if value is not None and not 0 <= value <= 1:
            raise ConfigError(f"{name} must lie in 0-1, got {value!r}")
    if order not in ORDERS:
        raise ConfigError(f"order must be one of {', '.join(ORDERS)}, got {order!r}")
    if limit < 1:
        raise ConfigError(f"limit must be at least 1 region, got {limit!r}")
    heat = np.asarray(heat, np.float64)
    if heat.ndim != 2 or 0 in heat.shape or not (heat >= 0).all():
        raise FrameError(f"heat must be [gh, gw], nowhere negative, got {list(heat.shape)}")
    boxes = patch_boxes((placement.width, placement.height), heat.shape, placement, patch_size)
    seen = seen_patches(boxes)
    relative = relative_heat(heat, seen)
    if not relative.any():
        return []
    if threshold is None:
        values = relative[seen]
        threshold = float(np.clip(values.mean() + values.std(), *_THRESHOLDS))
    groups = _merged(_components(seen & (relative >= threshold)), boxes, merge)
    regions = [_region(group, heat, relative, boxes, seen) for group in groups]
    regions.sort(key=lambda region: getattr(region, order), reverse=True)
    return regions[:limit]


def _components(marked: np.ndarray) -> list[np.ndarray]:
    """Groups of marked patches that touch, in reading order: bool `[gh, gw]` each."""
    left, groups = marked.copy(), []
    while left.any():
        group = np.zeros_like(left)
        group.flat[np.flatnonzero(left)[0]] = True
        while (grown := _dilated(group) & left).sum() > group.sum():
            group = grown
        groups.append(group)
        left &= ~group
    return groups


def _dilated(mask: np.ndarray) -> np.ndarray:
    """With the eight neighbours of every marked patch."""
    rows, columns = mask.shape
    around = np.pad(mask, 1)
    shifts = [around[i : i + rows, j : j + columns] for i in range(3) for j in range(3)]
    return np.logical_or.reduce(shifts)


def _merged(groups: list[np.ndarray], boxes: np.ndarray, most: float) -> list[np.ndarray]:
    """Joins groups until no two boxes overlap by more than `most`."""
    groups = list(groups)
    while True:
        hulls = [_hull(boxes[group]) for group in groups]
        pairs = itertools.combinations(range(len(groups)), 2)
        close = next((pair for pair in pairs if iou(*(hulls[i] for i in pair)) > most), None)
        if close is None:
            return groups
        first, second = close
        groups[first] = groups[first] | groups.pop(second)


def _hull(boxes: np.ndarray) -> np.ndarray:
    """The smallest box around boxes `[n, 4]`: `[4]`."""
    return np.concatenate([boxes[:, :2].min(0), boxes[:, 2:].max(0)])


def _region(
    group: np.ndarray, heat: np.ndarray, relative: np.ndarray, boxes: np.ndarray, seen: np.ndarray
) -> ClickRegion:
    hottest = np.unravel_index(np.where(group, relative, -1).argmax(), group.shape)
    # Not the middle of the whole region, which may be bent around something else.
    near = np.zeros_like(group)
    near[hottest] = True
    near = _dilated(near) & group
    weights, around = relative[near], boxes[near]
    middles = (around[:, :2] + around[:, 2:]) / 2
    # Edges to middles of pixels: half a pixel.
    x, y = (weights @ middles) / weights.sum() - 0.5
    return ClickRegion(
        box=tuple(_hull(boxes[group]).astype(float).tolist()),
        point=Point(float(x), float(y)),
        peak=float(relative[hottest]),
        share=float(heat[group].sum() / heat[seen].sum()),
    )
