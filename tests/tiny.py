"""Tiny towers with random parameters, edits of their frames, and what tests say about both.

B streams, H x W pixels of a frame, p pixels along the side of a patch.
"""

import contextlib
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import diffvis_jax as dv
from diffvis_jax.checkpoints.architectures import expected_shapes
from diffvis_jax.checkpoints.store import unflatten
from diffvis_jax.core.step import jit_encode
from diffvis_jax.grounding.head import HeadConfig, head_shapes
from diffvis_jax.towers import build
from diffvis_jax.towers.registry import FAMILIES

FASTVITHD = dv.FastViTHDConfig(
    depths=(1, 2, 1, 1, 1),
    widths=(8, 16, 32, 64, 128),
    head_width=16,
    token_width=256,
    squeeze_width=16,
    size=256,
)
ODD = dataclasses.replace(
    FASTVITHD, depths=(1, 1, 1, 1, 1), size=200, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4)
)
CLIP = dv.CLIPConfig(
    width=32, layers=3, heads=4, mlp_width=64, patch=8, size=36, projection_width=16
)
QWEN = dv.Qwen25VisionConfig(
    width=16,
    depth=3,
    heads=2,
    mlp_width=24,
    full_blocks=(1,),
    patch=4,
    window=16,
    token_width=24,
    size=(56, 72),
)
STEM = dv.Qwen25VisionConfig(
    width=16,
    depth=4,
    heads=2,
    mlp_width=128,
    full_blocks=(1, 3),
    patch=16,
    merge=1,
    window=32,
    token_width=24,
    stem_widths=(8, 12),
    size=(112, 144),
)
LANGUAGE = dv.DecoderConfig(
    vocabulary=96,
    width=32,
    layers=2,
    heads=4,
    kv_heads=2,
    head_width=8,
    mlp_width=48,
    max_length=256,
    eos_ids=(95,),
    pad_id=94,
    projector_input=FASTVITHD.token_width,
)

ROUNDING = 2e-5  # of the largest value: float32 sums in another order


@contextlib.contextmanager
def strict():
    """All that a host of JAX can forbid, and 64-bit numbers by default."""
    with (
        jax.enable_x64(True),
        jax.numpy_dtype_promotion("strict"),
        jax.numpy_rank_promotion("raise"),
    ):
        yield


