"""A page of text, tables and pictures, all in one file."""

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import PIL.Image

_PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body{{font:15px/1.5 system-ui,sans-serif;max-width:1400px;margin:2em auto;padding:0 1em}}
.wide{{overflow-x:auto}}table{{border-collapse:collapse;margin:1em 0}}
td,th{{padding:3px 10px;border-bottom:1px solid #ccc;text-align:right}}td{{white-space:nowrap}}
td:first-child,th:first-child,td:nth-child(2){{text-align:left}}img{{max-width:100%}}
figure{{margin:1.5em 0}}figcaption{{color:#444}}</style></head>
<body><h1>{title}</h1>{parts}</body></html>
"""


def write_plain_page(target: Path, title: str, parts: Sequence[str]) -> Path:
    """Writes the page; an existing file is replaced in one go.

    Args:
      target: the HTML file.
      title: plain text.
      parts: HTML, from the functions below.
    """
    partial = target.with_name(f".{target.name}.partial")
    text = _PAGE.format(title=html.escape(title), parts="\n".join(parts))
    partial.write_text(text, encoding="utf-8")
    return partial.replace(target)


def paragraph(text: str) -> str:
    return f"<p>{html.escape(text)}</p>"


def heading(text: str) -> str:
    return f"<h2>{html.escape(text)}</h2>"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of text, the first their heads."""

    def row(cells: Sequence[str], tag: str) -> str:
        return "".join(f"<{tag}>{html.escape(cell.strip())}</{tag}>" for cell in cells)

    body = "".join(f"<tr>{row(cells, 'td')}</tr>" for cells in rows[1:])
    return f'<div class="wide"><table><tr>{row(rows[0], "th")}</tr>{body}</table></div>'


def markdown_table(text: str) -> str:
    """The same of a table in Markdown."""
    head, _, *rows = (line.strip().strip("|").split("|") for line in text.strip().splitlines())
    return table([head, *rows])


def captioned(url: str, caption: str) -> str:
    """A picture with a text under it, inside the page."""
    text = html.escape(caption)
    return f'<figure><img alt="{text}" src="{url}"><figcaption>{text}</figcaption></figure>'


def png_url(path: Path) -> str:
    """A PNG file as a data URL."""
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def data_url(picture: "PIL.Image.Image", width: int) -> str:
    """A picture as a data URL, at most so many pixels wide."""
    from PIL import Image, features

    if picture.width > width:
        height = max(1, round(picture.height * width / picture.width))
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    kind = "webp" if features.check("webp") else "jpeg"
    buffer = io.BytesIO()
    picture.save(buffer, kind, quality=80)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
