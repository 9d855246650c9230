"""A page of text, tables and pictures, all in one file."""

import html
from collections.abc import Sequence
from pathlib import Path

from diffvis_jax.report.page import write_page


def write_plain_page(
    target: Path, title: str, parts: Sequence[str], facts: Sequence[tuple[str, str]] = ()
) -> Path:
    """Writes the page atomically.

    Args:
      target: the HTML file.
      title: plain text.
      parts: HTML, from the functions below.
      facts: names and values, shown under the title.
    """
    return write_page(target, "\n".join(parts), heading=title, facts=facts)


def paragraph(text: str) -> str:
    return f"<p>{html.escape(text)}</p>"


def heading(text: str) -> str:
    return f"<h2>{html.escape(text)}</h2>"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of text, the first their heads; columns that hold no numbers are aligned to the left."""
    head, *body = rows
    kinds = [
        "" if any(cell[:1].isdigit() for cell in column) else ' class="text"'
        for column in zip(*body, strict=True)
    ] or [""] * len(head)

    def row(cells: Sequence[str], tag: str) -> str:
        return "".join(
            f"<{tag}{kind}>{html.escape(cell)}</{tag}>"
            for cell, kind in zip(cells, kinds, strict=True)
        )

    lines = "".join(f"<tr>{row(cells, 'td')}</tr>" for cells in body)
    return (
        f'<div class="scroll"><table><thead><tr>{row(head, "th")}</tr></thead>'
        f"<tbody>{lines}</tbody></table></div>"
    )


def captioned(url: str, caption: str) -> str:
    """A picture with a text under it, inside the page."""
    text = html.escape(caption)
    return f'<figure><img alt="{text}" src="{url}"><figcaption>{text}</figcaption></figure>'
