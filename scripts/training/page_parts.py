"""What pages are put together from: controls, texts, and things that only look like controls."""

import html
import random
from collections.abc import Callable
from urllib.parse import quote

from page_style import LABELS, WORDS, Style

# Outlines on a 24 x 24 grid, simple enough to be read both as strokes and as solid shapes.
ICONS = (
    "M4 4h16v16H4z",
    "M12 3l9 18H3z",
    "M5 12h14M12 5v14",
    "M5 5l14 14M19 5L5 19",
    "M4 6h16M4 12h16M4 18h16",
    "M3 12l9-9 9 9v9H3z",
    "M10 4a6 6 0 1 0 .1 0zM15 15l6 6",
    "M6 3h8l5 5v13H6z",
    "M3 6h7l2 3h9v11H3z",
    "M12 4v12M6 11l6 6 6-6M4 21h16",
    "M4 12l6 6L21 6",
    "M15 5l-8 7 8 7z",
    "M9 5l8 7-8 7z",
    "M5 7h14l-1 14H6zM9 3h6",
    "M12 2l3 7h7l-6 5 3 8-7-5-7 5 3-8-6-5h7z",
    "M12 21C2 13 4 4 12 8c8-4 10 5 0 13z",
    "M3 5h18v14H3zM3 5l9 8 9-8",
    "M4 20l2-6L17 3l4 4L10 18z",
    "M12 8a4 4 0 1 0 .1 0M12 2v3M12 19v3M2 12h3M19 12h3M5 5l2 2M17 17l2 2",
    "M5 9h4l5-5v16l-5-5H5z",
    "M6 4h4v16H6zM14 4h4v16h-4z",
    "M12 7a5 5 0 1 0 .1 0M4 21c0-9 16-9 16 0z",
    "M4 5h16v11H10l-5 4v-4H4z",
    "M5 12h1M12 12h1M19 12h1",
)
SIGNS = "☰✕✓★☆♥⚙✎⌂⌕➜←→↑↓⟳⊕⊖⋮⋯▶■●▲▼◀♪✉☎⚑✂⎘"


def div(inside: str, name: str = "", style: str = "") -> str:
    """`inside` in a block of these classes and this style."""
    return f'<div class="{name}" style="{style}">{inside}</div>'


