"""Full encodes side by side (ours, PyTorch's), and single changes: how much faster, how wrong.

Everything is measured in one process after warm-up, `block_until_ready` on every result, the
contenders taking turns. A change goes from a fresh full encode of one recorded frame to the next
frame; its missed change is measured against a full encode in the same dtype.
"""

import argparse
import dataclasses
import functools
import itertools
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

import diffvis_jax as dv
from diffvis_jax.cli.benchmark_batch import (
    CHANGED,
    amounts_of,
    batches_of,
    patches_of,
    throughput,
    throughput_rows,
)
from diffvis_jax.cli.benchmark_full import frame_of, full_encodes, full_rows
from diffvis_jax.cli.benchmark_report import write_report, write_tables
from diffvis_jax.cli.benchmark_weights import weights_rows, weights_side_by_side
from diffvis_jax.cli.bundled import BUNDLED
from diffvis_jax.cli.command_line import (
    Parser,
    check_directory,
    check_file,
    run_script,
    sides,
    write_json,
)
from diffvis_jax.cli.models import add_model, find_model
from diffvis_jax.cli.named_policies import HELP as POLICY_HELP
from diffvis_jax.cli.named_policies import find_policies
from diffvis_jax.cli.plots import pyplot
from diffvis_jax.cli.source import add_source
from diffvis_jax.images.source import read_source
from diffvis_jax.measure.single_change import Measured, SingleChange, tails_of
from diffvis_jax.metrics import tails
from diffvis_jax.report.table import frame_text, print_table
from diffvis_jax.report.text import (
    MISSED,
    TAILS,
    decimal,
    milliseconds,
    missed_cells,
    percent,
    tails_text,
    times,
)
from diffvis_jax.towers import build
from diffvis_jax.towers.registry import ARCHITECTURES, VisionConfig, with_size
from diffvis_jax.utils.memory import peak_memory_mb
from diffvis_jax.utils.progress import Progress

# Scenario -> pairs of frames of the bundled session (its session.json says what happens).
SCENARIOS: dict[str, tuple[tuple[str, str], ...]] = {
    "identical frame": (("04", "04"),),
    "one typed letter": (("00", "01"), ("01", "02")),
    "three typed letters": (("07", "08"), ("08", "09"), ("09", "10"), ("10", "11")),
    "cursor move": (("18", "19"),),
    "hover": (("14", "15"), ("15", "16"), ("19", "20")),
    "menu": (("13", "14"), ("16", "17")),
    "dialog": (("05", "06"), ("12", "13")),
    "scroll": (("21", "22"), ("22", "23")),
    "page load": (("02", "03"), ("03", "04")),
    "page switch": (("04", "05"), ("17", "18")),
}


def scenario_pairs(directory: Path) -> dict[str, list[tuple[Path, Path]]]:
    """The named pairs of the bundled session; of any other recording, all consecutive frames."""
    if directory == BUNDLED:
        return {
            name: [tuple(directory / f"frame_{n}.png" for n in pair) for pair in pairs]  # type: ignore[misc]
            for name, pairs in SCENARIOS.items()
        }
    paths = read_source(directory).paths
    if len(paths) < 2:
        raise ValueError(f"{directory}: one frame shows no change: give at least two")
    return {directory.name: list(itertools.pairwise(paths))}


def chosen_pairs(args: argparse.Namespace) -> dict[str, list[tuple[Path, Path]]]:
    """The pairs of the scenarios asked for.

    Raises:
      ValueError: a scenario that the recording does not have.
    """
    pairs = scenario_pairs(args.frames)
    names = [name.strip() for name in args.scenarios.split(",")] if args.scenarios else list(pairs)
    if unknown := sorted(set(names) - set(pairs)):
        raise ValueError(f"--scenarios: unknown {unknown}; there are {', '.join(pairs)}")
    return {name: pairs[name] for name in names}


def change_of(model: dv.Model, before: Path, after: Path) -> SingleChange:
    """The step between two pictures."""
    frames = (frame_of(path, model.config) for path in (before, after))
    return SingleChange(model, *frames)


