#!/usr/bin/env python3
"""Trains a small tower, with its grounding head, on rendered screens.

    python scripts/training/render_pages.py DATA --train 3000 --val 250 --test 350
    python scripts/training/train.py DATA RUN
    python scripts/training/bundle.py RUN weights/NAME --data DATA

Stops and goes on: the same command continues from the newest checkpoint in RUN. `RUN/curve.jsonl`
grows as it goes; the newest checkpoint is kept, and the one that scores best on validation pages.
"""

import argparse
import dataclasses
import functools
import json
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from family import CLIP, FAMILIES, Family, FastViTHD, family_like
from loss import grounding_loss
from optimiser import optimiser_of
from score import answer, best_threshold, measure
from screens import Screen, ahead, random_crops

from diffvis_jax.checkpoints.format import quiet_orbax, read_json
from diffvis_jax.checkpoints.progress import Progress
from diffvis_jax.checkpoints.store import load_grounding, load_vision
from diffvis_jax.grounding.decode import decode
from diffvis_jax.grounding.head import GroundingHead, HeadConfig
from diffvis_jax.preprocess_config import ImageError
from diffvis_jax.whole_file import write_whole

HELP = 0.4  # weight of the helper's loss
AVERAGE = 0.998  # decay of the averaged weights, which are what is evaluated and kept

# Of a recipe, what stays as it was begun; so does the tower. A run may become longer.
SAME = ("side", "batch", "rate", "muon", "seed", "start", "pages")


def checkpoints(run: Path) -> ocp.CheckpointManager:
    """The checkpoints of a run: the newest, to go on from, and the best."""
    keep = ocp.checkpoint_managers

    def f1(metrics: Any) -> float:
        return metrics["f1"]

    return ocp.CheckpointManager(
        (run / "checkpoints").resolve(),
        options=ocp.CheckpointManagerOptions(
            best_fn=f1,
            preservation_policy=keep.AnyPreservationPolicy(
                [keep.LatestN(1), keep.BestN(get_metric_fn=f1, n=1)]
            ),
        ),
    )


