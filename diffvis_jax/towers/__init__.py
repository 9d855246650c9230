"""Vision towers: a config, blocks on windows, parameters; nothing about frames or caches."""

from diffvis_jax.towers.clip import CLIPConfig
from diffvis_jax.towers.fastvithd import FastViTHDConfig
from diffvis_jax.towers.qwen2_5_vl import Qwen25VisionConfig
from diffvis_jax.towers.registry import VisionConfig, build, with_size

__all__ = [
    "CLIPConfig",
    "FastViTHDConfig",
    "Qwen25VisionConfig",
    "VisionConfig",
    "build",
    "with_size",
]
