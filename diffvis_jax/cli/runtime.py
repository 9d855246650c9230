"""Replays recorded sessions to a control loop: deadlines kept, ages of features, change missed.

    diffvis runtime SESSIONS --policies full,faithful,fast --json runtime.json --page runtime.html
    diffvis runtime --simulate --encoder-ms 380,40   # no model, at once
    diffvis runtime --sweep                          # ages by encode time

SESSIONS is a recording, or a folder of such, replayed at the times that its trajectory.json says,
or a frame at every tick. The encoder runs in a thread of its own; "synchronous full" encodes every
frame in full inside the tick, "async full" in the thread.

Missed: of the last change on the screen, the share that the tokens lacked which a tick used, for
being late or approximate: they are compared, afterwards, with a full encode of the frame that was
on the screen at that moment.
"""

import argparse
import math
import random
from pathlib import Path
from typing import Any

from diffvis_jax.cli.command_line import (
    Parser,
    check_file,
    number,
    run_script,
    tell,
    whole,
    write_json,
)
from diffvis_jax.cli.frame_sizes import add_bounds
from diffvis_jax.cli.models import add_model
from diffvis_jax.cli.named_policies import HELP as POLICY_HELP
from diffvis_jax.cli.source import add_max_frames, add_source

FULL = "full"  # among --policies: every frame in full


