"""What a step did, for programs and for people.

B streams, L layers, P cells.
"""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import numpy as np

from diffvis_jax.core.cache import Cache
from diffvis_jax.towers.base import Tower
from diffvis_jax.towers.registry import build

PATHS = ("reuse", "partial", "full")
REUSE, PARTIAL, FULL = range(3)


@flax.struct.dataclass(kw_only=True)
class Report:
    """What a step did, one entry per stream.

    Attributes:
      path: 0 reuse (nothing recomputed), 1 partial, 2 full.
      changed_patches: patches that differ from the reference by more than the threshold.
      total_patches: patches of a frame.
      changed: which patches those are.
      skipped: the change was at most `skip_small_patches` and was left for later.
      recomputed: multiply-accumulates done over those of a full encode.
      cell_recomputed: the same for each cell's own share.
      stage_recomputed: the same for each cell's own share of each stage.
      pending: multiply-accumulates that make all stale cells exact, over those of a full encode.
      oldest_age: steps for which the oldest stale cell has not been computed.
      waiting_patches: changed patches that a budget had no room for yet.
      margin_share: how much of its margins the step took for lack of budget, 1 = all.
      moved_patches: those whose content came from elsewhere (`Policy.scroll`); they are not among
        the changed ones.
    """

    path: jax.Array  # int32 [B]
    changed_patches: jax.Array  # int32 [B]
    total_patches: jax.Array  # int32 [B]
    changed: jax.Array  # bool [B, rows, columns]
    skipped: jax.Array  # bool [B]
    recomputed: jax.Array  # float32 [B]
    cell_recomputed: jax.Array  # float32 [B, P]
    stage_recomputed: jax.Array  # float32 [B, stages, P]
    pending: jax.Array  # float32 [B]
    oldest_age: jax.Array  # int32 [B]
    waiting_patches: jax.Array  # int32 [B]
    margin_share: jax.Array  # float32 [B]
    moved_patches: jax.Array  # int32 [B]


def describe(report: Report) -> list[dict[str, Any]]:
    """The report as plain Python: one dict per stream, without the per-cell arrays.

    Returns:
      `path`: "reuse", "partial" or "full"; `changed_patches` of `total_patches`; `skipped`: whether
      the change was left for later; `recomputed` and `pending`: shares of a full encode's
      multiply-accumulates that were done, and that would make all tokens exact; `oldest_age`: steps
      for which a stale patch has not been computed; `waiting_patches`: changed ones that a budget
      had no room for; `margin_share`: how much of the margins it allowed for; `moved_patches`:
      those that scrolled to where they are.
    """
    host = jax.tree.map(np.asarray, report)
    return [
        {
            "path": PATHS[host.path[b]],
            "changed_patches": int(host.changed_patches[b]),
            "total_patches": int(host.total_patches[b]),
            "skipped": bool(host.skipped[b]),
            "recomputed": float(host.recomputed[b]),
            "pending": float(host.pending[b]),
            "oldest_age": int(host.oldest_age[b]),
            "waiting_patches": int(host.waiting_patches[b]),
            "margin_share": float(host.margin_share[b]),
            "moved_patches": int(host.moved_patches[b]),
        }
        for b in range(host.path.shape[0])
    ]


def combine(described: list[dict[str, Any]]) -> dict[str, Any]:
    """What `describe` says of several streams, as if they were one: counts are added, shares are
    means, and a path is "partial" unless all are the same."""
    paths = {one["path"] for one in described}

    def over(name: str, how: Callable[[list[Any]], Any]) -> Any:
        return how([one[name] for one in described])

    return {
        "path": paths.pop() if len(paths) == 1 else "partial",
        "changed_patches": over("changed_patches", sum),
        "total_patches": over("total_patches", sum),
        "skipped": over("skipped", any),
        "recomputed": over("recomputed", sum) / len(described),
        "pending": over("pending", sum) / len(described),
        "oldest_age": over("oldest_age", max),
        "waiting_patches": over("waiting_patches", sum),
        "margin_share": over("margin_share", min),
        "moved_patches": over("moved_patches", sum),
    }


def by_stage(tower: Tower, of_layers: jax.Array) -> jax.Array:
    """Sums `[B, L, P]` over the layers of each stage: float32 `[B, stages, P]`."""
    stages = np.array([layer.stage for layer in tower.layers])
    member = (stages[:, None] == np.arange(tower.stages)).astype(np.float32)
    return (of_layers[:, :, None] * member[None, :, :, None]).sum(1)


def stage_macs(tower: Tower) -> np.ndarray:
    """Multiply-accumulates of a cell in each stage; the head's count for the last. Float32
    `[stages]`."""
    macs = np.zeros(tower.stages)
    for layer in tower.layers:
        macs[layer.stage] += layer.macs + layer.kv_macs
    macs[-1] += tower.head_macs / tower.cells
    return macs.astype(np.float32)


def stage_pending(cache: Cache) -> np.ndarray:
    """The share of each cell's multiply-accumulates of a stage that is stale, float32
    `[B, stages, P]`."""
    tower = build(cache.config)
    stale = cache.stale * tower.layer_macs[:, None].astype(np.float32)
    return np.asarray(by_stage(tower, stale)) / stage_macs(tower)[:, None]
