"""Models that take images in sizes of their own: the options, and the one size of a stream."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffvis_jax.cli.command_line import tell, whole

if TYPE_CHECKING:  # so that --help does not wait for JAX
    import numpy as np

    import diffvis_jax as dv
    from diffvis_jax.datasets.records import ParquetImage

BOUNDS = ("min_pixels", "max_pixels")


def add_bounds(add: Callable[..., Any]) -> None:
    """The bounds of a frame's size; `add` is a parser's or a group's `add_argument`."""
    for name, what in zip(BOUNDS, ("fewest", "most"), strict=True):
        add(
            f"--{name.replace('_', '-')}",
            metavar="N",
            type=whole(1, 10**9, "a whole number of pixels >= 1"),
            help=f"of a model that takes images in their own size (Qwen2.5-VL): {what} pixels of a "
            "frame (default: as the model's files say)",
        )


def with_bounds(model: dv.Model, args: argparse.Namespace) -> dv.Model:
    """The model with the bounds of the options.

    Raises:
      ValueError: its frames have one size, so that there is nothing to bound.
    """
    given = {name: value for name in BOUNDS if (value := getattr(args, name)) is not None}
    if given and not has_sizes(model):
        flag = f"--{next(iter(given)).replace('_', '-')}"
        raise ValueError(f"{flag}: frames of {model.name} have one size: drop it")
    return dataclasses.replace(model, config=dataclasses.replace(model.config, **given))


def tell_overview(model: dv.Model) -> None:
    """Says so where a model's images are tiled, for commands that follow single frames."""
    if model.config.preprocess.pinpoints:
        tell(
            f"images of {model.name} are cut into tiles: here only the overview is encoded, "
            "tokens of tiles are not measured (predict and watch show all)"
        )


def has_sizes(model: dv.Model) -> bool:
    """Whether the size of a frame hangs on the image."""
    return model.config.preprocess.mode == "native"


def sized_for(model: dv.Model, pictures: Iterable[Path | ParquetImage | np.ndarray]) -> dv.Model:
    """The model whose frames are as large as those of all these pictures.

    Of files the header is read; one that cannot be read is passed over: that is told when it is its
    turn.

    Raises:
      ValueError: two of them become frames of different sizes, while a stream keeps one.
    """
    from diffvis_jax.towers import with_size

    if not has_sizes(model):
        return model
    first: tuple[Any, tuple[int, int]] | None = None
    for picture, size in _sizes(model, pictures):
        first = first or (picture, size)
        if size != first[1]:
            raise ValueError(
                f"'{picture}' becomes a frame of {_shown(size)}, and '{first[0]}' one of "
                f"{_shown(first[1])} (width x height): all frames of a stream must have one size "
                "(towers with frames of one size, such as fastvithd-screens, pad any picture to it)"
            )
    if first is None:
        return model
    return dataclasses.replace(model, config=with_size(model.config, first[1]))


def _sizes(model: dv.Model, pictures: Iterable[Any]) -> Iterator[tuple[Any, tuple[int, int]]]:
    import diffvis_jax as dv

    for picture, (width, height) in picture_sizes(pictures):
        try:
            yield picture, dv.frame_size(width, height, model.config)
        except dv.ImageError:
            continue


def picture_sizes(pictures: Iterable[Any]) -> Iterator[tuple[Any, tuple[int, int]]]:
    """Each picture that can be read, with its width and height."""
    from diffvis_jax.datasets.errors import DatasetError
    from diffvis_jax.datasets.records import image_size
    from diffvis_jax.images.geometry import ImageError

    for picture in pictures:
        shape = getattr(picture, "shape", None)
        try:
            yield picture, tuple(shape[1::-1]) if shape else image_size(picture, f"'{picture}'")
        except (DatasetError, ImageError):
            continue


def _shown(size: tuple[int, int]) -> str:
    return f"{size[1]} x {size[0]}"
