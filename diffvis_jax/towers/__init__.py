"""Vision towers: a config, blocks on windows, parameters; nothing about frames or caches."""

from typing import TypeAlias

from diffvis_jax.errors import ConfigError
from diffvis_jax.towers import clip, fastvithd
from diffvis_jax.towers.base import Tower
from diffvis_jax.towers.clip import CLIPConfig
from diffvis_jax.towers.fastvithd import FastViTHDConfig

VisionConfig: TypeAlias = FastViTHDConfig | CLIPConfig


def build(config: VisionConfig) -> Tower:
    """The tower of a config.

    Raises:
      ConfigError: not a config of a known tower.
    """
    if isinstance(config, FastViTHDConfig):
        return fastvithd.tower(config)
    if isinstance(config, CLIPConfig):
        return clip.tower(config)
    raise ConfigError(
        f"config must be a FastViTHDConfig or a CLIPConfig, got {type(config).__name__}"
    )