@functools.lru_cache(maxsize=8)
def random_params(config, seed: int = 0):
    """Parameters at unit gain, drawn in numpy: `dv.init_params` compiles every layer.

    Biases are not zero: with zero biases a missing zero outside the image goes unnoticed.
    """
    rng = np.random.default_rng(seed)
    leaves = {}
    tower = type(config) in FAMILIES
    for path, shape in (build(config).shapes() if tower else expected_shapes(config)).items():
        *_, owner, name = ("", *path.split("/"))
        x = rng.standard_normal(shape)
        if name in ("norm_scale", "scale"):
            x = 1 + 0.1 * x
        elif name in ("kernel", "weight"):
            gain = {"fc2": 0.5, "output": 0.5, "head": 4.0}.get(owner, 1.5)
            inputs = shape[1] if name == "weight" else np.prod(shape[:-1])
            x *= inputs**-0.5 * gain
            if owner in ("mixer", "position"):
                x *= 0.2
                x[shape[0] // 2, shape[0] // 2] += 1
        else:
            x *= 0.1
        leaves[path] = jnp.asarray(x, jnp.float32)
    return unflatten(leaves)


def random_head(config: HeadConfig, seed: int = 0):
    """Parameters of a grounding head, likewise; as if training had begun: a new one ignores the
    finer maps."""
    rng = np.random.default_rng(seed)
    leaves = {}
    for path, shape in head_shapes(config).items():
        x = rng.standard_normal(shape)
        if path.endswith("kernel"):
            x *= shape[0] ** -0.5
        else:
            x = 0.1 * x + path.endswith("scale")
        leaves[path] = jnp.asarray(x, jnp.float32)
    return unflatten(leaves)


@dataclasses.dataclass(frozen=True, eq=False)
class Kit:
    """A tower, and the functions that tests share, so that each compiles once a session.

    By convention `step` is called with two streams, `serve` with one: every other number would be
    one more compilation.
    """

    config: Any

    @property
    def params(self):
        return random_params(self.config)

    @property
    def tower(self):
        return build(self.config)

    @functools.cached_property
    def step(self):
        """(params, cache, frames, policy), two streams; keeps the cache it was given."""
        return dv.make_step(self.config, donate=False)

    @functools.cached_property
    def serve(self):
        """The same for one stream, and the cache is donated."""
        return dv.make_step(self.config)

    def maps(self, frame):
        """Every layer's map and the tokens of one frame `[H, W, 3]`, from the full encode."""
        maps = jit_encode(self.params, frame[None], config=self.config, output="intermediates")
        return {name: np.asarray(x) for name, x in maps.items()}

    def full(self, frames):
        """Tokens `[B, N, D]` from the full encode."""
        return np.concatenate([self.maps(frame)["tokens"] for frame in np.asarray(frames)])

    def frames(self, seed: int = 0, batch: int = 2):
        """`uint8 [B, H, W, 3]`, half flat, half noise, as screens are."""
        rng = np.random.default_rng(seed)
        frames = rng.integers(0, 256, (batch, *self.tower.frame, 3), np.uint8)
        frames[:, self.tower.frame[0] // 2 :] = 250
        return frames

    def seen(self, frames):
        """The pixels that the tower looks at: CLIP ignores what is left of the last patch."""
        height, width = (cells * self.tower.patch for cells in self.tower.grid)
        return np.asarray(frames)[:, :height, :width]

    def start(self, policy=None, seed: int = 0):
        """Two streams after their first step: frames, tokens, cache."""
        frames = self.frames(seed)
        tokens, cache, _ = self.step(self.params, dv.init_cache(self.config, 2), frames, policy)
        return frames, tokens, cache

    def error(self, tokens, frames) -> float:
        """Largest deviation from the full encode, over its largest value."""
        return deviation(tokens, self.full(frames))

    def change_patch(self, frames, row: int, column: int, stream=slice(None), seed: int = 7):
        """Every pixel of one patch replaced."""
        p, frames = self.tower.patch, frames.copy()
        patch = frames[stream, row * p : (row + 1) * p, column * p : (column + 1) * p]
        patch ^= np.random.default_rng(seed).integers(1, 256, patch.shape, np.uint8)
        return frames


def deviation(actual, expected) -> float:
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


EDITS = ("nothing", "pixel", "faint", "rectangle", "scroll", "everything", "back")


def edit(frame, kind: str, seed: int, first):
    """The next frame `[H, W, 3]` of a stream that began with `first`."""
    rng, frame = np.random.default_rng(seed), frame.copy()
    side = min(frame.shape[:2])
    top, left = rng.integers(0, side, 2)
    height, width = rng.integers(1, side // 2, 2)
    spot = frame[top : top + height, left : left + width]
    if kind == "pixel":
        frame[top, left, 0] ^= 128
    elif kind == "faint":  # 1-4 grey levels: below some of the thresholds
        spot ^= np.uint8(rng.integers(1, 5))
    elif kind == "rectangle":
        spot[:] = rng.integers(0, 256, 3)
    elif kind == "scroll":
        frame = np.roll(frame, side // 4, axis=0)
    elif kind == "everything":
        frame = rng.integers(0, 256, frame.shape, np.uint8)
    elif kind == "back":
        frame = first.copy()
    return frame


def patch_distance(a, b, p: int, metric: str):
    """What `change.patch_difference` must give: `[B, H, W, 3]` -> `[B, rows, columns]`."""
    difference = np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)) / 255
    of = {
        "max": np.max,
        "mean": np.mean,
        "p99": lambda x: np.quantile(x, 0.99, method="inverted_cdf"),
    }[metric]
    rows, columns = -(-a.shape[1] // p), -(-a.shape[2] // p)
    found = np.zeros((a.shape[0], rows, columns))
    for b_ in range(a.shape[0]):
        for i in range(rows):
            for j in range(columns):
                patch = difference[b_, i * p : (i + 1) * p, j * p : (j + 1) * p]
                found[b_, i, j] = of(patch)
    return found


def report_of(report, stream: int) -> dict:
    return dv.describe(jax.tree.map(lambda x: x[stream : stream + 1], report))[0]
