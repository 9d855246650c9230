"""Detects the clickable elements of a screen with a trained head."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from diffvis_jax.core.cache import Cache
from diffvis_jax.core.step import encode
from diffvis_jax.errors import ConfigError
from diffvis_jax.grounding.decode import Element, decode
from diffvis_jax.grounding.head import GroundingHead, HeadConfig
from diffvis_jax.images.geometry import Placement
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
    maps: Sequence[jax.Array] = (),
    *,
    config: HeadConfig,
) -> dict[str, jax.Array]:
    """Applies the head to tokens `[B, N, D]` and maps; see `GroundingHead`."""
    answers = GroundingHead(config).apply({"params": params}, tokens, maps)
    assert isinstance(answers, dict)
    return answers


def map_indices(config: VisionConfig, head: HeadConfig) -> tuple[int, ...]:
    """Which layers' maps the head sees beside the tokens: of those with so many positions in a
    patch, the last.

    Raises:
      ConfigError: a tower without such a map (CLIP).
    """
    tower = build(config)
    kept = zip(tower.layers, tower.places, strict=True)
    per_token = tower.patch // tower.token
    cells = [layer.cell // per_token if place.array >= 0 else 0 for layer, place in kept]
    for positions, _ in head.maps:
        if positions not in cells:
            raise ConfigError(
                f"this tower has no map with {positions} x {positions} positions in a patch"
            )
    return tuple(len(cells) - 1 - cells[::-1].index(positions) for positions, _ in head.maps)


def map_names(config: VisionConfig, head: HeadConfig) -> tuple[str, ...]:
    """Names of the maps that a head sees beside the tokens, among a tower's intermediates.

    Raises:
      ConfigError: a tower without such a map (CLIP).
    """
    return tuple(build(config).names[index] for index in map_indices(config, head))


@functools.partial(jax.jit, static_argnames=("config", "head"))
def encode_for_head(
    params: dict[str, Any], frames: jax.Array, *, config: VisionConfig, head: HeadConfig
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """A full encode: tokens `[B, N, D]`, and the maps that the head sees.

    Args:
      params, config: of the tower.
      frames: `uint8 [B, H, W, 3]`.
      head: config of the head.
    """
    maps = encode(params, frames, config=config, output="intermediates")
    assert isinstance(maps, dict)
    return maps["tokens"], tuple(maps[name] for name in map_names(config, head))


def maps_of(head: HeadConfig, cache: Cache) -> tuple[jax.Array, ...]:
    """The maps that the head sees, `[B, H, W, C]` each, out of a cache."""
    return tuple(cache.map(index) for index in map_indices(cache.config, head))


def find_elements(
    head: Head,
    tokens: jax.Array,
    maps: Sequence[jax.Array] = (),
    *,
    threshold: float | None = None,
) -> list[list[Element]]:
    """The clickable elements of B frames, in pixels of the frames, by falling score.

    Args:
      head: trained with the tower that made the tokens.
      tokens: `[B, N, D]`, from a full or a differential encode.
      maps: those that the head sees beside them: from `encode_for_head` or `maps_of`.
      threshold: least score, 0-1; None = the head's own.

    Raises:
      ConfigError: tokens or maps of other shapes.
    """
    answers = head_answers(head.params, tokens, tuple(maps), config=head.config)
    return decode(head.config, answers, threshold=threshold)


def on_screenshot(elements: Sequence[Element], placement: Placement) -> list[Element]:
    """The same elements in pixels of the original screenshot, clipped to it.

    Those that lie in the padding around it are left out.
    """
    frame_boxes = np.array([element.box for element in elements]).reshape(-1, 4)
    boxes = placement.box_to_original(frame_boxes)
    boxes = boxes.clip(0, [placement.width, placement.height] * 2)
    return [
        dataclasses.replace(element, box=tuple(box.tolist()))
        for element, box in zip(elements, boxes, strict=True)
        if (box[2:] > box[:2]).all()
    ]
