"""The architectures that can be stored: name, config class, and the shapes they imply."""

from typing import Any

from diffvis_jax.checkpoints.formats.tensors import Shape
from diffvis_jax.checkpoints.keys import clip as clip_keys
from diffvis_jax.checkpoints.keys import fastvithd as fastvithd_keys
from diffvis_jax.checkpoints.keys import qwen2 as language_keys
from diffvis_jax.checkpoints.keys.rules import target_shapes
from diffvis_jax.grounding.head import HeadConfig, head_shapes
from diffvis_jax.language.config import QwenConfig
from diffvis_jax.towers.clip import CLIPConfig
from diffvis_jax.towers.fastvithd import FastViTHDConfig

KINDS: dict[str, type] = {
    "fastvithd": FastViTHDConfig,
    "clip": CLIPConfig,
    "qwen2": QwenConfig,
    "grounding_head": HeadConfig,
}
_TABLES = {"fastvithd": fastvithd_keys, "clip": clip_keys, "qwen2": language_keys}


def kind_of(config: Any) -> str:
    """The name under which a config's architecture is stored.

    Raises:
      TypeError: it is of no architecture that can be stored.
    """
    for kind, config_class in KINDS.items():
        if type(config) is config_class:
            return kind
    raise TypeError(f"config must be one of {[c.__name__ for c in KINDS.values()]}, got {config!r}")


def expected_shapes(config: Any) -> dict[str, Shape]:
    """Path of every parameter of that architecture, such as "stem/conv_0/kernel" -> its shape."""
    if isinstance(config, HeadConfig):
        return head_shapes(config)
    return target_shapes(_TABLES[kind_of(config)].rules(config))
