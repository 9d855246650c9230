"""What callers say of a task and of what its pictures show. What nobody labels, nobody protects."""

import dataclasses
import enum
from typing import Literal, TypeAlias, get_args

from diffvis_jax.errors import DiffvisError


class Sensitivity(enum.IntEnum):
    """How far something may travel; higher ones stay nearer."""

    PUBLIC = 0
    INTERNAL = 1
    CONFIDENTIAL = 2


class Complexity(enum.IntEnum):
    """How much of a model a task needs."""

    SIMPLE = 0
    MODERATE = 1
    COMPLEX = 2


Operation = Literal["grounding", "reading", "planning", "reasoning"]
OPERATIONS: tuple[Operation, ...] = get_args(Operation)

Box: TypeAlias = tuple[float, float, float, float]  # left, top, right, bottom; edges of pixels


@dataclasses.dataclass(frozen=True)
class Region:
    """A place of a screenshot that is not for everybody.

    A window is hidden where its label, the title, is one of those that are (or is empty); the other
    kinds always are. Labels are never sent.
    """

    box: Box  # in pixels of the screenshot, or with source "dom" in CSS pixels
    kind: Literal["password", "field", "window", "text", "user"]
    label: str = dataclasses.field(default="", repr=False)
    source: Literal["dom", "accessibility", "title", "user"] = "user"


@dataclasses.dataclass(frozen=True)
class Screen:
    """What is known of one picture.

    Regions: an empty tuple says that there is nothing to hide, None that nobody has looked.
    """

    regions: tuple[Region, ...] | None = None
    viewport: tuple[float, float] | None = None  # (width, height) in CSS pixels; a DOM's need it


@dataclasses.dataclass(frozen=True)
class Task:
    """What is to be done; `text`: more that belongs to it than the conversation says, `titles`: of
    the windows that the newest screen shows."""

    operation: Operation
    text: str = dataclasses.field(default="", repr=False)
    stated: Sensitivity | None = None  # by the caller; None counts as confidential
    complexity: Complexity | None = None  # None = by its words
    titles: tuple[str, ...] = dataclasses.field(default=(), repr=False)
    screens: tuple[Screen, ...] = ()  # of the pictures of the conversation, in order


class StaysHere(DiffvisError):
    """Something may not leave this machine; `reasons` quote nothing of it."""

    def __init__(self, *reasons: str):
        self.reasons = reasons
        super().__init__(f"stays on this machine: {'; '.join(reasons)}")
