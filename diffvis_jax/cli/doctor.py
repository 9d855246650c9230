"""Looks at this machine: what runs here, what fits, and how fast a full encode and a small step
are.

Prints versions, devices, memory, how much each kind of tower needs, and what was measured with the
bundled model on the bundled session (about half a minute, and a minute of compiling the first
time).
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
from diffvis_jax.cli.command_line import Parser, check_file, run_script, tell, write_json
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
    add("--json", metavar="FILE", type=Path, help="write all of it there")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status."""
    args = build_parser().parse_args(arguments)
    return run_script(lambda: run(args))


def run(args: argparse.Namespace) -> int:
    from diffvis_jax.report.table import print_table

    if args.json:
        check_file("--json", args.json)
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
    if args.json:
        write_json(args.json, found)
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
    good = {
        name: row
        for name, row in measured["policies"].items()
        if (row["same"] is None or row["same"] >= SAME)
        and (row["missed_changed"]["p90"] or 0) < 0.5
    }
    if not good:
        return [*lines, "no policy keeps what a full encode finds here: use --policy exact"]
    best = max(good, key=lambda name: good[name]["speed_up"])
    return [*lines, f"recommended for this model here: --policy {best}"]
