"""Detail where it matters: the whole screen small, and cut-outs of it in its own pixels.

The overview is one stream, and each crop is one. A crop that stays where it is goes on with its
cache, one that moves begins anew. When that finds more than one frame of as much work:
docs/resolution.md.

C crops, N tokens, D token width.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffvis_jax.agent.crop_places import Box, Place, crop_placement, join_elements, place_crops
from diffvis_jax.core.cache import init_cache, restart
from diffvis_jax.core.change import compute_patch_diff
from diffvis_jax.core.policy import Policy
from diffvis_jax.core.report import describe
from diffvis_jax.core.step import make_step
from diffvis_jax.errors import ConfigError
from diffvis_jax.grounding.decode import Element
from diffvis_jax.grounding.find import find_elements, maps_of
from diffvis_jax.images.geometry import Placement, placement
from diffvis_jax.images.preprocess import ImageLike, open_rgb, preprocess
from diffvis_jax.model import Model
from diffvis_jax.resolution.sizes import Size, at_size
from diffvis_jax.towers import build, with_size


@dataclasses.dataclass(frozen=True)
class Regions:
    """How a screen is cut up.

    Attributes:
      overview: size of the frame that shows the whole screen, see `resolution.sizes.at_size`.
      crops: C, at least 1.
      crop_size: of each, (height, width) in pixels of the screen, which are those of its frame; one
        number = a square.
      snap: crops begin at multiples of so many pixels, or end at an edge of the screen.

    Raises:
      ConfigError: fewer than one crop, or a snap below 1.
    """

    overview: Size
    crops: int = 2
    crop_size: Size = 512
    snap: int = 64

    def __post_init__(self):
        for name in ("crops", "snap"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ConfigError(f"{name} must be a whole number from 1 up, got {value!r}")


@dataclasses.dataclass(frozen=True, eq=False)
class Look:
    """What was seen of one screen.

    Attributes:
      overview: tokens `[1, N, D]` of the whole screen.
      crops: tokens `[C, N', D]`; zeros of crops without a place.
      places: left and top of each crop, in pixels of the screen; None = it has no place yet, or is
        a tile that is not up to date.
      placements: where the screen lies in the overview, and in each crop (None likewise).
      reports: of the overview, and of each crop, as `describe` gives them.
      macs: multiply-accumulates that were done.
      elements: what can be clicked, in pixels of the screen; None without a grounding head.
    """

    overview: jax.Array
    crops: jax.Array
    places: tuple[Place | None, ...]
    placements: tuple[Placement | None, ...]
    reports: tuple[dict[str, Any], ...]
    macs: float
    elements: list[Element] | None


class RegionEncoder:
    """Encodes a sequence of screens, each as an overview and crops.

    A screen of another size than the last begins anew.
    """

    def __init__(self, model: Model, regions: Regions, policy: Policy | None = None):
        """Args:
          model: the tower; with a grounding head elements are found.
          regions: how screens are cut up.
          policy: what may be left out; None = `Policy()`.

        Raises:
          ConfigError: a size of crops that the tower does not take.
        """
        self.model, self.regions = model, regions
        self.policy = Policy() if policy is None else policy
        self._crop = with_size(model.config, regions.crop_size)
        self.reset()

    def reset(self) -> None:
        """Forgets the screens."""
        self._screen: np.ndarray | None = None  # the last one, uint8 [height, width, 3]
        self._places: list[Place | None] = [None] * self.regions.crops

    def encode(self, image: ImageLike, focus: Sequence[Box] | None = None) -> Look:
        """The next screen.

        Args:
          image: as `preprocess` takes one.
          focus: boxes (left, top, right, bottom) in pixels of the screen whose middles crops are to
            show, such as the pointer, or where something will be clicked; None = what changed since
            the last screen. What no crop is left for is left to the overview (`place_crops`).

        Raises:
          ImageError: an image that cannot be read.
          ConfigError: crops larger than the screen, a focus outside it, or an overview that screens
            of this shape do not become.
        """
        now = np.asarray(open_rgb(image, self.model.config.preprocess))
        height, width = now.shape[:2]
        if self._screen is None or self._screen.shape != now.shape:
            self._begin(width, height)
        size, before = build(self._crop).frame, self._places
        focus = self._changed(now) if focus is None else focus
        places = place_crops(before, focus, size, (width, height), self.regions.snap)
        # Caches are donated, and gone if a step fails: then everything begins anew.
        self._screen = None
        streams = [
            (preprocess(now, self._overview), np.array([False]), np.array([True])),
            (
                np.stack([_cut(now, place, size) for place in places]),
                np.array([a != b for a, b in zip(before, places, strict=True)]),
                np.array([place is not None for place in places]),
            ),
        ]
        if len(self._caches) == 1:
            streams = [tuple(map(np.concatenate, zip(*streams, strict=True)))]
        results = [self._advance(number, *group) for number, group in enumerate(streams)]
        self._screen, self._places = now, places
        tokens = [result[0] for result in results]
        reports = [report for result in results for report in result[1]]
        macs = [build(self._overview).macs] + len(places) * [build(self._crop).macs]
        where = placement(width, height, self._overview)
        cut = [place and crop_placement(place, size, (width, height)) for place in places]
        merged = None
        if self.model.head is not None:
            whole, *parts = [elements for result in results for elements in result[2]]
            merged = join_elements(whole, parts, where, cut, places, size)
        return Look(
            overview=tokens[0][:1],
            crops=tokens[0][1:] if len(tokens) == 1 else tokens[1],
            places=tuple(places),
            placements=(where, *cut),
            reports=tuple(reports),
            macs=sum(n * report["recomputed"] for n, report in zip(macs, reports, strict=True)),
            elements=merged,
        )

    def _begin(self, width: int, height: int) -> None:
        """Empty caches for screens of this size."""
        rows, columns = build(self._crop).frame
        if rows > height or columns > width:
            raise ConfigError(
                f"crops of {columns} x {rows} px do not fit on a screen of {width} x {height} px"
            )
        self._overview = at_size(self.model.config, self.regions.overview, (width, height))
        self.reset()
        batches = [(self._overview, 1), (self._crop, self.regions.crops)]
        if build(self._overview).frame == (rows, columns):  # streams of one size share a call
            batches = [(self._overview, 1 + self.regions.crops)]
        self._steps = [make_step(config) for config, _ in batches]
        self._caches = [init_cache(config, batch) for config, batch in batches]

    def _changed(self, now: np.ndarray) -> list[Box]:
        """The squares of `snap` pixels that differ from the last screen."""
        if self._screen is None:
            return []
        snap, (height, width) = self.regions.snap, now.shape[:2]
        # NumPy's: of an array of JAX's each number of changes would be one more program.
        changed = np.argwhere(np.asarray(compute_patch_diff(self._screen, now, snap)))
        return [
            (x, y, min(x + snap, width), min(y + snap, height))
            for y, x in (snap * changed).tolist()
        ]

    def _advance(
        self, number: int, frames: np.ndarray, moved: np.ndarray, active: np.ndarray
    ) -> tuple[jax.Array, list[dict[str, Any]], list[list[Element]]]:
        """Tokens, reports and elements (in pixels of the frames) of one batch of streams."""
        params, head = self.model.params, self.model.head
        cache = restart(self._caches[number], jnp.asarray(moved))
        tokens, cache, report = self._steps[number](
            params, cache, frames, self.policy, active=active
        )
        self._caches[number] = cache
        found = [] if head is None else find_elements(head, tokens, maps_of(head.config, cache))
        return tokens, describe(report), found


def _cut(screen: np.ndarray, place: Place | None, size: tuple[int, int]) -> np.ndarray:
    """The pixels of a crop, `uint8 [height, width, 3]`; zeros of one that has no place."""
    if place is None:
        return np.zeros((*size, 3), np.uint8)
    left, top = place
    return screen[top : top + size[0], left : left + size[1]]
