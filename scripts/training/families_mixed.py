"""Pages that look like nothing in particular: panels of any content, each in a style of its own.

What is learned about the layout of one kind of page carries over badly to others; on these pages
there is no layout to learn, so what a control looks like is all there is to go by.
"""

from collections.abc import Callable

from families_lists import whole
from page_parts import Parts
from page_style import draw_style, style_sheet


def _stack(p: Parts) -> str:
    """Any controls and things that are none, below each other or in lines."""
    make = (
        p.control,
        p.button,
        p.link,
        p.check,
        p.decoy,
        p.icon,
        p.select,
        lambda: p.words(1, 6),
        lambda: p.field(f"{p.rng.randint(60, 300)}px"),
    )
    shape = p.rng.choice(("row wrap", "col"))
    start = "align-items:flex-start;" if shape == "col" else ""
    return (
        f'<div class="{shape}" style="{start}gap:{p.rng.randint(2, 28)}px">'
        f"{p.many(4, 22, lambda: p.rng.choice(make)())}</div>"
    )


def _cards(p: Parts) -> str:
    """Cards to be clicked whole, and others that are not."""
    name = p.rng.choice(("card", "raised", "surface", "card"))
    pad, width = p.rng.randint(2, 22), p.rng.randint(70, 300)
    shape, live = p.rng.choice(("col", "row")), p.chance(0.8)
    pieces: tuple[Callable[[], str], ...] = (
        lambda: p.glyph(p.rng.choice((16, 24, 40))),
        lambda: p.picture(p.rng.randint(30, width), p.rng.randint(24, 90)),
        lambda: f"<b>{p.words(1, 4)}</b>",
        lambda: f'<span class="small muted">{p.words(1, 8)}</span>',
        lambda: f"<span>{p.words(2, 9)}</span>",
        p.badge,
        p.avatar,
        p.number,
    )
    order = [p.rng.choice(pieces) for _ in range(p.rng.randint(1, 4))]

    def card() -> str:
        inside = "".join(piece() for piece in order)
        style = f"width:{width}px;padding:{pad}px;border-radius:{p.style.radius}px;overflow:hidden"
        if live:
            return whole(p, inside, f"{name} {shape}", style)
        return f'<div class="{name} {shape}" style="{style}">{inside}{p.button()}</div>'

    lines = p.rng.choice(("row wrap", "row wrap", "col"))
    return (
        f'<div class="{lines}" style="align-items:flex-start;gap:{p.rng.randint(1, 20)}px">'
        f"{p.many(3, 14, card)}</div>"
    )


def _rows(p: Parts) -> str:
    """A list of which each row is one thing to click, with or without controls in it."""
    pad, gap, ruled = p.rng.randint(1, 16), p.rng.choice((0, 0, 1, 4, 10)), p.chance(0.5)
    first = p.rng.choice((p.glyph, p.avatar, lambda: "<input type=checkbox>", lambda: "", p.icon))
    last = p.rng.choice((p.number, p.icon, lambda: "", p.badge, lambda: "&rsaquo;", p.button))
    second, name = p.chance(0.4), p.rng.choice(("item", "row", "row raised", "row card"))

    def row(on: bool) -> str:
        below = f'<div class="small muted cut">{p.words(2, 10)}</div>' if second else ""
        text = f'<div class="grow cut">{p.words(1, 6)}{below}</div>'
        rule = f";border-bottom:1px solid {p.style.border}" if ruled else ""
        return (
            f'<div class="{name}{" on" if on and name == "item" else ""}" role="option" '
            f'tabindex="-1" style="cursor:pointer;padding:{pad}px {pad + 4}px{rule}">'
            f"{first()}{text}{last()}</div>"
        )

    count = p.rng.randint(3, 18)
    chosen = p.rng.randrange(count)
    rows = "".join(row(index == chosen) for index in range(count))
    return f'<div class="col" style="gap:{gap}px">{rows}</div>'


def _text(p: Parts) -> str:
    return p.many(
        1,
        4,
        lambda: p.rng.choice(
            (
                lambda: p.linked_text(0.2),
                lambda: f"<p>{p.paragraph()}</p>",
                lambda: f"<h2>{p.words(1, 5)}</h2>",
                lambda: "<ul>" + p.many(2, 8, lambda: f"<li>{p.link(1, 6)}</li>") + "</ul>",
            )
        )(),
    )


def _form(p: Parts) -> str:
    beside, narrow = p.chance(0.4), p.rng.randint(140, 420)

    def line() -> str:
        control = p.rng.choice(
            (
                lambda: p.field("100%"),
                lambda: p.select("100%"),
                lambda: p.area(3),
                p.check,
                lambda: f'<div class="row">{p.many(2, 4, p.check)}</div>',
                p.slider,
            )
        )()
        label = f'<span class="small" style="width:8em">{p.words(1, 3)}</span>'
        shape = "row" if beside else "col"
        return (
            f'<div class="{shape}" style="gap:4px">{label}<div class="grow">{control}</div></div>'
        )

    lines, buttons = p.many(2, 6, line), p.many(1, 3, p.button)
    return (
        f'<div class="col" style="width:{narrow}px;max-width:100%">{lines}'
        f'<div class="row">{buttons}</div></div>'
    )