class Parts:
    """Draws parts of one page from its own random numbers; every method returns HTML."""

    def __init__(self, rng: random.Random, style: Style, width: int, height: int):
        """`width` and `height`: of the viewport in CSS px, so after the zoom is divided out."""
        self.rng, self.style, self.width, self.height = rng, style, width, height
        self._labels = LABELS[style.language].split("|")
        self._words = WORDS[style.language].split()

    # Texts

    def chance(self, share: float) -> bool:
        return self.rng.random() < share

    def label(self) -> str:
        # Interfaces mix languages: now and then the text of a control stays English.
        if self.style.language != "en" and self.chance(0.08):
            return self.rng.choice(LABELS["en"].split("|"))
        return self.rng.choice(self._labels)

    def words(self, low: int, high: int | None = None) -> str:
        count = self.rng.randint(low, high or low)
        joint = "" if self.style.language in ("zh", "ja") else " "
        text = joint.join(self.rng.choice(self._words) for _ in range(count))
        return html.escape(text[:1].upper() + text[1:])

    def sentence(self) -> str:
        return self.words(6, 16) + ("。" if self.style.language in ("zh", "ja") else ".")

    def paragraph(self, low: int = 2, high: int = 5) -> str:
        return " ".join(self.sentence() for _ in range(self.rng.randint(low, high)))

    def number(self) -> str:
        return self.rng.choice(
            (
                f"{self.rng.randint(0, 999)}",
                f"{self.rng.uniform(0, 9999):.2f}",
                f"{self.rng.randint(1, 99)}%",
                f"{self.rng.randint(1, 900)} kB",
                (
                    f"20{self.rng.randint(10, 29)}-{self.rng.randint(1, 12):02}-"
                    f"{self.rng.randint(1, 28):02}"
                ),
            )
        )

    def file_name(self) -> str:
        ending = self.rng.choice(("txt", "pdf", "png", "py", "odt", "zip", "csv", "md", "mp3"))
        return f"{self.words(1).lower()}_{self.rng.randint(1, 99)}.{ending}"

    def many(self, low: int, high: int, make: Callable[[], str]) -> str:
        """Long lists grow with the viewport, which would stay empty otherwise."""
        if high >= 7:
            high = int(high * max(1.0, (self.width * self.height / 1e6) ** 0.5))
        return "".join(make() for _ in range(self.rng.randint(low, high)))

    # Pictures

    def glyph(self, size: float | None = None) -> str:
        """An icon's drawing, without anything to click."""
        size = size or self.style.size * self.rng.choice((1, 1.15, 1.3))
        if self.style.icons == "unicode":
            return f'<span style="font-size:{size:.0f}px">{self.rng.choice(SIGNS)}</span>'
        fill = "currentColor" if self.style.icons == "solid" else "none"
        return (
            f'<svg width="{size:.0f}" height="{size:.0f}" viewBox="0 0 24 24" fill="{fill}" '
            f'stroke="currentColor" stroke-width="2"><path d="{self.rng.choice(ICONS)}"/></svg>'
        )

    def picture(self, width: float | str, height: float | str, extra: str = "") -> str:
        """A drawn photograph: a gradient with a few shapes; nothing in it can be clicked."""
        hue = self.rng.randrange(360)
        shapes = "".join(
            f'<circle cx="{self.rng.randint(0, 160)}" cy="{self.rng.randint(30, 110)}" '
            f'r="{self.rng.randint(5, 45)}" fill="hsl({(hue + self.rng.randint(-60, 60)) % 360} '
            f'50% {self.rng.randint(25, 80)}%)" opacity=".8"/>'
            for _ in range(self.rng.randint(2, 6))
        )
        drawing = (
            '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 160 100" '
            'preserveAspectRatio="xMidYMid slice">'
            f'<rect width="160" height="100" fill="hsl({hue} 40% 60%)"/>{shapes}</svg>'
        )
        sides = [f"{side}px" if not isinstance(side, str) else side for side in (width, height)]
        return (
            f'<div style="width:{sides[0]};height:{sides[1]};flex:none;background:url(&quot;data:'
            f'image/svg+xml,{quote(drawing)}&quot;) center/cover;{extra}"></div>'
        )

    def avatar(self, size: int | None = None) -> str:
        size = size or self.rng.choice((24, 32, 40))
        round_ = "50%" if self.chance(0.7) else f"{self.style.radius}px"
        if self.chance(0.5):
            return self.picture(size, size, f"border-radius:{round_}")
        letter = self.words(1)[0]
        return (
            f'<span style="width:{size}px;height:{size}px;border-radius:{round_};flex:none;'
            "display:inline-flex;align-items:center;justify-content:center;color:#fff;"
            f'background:hsl({self.rng.randrange(360)} 45% 45%)">{letter}</span>'
        )

    def badge(self) -> str:
        """Looks like a small button and is none."""
        hot = " hot" if self.chance(0.4) else ""
        return f'<span class="badge{hot}">{self.rng.choice((self.words(1), self.number()))}</span>'

    def decoy(self) -> str:
        """Something with a control's looks that nobody can click."""
        return self.rng.choice(
            (
                self.badge,
                lambda: f"<button disabled>{self.label()}</button>",
                lambda: f'<span class="card small">{self.words(1, 3)}</span>',
                lambda: f'<b style="color:{self.style.accent}">{self.words(1, 2)}</b>',
                lambda: f'<span class="muted">{self.glyph()}</span>',
                lambda: self.glyph(self.rng.choice((16, 24, 32))),
                lambda: self.picture(self.rng.randint(40, 120), self.rng.randint(24, 60)),
            )
        )()

    # Controls

    def button(self, text: str | None = None, main: bool | None = None) -> str:
        main = self.chance(0.25) if main is None else main
        picture = self.glyph() + " " if self.chance(0.15) else ""
        text = picture + (text or self.label())
        name = ' class="main"' if main else ""
        shape = self.rng.random()
        if shape < 0.8:
            return f"<button{name}>{text}</button>"
        if shape < 0.9:
            return f'<a href="#" role="button" class="btn{" main" if main else ""}">{text}</a>'
        return f'<div role="button" tabindex="0" class="btn{" main" if main else ""}">{text}</div>'

    def icon(self, size: float | None = None) -> str:
        bare = " bare" if self.chance(0.8) else ""
        return f'<button class="icon{bare}">{self.glyph(size)}</button>'

    def icons(self, low: int, high: int, size: float | None = None) -> str:
        return self.many(low, high, lambda: self.icon(size))

    def link(self, low: int = 1, high: int = 3) -> str:
        return f'<a href="#">{self.words(low, high)}</a>'

    def linked_text(self, links: float = 0.12) -> str:
        """A paragraph in which about `links` of the pieces are links."""
        pieces = (
            self.link(1, 5) if self.chance(links) else self.words(2, 6).lower()
            for _ in range(self.rng.randint(8, 24))
        )
        return f"<p>{' '.join(pieces)}.</p>"

    def field(self, width: str = "", kind: str = "text") -> str:
        shown = f'value="{self.words(1, 2)}"' if self.chance(0.3) else ""
        hint = f'placeholder="{self.words(1, 3)}"' if self.chance(0.6) else ""
        style = f' style="width:{width}"' if width else ""
        return f'<input type="{kind}" {shown} {hint}{style}>'

    def area(self, rows: int, width: str = "100%") -> str:
        text = self.paragraph() if self.chance(0.4) else ""
        return f'<textarea rows="{rows}" style="width:{width};resize:none">{text}</textarea>'

    def check(self, text: str | None = None, kind: str | None = None) -> str:
        """A box, a round one or a switch, with its text; the text is not part of the box."""
        text = self.words(1, 4) if text is None else text
        kind = kind or self.rng.choice(("checkbox", "checkbox", "radio", "switch"))
        if kind == "switch":
            on = "true" if self.chance(0.5) else "false"
            box = f'<span class="switch" role="switch" tabindex="0" aria-checked="{on}"></span>'
        else:
            box = f'<input type="{kind}"{" checked" if self.chance(0.4) else ""}>'
        return f'<label class="row">{box}<span>{text}</span></label>'

    def select(self, width: str = "") -> str:
        style = f' style="width:{width}"' if width else ""
        if self.chance(0.2):
            return (
                f'<div role="combobox" tabindex="0" class="field row between"{style}>'
                f"<span>{self.words(1, 2)}</span><span>▾</span></div>"
            )
        return f"<select{style}><option>{self.words(1, 2)}</option></select>"

    def slider(self, width: str = "120px") -> str:
        value = self.rng.randint(0, 100)
        return f'<input type="range" value="{value}" style="width:{width}">'

    def control(self) -> str:
        return self.rng.choice(
            (
                lambda: self.check(""),
                self.select,
                lambda: self.field("12em"),
                self.button,
                self.slider,
            )
        )()

    def item(self, inside: str | None = None, on: bool = False, role: str = "menuitem") -> str:
        picture = self.glyph() if self.chance(0.4) else ""
        inside = inside if inside is not None else picture + f"<span>{self.words(1, 3)}</span>"
        return f'<div class="item{" on" if on else ""}" role="{role}" tabindex="-1">{inside}</div>'

    def items(self, low: int, high: int, role: str = "menuitem") -> str:
        """A list of rows with one chosen; all with pictures or none, as lists mostly are."""
        count, pictured = self.rng.randint(low, high), self.chance(0.5)
        chosen, counted = self.rng.randrange(count), self.chance(0.3)
        rows = ""
        for index in range(count):
            inside = (self.glyph() if pictured else "") + f"<span>{self.words(1, 2)}</span>"
            if counted and self.chance(0.5):
                inside += f'<span class="badge" style="margin-left:auto">{index + 3}</span>'
            rows += self.item(inside, index == chosen, role)
        return rows

    def tabs(self, low: int, high: int, closing: bool = False) -> str:
        count = self.rng.randint(low, high)
        chosen, close = self.rng.randrange(count), self.icon(10) if closing else ""
        return "".join(
            f'<div class="tab{" on" if index == chosen else ""}" role="tab" tabindex="0">'
            f"<span>{self.words(1, 2)}</span>{close}</div>"
            for index in range(count)
        )

    def menu_bar(self, low: int = 4, high: int = 8) -> str:
        entries = self.many(
            low, high, lambda: f'<div class="item" role="menuitem">{self.label()}</div>'
        )
        return f'<div class="row raised" style="gap:0">{entries}</div>'

    def menu(self, left: float, top: float, low: int = 5, high: int = 12) -> str:
        """An open menu; some entries are off, some have a key or an arrow at the end."""
        rows = ""
        for _ in range(self.rng.randint(low, high)):
            if self.chance(0.15):
                rows += '<div class="line" style="margin:4px 0"></div>'
            key = f"Ctrl+{self.rng.choice('ACDFNOPSVXZ')}" if self.chance(0.4) else ""
            key = "▸" if self.chance(0.1) else key
            off = ' aria-disabled="true" style="opacity:.4"' if self.chance(0.12) else ""
            rows += (
                '<div class="item"'
                f' role="menuitem"{off}>{self.glyph() if self.chance(0.3) else ""}<span'
                f' class="grow">{self.label()}</span><span class="muted small">{key}</span></div>'
            )
        return (
            f'<div class="float" role="menu" style="left:{left:.0f}px;top:{top:.0f}px;z-index:50;'
            f'min-width:{self.rng.randint(140, 260)}px;padding:4px 0">{rows}</div>'
        )

    def banner(self) -> str:
        """A notice over a corner or an edge of the page, as of cookies or of a finished task."""
        wide = self.chance(0.4)
        place = "left:0;right:0" if wide else f"{self.rng.choice(('left', 'right'))}:12px"
        place += f";{self.rng.choice(('top', 'bottom'))}:{0 if wide else 12}px"
        end = self.rng.choice((self.icon, self.button, lambda: self.button() + self.button()))()
        text = self.words(3, 9) + (" " + self.link() if self.chance(0.4) else "")
        return (
            f'<div class="float row pad" style="position:fixed;z-index:45;{place}">'
            f"{self.glyph()}<span class=grow>{text}</span>{end}</div>"
        )

    def dialog(self) -> str:
        """A dialog in the middle of a page it dims and covers."""
        width = min(self.rng.randint(280, 640), self.width - 20)
        body = self.rng.choice(
            (
                lambda: f"<p>{self.paragraph(1, 3)}</p>",
                lambda: f"<p>{self.sentence()}</p>{self.field('100%')}",
                lambda: self.many(2, 5, self.check),
                lambda: f"<p>{self.sentence()}</p>{self.area(4)}{self.check()}",
            )
        )()
        buttons = self.many(1, 3, self.button)
        place = self.rng.choice(("flex-end", "center", "space-between"))
        close = self.icon() if self.chance(0.6) else ""
        return (
            '<div class="dim row" style="justify-content:center;z-index:60">'
            f'<div class="float col" style="position:static;width:{width}px" role="dialog">'
            f'<div class="bar between"><b>{self.words(1, 4)}</b>{close}</div>'
            f'<div class="pad col">{body}</div>'
            f'<div class="row pad" style="justify-content:{place}">{buttons}</div></div></div>'
        )
