"""Encodes a recorded desktop session differentially, and shows what that saves and what it misses.

With no options: the session and the small trained tower bundled with the repository, which finds
what can be clicked. Prints a line per frame, and writes pictures and a page to step through.
"""

import argparse
import dataclasses
import math
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffvis_jax.cli.command_line import (
    Parser,
    check_directory,
    check_file,
    clear_line,
    number,
    run_script,
    whole,
    write_json,
)
from diffvis_jax.cli.frame_sizes import add_bounds, has_sizes, sized_for, tell_overview, with_bounds
from diffvis_jax.cli.models import add_model, find_model
from diffvis_jax.cli.named_policies import HELP as POLICY_HELP
from diffvis_jax.cli.named_policies import find_policies
from diffvis_jax.cli.source import add_max_frames, add_source

PICTURE_WIDTH = 1280  # of the overlays, in pixels

RANDOM_NOTE = (
    "The weights are random: times and recomputed shares are those of a trained tower, the missed "
    "change is not. Without --arch the demo uses trained ones."
)
BFLOAT16_NOTE = (
    "In bfloat16, rounding alone moves the tokens by about as much as a typed letter does: small "
    "missed changes drown in it. --dtype float32 measures fidelity."
)
FLOAT32_NOTE = (
    "Computed in float32, because rounding to bfloat16 alone moves the tokens by about as much "
    "as a typed letter does."
)


def _margin(text: str) -> float | tuple[float, ...]:
    """`2`, `1,1,2,4,8` or `1 1 2 4 8`, or `none` for unlimited."""
    if text.lower() == "none":
        return math.inf
    try:
        values = tuple(float(part) for part in re.split(" *, *| +", text.strip()))
    except ValueError:
        values = (-1.0,)
    if not all(value >= 0 for value in values):
        raise argparse.ArgumentTypeError(
            "expected a number of patches >= 0, one for each stage separated by commas or spaces, "
            f"or none; got {text!r}"
        )
    return values[0] if len(values) == 1 else values


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_argument_group("what is encoded")
    add_source(what.add_argument)
    add_max_frames(what.add_argument, "--num-frames")
    tower = parser.add_argument_group("the tower")
    add_model(tower.add_argument)
    tower.add_argument(
        "--arch",
        metavar="NAME",
        help="instead of weights: a released tower at full size with random weights, to see its "
        "speed: fastvithd, clip, siglip or qwen2_5_vl",
    )
    tower.add_argument(
        "--size",
        metavar="PIXELS",
        type=whole(64, 4096, "a whole number of pixels, 64-4096"),
        help="side of the tower's input (default: that of the weights; FastViTHD's is 1024)",
    )
    add_bounds(tower.add_argument)
    tower.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="of the computation (default: float32; bfloat16 has a noise floor of its own)",
    )
    tower.add_argument(
        "--seed",
        metavar="N",
        type=whole(0, 2**31 - 1, "a whole number, 0-2147483647"),
        help="of the random weights of --arch (default: 0)",
    )
    policy = parser.add_argument_group("what may be left out")
    policy.add_argument(
        "--policy",
        metavar="NAME,..",
        default="faithful",
        help=f"{POLICY_HELP} (default: faithful); the options below change it. Several, separated "
        "by commas, are run one after the other, and the page switches between them; the pictures "
        "and the film are of the first",
    )
    policy.add_argument(
        "--change-threshold",
        metavar="SHARE",
        type=number(0, 1, "a share of the full scale, 0-1"),
        help="a patch has changed if a pixel differs by more than this, 0-1 (default: 0, at all)",
    )
    policy.add_argument(
        "--margin",
        metavar="PATCHES",
        type=_margin,
        help="how far around changed patches may be recomputed: a number, one for each stage of "
        "the tower (1,1,2,4,8 or '1 1 2 4 8'), or none for exact",
    )
    out = parser.add_argument_group("what is written")
    out.add_argument(
        "--output",
        metavar="DIR",
        type=Path,
        default=Path("demo_output"),
        help="directory of the pictures and the page (default: demo_output)",
    )
    out.add_argument(
        "--visualize",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="write the pictures and the page (default: yes)",
    )
    out.add_argument(
        "--json",
        metavar="FILE",
        type=Path,
        help="write all numbers as JSON; of several policies, policy, summary and frames of each "
        "by its name under policies",
    )
    out.add_argument(
        "--film", metavar="FILE", type=Path, help="the pictures as an animation, .webp or .gif"
    )
    return parser


# ---- the run ----------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status."""
    args = build_parser().parse_args(arguments)
    return run_script(lambda: run(args))