def changes(args: argparse.Namespace, model: dv.Model) -> list[dict[str, Any]]:
    """One row for each scenario and policy: `tails` over its pairs and rounds."""
    pairs = chosen_pairs(args)
    policies = find_policies(args.policies)
    rows = []
    warm = change_of(model, *next(iter(pairs.values()))[0])
    start = time.perf_counter()
    for policy in policies.values():  # compiles what differs, and is not counted
        warm.measure(policy)
    print(f"compiled, or found compiled, in {time.perf_counter() - start:.0f} s\n")
    total = sum(map(len, pairs.values()))
    with Progress(total * len(policies) * args.rounds, "changes") as progress:
        for scenario, transitions in pairs.items():
            seen: dict[str, list[Measured]] = {name: [] for name in policies}
            full_times = []
            for transition in transitions:
                change = change_of(model, *transition)
                for _ in range(args.rounds):
                    full_times.append(change.time_full())
                    for name, policy in policies.items():
                        seen[name].append(change.measure(policy))
                        progress(f"{scenario} {name}")
            full_ms = statistics.median(full_times)
            for name, results in seen.items():
                row = {"scenario": scenario, "policy": name, **tails_of(results)}
                share, speed_up = row["recomputed"]["median"], full_ms / row["step_ms"]["median"]
                row |= {"full_ms": tails(full_times), "speed_up": speed_up}
                rows.append(row | {"efficiency": share * speed_up if share else None})
    return rows


def settling(args: argparse.Namespace, model: dv.Model) -> list[dict[str, Any]]:
    """How pending work is delivered in idle steps: one row for each scenario and policy."""
    pairs, policies = chosen_pairs(args), find_policies(args.policies)
    rows = []
    with Progress(sum(map(len, pairs.values())) * len(policies), "settling") as progress:
        for scenario, transitions in pairs.items():
            runs: dict[str, list[list[Measured]]] = {name: [] for name in policies}
            for transition in transitions:
                change = change_of(model, *transition)
                for name, policy in policies.items():
                    runs[name].append(change.settle(policy, args.settling))
                    progress(f"{scenario} {name}")
            for name, measured in runs.items():
                row: dict[str, Any] = {"scenario": scenario, "policy": name}
                for idle in range(args.settling + 1):
                    at = tails_of(run[idle] for run in measured)
                    row[f"missed after {idle}"] = at["missed_changed"]
                    row[f"ms {idle}"] = at["step_ms"]
                waits = [sum(step.pending > 0 for step in run) for run in measured]
                row["idle steps"] = tails(waits)
                row["idle ms"] = tails(
                    sum(step.step_ms for step in run[1 : 1 + wait])
                    for run, wait in zip(measured, waits, strict=True)
                )
                rows.append(row)
    return rows


def idle_step(model: dv.Model, frame: np.ndarray, rounds: int) -> dict[str, Any]:
    """Milliseconds of a step in which nothing changes and nothing is pending, and of a full encode.

    Unlike in `changes`, no copy of a cache comes before each step: so a stream is served.
    """
    still = SingleChange(model, frame, frame)
    steps = still.settle(dv.Policy(), IDLE_STEPS)[1:]
    assert not any(step.recomputed for step in steps)
    full = tails(still.time_full() for _ in range(rounds))
    return {"full_ms": full, "step_ms": tails(step.step_ms for step in steps)}


def changes_table(rows: list[dict[str, Any]]) -> list[list[str]]:
    """Rows of text, the first their heads."""
    head = [
        *("scenario", "policy", "patches changed", "recomputed", f"full encode: {TAILS}"),
        *(f"step: {TAILS}", "speed-up", "efficiency"),
        *MISSED,
    ]
    cells = [
        [
            row["scenario"],
            row["policy"],
            percent(row["changed"]["median"]),
            percent(row["recomputed"]["median"]),
            tails_text(row["full_ms"], milliseconds),
            tails_text(row["step_ms"], milliseconds),
            times(row["speed_up"]),
            decimal(row["efficiency"], ".2f"),
            *missed_cells(row),
        ]
        for row in rows
    ]
    return [head, *cells]


