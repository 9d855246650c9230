"""A trained head applied to tokens: what can be clicked on a screen."""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from diffvis_jax.grounding.decode import Element, decode
from diffvis_jax.grounding.head import GroundingHead, HeadConfig
from diffvis_jax.preprocess_config import Placement


@dataclasses.dataclass(frozen=True)
class Head:
    """A grounding head with its weights.

    Attributes:
      config: its architecture.
      params: nested dict of arrays.
    """

    config: HeadConfig
    params: dict[str, Any]


@functools.partial(jax.jit, static_argnames="config")
def head_answers(
    params: dict[str, Any], tokens: jax.Array, *, config: HeadConfig
) -> dict[str, jax.Array]:
    """What the head says of tokens `[B, N, D]`; see `GroundingHead`."""
    answers = GroundingHead(config).apply({"params": params}, tokens)
    assert isinstance(answers, dict)
    return answers


def find_elements(
    head: Head, tokens: jax.Array, *, threshold: float | None = None
) -> list[list[Element]]:
    """The clickable elements of B frames, in pixels of the frames, the surest first.

    Args:
      head: trained with the tower that made the tokens.
      tokens: `[B, N, D]`, from a full or a differential encode.
      threshold: least score, 0-1; None = the head's own.

    Raises:
      ConfigError: tokens of another width.
    """
    answers = head_answers(head.params, tokens, config=head.config)
    return decode(head.config, answers, threshold=threshold)


def on_screenshot(elements: list[Element], placement: Placement) -> list[Element]:
    """The same elements in pixels of the original screenshot, clipped to it."""
    if not elements:
        return []
    boxes = placement.box_to_original(np.array([element.box for element in elements]))
    boxes = boxes.clip(0, [placement.width, placement.height] * 2)
    return [
        dataclasses.replace(element, box=tuple(box.tolist()))
        for element, box in zip(elements, boxes, strict=True)
    ]
