"""Measures what frames of each size cost, and what is found in them."""

import dataclasses
import statistics
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from diffvis_jax.core.cache import init_cache
from diffvis_jax.core.policy import Policy
from diffvis_jax.core.policy_file import policy_fields
from diffvis_jax.core.streams import data_mesh
from diffvis_jax.datasets.errors import DatasetError
from diffvis_jax.datasets.records import Stream, image_size
from diffvis_jax.errors import ConfigError
from diffvis_jax.evaluation.run import Runner
from diffvis_jax.evaluation.summary import FULL, broken_frames, good_frames
from diffvis_jax.evaluation.summary import measure as summary_of
from diffvis_jax.model import Model
from diffvis_jax.resolution.profile import (
    Profile,
    Row,
    checksum,
    these_versions,
    this_machine,
)
from diffvis_jax.resolution.sizes import Size, at_size, bounds_of, keeps_shape, size_text
from diffvis_jax.towers import VisionConfig, build

_WARM_UP = 3  # frames: the first partial step takes longer than the next ones


def profile(
    model: Model,
    sessions: Sequence[Stream],
    sizes: Sequence[Size],
    policy: Policy | Mapping[str, Policy] | None = None,
    *,
    workers: int = 2,
    on_frames: Callable[[str, int], None] | None = None,
) -> Profile:
    """Runs sessions at several sizes of frames, differentially and in full.

    Args:
      model: the tower; with a grounding head clicks, boxes and F1 are scored where the sessions
        have targets, or name their elements.
      sessions: recorded sessions (`datasets.open_dataset(..).streams`), one stream each.
      sizes: of the frames, see `at_size`.
      policy: what may be left out, or several by name; None = `Policy()`.
      workers: threads that decode.
      on_frames: called with the size as text, and the number of frames, after each round.

    Raises:
      ConfigError: a size that the tower or the screens do not take; screens of several sizes, for a
        tower that keeps their shape; no session with two frames; no policy, or one called "full".
      ImageError: none of the frames can be read.
    """
    if not isinstance(policy, Mapping):
        policy = {"policy": Policy() if policy is None else policy}
    if not sizes or not policy or FULL in policy:
        raise ConfigError(f"give at least one size and one policy, and call none '{FULL}'")
    if all(len(session.screens) < 2 for session in sessions):
        raise ConfigError("sessions of one frame show no step: give one with at least two")
    screens = screen_sizes(sessions)
    configs = sized_configs(model.config, sizes, screens)
    rows: list[Row] = []
    for config in configs:
        sized = dataclasses.replace(model, config=config)
        text = size_text(build(config).frame)
        tell = None if on_frames is None else lambda n, text=text, to=on_frames: to(text, n)
        rows += _measured(sized, sessions, policy, workers, tell)
    return Profile(
        model=model.name,
        checkpoint=checksum(model, rows[0]),
        machine=this_machine(),
        versions=these_versions(),
        sessions=tuple(session.name for session in sessions),
        policies={name: policy_fields(each) for name, each in policy.items()},
        rows=tuple(rows),
    )


def screen_sizes(sessions: Sequence[Stream]) -> list[tuple[int, int]]:
    """Width and height of the screenshots, each once; headers are read, faulty ones passed over."""
    found: dict[tuple[int, int], None] = {}
    for session in sessions:
        for image in dict.fromkeys(screen.image for screen in session.screens):
            try:
                found[image_size(image, f"'{image}'")] = None
            except DatasetError:
                continue  # told when it is its turn
    if not found:
        raise ConfigError("none of the screenshots can be read")
    return list(found)


def sized_configs(
    config: VisionConfig, sizes: Sequence[Size], screens: Sequence[tuple[int, int]]
) -> list[VisionConfig]:
    """The config at each size, the smallest first; warns of sizes larger than any screen.

    Raises:
      ConfigError: see `profile`.
    """
    if keeps_shape(config) and len(screens) > 1:
        shown = ", ".join(f"{width} x {height}" for width, height in screens[:4])
        raise ConfigError(
            f"screens of {len(screens)} sizes ({shown}, ..) become frames of as many sizes: "
            "profile those of one size at a time"
        )
    configs = {}
    largest = max(map(max, screens))
    for size in sizes:
        found = at_size(config, size, screens[0])
        frame = build(found).frame
        if max(frame) > largest:
            warnings.warn(
                f"frames of {size_text(frame)} are larger than any screen ({largest} px): pixels "
                "are made up",
                stacklevel=2,
            )
        configs[frame] = found
    return [configs[frame] for frame in sorted(configs, key=lambda sides: sides[0] * sides[1])]


def _measured(
    model: Model,
    sessions: Sequence[Stream],
    policies: Mapping[str, Policy],
    workers: int,
    on_frames: Callable[[int], None] | None,
) -> list[Row]:
    """The rows of one size: of full encodes, and of each policy."""
    runner = Runner(model, policies, 1, data_mesh(jax.local_devices()[:1]))
    longest = max(sessions, key=lambda session: len(session.screens))
    first = dataclasses.replace(longest, screens=longest.screens[:_WARM_UP])
    for _ in runner.run([first], workers=workers):
        pass
    lines = list(runner.run(sessions, workers=workers, on_frames=on_frames))
    for message in broken_frames(lines):
        warnings.warn(f"left out: {message}", stacklevel=3)
    frames = good_frames(lines)
    if not any(not frame["first"] for frame in frames):
        raise ConfigError("no step could be measured: too few of the frames can be read")
    return [_row(model, frames, name) for name in (FULL, *policies)]


def _row(model: Model, frames: Sequence[Mapping[str, Any]], name: str) -> Row:
    tower = build(model.config)
    # Of full encodes too: the summary of any policy has their scores beside its own.
    shown = name if name != FULL else next(key for key in frames[0]["runs"] if key != FULL)
    found = summary_of(frames, shown)
    steps = [frame["runs"][name] for frame in frames if not frame["first"]]
    suffix = "_full" if name == FULL else ""
    missed = found["missed_changed"]
    if name == FULL:
        missed = dict.fromkeys(missed, 0.0)
    cache = jax.eval_shape(lambda: init_cache(model.config))
    queries = found.get("queries", 0)
    return Row(
        size=tower.frame,
        bounds=bounds_of(model.config),
        policy=name,
        macs=tower.macs,
        tokens=tower.tokens,
        cache_bytes=0 if name == FULL else _bytes(cache),
        steps=len(steps),
        ms=_quantiles([step["ms"] for step in steps]),
        recomputed=1.0 if name == FULL else found["recomputed"],
        prefill_tokens=statistics.fmean(step["prefill"] for step in steps),
        missed={"p50": missed["median"], "p90": missed["p90"], "max": missed["max"]},
        queries=queries,
        click=found[f"click{suffix}"] if queries else None,
        iou=found[f"iou{suffix}"] if queries else None,
        f1=found.get(f"f1{suffix}"),
    )


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _quantiles(values: Sequence[float]) -> dict[str, float]:
    p50, p90, p95, largest = np.quantile(values, [0.5, 0.9, 0.95, 1.0]).tolist()
    return {"p50": p50, "p90": p90, "p95": p95, "max": largest}