IDLE_STEPS = 40
SHOWN_AFTER = (0, 1, 2, 4, 8, 16)  # idle steps


def settling_table(rows: list[dict[str, Any]], idle: int) -> list[list[str]]:
    """Rows of text, the first their heads."""
    after = [n for n in SHOWN_AFTER if n <= idle]
    head = [
        *("scenario", "policy"),
        *(f"missed after {f'{n} idle steps' if n else 'the step'}: {TAILS}" for n in after),
        *(f"idle steps until exact: {TAILS}", f"their time: {TAILS}"),
    ]
    cells = []
    for row in rows:
        missed = [tails_text(row[f"missed after {n}"]) for n in after]
        steps = tails_text(row["idle steps"], lambda n: f">{idle}" if n and n > idle else f"{n:g}")
        ms = tails_text(row["idle ms"], milliseconds)
        cells.append([row["scenario"], row["policy"], *missed, steps, ms])
    return [head, *cells]


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add_source(add, "--frames", "--screenshot-dir")
    add(
        "--arch",
        choices=tuple(ARCHITECTURES),
        default="fastvithd",
        help="of random weights (fastvithd)",
    )
    add(
        "--size",
        type=sides,
        help="model input of random weights, such as 512 or 728x1316 (its own)",
    )
    add("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the changes")
    add_model(add, default="seeded random weights, see --arch")
    add(
        "--against",
        metavar="MODEL,..",
        help="other weights of the same tower, such as quantised ones: one table, and nothing else",
    )
    add(
        "--policies",
        "--policy",
        default="faithful,fast,exact",
        help=f"each {POLICY_HELP} (%(default)s)",
    )
    add("--scenarios", help="some of them, by name, separated by commas (default: all)")
    add("--settling", type=int, default=0, metavar="N", help="follow N idle steps besides (0)")
    add("--batch", metavar="B,..", help="measure so many streams at a time besides, such as 1,4,16")
    add(
        "--changed",
        default=CHANGED,
        metavar="N,..",
        help="with --batch: patches that change in each stream, as numbers or shares (%(default)s)",
    )
    add(
        "--blocks-per-map",
        type=int,
        nargs="+",
        default=(),
        metavar="N",
        help="blocks of each stage between two maps that a cache keeps: less memory, more work (1)",
    )
    add("--rounds", type=int, default=3, help="measurements of everything (3)")
    add("--torch", action="store_true", help="race PyTorch too (extra: parity)")
    add("--skip-full", action="store_true", help="leave out the race of full encodes")
    add("--skip-changes", action="store_true", help="leave out the single changes")
    add("--seed", type=int, default=0)
    add("--json", type=Path, help="write all rows there")
    add("--page", type=Path, metavar="FILE", help="the tables as a page")
    add("--report", type=Path, metavar="DIR", help="a page with plots as well (extra: viz)")
    args = parser.parse_args(arguments)
    if args.rounds < 1:
        parser.error("--rounds must be at least 1")
    if args.settling < 0:
        parser.error("--settling must be at least 0")
    if args.against and not args.model:
        parser.error("--against needs the weights to compare with: --weights A --against B")
    if args.model and args.size is not None:
        parser.error("--size is for random weights: those of --model have a size")
    return run_script(lambda: run(args))


def run(args: argparse.Namespace) -> int:
    chosen_pairs(args)
    if args.json:
        check_file("--json", args.json)
    if args.page:
        check_file("--page", args.page)
    if args.report:
        check_directory("--report", args.report)
        pyplot()
    find_policies(args.policies)  # before minutes of work
    if args.batch:
        batches_of(args.batch)
        amounts_of(args.changed)
    if not args.model:
        random_config(args)
    result = measure_against(args) if args.against else measure(args)
    if args.json:
        write_json(args.json, result)
    return 0


def with_blocks_per_map(config: VisionConfig, together: Sequence[int]) -> VisionConfig:
    """The config with `--blocks-per-map`.

    Raises:
      ValueError: the tower has no such blocks, or not in such numbers.
    """
    if not together:
        return config
    if not isinstance(config, dv.FastViTHDConfig):
        raise ValueError("--blocks-per-map: only a FastViTHD tower has such blocks")
    return dataclasses.replace(config, blocks_per_map=tuple(together))


