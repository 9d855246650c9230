"""The page of an evaluation: tables, plots, and the cases in which the encodes differ most."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffvis_jax.cli.plots import pyplot, save
from diffvis_jax.datasets.records import Image, Screen, Stream, read_image
from diffvis_jax.evaluation.summary import ALL, FULL, good_frames, results_table, times_table
from diffvis_jax.measure.missed import TINY
from diffvis_jax.report.patches import CHANGED, RECOMPUTED
from diffvis_jax.report.pictures import compressed, png_url
from diffvis_jax.report.plain_page import (
    captioned,
    heading,
    paragraph,
    table,
    write_plain_page,
)
from diffvis_jax.report.text import percent

WORST = 12
WIDTH = 900  # of a picture of a case, in pixels
# Red, blue and green that differ in brightness as well, for whoever cannot tell them by their hue.
LOST, ADDED, TARGET = CHANGED, RECOMPUTED, (0, 190, 120)


def write_report(
    directory: Path,
    summary: Mapping[str, Any],
    lines: Sequence[Mapping[str, Any]],
    streams: Iterable[Stream],
) -> Path:
    """Writes `report.html` and its plots.

    Args:
      directory: of the run.
      summary: as it is written to `summary.json`.
      lines: of all streams.
      streams: the screenshots of the worst cases are read again.
    """
    screens = {stream.name: stream.screens for stream in streams}
    run = summary["run"]
    facts = {**run["data"], **summary["environment"], "dtype": run["dtype"], "seed": run["seed"]}
    parts: list[str] = []
    for name, measured in summary["weights"].items():
        frames = good_frames(line for line in lines if line["weights"] == name)
        parts.append(heading(name))
        parts.append(table(results_table(measured[ALL])))
        parts.append(table(times_table(measured[ALL])))
        plot = directory / f"plots-{Path(name).name}.png"
        draw(frames, measured, plot)
        parts.append(
            captioned(
                png_url(plot),
                "What steps cost and miss, a dot for each; how the missed change is distributed; "
                "clicks by stream, where there are queries.",
            )
        )
        for group, values in measured["groups"].items():
            for policy in run["policies"]:
                parts.append(heading(f"{policy}, by {group}"))
                some = {value: each[policy] for value, each in values.items()}
                parts.append(table(results_table(some, group)))
        parts.append(heading("Where the encodes differ most"))
        cases = list(worst(frames, run["policies"], screens))
        if not cases:
            parts.append(paragraph("Both encodes have the same elements on all frames."))
        parts += [captioned(*case) for case in cases]
    left_out = (*summary["faults"], *summary["broken"])
    if left_out:
        parts.append(heading(f"Left out: {len(left_out)}"))
        parts += [paragraph(message) for message in left_out]
    return write_plain_page(
        directory / "report.html",
        f"Evaluation: {run['data']['name']}",
        parts,
        [(name.replace("_", " "), f"{value}") for name, value in facts.items()],
    )


def draw(frames: Sequence[Mapping[str, Any]], measured: Mapping[str, Any], target: Path) -> None:
    """Cost against missed change, its distribution, and clicks by stream."""
    plt = pyplot()
    streams = dict.fromkeys(frame["stream"] for frame in frames if frame["queries"])
    count = 3 if streams else 2  # no clicks without queries
    figure, axes = plt.subplots(1, count, figsize=(5 * count, 4.5))
    left, middle = axes[:2]
    for policy in measured[ALL]:
        runs = [frame["runs"][policy] for frame in frames if not frame["first"]]
        runs = [run for run in runs if run["moved"] is not None and run["moved"] >= TINY]
        missed = [100 * run["missed_changed"] for run in runs]
        left.plot(
            [100 * r["recomputed"] for r in runs],
            missed,
            "o",
            alpha=0.4,
            ms=4,
            label=policy,
        )
        shares = np.arange(1, len(missed) + 1) / max(len(missed), 1)
        middle.step(np.sort(missed), shares, where="post")
    label = "missed change at changed tokens, %"
    left.set(xlabel="share of dense MACs, %", ylabel=label)
    left.set_yscale("symlog", linthresh=1)
    left.set_ylim(0, None)
    middle.set_xscale("symlog", linthresh=1)
    middle.set_xlim(0, None)
    left.legend()
    middle.set(xlabel=label, ylabel="share of the steps", ylim=(0, 1.02))
    if streams:
        draw_clicks(axes[2], frames, list(streams), [FULL, *measured[ALL]])
    save(figure, target)


def draw_clicks(
    panel: Any, frames: Sequence[Mapping[str, Any]], streams: Sequence[str], names: Sequence[str]
) -> None:
    """The share of clicks that hit, a bar for each stream and encode."""
    for number, name in enumerate(names):
        shares = []
        for stream in streams:
            clicks = [
                outcome == "correct"
                for frame in frames
                if frame["stream"] == stream
                for outcome in frame["runs"][name].get("clicks", [])
            ]
            shares.append(float(np.mean(clicks)) if clicks else 0.0)
        at = np.arange(len(shares)) + 0.8 * ((number + 0.5) / len(names) - 0.5)
        panel.bar(at, shares, 0.8 / len(names), label=name)
    panel.set(ylabel="clicks that hit", ylim=(0, 1.02))
    panel.set_xticks(range(len(streams)), list(streams), rotation=35, ha="right")
    panel.legend()


def worst(
    frames: Iterable[Mapping[str, Any]],
    policies: Iterable[str],
    screens: Mapping[str, Sequence[Screen]],
) -> Iterable[tuple[str, str]]:
    """Pictures and captions of the frames where a policy lost most: clicks first, then elements."""
    ranked = []
    for frame in frames:
        full = frame["runs"][FULL]
        for policy in policies:
            run = frame["runs"][policy]
            if "clicks" not in run:
                continue
            lost = [
                i
                for i, (before, now) in enumerate(zip(full["clicks"], run["clicks"], strict=True))
                if before == "correct" != now
            ]
            unmatched = len(run["only_full"]) + len(run["only_here"])
            if lost or unmatched:
                ranked.append(((len(lost), unmatched), policy, frame))
    ranked.sort(key=lambda case: case[0], reverse=True)
    for (lost, _), policy, frame in ranked[:WORST]:
        run = frame["runs"][policy]
        caption = (
            f"{frame['stream']}, frame {frame['step']}, {policy}: {len(run['only_full'])} lost "
            f"(red), {len(run['only_here'])} added (blue), {lost} clicks lost (targets green); "
            f"recomputed {percent(run['recomputed'])}, missed change "
            f"{percent(run['missed_changed'])}"
        )
        image = screens[frame["stream"]][frame["step"]].image
        yield compressed(_drawn(image, frame, run), WIDTH).url, caption


def _drawn(image: Image, frame: Mapping[str, Any], run: Mapping[str, Any]) -> Any:
    from PIL import ImageDraw

    picture = read_image(image)
    draw = ImageDraw.Draw(picture)
    width = max(1, picture.width // 900)
    targets = [query["target"] for query in frame["queries"]]
    # Elements that are lost as one kind and added as another lie upon each other.
    for boxes, color, line in (
        (targets, TARGET, 2 * width),
        (run["only_full"], LOST, 4 * width),
        (run["only_here"], ADDED, 2 * width),
    ):
        for left, top, right, bottom in boxes:
            draw.rectangle((left, top, max(left, right), max(top, bottom)), None, color, line)
    return picture
