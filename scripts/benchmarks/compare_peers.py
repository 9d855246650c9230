#!/usr/bin/env python3
"""Published ways of encoding only what changed, in their authors' own code, beside this library's.

    python scripts/benchmarks/compare_peers.py --eventful DIR --stc DIR  # CLIP ViT-L/14-336
    python scripts/benchmarks/compare_peers.py --sige DIR  # FastViTHD's stem and stages 0-2

DIR is a checkout of each (of SIGE one whose layers are built), which is not part of this library;
PyTorch and transformers come with the extra `parity`. All have the same seeded random weights, in
float32. Before anything is measured, each must give the full encode of a tiny tower when everything
may be recomputed.

A step goes from a full encode of one frame to the same frame with some patches replaced; its missed
change is measured against this library's full encode. Contenders take turns, each after a pause:
one library's idle threads spin for a while, and slow down what comes next.
"""

import argparse
import itertools
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

import diffvis_jax as dv
from diffvis_jax.checkpoints.torch_reference import require_torch
from diffvis_jax.cli.benchmark_batch import amounts_of, edited, patches_of
from diffvis_jax.cli.benchmark_full import frame_of
from diffvis_jax.cli.bundled import BUNDLED
from diffvis_jax.cli.command_line import check_file, run_script, write_json
from diffvis_jax.core.step import jit_encode
from diffvis_jax.images.recording import read_recording
from diffvis_jax.measure.missed import Missed, changed_tokens, missed_at, missed_tails
from diffvis_jax.metrics import tails
from diffvis_jax.report.table import frame_text, machine_text, print_table
from diffvis_jax.report.text import MISSED, TAILS, milliseconds, missed_cells, tails_text, times
from diffvis_jax.towers import build
from diffvis_jax.utils.progress import Progress

PAUSE = 0.3  # seconds
ROUNDING = 1e-3  # of the largest token: float32 sums in another order
TINY_CLIP = dv.CLIPConfig(width=32, layers=3, heads=4, mlp_width=64, patch=8, size=32)
TINY_TRUNK = {"depths": (1, 2, 1, 1, 1), "widths": (8, 16, 32, 64, 128), "size": 256}


class Contender(Protocol):
    """Encodes a stream of frames `uint8 [1, H, W, 3]`."""

    def start(self, frame: np.ndarray) -> None:
        """Sees a frame in full; what it held before is forgotten."""

    def step(self, frame: np.ndarray) -> Any:
        """The next frame: tokens float32 `[1, N, D]`."""


class OursInFull:
    """This library, every frame in full."""

    def __init__(self, model: dv.Model):
        self._model = model

    def start(self, frame: np.ndarray) -> None:
        pass

    def step(self, frame: np.ndarray) -> Any:
        tokens = jit_encode(self._model.params, frame, config=self._model.config)
        return jax.block_until_ready(tokens)


class Ours:
    """This library's step."""

    def __init__(self, model: dv.Model, policy: dv.Policy):
        self._model, self._policy = model, policy
        self._serve = dv.make_step(model.config)
        self._first: np.ndarray | None = None
        self._fresh: Any = None
        self._cache: Any = None

    def start(self, frame: np.ndarray) -> None:
        if frame is not self._first:
            empty = dv.init_cache(self._model.config)
            _, self._fresh, _ = self._serve(self._model.params, empty, frame, self._policy)
            self._first = frame
        # A step consumes the cache it is given.
        self._cache = jax.block_until_ready(jax.tree.map(jnp.copy, self._fresh))

    def step(self, frame: np.ndarray) -> Any:
        served = self._serve(self._model.params, self._cache, frame, self._policy)
        tokens, self._cache, _ = jax.block_until_ready(served)
        return tokens


def random_model(config: Any) -> dv.Model:
    return dv.Model(config, dv.init_params(config), "random weights")


Contenders = dict[str, Contender]  # by name


def clip_contenders(model: dv.Model, args: argparse.Namespace, everything: bool) -> Contenders:
    """`everything`: each may recompute all rows."""
    from peers_vit import STC, Eventful, TorchCLIP, TorchFull

    clip, length = TorchCLIP(model), model.config.length
    found: Contenders = {"PyTorch, full": TorchFull(clip), "ours, full": OursInFull(model)}
    rows = [length] if everything else args.rows
    if args.eventful:
        for kind, k in itertools.product(("EventfulTokenwiseBlock", "EventfulBlock"), rows):
            products = ", products too" if kind == "EventfulBlock" else ""
            found[f"Eventful, {k} rows{products}"] = Eventful(clip, args.eventful, kind, k)
    if args.stc:
        for ratio in [1.0] if everything else args.ratios:
            found[f"STC-Cacher, {ratio:.0%}"] = STC(clip, args.stc, ratio)
    return found | our_policies(model, everything)


def trunk_contenders(model: dv.Model, args: argparse.Namespace, everything: bool) -> Contenders:
    """Likewise; margins leave nothing out where every patch changes."""
    import torch
    from peers_sige import SIGE, TorchTrunk

    found: Contenders = {"ours, full": OursInFull(model)}
    for name, preset in build(model.config).presets.items():
        found[f"SIGE, {name}'s cells"] = SIGE(model, args.sige, preset.margins)
    for layout in (torch.contiguous_format, torch.channels_last):
        name = "PyTorch, full" + (", channels-last" if layout == torch.channels_last else "")
        found[name] = TorchTrunk(model, args.sige, layout)
    return found | our_policies(model, everything)


