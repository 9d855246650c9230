#!/usr/bin/env python3
"""The language model alone: reading a prompt and writing an answer, beside transformers' Qwen2.

    python scripts/benchmarks/benchmark_language.py --weights NAME --torch CHECKPOINT

Every dtype in turns in one process, after warm-up, medians. The prompt is of text alone, as long as
one with an image; greedy. CHECKPOINT is the PyTorch directory that NAME was converted from, with
its language model under the released names (extra: parity).
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import diffvis_jax as dv
from diffvis_jax.cli.command_line import check_file, run_script, write_json
from diffvis_jax.cli.models import find_model
from diffvis_jax.metrics import tails
from diffvis_jax.report.table import print_table
from diffvis_jax.report.text import TAILS, milliseconds, tails_text
from diffvis_jax.utils.progress import Progress

OURS = {  # dtype of the prefill, and of the decoding
    "diffvis_jax float32": ("float32", None),
    "diffvis_jax bfloat16": ("bfloat16", None),
    "diffvis_jax bfloat16, decoding in float32": ("bfloat16", "float32"),
}

Runner = Callable[[], tuple[float, float, np.ndarray]]  # ms of the prefill, ms an id, logits


def ours(
    directory: Path, dtype: str, decode_dtype: str | None, ids: np.ndarray, new: int
) -> Runner:
    """Our prefill and decoding."""
    model = dv.load(directory, dtype=dtype, decode_dtype=decode_dtype)
    options = dv.AnswerOptions(max_new_tokens=new, stop_ids=())
    session = dv.PromptSession(model.language, options=options, differential=False)

    def run() -> tuple[float, float, np.ndarray]:
        start = time.perf_counter()
        logits = np.asarray(session.prefill(None, ids).logits)
        prefill_ms = since(start)
        return prefill_ms, milliseconds_an_id(session.stream()), logits

    return run


def transformers_runner(directory: Path, config: dv.DecoderConfig, dtype: str, ids, new) -> Runner:
    """The same by PyTorch: its cache, one call for the prompt and one for each id.

    Raises:
      ValueError: torch, transformers or the checkpoint's tensors are missing.
    """
    from diffvis_jax.checkpoints.torch_reference import require_torch

    require_torch()
    import safetensors.torch
    import torch
    import transformers

    settings = transformers.Qwen2Config(
        vocab_size=config.vocabulary,
        hidden_size=config.width,
        intermediate_size=config.mlp_width,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.kv_heads,
        rms_norm_eps=config.norm_epsilon,
        rope_parameters={"rope_theta": config.rope_theta, "rope_type": "default"},
        tie_word_embeddings=config.tied,
    )
    model = transformers.Qwen2ForCausalLM(settings).to(getattr(torch, dtype)).eval()
    state: dict[str, Any] = {}
    for path in sorted(directory.glob("*.safetensors")):
        state |= safetensors.torch.load_file(path)
    missing = [name for name in model.load_state_dict(state, strict=False).missing_keys]
    if config.tied:
        missing = [name for name in missing if name != "lm_head.weight"]
    if missing:
        raise ValueError(f"{directory} has no '{missing[0]}' ({len(missing)} tensors are missing)")
    prompt = torch.from_numpy(ids.astype(np.int64))[None]

    def run() -> tuple[float, float, np.ndarray]:
        with torch.inference_mode():
            start = time.perf_counter()
            out = model(prompt, use_cache=True, logits_to_keep=1)
            logits = out.logits[0, -1].float().numpy()
            prefill_ms = since(start)

            def stream(out: Any) -> Iterator[int]:
                for _ in range(new):
                    chosen = out.logits[:, -1].argmax(-1, keepdim=True)
                    yield int(chosen)
                    out = model(chosen, past_key_values=out.past_key_values, use_cache=True)

            return prefill_ms, milliseconds_an_id(stream(out)), logits

    return run


def milliseconds_an_id(stream: Iterator[int]) -> float:
    """Of each id after the first."""
    next(stream)
    start = time.perf_counter()
    count = sum(1 for _ in stream)
    return since(start) / count


def since(start: float) -> float:
    return 1e3 * (time.perf_counter() - start)


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    directory = find_model(args.weights)
    config = dv.load(directory).language.config
    ids = np.random.default_rng(0).integers(0, min(config.vocabulary, 150_000), args.length)
    ids = ids.astype(np.int32)
    runners = {
        name: ours(directory, dtype, decode_dtype, ids, args.new_tokens)
        for name, (dtype, decode_dtype) in OURS.items()
    }
    if args.torch:
        for dtype in ("float32", "bfloat16"):
            runner = transformers_runner(args.torch, config, dtype, ids, args.new_tokens)
            runners[f"transformers {dtype}"] = runner
    results: dict[str, list[tuple[float, float, np.ndarray]]] = {name: [] for name in runners}
    with Progress((args.rounds + 1) * len(runners), "answers") as progress:
        for _ in range(args.rounds + 1):
            for name, run in runners.items():
                results[name].append(run())
                progress(name)
    right = results["diffvis_jax float32"][0][2]
    return [
        {
            "name": name,
            "prefill_ms": tails(ms for ms, _, _ in each[1:]),  # the first compiles
            "token_ms": tails(ms for _, ms, _ in each[1:]),
            "logit_error": float(np.abs(each[0][2] - right).max() / np.abs(right).max()),
        }
        for name, each in results.items()
    ]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--weights", required=True, metavar="NAME", help="a directory in weights/, or any path")
    add("--torch", type=Path, metavar="CHECKPOINT", help="transformers too (extra: parity)")
    add("--length", type=int, default=280, help="ids of the prompt (280)")
    add("--new-tokens", type=int, default=32, help="ids of the answer, at least 2 (32)")
    add("--rounds", type=int, default=3, help="measurements of everything (3)")
    add("--json", type=Path, help="write all rows there")
    args = parser.parse_args(arguments)
    return run_script(lambda: run(args))


def run(args: argparse.Namespace) -> int:
    if min(args.length, args.rounds) < 1 or args.new_tokens < 2:
        raise ValueError("--length and --rounds must be at least 1, --new-tokens 2")
    if args.torch and not args.torch.is_dir():
        raise ValueError(f"--torch: no directory '{args.torch}'")
    if args.json:
        check_file("--json", args.json)
    rows = measure(args)
    print(f"\n{args.length} ids read, {args.new_tokens} written, {args.rounds} rounds\n")
    head = ["", f"prefill: {TAILS}", f"each id: {TAILS}", "ids / s", "logit difference"]
    cells = [
        [
            row["name"],
            tails_text(row["prefill_ms"], milliseconds),
            tails_text(row["token_ms"], milliseconds),
            f"{1e3 / row['token_ms']['median']:.1f}",
            f"{row['logit_error']:.1e}",
        ]
        for row in rows
    ]
    print_table([head, *cells])
    if args.json:
        write_json(args.json, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
