"""Evaluates vision towers on a data set: full and differential, many streams, many devices.

    diffvis evaluate SESSIONS --output DIR --policies faithful,fast --batch 4
    diffvis evaluate SCREENSPOT --predictions answers.jsonl --output DIR

The first form runs weights under policies, beside the full encode of every frame; DATA is a data
set, recorded sessions, or rendered streams (`training/render_pages.py --streams`). The same command
resumes an interrupted run. On several hosts start it once for each process, with --coordinator,
--processes and --process. The second form scores the answers of any agent.
"""

import argparse
import dataclasses
import datetime
import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

import diffvis_jax as dv
from diffvis_jax.cli.command_line import Parser, run_script, write_json
from diffvis_jax.cli.evaluate_report import write_report
from diffvis_jax.cli.frame_sizes import BOUNDS, add_bounds, sized_for, tell_overview, with_bounds
from diffvis_jax.cli.models import TRAINED, add_model, find_model
from diffvis_jax.cli.named_policies import HELP as POLICY_HELP
from diffvis_jax.cli.named_policies import find_policies
from diffvis_jax.cli.plots import pyplot
from diffvis_jax.core.policy_file import policy_fields
from diffvis_jax.core.streams import checked_places, data_mesh
from diffvis_jax.datasets import KINDS, Dataset, Stream, chained, merged, open_dataset
from diffvis_jax.datasets.coordinates import Boxes, Outline
from diffvis_jax.datasets.predictions import read_predictions
from diffvis_jax.evaluation import processes
from diffvis_jax.evaluation.answers import (
    answers_table,
    groups_in,
    paired_test,
    score,
    summarise_answers,
)
from diffvis_jax.evaluation.results import ResultsError, open_results, open_run, read_results
from diffvis_jax.evaluation.run import Runner
from diffvis_jax.evaluation.summary import (
    ALL,
    FULL,
    broken_frames,
    results_table,
    summarise,
    times_table,
)
from diffvis_jax.report.table import print_table
from diffvis_jax.towers import build
from diffvis_jax.utils.atomic_file import write_whole
from diffvis_jax.utils.progress import Progress

ROOT = Path(__file__).resolve().parents[1]


def read_data(args: argparse.Namespace) -> Dataset:
    """The data set of the arguments."""
    dataset = merged(
        [
            open_dataset(path, args.format, images=args.images, skip=args.skip_faulty)
            for path in args.data
        ]
    )
    return chained(dataset, args.chain) if args.chain else dataset


def shortened(streams: Sequence[Stream], args: argparse.Namespace) -> list[Stream]:
    """At most so many streams, and frames of each."""
    return [
        dataclasses.replace(stream, screens=stream.screens[: args.max_frames])
        for stream in streams[: args.max_streams]
    ]


def fingerprint(dataset: Dataset) -> str:
    """Of all queries, not of where the files are."""
    digest = hashlib.sha256()
    for record in dataset.records:
        target = record.target
        points = None
        if isinstance(target, Boxes):
            points = target.corners.xy.tolist()
        elif isinstance(target, Outline):
            points = target.vertices.xy.tolist()
        content = [record.id, record.stream, record.step, type(target).__name__, points]
        digest.update(json.dumps(content).encode())
    return digest.hexdigest()[:16]


