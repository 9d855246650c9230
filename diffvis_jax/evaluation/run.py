"""Advances all streams of a data set under several policies, beside the full encode.

B slots of the batch, H x W pixels of a frame, N tokens, D token width.
"""

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from diffvis_jax.core.policy import Policy
from diffvis_jax.core.report import PATHS
from diffvis_jax.core.streams import (
    checked_places,
    init_streams,
    make_stream_step,
    on_all,
    on_devices,
)
from diffvis_jax.datasets.coordinates import bounds
from diffvis_jax.datasets.records import Screen, Stream, load_screen
from diffvis_jax.evaluation.full_step import init_full, make_full_step
from diffvis_jax.evaluation.judge import score_screen, screen_queries, unmatched
from diffvis_jax.evaluation.prefetch import prefetch
from diffvis_jax.evaluation.schedule import schedule
from diffvis_jax.evaluation.summary import FULL
from diffvis_jax.grounding.decode import Element, decode
from diffvis_jax.grounding.find import head_answers, maps_of, on_screenshot
from diffvis_jax.images.geometry import ImageError, placement
from diffvis_jax.measure.missed import changed_tokens
from diffvis_jax.model import Model
from diffvis_jax.towers import build

# Frames waiting for the device, in batches.
_AHEAD = 2


def load(screen: Screen, model: Model) -> tuple[np.ndarray, tuple[int, int]]:
    """Decodes a screen: its frame `uint8 [H, W, 3]`, and width and height of the screenshot.

    Raises:
      ImageError: a broken file, or an image of another size than its annotation says.
    """
    frame, size = load_screen(screen.image, model.config)
    for record in screen.records:
        if record.size not in (None, size):
            raise ImageError(f"'{screen.image}' has {size} px, {record.source} says {record.size}")
    return frame, size


@jax.jit
def _missed(tokens, full, before, at):
    """Squared norms of the missing and of the true change, at the tokens marked and over all.

    Args:
      tokens, full, before: float32 `[B, N, D]`: delivered, of a full encode of this frame, and of
        the one before it.
      at: bool `[B, N]`.

    Returns:
      float32 `[B, 6]`: missing at those marked, changed at those marked, missing over all, changed
      over all, and of the full tokens, over all and at those marked.
    """
    missing, change = (jnp.square(x - full).sum(-1) for x in (tokens, before))
    norm = jnp.square(full).sum(-1)
    parts = [jnp.where(at, missing, 0), jnp.where(at, change, 0), missing, change, norm]
    parts.append(jnp.where(at, norm, 0))
    return jnp.stack([part.sum(-1) for part in parts], -1)


@jax.jit
def _from_first_moved(tokens: jax.Array, before: jax.Array) -> jax.Array:
    """Tokens `[B, N, D]` from the first one on that differs from `before`: int32 `[B]`."""
    moved = (tokens != before).any(-1)
    return jnp.where(moved.any(-1), moved.shape[1] - moved.argmax(-1), 0)


