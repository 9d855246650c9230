#!/usr/bin/env python3
"""Full encodes side by side (ours, PyTorch's), and single changes: how much faster, how wrong.

Everything is measured in one process after warm-up, `block_until_ready` on every result, medians,
the contenders taking turns. A change goes from a fresh full encode of one recorded frame to the
next frame; its missed change is judged against a full encode in the same dtype.
"""

import argparse
import dataclasses
import functools
import itertools
import resource
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from benchmark_batch import batches_of, throughput, throughput_rows
from benchmark_full import full_encodes, full_rows
from benchmark_report import write_report
from bundled import BUNDLED
from command_line import check_directory, check_file, run_script, write_json
from named_policies import HELP as POLICY_HELP
from named_policies import find_policies
from named_weights import find_weights
from plots import pyplot

import diffvis_jax as dv
from diffvis_jax.images.recording import read_recording
from diffvis_jax.measure.single_change import MEASURED, Measured, SingleChange, median_of
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


def peak_memory_mb() -> float:
    """Largest resident size of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def scenario_pairs(directory: Path) -> dict[str, list[tuple[Path, Path]]]:
    """The named pairs of the bundled session; of any other recording, all consecutive frames."""
    if directory == BUNDLED:
        return {
            name: [tuple(directory / f"frame_{n}.png" for n in pair) for pair in pairs]  # type: ignore[misc]
            for name, pairs in SCENARIOS.items()
        }
    paths = read_recording(directory).paths
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
    frames = (dv.preprocess(path, model.config) for path in (before, after))
    return SingleChange(model, *frames)


def changes(args: argparse.Namespace, model: dv.Model) -> list[dict[str, Any]]:
    """One row for each scenario and policy: medians over its pairs and rounds."""
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
                ms, share = median_of(results, "step_ms"), median_of(results, "recomputed")
                assert ms is not None  # these two are measured every time
                assert share is not None
                rows.append(
                    {
                        "scenario": scenario,
                        "policy": name,
                        "full_ms": full_ms,
                        **{key: median_of(results, key) for key in MEASURED},
                        "step_p90_ms": float(np.quantile([x.step_ms for x in results], 0.9)),
                        "speed_up": full_ms / ms,
                        "efficiency": share * full_ms / ms if share else None,
                    }
                )
    return rows


def settling(args: argparse.Namespace, model: dv.Model) -> list[dict[str, Any]]:
    """How what was left out arrives while the screen holds still: one row for each scenario and
    policy, medians over pairs."""
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
            for name, found in runs.items():
                row: dict[str, Any] = {"scenario": scenario, "policy": name}
                for idle in range(args.settling + 1):
                    at = [run[idle] for run in found]
                    row[f"missed after {idle}"] = median_of(at, "missed_changed")
                    row[f"ms {idle}"] = median_of(at, "step_ms")
                waits = [sum(step.pending > 0 for step in run) for run in found]
                row["idle steps"] = statistics.median(waits)
                row["idle ms"] = statistics.median(
                    sum(step.step_ms for step in run[1 : 1 + wait])
                    for run, wait in zip(found, waits, strict=True)
                )
                rows.append(row)
    return rows


def idle_step(model: dv.Model, frame: np.ndarray, rounds: int) -> dict[str, float]:
    """Milliseconds, medians, of a step in which nothing changes and nothing is owed, and of a full
    encode. Unlike in `changes` no copy of a cache comes before each step: so a stream is served."""
    still = SingleChange(model, frame, frame)
    steps = still.settle(dv.Policy(), IDLE_STEPS)[1:]
    assert not any(step.recomputed for step in steps)
    full = statistics.median(still.time_full() for _ in range(rounds))
    return {"full_ms": full, "step_ms": statistics.median(step.step_ms for step in steps)}


def show(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """A table, printed as well."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, *rows)]
    text = "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])
    print(text)
    return text


def changes_table(rows: list[dict[str, Any]]) -> str:
    head = [
        *("scenario", "policy", "patches changed", "recomputed", "full ms"),
        *("step ms", "90 %", "speed-up"),
        *("efficiency", "missed at changed tokens", "missed over all"),
    ]
    cells = [
        [
            row["scenario"],
            row["policy"],
            f"{row['changed']:.1%}",
            f"{row['recomputed']:.1%}",
            f"{row['full_ms']:.0f}",
            f"{row['step_ms']:.1f}",
            f"{row['step_p90_ms']:.1f}",
            f"{row['speed_up']:.1f}x",
            show(row["efficiency"], ".2f"),
            show(row["missed_changed"], ".3f"),
            show(row["missed_all"], ".3f"),
        ]
        for row in rows
    ]
    return markdown(head, cells)


IDLE_STEPS = 40
SHOWN_AFTER = (0, 1, 2, 4, 8, 16)  # idle steps


