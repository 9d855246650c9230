"""What each setting of the same weights finds: precision, size of the frames, policy.

A table has one factor at a time away from float32, the weights' own size, and full encodes.
"""

import dataclasses
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from diffvis_jax.core.policy import Policy
from diffvis_jax.core.streams import data_mesh
from diffvis_jax.datasets.records import Stream, image_size
from diffvis_jax.errors import ConfigError
from diffvis_jax.evaluation.run import Runner
from diffvis_jax.evaluation.summary import FULL, good_frames
from diffvis_jax.images.geometry import frame_size
from diffvis_jax.metrics import Counts, tails, total
from diffvis_jax.model import Model, load
from diffvis_jax.quantisation import QuantConfig, quantise
from diffvis_jax.resolution.sizes import Size, at_size, keeps_shape
from diffvis_jax.towers import with_size


@dataclasses.dataclass(frozen=True)
class Setup:
    """How weights are used.

    Attributes:
      policy: what a step may leave out; None = every frame is encoded in full.
      precision: "float32", "bfloat16", or a quantisation, see `QuantConfig.named`.
      size: of the frames, see `at_size`; None = the weights' own.
    """

    policy: Policy | None = None
    precision: str = "float32"
    size: Size | None = None


FIRST, EXACT = "float32, full", "exact"
SETUPS = {
    FIRST: Setup(),
    EXACT: Setup(Policy.exact()),
    "faithful": Setup(Policy.faithful()),
    "fast": Setup(Policy.fast()),
    "bfloat16": Setup(precision="bfloat16"),
    "int8": Setup(precision="int8"),
    "w8a8": Setup(precision="w8a8"),
    "768 px": Setup(size=768),
    "512 px": Setup(size=512),
}


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a setup finds.

    Attributes:
      clicks: id of a query -> whether a click would hit.
      ious: id of a query -> overlap of the answer with the target, 0 without an answer.
      f1, precision: of all labelled elements; None without labels.
      missed: missed change at changed tokens, `metrics.tails`, against the full encode of the same
        precision and size; of a full encode 0.
      ms: of a frame after the first of its stream, likewise.
      recomputed: mean share of a full encode's work.
      weights_mb: megabytes of the tower's parameters.
    """

    clicks: dict[str, bool]
    ious: dict[str, float]
    f1: float | None
    precision: float | None
    missed: dict[str, float | None]
    ms: dict[str, float | None]
    recomputed: float
    weights_mb: float


def ready(weights: Path, setup: Setup, screen: tuple[int, int]) -> Model:
    """The model of a setup, for screens of so many pixels (width, height).

    Raises:
      ConfigError: no such precision, or a size that the tower does not take.
    """
    floats = setup.precision in ("float32", "bfloat16")
    model = load(weights, dtype=setup.precision if floats else "float32")
    if not floats:
        quant = QuantConfig.named(setup.precision)
        model = dataclasses.replace(model, params=quantise(model.config, model.params, quant)[0])
    config = model.config
    if setup.size is not None:
        config = at_size(config, setup.size, screen)
    elif keeps_shape(config):
        config = with_size(config, frame_size(*screen, config))
    return dataclasses.replace(model, config=config)


def measure_setups(
    weights: Path,
    streams: Sequence[Stream],
    setups: dict[str, Setup],
    *,
    on_frames: Callable[[str, int], None] = lambda name, frames: None,
) -> dict[str, Outcome]:
    """Runs the streams under every setup.

    Setups that differ in their policies alone share one pass.

    Args:
      weights: directory of a model with a grounding head.
      streams: with labelled targets or elements.
      setups: by name.
      on_frames: told of progress.

    Raises:
      ConfigError: weights without a grounding head, or no query in any stream.
    """
    by_model: dict[tuple[str, Size | None], dict[str, Setup]] = {}
    for name, setup in setups.items():
        by_model.setdefault((setup.precision, setup.size), {})[name] = setup
    found: dict[str, Outcome] = {}
    for group in by_model.values():
        policies = {name: s.policy for name, s in group.items() if s.policy is not None}
        lines: list[dict[str, Any]] = []
        models: list[Model] = []
        for screen, some in by_screen(streams).items():
            model = ready(weights, next(iter(group.values())), screen)
            if model.head is None:
                raise ConfigError(f"'{weights}' has no grounding head: it finds no elements")
            models.append(model)
            runner = Runner(model, policies, 1, data_mesh(jax.devices()[:1]))
            for line in runner.run(some):
                lines.append(line)
                on_frames(", ".join(group), len(line["frames"]))
        for name in group:
            run = name if name in policies else FULL
            found[name] = outcome(good_frames(lines), run, megabytes(models[0]))
    return {name: found[name] for name in setups}


def outcome(frames: Sequence[dict[str, Any]], run: str, weights_mb: float) -> Outcome:
    """Of one policy, or `FULL`, from the measured frames."""
    if not any(frame["queries"] for frame in frames):
        raise ConfigError("the streams ask nothing: they have neither targets nor elements")
    counts = total(
        Counts(true_positives=right, false_positives=wrong, false_negatives=lost)
        for frame in frames
        if frame["runs"][run]["counts"] is not None
        for right, wrong, lost in [frame["runs"][run]["counts"]]
    )
    steps = [frame["runs"][run] for frame in frames if not frame["first"]]
    return Outcome(
        clicks={query: each == "correct" for query, each in answers(frames, run, "clicks")},
        ious={query: each or 0.0 for query, each in answers(frames, run, "ious")},
        f1=counts.f1,
        precision=counts.precision,
        missed=tails(step.get("missed_changed", 0.0) for step in steps),
        ms=tails(step["ms"] for step in steps),
        recomputed=statistics.fmean([step.get("recomputed", 1.0) for step in steps] or [1.0]),
        weights_mb=weights_mb,
    )


def by_screen(streams: Iterable[Stream]) -> dict[tuple[int, int], list[Stream]]:
    """Streams by width and height of their screenshots."""
    groups: dict[tuple[int, int], list[Stream]] = {}
    for stream in streams:
        size = image_size(stream.screens[0].image, stream.name)
        groups.setdefault(size, []).append(stream)
    return groups


def answers(frames: Iterable[dict[str, Any]], run: str, key: str) -> Iterator[tuple[str, Any]]:
    """Id of each query, and what was measured of its answer."""
    for frame in frames:
        for query, each in zip(frame["queries"], frame["runs"][run][key], strict=True):
            yield query["id"], each


def megabytes(model: Model) -> float:
    """Of the tower's parameters."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(model.params)) / 1e6
