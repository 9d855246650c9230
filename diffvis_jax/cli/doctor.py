"""Looks at this machine: what runs here, what fits, and how fast a full encode and a small step
are.

Prints versions, devices, memory, how much each kind of tower needs, and what was measured with the
bundled model on the bundled session (about half a minute, and a minute of compiling the first
time).

With --recommend it also says which model and precision to take here, and why not the others:

    diffvis doctor --recommend --accuracy screenspot=50 --budget-ms 2000
"""

import argparse
import os
import platform
import statistics
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from diffvis_jax.cli.bundled import BUNDLED
from diffvis_jax.cli.command_line import (
    Parser,
    check_file,
    number,
    run_script,
    tell,
    whole,
    write_json,
)
from diffvis_jax.cli.models import add_model, find_model
from diffvis_jax.cli.named_policies import HELP as POLICY_HELP
from diffvis_jax.cli.named_policies import find_policies

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "orbax-checkpoint", "pillow")
FRAMES = slice(6, 20)  # of the bundled session: letters, a menu, moves of the cursor, idle frames
SMALL = 0.1  # of the patches: a step that changes no more is a small one
SAME = 0.97  # of the frames with the elements of a full encode: a policy that keeps it will do


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add_model(add)
    add("--policies", default="faithful,fast", help=f"each {POLICY_HELP} (%(default)s)")
    add("--no-measure", action="store_true", help="only look, measure nothing")
    add("--recommend", action="store_true", help="say which model to take here")
    add(
        "--accuracy",
        metavar="NAME=PERCENT",
        action="append",
        default=[],
        type=floor,
        help="with --recommend: least value on a benchmark (may be given again)",
    )
    add("--budget-ms", type=number(0.001, 1e9, "milliseconds"), help="most time of a full encode")
    add(
        "--memory-mb", type=whole(1, 10**9, "megabytes"), help="most memory (default: all there is)"
    )
    add("--sessions", type=whole(1, 10**6, "streams"), default=1, help="at once (%(default)s)")
    add("--answers", action="store_true", help="models that answer questions alone")
    add(
        "--write", metavar="FILE", type=Path, help="write the choice as a config of `diffvis serve`"
    )
    add("--json", metavar="FILE", type=Path, help="write all of it there")
    return parser


