"""Draws elements onto a screenshot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from diffvis_jax.grounding.decode import Element

if TYPE_CHECKING:
    import PIL.Image

COLORS = {
    "button": (214, 39, 40),
    "link": (31, 119, 180),
    "text_field": (44, 160, 44),
    "checkbox": (255, 127, 14),
    "icon": (227, 119, 194),
    "menu_item": (23, 190, 207),
    "tab": (188, 189, 34),
    "select": (148, 103, 189),
}


def draw_elements(
    picture: PIL.Image.Image, elements: Sequence[Element], *, outline: int = 2
) -> PIL.Image.Image:
    """A copy of the picture with a frame around each element, in the colour of its kind.

    Args:
      picture: the screenshot.
      elements: in its pixels, see `on_screenshot`.
      outline: thickness of the frames in pixels.
    """
    from PIL import ImageDraw

    drawn = picture.convert("RGB").copy()
    draw = ImageDraw.Draw(drawn)
    for element in elements:
        left, top, right, bottom = (round(edge) for edge in element.box)
        if right > left and bottom > top:
            color = COLORS.get(element.kind, (90, 90, 90))
            draw.rectangle((left, top, right, bottom), outline=color, width=outline)
    return drawn
