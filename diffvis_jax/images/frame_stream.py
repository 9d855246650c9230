"""Frames of a screen that is seen again and again: only what changed is resized.

A bicubic resize is two passes, each of which works on every line by itself. So of a picture that
resembles the last one, the lines that changed go through the first pass, and the lines across that
differ afterwards through the second. The bytes are those of `preprocess`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from diffvis_jax.images import geometry
from diffvis_jax.images.geometry import HasPreprocess, PreprocessConfig
from diffvis_jax.images.preprocess import ImageLike, checked_size, open_rgb

if TYPE_CHECKING:
    import PIL.Image

# Above this share of the lines, all of them take no longer than finding and gathering some.
_MOST = 0.6


class FrameStream:
    """`preprocess` for one picture after another.

    Attributes:
      resized: lines that went through the two passes for the last picture, first and second; all
        of a picture that is unlike the last one.
    """

    def __init__(self, config: HasPreprocess | PreprocessConfig):
        """Args: config: as `preprocess` takes it."""
        self._settings = geometry.preprocess_config(config)
        self.reset()

    def reset(self) -> None:
        """Forgets the last picture."""
        self.resized = 0, 0
        self._source: np.ndarray | None = None  # uint8 [H, W, 3]
        self._between = self._whole = np.empty(0, np.uint8)

    def __call__(self, image: ImageLike) -> np.ndarray:
        """The next frame, `uint8 [1, H', W', 3]`: an array that later calls leave alone.

        Args:
          image: one image, as `preprocess` takes it.

        Raises:
          ImageError: see `preprocess`; the last picture is forgotten then.
        """
        before, self._source = self._source, None
        now = _pixels(image, self._settings)
        height, width = now.shape[:2]
        steps = geometry.layout(width, height, self._settings)
        passes = _Passes(steps, self._settings)
        if before is None or before.shape != now.shape:
            first = second = None
        else:
            first = _changed_lines(before, now, passes.axis)
        if first is None or len(first) > _MOST * now.shape[passes.axis]:
            self._between = passes.first(now, None)
            self._whole = passes.second(self._between, None)
            self.resized = now.shape[passes.axis], self._whole.shape[1 - passes.axis]
        elif len(first):
            lines = passes.first(now, first)
            own = passes.placed(first)
            old = self._between.take(own, passes.axis)
            second = np.flatnonzero((lines != old).any((passes.axis, 2)))
            _put(self._between, own, lines, passes.axis)
            if len(second):
                across = passes.second(self._between, second)
                # A copy: the frame before may still be in somebody's hands.
                self._whole = self._whole.copy()
                _put(self._whole, second, across, 1 - passes.axis)
            self.resized = len(first), len(second)
        else:
            self.resized = 0, 0
        self._source = now
        rows, columns = geometry.frame_size(width, height, self._settings)
        top, left = steps.crop_top, steps.crop_left
        return self._whole[None, top : top + rows, left : left + columns]


def _pixels(image: ImageLike, settings: PreprocessConfig) -> np.ndarray:
    """uint8 `[H, W, 3]` that nobody else writes into."""
    if isinstance(image, np.ndarray) and image.ndim == 3 and image.shape[-1] == 3:
        checked_size(image, settings)
        return np.array(image)  # without the way through Pillow, which takes ten times as long
    return np.asarray(open_rgb(image, settings))


class _Passes:
    """The two passes of a resize, over all lines or some.

    Attributes:
      axis: of the lines of the first pass: 0 = rows, 1 = columns.
    """

    def __init__(self, steps: geometry.Layout, settings: PreprocessConfig):
        self._steps, self._pad = steps, settings.pad_color
        before = steps.canvas_width, steps.canvas_height
        self._after = steps.resized_width, steps.resized_height
        self.axis = int(geometry.vertical_first(*before, *self._after))

    def first(self, source: np.ndarray, lines: np.ndarray | None) -> np.ndarray:
        """Lines of the source at their new length; all of them on the whole canvas."""
        some = source if lines is None else source.take(lines, self.axis)
        steps, axis = self._steps, self.axis
        length = (steps.canvas_width, steps.canvas_height)[axis]
        if some.shape[1 - axis] < length:  # padded at both ends
            some = _padded(
                some, length, (steps.paste_left, steps.paste_top)[axis], 1 - axis, self._pad
            )
        made = _resize(some, self._after[axis], 1 - axis)
        whole = (steps.canvas_height, steps.canvas_width)[axis]
        if lines is None and made.shape[axis] < whole:  # lines of nothing but padding
            made = _padded(made, whole, (steps.paste_top, steps.paste_left)[axis], axis, self._pad)
        return made

    def placed(self, lines: np.ndarray) -> np.ndarray:
        """Where lines of the source lie on the canvas."""
        return lines + (self._steps.paste_top, self._steps.paste_left)[self.axis]

    def second(self, between: np.ndarray, lines: np.ndarray | None) -> np.ndarray:
        """Lines across at their new length."""
        some = between if lines is None else between.take(lines, 1 - self.axis)
        return _resize(some, self._after[1 - self.axis], self.axis)


def _resize(pixels: np.ndarray, length: int, axis: int) -> np.ndarray:
    """One pass, along an axis: 0 = down, 1 = across."""
    from PIL import Image

    picture: PIL.Image.Image = Image.fromarray(pixels)
    size = (picture.width, length) if axis == 0 else (length, picture.height)
    return np.array(picture.resize(size, Image.Resampling.BICUBIC))


def _padded(
    pixels: np.ndarray, length: int, first: int, axis: int, colour: tuple[int, ...]
) -> np.ndarray:
    shape = list(pixels.shape)
    shape[axis] = length
    out = np.empty(shape, np.uint8)
    out[:] = colour
    _put(out, np.arange(first, first + pixels.shape[axis]), pixels, axis)
    return out


def _put(target: np.ndarray, lines: np.ndarray, values: np.ndarray, axis: int) -> None:
    if axis == 0:
        target[lines] = values
    else:
        target[:, lines] = values


def _changed_lines(before: np.ndarray, now: np.ndarray, axis: int) -> np.ndarray:
    """Numbers of the rows (0) or columns (1) in which a pixel differs."""
    if axis == 0 and now.strides == before.strides and now[0].nbytes % 8 == 0:
        # Eight bytes at a time: a whole screen in a millisecond.
        words = [np.ascontiguousarray(x).reshape(len(x), -1).view(np.uint64) for x in (before, now)]
        return np.flatnonzero((words[0] != words[1]).any(1))
    return np.flatnonzero((before != now).any((1 - axis, 2)))