def run(args: argparse.Namespace) -> int:
    """Checks everything that can be checked, then loads, encodes and reports."""
    # Here, so that --help and wrong options do not wait for JAX.
    import diffvis_jax as dv
    from diffvis_jax.images.source import read_source
    from diffvis_jax.measure.recording_run import run_session
    from diffvis_jax.report.table import Table
    from diffvis_jax.towers import build
    from diffvis_jax.utils.progress import Progress

    if args.arch and args.model:
        raise ValueError("--arch draws random weights, --model names some: give one of them")
    if args.seed is not None and not args.arch:
        raise ValueError("--seed is of the random weights that --arch draws: give that")
    recording = read_source(args.frames, most=args.max_frames, say=tell)
    if len(recording.paths) < 2:
        raise ValueError(f"{args.frames}: one frame shows no change: give at least two")
    check_outputs(args)
    policies = make_policies(args)
    if args.arch is None:
        model = dv.load(find_model(args.model), dtype=args.dtype)
    else:
        model = dv.Model(random_config(args), {}, "random weights")
    model = sized(model, args, recording.paths)
    tell_overview(model)
    for policy in policies.values():
        policy.margins(build(model.config))
    frames = dv.preprocess(list(recording.paths), model.config)
    if args.arch is not None:
        seed = args.seed or 0
        tell(f"drawing random weights (seed {seed})")
        model = dataclasses.replace(model, params=dv.init_params(model.config, seed=seed))

    table = Table(model, recording, notes_of(args))
    table.about()
    results = {}
    for name, policy in policies.items():
        if len(policies) > 1:
            print(f"\n{policy_text(name, policy, build(model.config))}")
        table.head()
        with Progress(len(frames), "encoding") as progress:

            def on_frame(frame, progress=progress):
                clear_line()
                table.row(frame)
                progress(recording.labels[frame.index])

            results[name] = run_session(model, frames, policy, on_frame=on_frame, on_stage=tell)
        table.totals(results[name])
    write_outputs(args, model, policies, recording, results)
    return 0


def random_config(args: argparse.Namespace) -> Any:
    """The config of `--arch`.

    Raises:
      ValueError: there is no such tower.
    """
    from diffvis_jax.towers.registry import ARCHITECTURES

    if args.arch not in ARCHITECTURES:
        raise ValueError(f"--arch must be one of {', '.join(ARCHITECTURES)}, got '{args.arch}'")
    return dataclasses.replace(ARCHITECTURES[args.arch], dtype=args.dtype)


def sized(model: Any, args: argparse.Namespace, paths: Sequence[Path]) -> Any:
    """The model for frames of the size that was asked for, or where the pictures tell, of theirs.

    Raises:
      ValueError: both, or pictures of several sizes.
    """
    from diffvis_jax.towers import with_size

    if args.size and has_sizes(model):
        raise ValueError(
            "--size: this tower takes pictures in their own shape; --max-pixels bounds them"
        )
    model = dataclasses.replace(model, config=with_size(model.config, args.size))
    return sized_for(with_bounds(model, args), paths)


def make_policies(args: argparse.Namespace) -> dict[str, Any]:
    """What the options ask for, by name.

    Raises:
      ValueError: there is no such policy.
    """
    names = ("change_threshold", "margin")
    chosen = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    return {
        name: dataclasses.replace(policy, **chosen)
        for name, policy in find_policies(args.policy).items()
    }


def check_outputs(args: argparse.Namespace) -> None:
    """Finds out before the work whether its results can be written.

    Raises:
      OSError: they cannot.
    """
    from diffvis_jax.report.film import check_film

    for flag, file in (("--json", args.json), ("--film", args.film)):
        if file is not None:
            check_file(flag, file)
    if args.film is not None:
        check_film(args.film)
        if not args.visualize:
            raise ValueError("--film is made of the pictures that --no-visualize leaves out")
    if args.visualize:
        check_directory("--output", args.output)


def notes_of(args: argparse.Namespace) -> list[str]:
    """What has to be known to read the numbers."""
    notes = [RANDOM_NOTE] if args.arch else []
    return [*notes, BFLOAT16_NOTE if args.dtype == "bfloat16" else FLOAT32_NOTE]


# ---- what is printed --------------------------------------------------------------------------


def tell(text: str) -> None:
    """A line about what goes on, beside the results."""
    long = " (about a minute, the first time)" if text.startswith("compiling") else ""
    print(f"{text} ...{long}", file=sys.stderr, flush=True)


