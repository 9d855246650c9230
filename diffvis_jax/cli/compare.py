"""What else could be done with a screen that hardly changes? Side by side, on one session.

    diffvis compare SCREENSHOTS

* full: every frame is encoded in full, by this library and, with --torch, by PyTorch (float32 and
  bfloat16, channels-last, same weights; extra: parity).
* skip similar frames: tokens are kept while the frame differs from the one last encoded by less
  than 5 % on average, as streaming servers do.
* isolated windows: as this technique was first described: patches that differ from the frame
  before by more than 5 % on average are cut out with their neighbours (3 x 3 patches), and the
  tower is run on each such window by itself; more than 50: a full encode. (FastViTHD only.)
* fixed ratio: STC's rule, 25 % of the tokens in each layer and every second frame in full; token
  gates: those of Eventful Transformers, 25 % of the tokens at each. (CLIP only.)
* this library's policies, which compare with what was last encoded, and settle in idle frames.

For each: time against the full encode, share of the change missed, and how often hardly anything of
a change arrived. In float32.
"""

import argparse
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import diffvis_jax as dv
from diffvis_jax.checkpoints import torch_reference
from diffvis_jax.cli.command_line import Parser, check_file, run_script, tell, write_json
from diffvis_jax.cli.frame_sizes import add_bounds, sized_for, tell_overview, with_bounds
from diffvis_jax.cli.models import add_model, find_model
from diffvis_jax.cli.named_policies import HELP as POLICY_HELP
from diffvis_jax.cli.named_policies import find_policies
from diffvis_jax.cli.source import add_max_frames, add_source
from diffvis_jax.cli.token_baselines import fixed_ratio, token_gates
from diffvis_jax.core.change import patch_difference
from diffvis_jax.core.step import jit_encode
from diffvis_jax.images.source import read_source
from diffvis_jax.measure.missed import changed_tokens, missed_at
from diffvis_jax.metrics import tails
from diffvis_jax.report.table import frame_text, print_table
from diffvis_jax.report.text import TAILS, milliseconds, tails_text, times
from diffvis_jax.towers import build
from diffvis_jax.towers.registry import ARCHITECTURES
from diffvis_jax.utils.progress import Progress

SIMILAR = 0.05  # mean difference, of the full scale
WINDOWS = 50  # most patches that are encoded by themselves
AT_ONCE = 5  # windows of one call; the last call is filled up
UNSEEN = 0.9  # a change of which this share is missing was as good as not seen

Encoder = Callable[[np.ndarray], jax.Array | np.ndarray]  # uint8 [1, S, S, 3] -> float32 [1, N, D]


def full(model: dv.Model) -> Encoder:
    """Every frame in full."""
    return lambda frame: jit_encode(model.params, frame, config=model.config)  # type: ignore[return-value]


def skip_similar(model: dv.Model) -> Encoder:
    """The old tokens while the frame is similar to the one they are of."""
    encode = full(model)
    held: dict[str, Any] = {}

    def run(frame: np.ndarray) -> Any:
        if held:
            difference = np.abs(frame.astype(np.int16) - held["frame"].astype(np.int16)).mean()
            if difference / 255 < SIMILAR:
                return held["tokens"]
        held.update(frame=frame, tokens=encode(frame))
        return held["tokens"]

    return run


