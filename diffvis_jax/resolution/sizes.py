"""The config of a tower for frames of another size, as its pictures become such frames."""

import dataclasses
import math
from typing import Any

from diffvis_jax.errors import ConfigError
from diffvis_jax.images.geometry import frame_size
from diffvis_jax.towers import VisionConfig, build, with_size

Size = int | tuple[int, int]


def keeps_shape(config: VisionConfig) -> bool:
    """Whether frames have the shape of their screen (Qwen2.5-VL): their size hangs on it."""
    return config.preprocess.mode == "native"


def bounds_of(config: VisionConfig) -> tuple[int, int] | None:
    """(min_pixels, max_pixels) of a config whose frames keep the shape of the screen, else None."""
    return (config.min_pixels, config.max_pixels) if keeps_shape(config) else None


def at_size(config: VisionConfig, size: Size, screen: tuple[int, int]) -> VisionConfig:
    """The same tower for frames of another size.

    Args:
      config: of the tower.
      size: (height, width) in pixels; or one number: the side of a square frame, or the longer side
        of a frame that keeps the shape of the screen.
      screen: width and height of the screenshots, for those that do.

    Raises:
      ConfigError: a size that the tower does not take (CLIP takes one only), or that screens of
        this shape do not become.
    """
    sides = size if isinstance(size, tuple) else (size,)
    if not all(isinstance(side, int) and side > 0 for side in sides):
        raise ConfigError(f"size must be a positive whole number of pixels, or two; got {size!r}")
    if not keeps_shape(config):
        return with_size(config, size)
    width, height = screen
    if isinstance(size, tuple):
        scale = max(size[0] / height, size[1] / width)
    else:
        scale = size / max(screen)
    pixels = width * height * scale**2
    # A pixel more, or fewer: the float rounding of `frame_size` must not lose a multiple.
    if pixels > width * height:
        least = math.floor(pixels) - 1
        bounds = {"min_pixels": least, "max_pixels": max(config.max_pixels, 2 * least)}
    else:
        most = max(math.ceil(pixels) + 1, config.preprocess.multiple**2)
        bounds = {"min_pixels": min(config.min_pixels, most), "max_pixels": most}
    config = dataclasses.replace(config, **bounds)
    found = frame_size(width, height, config)
    if found != size and (isinstance(size, tuple) or max(found) != size):
        raise ConfigError(
            f"screens of {width} x {height} px do not become frames of {size_text(size)}: the "
            f"nearest is {size_text(found)} (sides are multiples of {config.preprocess.multiple} "
            "px, and keep the screen's shape)"
        )
    return with_size(config, found)


def default_sizes(config: VisionConfig, screen: tuple[int, int]) -> tuple[int, ...]:
    """The tower's own size for such screens, and three smaller ones: longer sides in pixels, in
    multiples of a patch."""
    if keeps_shape(config):
        config = with_size(config, frame_size(*screen, config))
    own, step = max(build(config).frame), config_step(config)
    smaller = (round(own * share / step) * step for share in (0.375, 0.5, 0.75))
    return tuple(dict.fromkeys((*(side for side in smaller if 0 < side < own), own)))


def config_step(config: VisionConfig) -> int:
    """Pixels of which a side had better be a multiple: nothing of a token is then padding."""
    return config.preprocess.multiple if keeps_shape(config) else build(config).token


def size_text(size: Any) -> str:
    """A size as people write it: "512 px", or height and width, "288x512 px"."""
    sides = size if isinstance(size, tuple) else (size,)
    return "x".join(map(str, dict.fromkeys(sides))) + " px"