def _tools(p: Parts) -> str:
    """Strips of buttons with pictures, with words, with both, sliding controls among them."""
    size = p.rng.choice((12, 16, 20, 28, 36))

    def strip() -> str:
        tool = p.rng.choice(
            (
                lambda: p.icon(size),
                lambda: p.icon(size),
                p.button,
                lambda: (
                    f'<button class="bare">{p.glyph(size)}<div class="small">{p.words(1)}</div>'
                    "</button>"
                ),
            )
        )
        slider = p.slider(f"{p.rng.randint(60, 300)}px") if p.chance(0.3) else ""
        place = p.rng.choice(("flex-start", "center", "space-between", "flex-end"))
        clock = f'<span class="muted small">{p.number()}</span>' if p.chance(0.4) else ""
        return (
            f'<div class="row wrap" style="justify-content:{place};gap:{p.rng.randint(0, 16)}px">'
            f"{p.many(2, 9, tool)}{clock}{slider}</div>"
        )

    return f'<div class="col">{p.many(1, 4, strip)}</div>'


def _table(p: Parts) -> str:
    cells = [
        p.rng.choice(
            (
                p.number,
                lambda: p.words(1, 4),
                p.link,
                p.badge,
                p.icon,
                lambda: "<input type=checkbox>",
                p.button,
                p.select,
            )
        )
        for _ in range(p.rng.randint(2, 7))
    ]
    rows = p.many(3, 14, lambda: f"<tr>{''.join(f'<td>{cell()}</td>' for cell in cells)}</tr>")
    return f"<table>{rows}</table>"


def _bars(p: Parts) -> str:
    return p.rng.choice(
        (
            lambda: p.tabs(2, 8, p.chance(0.3)),
            p.menu_bar,
            lambda: p.items(3, 12),
            lambda: p.items(3, 12, "treeitem"),
        )
    )()


def _picture(p: Parts) -> str:
    over = f'<div style="position:absolute;left:8px;bottom:8px">{p.button()}</div>'
    image = p.picture("100%", p.rng.randint(60, 400))
    return f'<div style="position:relative">{image}{over if p.chance(0.4) else ""}</div>'


CONTENTS = (_stack, _cards, _cards, _rows, _rows, _text, _form, _tools, _table, _bars, _picture)


def _panel(p: Parts, number: int, height: float) -> str:
    """A panel, in one case of two in a style of its own (nested rules: its sheet, for it alone)."""
    rng, own, css = p.rng, p, ""
    if p.chance(0.5):
        own = Parts(rng, draw_style(rng), p.width, p.height)
        css = f"<style>.own{number}{{{style_sheet(own.style)}}}</style>"
    style = own.style
    back = rng.choice((style.background, style.surface, style.raised))
    look = f"background:{back};color:{style.text}"
    if css:
        look += f";font:{style.size}px/1.4 '{style.font}',sans-serif"
    if rng.random() < 0.5:
        look += f";border:1px solid {style.border};border-radius:{style.radius}px"
    count = max(1, round(rng.uniform(0.5, 1.5) * height / 250))
    contents = "".join(rng.choice(CONTENTS)(own) for _ in range(count))
    return f'{css}<div class="own{number} col clip pad grow" style="{look}">{contents}</div>'


def patchwork(p: Parts) -> str:
    """The screen cut along and across, again and again, into panels of any content."""
    count = 0

    def cut(width: float, height: float, depth: int) -> str:
        nonlocal count
        if depth == 0 or width < 260 or height < 160 or p.chance(0.15):
            count += 1
            return _panel(p, count, height)
        along = p.chance(width / (width + height))
        share = p.rng.choice((0.18, 0.25, 0.33, 0.5, 0.5, 0.67, 0.8))
        a, b = (width * share, height), (width * (1 - share), height)
        if not along:
            a, b = (width, height * share), (width, height * (1 - share))
        parts = "".join(
            f'<div class="col" style="flex:{part} 1 0;min-width:0;min-height:0;overflow:hidden;'
            f'gap:0">{cut(*size, depth - 1)}</div>'
            for size, part in ((a, share), (b, 1 - share))
        )
        gap = p.rng.choice((0, 0, 4, 12))
        return (
            f'<div class="{"row" if along else "col"} grow" '
            f'style="align-items:stretch;gap:{gap}px;height:100%">{parts}</div>'
        )

    depth = p.rng.choice((0, 1, 2, 2, 3, 3, 4))
    return f'<div class="col full" style="gap:0">{cut(p.width, p.height, depth)}</div>'
