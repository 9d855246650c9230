"""Full encodes side by side: ours and PyTorch's, of one tower, in both dtypes."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL.Image import Resampling

import diffvis_jax as dv
from diffvis_jax.core.step import jit_encode
from diffvis_jax.images.preprocess import open_image, upright_rgb
from diffvis_jax.metrics import tails
from diffvis_jax.report.text import TAILS, milliseconds, tails_text
from diffvis_jax.towers import VisionConfig, build
from diffvis_jax.utils.progress import Progress

# Times the fastest first run: what takes longer than that is not run again.
HOPELESS = 5


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """Milliseconds of one run, and its result."""
    start = time.perf_counter()
    result = jax.block_until_ready(run())
    return 1e3 * (time.perf_counter() - start), result


def race(
    runners: dict[str, Callable[[], Any]], first: dict[str, float], rounds: int
) -> dict[str, list[float]]:
    """Milliseconds of the runs of each runner: in turns, so that drift hits all alike, each turn
    preceded by a run that is not counted, since one library's idle threads spin for a while and
    slow down what comes next.

    Those whose `first` run took more than `HOPELESS` times as long as the fastest one's are left
    out (PyTorch's bfloat16 on a processor without instructions for it takes more than a minute).
    """
    limit = HOPELESS * min(first.values())
    times: dict[str, list[float]] = {name: [] for name in runners if first[name] <= limit}
    with Progress(rounds * len(times), "full encodes") as progress:
        for _ in range(rounds):
            for name, measured in times.items():
                timed(runners[name])
                measured += [timed(runners[name])[0], timed(runners[name])[0]]
                progress(name)
    return times


def frame_of(path: Path, config: VisionConfig) -> np.ndarray:
    """The picture as the tower takes it, `uint8 [1, H, W, 3]`; where the tower takes any size, that
    of its config, so that a recording can be measured at any."""
    if config.preprocess.mode != "native":
        return dv.preprocess(path, config)
    height, width = build(config).frame
    with open_image(path, str(path)) as image:
        picture = upright_rgb(image, str(path))
    return np.asarray(picture.resize((width, height), Resampling.BICUBIC))[None]


def full_encodes(
    load: Callable[[str], dv.Model], path: Path, rounds: int, torch: bool
) -> list[dict[str, Any]]:
    """A row for each contender.

    Args:
      load: gives the tower in a dtype.
      path: of the picture that is encoded.
      rounds: turns of each.
      torch: whether PyTorch's are among them.
    """
    rows, runners, first, reference = [], {}, {}, None
    with Progress(5 if torch else 2, "first runs") as progress:
        for dtype in ("float32", "bfloat16"):
            model = load(dtype)
            frame = frame_of(path, model.config)
            start = time.perf_counter()
            compiled = jit_encode.lower(model.params, frame, config=model.config).compile()
            row = {"name": f"diffvis_jax {dtype}", "compile_s": time.perf_counter() - start}
            memory = compiled.memory_analysis()
            assert memory is not None
            row["weights_mb"] = sum(leaf.nbytes for leaf in jax.tree.leaves(model.params)) / 1e6
            row["work_mb"] = memory.temp_size_in_bytes / 1e6
            contenders = [
                (
                    row,
                    lambda compiled=compiled, params=model.params, frame=frame: compiled(
                        params, frame
                    ),
                )
            ]
            if torch and dtype == "float32":
                contenders += torch_runners(model, frame)
            for row, run in contenders:
                name = row["name"]
                runners[name] = run
                first[name], result = timed(run)
                progress(name)
                tokens = np.asarray(result if isinstance(result, jax.Array) else result.float())
                reference = tokens if reference is None else reference
                error = np.linalg.norm(tokens - reference) / np.linalg.norm(reference)
                rows.append(row | {"error": float(error)})
    times = race(runners, first, rounds)
    for row in rows:
        measured = times.get(row["name"], [first[row["name"]]])
        row |= {"runs": len(measured), "ms": tails(measured)}
    return rows


def torch_runners(
    model: dv.Model, frame: np.ndarray
) -> list[tuple[dict[str, Any], Callable[[], Any]]]:
    """timm's FastViTHD or transformers' CLIP with our weights: float32, float32 channels-last and
    bfloat16 channels-last (contiguous bfloat16 is the slowest everywhere: docs/lab).
    transformers' Qwen2.5-VL has no convolution of images, and no channels-last."""
    from diffvis_jax.checkpoints.torch_reference import pixels_to_torch, require_torch, torch_tower

    require_torch()
    import torch

    found, plain = [], torch.contiguous_format
    layouts = [
        (torch.float32, plain),
        (torch.float32, torch.channels_last),
        (torch.bfloat16, torch.channels_last),
    ]
    if isinstance(model.config, dv.Qwen25VisionConfig):
        layouts = [(torch.float32, plain), (torch.bfloat16, plain)]
    for dtype, layout in layouts:
        network = torch_tower(model.config, model.params)
        network = network.to(dtype=dtype, memory_format=layout)
        pixels = pixels_to_torch(np.asarray(frame), model.config)
        pixels = pixels.to(dtype=dtype, memory_format=layout)
        last = " channels-last" if layout == torch.channels_last else ""
        row = {"name": f"PyTorch {str(dtype).removeprefix('torch.')}{last}"}
        found.append((row, lambda network=network, pixels=pixels: network(pixels)))
    return found


def full_rows(rows: list[dict[str, Any]]) -> list[list[str]]:
    """Head and cells of a table."""
    head = ("full encode", f"time: {TAILS}", "relative difference from float32")
    cells = [[*head, "compile s", "weights MB", "work MB"]]
    for row in rows:
        time_ = tails_text(row["ms"], milliseconds) + (" (one run)" if row["runs"] == 1 else "")
        sizes = [
            f"{row[key]:.0f}" if key in row else "-"
            for key in ("compile_s", "weights_mb", "work_mb")
        ]
        cells.append([row["name"], time_, f"{row['error']:.1e}", *sizes])
    return cells