def settling_table(rows: list[dict[str, Any]], idle: int) -> str:
    after = [n for n in SHOWN_AFTER if n <= idle]
    head = [
        *("scenario", "policy"),
        *(f"missed after {n} idle steps" if n else "missed after the step" for n in after),
        *("idle steps until exact", "their ms"),
    ]
    cells = []
    for row in rows:
        missed = [show(row[f"missed after {n}"], ".3f") for n in after]
        steps = f"{row['idle steps']:g}" if row["idle steps"] <= idle else f"more than {idle}"
        cells.append([row["scenario"], row["policy"], *missed, steps, f"{row['idle ms']:.0f}"])
    return markdown(head, cells)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add(
        "--frames",
        "--screenshot-dir",
        type=Path,
        default=BUNDLED,
        help="a recording (default: the bundled session)",
    )
    add("--size", type=int, help="model input of random weights, pixels along the side (1024)")
    add("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the changes")
    add("--weights", help="a directory in weights/, or any path (default: seeded random weights)")
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
    add("--report", type=Path, metavar="DIR", help="plots and a page with them (extra: viz)")
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error("--rounds must be at least 1")
    if args.settling < 0:
        parser.error("--settling must be at least 0")
    if args.weights and args.size is not None:
        parser.error("--size is for random weights: those of --weights have a size")
    return run_script(lambda: run(args))


def run(args: argparse.Namespace) -> int:
    chosen_pairs(args)
    if args.json:
        check_file("--json", args.json)
    if args.report:
        check_directory("--report", args.report)
        pyplot()
    find_policies(args.policies)  # before minutes of work
    if args.batch:
        batches_of(args.batch)
    dv.FastViTHDConfig(blocks_per_map=tuple(args.blocks_per_map))
    result = measure(args)
    if args.json:
        write_json(args.json, result)
    return 0


def load_model(args: argparse.Namespace, dtype: str) -> dv.Model:
    """The tower that is measured, in a dtype."""
    together = tuple(args.blocks_per_map)
    if not args.weights:
        size = args.size or dv.FastViTHDConfig().size
        config = dv.FastViTHDConfig(size=size, dtype=dtype, blocks_per_map=together)
        return dv.Model(config, dv.init_params(config, args.seed), "random")
    model = dv.load(find_weights(args.weights), dtype=dtype)
    if not together:
        return model
    if not isinstance(model.config, dv.FastViTHDConfig):
        raise ValueError("--blocks-per-map: only a FastViTHD tower has such blocks")
    config = dataclasses.replace(model.config, blocks_per_map=together)
    return dataclasses.replace(model, config=config)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Measures what was asked for and prints the tables."""
    first_path = read_recording(args.frames).paths[0]
    model = load_model(args, args.dtype)
    size = model.config.size
    result: dict[str, Any] = {
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
        "arguments": {k: str(v) for k, v in vars(args).items()},
    }
    print(f"jax {result['jax']} on {result['device']}, {size} px, medians of {args.rounds}\n")
    tables: list[str] = []
    if not args.skip_full:
        load = functools.partial(load_model, args)
        result["full"] = full_encodes(load, first_path, args.rounds, args.torch)
        head, *cells = full_rows(result["full"])
        tables.append(markdown(head, cells))
        print(f"\npeak resident memory so far: {peak_memory_mb():.0f} MB\n")
    if not args.weights and (args.batch or not args.skip_changes):
        print("seeded random weights: the missed change says nothing about trained ones\n")
    if not args.skip_changes:
        result["changes"] = changes(args, model)
        tables.append(changes_table(result["changes"]))
        idle = idle_step(model, dv.preprocess(first_path, model.config), args.rounds)
        result["idle"] = idle
        print(
            f"\nan idle step: {idle['step_ms']:.2f} ms, a full encode {idle['full_ms']:.0f} ms: "
            f"{idle['full_ms'] / idle['step_ms']:.0f} times as fast (median of {IDLE_STEPS})"
        )
        print(f"\n{args.dtype}; cache {cache_mb(model, size):.0f} MB per stream")
        if args.settling:
            result["settling"] = settling(args, model)
            print()
            tables.append(settling_table(result["settling"], args.settling))
    if args.batch:
        policies, batches = find_policies(args.policies), batches_of(args.batch)
        first = dv.preprocess(first_path, model.config)
        rows = throughput(model, first, policies, batches, args.rounds, args.seed)
        result["throughput"] = rows
        print()
        head, *cells = throughput_rows(rows)
        tables.append(markdown(head, cells))
    result["peak_memory_mb"] = peak_memory_mb()
    if args.report:
        print(f"\nwritten: {write_report(result, tables, args.report)}")
    return result


def cache_mb(model: dv.Model, size: int) -> float:
    shapes = jax.eval_shape(lambda: dv.init_cache(model.config, size=size))
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(shapes)) / 1e6


if __name__ == "__main__":
    sys.exit(main())
