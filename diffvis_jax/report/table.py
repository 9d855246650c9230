"""Tables of text, and the table of a measured recording, printed frame by frame."""

import os
import platform
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax

from diffvis_jax.images.recording import Recording
from diffvis_jax.measure.recording_run import FrameResult, SessionResult
from diffvis_jax.model import Model
from diffvis_jax.report.text import (
    TAILS,
    decimal,
    milliseconds,
    percent,
    tails_text,
    times,
    tiny_text,
)
from diffvis_jax.towers import VisionConfig, build

if TYPE_CHECKING:
    from rich.console import Console

# Heads and widths, in characters, of what `frame_cells` returns.
COLUMNS = (
    *(("#", 3), ("path", 8), ("patches changed", 8), ("recomputed", 10), ("step", 8)),
    *(("full encode", 8), ("speed-up", 8), ("missed", 7), ("missed over all", 8)),
    *(("error", 7), ("same elements", 8)),
)


def frame_cells(frame: FrameResult) -> list[str]:
    """One frame as text, for `COLUMNS`; what was missed is at changed tokens, and over all.

    The elements: in both encodes, of those of the full encode; "+n" in the step alone.
    """
    first, agreed = not frame.index, frame.agreement
    elements = "-"
    if agreed is not None:
        elements = f"{agreed.both}/{agreed.both + agreed.only_second}"
        elements += f" +{agreed.only_first}" if agreed.only_first else ""
    settling = frame.path == "partial" and not frame.changed_patches
    return [
        f"{frame.index}",
        "settling" if settling else frame.path,
        "-" if first else f"{frame.changed_patches}/{frame.total_patches}",
        percent(frame.recomputed),
        milliseconds(frame.step_ms),
        milliseconds(frame.full_ms),
        times(frame.speed_up),
        percent(frame.missed_changed),
        percent(frame.missed_all),
        decimal(frame.error, ".1e"),
        elements,
    ]


class Table:
    """Prints a run, line by line."""

    def __init__(self, model: Model, recording: Recording, notes: Sequence[str] = ()):
        self.model, self.recording, self.notes = model, recording, notes
        self._console = _console()
        self._console.width = max(self._console.width, 120)

    def about(self) -> None:
        """What is run."""
        print(f"{self.recording.title}: {len(self.recording.paths)} frames")
        print(f"{tower_text(self.model)}; {machine_text()}")
        for note in self.notes:
            print(f"note: {note}")

    def head(self) -> None:
        """The names of the columns."""
        print()
        self._print([name for name, _ in COLUMNS], "what happened before", style="bold")

    def row(self, frame: FrameResult) -> None:
        """One frame."""
        self._print(frame_cells(frame), self.recording.labels[frame.index])

    def _print(self, cells: Sequence[str], label: str, style: str = "") -> None:
        from rich.table import Table as RichTable
        from rich.text import Text

        line = RichTable.grid(padding=(0, 1))
        for name, width in COLUMNS:
            line.add_column(width=width, justify="left" if name == "path" else "right")
        line.add_row(*map(Text, [*cells, label]), style=style)
        self._console.print(line)

    def totals(self, result: SessionResult) -> None:
        """The summary."""
        s = result.summary()
        paths = ", ".join(f"{count} {path}" for path, count in s["paths"].items() if count)
        print(
            f"\ncompiled in {s['compile_full_s']:.0f} s (full encode) and "
            f"{s['compile_step_s']:.0f} s (step), once; first frame: "
            f"{milliseconds(s['first_frame_ms'])}, a full encode that fills the cache"
        )
        if s["speed_up"] is None:
            print("a single frame: nothing to compare")
            return
        settling = f" ({s['settling']} of them settling)" if s["settling"] else ""
        print(f"frames after the first: {paths}{settling}")
        print(
            f"all together: {s['step_s_total']:.1f} s differential, {s['full_s_total']:.1f} s in "
            f"full: {times(s['speed_up'])} as fast"
        )
        print(f"{TAILS}:")
        print(f"  step: {tails_text(s['step_ms'], milliseconds)}")
        print(f"  full encode: {tails_text(s['full_ms'], milliseconds)}")
        print(f"  missed change at changed tokens: {tails_text(s['missed_changed'])}")
        print(f"  missed change over all tokens: {tails_text(s['missed_all'])}")
        print(f"  {tiny_text(s['tiny'])}")
        if s["same_elements"] is not None:
            print(
                f"clickable elements: exactly those of a full encode in {s['same_elements']} of "
                f"{s['frames'] - 1} frames"
            )


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Prints rows of text, the first their heads, in Markdown; on a terminal cells are wrapped."""
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    table = RichTable(box=box.MARKDOWN)
    for name in rows[0]:
        table.add_column(Text(name), overflow="fold")
    for row in rows[1:]:
        table.add_row(*map(Text, row))
    console = _console()
    with console.capture() as capture:
        console.print(table)
    print(capture.get().strip())  # without the empty edges


def _console() -> "Console":
    """Standard output; nothing is wrapped or coloured where it is no terminal."""
    from rich.console import Console

    terminal = sys.stdout.isatty()
    return Console(force_terminal=terminal, width=None if terminal else 10_000, highlight=False)


def tower_text(model: Model) -> str:
    """The tower in a few words."""
    config = model.config
    kind = type(config).__name__.removesuffix("Config")
    return f"{kind} at {frame_text(config)}, {config.dtype}, {model.name}"


def frame_text(config: VisionConfig) -> str:
    """The size of the tower's frames: "1024 px", or height and width, "56 x 72 px"."""
    return " x ".join(map(str, dict.fromkeys(build(config).frame))) + " px"


def machine_text() -> str:
    """What the numbers were measured on."""
    device = jax.devices()[0]
    if device.platform == "cpu":
        return f"CPU, {os.cpu_count()} cores, {platform.machine()}"
    return device.device_kind