def our_policies(model: dv.Model, everything: bool) -> Contenders:
    if everything:
        return {"ours, exact": Ours(model, dv.Policy.exact())}
    return {
        f"ours, {name}": Ours(model, getattr(dv.Policy, name)()) for name in ("fast", "faithful")
    }


def check(contenders: Contenders, model: dv.Model) -> None:
    """Raises ValueError unless each gives the full encode where every patch changes."""
    rng, tower = np.random.default_rng(0), build(model.config)
    first, second = rng.integers(0, 256, (2, 1, *tower.frame, 3), np.uint8)
    full = np.asarray(jit_encode(model.params, second, config=model.config))
    for name, contender in contenders.items():
        contender.start(first)
        off = float(np.abs(np.asarray(contender.step(second)) - full).max() / np.abs(full).max())
        print(f"  {name}: {off:.1e}", flush=True)
        if not off < ROUNDING:
            raise ValueError(f"{name} is {off:.1e} off the full encode where all is recomputed")


def measure(
    contenders: Contenders,
    model: dv.Model,
    frame: np.ndarray,
    changed: Sequence[int],
    rounds: int,
) -> list[dict[str, Any]]:
    """One row for each number of changed patches and contender: `tails` over the rounds.

    Args:
      contenders: by name.
      model: the tower.
      frame: `uint8 [1, H, W, 3]` to begin with.
      changed: patches that are replaced.
      rounds: steps of each; one before them is not counted.
    """
    rng, tower, rows = np.random.default_rng(0), build(model.config), []
    old = np.asarray(jit_encode(model.params, frame, config=model.config)[0])
    with Progress(len(changed) * (rounds + 1) * len(contenders), "steps") as progress:
        for number in changed:
            ms: dict[str, list[float]] = {name: [] for name in contenders}
            missed: dict[str, list[Missed]] = {name: [] for name in contenders}
            for turn in range(rounds + 1):
                after = edited(frame, tower.patch, number, rng)
                at = np.asarray(changed_tokens(tower, frame, after)[0])
                full = np.asarray(jit_encode(model.params, after, config=model.config)[0])
                for name, contender in contenders.items():
                    contender.start(frame)
                    time.sleep(PAUSE)
                    begin = time.perf_counter()
                    tokens = contender.step(after)
                    took = 1e3 * (time.perf_counter() - begin)
                    if turn:
                        ms[name].append(took)
                        missed[name].append(missed_at(at, np.asarray(tokens)[0], full, old))
                    progress(f"{number} patches, {name}")
            for name in contenders:
                row = {"changed": number, "contender": name, "ms": tails(ms[name])}
                rows.append(row | missed_tails(missed[name]))
    return rows


def table(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Rows of text, the first their heads; speed-ups are over the fastest full encode."""
    head = ["changed patches", "encoder", f"a frame: {TAILS}", "speed-up"]
    cells = [[*head, *MISSED]]
    for row in rows:
        full = min(
            other["ms"]["median"]
            for other in rows
            if other["changed"] == row["changed"] and ", full" in other["contender"]
        )
        cells.append(
            [
                f"{row['changed']}",
                row["contender"],
                tails_text(row["ms"], milliseconds),
                times(full / row["ms"]["median"]),
                *missed_cells(row),
            ]
        )
    return cells


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--eventful", type=Path, metavar="DIR", help="WISION-Lab/eventful-transformer")
    add("--stc", type=Path, metavar="DIR", help="lern-to-write/STC")
    add("--sige", type=Path, metavar="DIR", help="lmxyy/sige, built; instead of the others")
    add("--changed", default="1,2,8,32", metavar="N,..", help="replaced patches (%(default)s)")
    add("--rows", type=int, nargs="+", default=[32, 144], help="that pass a gate (32 144)")
    add("--ratios", type=float, nargs="+", default=[0.05, 0.25], help="of STC (0.05 0.25)")
    add("--rounds", type=int, default=5, help="steps of each (%(default)s)")
    add("--check", action="store_true", help="only check that each works, on a tiny tower")
    add("--json", type=Path, help="write all rows there")
    args = parser.parse_args()
    return run_script(lambda: run(args))


def run(args: argparse.Namespace) -> int:
    if args.sige and (args.eventful or args.stc):
        raise ValueError("--sige is of another tower than --eventful and --stc: run it apart")
    if not (args.sige or args.eventful or args.stc):
        raise ValueError("give the folder of a peer: --eventful, --stc or --sige")
    if args.rounds < 1:
        raise ValueError(f"--rounds must be at least 1, got {args.rounds}")
    if args.json:
        check_file("--json", args.json)
    amounts = amounts_of(args.changed)
    require_torch()
    import torch

    if args.sige:
        from peers_sige import TrunkConfig

        make, tiny, config = trunk_contenders, TrunkConfig(**TINY_TRUNK), TrunkConfig()
    else:
        make, tiny, config = clip_contenders, TINY_CLIP, dv.CLIPConfig()
    changed = patches_of(amounts, build(config).cells)
    with torch.inference_mode():
        print("largest deviation from the full encode where everything changes, tiny tower:")
        small = random_model(tiny)
        check(make(small, args, everything=True), small)
        if args.check:
            return 0
        model = random_model(config)
        frame = frame_of(read_recording(BUNDLED).paths[0], config)
        versions = f"jax {jax.__version__}, torch {torch.__version__}"
        print(f"\n{frame_text(config)}, {versions}; {machine_text()}; {args.rounds} rounds\n")
        contenders = make(model, args, everything=False)
        rows = measure(contenders, model, frame, changed, args.rounds)
    print_table(table(rows))
    if args.json:
        write_json(args.json, {"jax": jax.__version__, "torch": torch.__version__, "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
