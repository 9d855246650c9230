"""Where crops of a screen lie, and whose elements count where they overlap the overview."""

from collections.abc import Sequence

import numpy as np

from diffvis_jax.errors import ConfigError
from diffvis_jax.grounding.decode import Element
from diffvis_jax.grounding.find import on_screenshot
from diffvis_jax.images.geometry import Placement
from diffvis_jax.metrics import iou_matrix

Box = tuple[float, float, float, float]
Place = tuple[int, int]  # left and top

SAME = 0.5  # IoU above which two boxes are one element
EDGE = 2.0  # pixels: what comes so near to the edge of a crop is cut off there


def crop_placement(
    place: Place, size: tuple[int, int], screen: tuple[int, int], scale: float = 1.0
) -> Placement:
    """Maps pixels of a crop's frame to those of the screen, and back.

    Args:
      place: of the crop.
      size: (height, width) of the crop, in pixels of the screen.
      screen: (width, height).
      scale: pixels of the frame per pixel of the screen.
    """
    (left, top), (height, width) = place, (round(side * scale) for side in size)
    return Placement(*screen, width, height, scale, scale, -left * scale, -top * scale)


def place_crops(
    places: Sequence[Place | None],
    focus: Sequence[Box],
    size: tuple[int, int],
    screen: tuple[int, int],
    snap: int,
) -> list[Place | None]:
    """The next places of the crops.

    A crop that shows the middle of a focus stays. The others move to where they show most of those
    that are left, one after the other; without any left they stay, too.

    Args:
      places: of the crops so far.
      focus: boxes in pixels of the screen.
      size: (height, width) of a crop.
      screen: (width, height).
      snap: a crop begins at a multiple of so many pixels, or ends at an edge.

    Raises:
      ConfigError: a box that is none, or outside the screen.
    """
    boxes = np.asarray(focus, np.float64).reshape(-1, 4)
    for box in boxes:
        if not (np.isfinite(box).all() and (box[2:] >= box[:2]).all()):
            raise ConfigError(f"a focus is a box (left, top, right, bottom), got {box.tolist()}")
        if (box[:2] >= screen).any() or (box[2:] <= 0).any():
            raise ConfigError(
                f"focus {box.tolist()} lies outside the screen of {screen[0]} x {screen[1]} px"
            )
    left = np.clip((boxes[:, :2] + boxes[:, 2:]) / 2, 0, np.subtract(screen, 1))  # middles
    found: list[Place | None] = list(places)
    free = []
    for number, place in enumerate(places):
        shown = _shown(left, np.array([place]), size)[0] if place else np.zeros(len(left), bool)
        left = left[~shown]
        if not shown.any():
            free.append(number)
    for number in free:
        if not len(left):
            break
        most = np.subtract(screen, size[::-1])
        near = np.round((left - np.array(size[::-1]) / 2) / snap) * snap
        candidates = near.clip(0, most).astype(int)
        shown = _shown(left, candidates, size)
        best = int(shown.sum(1).argmax())
        found[number] = (int(candidates[best, 0]), int(candidates[best, 1]))
        left = left[~shown[best]]
    return found


def join_elements(
    whole: Sequence[Element],
    parts: Sequence[Sequence[Element]],
    where: Placement,
    cut: Sequence[Placement | None],
    places: Sequence[Place | None],
    size: tuple[int, int],
) -> list[Element]:
    """The elements of overview and crops, in pixels of the screen (`merge_elements`).

    Args:
      whole: found in the overview, in pixels of its frame.
      parts: found in each crop, in pixels of its frame.
      where, cut: where the screen lies in the overview, and in each crop.
      places: of the crops; None = what was found there does not count.
      size: (height, width) of a crop, in pixels of the screen.
    """
    shown = [
        (place, on_screenshot(part, there))
        for place, there, part in zip(places, cut, parts, strict=True)
        if place is not None and there is not None
    ]
    return merge_elements(on_screenshot(whole, where), shown, size, (where.width, where.height))


def _shown(points: np.ndarray, places: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Which points `[n, 2]` crops at places `[m, 2]` show: bool `[m, n]`."""
    offset = points[None] - places[:, None]
    inside = (offset >= 0) & (offset < size[::-1])
    return inside[..., 0] & inside[..., 1]


def merge_elements(
    overview: Sequence[Element],
    crops: Sequence[tuple[Place, Sequence[Element]]],
    size: tuple[int, int],
    screen: tuple[int, int],
) -> list[Element]:
    """The elements of all, by falling score; of two that overlap (`SAME`) a crop's is kept.

    Args:
      overview: found in the overview, in pixels of the screen.
      crops: place of each crop, and what was found in it, in pixels of the screen. What its edge
        cuts off is left to the overview.
      size: (height, width) of a crop.
      screen: (width, height).
    """
    kept: list[Element] = []
    boxes = np.zeros((len(overview) + sum(len(elements) for _, elements in crops), 4))

    def is_new(element: Element) -> bool:
        overlaps = iou_matrix(np.array([element.box]), boxes[: len(kept)])
        return not (overlaps > SAME).any()

    def keep(element: Element) -> None:
        boxes[len(kept)] = element.box
        kept.append(element)

    for place, elements in crops:
        for element in sorted(elements, key=lambda each: -each.score):
            if not _is_cut(element.box, place, size, screen) and is_new(element):
                keep(element)
    # Those of the overview do not shut out each other.
    kept += [element for element in overview if is_new(element)]
    return sorted(kept, key=lambda element: -element.score)


def _is_cut(box: Box, place: Place, size: tuple[int, int], screen: tuple[int, int]) -> bool:
    """Whether a box comes near an edge of the crop that is none of the screen's."""
    for axis in (0, 1):
        first, end = place[axis], place[axis] + size[1 - axis]
        if box[axis] < first + EDGE and first > 0:
            return True
        if box[axis + 2] > end - EDGE and end < screen[axis]:
            return True
    return False
