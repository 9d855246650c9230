"""Observations of robots' libraries -> pictures by name, for `ViewSet.stack`.

Dicts in, dicts out: neither library is needed. Sources: openpi `src/openpi/models/model.py`
(`Observation`), LeRobot `processor/observation_processor.py` and `policies/utils.py`.

A agents (the batch), H x W pixels.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from diffvis_jax.errors import FrameError
from diffvis_jax.images.geometry import ImageError

Pictures = dict[str, np.ndarray]

_LEROBOT = "observation.images."
_ONE_CAMERA = "observation.image"
_ABSENT = "_padding_mask"  # after the name of a camera, False = it is not there


def from_openpi(observation: Any) -> tuple[Pictures, Pictures]:
    """Pictures and masks of an observation of openpi.

    Args:
      observation: an `Observation`, or the dict that it is made from, with "image" and
        "image_mask": pictures `[H, W, 3]` or `[A, H, W, 3]`, uint8, or floats in -1..1; masks bool
        [] or `[A]`, True where there is none.

    Returns:
      `uint8 [H, W, 3]` or `[A, H, W, 3]`, and bool [] or `[A]`, by name: `stack(images, model,
      present=masks)`.

    Raises:
      FrameError: no such observation, or a mask of another shape.
      ImageError: floats outside -1..1, NaN, or channels that are not last; names the picture.
    """
    if isinstance(observation, Mapping):
        images, masks = observation.get("image"), observation.get("image_mask", {})
    else:
        images = getattr(observation, "images", None)
        masks = getattr(observation, "image_masks", {})
    if not isinstance(images, Mapping) or not images:
        raise FrameError('no observation of openpi: it has no pictures ("image", a dict)')
    found = {name: _pixels(name, image, -1.0, last=True) for name, image in images.items()}
    return found, {name: _mask(name, masks.get(name, True), x) for name, x in found.items()}


def from_lerobot(observation: Mapping[str, Any]) -> tuple[Pictures, Pictures]:
    """Pictures and masks of an observation of LeRobot.

    Args:
      observation: a dict with "observation.images.CAMERA" (or "observation.image", then called
        "image"): floats in 0..1 `[3, H, W]` or `[A, 3, H, W]`, as policies and data sets have
        them, or `uint8 [H, W, 3]` or `[A, H, W, 3]`, as robots give them. Or Gymnasium's, with
        "pixels": uint8, one picture or a dict. "observation.images.CAMERA_padding_mask", bool, says
        whether a camera is there.

    Returns:
      as `from_openpi`.

    Raises:
      FrameError: no pictures in it, or a mask of another shape.
      ImageError: floats outside 0..1, NaN, or channels where they do not belong; names the picture.
    """
    if not isinstance(observation, Mapping):
        raise FrameError(f"an observation of LeRobot is a dict, got {type(observation).__name__}")
    pixels = observation.get("pixels", {})
    images = dict(pixels) if isinstance(pixels, Mapping) else {"image": pixels}
    masks = {}
    for key, value in observation.items():
        if key == _ONE_CAMERA:
            images["image"] = value
        elif key.startswith(_LEROBOT):
            name = key.removeprefix(_LEROBOT)
            into = masks if name.endswith(_ABSENT) else images
            into[name.removesuffix(_ABSENT)] = value
    if not images:
        raise FrameError(f'no pictures: no key begins with "{_LEROBOT}"; got {sorted(observation)}')
    found = {name: _pixels(name, image, 0.0, last=False) for name, image in images.items()}
    return found, {name: _mask(name, masks.get(name, True), x) for name, x in found.items()}


def _pixels(name: str, image: Any, low: float, *, last: bool) -> np.ndarray:
    """`uint8 [.., H, W, 3]` of bytes, or of floats in low..1 with channels last or first."""
    image = np.asarray(image)
    floats = image.dtype.kind == "f"
    first = floats and not last
    expected = "[3, H, W]" if first else "[H, W, 3]"
    if image.ndim not in (3, 4) or image.shape[-3 if first else -1] != 3:
        others = image.ndim in (3, 4) and image.shape[-1 if first else -3] == 3
        where = ("last" if first else "first") if others else None
        hint = f": its channels come {where}" if where else ""
        raise ImageError(
            f"picture {name!r}: expected {image.dtype} {expected}, or a batch of such, got "
            f"{list(image.shape)}{hint}"
        )
    if first:
        image = np.moveaxis(image, -3, -1)
    if image.dtype == np.uint8:
        return image
    if not floats:
        raise ImageError(f"picture {name!r}: expected uint8 or floats, got {image.dtype}")
    # NaN fails the comparison as well.
    if not ((image >= low - 1e-6) & (image <= 1 + 1e-6)).all():
        raise ImageError(
            f"picture {name!r}: floats must lie in {low:g}..1, got {image.min():g}..{image.max():g}"
        )
    return np.round((image - low) * (255 / (1 - low))).clip(0, 255).astype(np.uint8)


def _mask(name: str, mask: Any, image: np.ndarray) -> np.ndarray:
    mask, shape = np.asarray(mask), image.shape[:-3]
    if mask.dtype != bool or mask.shape not in ((), shape):
        raise FrameError(
            f"the mask of {name!r} must be bool {list(shape)}, got {mask.dtype} {list(mask.shape)}"
        )
    return np.broadcast_to(mask, shape)
