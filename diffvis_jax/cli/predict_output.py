"""What `diffvis predict` says of its answers: lines, tables, heatmaps, and the JSON file."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diffvis_jax.cli.answering_options import make_question, make_space
from diffvis_jax.cli.command_line import write_json

if TYPE_CHECKING:  # so that --help does not wait for JAX
    import diffvis_jax as dv
    from diffvis_jax.agent.answering import Answer
    from diffvis_jax.measure.answer_pairs import Pair


# ---- beyond the text: commands, heatmaps, places to click -------------------------------------


class Looks:
    """Reads commands out of answers, and draws where the model looked, as the options ask for."""

    def __init__(self, args: argparse.Namespace, model: dv.Model):
        """Raises ConfigError if there is no such layer."""
        from diffvis_jax.towers import build

        self._args, self._config = args, model.config
        self._space = make_space(args, model)
        self._patch = build(model.config).token
        self.wants_attention = args.save_heatmap is not None or args.click_regions > 0
        if self.wants_attention:  # a layer that is not there is found out before the work
            layers = model.language.config.layers
            self._map(np.zeros((layers, 1, 1), np.float32), (1, 1))

    def _map(self, attention: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
        from diffvis_jax.agent.attention_map import attention_map

        layer, average = self._args.heatmap_layer, self._args.heatmap_layer_avg_k
        return attention_map(attention, grid, layer=layer, average=average)

    def heat(self, answer: Answer) -> np.ndarray | None:
        """What the prompt's last token attends to, for each image token; None unless asked for."""
        return None if answer.attention is None else self._map(answer.attention, answer.grids[-1])

    def at(self, path: Path, answer: Answer, number: int) -> dict[str, Any]:
        """What is asked for beside the text of an answer, for JSON; files are written.

        Args:
          path: the picture.
          answer: about it.
          number: of the picture in the whole run; tells heatmaps of the same name apart.
        """
        import diffvis_jax as dv
        from diffvis_jax.agent.attention_map import draw_heatmap
        from diffvis_jax.agent.click_regions import click_regions
        from diffvis_jax.images.recording import open_screenshot

        args, found = self._args, {}
        if args.prompt_style != "pyautogui" and not self.wants_attention:
            return found
        picture = open_screenshot(path)
        width, height = picture.size
        placement = dv.placement(width, height, self._config)
        if args.prompt_style == "pyautogui":
            found |= read_commands(answer.text, self._space, placement)
        if not self.wants_attention:
            return found
        heat, regions = self.heat(answer), []
        assert heat is not None
        if args.click_regions:
            regions = click_regions(
                heat, placement, patch_size=self._patch, limit=args.click_regions
            )
            found["click_regions"] = [
                {**dataclasses.asdict(region), "pixel": region.point.pixel} for region in regions
            ]
        if args.save_heatmap is not None:
            drawn = draw_heatmap(
                picture,
                heat,
                placement=placement,
                patch_size=self._patch,
                mode=args.heatmap_mode,
                alpha=args.heatmap_alpha,
                regions=regions,
            )
            target = heatmap_file(args.save_heatmap, path, number)
            target.parent.mkdir(parents=True, exist_ok=True)
            drawn.save(target)
            found["heatmap"] = str(target)
        return found


def is_directory(path: Path) -> bool:
    """Whether a path names a directory, which may not exist yet."""
    return path.is_dir() or not path.suffix


def heatmap_file(target: Path, path: Path, number: int) -> Path:
    """The file of a heatmap: the target itself, or a numbered one in it."""
    return target / f"{number:04d}_{path.stem}_heatmap.png" if is_directory(target) else target


