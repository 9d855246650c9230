#!/usr/bin/env python3
"""How far does a change on the screen travel through a tower, and what does leaving some out cost?

    python scripts/benchmarks/fidelity.py --output fidelity_output

Takes pairs of consecutive frames of a recorded session. Spread: which cells of each layer a full
encode of the second frame moves, by distance from the changed patches. Cost: the missed change of
one step from a fresh full encode of the first frame, against the share of dense MACs, for flat and
growing margins. The same on random weights beside it. In float32.
"""

import argparse
import functools
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import diffvis_jax as dv
from diffvis_jax.cli.bundled import BUNDLED
from diffvis_jax.cli.calibrate import cost_table, margins_name, points
from diffvis_jax.cli.command_line import check_directory, run_script, write_json
from diffvis_jax.cli.models import add_model, find_model
from diffvis_jax.cli.plots import pyplot, save
from diffvis_jax.core.change import distance_to
from diffvis_jax.core.step import jit_encode
from diffvis_jax.images.recording import read_recording
from diffvis_jax.measure.single_change import small_changes, sweep
from diffvis_jax.metrics import tails
from diffvis_jax.report.table import frame_text, print_table
from diffvis_jax.report.text import TAILS, decimal, tails_text
from diffvis_jax.towers import build
from diffvis_jax.towers.base import Layer, TokenStack, Tower
from diffvis_jax.towers.forward import hidden_states, run_layers
from diffvis_jax.towers.params import Params
from diffvis_jax.utils.progress import Progress

MOVED = (1e-3, 1e-2, 5e-2)  # of the layer's RMS
DISTANCES = (0, 1, 2, 3, 4, 6, 8, 15)
GROWING = (  # of FastViTHD
    (0, 0, 1, 2, 4),
    (1, 1, 1, 3, 4),
    (1, 1, 2, 2, 4),
    (1, 1, 2, 3, 4),
    (1, 1, 2, 4, 8),
    (1, 1, 2, 5, 8),
    (1, 1, 2, 6, 8),
    (1, 1, 3, 4, 8),
    (1, 1, 3, 6, 12),
    (1, 1, 4, 6, 8),
    (1, 1, 2, 8, 16),
    (1, 1, 4, 8, 16),
    (0, 0, 1, 32, 32),
    (1, 1, 1, 32, 32),
    (1, 1, 2, 32, 32),
    (1, 1, 3, 32, 32),
    (1, 1, 4, 32, 32),
    (2, 2, 4, 32, 32),
    (1, 2, 4, 8, 32),
)
FLAT = (0, 1, 2, 3, 4, 6, 8)


def policies(tower: Tower) -> dict[str, dv.Policy]:
    """Name -> policy, none of which settles."""
    named = {f"margin {margin}": dv.Policy(margin=margin, settle=0) for margin in FLAT}
    if tower.stages > 1:
        growing = GROWING if isinstance(tower.config, dv.FastViTHDConfig) else ()
        for margins in (*growing, *(preset.margins for preset in tower.presets.values())):
            named[margins_name(margins, tower)] = dv.Policy(margin=margins, settle=0)
    return named


def family(name: str) -> str:
    """Which of the plotted series a policy belongs to, by its name."""
    return "flat margin" if name.startswith("margin") else "growing margin"


def named_layers(tower: Tower) -> list[tuple[str, Layer]]:
    """Name and layer of every output; a token stack has one before its blocks, and each block's."""
    stack, *_ = tower.layers
    if not isinstance(stack, TokenStack):
        return list(zip(tower.names, tower.layers, strict=True))
    names = ["embed", *(f"block_{number}" for number in range(stack.depth))]
    return [(name, stack) for name in names]


@functools.partial(jax.jit, static_argnames="tower")
def outputs(params: Params, frames: jax.Array | np.ndarray, tower: Tower) -> list[jax.Array]:
    """The outputs of `named_layers`, `[B, H, W, C]` each."""
    stack, *_ = tower.layers
    frames = jnp.asarray(frames)
    if not isinstance(stack, TokenStack):
        return list(run_layers(params, frames, tower).values())
    states = hidden_states(params, stack, frames, tower)
    patches = (x[:, stack.num_prefix_tokens :] for x in states)
    return [x.reshape(x.shape[0], *stack.shape, stack.width) for x in patches]


