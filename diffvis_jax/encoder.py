"""The stateful wrapper for scripts: one stream, images in, tokens out."""

from typing import Any

import jax
import numpy as np

from diffvis_jax.core.cache import Cache, init_cache
from diffvis_jax.core.policy import Policy
from diffvis_jax.core.report import Report, combine, describe
from diffvis_jax.core.slots import SlotCache, init_slots, make_slot_step
from diffvis_jax.core.step import check_frames, jit_encode, make_step, token_error
from diffvis_jax.errors import ConfigError, FrameError
from diffvis_jax.images.anyres import TiledImage
from diffvis_jax.images.frame_stream import FrameStream
from diffvis_jax.model import Model


class DifferentialVisionEncoder:
    """Encodes a sequence of images, each differentially against what it has seen.

    A frame array of another size than the last, or another number of tiles, restarts the cache, and
    the stats say so.

    Attributes:
      model: the tower.
      policy: what may be left out; may be replaced between calls.
      report: of the last call, None before the first.
    """

    def __init__(
        self,
        model: Model,
        policy: Policy | None = None,
        *,
        slots: int = 1,
        audit_every: int = 0,
        new_slot_above: float = 0.1,
    ):
        """Args:
          model: the tower.
          policy: what may be left out; None = `Policy()`.
          slots: screens that are remembered (see `slots.py`); each takes the memory of a cache.
          audit_every: after so many images measure the true error, by a full encode; 0 = never.
          new_slot_above: share of the patches, 0-1, of which more must differ from every remembered
            screen for an image to be another screen, with a slot of its own.

        Raises:
          ConfigError: fewer than 1 slot, fewer than 0 images between audits, or no share.
        """
        if slots < 1 or audit_every < 0:
            raise ConfigError(
                f"slots must be at least 1 and audit_every at least 0, got {slots}, {audit_every}"
            )
        if not 0 <= new_slot_above <= 1:
            raise ConfigError(f"new_slot_above must lie in 0-1, got {new_slot_above}")
        self.model = model
        self.policy = Policy() if policy is None else policy
        self.report: Report | None = None
        self._slots, self._audit_every = slots, audit_every
        self._step = make_step(model.config) if slots == 1 else make_slot_step(model.config)
        self._above = () if slots == 1 else (new_slot_above,)
        self.reset_cache()

    def reset_cache(self) -> None:
        """Forgets the stream, its statistics included."""
        self._cache: Cache | SlotCache | None = None
        self._shape: tuple[int, ...] = ()  # of the frames that the cache is for
        self._last: tuple[Any, jax.Array] | None = None  # frame and tokens
        self._slot = 0
        self._frames = FrameStream(self.model.config)
        self._errors: list[np.ndarray] = []
        self._stats: dict[str, int] = dict.fromkeys(
            (
                "full_encodes",
                "partial_encodes",
                "cache_hits",
                "skipped_small",
                "differential_encodes",
                "total_frames",
                "changed_patches_total",
                "total_patches_total",
                "cache_restarts",
                "slot_changes",
            ),
            0,
        )
        self._recomputed = 0.0

    def encode(self, image: Any) -> jax.Array:
        """Tokens `[1, N, D]` float32 of the next image; `[1 + T, N, D]` of one with T tiles.

        Args:
          image: PIL image, `uint8 [H, W, 3]` or path, preprocessed as the model wants it; or a
            ready frame `uint8 [1, H, W, 3]`, taken as it is; or a `TiledImage`, each of whose
            frames is a stream.

        Raises:
          ImageError: an image that cannot be read.
          FrameError: a ready frame that is not one uint8 picture; tiles, where there are slots.
        """
        if tiled := isinstance(image, TiledImage):
            frame = image.frames
        elif getattr(image, "ndim", 0) != 4:
            frame = self._frames(image)
        else:  # a copy, unless nobody can write into it: `audit` looks at it again
            frame = image if isinstance(image, jax.Array) else np.array(image)
        check_frames(frame)
        if tiled and self._slots != 1:
            raise FrameError("tiles are streams of their own: they need an encoder with one slot")
        if frame.shape[0] != 1 and not tiled:
            raise FrameError(
                f"the encoder takes one image at a time, got {frame.shape[0]}: for several streams "
                "use encode_step"
            )
        cache = self._cache
        if cache is None or self._shape != frame.shape:
            empty = self._empty(*frame.shape[:3])
            self._shape = frame.shape
            self._stats["cache_restarts"] += cache is not None
            cache, self._slot = empty, 0
        # It is donated, and gone if the step fails while it runs.
        self._cache = None
        try:
            tokens, self._cache, self.report, *at = self._step(
                self.model.params, cache, frame, self.policy, *self._above
            )
        except (ConfigError, FrameError):  # refused before anything ran
            self._cache = cache
            raise
        self._last = frame, tokens
        if at:
            slot = int(at[0][0])
            self._stats["slot_changes"] += slot != self._slot
            self._slot = slot
        self._count(combine(describe(self.report)))
        if self._audit_every and self._stats["total_frames"] % self._audit_every == 0:
            self._errors.append(self.audit())
        return tokens

    def _empty(self, batch: int, height: int, width: int) -> Cache | SlotCache:
        if self._slots == 1:
            return init_cache(self.model.config, batch, size=(height, width))
        return init_slots(self.model.config, slots=self._slots, size=(height, width))

    @property
    def cache(self) -> Cache | None:
        """The cache of the last image's screen, as `maps_of` and `audit` take it; None before the
        first image. The next call of `encode` takes its buffers; with several slots it is a copy
        of one."""
        if isinstance(self._cache, SlotCache):
            return jax.tree.map(lambda x: x[self._slot : self._slot + 1], self._cache.cache)
        return self._cache

    @property
    def nbytes(self) -> int:
        """Bytes that are kept from one image to the next."""
        return sum(leaf.nbytes for leaf in jax.tree.leaves((self._cache, self._last)))

    def audit(self) -> np.ndarray:
        """True error of the last tokens, `[1, N]`, by a full encode of the last frame (see
        `diffvis_jax.audit`).

        Raises:
          FrameError: nothing was encoded yet.
        """
        if self._last is None:
            raise FrameError("nothing to audit: encode an image first")
        frame, tokens = self._last
        full = jit_encode(self.model.params, frame, config=self.model.config)
        return np.asarray(token_error(tokens, full))

    def get_stats(self) -> dict[str, float]:
        """Counts since the last reset.

        full_encodes, partial_encodes, cache_hits (nothing recomputed), skipped_small,
        differential_encodes (all but full), total_frames, changed_patches_total,
        total_patches_total, avg_change_ratio, avg_recomputed (share of the dense cost; of all
        frames, the first one's full encode among them),
        cache_restarts (frames of another size or number), slot_changes (times the stream went on in
        another slot). With `audit_every`: audits, and audit_median, audit_p90, audit_max of the
        true error over all tokens audited (see `audit`).
        """
        frames = max(1, self._stats["total_frames"])
        patches = max(1, self._stats["total_patches_total"])
        audited = {}
        if self._errors:
            errors = np.concatenate(self._errors, None)
            audited = {
                "audits": len(self._errors),
                "audit_median": float(np.median(errors)),
                "audit_p90": float(np.quantile(errors, 0.9)),
                "audit_max": float(errors.max()),
            }
        return {
            **self._stats,
            **audited,
            "avg_change_ratio": self._stats["changed_patches_total"] / patches,
            "avg_recomputed": self._recomputed / frames,
        }

    def _count(self, report: dict[str, Any]) -> None:
        stats = self._stats
        stats["total_frames"] += 1
        stats["changed_patches_total"] += report["changed_patches"]
        stats["total_patches_total"] += report["total_patches"]
        path = {"full": "full_encodes", "partial": "partial_encodes", "reuse": "cache_hits"}
        stats[path[report["path"]]] += 1
        stats["differential_encodes"] += report["path"] != "full"
        stats["skipped_small"] += report["skipped"]
        self._recomputed += report["recomputed"]