def read_commands(text: str, space: Any, placement: dv.Placement) -> dict[str, Any]:
    """The actions in an answer, for JSON; or what is wrong with its commands."""
    from diffvis_jax.agent.actions import on_screen
    from diffvis_jax.agent.commands import parse_actions
    from diffvis_jax.errors import ActionError

    try:
        written = parse_actions(text, space=space)
    except ActionError as error:  # the model's mistake, not the user's: told, and no end
        return {"actions": [], "action_error": str(error)}
    actions = []
    for action in written:
        record = {"action": type(action).__name__, **dataclasses.asdict(action)}
        if record.get("point") is not None or record.get("offset") is not None:
            try:
                placed = on_screen(action, placement)
            except ActionError as error:
                record["error"] = str(error)
            else:
                if (point := getattr(placed, "point", None)) is not None:
                    record["pixel"] = point.pixel
                if (offset := getattr(placed, "offset", None)) is not None:
                    record["pixels"] = round(offset.dx), round(offset.dy)
        actions.append(record)
    return {"actions": actions}


# ---- lines ------------------------------------------------------------------------------------


def frame_text(found: Answer | Pair, extra: dict[str, Any]) -> str:
    """What a frame took, and what else there is to say of it, in a few lines."""
    from diffvis_jax.measure.answer_pairs import Pair
    from diffvis_jax.report.text import percent

    if isinstance(found, Pair):
        text = (
            f"  full:         {answer_text(found.full)}\n"
            f"  differential: {answer_text(found.differential)}\n"
            f"  missed change {percent(found.missed_changed)} at changed tokens, "
            f"{percent(found.missed_all)} over all; logits off by {found.logits_error:.1e}; "
            f"{'the same text' if found.same_text else f'in full: {found.full.text}'}"
        )
    else:
        text = f"  {answer_text(found)}"
    return text + "".join(f"\n  {line}" for line in extra_lines(extra))


def extra_lines(found: dict[str, Any]) -> list[str]:
    """What `Looks.at` or `read_commands` found, a line for each action and candidate."""
    lines = []
    for action in found.get("actions", ()):
        where = action.get("pixel", action.get("pixels"))
        place = f" at {where}" if "pixel" in action else f" by {where}" if where else ""
        trouble = f": {action['error']}" if "error" in action else ""
        lines.append(f"action: {action['action']}{place}{trouble}")
    if "action_error" in found:
        lines.append(f"no action: {found['action_error']}")
    for rank, region in enumerate(found.get("click_regions", ()), 1):
        lines.append(f"candidate {rank}: {region['pixel']}, relative heat {region['peak']:.2f}")
    return lines


def answer_text(answer: Answer) -> str:
    """What an answer took, in a line."""
    enc, pre = answer.encoded, answer.prefilled
    seen = "" if enc["changed_patches"] is None else f"{enc['changed_patches']} of "
    changed = f"{seen}{enc['total_patches']} patches{' changed' if seen else ''}"
    parts = [
        f"{enc['path']}, {changed}, {enc['recomputed']:.1%} recomputed: "
        f"encode {answer.encode_ms:.0f} ms",
        f"prefill {answer.prefill_ms:.0f} ms ({pre['prefilled']} of {pre['total']} tokens)",
    ]
    if made := answer.compressed:
        parts.insert(
            1,
            f"{made['tokens']} tokens stand for {made['tokens_of_frames']} (whitened error "
            f"{made['whitened_error']:.3f})",
        )
    if answer.first_token_ms is None:
        parts.append(f"{len(answer.ids)} tokens in {answer.generate_ms:.0f} ms")
    else:
        parts.append(f"first token {answer.first_token_ms:.1f} ms")
    if answer.token_ms is not None:
        parts.append(f"{len(answer.ids) - 1} more at {answer.token_ms:.1f} ms")
    if answer.compile_s:
        parts.append(f"{answer.compile_s:.1f} s of this compiling")
    return ", ".join(parts)


# ---- the whole run ----------------------------------------------------------------------------


