#!/usr/bin/env python3
"""Time to the first token over HTTP, against servers that reuse nothing, or only whole pictures.

    python scripts/benchmarks/benchmark_serve.py --random-size 0.5b --dtype bfloat16

One server in this process, asked over loopback in three modes, in turns:

  (a) off       every picture in full, every prompt afresh
  (b) whole     pictures that are known by their pixels, and the common prefix of keys and values
  (c) --policy  ours

Scenarios over the frames of a recording that differ from the one before: the same question again
(identical bytes; identical pixels in other bytes), one picture a turn without a history, and
conversations that only grow, in which the last of 1, 2, 4 pictures is new. A speed-up is quoted
against (b) first: (a) grows with the history, and flatters.
"""

import argparse
import base64
import http.client
import io
import json
import statistics
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from diffvis_jax.cli.bundled import BUNDLED
from diffvis_jax.cli.command_line import Parser, check_file, run_script, tell, whole, write_json
from diffvis_jax.cli.models import find_model
from diffvis_jax.images.source import read_source

PARTS = ("decode", "resize", "queue", "encode", "prefill")
QUESTION = "What is on the screen?"
_COUNT = 8  # ids of an answer


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--model", metavar="MODEL", help="with a language side")
    model.add_argument("--random-size", choices=("0.5b", "1.5b", "small"), help="random weights")
    add = parser.add_argument
    add("--dtype", choices=("float32", "bfloat16"), help="of the computation")
    add("--frames", metavar="SOURCE", default=BUNDLED, help="a recording (the bundled one)")
    add("--policy", choices=("exact", "faithful", "fast"), default="faithful", help="(faithful)")
    add(
        "--pictures",
        metavar="N",
        type=whole(1, 100, "a whole number >= 1"),
        nargs="*",
        default=[1, 2, 4],
        help="of conversations that only grow; none = leave those out (1 2 4)",
    )
    number = whole(2, 10**4, "a whole number >= 2")
    add("--turns", metavar="N", type=number, default=8, help="of each scenario (8)")
    add("--json", metavar="FILE", type=Path, help="write every measurement there")
    return parser


class Client:
    """Asks, and stops the time. Each has a key of its own, so that no mode is spared the decoding
    of a picture that another one sent."""

    def __init__(self, port: int, key: str):
        self._port = port
        self._headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}

    def ask(self, messages: list[dict[str, Any]], policy: str, key: str) -> dict[str, Any]:
        """What the server tells of it, with the text and the client's `ttft_ms`."""
        body = json.dumps(
            {
                "model": "m",
                "messages": messages,
                "max_tokens": _COUNT,
                "stream": True,
                "diffvis": {"policy": policy, "session": key},
            }
        )
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=600)
        start = time.perf_counter()
        connection.request("POST", "/v1/chat/completions", body, self._headers)
        response = connection.getresponse()
        first, text, told = None, "", None
        while line := response.readline():
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[6:])
            if "error" in event:
                raise ValueError(event["error"]["message"])
            if piece := event["choices"][0]["delta"].get("content"):
                first = first or time.perf_counter()
                text += piece
            told = event.get("diffvis", told)
        connection.close()
        if told is None or response.status != 200:
            raise ValueError(f"the server answered {response.status}")
        ttft_ms = 1e3 * ((first or time.perf_counter()) - start)
        # What is neither of the model nor of the picture: HTTP, JSON, events; and what a first id
        # without a text costs besides.
        known = sum(told[f"{part}_ms"] for part in PARTS) + told["first_id_ms"]
        return {**told, "text": text, "ttft_ms": ttft_ms, "overhead_ms": ttft_ms - known}


def message(pixels: np.ndarray | None, text: str = QUESTION, level: int = 6) -> dict[str, Any]:
    """A question about a screen, or an answer."""
    if pixels is None:
        return {"role": "assistant", "content": text}
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=level)
    url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    image = {"type": "image_url", "image_url": {"url": url}}
    return {"role": "user", "content": [image, {"type": "text", "text": text}]}


def scenarios(
    frames: list[np.ndarray], pictures: list[int], turns: int
) -> Iterator[tuple[str, list[tuple[list[dict[str, Any]], bool]], str]]:
    """Name, requests with whether each is measured, and what their session is called."""
    first = frames[0]
    yield "identical bytes", [([message(first)], n > 0) for n in range(turns + 1)], "bytes"
    levels = [([message(first, level=n % 9 + 1)], n > 0) for n in range(turns + 1)]
    yield "identical pixels", levels, "pixels"
    one = [([message(f)], n > 0) for n, f in enumerate(frames[: turns + 1])]
    yield "one picture a turn", one, "turns"
    for count in pictures:
        starts = range(0, max(1, min(turns, len(frames) - count)))
        for start in starts:
            talk: list[dict[str, Any]] = []
            requests = []
            for n, frame in enumerate(frames[start : start + count + 1]):
                if n == count:  # the first turn of all is like that of one picture
                    break
                talk = [*talk, message(frame)]
                requests.append((talk, n == count - 1))
                talk = [*talk, message(None, "It is a screen.")]
            yield f"append-only, {count} pictures", requests, f"append {count} {start}"


