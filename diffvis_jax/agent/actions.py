"""What an agent can do on a screen, as values; and where on the screen it is done.

An action says in which space its coordinates are. A model that was shown the padded square may
well answer in pixels of that square: `on_screen` maps them back to the screenshot.
"""

import dataclasses
import math
from typing import Literal, TypeAlias, get_args

from diffvis_jax.errors import ActionError
from diffvis_jax.images.geometry import Placement

Space = Literal[
    "screen",  # pixels of the screenshot; whole numbers are middles of pixels
    "screen_share",  # 0-1 of the screenshot's width and height, from edge to edge
    "input",  # pixels of the model's S x S input
    "input_share",  # 0-1 of S
]
SPACES: tuple[Space, ...] = get_args(Space)

Button = Literal["left", "middle", "right"]
BUTTONS: tuple[Button, ...] = get_args(Button)


@dataclasses.dataclass(frozen=True)
class Point:
    """A place.

    Attributes:
      x, y: to the right and down, in the units of `space`.
      space: what they are measured in.
    """

    x: float
    y: float
    space: Space = "screen"

    @property
    def pixel(self) -> tuple[int, int]:
        """Column and row of the screenshot's pixel.

        Raises:
          ActionError: the point is in another space; see `on_screen`.
        """
        if self.space != "screen":
            raise ActionError(f"a point in {self.space} is no pixel of the screen: use on_screen")
        return math.floor(self.x + 0.5), math.floor(self.y + 0.5)


@dataclasses.dataclass(frozen=True)
class Offset:
    """A way to go from where the pointer is, in the units of `space`; see `Point`."""

    dx: float
    dy: float
    space: Space = "screen"


@dataclasses.dataclass(frozen=True)
class Click:
    """One or several clicks; `point` None: where the pointer is. Times are in seconds."""

    point: Point | None = None
    button: Button = "left"
    clicks: int = 1
    interval: float = 0.0
    duration: float = 0.0


@dataclasses.dataclass(frozen=True)
class MoveTo:
    """The pointer goes to a point, in `duration` seconds."""

    point: Point
    duration: float = 0.0


@dataclasses.dataclass(frozen=True)
class MoveBy:
    """The pointer goes some way, in `duration` seconds."""

    offset: Offset
    duration: float = 0.0


@dataclasses.dataclass(frozen=True)
class DragTo:
    """The pointer goes to a point with a button held down, in `duration` seconds."""

    point: Point
    button: Button = "left"
    duration: float = 0.0


@dataclasses.dataclass(frozen=True)
class DragBy:
    """The pointer goes some way with a button held down, in `duration` seconds."""

    offset: Offset
    button: Button = "left"
    duration: float = 0.0


@dataclasses.dataclass(frozen=True)
class MouseDown:
    """A button goes down and stays there; `point` None: where the pointer is."""

    point: Point | None = None
    button: Button = "left"


@dataclasses.dataclass(frozen=True)
class MouseUp:
    """A button is let go; `point` None: where the pointer is."""

    point: Point | None = None
    button: Button = "left"


@dataclasses.dataclass(frozen=True)
class Scroll:
    """The wheel turns by so many clicks, up or to the right if positive."""

    clicks: float
    point: Point | None = None
    direction: Literal["vertical", "horizontal"] = "vertical"


@dataclasses.dataclass(frozen=True)
class Write:
    """Text is typed, a letter every `interval` seconds."""

    text: str
    interval: float = 0.0


@dataclasses.dataclass(frozen=True)
class Press:
    """Keys go down and up one after the other, all of them `presses` times."""

    keys: tuple[str, ...]
    presses: int = 1
    interval: float = 0.0


@dataclasses.dataclass(frozen=True)
class KeyDown:
    """A key goes down and stays there."""

    key: str


@dataclasses.dataclass(frozen=True)
class KeyUp:
    """A key is let go."""

    key: str


@dataclasses.dataclass(frozen=True)
class Hotkey:
    """Keys go down in this order and up in the opposite one."""

    keys: tuple[str, ...]
    interval: float = 0.0


@dataclasses.dataclass(frozen=True)
class Wait:
    """Nothing for so many seconds; None: as long as the agent thinks fit."""

    seconds: float | None = None


@dataclasses.dataclass(frozen=True)
class Finish:
    """The model says that the task is over."""

    status: Literal["success", "failure"] = "success"


Action: TypeAlias = (
    Click
    | MoveTo
    | MoveBy
    | DragTo
    | DragBy
    | MouseDown
    | MouseUp
    | Scroll
    | Write
    | Press
    | KeyDown
    | KeyUp
    | Hotkey
    | Wait
    | Finish
)


def on_screen(action: Action, placement: Placement) -> Action:
    """The action with its coordinates in pixels of the screenshot.

    Args:
      placement: of the screenshot in the model's input: `dv.placement(W, H, model.config)`.

    Raises:
      ActionError: a point that lies outside the screenshot, in the padding for instance; a way of
        more pixels than there are numbers.
    """
    changes: dict[str, Point | Offset] = {}
    if (point := getattr(action, "point", None)) is not None:
        changes["point"] = point_on_screen(point, placement)
    if (offset := getattr(action, "offset", None)) is not None:
        across, down = _screen_pixels_per_unit(offset.space, placement)
        dx, dy = offset.dx * across, offset.dy * down
        if not (math.isfinite(dx) and math.isfinite(dy)):
            raise ActionError(f"({offset.dx:g}, {offset.dy:g}) in {offset.space} is no way to go")
        changes["offset"] = Offset(dx, dy)
    return dataclasses.replace(action, **changes)


def point_on_screen(point: Point, placement: Placement) -> Point:
    """The point in pixels of the screenshot; raises ActionError outside of it."""
    x, y = point.x, point.y
    # A share is a position between two edges, a pixel is named by its middle.
    if point.space == "screen_share":
        x, y = x * placement.width - 0.5, y * placement.height - 0.5
    elif point.space != "screen":
        if point.space == "input_share":
            x, y = x * placement.frame_width - 0.5, y * placement.frame_height - 0.5
        x, y = (float(part) for part in placement.to_original(x, y))
    inside = -0.5 <= x <= placement.width - 0.5 and -0.5 <= y <= placement.height - 0.5
    if not inside:
        raise ActionError(
            f"({point.x:g}, {point.y:g}) in {point.space} is pixel ({x:.1f}, {y:.1f}), outside the "
            f"screenshot of {placement.width} x {placement.height}"
        )
    # The far edge itself, a share of 1, belongs to the last pixel.
    return Point(min(x, placement.width - 1.0), min(y, placement.height - 1.0))


def _screen_pixels_per_unit(space: Space, placement: Placement) -> tuple[float, float]:
    if space == "screen":
        return 1.0, 1.0
    if space == "screen_share":
        return float(placement.width), float(placement.height)
    share = space == "input_share"
    across, down = (placement.frame_width, placement.frame_height) if share else (1, 1)
    return across / placement.scale_x, down / placement.scale_y