def random_config(args: argparse.Namespace) -> VisionConfig:
    """The tower that random weights are drawn for."""
    return with_blocks_per_map(with_size(ARCHITECTURES[args.arch], args.size), args.blocks_per_map)


def load_model(args: argparse.Namespace, dtype: str) -> dv.Model:
    """The tower that is measured, in a dtype."""
    if args.model:
        model = dv.load(find_model(args.model), dtype=dtype)
        config = with_blocks_per_map(model.config, args.blocks_per_map)
        return dataclasses.replace(model, config=config)
    config = dataclasses.replace(random_config(args), dtype=dtype)
    return dv.Model(config, dv.init_params(config, args.seed), "random")


def measure_against(args: argparse.Namespace) -> dict[str, Any]:
    """Weights side by side; prints the table."""
    others = [name.strip() for name in args.against.split(",")]
    rows = weights_side_by_side(
        args.model,
        others,
        args.frames,
        dtype=args.dtype,
        policies=args.policies,
        rounds=args.rounds,
    )
    table = weights_rows(rows)
    print_table(table)
    result = {"jax": jax.__version__, "device": jax.devices()[0].device_kind, "weights": rows}
    if args.page:
        print(f"\npage: {write_tables(result, [table], args.page)}")
    return result


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Measures the parts that the arguments name, and prints the tables."""
    first_path = read_source(args.frames).paths[0]
    model = load_model(args, args.dtype)
    result: dict[str, Any] = {
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
        "arguments": {k: str(v) for k, v in vars(args).items()},
    }
    where = f"jax {result['jax']} on {result['device']}, {frame_text(model.config)}"
    print(f"{where}, {args.rounds} rounds\n")
    tables: list[list[list[str]]] = []
    if not args.skip_full:
        load = functools.partial(load_model, args)
        result["full"] = full_encodes(load, first_path, args.rounds, args.torch)
        tables.append(full_rows(result["full"]))
        print_table(tables[-1])
        if peak := peak_memory_mb():
            print(f"\npeak resident memory so far: {peak:.0f} MB\n")
    if not args.model and (args.batch or not args.skip_changes):
        print("seeded random weights: the missed change says nothing about trained ones\n")
    if not args.skip_changes:
        result["changes"] = changes(args, model)
        tables.append(changes_table(result["changes"]))
        print_table(tables[-1])
        idle = idle_step(model, frame_of(first_path, model.config), args.rounds)
        result["idle"] = idle
        ratio = idle["full_ms"]["median"] / idle["step_ms"]["median"]
        print(
            f"\nidle step, {TAILS} of {IDLE_STEPS}: {tails_text(idle['step_ms'], milliseconds)}; "
            f"full encode: {tails_text(idle['full_ms'], milliseconds)}; speed-up {times(ratio)}"
        )
        print(f"\n{args.dtype}; cache {cache_mb(model):.0f} MB per stream")
        if args.settling:
            result["settling"] = settling(args, model)
            print()
            tables.append(settling_table(result["settling"], args.settling))
            print_table(tables[-1])
    if args.batch:
        policies, batches = find_policies(args.policies), batches_of(args.batch)
        first = frame_of(first_path, model.config)
        tower = build(model.config)
        changed = patches_of(amounts_of(args.changed), tower.cells)
        rows = throughput(model, first, policies, batches, changed, args.rounds, args.seed)
        result["throughput"] = rows
        print()
        tables.append(throughput_rows(rows))
        print_table(tables[-1])
    result["peak_memory_mb"] = peak_memory_mb()
    if args.page:
        print(f"\npage: {write_tables(result, tables, args.page)}")
    if args.report:
        print(f"\nwritten: {write_report(result, tables, args.report)}")
    return result


def cache_mb(model: dv.Model) -> float:
    shapes = jax.eval_shape(lambda: dv.init_cache(model.config))
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(shapes)) / 1e6