def differing(paths: Sequence[Path], most: int) -> list[np.ndarray]:
    """The first frames of a recording that differ from the one before; at most so many."""
    found: list[np.ndarray] = []
    for path in paths:
        pixels = np.asarray(Image.open(path).convert("RGB"))
        if not found or not np.array_equal(pixels, found[-1]):
            found.append(pixels)
        if len(found) == most:
            break
    return found


def measure(port: int, args: argparse.Namespace, frames: list[np.ndarray]) -> list[dict]:
    """One row for each measured request of each mode; modes take turns within a request."""
    modes = ("off", "whole", args.policy)
    rows = []
    for warm in (True, False):  # the first pass compiles what the server's own warm-up did not
        turns = 2 if warm else args.turns
        clients = {mode: Client(port, f"{mode}-{warm}") for mode in modes}
        for name, requests, key in scenarios(frames, args.pictures, turns):
            for number, (messages, counts) in enumerate(requests):
                texts = {}
                for mode in modes:
                    told = clients[mode].ask(messages, mode, key)
                    texts[mode] = told["text"]
                    if counts and not warm:
                        same = told["text"] == texts["off"]
                        row = {"scenario": name, "mode": mode, "turn": number, "same": same}
                        rows.append(row | told)
        tell("warm" if warm else "measured")
    return rows


def table(rows: list[dict[str, Any]]) -> list[list[str]]:
    """Medians and 95th percentiles, by scenario and mode."""
    groups = defaultdict(list)
    for row in rows:
        groups[row["scenario"], row["mode"]].append(row)

    def median(found: list[dict[str, Any]], name: str) -> float:
        return statistics.median(row[name] for row in found)

    made = [
        ["scenario", "mode", "first token, ms", "p95", *PARTS, "kept", "same text", "(a)/", "(b)/"]
    ]
    for (scenario, mode), found in groups.items():
        ttft = median(found, "ttft_ms")
        ratios = [median(groups[scenario, base], "ttft_ms") / ttft for base in ("off", "whole")]
        kept = 1 - sum(r["prefilled"] for r in found) / sum(r["positions"] for r in found)
        p95 = float(np.quantile([row["ttft_ms"] for row in found], 0.95))
        parts = [f"{median(found, f'{part}_ms'):.1f}" for part in PARTS]
        same = f"{sum(row['same'] for row in found)}/{len(found)}"
        made.append(
            [scenario, mode, f"{ttft:.1f}", f"{p95:.1f}", *parts, f"{kept:.0%}", same,
             *(f"{ratio:.2f}x" for ratio in ratios)]
        )  # fmt: skip
    return made


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status."""
    args = build_parser().parse_args(arguments)
    return run_script(lambda: run(args))


def run(args: argparse.Namespace) -> int:
    """Starts the server, asks it, and prints the table."""
    import diffvis_jax as dv
    from diffvis_jax.report.table import machine_text, print_table, tower_text
    from diffvis_jax.serve.run import Running
    from diffvis_jax.serve.settings import Settings

    if args.json is not None:
        check_file("--json", args.json)
    most = max(args.pictures, default=1)
    needed = args.turns + most + 1
    frames = differing(read_source(args.frames).paths, needed)
    with tempfile.TemporaryDirectory() as folder:
        directory = find_model(args.model, language=True) if args.model else _random(args, folder)
        model = dv.load(directory, args.dtype, decode_dtype="auto")
        height, width = frames[0].shape[:2]
        settings = Settings.model_validate(
            {
                "model": {"path": "-", "name": "m", "policy": args.policy, "answer_tokens": 64},
                "serve": {
                    "port": 0,
                    "warm_screens": [f"{width}x{height}"],
                    "warm_sampling": ["greedy"],
                    "session_ttl_s": 86400.0,
                },
                "limits": {"timeout_s": 600.0, "images": most},
                # Or the pictures of one scenario would be known in the next.
                "reuse": {"features_mb": 0.0},
            }
        )
        keys = [f"{m}-{warm}" for m in ("off", "whole", args.policy) for warm in (True, False)]
        running, ready = Running(model, settings, keys), threading.Event()
        thread = threading.Thread(target=running.run, args=(ready.set,), daemon=True)
        tell(f"{tower_text(model)}; {machine_text()}; {len(frames)} frames")
        start = time.perf_counter()
        thread.start()
        while not ready.wait(1):
            if not thread.is_alive():
                raise ValueError("the server did not start")
        warm_s = time.perf_counter() - start
        tell(f"ready after {warm_s:.0f} s")
        rows = measure(running.port, args, frames)
        largest = running.here.jobs.store.largest
        running.drain()
        thread.join(60)
    print_table(table(rows))
    overhead = [row["overhead_ms"] for row in rows if row["scenario"] == "identical bytes"]
    print(f"HTTP, JSON and events: {statistics.median(overhead):.1f} ms (p50, identical bytes)")
    print(f"largest session: {largest / 1e6:.0f} MB")
    compiled = sum(row["compiled"] > 0 for row in rows)
    print(f"requests that waited for a compilation: {compiled} of {len(rows)}")
    if args.json is not None:
        write_json(args.json, rows)
    return 0


def _random(args: argparse.Namespace, folder: str) -> Path:
    """Random weights of that size, converted."""
    from make_random_checkpoint import make

    from diffvis_jax.checkpoints.convert import convert

    made = make(Path(folder) / "checkpoint", args.random_size, seed=0)
    return convert(str(made), Path(folder) / "converted", say=tell)


if __name__ == "__main__":
    sys.exit(main())
