"""Detail everywhere, a little later: the whole screen, and tiles of it enlarged.

R tiles, N tokens of the overview, n of a tile, D token width.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from diffvis_jax.agent.crop_places import crop_placement, join_elements
from diffvis_jax.agent.regions import Look
from diffvis_jax.compress import relevance as components
from diffvis_jax.compress.tile_grid import TileGrid
from diffvis_jax.compress.tiles import (
    DetailPolicy,
    DetailReport,
    DetailState,
    init_details,
    make_detail_step,
)
from diffvis_jax.core.cache import Cache
from diffvis_jax.core.report import describe
from diffvis_jax.errors import ConfigError
from diffvis_jax.grounding.decode import MOST, Element, decode
from diffvis_jax.grounding.find import find_elements, head_answers, maps_of, on_screenshot
from diffvis_jax.grounding.head import HeadConfig
from diffvis_jax.images.geometry import placement
from diffvis_jax.images.preprocess import ImageLike, open_rgb, preprocess
from diffvis_jax.model import Model
from diffvis_jax.resolution.sizes import Size, at_size
from diffvis_jax.towers import build

NAMES = ("change", "edges", "elements", "focus")


class TileEncoder:
    """Encodes a sequence of screens, each as an overview and enlarged tiles (`detail_step`).

    A screen of another size than the last begins anew.

    Attributes:
      tile: largest distance of tiles, their context and scale, as `TileGrid` takes them.
      report: of the last step, as `detail_step` gives it; None before the first.
    """

    def __init__(
        self,
        model: Model,
        policy: DetailPolicy | None = None,
        *,
        overview: Size,
        tile: int = 256,
        context: int = 0,
        scale: float = 2.0,
        by: Sequence[str] = ("elements",),
        weights: Mapping[str, float] | None = None,
        threshold: float | None = None,
    ):
        """Args:
          model: the tower; with a grounding head elements are found.
          policy: which tiles a step encodes; None = `DetailPolicy()`.
          overview: size of the frame that shows the whole screen, see `resolution.sizes.at_size`.
          tile, context, scale: of the tiles, see `TileGrid`.
          by: components of a tile's relevance, of `NAMES`.
          weights: of the components, see `relevance`.
          threshold: least score of an element, 0-1; None = the head's own. Enlarged tiles show many
            more elements of low scores than the overview: choose it for as many as you want.

        Raises:
          ConfigError: an unknown component, or none.
        """
        if not by or set(by) - set(NAMES):
            raise ConfigError(f"by must name some of {', '.join(NAMES)}; got {list(by)}")
        self.model, self.policy = model, DetailPolicy() if policy is None else policy
        self._overview, self.tile = overview, (tile, context, scale)
        self._by, self._weights, self._threshold = tuple(by), weights, threshold
        self.reset()

    def reset(self) -> None:
        """Forgets the screens."""
        self.report: DetailReport | None = None
        self._state: DetailState | None = None
        self._grid: TileGrid | None = None
        self._parts: list[list[Element]] = []  # found in each tile when it was encoded
        self._seen: list[Element] = []  # in the last overview, in pixels of the screen

    def encode(
        self,
        image: ImageLike,
        pointer: tuple[float, float] | None = None,
        relevance: np.ndarray | None = None,
    ) -> Look:
        """The next screen.

        Args:
          image: as `preprocess` takes one.
          pointer: x and y on the screen, or of the last click; None = there is none.
          relevance: of each tile, float32 `[1, R]`, in place of the components.

        Returns:
          what is up to date: tiles that are not have no place, and tokens of zeros.

        Raises:
          ImageError: an image that cannot be read.
          ConfigError: tiles that do not fit on the screen, or that the tower does not take; more
            of them a step than there are; an overview that such screens do not become.
        """
        now = np.asarray(open_rgb(image, self.model.config.preprocess))[None]
        height, width = now.shape[1:3]
        if self._grid is None or (self._grid.height, self._grid.width) != (height, width):
            self._begin(width, height)
        grid, state = self._grid, self._state
        assert grid is not None
        given = self._relevance(now, pointer) if relevance is None else relevance
        frames = preprocess(now[0], self._config)
        # The state is donated, and gone if the step fails: then everything begins anew.
        self._grid = None
        details, state, report = self._step(
            self.model.params, state, now, self.policy, given, frames
        )
        self._grid, self._state, self.report = grid, state, report
        fresh = np.asarray(details.fresh[0]).tolist()
        places = [place if known else None for place, known in zip(grid.places, fresh, strict=True)]
        where, size = placement(width, height, self._config), (grid.window, grid.window)
        cut = [
            place and crop_placement(place, size, (width, height), grid.scale) for place in places
        ]
        merged, head = None, self.model.head
        if head is not None:
            maps = maps_of(head.config, state.overview)
            (whole,) = find_elements(head, details.overview, maps, threshold=self._threshold)
            for tile in np.flatnonzero(np.asarray(report.encoded[0])):
                answers = _answers(head.params, state.tiles, jnp.int32(tile), config=head.config)
                (self._parts[tile],) = decode(head.config, answers, threshold=self._threshold)
            self._seen = on_screenshot(whole, where)
            merged = join_elements(whole, self._parts, where, cut, places, size)
        return Look(
            overview=details.overview,
            crops=details.tiles[0],
            places=tuple(places),
            placements=(where, *cut),
            reports=(*describe(report.overview), *describe(report.tiles)),
            macs=float(report.cost[0]) * build(self._config).macs,
            elements=merged,
        )

    def _begin(self, width: int, height: int) -> None:
        """An empty state for screens of this size."""
        self.reset()
        grid = TileGrid(height, width, *self.tile)
        self._config = at_size(self.model.config, self._overview, (width, height))
        self._state = init_details(self._config, grid)
        self._step = make_detail_step(self._config, grid)
        self._parts = [[] for _ in grid.places]
        self._grid = grid

    def _relevance(self, now: np.ndarray, pointer: tuple[float, float] | None) -> jax.Array:
        """Of each tile, `[1, R]`."""
        grid, found = self._grid, {}
        assert grid is not None
        assert self._state is not None
        if "change" in self._by:
            found["change"] = components.change(self._state.unchanged)
        if "edges" in self._by:
            found["edges"] = _edges(now, grid)
        if "elements" in self._by:
            found["elements"] = components.elements(*boxes_and_scores(self._seen), grid)
        if "focus" in self._by:
            point = (np.nan, np.nan) if pointer is None else pointer
            found["focus"] = components.focus(np.array([point], np.float32), grid)
        return components.relevance(found, self._weights)


def boxes_and_scores(elements: Sequence[Element]) -> tuple[np.ndarray, np.ndarray]:
    """What `relevance.elements` takes of one frame, float32 `[1, MOST, 4]` and `[1, MOST]`: as many
    at any time, for the sake of compilations."""
    table = np.zeros((1, MOST, 5), np.float32)
    for row, each in zip(table[0], elements, strict=False):
        row[:] = *each.box, each.score
    return table[..., :4], table[..., 4]


_edges = jax.jit(components.edges, static_argnums=1)


@functools.partial(jax.jit, static_argnames="config")
def _answers(params: dict[str, Any], tiles: Cache, tile: jax.Array, *, config: HeadConfig) -> Any:
    """What the head says of one tile."""
    one = jax.tree.map(lambda x: lax.dynamic_slice_in_dim(x, tile, 1), tiles)
    return head_answers(params, one.tokens, maps_of(config, one), config=config)