def floor(text: str) -> tuple[str, float]:
    """A benchmark and its least value, "screenspot=50"."""
    name, _, value = text.partition("=")
    try:
        return name.strip().lower(), float(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no NAME=PERCENT") from None


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status."""
    args = build_parser().parse_args(arguments)
    return run_script(lambda: run(args))


def run(args: argparse.Namespace) -> int:
    from diffvis_jax.report.table import print_table

    for flag, file in (("--json", args.json), ("--write", args.write)):
        if file:
            check_file(flag, file)
    if args.recommend and args.no_measure:
        raise ValueError("--recommend measures how fast this machine is: leave --no-measure out")
    if not args.recommend and (args.accuracy or args.budget_ms or args.write or args.answers):
        raise ValueError("--accuracy, --budget-ms, --answers and --write belong to --recommend")
    find_policies(args.policies)  # before minutes of work
    found: dict[str, Any] = {"machine": machine()}
    for name, value in found["machine"].items():
        print(f"{name:<18}{value}")
    found["towers"] = towers()
    sizes = [
        [name, f"{row['weights_mb']:.0f} MB", f"{row['cache_mb']:.0f} MB"]
        for name, row in found["towers"].items()
    ]
    print()
    print_table([["tower, float32", "weights", "cache of a stream"], *sizes])
    if not args.no_measure:
        found["measured"] = measure(args)
        print()
        for line in advice(found["measured"]):
            print(line)
    status = recommend(args, found) if args.recommend else 0
    if args.json:
        write_json(args.json, found)
    return status


def recommend(args: argparse.Namespace, found: dict[str, Any]) -> int:
    """Prints every candidate and the choice; 1 if nothing will do."""
    from diffvis_jax.machine.catalogue import CATALOGUE
    from diffvis_jax.machine.memory import available_memory
    from diffvis_jax.machine.rate import macs_per_s
    from diffvis_jax.machine.recommend import Machine, Need, Speed
    from diffvis_jax.machine.recommend import recommend as choose
    from diffvis_jax.report.table import print_table
    from diffvis_jax.report.text import milliseconds
    from diffvis_jax.utils.atomic_file import write_whole

    need = Need(
        accuracy=dict(args.accuracy),
        budget_ms=args.budget_ms,
        memory=args.memory_mb and args.memory_mb * 10**6,
        sessions=args.sessions,
        answers=args.answers,
    )
    memory = available_memory() or need.memory
    if memory is None:
        raise ValueError("nobody says how much memory there is: give --memory-mb")
    measured = found["measured"]
    policy = best_policy(measured)
    rows = measured["policies"]
    name, row = measured["model"], rows.get(policy, next(iter(rows.values())))
    if name not in {entry.name for entry in CATALOGUE}:
        raise ValueError(f"--recommend measures with bundled weights: leave --model {name} out")
    speed = Speed(row["full_ms"], row["small_ms"], policy)
    rate = macs_per_s()
    best, candidates = choose(Machine(memory, rate), CATALOGUE, need, {name: speed})
    head = ["model", "precision", "memory", "full encode, float32", "small step, float32"]
    table = [[*head, "verdict"]]
    for each in candidates:
        about = "" if each.measured else "at least "
        table.append(
            [
                each.entry.name,
                each.precision,
                f"{each.size.total / 1e9:.2f} GB",
                about + milliseconds(each.full_ms),
                milliseconds(each.small_ms),
                each.fault or ("recommended" if each is best else "would do"),
            ]
        )
    print(
        f"\nof {memory / 1e9:.1f} GB; at least: the work at {rate / 1e9:.0f} GMAC/s, not measured"
    )
    print_table(table)
    found["recommended"] = None
    if best is None:
        print("nothing will do: ask for less, or take a larger machine")
        return 1
    for benchmark, score in best.entry.scores.items():
        print(f"{best.entry.name}: {benchmark} {score.value:g} ({score.source}, {score.date})")
    choice = {"path": best.entry.name, "dtype": best.precision, "policy": best.policy}
    if best.precision == "int8":
        choice["dtype"] = "float32"
        print(f"quantise it first: diffvis convert {best.entry.name} DIR --quantise int8")
    print(f"recommended: {best.entry.name} in {best.precision}, --policy {best.policy}")
    found["recommended"] = choice
    if args.write:
        lines = "".join(f"  {key}: {value}\n" for key, value in choice.items())
        write_whole(args.write, f"model:\n{lines}")
        print(f"written: {args.write}")
    return 0


def machine() -> dict[str, Any]:
    """Versions, devices, memory, and where things are kept."""
    import jax

    import diffvis_jax
    from diffvis_jax.utils.cache_directory import cache_directory

    found: dict[str, Any] = {"diffvis_jax": diffvis_jax.__version__}
    found["python"] = f"{platform.python_version()} on {platform.platform()}"
    found |= {name: metadata.version(name) for name in PACKAGES}
    found["devices"] = ", ".join(
        f"{device.platform}:{device.device_kind}" for device in jax.devices()
    )
    on_linux = sys.platform == "linux"
    found["processors"] = len(os.sched_getaffinity(0)) if on_linux else os.cpu_count()
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        found["memory"] = f"{size / 1e9:.1f} GB"
    try:
        found["cache"] = str(cache_directory())
    except ValueError as error:
        found["cache"] = f"none: {error}"
    return found


def towers() -> dict[str, dict[str, float]]:
    """Megabytes of the weights, and of the cache of a stream, of each tower at full size."""
    import jax

    import diffvis_jax as dv
    from diffvis_jax.towers.registry import ARCHITECTURES

    def megabytes(make: Any) -> float:
        return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(jax.eval_shape(make))) / 1e6

    return {
        name: {
            "weights_mb": megabytes(lambda config=config: dv.init_params(config)),
            "cache_mb": megabytes(lambda config=config: dv.init_cache(config)),
        }
        for name, config in ARCHITECTURES.items()
    }


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Times and errors of each policy on a piece of the bundled session."""
    import diffvis_jax as dv
    from diffvis_jax.cli.frame_sizes import sized_for
    from diffvis_jax.images.source import read_source
    from diffvis_jax.measure.recording_run import run_session

    paths = read_source(BUNDLED).paths[FRAMES]
    model = sized_for(dv.load(find_model(args.model), dtype="float32"), paths)
    frames = dv.preprocess(list(paths), model.config)
    found: dict[str, Any] = {"model": model.name, "policies": {}}
    for name, policy in find_policies(args.policies).items():
        result = run_session(model, frames, policy, on_stage=lambda text: tell(f"{text} ..."))
        rest = result.frames[1:]
        small = [f for f in rest if 0 < f.changed_patches <= SMALL * f.total_patches]
        idle = [f for f in rest if f.path == "reuse"]
        found["policies"][name] = {
            "full_ms": statistics.median(frame.full_ms for frame in result.frames),
            "small_ms": statistics.median(f.step_ms for f in small) if small else None,
            "idle_ms": statistics.median(f.step_ms for f in idle) if idle else None,
            **{key: result.summary()[key] for key in ("missed_changed", "speed_up")},
            "same": None
            if result.summary()["same_elements"] is None
            else result.summary()["same_elements"] / len(rest),
        }
    return found


def advice(measured: dict[str, Any]) -> list[str]:
    """What was measured, and the policy that it speaks for: the fastest that keeps the elements."""
    from diffvis_jax.report.text import milliseconds, percent, tails_text, times

    lines = []
    for name, row in measured["policies"].items():
        same = "" if row["same"] is None else f", same elements in {row['same']:.0%} of the frames"
        lines.append(
            f"{measured['model']}, {name}: full encode {milliseconds(row['full_ms'])}, small step "
            f"{milliseconds(row['small_ms'])}, idle {milliseconds(row['idle_ms'])}; whole piece "
            f"{times(row['speed_up'])}, missed {tails_text(row['missed_changed'], percent)}{same}"
        )
    best = best_policy(measured)
    if best == "exact":
        return [*lines, "no policy keeps what a full encode finds here: use --policy exact"]
    return [*lines, f"recommended for this model here: --policy {best}"]


def best_policy(measured: dict[str, Any]) -> str:
    """The fastest policy that keeps what a full encode finds; "exact" if none does."""
    good = {
        name: row
        for name, row in measured["policies"].items()
        if (row["same"] is None or row["same"] >= SAME)
        and (row["missed_changed"]["p90"] or 0) < 0.5
    }
    return max(good, key=lambda name: good[name]["speed_up"], default="exact")
