"""Rendered pages as training examples: read once, cropped at random."""

import itertools
import json
import os
import queue
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from targets import targets

from diffvis_jax.grounding.head import HeadConfig
from diffvis_jax.images.geometry import ImageError, PreprocessConfig, placement
from diffvis_jax.images.preprocess import preprocess
from diffvis_jax.images.recording import open_screenshot
from diffvis_jax.utils.progress import Progress

AIMED = 0.6  # share of crops that are taken around an element


class Screen:
    """One page as the tower sees it.

    Attributes:
      pixels: uint8 `[H, W, 3]`.
      boxes: float64 `[n, 4]` in pixels of the frame.
      kinds: n indices.
    """

    def __init__(self, path: Path, config: PreprocessConfig, kinds: tuple[str, ...]):
        record = json.loads(path.with_suffix(".json").read_text())
        image = open_screenshot(path)
        self.pixels = np.asarray(preprocess(image, config))[0]
        self.kinds = [kinds.index(e["kind"]) for e in record["elements"]]
        boxes = np.array([e["box"] for e in record["elements"]], np.float64).reshape(-1, 4)
        self.boxes = placement(*image.size, config).box_to_model(boxes)

    @property
    def long_side(self) -> int:
        """In pixels."""
        return max(self.pixels.shape[:2])

    def crop(self, left: int, top: int, side: int) -> np.ndarray:
        """uint8 `[side, side, 3]`, black beyond the page."""
        out = np.zeros((side, side, 3), np.uint8)
        height, width = self.pixels.shape[:2]
        top_in, left_in = max(top, 0), max(left, 0)
        bottom, right = min(top + side, height), min(left + side, width)
        if top_in < bottom and left_in < right:
            out[top_in - top : bottom - top, left_in - left : right - left] = self.pixels[
                top_in:bottom, left_in:right
            ]
        return out


class Square:
    """A part of a page, as high as wide: a head without maps takes no other frames.

    Attributes: as of `Screen`.
    """

    def __init__(self, page: Screen, left: int, side: int):
        self.pixels = page.crop(left, 0, side)
        boxes = page.boxes - np.array([left, 0, left, 0])
        inside = np.asarray((boxes[:, :2] >= 0).all(1) & (boxes[:, 2:] <= side).all(1))
        self.boxes = boxes[inside]
        self.kinds = [
            kind for kind, there in zip(page.kinds, inside.tolist(), strict=True) if there
        ]
        self.long_side = side


def squares_of(page: Screen, token: int) -> list[Square]:
    """The left and the right end of a page."""
    height, width = page.pixels.shape[:2]
    side = min(height, width) // token * token
    return [Square(page, left, side) for left in sorted({0, width - side})]


def pages_of(directory: Path) -> list[Path]:
    """The pictures of one split, in the order of their names.

    Raises:
      ValueError: there are none.
    """
    paths = [p for p in sorted(directory.glob("*/*.png")) if p.with_suffix(".json").exists()]
    if not paths:
        raise ValueError(f"no rendered pages in {directory}: make them with render_pages.py")
    return paths


