#!/usr/bin/env python3
"""Trains a small tower of full depth, with its grounding head, on rendered screens.

    python scripts/training/render_pages.py DATA --train 2200 --val 250 --test 350
    python scripts/training/train.py DATA RUN
    python scripts/training/bundle.py RUN weights/NAME --data DATA

Stops and goes on: the same command continues from the newest checkpoint in RUN. `RUN/curve.jsonl`
grows as it goes; the newest checkpoint is kept, and the one that scores best on validation pages.
"""

import argparse
import dataclasses
import functools
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from batch_norm import Statistics, fold, normalised
from loss import grounding_loss
from score import answer, best_threshold, measure
from screens import Screen, ahead, random_crops

import diffvis_jax as dv
from diffvis_jax.checkpoints.format import quiet_orbax
from diffvis_jax.checkpoints.progress import Progress
from diffvis_jax.grounding.decode import decode
from diffvis_jax.grounding.find import map_name
from diffvis_jax.grounding.head import GroundingHead, HeadConfig
from diffvis_jax.towers import build

SCREEN = 1024  # pixels along the side of the frames that crops are taken from
HELP = 0.4  # weight of the helper's loss
AVERAGE = 0.998  # decay of the averaged weights, which are what is evaluated and kept


def configs(side: int, depths: tuple[int, ...]) -> tuple[dv.FastViTHDConfig, HeadConfig]:
    """The tower and the head that are trained; frames of `side` pixels."""
    tower = dv.FastViTHDConfig(
        depths=depths,
        widths=(16, 32, 64, 128, 256),
        token_width=512,
        squeeze_width=64,
        size=side,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )
    return tower, HeadConfig(token_width=tower.token_width, map_width=tower.widths[3])


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

    tower: dv.FastViTHDConfig
    head: HeadConfig
    optimiser: optax.GradientTransformation

    @property
    def helper(self) -> tuple[str, HeadConfig]:
        """A head on the map of stride 16, which leads the way for the layers before it (deep
        supervision, arXiv 1409.5185); it answers for the same places, and is not kept. With the
        name of that map."""
        last = [layer.name for layer in build(self.tower).layers if layer.stage == 2][-1]
        width = self.tower.widths[2]
        return last, HeadConfig(token_width=width, patch=16, hidden=128, rows=2, columns=1)

    def loss(self, params: dict[str, Any], batch: dict[str, jax.Array]):
        """The loss of the head that is kept and, with less weight, of the helper."""
        with normalised(self.tower):
            maps = dv.encode(
                params["tower"], batch["pixels"], config=self.tower, output="intermediates"
            )
        assert isinstance(maps, dict)
        answers = GroundingHead(self.head).apply(
            {"params": params["head"]}, maps["tokens"], maps[map_name(self.tower)]
        )
        loss, parts = grounding_loss(self.head, answers, batch)  # type: ignore[arg-type]
        name, config = self.helper
        x = maps[name]
        answers = GroundingHead(config).apply(
            {"params": params["helper"]}, x.reshape(x.shape[0], -1, x.shape[-1])
        )
        extra = grounding_loss(config, answers, batch)[0]  # type: ignore[arg-type]
        return loss + HELP * extra, {**parts, "helper": extra}

    @functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
    def step(self, state: dict[str, Any], batch: dict[str, jax.Array]):
        """One update: state and batch to the new state and the parts of the loss."""

        (_, parts), grads = jax.value_and_grad(self.loss, has_aux=True)(state["params"], batch)
        updates, optimiser = self.optimiser.update(grads, state["optimiser"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        # A young average forgets faster, else it would remember the random start.
        decay = jnp.minimum(AVERAGE, (1 + state["step"]) / (10 + state["step"]))
        average = jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, state["average"], params)
        new = {
            "params": params,
            "average": average,
            "optimiser": optimiser,
            "step": state["step"] + 1,
        }
        return new, {**parts, "gradient": optax.global_norm(grads)}

    @functools.partial(jax.jit, static_argnums=0)
    def statistics(self, params: dict[str, Any], pixels: jax.Array) -> Statistics:
        """What batch norm sees of a batch."""
        with normalised(self.tower) as seen:
            dv.encode(params["tower"], pixels, config=self.tower)
        return list(seen)

    def folded(self, params: dict[str, Any], crops: Sequence[np.ndarray]) -> dict[str, Any]:
        """Tower and head as they are used, with the batch norm of these batches put into them."""
        statistics = [self.statistics(params, pixels) for pixels in crops]
        return {**params, "tower": fold(params["tower"], self.tower, statistics)}

    def fresh(self, seed: int) -> dict[str, Any]:
        """The state before the first step."""

        def head(config: HeadConfig) -> dict[str, Any]:
            tokens = jnp.zeros((1, 1, config.token_width))
            fine = jnp.zeros((1, 2, 2, config.map_width)) if config.map_width else None
            return GroundingHead(config).init(jax.random.key(seed), tokens, fine)["params"]  # type: ignore[return-value]

        params = {
            "tower": near_identity(dv.init_params(self.tower, seed)),
            "head": head(self.head),
            "helper": head(self.helper[1]),
        }
        return {
            "params": params,
            "average": jax.tree.map(jnp.copy, params),
            "optimiser": self.optimiser.init(params),
            "step": jnp.zeros((), jnp.int32),
        }


def near_identity(params: dict[str, Any]) -> dict[str, Any]:
    """Makes every block nearly the identity: a start for a deep tower.

    As with layer scale and Fixup (arXiv 2103.17239, 1901.09321): what branches add starts small,
    and so does what the mixers mix.
    """

    def shrink(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
        names = [key.key for key in path]
        if names[-1] == "kernel" and names[-2] in ("fc2", "output"):
            return 0.1 * leaf
        if names[-1] == "kernel" and names[-2] in ("mixer", "position"):
            k = leaf.shape[0]
            return (0.1 * leaf).at[k // 2, k // 2].set(1.0)
        return leaf

    return jax.tree_util.tree_map_with_path(shrink, params)


def grow(params: dict[str, Any], depths: tuple[int, ...], deeper: tuple[int, ...]):
    """Parameters of a deeper tower that computes nearly the same.

    A block becomes k blocks of which each does a k-th of what it did: x + f(x) in k smaller steps,
    as a differential equation is refined (arXiv 1710.10348).

    Args:
      params: of the tower with `depths`.
      deeper: a multiple of each depth.

    Raises:
      ValueError: a depth does not divide.
    """
    if any(new % old for old, new in zip(depths, deeper, strict=True)):
        raise ValueError(f"depths {deeper} are not multiples of {depths}")

    def part(path: tuple[Any, ...], leaf: jax.Array, k: int) -> jax.Array:
        names = [key.key for key in path]
        if names[-2] in ("fc2", "output"):
            return leaf / k
        if names[-2] == "mixer":
            if names[-1] == "bias":
                return leaf / k
            middle = leaf.shape[0] // 2
            same = jnp.zeros_like(leaf).at[middle, middle].set(1.0)
            return same + (leaf - same) / k
        return jnp.copy(leaf)  # each block owns its arrays: a training step is given them

    grown = dict(params)
    for stage, (old, new) in enumerate(zip(depths, deeper, strict=True)):
        k, name = new // old, f"stage_{stage}"
        blocks = {
            f"block_{i}": jax.tree_util.tree_map_with_path(
                functools.partial(part, k=k), params[name][f"block_{i // k}"]
            )
            for i in range(new)
        }
        grown[name] = {n: v for n, v in params[name].items() if not n.startswith("block_")} | blocks
    return grown


def optimiser(rate: float, steps: int) -> optax.GradientTransformation:
    """AdamW with a clipped gradient, a short warm-up and a cosine; matrices alone decay."""
    warm_up = min(100, steps // 2)
    schedule = optax.warmup_cosine_decay_schedule(0.0, rate, warm_up, steps, 0.02 * rate)
    matrices = lambda params: jax.tree.map(lambda p: p.ndim > 1, params)  # noqa: E731
    return optax.chain(
        optax.clip_by_global_norm(5.0),
        optax.adamw(schedule, b2=0.98, weight_decay=0.02, mask=matrices),
    )


def load_screens(directory: Path, head: HeadConfig, most: int | None, size: int) -> list[Screen]:
    """The pages of one split, in the order of their names."""
    paths = [p for p in sorted(directory.glob("*/*.png")) if p.with_suffix(".json").exists()]
    if not paths:
        raise ValueError(f"no rendered pages in {directory}: make them with render_pages.py")
    if most is not None and len(paths) > most:
        paths = [paths[i] for i in np.linspace(0, len(paths) - 1, most).astype(int)]
    screens = []
    with Progress(len(paths), f"reading {directory.name}") as progress:
        for path in paths:
            screens.append(Screen(path, size, head.kinds))
            progress(path.name)
    return screens


def validate(setup: Setup, params: dict[str, Any], screens: list[Screen]) -> dict[str, Any]:
    """What `measure` says at the threshold that suits these screens best."""
    answers = answer(setup.tower, setup.head, params, screens)
    threshold = best_threshold(setup.head, answers, screens)
    found = [decode(setup.head, a, threshold=threshold)[0] for a in answers]
    return {"threshold": threshold, **measure(setup.head, found, screens)}


def calibration(screens: list[Screen], side: int, head: HeadConfig) -> list[np.ndarray]:
    """Crops whose statistics are folded into the tower: always the same."""
    batches = random_crops(screens, side, 16, head, seed=0, aimed=0.0)
    return [next(batches)["pixels"] for _ in range(8)]


def grown_state(setup: Setup, state: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """`state` with the averaged weights of another run, grown to this one's depth."""
    recipe = args.grow / "recipe.json"
    if not recipe.exists():
        raise ValueError(f"--grow: {args.grow} is no run of train.py, it has no recipe.json")
    depths = tuple(json.loads(recipe.read_text())["depths"])
    other = Setup(configs(args.side, depths)[0], setup.head, setup.optimiser)
    with checkpoints(args.grow) as manager:
        newest = manager.latest_step()
        if newest is None:
            raise ValueError(f"--grow: {args.grow} has no checkpoint yet")
        held = manager.restore(newest, args=ocp.args.StandardRestore(other.fresh(args.seed)))
    params = held["average"]
    params = {**params, "tower": grow(params["tower"], depths, args.depths)}
    print(f"grown from step {newest} of {args.grow}", flush=True)
    return {**state, "params": params, "average": jax.tree.map(jnp.copy, params)}


def train(args: argparse.Namespace) -> None:
    tower, head = configs(args.side, args.depths)
    setup = Setup(tower, head, optimiser(args.rate, args.steps))
    manager = checkpoints(args.run)
    state = setup.fresh(args.seed)
    newest = manager.latest_step()
    if newest is not None:
        state = manager.restore(newest, args=ocp.args.StandardRestore(state))
        print(f"going on from step {newest}", flush=True)
    elif args.grow is not None:
        state = grown_state(setup, state, args)
    done = int(state["step"])
    validation = load_screens(args.data / "val", head, args.validation, SCREEN)
    screens = load_screens(args.data / "train", head, None, SCREEN)
    (args.run / "recipe.json").write_text(
        json.dumps(vars(args) | {"screens": len(screens)}, indent=1, default=str)
    )
    held = calibration(screens, args.side, head)
    batches = ahead(random_crops(screens, args.side, args.batch, head, args.seed + done))
    curve = (args.run / "curve.jsonl").open("a")
    start, seen = time.monotonic(), []
    while done < args.steps:
        state, parts = setup.step(state, next(batches))
        seen.append(parts)
        done += 1
        if done % 50 == 0:
            mean = {k: float(np.mean([p[k] for p in seen])) for k in seen[0]}
            row = {"step": done, "seconds": round(time.monotonic() - start, 1), **mean}
            print(json.dumps(row), file=curve, flush=True)
            print(json.dumps(row), flush=True)
            seen = []
            if not np.isfinite(mean["loss"]):
                raise ValueError(f"the loss is no longer a number at step {done}: lower --rate")
        if done % args.every == 0 or done == args.steps:
            metrics = validate(setup, setup.folded(state["average"], held), validation)
            row = {"step": done, **{f"val_{k}": v for k, v in metrics.items()}}
            print(json.dumps(row), file=curve, flush=True)
            print(json.dumps(row), flush=True)
            manager.save(done, args=ocp.args.StandardSave(state), metrics={"f1": metrics["f1"]})
            manager.wait_until_finished()
    manager.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("data", type=Path, help="written by render_pages.py; holds train/ and val/")
    add("run", type=Path, help="checkpoints and curve go there")
    add("--side", type=int, default=256, help="pixels along the side of a crop (256)")
    add("--batch", type=int, default=8, help="crops of a step (8)")
    add("--steps", type=int, default=6000)
    add("--rate", type=float, default=2e-3, help="largest learning rate (2e-3)")
    add("--every", type=int, default=400, help="steps between validations (400)")
    add("--validation", type=int, default=40, help="pages of the validation (40)")
    add("--depths", type=int, nargs=5, default=(2, 12, 24, 4, 2), help="blocks of each stage")
    add("--grow", type=Path, metavar="RUN", help="start from this run of a shallower tower")
    add("--seed", type=int, default=0)
    args = parser.parse_args()
    args.depths = tuple(args.depths)
    if args.side % 64 or not 64 <= args.side <= SCREEN:
        parser.error(f"--side must be a multiple of 64 up to {SCREEN}, got {args.side}")
    args.run.mkdir(parents=True, exist_ok=True)
    try:
        with quiet_orbax():
            train(args)
    except ValueError as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
