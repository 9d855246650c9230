"""Runs a recording through the differential step and measures it against the full encode.

F frames, H x W pixels of a frame, gh x gw patches.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffvis_jax.core.cache import init_cache
from diffvis_jax.core.policy import Policy
from diffvis_jax.core.report import describe, stage_pending
from diffvis_jax.core.step import jit_encode, make_step, token_error
from diffvis_jax.errors import FrameError
from diffvis_jax.grounding.decode import Element
from diffvis_jax.grounding.find import encode_for_head, find_elements, maps_of
from diffvis_jax.measure.elements import Agreement, agreement
from diffvis_jax.measure.missed import Missed, changed_tokens, missed_at, missed_tails
from diffvis_jax.metrics import tails
from diffvis_jax.model import Model
from diffvis_jax.towers import build, with_size
from diffvis_jax.towers.base import Tower

_REPORTED = ("path", "changed_patches", "total_patches", "recomputed", "pending")


@dataclasses.dataclass(frozen=True)
class FrameResult:
    """What one step did, and what it missed.

    Attributes:
      index: number of the frame, from 0.
      path: "reuse", "partial" or "full".
      changed_patches, total_patches: as the step saw them.
      recomputed: share of the dense MACs done.
      pending: share of the dense MACs still pending.
      step_ms, full_ms: wall time of the differential step, and of the full encode of this frame.
      missed_changed, missed_all, moved: see `measure.missed.Missed`; None for the first frame too.
      error: norm of tokens - full tokens, over that of the full tokens.
      changed: bool `[gh, gw]`.
      cell_recomputed: float32 `[gh, gw]`, share of each patch's dense MACs done.
      stage_recomputed: float32 `[stages, gh, gw]`, the same of each patch's share of a stage.
      stage_pending: float32 `[stages, gh, gw]`, share of each patch's MACs of a stage still
        pending.
      age: int32 `[gh, gw]`, steps for which a patch has waited.
      token_error: float32 `[gh, gw]`, of each patch's worst token, norm of its error over the RMS
        norm of the full tokens.
      elements, full_elements: the clickable elements detected in the step's tokens and in those
        of the full encode, in pixels of the frame; None for a model without a head.
    """

    index: int
    path: str
    changed_patches: int
    total_patches: int
    recomputed: float
    pending: float
    step_ms: float
    full_ms: float
    missed_changed: float | None
    missed_all: float | None
    moved: float | None
    error: float
    changed: np.ndarray  # bool [gh, gw]
    cell_recomputed: np.ndarray  # float32 [gh, gw]
    stage_recomputed: np.ndarray  # float32 [stages, gh, gw]
    stage_pending: np.ndarray  # float32 [stages, gh, gw]
    age: np.ndarray  # int32 [gh, gw]
    token_error: np.ndarray  # float32 [gh, gw]
    elements: list[Element] | None = None
    full_elements: list[Element] | None = None

    @property
    def speed_up(self) -> float | None:
        """Time of the full encode of this frame over that of the step; None for the first frame."""
        return self.full_ms / self.step_ms if self.index else None

    @property
    def agreement(self) -> Agreement | None:
        """Agreement of the elements with those of the full encode; None without a head."""
        if self.elements is None or self.full_elements is None:
            return None
        return agreement(self.elements, self.full_elements)

    def numbers(self) -> dict[str, Any]:
        """All but the arrays and elements, for JSON."""
        agreed = self.agreement
        return {
            **{k: v for k, v in vars(self).items() if not np.ndim(v) and "elements" not in k},
            "speed_up": self.speed_up,
            "elements_both": agreed.both if agreed else None,
            "elements_lost": agreed.only_second if agreed else None,
            "elements_added": agreed.only_first if agreed else None,
        }


@dataclasses.dataclass(frozen=True)
class SessionResult:
    """All frames of a run.

    Attributes:
      frames: F results. The first frame is a full encode through the step.
      compile_step_s, compile_full_s: compilation and first run of the step and the full encode.
    """

    frames: tuple[FrameResult, ...]
    compile_step_s: float
    compile_full_s: float

    def summary(self) -> dict[str, Any]:
        """Totals over the frames after the first; None where there is none.

        "step_ms", "full_ms", "missed_changed" and "missed_all" are `metrics.tails`; the latter two,
        and "tiny", are of `measure.missed.missed_tails`.
        """
        rest = self.frames[1:]
        step_total = sum(frame.step_ms for frame in rest)
        full_total = sum(frame.full_ms for frame in rest)
        paths = [frame.path for frame in rest]
        same = [agreed.same for frame in rest if (agreed := frame.agreement)]
        return {
            "same_elements": sum(same) if same else None,
            "frames": len(self.frames),
            "paths": {path: paths.count(path) for path in ("reuse", "partial", "full")},
            "settling": sum(f.path == "partial" and not f.changed_patches for f in rest),
            "step_ms": tails(frame.step_ms for frame in rest),
            **missed_tails(rest),
            "full_ms": tails(frame.full_ms for frame in self.frames),
            "first_frame_ms": self.frames[0].step_ms,
            "step_s_total": step_total / 1e3,
            "full_s_total": full_total / 1e3,
            "speed_up": full_total / step_total if rest else None,
            "recomputed_mean": statistics.fmean(f.recomputed for f in rest) if rest else None,
            "compile_step_s": self.compile_step_s,
            "compile_full_s": self.compile_full_s,
        }


def run_session(
    model: Model,
    frames: np.ndarray,
    policy: Policy | None = None,
    *,
    on_frame: Callable[[FrameResult], None] | None = None,
    on_stage: Callable[[str], None] | None = None,
) -> SessionResult:
    """Encodes the frames one after the other, differentially and in full, and compares.

    Args:
      model: the tower.
      frames: `uint8 [F, H, W, 3]`, one stream in order.
      policy: what the step may leave out; None = `Policy()`.
      on_frame: called with each result as it comes.
      on_stage: called with a line of text when something long begins.

    Raises:
      FrameError: no frames, or frames of another shape or dtype.
    """
    if frames.ndim != 4 or frames.dtype != np.uint8 or 0 in frames.shape:
        raise FrameError(f"frames must be uint8 [F, H, W, 3], got {frames.dtype} {frames.shape}")
    policy = Policy() if policy is None else policy
    tell = on_stage or (lambda text: None)
    config, params = with_size(model.config, frames.shape[1:3]), model.params
    tower = build(config)
    step = make_step(config)

    def encode_full(frame: np.ndarray) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        if model.head is None:
            return jax.block_until_ready(jit_encode(params, frame, config=config)), ()
        both = encode_for_head(params, frame, config=config, head=model.head.config)
        return jax.block_until_ready(both)

    def elements_of(tokens: np.ndarray, maps: Sequence[jax.Array]) -> list[Element] | None:
        if model.head is None:
            return None
        return find_elements(model.head, jnp.asarray(tokens[None]), maps)[0]

    def by_patch(cells: np.ndarray) -> np.ndarray:
        return cells.reshape(*cells.shape[:-1], *tower.grid)

    def fresh_cache():
        return init_cache(config, 1, size=frames.shape[1:3])

    tell("compiling the full encode")
    start = time.perf_counter()
    encode_full(frames[:1])
    compile_full_s = time.perf_counter() - start
    tell("compiling the differential step")
    start = time.perf_counter()
    warm = fresh_cache()
    # A change as well: what a partial step does only at its first time is not that frame's.
    for index in (0, 0, min(1, len(frames) - 1)):
        warm = jax.block_until_ready(step(params, warm, frames[index : index + 1], policy))[1]
    compile_step_s = time.perf_counter() - start
    tell("encoding")

    results: list[FrameResult] = []
    cache, full_before = fresh_cache(), np.zeros(())
    for index in range(len(frames)):
        frame = frames[index : index + 1]
        start = time.perf_counter()
        tokens, cache, report = jax.block_until_ready(step(params, cache, frame, policy))
        step_ms = 1e3 * (time.perf_counter() - start)
        tokens = np.asarray(tokens[0])
        start = time.perf_counter()
        full, full_maps = encode_full(frame)
        full_ms = 1e3 * (time.perf_counter() - start)
        full = np.asarray(full[0])
        step_maps = () if model.head is None else maps_of(model.head.config, cache)
        missed = Missed()
        if index:
            at = np.asarray(changed_tokens(tower, frames[index - 1 : index], frame)[0])
            missed = missed_at(at, tokens, full, full_before)
        step_report = describe(report)[0]
        result = FrameResult(
            index=index,
            **{name: step_report[name] for name in _REPORTED},
            step_ms=step_ms,
            full_ms=full_ms,
            **missed._asdict(),
            error=float(np.linalg.norm(tokens - full) / np.linalg.norm(full)),
            changed=np.asarray(report.changed[0]),
            cell_recomputed=by_patch(np.asarray(report.cell_recomputed[0])),
            stage_recomputed=by_patch(np.asarray(report.stage_recomputed[0])),
            stage_pending=by_patch(stage_pending(cache)[0]),
            age=by_patch(np.asarray(cache.age[0])),
            token_error=_largest_in_patch(tower, np.asarray(token_error(tokens, full))),
            elements=elements_of(tokens, step_maps),
            full_elements=elements_of(full, full_maps),
        )
        results.append(result)
        if on_frame:
            on_frame(result)
        full_before = full
    return SessionResult(tuple(results), compile_step_s, compile_full_s)


def _largest_in_patch(tower: Tower, values: np.ndarray) -> np.ndarray:
    """Values of tokens, `[N]` not below 0 -> the largest in each patch, `[gh, gw]`."""
    (rows, columns), side = tower.grid, tower.patch // tower.token
    short = [side * n - m for n, m in zip(tower.grid, tower.token_grid, strict=True)]
    padded = np.pad(values.reshape(tower.token_grid), [(0, n) for n in short])
    return padded.reshape(rows, side, columns, side).max((1, 3))