class Runner:
    """One model, its policies, and the compiled steps for a batch of B streams."""

    def __init__(self, model: Model, policies: Mapping[str, Policy], slots: int, mesh: Mesh):
        """Args:
          model: without a grounding head no elements are detected.
          policies: by name.
          slots: B; the devices of the mesh divide it.
          mesh: from `data_mesh`.

        Raises:
          ConfigError: devices that do not divide the batch; margins that do not fit the tower.
        """
        self.model, self.policies = model, dict(policies)
        self.slots, self.mesh = checked_places(slots, mesh), mesh
        self.tower = build(model.config)
        for policy in policies.values():
            policy.margins(self.tower)
        self._head_config = model.head.config if model.head else None
        self._params = on_all(model.params, mesh)
        self._head_params = on_all(model.head.params, mesh) if model.head else None
        self._step = make_stream_step(model.config, mesh)
        self._full = make_full_step(model.config, mesh, head=self._head_config)

    def run(
        self,
        streams: Sequence[Stream],
        *,
        workers: int = 2,
        on_frames: Callable[[int], None] | None = None,
    ) -> Iterator[dict[str, Any]]:
        """Advances the streams, and yields the measurements of each one when it has ended.

        Args:
          streams: begun in this order.
          workers: threads that decode.
          on_frames: called with the number of frames after each round.

        Yields:
          plain data: "stream" and "frames", see `_row`; of a broken frame its "broken" alone.
        """
        slots, model = self.slots, self.model
        rounds, decoding = itertools.tee(schedule([len(s.screens) for s in streams], slots))
        decoded = prefetch(
            (each for assignments in decoding for each in assignments if each),
            lambda each: load(streams[each.stream].screens[each.index], model),
            workers=workers,
            ahead=_AHEAD * slots,
        )
        self._start()
        frames = np.zeros((slots, *self.tower.frame, 3), np.uint8)
        fresh = np.ones(slots, bool)  # until the first good frame of the stream
        rows: list[list[dict[str, Any]]] = [[] for _ in range(slots)]
        for assignments in rounds:
            active = np.zeros(slots, bool)
            sizes: list[tuple[int, int]] = [(1, 1)] * slots
            broken: list[str | None] = [None] * slots
            for slot, each in enumerate(assignments):
                if each is None:
                    continue
                fresh[slot] |= each.index == 0
                _, loaded = next(decoded)
                if isinstance(loaded, ImageError):
                    broken[slot] = str(loaded)
                else:
                    (frames[slot], sizes[slot]), active[slot] = loaded, True
            results = self._advance(frames, fresh, active) if active.any() else {}
            for slot, each in enumerate(assignments):
                if each is None:
                    continue
                stream = streams[each.stream]
                screen = stream.screens[each.index]
                row: dict[str, Any] = {
                    "step": each.index,
                    "image": str(screen.image),
                    "groups": dict(screen.records[0].groups),
                }
                if broken[slot] is None:
                    row |= self._row(slot, screen, sizes[slot], bool(fresh[slot]), results)
                    fresh[slot] = False
                else:
                    row["broken"] = broken[slot]
                rows[slot].append(row)
                if each.index + 1 == len(stream.screens):
                    yield {"stream": stream.name, "frames": rows[slot]}
                    rows[slot] = []
            if on_frames:
                on_frames(sum(each is not None for each in assignments))

    def _start(self) -> None:
        """Empty caches; compiles, by steps in which no stream is active."""
        config, slots = self.model.config, self.slots
        none = on_devices(np.zeros(slots, bool), self.mesh)
        blank = np.zeros((slots, *self.tower.frame, 3), np.uint8)
        self._frames = on_devices(blank, self.mesh)
        self._last = init_full(config, slots, self.mesh, head=self._head_config)
        self._last = self._full(self._params, self._last, self._frames, none)
        self._caches = {name: init_streams(config, slots, self.mesh) for name in self.policies}
        self._tokens: dict[str, jax.Array] = {}
        for name, policy in self.policies.items():
            self._tokens[name], self._caches[name], _ = self._step(
                self._params, self._caches[name], self._frames, none, none, policy
            )
        jax.block_until_ready((self._last, self._caches))

    def _advance(self, frames: np.ndarray, fresh: np.ndarray, active: np.ndarray) -> dict[str, Any]:
        """One step of everything; by the name of the policy, arrays `[B, ..]` on the host."""
        pixels = on_devices(frames.copy(), self.mesh)  # the CPU's device may share the memory
        on_active, on_fresh = on_devices(active, self.mesh), on_devices(fresh, self.mesh)
        tokens_before, pixels_before = self._last[0], self._frames
        count = int(active.sum())
        start = time.perf_counter()
        self._last = self._full(self._params, self._last, pixels, on_active)
        full, maps = jax.block_until_ready(self._last)
        results: dict[str, Any] = {
            FULL: {
                "ms": 1e3 * (time.perf_counter() - start) / count,
                "elements": self._elements(full, maps),
                "prefill": np.asarray(_from_first_moved(full, tokens_before)),
            }
        }
        at = changed_tokens(self.tower, pixels, pixels_before)
        head = self.model.head
        for name, policy in self.policies.items():
            start = time.perf_counter()
            tokens, self._caches[name], report = jax.block_until_ready(
                self._step(self._params, self._caches[name], pixels, on_fresh, on_active, policy)
            )
            ms = 1e3 * (time.perf_counter() - start) / count
            maps = maps_of(head.config, self._caches[name]) if head else ()
            results[name] = {
                "ms": ms,
                "elements": self._elements(tokens, maps),
                "missed": np.asarray(_missed(tokens, full, tokens_before, at), np.float64),
                "report": jax.tree.map(np.asarray, report),
                "prefill": np.asarray(_from_first_moved(tokens, self._tokens[name])),
            }
            self._tokens[name] = tokens
        self._frames = pixels
        return results

    def _elements(
        self, tokens: jax.Array, maps: tuple[jax.Array, ...]
    ) -> list[list[Element]] | None:
        """The elements of each slot, in pixels of the frames; None without a head."""
        head = self.model.head
        if head is None:
            return None
        answers = head_answers(self._head_params, tokens, maps, config=head.config)
        return decode(head.config, jax.device_get(answers))

    def _row(
        self,
        slot: int,
        screen: Screen,
        size: tuple[int, int],
        first: bool,
        results: Mapping[str, Any],
    ) -> dict[str, Any]:
        """The measurements of one frame: its queries, and for each policy (and FULL) a dict.

        ms: of the step, divided by the number of active streams; prefill: tokens from the first
        that moved on, which an exact differential prefill reads anew; elements, clicks, points,
        ious, counts: see `score_screen`; and of policies recomputed, path, changed_patches;
        missed_changed, missed_all, moved: see `Missed` (None: first frame, or nothing changed);
        error: norm of tokens - full tokens, over that of the full tokens; only_here,
        only_full: boxes detected in one encode alone.
        """
        where = placement(*size, self.model.config)
        small = max(self.tower.frame) / 64 / max(where.scale_x, where.scale_y)
        queries = screen_queries(screen, size, small)
        row: dict[str, Any] = {
            "size": list(size),
            "first": first,
            "queries": [
                {
                    "id": record.id,
                    "groups": dict(record.groups),
                    "target": [round(float(edge), 1) for edge in bounds(target)],
                }
                for record, target in queries
            ],
            "runs": {},
        }
        for name, result in results.items():
            run: dict[str, Any] = {"ms": round(result["ms"], 3)}
            run["prefill"] = self.tower.tokens if first else int(result["prefill"][slot])
            if result["elements"] is not None:
                elements, full = (each["elements"][slot] for each in (result, results[FULL]))
                run |= score_screen(on_screenshot(elements, where), queries, screen, size, small)
                if name != FULL:
                    run["only_here"], run["only_full"] = unmatched(elements, full, where)
            if name != FULL:
                report, missed = result["report"], result["missed"][slot]
                run |= {
                    "path": PATHS[report.path[slot]],
                    "changed_patches": int(report.changed_patches[slot]),
                    "recomputed": round(float(report.recomputed[slot]), 5),
                    "missed_changed": None if first else _share(*missed[:2]),
                    "missed_all": None if first else _share(*missed[2:4]),
                    "moved": None if first else _share(missed[1], missed[5]),
                    "error": _share(missed[2], missed[4]),
                }
            row["runs"][name] = run
        return row


def _share(missing: float, change: float) -> float | None:
    return float(f"{np.sqrt(missing / change):.5g}") if change > 0 else None