def image_hash(streams: Sequence[Stream], workers: int) -> str:
    """Of the content of all screenshots, so that a run is not resumed on other ones."""
    images = [screen.image for stream in streams for screen in stream.screens]
    files = [image if isinstance(image, Path) else image.path for image in images]
    distinct = list(dict.fromkeys(files))
    with ThreadPoolExecutor(workers) as pool:
        hash_of = dict(zip(distinct, pool.map(file_hash, distinct), strict=True))
    rows = [None if isinstance(image, Path) else (image.group, image.row) for image in images]
    content = [(hash_of[file], row) for file, row in zip(files, rows, strict=True)]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def file_hash(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()[:16]


def identity(
    args: argparse.Namespace,
    dataset: Dataset,
    streams: Sequence[Stream],
    policies: Mapping[str, dv.Policy],
) -> dict[str, Any]:
    """What identifies a run: data, weights and policies; not the machine."""
    names = (args.model or TRAINED).split(",")
    weights = {name: file_hash(find_model(name) / "manifest.json") for name in names}
    return {
        "data": {"name": dataset.name, "kind": dataset.kind, "records": len(dataset.records)},
        "data_hash": fingerprint(dataset),
        "image_hash": image_hash(streams, args.workers),
        "max_frames": args.max_frames,
        "max_streams": args.max_streams,
        "weights": weights,
        "policies": {name: policy_fields(policy) for name, policy in policies.items()},
        "dtype": args.dtype,
        **{name: value for name in BOUNDS if (value := getattr(args, name)) is not None},
        "seed": args.seed,
    }


def environment() -> dict[str, Any]:
    """Versions, machine, and the revision of the code."""
    packages = ("jax", "jaxlib", "flax", "numpy", "pillow")
    return {
        "diffvis_jax": dv.__version__,
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
        **processes.machine(),
        "git": git_revision(),
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def git_revision() -> str | None:
    """Of the checkout that this script is in, "+" if it was changed; None: it is in none."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


# ---- weights under policies -------------------------------------------------------------------


def by_size(model: dv.Model, streams: Sequence[Stream]) -> list[tuple[dv.Model, list[Stream]]]:
    """The model for each size of frames there is, and the streams of that size.

    Raises:
      ValueError: a stream with frames of two sizes.
    """
    found: dict[Any, tuple[dv.Model, list[Stream]]] = {}
    for stream in streams:
        sized = sized_for(model, (screen.image for screen in stream.screens))
        found.setdefault(sized.config, (sized, []))[1].append(stream)
    return list(found.values())


def advance_all(
    args: argparse.Namespace,
    sized: Mapping[str, Sequence[tuple[dv.Model, Sequence[Stream]]]],
    streams: Sequence[Stream],
    policies: Mapping[str, dv.Policy],
) -> None:
    """Runs this process's share of the streams, but for those done; writes lines as it goes.

    Args:
      sized: for each of the weights, what `by_size` gives of the streams.
    """
    done = {(line["weights"], line["stream"]) for line in read_results(args.output)}
    share = {streams[i].name for i in processes.local_streams(len(streams))}
    left: list[tuple[str, dv.Model, list[Stream]]] = []
    for name, groups in sized.items():
        for model, some in groups:
            mine = [s for s in some if s.name in share and (name, s.name) not in done]
            # The longest first: what is left at the end is then short.
            left.append((name, model, sorted(mine, key=lambda stream: -len(stream.screens))))
    frames = sum(len(stream.screens) for _, _, some in left for stream in some)
    if done:
        print(f"going on: {len(done)} streams were done, {frames} frames are left", flush=True)
    if not frames:
        return
    mesh = data_mesh()
    process = jax.process_index()
    with open_results(args.output, process) as add, Progress(frames, "frames") as bar:
        for name, model, some in left:
            if not some:
                continue
            print(f"{name}: {len(some)} streams; compiling comes first", flush=True)
            runner = Runner(model, policies, args.batch, mesh)
            for line in runner.run(
                some, workers=args.workers, on_frames=lambda n, name=name: bar(name, n)
            ):
                add({"weights": name, "process": process, **line})


def conclude(
    args: argparse.Namespace, run: Mapping[str, Any], dataset: Dataset, streams: Sequence[Stream]
) -> None:
    """Merges what all processes have written: tables, summary, report."""
    lines = {(line["weights"], line["stream"]): line for line in read_results(args.output)}
    wanted = {(name, stream.name) for name in run["weights"] for stream in streams}
    if missing := wanted - lines.keys():
        raise ResultsError(
            f"{len(missing)} of {len(wanted)} streams are not done: start the same command again"
        )
    summary: dict[str, Any] = {
        "run": run,
        "environment": environment(),
        "faults": list(dataset.faults),
        "weights": {},
    }
    ordered = [lines[key] for key in sorted(wanted)]
    summary["broken"] = broken_frames(line for line in ordered)
    if len(summary["broken"]) == sum(len(line["frames"]) for line in ordered):
        raise ResultsError(f"no frame could be measured; the first: {summary['broken'][0]}")
    for name in run["weights"]:
        some = [line for line in ordered if line["weights"] == name]
        measured = summarise(some, list(run["policies"]), args.seed)
        summary["weights"][name] = measured
        print(f"\n{name}\n")
        print_table(results_table(measured[ALL]))
        print()
        print_table(times_table(measured[ALL]))
    for message in (*dataset.faults, *summary["broken"]):
        print(f"left out: {message}", file=sys.stderr)
    write_json(args.output / "summary.json", summary)
    print(f"\nwritten: {args.output / 'summary.json'}")
    if not args.no_report:
        print(f"written: {write_report(args.output, summary, ordered, streams)}")


def evaluate(args: argparse.Namespace) -> int:
    dataset = read_data(args)
    streams = shortened(dataset.streams, args)
    policies = find_policies(args.policies)
    if FULL in policies:
        raise ValueError(f"--policies: '{FULL}' is always measured; name others")
    # By all processes, whether they have anything left to do: loading waits for the others.
    names = (args.model or TRAINED).split(",")
    loaded = {name: dv.load(find_model(name), dtype=args.dtype) for name in names}
    models = {name: with_bounds(model, args) for name, model in loaded.items()}
    sized = {name: by_size(model, streams) for name, model in models.items()}
    for model in models.values():
        tell_overview(model)
        for policy in policies.values():
            policy.margins(build(model.config))
    args.batch = args.batch or jax.local_device_count()
    checked_places(args.batch, data_mesh())
    if not args.no_report:
        pyplot()  # before hours of work
    run = identity(args, dataset, streams, policies)
    processes.agree(json.dumps(run, sort_keys=True))
    if jax.process_index() == 0:
        open_run(args.output, run)
    processes.wait_for_all("the directory is there")
    advance_all(args, sized, streams, policies)
    processes.wait_for_all("all streams are done")
    if jax.process_index() == 0:
        conclude(args, run, dataset, streams)
    return 0


# ---- answers of any agent ---------------------------------------------------------------------


def score_answers(args: argparse.Namespace) -> int:
    dataset = read_data(args)
    rows = {path.stem: score(dataset, read_predictions(path, dataset)) for path in args.predictions}
    if len(rows) < len(args.predictions):
        raise ValueError("--predictions: two files of one name")
    if not next(iter(rows.values())):
        raise ValueError(f"'{dataset.name}' asks nothing")
    run = {
        "data": {"name": dataset.name, "kind": dataset.kind, "records": len(dataset.records)},
        "data_hash": fingerprint(dataset),
        "predictions": {path.stem: file_hash(path) for path in args.predictions},
    }
    open_run(args.output, run)
    summary: dict[str, Any] = {"run": run, "environment": environment(), "faults": dataset.faults}
    summary[ALL] = {name: summarise_answers(some) for name, some in rows.items()}
    summary["groups"] = {
        name: {
            group: {value: summarise_answers(part) for value, part in values.items()}
            for group, values in groups_in(some).items()
        }
        for name, some in rows.items()
    }
    print_table(answers_table(summary[ALL], "answers"))
    for name, groups in summary["groups"].items():
        for group, values in groups.items():
            print(f"\n{name}, by {group}\n")
            print_table(answers_table(values, group))
    if len(rows) == 2:
        (a, first), (b, second) = rows.items()
        test = paired_test(first, second)
        summary["compared"] = {"first": a, "second": b, **test}
        print(f"\nright in {a} alone: {test['only_first']}, in {b} alone: {test['only_second']}")
        print(f"McNemar's exact test: p = {test['p']:.3g}")
    for message in dataset.faults:
        print(f"left out: {message}", file=sys.stderr)
    for name, some in rows.items():
        text = "".join(json.dumps(row) + "\n" for row in some)
        write_whole(args.output / f"answers-{name}.jsonl", text)
    write_json(args.output / "summary.json", summary)
    print(f"\nwritten: {args.output / 'summary.json'}")
    return 0


def arguments(given: list[str] | None) -> argparse.Namespace:
    parser = Parser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("data", type=Path, nargs="+", metavar="DATA", help="a data set, or a folder of sessions")
    add("--output", type=Path, required=True, metavar="DIR", help="of this run, new or its own")
    add("--format", choices=KINDS, help="of the data (default: as its files look)")
    add("--images", type=Path, metavar="DIR", help="where its images are, if elsewhere")
    add("--skip-faulty", action="store_true", help="leave faulty records out, and list them")
    add("--chain", metavar="GROUP", help="one stream for each value of that group of the records")
    add("--max-streams", "--most-streams", type=int, help="the first so many streams (all)")
    add("--max-frames", "--most-frames", type=int, help="the first so many frames of each (all)")
    add_model(add, several=True)
    add(
        "--policies",
        "--policy",
        default="faithful,fast",
        help=f"each {POLICY_HELP} (%(default)s)",
    )
    add_bounds(add)
    add("--dtype", choices=("float32", "bfloat16"), default="float32", help="(%(default)s)")
    add("--batch", type=int, help="streams at a time in a process (one for each device)")
    add("--workers", type=int, default=2, help="threads that decode images (%(default)s)")
    add("--seed", type=int, default=0, help="of the intervals that draw streams (%(default)s)")
    add("--no-report", action="store_true", help="no page with plots (which needs the extra viz)")
    add("--predictions", type=Path, nargs="+", metavar="FILE", help="score these answers instead")
    add("--coordinator", metavar="HOST:PORT", help="of process 0; 'auto' on a known cluster")
    add("--processes", type=int, help="how many there are")
    add("--process", type=int, help="which this is, from 0")
    args = parser.parse_args(given)
    for name in ("batch", "workers", "max_streams", "max_frames"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    if args.seed < 0:
        parser.error("--seed must not be negative")
    return args


def main(given: list[str] | None = None) -> int:
    args = arguments(given)

    def run() -> int:
        try:
            processes.join(args.coordinator, args.processes, args.process)
            return score_answers(args) if args.predictions else evaluate(args)
        except processes.ProcessLost as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            os._exit(3)  # an orderly end would wait for the lost one

    return run_script(run)