# ---- what is written --------------------------------------------------------------------------


def write_outputs(
    args: argparse.Namespace,
    model: Any,
    policies: dict[str, Any],
    recording: Any,
    results: dict[str, Any],
) -> None:
    """Writes pictures, page and JSON, and prints their paths."""
    from diffvis_jax.report.table import machine_text, tower_text

    if args.json is not None:
        numbers = {
            name: numbers_of(policies[name], recording, result) for name, result in results.items()
        }
        content = {
            "recording": recording.title,
            "tower": tower_text(model),
            "machine": machine_text(),
            "notes": notes_of(args),
            **(numbers.popitem()[1] if len(numbers) == 1 else {"policies": numbers}),
        }
        write_json(args.json, content)
        print(f"numbers: {args.json}")
    if args.visualize:
        from diffvis_jax.report.film import write_film
        from diffvis_jax.report.session_page import verdict_of, write_session_page
        from diffvis_jax.towers import build

        args.output.mkdir(parents=True, exist_ok=True)
        shown = next(iter(results.values()))
        pictures = write_overlays(args.output, model, recording, shown)
        print(f"pictures: {args.output}{os.sep}frame_*.png")
        if args.film is not None:
            verdicts = map(verdict_of, shown.frames)
            captions = map("{}\n{}".format, recording.labels, verdicts)
            print(f"film: {write_film(pictures, list(captions), args.film)}")
        page = write_session_page(
            args.output / "index.html",
            results,
            recording.paths,
            recording.labels,
            model.config,
            title=recording.title,
            facts=[
                ("tower", tower_text(model)),
                ("machine", machine_text()),
                *(
                    ("policy", policy_text(name, policy, build(model.config)))
                    for name, policy in policies.items()
                ),
            ],
            notes=[*notes_of(args), *([recording.note] if recording.note else [])],
        )
        print(f"page: {page}")


def numbers_of(policy: Any, recording: Any, result: Any) -> dict[str, Any]:
    """What the JSON file says of one policy."""
    from diffvis_jax.core.policy_file import policy_fields

    return {
        "policy": policy_fields(policy),
        "summary": result.summary(),
        "frames": [
            {**frame.numbers(), "label": label, "file": path.name}
            for frame, label, path in zip(
                result.frames, recording.labels, recording.paths, strict=True
            )
        ],
    }


def policy_text(name: str, policy: Any, tower: Any) -> str:
    """A policy in a line."""
    from diffvis_jax.core.policy_file import policy_fields

    fields = policy_fields(policy.resolved(tower))
    margins = ["unlimited" if part is None else f"{part:g}" for part in fields["margin"]]
    said = [f"margin {' '.join(margins if len(set(margins)) > 1 else margins[:1])}"]
    if (most := fields["max_changed_patches"]) is not None:
        said.append(f"in full above {most} changed patches")
    said += [f"change threshold {fields['change_threshold']}", f"settle {fields['settle']}"]
    return f"{name}: {', '.join(said)}"


def write_overlays(directory: Path, model: Any, recording: Any, result: Any) -> list[Path]:
    """One picture for each frame: the screenshot, with what changed and what was recomputed.

    Those that a longer run has left there are removed: the pictures are those of one run.
    """
    import diffvis_jax as dv
    from diffvis_jax.grounding.find import on_screenshot
    from diffvis_jax.images.recording import open_screenshot
    from diffvis_jax.report.elements import draw_elements
    from diffvis_jax.towers import build
    from diffvis_jax.utils.atomic_file import replacing
    from diffvis_jax.utils.progress import Progress

    pictures = []
    with Progress(len(result.frames), "drawing") as progress:
        for frame, path in zip(result.frames, recording.paths, strict=True):
            picture = open_screenshot(path)
            width, height = picture.size
            drawn = dv.visualize_changed_patches(
                picture,
                frame.changed,
                heat=frame.cell_recomputed,
                placement=dv.placement(width, height, model.config),
                patch_size=build(model.config).patch,
            )
            if frame.elements is not None:
                where = dv.placement(width, height, model.config)
                drawn = draw_elements(drawn, on_screenshot(frame.elements, where))
            drawn.thumbnail((PICTURE_WIDTH, PICTURE_WIDTH))
            pictures.append(directory / f"frame_{frame.index:03d}.png")
            with replacing(pictures[-1]) as partial:
                drawn.save(partial)
            progress(path.name)
    for left in directory.glob("frame_[0-9][0-9][0-9]*.png"):
        if left not in pictures and left.stem.removeprefix("frame_").isdigit():
            left.unlink()
    return pictures
