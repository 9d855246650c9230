"""Rendered pages as training examples: read once, cropped at random."""

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
      pixels: uint8 `[size, size, 3]`, padded to a square; rows of padding are not stored.
      boxes: float64 `[n, 4]` in pixels of the frame.
      kinds: n indices.
    """

    def __init__(self, path: Path, size: int, kinds: tuple[str, ...]):
        record = json.loads(path.with_suffix(".json").read_text())
        image = open_screenshot(path)
        config = PreprocessConfig(size=size)
        pixels = np.asarray(preprocess(image, config))[0]
        self.size = size
        self.kinds = [kinds.index(e["kind"]) for e in record["elements"]]
        boxes = np.array([e["box"] for e in record["elements"]], np.float64).reshape(-1, 4)
        self.boxes = placement(*image.size, config).box_to_model(boxes)
        filled = np.flatnonzero(pixels.any((1, 2)))
        self._first = int(filled[0]) if filled.size else 0
        self._rows = pixels[self._first : (int(filled[-1]) + 1 if filled.size else 1)].copy()

    def crop(self, left: int, top: int, side: int) -> np.ndarray:
        """uint8 `[side, side, 3]`."""
        out = np.zeros((side, side, 3), np.uint8)
        first = max(top, self._first)
        last = min(top + side, self._first + len(self._rows))
        if first < last:
            out[first - top : last - top] = self._rows[
                first - self._first : last - self._first, left : left + side
            ]
        return out

    @property
    def filled(self) -> tuple[int, int]:
        """First row with content, and the row after the last."""
        return self._first, self._first + len(self._rows)


def pages_of(directory: Path) -> list[Path]:
    """The pictures of one split, in the order of their names.

    Raises:
      ValueError: there are none.
    """
    paths = [p for p in sorted(directory.glob("*/*.png")) if p.with_suffix(".json").exists()]
    if not paths:
        raise ValueError(f"no rendered pages in {directory}: make them with render_pages.py")
    return paths


def load_screens(directory: Path, head: HeadConfig, most: int | None, size: int) -> list[Screen]:
    """The pages of one split, or `most` of them, evenly chosen."""
    paths = pages_of(directory)
    if most is not None and len(paths) > most:
        paths = [paths[i] for i in np.linspace(0, len(paths) - 1, most).astype(int)]

    def read(path: Path) -> Screen:
        try:
            return Screen(path, size, head.kinds)
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
    plain: bool = False,
) -> Iterator[dict[str, np.ndarray]]:
    """Endless batches; every screen is seen once before any is seen again.

    A share of the crops, `AIMED`, is taken around a random element, each kind of the screen as
    often as the others: of uniform crops many hold little, and hardly any the rare kinds. Half the
    crops are of other sizes and resized. `plain`: uniform crops of the screens as they are.
    """
    rng = np.random.default_rng(seed)
    order: list[int] = []
    while True:
        pixels, answers = [], []
        while len(pixels) < batch:
            if not order:
                order = rng.permutation(len(screens)).tolist()
            screen = screens[order.pop()]
            taken = side
            if not plain and rng.random() < 0.5:
                taken = min(screen.size, round(side * rng.uniform(0.7, 1.4)))
            first, last = screen.filled
            room = screen.size - taken
            # Mostly content: a crop hangs over the padding by a quarter of its side at most.
            low, high = first - taken // 4, last - taken + taken // 4
            low, high = max(0, min(low, room)), min(room, max(high, 0))
            if screen.kinds and not plain and rng.random() < AIMED:
                kind = rng.choice(sorted(set(screen.kinds)))
                box = screen.boxes[rng.choice(np.flatnonzero(np.array(screen.kinds) == kind))]
                middle = (box[:2] + box[2:]) / 2
                left, top = (
                    int(np.clip(at - rng.uniform(0.1, 0.9) * taken, 0, room)) for at in middle
                )
            else:
                top = int(rng.integers(min(low, high), max(low, high) + 1))
                left = int(rng.integers(0, room + 1))
            frame, target = example(screen, left, top, taken, head, side)
            pixels.append(frame if plain else recoloured(frame, rng))
            answers.append(target)
        stacked = {key: np.stack([a[key] for a in answers]) for key in answers[0]}
        yield {"pixels": np.stack(pixels), **stacked}


def calibration(screens: list[Screen], side: int, head: HeadConfig) -> list[np.ndarray]:
    """Crops whose statistics are folded into the tower: always the same."""
    batches = random_crops(screens, side, max(1, 2**20 // side**2), head, seed=0, plain=True)
    return [next(batches)["pixels"] for _ in range(8)]


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
