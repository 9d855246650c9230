"""The architectures that can be stored: name, config class, and the shapes they imply."""

from typing import Any

from diffvis_jax.checkpoints.formats.tensors import Shape
from diffvis_jax.checkpoints.keys import language as language_keys
from diffvis_jax.checkpoints.keys.rules import target_shapes
from diffvis_jax.grounding.head import HeadConfig, head_shapes
from diffvis_jax.language.config import DecoderConfig
from diffvis_jax.towers.registry import FAMILIES, build

_OTHERS: dict[str, type] = {"decoder": DecoderConfig, "grounding_head": HeadConfig}


def kinds() -> dict[str, type]:
    """Names under which architectures are stored, and the classes of their configs."""
    return {**{family.name: kind for kind, family in FAMILIES.items()}, **_OTHERS}


def kind_of(config: Any) -> str:
    """The name under which a config's architecture is stored.

    Raises:
      TypeError: it is of no architecture that can be stored.
    """
    for kind, config_class in kinds().items():
        if type(config) is config_class:
            return kind
    known = [config_class.__name__ for config_class in kinds().values()]
    raise TypeError(f"config must be one of {known}, got {config!r}")


def expected_shapes(config: Any) -> dict[str, Shape]:
    """Path of every parameter of that architecture, such as "stem/conv_0/kernel" -> its shape."""
    if isinstance(config, HeadConfig):
        return head_shapes(config)
    if isinstance(config, DecoderConfig):
        return target_shapes(language_keys.rules(config))
    return build(config).shapes()
