"""Measures single changes: one step from a fresh full encode, against the next full encode.

H x W pixels of a frame, N tokens, D token width.
"""

import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffvis_jax.core.cache import Cache, init_cache
from diffvis_jax.core.change import compute_patch_diff
from diffvis_jax.core.policy import Policy
from diffvis_jax.core.report import Report
from diffvis_jax.core.step import jit_encode, make_step
from diffvis_jax.measure.missed import changed_tokens, missed_at, missed_tails
from diffvis_jax.metrics import tails
from diffvis_jax.model import Model
from diffvis_jax.towers import build


@dataclasses.dataclass(frozen=True)
class Measured:
    """What one step did.

    Attributes:
      changed: share of the patches that changed.
      recomputed: share of the dense MACs done.
      pending: share of the dense MACs still pending.
      step_ms: wall time of the step.
      missed_changed, missed_all, moved: see `measure.missed.Missed`.
    """

    changed: float
    recomputed: float
    pending: float
    step_ms: float
    missed_changed: float | None
    missed_all: float | None
    moved: float | None


def tails_of(results: Iterable[Measured]) -> dict[str, Any]:
    """`metrics.tails` of each number, by its name, and `missed_tails`."""
    results = list(results)
    names = [field.name for field in dataclasses.fields(Measured)]
    each = {name: tails(getattr(result, name) for result in results) for name in names}
    return {**each, **missed_tails(results)}


def small_changes(frames: np.ndarray, patch: int, most: float) -> list[int]:
    """Numbers of the frames that differ from the one before, and in few patches.

    Args:
      frames: `uint8 [F, H, W, 3]`.
      patch: side of a patch, in pixels.
      most: share of the patches, 0-1.
    """
    numbers = []
    for index in range(1, len(frames)):
        share = float(np.mean(compute_patch_diff(frames[index - 1], frames[index], patch)))
        if 0 < share <= most:
            numbers.append(index)
    return numbers


class SingleChange:
    """Two frames and their full encodes; `measure` takes the step between them."""

    def __init__(self, model: Model, before: np.ndarray, after: np.ndarray):
        """`before` and `after`: `uint8 [1, H, W, 3]`."""
        self._model, self._after = model, after
        params, config = model.params, model.config
        self._step = make_step(config)
        # Keeps the tokens of the first frame, and is the state that every step starts from.
        cache = init_cache(config, size=before.shape[1:3])
        tokens, cache, _ = self._step(params, cache, before, Policy())
        self._full_before = np.asarray(tokens[0])
        self._fresh: Cache = cache
        self._full_after = np.asarray(jit_encode(params, after, config=config)[0])
        self._at = np.asarray(changed_tokens(build(config), before, after)[0])

    def time_full(self) -> float:
        """Milliseconds of a full encode of the second frame."""
        start = time.perf_counter()
        jax.block_until_ready(
            jit_encode(self._model.params, self._after, config=self._model.config)
        )
        return 1e3 * (time.perf_counter() - start)

    def measure(self, policy: Policy) -> Measured:
        """One step from the state after the first frame; that state stays as it is."""
        return self.settle(policy, 0)[0]

    def settle(self, policy: Policy, idle: int) -> list[Measured]:
        """The step, and `idle` steps after it in which nothing changes.

        Shares and times are of each step; missed is what all steps so far have not delivered.
        """
        cache = jax.tree.map(jnp.copy, self._fresh)  # the step consumes the cache it is given
        cache = jax.block_until_ready(cache)
        measured = []
        for _ in range(1 + idle):
            start = time.perf_counter()
            result = self._step(self._model.params, cache, self._after, policy)
            tokens, cache, report = jax.block_until_ready(result)
            step_ms = 1e3 * (time.perf_counter() - start)
            measured.append(self._measured(np.asarray(tokens[0]), report, step_ms))
        return measured

    def _measured(self, tokens: np.ndarray, report: Report, step_ms: float) -> Measured:
        missed = missed_at(self._at, tokens, self._full_after, self._full_before)
        return Measured(
            changed=float(report.changed_patches[0]) / float(report.total_patches[0]),
            recomputed=float(report.recomputed[0]),
            pending=float(report.pending[0]),
            step_ms=step_ms,
            **missed._asdict(),
        )


def sweep(
    model: Model,
    frames: np.ndarray,
    numbers: Sequence[int],
    policies: Mapping[str, Policy],
    on_step: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Measures single changes under many policies.

    Args:
      model: the tower.
      frames: `uint8 [F, H, W, 3]`.
      numbers: of the frames that are encoded, each from the one before; see `small_changes`.
      policies: by name.
      on_step: called with a text after each step.

    Returns:
      one row for each policy, the cheapest first: its name as "policy", and the tails of each
      number of `Measured` over the changes.
    """
    results: dict[str, list[Measured]] = {name: [] for name in policies}
    for number in numbers:
        change = SingleChange(model, frames[number - 1 : number], frames[number : number + 1])
        for name, policy in policies.items():
            results[name].append(change.measure(policy))
            on_step(f"frame {number}, {name}")
    rows = [{"policy": name, **tails_of(measured)} for name, measured in results.items()]
    # Nothing is known to be missed if all changes are tiny.
    median = "median"
    return sorted(
        rows, key=lambda row: (row["recomputed"][median], row["missed_changed"][median] or 0.0)
    )
