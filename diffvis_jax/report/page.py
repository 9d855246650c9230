"""What all pages have in common: one file with its style and scripts inside, head and facts."""

import html
import json
import os
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from diffvis_jax.utils.atomic_file import write_whole


def write_page(
    target: str | os.PathLike[str],
    body: str,
    *,
    heading: str,
    title: str = "",
    facts: Sequence[tuple[str, str]] = (),
    data: Any = None,
    scripts: Sequence[str] = (),
) -> Path:
    """Writes a page, completely or not at all.

    Args:
      target: the HTML file.
      body: HTML.
      heading, title: plain text: what kind of page it is, and of what.
      facts: names and values, shown under the title.
      data: for the scripts, who find it as JSON in the element `data`; dataclasses are objects.
      scripts: names of files beside this one, run in this order as one script.

    Returns:
      The path.
    """
    script = ""
    if scripts:
        # "</script>" in a text would end the script element.
        embedded = json.dumps(data, separators=(",", ":"), default=vars).replace("<", "\\u003c")
        code = "\n".join(map(part, scripts))
        script = (
            f'<script type="application/json" id="data">{embedded}</script>\n'
            f'<script>\n"use strict";\n{code}</script>'
        )
    subtitle = f'<p class="title">{html.escape(title)}</p>' if title else ""
    filled = part("page.html")
    for name, text in {
        "NAME": html.escape(title or heading),
        "CSS": part("page.css"),
        "HEADING": html.escape(heading),
        "TITLE": subtitle,
        "FACTS": "".join(
            f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd></div>"
            for name, value in facts
        ),
        "BODY": body,
        "SCRIPT": script,
    }.items():
        filled = filled.replace(f"<!--{name}-->", text)
    written = Path(target)
    write_whole(written, filled)
    return written


def part(name: str) -> str:
    """A file of this folder."""
    return (resources.files("diffvis_jax.report") / name).read_text(encoding="utf-8")
