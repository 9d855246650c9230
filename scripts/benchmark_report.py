"""The figures of benchmark.py as plots and as one self-contained page."""

import base64
import html
from pathlib import Path
from typing import Any

from fidelity import pyplot

PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Benchmark</title><style>
body{{font:15px/1.5 system-ui,sans-serif;max-width:1200px;margin:2em auto;padding:0 1em}}
table{{border-collapse:collapse;margin:1em 0}}td,th{{padding:3px 10px;border-bottom:1px solid #ccc;
text-align:right}}td:first-child,th:first-child,td:nth-child(2){{text-align:left}}
img{{max-width:100%}}</style></head><body><h1>Benchmark</h1><p>{about}</p>{parts}</body></html>
"""


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
        # No bar where nothing changed: there is nothing to miss.
        bottom.bar(at, [by[s, policy]["missed_changed"] or 0 for s in scenarios], width)
    top.set(yscale="log", ylabel="speed-up over the full encode")
    top.axhline(1, color="gray", lw=1)
    top.legend()
    bottom.set(ylabel="missed change at changed tokens", ylim=(0, None))
    bottom.set_xticks(range(len(scenarios)), scenarios, rotation=25, ha="right")
    _save(figure, target)


def draw_efficiency(rows: list[dict[str, Any]], target: Path) -> None:
    """Time over that of the full encode, and efficiency, against the share of MACs recomputed."""
    plt = pyplot()
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5))
    for policy in dict.fromkeys(row["policy"] for row in rows):
        some = [row for row in rows if row["policy"] == policy and row["recomputed"]]
        share = [100 * row["recomputed"] for row in some]
        left.plot(share, [100 / row["speed_up"] for row in some], "o", label=policy)
        right.plot(share, [row["efficiency"] for row in some], "o", label=policy)
    left.plot([0, 100], [0, 100], "k:", lw=1, label="efficiency 1")
    left.set(xlabel="share of dense MACs, %", ylabel="time, % of the full encode")
    right.axhline(0.6, color="gray", ls=":", lw=1)
    right.set(xlabel="share of dense MACs, %", ylabel="efficiency", ylim=(0, 1.3))
    left.legend()
    _save(figure, target)


def draw_settling(rows: list[dict[str, Any]], target: Path) -> None:
    """What is missed against the milliseconds since the change arrived."""
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(9, 5))
    for row in rows:
        steps = sum(key.startswith("ms ") for key in row)
        missed = [row[f"missed after {n}"] for n in range(steps)]
        if missed[0] is None:
            continue
        spent = [sum(row[f"ms {m}"] for m in range(n + 1)) for n in range(steps)]
        axes.step(spent, missed, where="post", label=f"{row['scenario']}, {row['policy']}")
    axes.set(xlabel="ms of steps since the change", ylabel="missed change at changed tokens")
    axes.set_ylim(0, None)
    axes.legend(fontsize=7)
    _save(figure, target)


def _save(figure: Any, target: Path) -> None:
    figure.tight_layout()
    figure.savefig(target, dpi=80)
    pyplot().close(figure)


def write_report(result: dict[str, Any], tables: list[str], directory: Path) -> Path:
    """Draws what was measured, and writes a page with the plots and the tables in it.

    Args:
      result: what benchmark.py measured.
      tables: in Markdown, as it printed them.
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
    parts = [_html_table(table) for table in tables]
    for picture in pictures:
        data = base64.b64encode(picture.read_bytes()).decode()
        parts.append(f'<p><img alt="{picture.stem}" src="data:image/png;base64,{data}"></p>')
    about = ", ".join(f"{k}: {v}" for k, v in result.items() if isinstance(v, str | int | float))
    page = directory / "report.html"
    page.write_text(PAGE.format(about=html.escape(about), parts="".join(parts)), encoding="utf-8")
    return page


def _html_table(markdown: str) -> str:
    lines = [line.strip().strip("|").split("|") for line in markdown.strip().splitlines()]
    head, _, *rows = lines

    def row(cells: list[str], tag: str) -> str:
        return "".join(f"<{tag}>{html.escape(cell.strip())}</{tag}>" for cell in cells)

    body = "".join(f"<tr>{row(cells, 'td')}</tr>" for cells in rows)
    return f"<table><tr>{row(head, 'th')}</tr>{body}</table>"
