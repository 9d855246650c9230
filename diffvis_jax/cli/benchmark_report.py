"""The figures of `diffvis benchmark` as plots and as one self-contained page."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffvis_jax.cli.plots import pyplot, save
from diffvis_jax.report.pictures import png_url
from diffvis_jax.report.plain_page import captioned, table, write_plain_page


def draw_changes(rows: list[dict[str, Any]], target: Path) -> None:
    """Speed-up and missed change of each scenario, a bar for each policy."""
    plt = pyplot()
    scenarios = list(dict.fromkeys(row["scenario"] for row in rows))
    policies = list(dict.fromkeys(row["policy"] for row in rows))
    by = {(row["scenario"], row["policy"]): row for row in rows}
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(11, 8), sharex=True)
    width = 0.8 / len(policies)
    for number, policy in enumerate(policies):
        at = [index + width * (number - (len(policies) - 1) / 2) for index in range(len(scenarios))]
        top.bar(at, [by[s, policy]["speed_up"] for s in scenarios], width, label=policy)
        # No bar where nothing changed.
        missed = [by[s, policy]["missed_changed"] for s in scenarios]
        median, p90, worst = (
            [_percent(each[key]) or 0 for each in missed] for key in ("median", "p90", "max")
        )
        above = [high - middle for middle, high in zip(median, worst, strict=True)]
        bottom.bar(at, median, width, yerr=[[0] * len(at), above], error_kw={"lw": 1})
        bottom.plot(at, p90, "k_")
    top.set(yscale="log", ylabel="speed-up over the full encode")
    top.axhline(1, color="gray", lw=1)
    top.legend()
    bottom.set(ylabel="missed change at changed tokens, %: median, p90, worst", ylim=(0, None))
    bottom.set_xticks(range(len(scenarios)), scenarios, rotation=25, ha="right")
    save(figure, target)


def draw_efficiency(rows: list[dict[str, Any]], target: Path) -> None:
    """Time over that of the full encode, and efficiency, against the share of MACs recomputed."""
    plt = pyplot()
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5))
    for policy in dict.fromkeys(row["policy"] for row in rows):
        some = [row for row in rows if row["policy"] == policy and row["efficiency"]]
        share = [_percent(row["recomputed"]["median"]) for row in some]
        left.plot(share, [100 / row["speed_up"] for row in some], "o", label=policy)
        right.plot(share, [row["efficiency"] for row in some], "o", label=policy)
    left.plot([0, 100], [0, 100], "k:", lw=1, label="efficiency 1")
    left.set(xlabel="share of dense MACs, %", ylabel="time, % of the full encode")
    right.axhline(0.6, color="gray", ls=":", lw=1)
    right.set(xlabel="share of dense MACs, %", ylabel="efficiency", ylim=(0, 1.3))
    left.legend()
    save(figure, target)


def draw_settling(rows: list[dict[str, Any]], target: Path) -> None:
    """Missed change against the milliseconds since the change arrived, medians."""
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(9, 5))
    for row in rows:
        steps = sum(key.startswith("ms ") for key in row)
        missed = [_percent(row[f"missed after {n}"]["median"]) for n in range(steps)]
        if missed[0] is None:
            continue
        spent = np.cumsum([row[f"ms {n}"]["median"] for n in range(steps)])
        axes.step(spent, missed, where="post", label=f"{row['scenario']}, {row['policy']}")
    axes.set(xlabel="ms of steps since the change", ylabel="missed change at changed tokens, %")
    axes.set_ylim(0, None)
    axes.legend(fontsize=7)
    save(figure, target)


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def write_report(
    result: dict[str, Any], tables: Sequence[Sequence[Sequence[str]]], directory: Path
) -> Path:
    """Writes a page with plots and tables.

    Args:
      result: the measurements of `diffvis benchmark`.
      tables: rows of text, the first their heads.
      directory: made if need be; `report.html` and the plots go there.

    Returns:
      the page.
    """
    directory.mkdir(parents=True, exist_ok=True)
    pictures = []
    for key, name, draw in (
        ("changes", "changes.png", draw_changes),
        ("changes", "efficiency.png", draw_efficiency),
        ("settling", "settling.png", draw_settling),
    ):
        if result.get(key):
            draw(result[key], directory / name)
            pictures.append(directory / name)
    return write_tables(result, tables, directory / "report.html", pictures)


def write_tables(
    result: dict[str, Any],
    tables: Sequence[Sequence[Sequence[str]]],
    target: Path,
    pictures: Sequence[Path] = (),
) -> Path:
    """Writes a page with tables, and with plots if there are any; see `write_report`."""
    facts = [
        (name.replace("_", " "), f"{value:.0f}" if isinstance(value, float) else f"{value}")
        for name, value in result.items()
        if isinstance(value, str | int | float)
    ]
    parts = [*map(table, tables), *(captioned(png_url(path), path.stem) for path in pictures)]
    return write_plain_page(target, "Benchmark", parts, facts)