class Journal:
    """All that a run has found, kept up to date in the JSON file if there is one.

    Attributes:
      answered: frames so far.
      warm_up_s: seconds of compilation before the first of them.
    """

    def __init__(self, args: argparse.Namespace, model: dv.Model):
        from diffvis_jax.report.table import machine_text, tower_text

        self._file: Path | None = args.output_json
        self._comparing: bool = args.benchmark
        self.answered, self.warm_up_s = 0, 0.0
        self._left_out: list[dict[str, str]] = []
        self._sequences: list[dict[str, Any]] = []
        self._found: list[list[Answer | Pair]] = []
        self._facts = {
            "model": tower_text(model),
            "machine": machine_text(),
            "prompt": make_question(args, model),
            "options": {name: _plain(value) for name, value in vars(args).items()},
        }
        print(f"{self._facts['model']}; {self._facts['machine']}", file=sys.stderr)

    def begin(self, name: str) -> None:
        """A new sequence."""
        self._sequences.append({"name": name, "frames": [], "stats": None})
        self._found.append([])

    def add(self, path: Path, found: Answer | Pair, extra: dict[str, Any]) -> None:
        """An answer, or a pair of them."""
        from diffvis_jax.measure.answer_pairs import Pair

        self.answered += 1
        self._found[-1].append(found.light())
        answer = found.differential if isinstance(found, Pair) else found
        record = {"file": str(path), **answer.numbers(), **extra}
        if isinstance(found, Pair):
            record["comparison"] = found.numbers()
        self._sequences[-1]["frames"].append(record)
        self._write(complete=False)

    def leave_out(self, path: Path, error: Exception) -> None:
        """A frame that could not be read."""
        self._left_out.append({"file": str(path), "reason": str(error)})

    def end(self, stats: dict[str, float]) -> None:
        """The last sequence is done."""
        self._sequences[-1]["stats"] = stats

    def close(self, *, complete: bool) -> None:
        """Prints the summary, and writes the file for the last time."""
        print("\n" + "\n".join(self._summary_lines()), flush=True)
        self._write(complete)
        if self._file is not None:
            print(f"written: {self._file}")

    def _write(self, complete: bool) -> None:
        if self._file is None:
            return
        content = {
            **self._facts,
            "complete": complete,
            "left_out": self._left_out,
            "summary": self.summary(),
            "sequences": self._sequences,
        }
        write_json(self._file, content)

    def _typical(self) -> list[Any]:
        """What is neither the first of a sequence nor was compiled for."""
        return [found for each in self._found for found in each[1:] if not found.compile_s]

    def _answers(self, found: list[Any]) -> list[Answer]:
        from diffvis_jax.measure.answer_pairs import Pair

        return [one.differential if isinstance(one, Pair) else one for one in found]

    def summary(self) -> dict[str, Any]:
        """Totals and medians."""
        from diffvis_jax.agent.answering import TIMES, median_of
        from diffvis_jax.measure.answer_pairs import Pair, compare_times
        from diffvis_jax.utils.memory import peak_memory_mb

        everything = [found for each in self._found for found in each]
        first = self._answers([each[0] for each in self._found if each])
        typical = self._typical()
        answers = self._answers(typical)
        compiling = [found for found in everything if found.compile_s]
        pairs = [found for found in typical if isinstance(found, Pair)]
        return {
            "frames": len(everything),
            "left_out": len(self._left_out),
            "warm_up_compile_s": self.warm_up_s,
            "compile_s": sum(found.compile_s for found in compiling),
            "frames_compiling": len(compiling),
            "first_frames": {name: median_of(first, name) for name, _ in TIMES},
            "typical_frames": len(answers),
            "medians": {name: median_of(answers, name) for name, _ in TIMES},
            "recomputed_mean": _mean([answer.encoded["recomputed"] for answer in answers]),
            "prefilled": sum(answer.prefilled["prefilled"] for answer in answers),
            "prompt_tokens": sum(answer.prefilled["total"] for answer in answers),
            "comparison": compare_times(pairs) if pairs else None,
            "peak_memory_mb": peak_memory_mb(),
        }

    def _summary_lines(self) -> list[str]:
        from diffvis_jax.agent.answering import TIMES

        found = self.summary()
        left_out = f", {found['left_out']} left out (unreadable)" if found["left_out"] else ""
        plural = "" if found["frames"] == 1 else "s"
        lines = [f"{found['frames']} frame{plural} answered{left_out}"]
        if found["warm_up_compile_s"]:
            lines.append(f"compiled beforehand: {found['warm_up_compile_s']:.1f} s")
        if found["frames_compiling"]:
            lines.append(
                f"compiled {found['compile_s']:.1f} s during {found['frames_compiling']} of them "
                "(left out of the medians)"
            )
        said = []
        if found["frames"]:
            said.append(("first frame of a sequence", found["first_frames"]))
        if found["typical_frames"]:
            said.append((f"medians of {found['typical_frames']} frames after", found["medians"]))
        for what, times in said:
            parts = [f"{name} {times[key]:.1f} ms" for key, name in TIMES if times[key] is not None]
            lines.append(f"{what}: {', '.join(parts)}")
        if found["typical_frames"]:
            lines.append(
                f"of these, on average {found['recomputed_mean']:.1%} of an encode were "
                f"recomputed, {found['prefilled']} of {found['prompt_tokens']} tokens prefilled"
            )
        if found["comparison"]:
            lines += ["", *comparison_lines(found["comparison"])]
        elif self._comparing and not found["typical_frames"]:
            lines.append("nothing to compare: no frame after the first that did not compile")
        if peak := found["peak_memory_mb"]:
            lines.append(f"peak memory of this process: {peak:.0f} MB")
        return lines