@dataclasses.dataclass(frozen=True)
class Setup:
    """What one training step needs; static."""

    family: Family
    optimiser: optax.GradientTransformation

    @property
    def head(self) -> HeadConfig:
        """Of the head that is kept."""
        return self.family.heads["head"]

    def loss(self, params: dict[str, Any], batch: dict[str, jax.Array]):
        """The loss of the head that is kept and, with less weight, of the helpers."""
        seen = self.family.see(params["tower"], batch["taken"], batch["corner"])
        loss, parts = jnp.zeros(()), {}
        for name, config in self.family.heads.items():
            answers = GroundingHead(config).apply({"params": params[name]}, *seen[name])
            own, own_parts = grounding_loss(config, answers, batch)  # type: ignore[arg-type]
            if name == "head":
                loss, parts = loss + own, {**parts, **own_parts}
            else:
                loss, parts = loss + HELP * own, {**parts, name: own}
        return loss, parts

    def step(self, state: dict[str, Any], batch: dict[str, Any]):
        """One update: state and batch to the new state and the parts of the loss."""
        taken = self.family.before(state["kept"], batch["pixels"])
        return self._update(state, {**batch, "taken": taken})

    @functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
    def _update(self, state: dict[str, Any], batch: dict[str, jax.Array]):
        (_, parts), grads = jax.value_and_grad(self.loss, has_aux=True)(state["params"], batch)
        updates, optimiser = self.optimiser.update(grads, state["optimiser"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        # A young average forgets faster, else it would remember the random start.
        decay = jnp.minimum(AVERAGE, (1 + state["step"]) / (10 + state["step"]))
        average = jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, state["average"], params)
        new = {
            "params": params,
            "average": average,
            "kept": state["kept"],
            "optimiser": optimiser,
            "step": state["step"] + 1,
        }
        return new, {**parts, "gradient": optax.tree.norm(grads)}

    @staticmethod
    def fresh_head(config: HeadConfig, seed: int) -> Any:
        """Parameters of a head before the first step."""
        tokens = jnp.zeros((1, 1, config.token_width))
        maps = [jnp.zeros((1, n, n, width)) for n, width in config.maps]
        return GroundingHead(config).init(jax.random.key(seed), tokens, maps)["params"]

    def fresh(self, seed: int) -> dict[str, Any]:
        """Parameters of tower and heads before the first step."""
        heads = {name: self.fresh_head(head, seed) for name, head in self.family.heads.items()}
        return {"tower": self.family.fresh(seed), **heads}

    @property
    def shape(self) -> dict[str, Any]:
        """Shapes and dtypes of a state."""
        return jax.eval_shape(lambda: self.state(self.fresh(0)))

    def prepared(self, seed: int, crops: Sequence[np.ndarray]) -> dict[str, Any]:
        """The state before the first step, after a look at crops of the pages."""
        params = self.fresh(seed)
        return self.state({**params, "tower": self.family.prepared(params["tower"], crops)})

    def state(self, params: dict[str, Any]) -> dict[str, Any]:
        """The state before the first step from these parameters."""
        kept = {name: params["tower"][name] for name in self.family.kept}
        trained = {name: own for name, own in params["tower"].items() if name not in kept}
        params = {**params, "tower": trained}
        return {
            "params": params,
            "average": jax.tree.map(jnp.copy, params),
            "kept": kept,
            "optimiser": self.optimiser.init(params),
            "step": jnp.zeros((), jnp.int32),
        }

    def finished(self, state: dict[str, Any], crops: Sequence[np.ndarray]) -> dict[str, Any]:
        """Tower and head as they are used: averaged, with the batch norm of these crops folded."""
        average = state["average"]
        tower = self.family.finished({**state["kept"], **average["tower"]}, crops)
        return {"tower": tower, "head": average["head"]}


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


def validate(setup: Setup, params: dict[str, Any], screens: list[Screen]) -> dict[str, Any]:
    """What `measure` says at the threshold that suits these screens best."""
    answers = answer(setup.family.tower, setup.head, params, screens)
    threshold = best_threshold(setup.head, answers, screens)
    found = [decode(setup.head, a, threshold=threshold)[0] for a in answers]
    return {"threshold": threshold, **measure(setup.head, found, screens)}


def calibration(screens: list[Screen], side: int, head: HeadConfig) -> list[np.ndarray]:
    """Crops whose statistics are folded into the tower: always the same."""
    batches = random_crops(screens, side, max(1, 2**20 // side**2), head, seed=0, plain=True)
    return [next(batches)["pixels"] for _ in range(8)]


def family_of(recipe: dict[str, Any]) -> Family:
    """The kind of tower that a recipe (the options of a run) names."""
    if recipe["family"] == "clip":
        return CLIP()
    helped, frozen = recipe.get("helped", True), recipe.get("frozen", 0)
    return FastViTHD(tuple(recipe["depths"]), helped=helped, frozen=frozen)


def recipe_of(args: argparse.Namespace) -> dict[str, Any]:
    """The options, and how many pages there are to train on, as recipe.json holds them."""
    options = {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()}
    return {**options, "pages": len(pages_of(args.data / "train"))}


def read_recipe(run: Path) -> dict[str, Any]:
    """The options that a run was trained with.

    Raises:
      ValueError: no run of train.py.
    """
    if not (run / "recipe.json").exists():
        raise ValueError(f"{run} is no run of train.py, it has no recipe.json")
    return read_json(run / "recipe.json")


def restore(run: Path, setup: Setup, *, best: bool) -> tuple[int, dict[str, Any]]:
    """Number and state of the best or of the newest checkpoint of a run.

    Raises:
      ValueError: it has none.
    """
    with checkpoints(run) as manager:
        step = manager.best_step() if best else manager.latest_step()
        if step is None:
            raise ValueError(f"{run} has no checkpoint yet")
        return step, manager.restore(step, args=ocp.args.StandardRestore(setup.shape))


def started_state(setup: Setup, start: Path) -> dict[str, Any]:
    """A first state with the averaged weights of another run, or with those of a weight directory,
    grown to this run's depth.

    The batch norm that is folded into the weights of a directory left what follows a convolution
    with mean 0 and variance 1, so that what normalising it again changes is what one batch differs
    from others.
    """
    if not is_weights(start):
        recipe = read_recipe(start)
        other = family_of(recipe)
        check_kind(start, other, setup.family)
        newest, held = restore(start, Setup(other, optimiser_of(recipe)), best=False)
        average = held["average"]
        params = {**average, "tower": {**held["kept"], **average["tower"]}}
        print(f"started from step {newest} of {start}", flush=True)
    else:
        config, tower = load_vision(start, "float32")
        other = family_like(config)
        if other is None:
            raise ValueError(f"--start: {start} holds a tower of other sizes than are trained here")
        check_kind(start, other, setup.family)
        params = {"tower": tower, "head": started_head(setup, start)}
        print(f"started from the weights in {start}", flush=True)
    heads = {name: params[name] for name in setup.family.heads}
    tower = setup.family.started(params["tower"], other)  # type: ignore[arg-type]
    return setup.state({"tower": tower, **heads})


def started_head(setup: Setup, directory: Path) -> dict[str, Any]:
    """The grounding head of a weight directory, in float32; one that does not see the finer maps
    goes on with them.

    Raises:
      ValueError: it is not the one that is trained here.
    """
    head, params = load_grounding(directory)
    own = dataclasses.replace(setup.head, threshold=head.threshold, dtype=head.dtype)
    coarser = dataclasses.replace(own, finest_width=0)
    if head not in (own, coarser, dataclasses.replace(coarser, detail_width=0)):
        raise ValueError(f"--start: {directory} holds another head, {head} and not {own}")
    params = jax.tree.map(lambda x: x.astype(jnp.float32), params)
    return {**setup.fresh_head(setup.head, 0), **params}


def check_kind(start: Path, other: Family, family: Family) -> None:
    """What is started from is of the family that is trained.

    Raises:
      ValueError: it is not.
    """
    if type(other) is not type(family):
        raise ValueError(f"--start: {start} is a {other.kind}, not a {family.kind}")


def is_weights(start: Path) -> bool:
    """Whether this is a weight directory, not a run."""
    return (start / "manifest.json").exists()


def helped(start: Path | None, frozen: int) -> bool:
    """Whether a run that starts so has a helper: none is bundled, and what it helps must learn."""
    if frozen:
        return False
    if start is None:
        return True
    if is_weights(start) or not (start / "recipe.json").exists():
        return False
    return read_recipe(start).get("helped", True)


def check_start(start: Path) -> None:
    """Something to start from: a run of this script, or a weight directory.

    Raises:
      ValueError: neither.
    """
    if not is_weights(start) and not (start / "recipe.json").exists():
        raise ValueError(
            f"--start: {start} is neither a run of train.py (recipe.json) nor a weight directory "
            "(manifest.json)"
        )


def start_step(start: Path) -> int | None:
    """How many steps the weights that a run starts from had been trained for, where it is known."""
    if is_weights(start):
        return read_json(start / "manifest.json").get("step")
    with checkpoints(start) as manager:
        return manager.latest_step()


def check_same(run: Path, begun: dict[str, Any], recipe: dict[str, Any]) -> None:
    """A run goes on with the tower, the optimiser and the crops it began with.

    Args:
      run: its directory, for the error.
      begun: its recipe.
      recipe: the one that it is to go on with.

    Raises:
      ValueError: they differ in more than how long the run is, and what is measured on the way.
    """
    had, family = family_of(begun), family_of(recipe)
    if had != family:
        raise ValueError(f"{run} was begun with {had}, not with {family}: name another run")
    differing = [
        f"{name} {begun.get(name)} (now {recipe[name]})"
        for name in SAME
        if begun.get(name) != recipe[name]
    ]
    if differing:
        raise ValueError(
            f"{run} was begun with {', '.join(differing)}: give the same, or name another run "
            f"(--start {run} takes the weights along)"
        )


def check_finite(parts: dict[str, Any], step: int) -> None:
    """Weights that have become NaN stay so; saved, they would be what the run goes on from.

    Args:
      parts: of the loss, and the gradient's norm.

    Raises:
      ValueError: one of them is not finite.
    """
    if not all(np.isfinite(value) for value in parts.values()):
        raise ValueError(
            f"the loss or its gradient is no longer a number at step {step}: lower --rate, in "
            "another run"
        )


def tell(run: Path, row: dict[str, Any]) -> None:
    """A line of the curve, which is shown as well."""
    print(json.dumps(row), flush=True)
    with (run / "curve.jsonl").open("a", encoding="utf-8") as curve:
        print(json.dumps(row), file=curve)


def train(args: argparse.Namespace, family: Family, manager: ocp.CheckpointManager) -> None:
    """Trains from the newest checkpoint of `manager` on, or from the start, to the last step."""
    setup, recipe = Setup(family, optimiser_of(vars(args))), recipe_of(args)
    newest = manager.latest_step()
    state: Any
    if newest is not None:
        begun = read_recipe(args.run)
        check_same(args.run, begun, recipe)
        if args.steps < newest:
            raise ValueError(f"--steps {args.steps}: {args.run} has {newest} steps already")
        recipe["start_step"] = begun.get("start_step")
        state = manager.restore(newest, args=ocp.args.StandardRestore(setup.shape))
        print(f"going on from step {newest}", flush=True)
    else:
        state = started_state(setup, args.start) if args.start else None
        recipe["start_step"] = start_step(args.start) if args.start else None
    done = newest or 0
    validation = load_screens(args.data / "val", setup.head, args.validation, family.size)
    screens = load_screens(args.data / "train", setup.head, None, family.size)
    held = calibration(screens, args.side, setup.head)
    if state is None:
        state = setup.prepared(args.seed, held)
    if family.smaller:
        some = -(-len(screens) // 3)
        screens += load_screens(args.data / "train", setup.head, some, family.smaller)
    write_whole(args.run / "recipe.json", json.dumps(recipe, indent=1) + "\n")
    crops = random_crops(
        screens, args.side, args.batch, setup.head, args.seed + done, align=family.align
    )
    batches = ahead(crops)
    # Arrays that are put on a device and others would each have the step compiled for them.
    state = jax.device_put(state, jax.local_devices()[0])
    start, seen = time.monotonic(), []
    while done < args.steps:
        state, parts = setup.step(state, next(batches))
        seen.append(parts)
        done += 1
        if done % 50 == 0:
            mean = {k: float(np.mean([p[k] for p in seen])) for k in seen[0]}
            tell(args.run, {"step": done, "seconds": round(time.monotonic() - start, 1), **mean})
            seen = []
            check_finite(mean, done)
        if done % args.every == 0 or done == args.steps:
            check_finite(parts, done)
            metrics = validate(setup, setup.finished(state, held), validation)
            tell(args.run, {"step": done, **{f"val_{k}": v for k, v in metrics.items()}})
            manager.save(done, args=ocp.args.StandardSave(state), metrics={"f1": metrics["f1"]})
            manager.wait_until_finished()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("data", type=Path, help="written by render_pages.py; holds train/ and val/")
    add("run", type=Path, help="checkpoints and curve go there")
    add("--family", choices=FAMILIES, default="fastvithd")
    add("--depths", type=int, nargs=5, default=(2, 12, 24, 4, 2), help="of fastvithd's stages")
    add(
        "--start",
        type=Path,
        metavar="RUN",
        help="from this run, or from a weight directory; a shallower tower is grown",
    )
    add(
        "--frozen",
        type=int,
        default=0,
        choices=range(4),
        help="leave the stem and so many stages of --start, a weight directory, as they are (0)",
    )
    add("--side", type=int, default=256, help="pixels along the side of a crop (256)")
    add("--batch", type=int, default=8, help="crops of a step (8)")
    add("--steps", type=int, default=6000)
    add("--rate", type=float, default=2e-3, help="largest learning rate (2e-3)")
    add("--muon", type=float, metavar="RATE", help="Muon for the matrices of blocks, at this rate")
    add("--every", type=int, default=400, help="steps between validations (400)")
    add("--validation", type=int, default=40, help="pages of the validation (40)")
    add("--seed", type=int, default=0)
    args = parser.parse_args()
    try:
        if args.frozen and not (
            args.family == "fastvithd" and args.start and is_weights(args.start)
        ):
            parser.error("--frozen goes on from the folded weights of a fastvithd: --start WEIGHTS")
        args.helped = helped(args.start, args.frozen)
        family = family_of(vars(args))
        if args.side % 64 or not 64 <= args.side <= family.size:
            parser.error(f"--side must be a multiple of 64 up to {family.size}, got {args.side}")
        for name in ("batch", "steps", "every", "validation"):
            if getattr(args, name) < 1:
                parser.error(f"--{name} must be at least 1, got {getattr(args, name)}")
        for name in ("rate", "muon"):
            value = getattr(args, name)
            if value is not None and not 0 < value < float("inf"):
                parser.error(f"--{name} must be a positive number, got {value}")
        for split in ("val", "train"):
            pages_of(args.data / split)
        if args.start:
            check_start(args.start)
        args.run.mkdir(parents=True, exist_ok=True)
        with quiet_orbax(), checkpoints(args.run) as manager:
            train(args, family, manager)
    except (ValueError, OSError) as error:
        print(f"train.py: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
