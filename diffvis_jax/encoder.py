"""The stateful wrapper for scripts: one stream, images in, tokens out."""

from typing import Any

import jax
import numpy as np

from diffvis_jax.cache import Cache, Report, describe, init_cache
from diffvis_jax.errors import ConfigError, FrameError
from diffvis_jax.model import Model
from diffvis_jax.policy import Policy
from diffvis_jax.preprocessing import preprocess
from diffvis_jax.slots import SlotCache, init_slots, make_slot_step
from diffvis_jax.step import jit_audit, make_step


class DifferentialVisionEncoder:
    """Encodes a sequence of images, each differentially against what it has seen.

    A frame array of another size than the last restarts the cache, and the stats say so.

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
    ):
        """Args:
          model: the tower.
          policy: what may be left out; None = `Policy()`.
          slots: screens that are remembered (see `slots.py`); each takes the memory of a cache.
          audit_every: after so many images measure the true error, by a full encode; 0 = never.

        Raises:
          ConfigError: fewer than 1 slot, or fewer than 0 images between audits.
        """
        if slots < 1 or audit_every < 0:
            raise ConfigError(
                f"slots must be at least 1 and audit_every at least 0, got {slots}, {audit_every}"
            )
        self.model = model
        self.policy = Policy() if policy is None else policy
        self.report: Report | None = None
        self._slots, self._audit_every = slots, audit_every
        self._step = make_step(model.config) if slots == 1 else make_slot_step(model.config)
        self.reset_cache()

    def reset_cache(self) -> None:
        """Forgets the stream, its statistics included."""
        self._cache: Cache | SlotCache | None = None
        self._slot = 0
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
        """Tokens `[1, N, D]` float32 of the next image.

        Args:
          image: PIL image, `uint8 [H, W, 3]` or path, preprocessed as the model wants it; or a
            ready frame `uint8 [1, S, S, 3]`, taken as it is.

        Raises:
          ImageError: an image that cannot be read.
          FrameError: a ready frame that is not one square uint8 picture.
        """
        frame = image if getattr(image, "ndim", 0) == 4 else preprocess(image, self.model.config)
        if frame.shape[0] != 1:
            raise FrameError(f"the encoder takes one image at a time, got {frame.shape[0]}")
        if self._cache is not None and self._size() != frame.shape[1]:
            self._cache = None
            self._stats["cache_restarts"] += 1
        if self._cache is None:
            size, self._slot = frame.shape[1], 0
            if self._slots == 1:
                self._cache = init_cache(self.model.config, 1, size=size)
            else:
                self._cache = init_slots(self.model.config, slots=self._slots, size=size)
        # The donated cache is gone if the step fails: forget it first, keep the new one after.
        cache, self._cache = self._cache, None
        tokens, self._cache, self.report, *at = self._step(
            self.model.params, cache, frame, self.policy
        )
        if at:
            slot = int(at[0][0])
            self._stats["slot_changes"] += slot != self._slot
            self._slot = slot
        self._count(describe(self.report)[0])
        if self._audit_every and self._stats["total_frames"] % self._audit_every == 0:
            self._errors.append(self.audit())
        return tokens

    def _size(self) -> int:
        cache = self._cache.cache if isinstance(self._cache, SlotCache) else self._cache
        assert cache is not None
        return cache.config.size

    def audit(self) -> np.ndarray:
        """True error of the last tokens, `[1, N]`, by a full encode (see `audit`).

        Raises:
          FrameError: nothing was encoded yet.
        """
        if self._cache is None:
            raise FrameError("nothing to audit: encode an image first")
        cache = self._cache
        if isinstance(cache, SlotCache):
            cache = jax.tree.map(lambda x: x[self._slot : self._slot + 1], cache.cache)
        return np.asarray(jit_audit(self.model.params, cache, config=self.model.config))

    def get_stats(self) -> dict[str, float]:
        """Counts since the last reset.

        full_encodes, partial_encodes, cache_hits (nothing recomputed), skipped_small,
        differential_encodes (all but full), total_frames, changed_patches_total,
        total_patches_total, avg_change_ratio, avg_recomputed (share of the dense cost),
        cache_restarts (frames of another size), slot_changes (times the stream went on in another
        slot). With `audit_every`: audits, and audit_median, audit_p90, audit_max of the true error
        over all tokens audited (see `audit`).
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
