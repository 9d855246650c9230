"""Which towers there are: each is one file, one key table for its checkpoints, and one row here."""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import numpy as np

from diffvis_jax.errors import ConfigError
from diffvis_jax.towers import clip, fastvithd, qwen2_5_vl
from diffvis_jax.towers.base import Tower
from diffvis_jax.towers.params import Params

# A registered config: a frozen dataclass with `dtype`, `preprocess` (a `PreprocessConfig`) and
# `resized(height, width)`, the same architecture for frames of another size.
VisionConfig: TypeAlias = Any


@dataclasses.dataclass(frozen=True)
class Family:
    """One architecture.

    Attributes:
      name: under which its weights are stored.
      config: class of its configs.
      build: a config -> the tower.
      outputs: (params, frames, config) -> further outputs of `encode` by name; None = there are
        none.
    """

    name: str
    config: type
    build: Callable[[Any], Tower]
    outputs: Callable[[Params, jax.Array, Any], dict[str, jax.Array]] | None = None


FAMILIES: dict[type, Family] = {}


def register(family: Family) -> None:
    """Makes a tower known to the library."""
    FAMILIES[family.config] = family


register(Family("fastvithd", fastvithd.FastViTHDConfig, fastvithd.tower))
register(Family("clip", clip.CLIPConfig, clip.tower, clip.outputs))
register(Family("qwen2_5_vl", qwen2_5_vl.Qwen25VisionConfig, qwen2_5_vl.tower))


# Name -> the config of a released tower.
ARCHITECTURES = {
    **{family.name: family.config() for family in FAMILIES.values()},
    "siglip": clip.SIGLIP,
}


def family_of(config: Any) -> Family:
    """The family of a config.

    Raises:
      ConfigError: not a config of a known tower.
    """
    family = FAMILIES.get(type(config))
    if family is None:
        known = ", ".join(known.__name__ for known in FAMILIES)
        raise ConfigError(f"config must be one of {known}; got {type(config).__name__}")
    return family


def build(config: Any) -> Tower:
    """The tower of a config.

    Raises:
      ConfigError: not a config of a known tower.
    """
    return family_of(config).build(config)


def with_size(config: Any, size: int | tuple[int, int] | None) -> Any:
    """The config at another size of frames: a side, (height, width), or None for its own.

    Raises:
      ConfigError: not a config, or a size that the architecture does not take.
    """
    family_of(config)
    if size is None:
        return config
    sides = (size, size) if isinstance(size, int | np.integer) else size
    if not isinstance(sides, tuple | list) or len(sides) != 2:
        raise ConfigError(f"size must be one side or (height, width) in pixels, got {size!r}")
    height, width = (int(side) for side in sides)
    return config if build(config).frame == (height, width) else config.resized(height, width)