def load_screens(
    directory: Path, kinds: tuple[str, ...], most: int | None, config: PreprocessConfig
) -> list[Screen]:
    """The pages of one split, or `most` of them, evenly chosen."""
    paths = pages_of(directory)
    if most is not None and len(paths) > most:
        paths = [paths[i] for i in np.linspace(0, len(paths) - 1, most).astype(int)]

    def read(path: Path) -> Screen:
        try:
            return Screen(path, config, kinds)
        except (OSError, ImageError) as error:
            raise ValueError(f"{path} cannot be read ({error}): render it again") from error

    screens = []
    # Pillow decodes and resizes without Python's lock.
    with (
        Progress(len(paths), f"reading {directory.name}") as progress,
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        for path, screen in zip(paths, pool.map(read, paths), strict=True):
            screens.append(screen)
            progress(path.name)
    return screens


def example(
    screen: Screen, left: int, top: int, side: int, head: HeadConfig, seen_as: int | None = None
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """A crop of `side` pixels, resized to `seen_as`, and its targets."""
    boxes = screen.boxes - np.array([left, top, left, top])
    cut = boxes.clip(0, side)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    left_over = (cut[:, 2] - cut[:, 0]) * (cut[:, 3] - cut[:, 1])
    seen = left_over > 0.1 * area
    sure = left_over[seen] > 0.9 * area[seen]
    kinds = [kind for kind, there in zip(screen.kinds, seen, strict=True) if there]
    pixels, cut = screen.crop(left, top, side), cut[seen]
    if seen_as not in (None, side):
        pixels = np.asarray(
            Image.fromarray(pixels).resize((seen_as, seen_as), Image.Resampling.BICUBIC)
        )
        cut = cut * (seen_as / side)
    return pixels, targets(head, seen_as or side, cut, kinds, sure)


def recoloured(frame: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """`uint8 [s, s, 3]` as another theme might show it."""
    if rng.random() < 0.2:
        frame = 255 - frame  # light themes become dark ones
    if rng.random() < 0.3:
        frame = frame[..., rng.permutation(3)]
    if rng.random() < 0.5:
        gain = rng.uniform(0.6, 1.0) * rng.uniform(0.85, 1.0, 3)
        low = rng.uniform(0, 255 * (1 - gain))
        table = (np.arange(256)[:, None] * gain + low).round().astype(np.uint8)
        frame = table[frame, np.arange(3)]
    return frame


def random_crops(
    screens: list[Screen],
    side: int,
    batch: int,
    head: HeadConfig,
    seed: int,
    *,
    change_every: int = 0,
) -> Iterator[dict[str, np.ndarray]]:
    """Endless batches; every screen is seen once before any is seen again.

    A share of the crops, `AIMED`, is taken around a random element, each kind of the screen as
    often as the others: of uniform crops many hold little, and hardly any the rare kinds. Half the
    crops are of other sizes and resized.

    Args:
      change_every: every batch of so many is half as large, and says what was there before, too
        ("before"); 0 = none.
    """
    rng = np.random.default_rng(seed)
    order: list[int] = []
    for number in itertools.count(1):
        pixels, answers = [], []
        while len(pixels) < batch:
            if not order:
                order = rng.permutation(len(screens)).tolist()
            frame, target = _random_crop(screens[order.pop()], side, head, rng)
            pixels.append(recoloured(frame, rng))
            answers.append(target)
        stacked = {key: np.stack([a[key] for a in answers]) for key in answers[0]}
        stacked["pixels"] = np.stack(pixels)
        if change_every and number % change_every == 0:
            half = (batch + 1) // 2  # two encodes more take as long as twice the crops
            pairs = list(zip(pixels, np.roll(stacked["pixels"], 1, 0), strict=True))[:half]
            stacked = {key: a[:half] for key, a in stacked.items()}
            stacked["before"] = np.stack([before(now, other, rng) for now, other in pairs])
        yield stacked


def _random_crop(
    screen: Screen, side: int, head: HeadConfig, rng: np.random.Generator
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    taken = side if rng.random() < 0.5 else round(side * rng.uniform(0.7, 1.4))
    height, width = screen.pixels.shape[:2]
    # Mostly content: a crop hangs over the page by a quarter of its side at most.
    low, high = -(taken // 4), height + taken // 4 - taken
    room = max(width - taken, 0)
    if screen.kinds and rng.random() < AIMED:
        kind = rng.choice(sorted(set(screen.kinds)))
        box = screen.boxes[rng.choice(np.flatnonzero(np.array(screen.kinds) == kind))]
        x, y = (box[:2] + box[2:]) / 2
        left = int(np.clip(x - rng.uniform(0.1, 0.9) * taken, 0, room))
        top = int(np.clip(y - rng.uniform(0.1, 0.9) * taken, min(low, high), max(low, high)))
    else:
        left = int(rng.integers(0, room + 1))
        top = int(rng.integers(min(low, high), max(low, high) + 1))
    return example(screen, left, top, taken, head, side)


def before(now: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What a crop `uint8 [s, s, 3]` may have shown before: one to three rectangles of it held a
    piece of another crop, a plain colour, or what is a little beside."""
    out, side = now.copy(), len(now)
    for _ in range(rng.integers(1, 4)):
        high, wide = (int(2 ** rng.uniform(2, np.log2(side // 2))) for _ in range(2))
        top, left = int(rng.integers(0, side - high)), int(rng.integers(0, side - wide))
        at = np.s_[top : top + high, left : left + wide]
        how = rng.random()
        if how < 0.4:
            out[at] = other[at]
        elif how < 0.7:
            out[at] = now[top, left]
        else:
            shift = rng.integers(-24, 25, 2)
            out[at] = np.roll(now, shift, (0, 1))[at]
    return out


def ahead(batches: Iterator[dict[str, np.ndarray]], depth: int = 3) -> Iterator:
    """The same batches, made by a thread while the device works."""
    ready: queue.Queue = queue.Queue(depth)

    def make() -> None:
        try:
            for batch in batches:
                ready.put(batch)
        except BaseException as error:  # handed to the consumer, which raises it
            ready.put(error)

    threading.Thread(target=make, daemon=True).start()
    while True:
        batch = ready.get()
        if isinstance(batch, BaseException):
            raise batch
        yield batch