def spread(model: dv.Model, frames: np.ndarray, pairs: list[int]) -> list[dict[str, Any]]:
    """One row for each layer: share of cells that move by more than each threshold, over all
    unchanged cells and by distance (in patches, rounded up to the next of `DISTANCES`)."""
    tower = build(model.config)
    rows, columns = tower.grid
    layers = named_layers(tower)
    moved: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {name: [] for name, _ in layers}
    with Progress(len(pairs), "spread") as progress:
        for index in pairs:
            before, after = (
                outputs(model.params, frames[i : i + 1], tower) for i in (index - 1, index)
            )
            mask = dv.compute_patch_diff(frames[index - 1], frames[index], tower.patch)
            distance = np.asarray(distance_to(mask[None, :rows, :columns]))[0].reshape(-1)
            for (name, layer), *maps in zip(layers, before, after, strict=True):
                a, b = (np.asarray(x[0], np.float64) for x in maps)
                scale = np.sqrt(np.square(b).mean())
                cells = by_cell(np.square(a - b).mean(-1), layer.cell)
                moved[name].append((np.sqrt(cells) / scale, distance))
            progress(str(index))
    found = []
    for name, layer in layers:
        amount, distance = (np.concatenate(part) for part in zip(*moved[name], strict=True))
        row: dict[str, Any] = {"layer": name, "stage": layer.stage}
        for threshold in MOVED:
            over = amount > threshold
            row[f"{threshold:g}"] = float(over[distance > 0].mean())
            low = -1
            for high in DISTANCES:
                inside = (distance > low) & (distance <= high)
                row[f"{threshold:g} at {high}"] = (
                    float(over[inside].mean()) if inside.any() else None
                )
                low = high
        found.append(row)
    return found