def isolated_windows(model: dv.Model) -> Encoder:
    """Changed patches by themselves, each in a window of 3 x 3 patches."""
    encode, tower = full(model), build(model.config)
    held: dict[str, Any] = {}
    patch, (_, columns) = tower.patch, tower.grid
    small = dataclasses.replace(model.config, size=3 * patch)

    def run(frame: np.ndarray) -> Any:
        before, held["frame"] = held.get("frame"), frame
        if before is None:
            held["tokens"] = encode(frame)
            return held["tokens"]
        changed = (
            np.asarray(patch_difference(jnp.asarray(frame), jnp.asarray(before), patch, "mean"))[0]
            > SIMILAR
        )
        at = np.argwhere(changed)
        if len(at) > WINDOWS:
            held["tokens"] = encode(frame)
        elif len(at):
            new = encode_windows(frame[0], at)
            held["tokens"] = held["tokens"].at[0, at @ (columns, 1)].set(new)
        return held["tokens"]

    def encode_windows(frame: np.ndarray, at: np.ndarray) -> np.ndarray:
        padded = np.pad(frame, ((patch, patch), (patch, patch), (0, 0)))
        side, found = 3 * patch, []
        for start in range(0, len(at), AT_ONCE):
            some = np.resize(at[start : start + AT_ONCE], (AT_ONCE, 2)) * patch
            windows = np.stack([padded[r : r + side, c : c + side] for r, c in some])
            tokens = jit_encode(model.params, windows, config=small)
            found.append(np.asarray(tokens)[:, 4])  # type: ignore[index]  # of 3 x 3 the middle
        return np.concatenate(found)[: len(at)]

    encode_windows(np.zeros((*tower.frame, 3), np.uint8), np.zeros((1, 2), int))
    return run


def pytorch(model: dv.Model, dtype: str) -> Encoder:
    """Every frame in full, by PyTorch with the same weights."""
    import torch

    network = torch_reference.torch_tower(model.config, model.params)
    kind, layout = getattr(torch, dtype), torch.channels_last
    if isinstance(model.config, dv.Qwen25VisionConfig):  # has no convolution of images
        layout = torch.contiguous_format
    network = network.to(dtype=kind, memory_format=layout)

    def run(frame: np.ndarray) -> np.ndarray:
        pixels = torch_reference.pixels_to_torch(frame, model.config)
        with torch.inference_mode():
            return network(pixels.to(dtype=kind, memory_format=layout)).float().numpy()

    return run


def ours(model: dv.Model, policy: dv.Policy, slots: int = 1) -> Encoder:
    """The differential step; with several slots it goes on from the nearest of so many screens."""
    return dv.DifferentialVisionEncoder(model, policy, slots=slots).encode


def contenders(
    model: dv.Model, policies: dict[str, dv.Policy], torch: bool, slots: int
) -> dict[str, Callable[[], Encoder]]:
    """Name -> what makes a fresh encoder."""
    found: dict[str, Callable[[], Encoder]] = {
        "full encode": lambda: full(model),
        "skip similar frames": lambda: skip_similar(model),
    }
    if torch:
        for dtype in ("float32", "bfloat16"):
            found[f"PyTorch {dtype}"] = lambda dtype=dtype: pytorch(model, dtype)
    if isinstance(model.config, dv.FastViTHDConfig):
        found["isolated windows"] = lambda: isolated_windows(model)
    elif isinstance(model.config, dv.CLIPConfig):
        found["fixed ratio (STC)"] = lambda: fixed_ratio(model)
        found["token gates (Eventful)"] = lambda: token_gates(model)
    for name, policy in policies.items():
        found[f"ours, {name}"] = lambda policy=policy: ours(model, policy)
        if slots > 1:
            found[f"ours, {name}, {slots} slots"] = lambda policy=policy: ours(model, policy, slots)
    return found


def run_all(
    model: dv.Model, frames: np.ndarray, made: dict[str, Callable[[], Encoder]]
) -> dict[str, list[dict[str, Any]]]:
    """One row for each contender and frame after the first, the contenders taking turns."""
    encoders = {name: make() for name, make in made.items()}
    for name in made:  # all compile here, on frames that are not counted: a full encode, a change
        warm = made[name]()
        for frame in frames[:2]:
            jax.block_until_ready(warm(frame[None]))
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in made}
    tower, old = build(model.config), None
    with Progress(len(frames) * len(made), "encoding") as progress:
        for index in range(len(frames)):
            frame, tokens = frames[index : index + 1], {}
            ms = {}
            for name, encode in encoders.items():
                start = time.perf_counter()
                result = jax.block_until_ready(encode(frame))
                ms[name] = 1e3 * (time.perf_counter() - start)
                tokens[name] = np.asarray(result[0])
                progress(name)
            new = tokens["full encode"]
            if old is not None:
                at = np.asarray(changed_tokens(tower, frames[index - 1 : index], frame)[0])
                for name, encoded in tokens.items():
                    missed = missed_at(at, encoded, new, old).missed_changed
                    error = float(np.linalg.norm(encoded - new) / np.linalg.norm(new))
                    rows[name].append({"ms": ms[name], "missed": missed, "error": error})
            old = new
    return rows


