"""Measures what frames of each size cost on this machine, and what is found in them.

    diffvis profile SESSIONS --model NAME --sizes 512,768,1024 --output profile.json
    diffvis watch --model NAME --size auto --latency-budget-ms 200 --profile profile.json

Runs recorded sessions at every size, in full and under each policy. Prints a table, and writes a
file from which `--size auto` of predict and watch chooses the largest size that fits. Scores need a
grounding head, and sessions with targets.
"""

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffvis_jax.cli.bundled import BUNDLED
from diffvis_jax.cli.command_line import (
    Parser,
    check_file,
    number,
    run_script,
    sides,
    tell,
    whole,
)
from diffvis_jax.cli.models import add_model, find_model
from diffvis_jax.cli.named_policies import HELP as POLICY_HELP
from diffvis_jax.cli.named_policies import find_policies

if TYPE_CHECKING:  # so that --help does not wait for JAX
    from diffvis_jax.datasets.records import Stream
    from diffvis_jax.resolution.profile import Profile


def _sizes(text: str) -> list[Any]:
    return [sides(part.strip()) for part in text.split(",")]


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add(
        "data",
        type=Path,
        nargs="*",
        default=[BUNDLED],
        metavar="SESSIONS",
        help="recorded sessions: folders of frames, with a trajectory.json where targets are known "
        "(default: the bundled session, without targets)",
    )
    add_model(add)
    add(
        "--sizes",
        type=_sizes,
        metavar="N,..",
        help="sides of square frames in pixels; of Qwen2.5-VL the longer side, or HEIGHTxWIDTH "
        "(default: 3/8, 1/2 and 3/4 of the model's own, and that)",
    )
    add(
        "--policies",
        "--policy",
        default="faithful,fast",
        help=f"each {POLICY_HELP} (%(default)s); full encodes are measured besides",
    )
    add("--dtype", choices=("float32", "bfloat16"), help="(default: as the weights are)")
    frames = whole(1, 10**9, "a whole number >= 1")
    add("--max-streams", type=frames, metavar="N", help="the first so many sessions (all)")
    add("--max-frames", type=frames, metavar="N", help="the first so many frames of each (all)")
    add("--workers", type=frames, default=2, help="threads that decode images (%(default)s)")
    add("--output", type=Path, default=Path("profile.json"), help="(%(default)s)")
    add("--page", type=Path, metavar="FILE", help="table and plot as a page (extra: viz)")
    add(
        "--latency-budget-ms",
        type=number(1e-3, 1e9, "a number of milliseconds above 0"),
        metavar="N",
        help="also say which size fits under each policy",
    )
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status."""
    args = build_parser().parse_args(arguments)
    return run_script(lambda: run(args))


def run(args: argparse.Namespace) -> int:
    """Checks everything that can be checked, then loads, measures and reports."""
    import diffvis_jax as dv
    from diffvis_jax.cli.frame_sizes import tell_overview
    from diffvis_jax.cli.profile_report import profile_table, write_profile_page
    from diffvis_jax.report.table import machine_text, print_table
    from diffvis_jax.resolution.measure import profile, screen_sizes, sized_configs
    from diffvis_jax.resolution.profile import save_profile
    from diffvis_jax.resolution.sizes import default_sizes
    from diffvis_jax.towers import build
    from diffvis_jax.utils.progress import Progress

    check_file("--output", args.output)
    if args.page:
        from diffvis_jax.cli.plots import pyplot

        check_file("--page", args.page)
        pyplot()  # before minutes of work
    policies = find_policies(args.policies)
    sessions = read_sessions(args)
    screens = screen_sizes(sessions)
    model = dv.load(find_model(args.model), dtype=args.dtype)
    for policy in policies.values():
        policy.margins(build(model.config))
    sizes = args.sizes or default_sizes(model.config, screens[0])
    count = len(sized_configs(model.config, sizes, screens))
    tell_overview(model)
    frames = sum(len(session.screens) for session in sessions)
    tell(f"{model.name}, {machine_text()}: {count} sizes of {frames} frames; compiling comes first")
    with Progress(count * frames, "frames") as bar:
        found = profile(
            model,
            sessions,
            sizes,
            policies,
            workers=args.workers,
            on_frames=lambda size, frames: bar(size, frames),
        )
    save_profile(found, args.output)
    print_table(profile_table(found))
    print(f"\nwritten: {args.output}")
    if args.page:
        print(f"written: {write_profile_page(found, args.page)}")
    if args.latency_budget_ms:
        tell_choices(found, args.latency_budget_ms)
    return 0


def read_sessions(args: argparse.Namespace) -> "list[Stream]":
    """The sessions of the arguments, as long and as many as they say."""
    from diffvis_jax.datasets import open_dataset

    streams = [stream for path in args.data for stream in open_dataset(path).streams]
    return [
        dataclasses.replace(stream, screens=stream.screens[: args.max_frames])
        for stream in streams[: args.max_streams]
    ]


def tell_choices(found: "Profile", budget_ms: float) -> None:
    """The size that fits under each policy, or why none does."""
    from diffvis_jax.errors import ConfigError
    from diffvis_jax.evaluation.summary import FULL
    from diffvis_jax.resolution.choose import choose_size

    for name in (FULL, *found.policies):
        try:
            print(choose_size(found, budget_ms, policy=name).why)
        except ConfigError as error:
            print(error)