def _encoder_ms(text: str) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if not values or not all(0 < value < math.inf for value in values[:1]):
        raise argparse.ArgumentTypeError(f"expected milliseconds, as 380 or 380,40, got {text!r}")
    if not all(0 <= value < math.inf for value in values):
        raise argparse.ArgumentTypeError(f"expected milliseconds >= 0, got {text!r}")
    return values


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add_source(add, "--session", "--frames")
    add_max_frames(add)
    add_model(add)
    add_bounds(add)
    add(
        "--policies",
        "--policy",
        default=f"{FULL},faithful,fast",
        help=f"each '{FULL}' (every frame in full), {POLICY_HELP} (%(default)s)",
    )
    add(
        "--budget-ms",
        metavar="MS",
        type=number(0.1, 1e6, "milliseconds"),
        help="the last of the policies once more, its steps bounded to so long on this machine",
    )
    add("--no-synchronous", action="store_true", help="leave out the encoder inside the tick")
    add("--hz", type=number(0.01, 1000, "ticks a second"), default=10.0, help="ticks a second (10)")
    add(
        "--patience-ms",
        metavar="MS",
        type=number(0, 1e6, "milliseconds"),
        help="for so long a tick waits for its own frame; 0 = not at all (50; simulated 0)",
    )
    add(
        "--pace",
        choices=("times", "ticks"),
        default="times",
        help="frames come at their recorded times (where there are any), or one a tick (times)",
    )
    add("--json", metavar="FILE", type=Path, help="write all numbers there, ticks and steps too")
    add("--page", metavar="FILE", type=Path, help="write a page with timelines there")
    without = parser.add_argument_group("without a model")
    without.add_argument(
        "--simulate", action="store_true", help="one encode time (--encoder-ms), a fake clock"
    )
    without.add_argument(
        "--sweep", action="store_true", help="a table of ages for several encode times"
    )
    without.add_argument(
        "--encoder-ms",
        metavar="MS[,..]",
        type=_encoder_ms,
        help="--simulate: of an encode, and how much more or less it may be (380,40); --sweep: of "
        "each row",
    )
    without.add_argument(
        "--ticks",
        metavar="N",
        type=whole(1, 10**8, "a whole number of ticks >= 1"),
        help="that are simulated (10000)",
    )
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status."""
    args = build_parser().parse_args(arguments)
    return run_script(lambda: run(args))


def check_options(args: argparse.Namespace) -> None:
    """Raises ValueError if options do not go together, OSError if a result cannot be written."""
    simulated = args.simulate or args.sweep
    if args.simulate and args.sweep:
        raise ValueError("--simulate is about one encode time, --sweep about several: give one")
    if args.simulate and args.encoder_ms is None:
        raise ValueError("--simulate needs --encoder-ms, as 380 or 380,40")
    if args.simulate and (len(args.encoder_ms) > 2 or args.encoder_ms[-1] > args.encoder_ms[0]):
        raise ValueError("--encoder-ms is an encode time and its jitter, which is not larger")
    if args.sweep and args.encoder_ms and not all(args.encoder_ms):
        raise ValueError("--encoder-ms: an encode takes some time")
    if args.sweep and args.page:
        raise ValueError("--page shows one run: drop it, or --sweep")
    for flag in ("encoder_ms", "ticks"):
        if getattr(args, flag) is not None and not simulated:
            name = flag.replace("_", "-")
            raise ValueError(f"--{name} is about --simulate and --sweep: give one of them")
    if args.patience_ms is None:
        args.patience_ms = 0.0 if simulated else min(50.0, 500 / args.hz)
    if args.patience_ms >= 1e3 / args.hz:
        raise ValueError(
            f"--patience-ms must be below a period, {1e3 / args.hz:g} ms at --hz {args.hz:g}"
        )
    for flag in ("json", "page"):
        if (file := getattr(args, flag)) is not None:
            check_file(f"--{flag}", file)


def run(args: argparse.Namespace) -> int:
    check_options(args)
    if args.sweep:
        found = sweep_ages(args)
    elif args.simulate:
        found = simulate_once(args)
    else:
        from diffvis_jax.cli.runtime_sessions import run_sessions

        return run_sessions(args)
    if args.json:
        write_json(args.json, found)
    if args.page:
        tell(f"written: {args.page}")
    return 0


def simulate_once(args: argparse.Namespace) -> dict[str, Any]:
    """Prints the statistics of a simulated loop; the same each time."""
    from diffvis_jax.report.timeline import KEY, timeline_svg
    from diffvis_jax.runtime.control_loop import LoopConfig
    from diffvis_jax.runtime.simulate import simulate

    mean, jitter = (*args.encoder_ms, 0.0)[:2]
    draw = random.Random(0)
    config = LoopConfig(hz=args.hz, max_age=math.inf, patience=args.patience_ms / 1e3)
    ticks = args.ticks or 10_000
    found = simulate(lambda: draw.uniform(mean - jitter, mean + jitter) / 1e3, ticks, config)
    numbers = found.stats.as_dict()
    for name, value in numbers.items():
        print(f"{name:<22}{_shown(value)}")
    bound = 2 * (mean + jitter) / 1e3 + config.period
    print(f"{'bound_ms':<22}{1e3 * bound:.0f}   (2E + P)")
    if args.page:
        from diffvis_jax.report.plain_page import paragraph, write_plain_page

        some = found.ticks[:200]
        spans = list(found.encoder.snapshot().spans)
        if len(spans) < numbers["encodes"]:
            raise ValueError("--page shows the first ticks, and the steps of so many are not kept")
        svg = timeline_svg(some, spans, [], bound)
        write_plain_page(args.page, "A simulated loop", [svg, paragraph(KEY)])
    return {**numbers, "bound_ms": 1e3 * bound}


def sweep_ages(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Prints a row for each encode time."""
    from diffvis_jax.report.table import print_table
    from diffvis_jax.runtime.simulate import SWEEP_MS, sweep

    rows = sweep(args.encoder_ms or SWEEP_MS, args.hz, args.ticks or 10_000)
    head = [
        *("encode", "age: median", "largest", "2E + P", "actions per encode"),
        "observations superseded",
    ]
    print_table(
        [
            head,
            *(
                [
                    f"{row['encode_ms']:g} ms",
                    f"{row['age_p50_ms']:.0f} ms",
                    f"{row['age_max_ms']:.0f} ms",
                    f"{row['bound_ms']:.0f} ms",
                    f"{row['actions_per_encode']:.1f}",
                    f"{row['superseded']:.0%}",
                ]
                for row in rows
            ),
        ]
    )
    return rows


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_shown(each)}" for name, each in value.items()) or "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return "-" if value is None else str(value)
