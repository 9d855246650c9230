"""Prints a measured session, a line for each frame."""

import os
import platform
from collections.abc import Sequence

import jax

from diffvis_jax.images.recording import Recording
from diffvis_jax.measure.recording_run import FrameResult, SessionResult
from diffvis_jax.model import Model


class Table:
    """Prints a run, line by line."""

    def __init__(self, model: Model, recording: Recording, notes: Sequence[str] = ()):
        self.model, self.recording, self.notes = model, recording, notes

    def head(self) -> None:
        """What is run, and the names of the columns."""
        print(f"{self.recording.title}: {len(self.recording.paths)} frames")
        print(f"{tower_text(self.model)}; {machine_text()}")
        for note in self.notes:
            print(f"note: {note}")
        upper = ["", "", "changed", "recom-", "step", "full", "speed-", "missed at", "missed", ""]
        lower = ["#", "path", "patches", "puted", "ms", "ms", "up", "changed", "over all", "error"]
        upper.append("clickable" if self.model.head else "")
        lower.append("as in full" if self.model.head else "")
        print("\n" + self._line(upper))
        print(self._line(lower) + "  what happened before", flush=True)

    def row(self, frame: FrameResult) -> None:
        """One frame."""
        columns = [
            f"{frame.index}",
            frame.path,
            f"{frame.changed_patches}" if frame.index else "-",
            f"{frame.recomputed:.1%}",
            f"{frame.step_ms:.1f}",
            f"{frame.full_ms:.0f}",
            _shown(frame.speed_up, ".1f"),
            _shown(frame.missed_changed, ".3f"),
            _shown(frame.missed_all, ".3f"),
            f"{frame.error:.1e}",
            _found(frame),
        ]
        print(self._line(columns) + f"  {self.recording.labels[frame.index]}", flush=True)

    @staticmethod
    def _line(columns: list[str]) -> str:
        widths = (3, -7, 7, 6, 7, 6, 7, 9, 8, 7, 10 if columns[-1] else 0)
        return " ".join(
            text.rjust(width) if width > 0 else text.ljust(-width)
            for text, width in zip(columns, widths, strict=True)
        )

    def totals(self, result: SessionResult) -> None:
        """The summary."""
        s = result.summary()
        paths = ", ".join(f"{count} {path}" for path, count in s["paths"].items() if count)
        print(
            f"\ncompiled in {s['compile_full_s']:.0f} s (full encode) and "
            f"{s['compile_step_s']:.0f} s (step), once; first frame: "
            f"{s['first_frame_ms']:.0f} ms, a full encode that fills the cache"
        )
        if s["speed_up"] is None:
            print("a single frame: nothing to compare")
            return
        settling = f" ({s['settling']} of them settling)" if s["settling"] else ""
        print(f"frames after the first: {paths}{settling}")
        print(
            f"time: {s['step_s_total']:.1f} s differential, {s['full_s_total']:.1f} s in full: "
            f"{s['speed_up']:.1f} times as fast over all; medians "
            f"{s['step_ms_median']:.0f} and {s['full_ms_median']:.0f} ms"
        )
        missed = [
            f"{_shown(s[f'missed_{which}_median'], '.3f')} "
            f"({_shown(s[f'missed_{which}_max'], '.3f')}) {where}"
            for which, where in (("changed", "at changed tokens"), ("all", "over all tokens"))
        ]
        print("missed change, median (max.): " + ", ".join(missed))
        if s["same_elements"] is not None:
            print(
                f"clickable elements: exactly those of a full encode in {s['same_elements']} of "
                f"{s['frames'] - 1} frames"
            )


def _found(frame: FrameResult) -> str:
    """Elements found in both encodes, of those of the full encode; "+n" found in the step alone."""
    found = frame.agreement
    if found is None:
        return ""
    added = f" +{found.only_first}" if found.only_first else ""
    return f"{found.both}/{found.both + found.only_second}{added}"


def _shown(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def tower_text(model: Model) -> str:
    """The tower in a few words."""
    config = model.config
    kind = type(config).__name__.removesuffix("Config")
    return f"{kind} at {config.size} px, {config.dtype}, {model.name}"


def machine_text() -> str:
    """What the numbers were measured on."""
    device = jax.devices()[0]
    if device.platform == "cpu":
        return f"CPU, {os.cpu_count()} cores, {platform.machine()}"
    return device.device_kind