def by_cell(values: np.ndarray, side: int) -> np.ndarray:
    """Mean of `[H, W]` over each cell of that side, `[P]`; cells may reach beyond the map."""
    (rows, columns), (height, width) = (-(-n // side) for n in values.shape), values.shape
    short = [(0, rows * side - height), (0, columns * side - width)]
    parts = np.pad(values, short, constant_values=np.nan).reshape(rows, side, columns, side)
    return np.nanmean(parts, axis=(1, 3)).reshape(-1)


def cost(model: dv.Model, frames: np.ndarray, pairs: list[int]) -> list[dict[str, Any]]:
    """One row for each policy, the cheapest first; see `sweep`."""
    named = policies(build(model.config))
    with Progress(len(named) * len(pairs), "policies") as progress:
        return sweep(model, frames, pairs, named, progress)


def noise_floor(model: dv.Model, frames: np.ndarray, pairs: list[int]) -> dict[str, Any]:
    """How much rounding to bfloat16 moves the tokens, and how much the changes do, relative to
    the tokens' norm; `tails` over the pairs."""
    from diffvis_jax.checkpoints.store import cast

    config, params = cast(model.config, model.params, "bfloat16")
    rounding, change = [], []
    for index in pairs:
        old, new = (
            np.asarray(jit_encode(model.params, frames[i : i + 1], config=model.config)[0])
            for i in (index - 1, index)
        )
        rough = np.asarray(jit_encode(params, frames[index : index + 1], config=config)[0])
        rounding.append(float(np.linalg.norm(rough - new) / np.linalg.norm(new)))
        change.append(float(np.linalg.norm(old - new) / np.linalg.norm(new)))
    return {"rounding": tails(rounding), "change": tails(change)}


def study(model: dv.Model, frames: np.ndarray, pairs: list[int]) -> dict[str, Any]:
    return {
        "model": model.name,
        "bfloat16": noise_floor(model, frames, pairs),
        "spread": spread(model, frames, pairs),
        "cost": cost(model, frames, pairs),
    }


def last_layers(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of `spread` for the last layer of each stage."""
    return list({row["stage"]: row for row in rows}.values())


def print_tables(result: dict[str, Any]) -> None:
    """The tables of docs/fidelity.md."""
    print(f"\n### {result['model']}\n")
    ends = last_layers(result["spread"])
    head = ["after", *(f"> {t:g} of RMS" for t in MOVED)]
    print_table([head, *([r["layer"], *(f"{r[f'{t:g}']:.0%}" for t in MOVED)] for r in ends)])
    print()
    head = ["> 0.01 of RMS, by distance", *map(str, DISTANCES)]
    shares = ([decimal(row[f"0.01 at {d}"], ".0%") for d in DISTANCES] for row in ends)
    print_table([head, *([r["layer"], *cells] for r, cells in zip(ends, shares, strict=True))])
    print()
    print_table(cost_table(result["cost"]))
    rounding, change = (
        tails_text(result["bfloat16"][key], lambda x: decimal(x, ".2%"))
        for key in ("rounding", "change")
    )
    print(f"\n{TAILS}, of the tokens' norm: rounding to bfloat16 {rounding}, changes {change}")


def draw(results: list[dict[str, Any]], target: Path) -> None:
    """Missed change against share of dense MACs, and spread against distance; one column each."""
    plt = pyplot()
    figure, axes = plt.subplots(2, len(results), figsize=(6 * len(results), 9), squeeze=False)
    for column, result in enumerate(results):
        top, bottom = axes[0, column], axes[1, column]
        for series in ("flat margin", "growing margin"):
            rows = [row for row in result["cost"] if family(row["policy"]) == series]
            if not rows:  # a tower of one stage has no growing margins
                continue
            # Growing margins grow in several ways: a line through them would mean nothing.
            line, dots = ("o", "o") if series == "growing margin" else ("o-", "o:")
            top.plot(*points(rows), line, label=f"{series}, changed")
            color = top.lines[-1].get_color()
            top.plot(*points(rows, "missed_all"), dots, color=color, mfc="none")
            top.plot(*points(rows, key="p90"), "^", color=color, alpha=0.4)
        top.set(
            title=result["model"],
            xlabel="share of dense MACs, %",
            ylabel="missed change, %: median; triangle: p90; hollow: over all",
            ylim=(0, 100),
        )
        top.legend()
        for row in last_layers(result["spread"]):
            known = [d for d in DISTANCES if row[f"0.01 at {d}"] is not None]
            shares = [100 * row[f"0.01 at {d}"] for d in known]
            bottom.plot(known, shares, "o-", label=f"after {row['layer']}")
        bottom.set(
            xlabel="distance from the nearest changed patch, patches",
            ylabel="cells that move by > 1 % of RMS, %",
            ylim=(-2, 102),
        )
        bottom.legend()
    save(figure, target)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add_model(add)
    add("--frames", type=Path, default=BUNDLED, help="a recording (the bundled session)")
    add("--most", type=float, default=0.1, help="largest share of changed patches (0.1)")
    add("--seed", type=int, default=0, help="random seed of the random weights (0)")
    add("--output", type=Path, default=Path("fidelity_output"))
    args = parser.parse_args()
    return run_script(lambda: run(args))


def run(args: argparse.Namespace) -> int:
    check_directory("--output", args.output)
    pyplot()  # before minutes of work
    model = dv.load(find_model(args.model), dtype="float32")
    recording = read_recording(args.frames)
    frames = dv.preprocess(list(recording.paths), model.config)
    pairs = small_changes(frames, build(model.config).patch, args.most)
    if not pairs:
        raise ValueError(f"{args.frames}: no two frames differ in at most {args.most:.0%}")
    print(f"{len(pairs)} pairs of frames, {frame_text(model.config)}, float32")
    random = dv.Model(model.config, dv.init_params(model.config, args.seed), "random weights")
    results = [study(model, frames, pairs), study(random, frames, pairs)]
    for result in results:
        print_tables(result)
    args.output.mkdir(parents=True, exist_ok=True)
    write_json(
        args.output / "fidelity.json",
        {"jax": jax.__version__, "pairs": pairs, "results": results},
    )
    draw(results, args.output / "fidelity.png")
    print(f"\nwritten: {args.output}/fidelity.json, fidelity.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