def summary(rows: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Totals over the frames."""
    dense = sum(row["ms"] for row in rows["full encode"])
    found = {}
    for name, each in rows.items():
        missed = [row["missed"] for row in each if row["missed"] is not None]
        total = sum(row["ms"] for row in each)
        found[name] = {
            "ms": total / len(each),
            "speed_up": dense / total,
            "changes": len(missed),
            "missed": tails(missed),
            "unseen": sum(value >= UNSEEN for value in missed),
            "error_max": max(row["error"] for row in each),
            "error_last": each[-1]["error"],
        }
    return found


def table(totals: dict[str, dict[str, Any]]) -> list[list[str]]:
    """Rows of text, the first their heads."""
    head = [
        *("", "a frame", "speed-up", f"missed change: {TAILS}", "changes hardly seen"),
        *("largest error of the tokens", "error after the last frame"),
    ]
    return [
        head,
        *(
            [
                name,
                milliseconds(row["ms"]),
                times(row["speed_up"]),
                tails_text(row["missed"]),
                f"{row['unseen']} of {row['changes']}",
                f"{row['error_max']:.2%}",
                f"{row['error_last']:.2%}",
            ]
            for name, row in totals.items()
        ),
    ]


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add_source(add)
    add_max_frames(add, "--num-frames")
    add_model(add)
    add(
        "--arch",
        choices=tuple(ARCHITECTURES),
        help="instead of weights: a released tower at full size with random weights, to see its "
        "speed",
    )
    add_bounds(add)
    add(
        "--policies",
        "--policy",
        default="faithful,fast,exact",
        help=f"each {POLICY_HELP} (%(default)s)",
    )
    add("--slots", type=int, default=1, help="each policy with so many remembered screens, too (1)")
    add("--torch", action="store_true", help="PyTorch too (extra: parity)")
    add("--json", type=Path, help="write all rows there")
    args = parser.parse_args(arguments)
    return run_script(lambda: run(args))


def run(args: argparse.Namespace) -> int:
    if args.arch and args.model:
        raise ValueError("--arch draws random weights, --model names some: give one of them")
    if args.json:
        check_file("--json", args.json)
    policies = find_policies(args.policies)
    if args.slots < 1:
        raise ValueError(f"--slots must be at least 1, got {args.slots}")
    if args.torch:
        torch_reference.require_torch()
    recording = read_source(args.frames, most=args.max_frames, say=tell)
    if len(recording.paths) < 2:
        raise ValueError(f"{args.frames}: two frames are needed")
    if args.arch:
        model = dv.Model(ARCHITECTURES[args.arch], {}, "random weights")
    else:
        model = dv.load(find_model(args.model), dtype="float32")
    model = sized_for(with_bounds(model, args), recording.paths)
    tell_overview(model)
    if args.arch:
        model = dataclasses.replace(model, params=dv.init_params(model.config))
        print("random weights: times are those of a trained tower, the missed change is not")
    if args.torch:
        pytorch(model, "float32")  # says at once whether PyTorch has such a tower
    frames = dv.preprocess(list(recording.paths), model.config)
    size = frame_text(model.config)
    print(f"{len(frames)} frames, {size}, float32; all compile first", flush=True)
    rows = run_all(model, frames, contenders(model, policies, args.torch, args.slots))
    print()
    print_table(table(summary(rows)))
    if args.json:
        write_json(args.json, {"jax": jax.__version__, "rows": rows})
    return 0
