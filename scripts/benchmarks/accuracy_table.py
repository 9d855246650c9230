"""What each setting of the weights finds, for what time: precision, size of the frames, policy.

    python scripts/benchmarks/accuracy_table.py tests/data/screens_sample --model screens-vit
    python scripts/benchmarks/accuracy_table.py tests/data/screens_sample \\
        --gate tests/weights/expected.json

DATA holds rendered pages and streams with labels. Each row is one factor away from the first:
float32, the own size, every frame encoded in full. *won / lost* and McNemar's p compare its clicks
with the first row's. Times are of the frames after the first of a stream, in one process.

With --gate the run fails if a setup loses more than two queries, net, against the file, is
significantly worse than the first row, overlaps less or misses more than the file says, or if an
exact step does not find what a full encode finds.
--accept "REASON" writes the file anew.
"""

import argparse
import sys
from pathlib import Path

from diffvis_jax.cli.command_line import Parser, check_file, run_script, write_json
from diffvis_jax.cli.models import add_model, find_model
from diffvis_jax.datasets import Stream, open_dataset
from diffvis_jax.evaluation.gate import accept, judge, read_expected
from diffvis_jax.evaluation.setups import EXACT, FIRST, SETUPS, Outcome, measure_setups
from diffvis_jax.metrics import mcnemar, wilson_interval
from diffvis_jax.report.table import machine_text, print_table
from diffvis_jax.report.text import (
    TAILS,
    decimal,
    interval,
    milliseconds,
    percent,
    tails_text,
    times,
)
from diffvis_jax.utils.progress import Progress


def streams_of(places: list[Path]) -> list[Stream]:
    """The rendered pages and the recorded or rendered streams below some directories."""
    return [
        stream
        for place in places
        for kind in ("pages", "trajectory")
        for stream in open_dataset(place, kind).streams
    ]


def cells(name: str, found: dict[str, Outcome]) -> list[str]:
    """A row of the table."""
    own, first = found[name], found[FIRST]
    order = sorted(first.clicks)
    now, base = ([each.clicks[query] for query in order] for each in (own, first))
    paired = mcnemar(base, now)
    share = sum(now) / len(now)
    ratio = None
    if own.ms["median"] is not None and first.ms["median"] is not None:
        ratio = first.ms["median"] / own.ms["median"]
    return [
        name,
        interval(share, wilson_interval(sum(now), len(now))),
        f"{paired.only_differential} / {paired.only_full}",
        f"{paired.p_value:.2g}",
        decimal(own.f1, ".3f"),
        decimal(own.precision, ".3f"),
        tails_text(own.missed, percent),
        percent(own.recomputed),
        tails_text(own.ms, milliseconds),
        times(ratio),
        f"{own.weights_mb:.1f}",
    ]


HEAD = ["setup", "clicks", "won / lost", "p", "F1", "precision", f"missed ({TAILS})", "recomputed"]
HEAD += [f"a frame ({TAILS})", "faster", "MB of weights"]


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("data", type=Path, nargs="+", metavar="DATA", help="rendered pages and streams")
    add_model(add, several=True)
    add("--setups", help=f"by commas (all of: {'; '.join(SETUPS)})")
    add("--json", type=Path, metavar="FILE", help="write all numbers there")
    add("--gate", type=Path, metavar="FILE", help="of expected outcomes; exit 1 if one fails")
    add("--accept", metavar="REASON", help="write the file of --gate anew")
    args = parser.parse_args(arguments)
    return run_script(lambda: run(args))


def run(args: argparse.Namespace) -> int:
    chosen = args.setups.split(";") if args.setups else list(SETUPS)
    names = [FIRST, *(name.strip() for name in chosen if name.strip() != FIRST)]
    if unknown := set(names) - set(SETUPS):
        raise ValueError(f"--setups: unknown {sorted(unknown)}; there are {'; '.join(SETUPS)}")
    if args.accept is not None and args.gate is None:
        raise ValueError("--accept writes the file of --gate: name it")
    if args.json:
        check_file("--json", args.json)
    streams = streams_of(args.data)
    frames = sum(len(stream.screens) for stream in streams)
    models = {name: find_model(name) for name in (args.model or "fastvithd-screens").split(",")}
    numbers, failed = {}, 0
    setups = {name: SETUPS[name] for name in names}
    passes = len({(setup.precision, setup.size) for setup in setups.values()})
    for name, place in models.items():
        with Progress(passes * frames, "frames") as progress:
            found = measure_setups(
                place, streams, setups, on_frames=lambda text, n: progress(text, n)
            )
        print(f"\n{name}; {frames} frames, {len(found[FIRST].clicks)} queries; {machine_text()}")
        print_table([HEAD, *(cells(setup, found) for setup in found)])
        numbers[name] = {setup: vars(each) for setup, each in found.items()}
        if args.gate is not None and args.accept is not None:
            accept(args.gate, name, found, args.accept)
        elif args.gate is not None:
            expected = read_expected(args.gate, name)
            verdicts = judge(found, expected, reference=FIRST, equal=EXACT)
            for setup, fault in verdicts.items():
                failed += bool(fault)
                print(f"FAILED  {setup}: {fault}" if fault else f"passed  {setup}")
    if args.json:
        write_json(args.json, numbers)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