def comparison_lines(found: dict[str, Any]) -> list[str]:
    """The comparison as a table, in Markdown."""
    from diffvis_jax.agent.answering import TIMES
    from diffvis_jax.report.text import TAILS, tails_text, times, tiny_text

    lines = [
        f"| ms of {found['frames']} frames: {TAILS} | full | differential | speed-up "
        "| of the totals |",
        "|---|---|---|---|---|",
    ]
    for key, name in TIMES:
        row = found[key]
        cells = [tails_text(row[side], _one_digit) for side in ("full", "differential")]
        cells += [times(row[side]) for side in ("speed_up", "speed_up_of_totals")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return [
        *lines,
        "",
        f"missed change at changed tokens ({TAILS}): {tails_text(found['missed_changed'])}",
        f"missed change over all tokens: {tails_text(found['missed_all'])}",
        tiny_text(found["tiny"]),
        "error of the first token's logits, relative to the largest: "
        + ", ".join(
            f"{tails_text(found[key], _exponent)} {what}"
            for key, what in (("logits_error", "in all"), ("prefill_error", "by the prefill"))
        ),
        f"the same text in {found['same_text']} of {found['frames']} frames; "
        f"{found['prefilled']} of {found['prompt_tokens']} tokens prefilled",
    ]


def summary_tiles(found: dict[str, Any]) -> list[tuple[str, str]]:
    """`Journal.summary` for a page: values, and what they are."""
    from diffvis_jax.report.text import TAILS, milliseconds, percent, tails_text, times

    medians, compared = found["medians"], found["comparison"]
    tiles = [(f"{found['frames']}", "frames answered"), (f"{found['left_out']}", "left out")]
    if compared:
        waited = compared["time_to_first_token_ms"]
        tiles += [
            (times(waited["speed_up"]), "as fast to the first token as in full (medians)"),
            (f"{compared['same_text']} of {compared['frames']}", "answers the same as in full"),
            (tails_text(compared["missed_changed"]), f"missed change at changed tokens ({TAILS})"),
        ]
    return [
        *tiles,
        (milliseconds(medians["time_to_first_token_ms"]), "to the first token (median)"),
        (milliseconds(medians["encode_ms"]), "to encode a frame (median)"),
        (percent(found["recomputed_mean"]), "of an encode recomputed, on average"),
        (
            percent(found["prefilled"] / found["prompt_tokens"]) if found["prompt_tokens"] else "-",
            "of the prompts' tokens read anew",
        ),
    ]


def _one_digit(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _exponent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}"


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(part) for part in value]
    return str(value) if isinstance(value, Path) else value
