"""A trained head applied to what a tower sees: what can be clicked on a screen."""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from diffvis_jax.bits import values_of
from diffvis_jax.cache import Cache
from diffvis_jax.errors import ConfigError
from diffvis_jax.grounding.decode import Element, decode
from diffvis_jax.grounding.head import GroundingHead, HeadConfig
from diffvis_jax.preprocess_config import Placement
from diffvis_jax.step import encode
from diffvis_jax.towers import VisionConfig, build


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
    params: dict[str, Any],
    tokens: jax.Array,
    fine: jax.Array | None = None,
    *,
    config: HeadConfig,
) -> dict[str, jax.Array]:
    """What the head says of tokens `[B, N, D]` and a map; see `GroundingHead`."""
    answers = GroundingHead(config).apply({"params": params}, tokens, fine)
    assert isinstance(answers, dict)
    return answers


def _map_index(config: VisionConfig) -> int:
    """Which layer's map the head sees: of those with 2 x 2 positions in a patch, the last."""
    cells = [layer.cell for layer in build(config).layers]
    if 2 not in cells:
        raise ConfigError("this tower has no map with 2 x 2 positions in a patch")
    return len(cells) - 1 - cells[::-1].index(2)


def map_name(config: VisionConfig) -> str:
    """Name of the map that a head sees beside the tokens, among a tower's intermediates.

    Raises:
      ConfigError: a tower without such a map (CLIP).
    """
    return build(config).layers[_map_index(config)].name


@functools.partial(jax.jit, static_argnames=("config", "head"))
def encode_for_head(
    params: dict[str, Any], frames: jax.Array, *, config: VisionConfig, head: HeadConfig
) -> tuple[jax.Array, jax.Array | None]:
    """A full encode: tokens `[B, N, D]`, and the map that the head sees, if it sees one.

    Args:
      params, config: of the tower.
      frames: `uint8 [B, S, S, 3]`.
      head: config of the head.
    """
    maps = encode(params, frames, config=config, output="intermediates")
    assert isinstance(maps, dict)
    return maps["tokens"], maps[map_name(config)] if head.map_width else None


def map_of(head: HeadConfig, cache: Cache) -> jax.Array | None:
    """The map that the head sees, `[B, 2g, 2g, C]`, out of a cache; None if it sees none."""
    if not head.map_width:
        return None
    index = _map_index(cache.config)
    tower = build(cache.config)
    height, width = tower.layers[index].shape
    return values_of(cache.maps[index][:, :height, :width])


def find_elements(
    head: Head,
    tokens: jax.Array,
    fine: jax.Array | None = None,
    *,
    threshold: float | None = None,
) -> list[list[Element]]:
    """The clickable elements of B frames, in pixels of the frames, the surest first.

    Args:
      head: trained with the tower that made the tokens.
      tokens: `[B, N, D]`, from a full or a differential encode.
      fine: the map that the head sees beside them, if it does: from `encode_for_head` or `map_of`.
      threshold: least score, 0-1; None = the head's own.

    Raises:
      ConfigError: tokens or a map of other shapes.
    """
    answers = head_answers(head.params, tokens, fine, config=head.config)
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
