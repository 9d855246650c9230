"""Families that are collections of like things: cards, tiles, rows, links."""

from page_parts import Parts

# Ways to say that a whole card, tile or row can be clicked.
WHOLE = (
    '<div role="button" tabindex="0"',
    '<div role="listitem" tabindex="0"',
    '<div role="option" tabindex="-1"',
    '<div onclick="go()"',
    '<a href="#"',
)


def whole(p: Parts, inside: str, name: str, style: str, opening: str | None = None) -> str:
    """`inside` as one thing to click; of one kind for a whole collection if `opening` is given."""
    opening = opening or p.rng.choice(WHOLE)
    end = "</a>" if opening.startswith("<a") else "</div>"
    style = f"color:inherit;text-decoration:none;cursor:pointer;{style}"
    return f'{opening} class="{name}" style="{style}">{inside}{end}'


def _top(p: Parts) -> str:
    start = p.icon() if p.chance(0.5) else ""
    middle = p.rng.choice(
        (
            lambda: "",
            lambda: p.tabs(2, 5),
            lambda: p.field(f"{p.rng.randint(140, 360)}px", "search"),
            lambda: p.many(2, 5, p.link),
        )
    )()
    end = p.many(0, 3, lambda: p.rng.choice((p.icon, p.button, p.select, p.avatar))())
    return (
        f'<div class="bar">{start}<b>{p.words(1, 3)}</b>{middle}<span class="grow"></span>'
        f"{end}</div>"
    )


def _page(p: Parts, body: str, top: str | None = None) -> str:
    side = ""
    if p.chance(0.35):
        rows = p.rng.choice((lambda: p.items(4, 12), lambda: p.items(4, 12, "treeitem")))()
        side = f'<div class="side" style="width:{p.rng.randint(110, 280)}px">{rows}</div>'
    return (
        f'<div class="col full" style="gap:0">{_top(p) if top is None else top}'
        '<div class="row grow" style="align-items:stretch;gap:0">'
        f'{side}<div class="grow scroll pad">{body}</div></div></div>'
    )


def pinboard(p: Parts) -> str:
    """Notes and pictures in columns of uneven cards, each to be opened by a click."""
    opening, chips, tools = p.rng.choice(WHOLE[:4]), p.chance(0.5), p.chance(0.3)
    pictures, plain = p.rng.choice((0.0, 0.3, 0.9)), p.chance(0.25)

    def card() -> str:
        cover = p.picture("100%", p.rng.randint(50, 220)) if p.chance(pictures) else ""
        title = f"<b>{p.words(1, 5)}</b>" if p.chance(0.7) else ""
        text = p.rng.choice(
            (
                lambda: "",
                lambda: f"<span>{p.words(3, 14)}</span>",
                lambda: f'<span class="small muted">{p.words(3, 10)}</span>',
                lambda: p.many(2, 6, lambda: f"<span>• {p.words(1, 4)}</span>"),
            )
        )()
        if not (cover or title or text):
            title = p.words(1, 4)
        foot = ""
        if chips and p.chance(0.7):
            foot = f'<div class="row wrap">{p.many(1, 3, p.badge)}</div>'
        if tools:
            foot += f'<div class="row">{p.icons(1, 3)}</div>'
        tint = f";background:hsl({p.rng.randrange(360)} 40% {22 if p.style.dark else 86}%)"
        style = f"break-inside:avoid;margin-bottom:{p.style.gap + 2}px"
        style += tint if plain and p.chance(0.7) else ""
        return whole(p, cover + title + text + foot, "card col", style, opening)

    width = p.rng.randint(130, 320)
    return _page(p, f'<div style="columns:{width}px">{p.many(10, 40, card)}</div>')


def feed(p: Parts) -> str:
    """Posts below each other, with a row of things to do under each."""
    labelled, opening = p.chance(0.5), p.rng.choice(WHOLE[:4])
    clickable, narrow = p.chance(0.4), p.rng.randint(380, 760)

    def deed() -> str:
        count = f" {p.rng.randint(0, 900)}" if p.chance(0.6) else ""
        text = f" {p.words(1)}" if labelled else ""
        return f'<button class="bare">{p.glyph()}{text}{count}</button>'

    def post() -> str:
        who = (
            f'<div class="row">{p.avatar()}<div class="grow">{p.link(1, 2)}'
            f'<div class="small muted">{p.number()}</div></div>{p.icon()}</div>'
        )
        body = p.linked_text() if p.chance(0.3) else f"<span>{p.paragraph(1, 3)}</span>"
        image = p.picture("100%", p.rng.randint(100, 340)) if p.chance(0.35) else ""
        deeds = f'<div class="row between">{p.many(2, 5, deed)}</div>'
        inside = who + body + image + deeds
        if clickable:
            return whole(p, inside, "card col", "", opening)
        return f'<div class="card col">{inside}</div>'

    column = f'<div class="col" style="width:{narrow}px;max-width:100%">{p.many(3, 9, post)}</div>'
    aside = ""
    if p.chance(0.6):
        rows = p.many(
            3,
            10,
            lambda: (
                f'<div class="row">{p.avatar()}<div class="grow">{p.link(1, 2)}</div>'
                f"{p.button() if p.chance(0.7) else p.icon()}</div>"
            ),
        )
        aside = f'<div class="card col" style="width:{p.rng.randint(180, 320)}px">{rows}</div>'
    return _page(
        p,
        '<div class="row" style="justify-content:center;align-items:flex-start">'
        f"{column}{aside}</div>",
    )


def tickets(p: Parts) -> str:
    """Rows of issues, orders or people: some to be clicked whole, some by their title."""
    picked, faces, clickable = p.chance(0.5), p.chance(0.4), p.chance(0.5)
    two_lines, ending = p.chance(0.5), p.rng.choice(("number", "icon", "button", "switch", "face"))
    opening, ruled = p.rng.choice(WHOLE), p.chance(0.6)
    tall = p.rng.randint(0, 14)

    def row() -> str:
        start = ("<input type=checkbox>" if picked else "") + (p.avatar() if faces else p.glyph())
        title = f"<b>{p.words(1, 6)}</b>" if clickable else p.link(2, 7)
        chips = p.many(0, 2, p.badge)
        below = f'<div class="small muted cut">{p.words(3, 12)}</div>' if two_lines else ""
        text = f'<div class="grow cut"><span>{title} {chips}</span>{below}</div>'
        end = {
            "number": lambda: f'<span class="small muted">{p.number()}</span>',
            "icon": p.icon,
            "button": p.button,
            "switch": lambda: p.check("", "switch"),
            "face": lambda: p.avatar(24),
        }[ending]()
        style = f"padding:{p.style.gap // 2 + tall}px {p.style.gap + 4}px"
        style += f";border-bottom:1px solid {p.style.border}" if ruled else ""
        if clickable:
            link = opening.startswith("<a") and (picked or ending in ("icon", "button", "switch"))
            return whole(p, start + text + end, "row", style, WHOLE[1] if link else opening)
        return f'<div class="row" style="{style}">{start}{text}{end}</div>'

    head = (
        f'<div class="row wrap pad">{p.field("180px", "search")}{p.many(0, 3, p.select)}'
        f"{p.many(0, 2, p.button)}</div>"
    )
    rows = f'<div class="{p.rng.choice(("card", "", ""))}">{p.many(6, 26, row)}</div>'
    pages = p.many(2, 7, lambda: f"<button>{p.rng.randint(1, 30)}</button>")
    return _page(p, head + rows + f'<div class="row pad">{pages}</div>')


def launcher(p: Parts) -> str:
    """A grid of programs or tools: pictures with a name, without any frame or with one."""
    size, framed = p.rng.choice((24, 32, 40, 56, 72)), p.chance(0.35)
    cell, opening = size + p.rng.randint(30, 90), p.rng.choice(WHOLE)
    backed = p.chance(0.4)

    def tile() -> str:
        drawing = p.glyph(size * 0.6 if backed else size)
        if backed:
            drawing = (
                f'<span class="row" style="width:{size}px;height:{size}px;color:#fff;'
                f"justify-content:center;border-radius:{p.style.radius}px;"
                f'background:hsl({p.rng.randrange(360)} 55% 45%)">{drawing}</span>'
            )
        name = f'<span class="cut small" style="max-width:100%">{p.words(1, 2)}</span>'
        style = f"width:{cell}px;align-items:center;padding:8px 4px"
        return whole(p, drawing + name, f"col{' card' if framed else ''}", style, opening)

    def group() -> str:
        tiles = f'<div class="row wrap">{p.many(3, 16, tile)}</div>'
        return f"<h3>{p.words(1, 2)}</h3>{tiles}" if p.chance(0.6) else tiles

    back = p.picture("100%", "100%", "position:absolute;inset:0;z-index:-1")
    top = _top(p) if p.chance(0.6) else ""
    return (back if p.chance(0.3) else "") + _page(p, p.many(1, 4, group), top)


def gallery(p: Parts) -> str:
    """Pictures side by side, with or without words under or on them."""
    height, words = p.rng.randint(70, 220), p.rng.choice(("none", "under", "over"))
    opening, even = p.rng.choice(WHOLE), p.chance(0.5)
    marked = p.chance(0.3)

    def photo() -> str:
        width = height * 1.4 if even else height * p.rng.uniform(0.6, 1.9)
        image, text = p.picture(width, height), ""
        if words == "under":
            text = f'<div class="cut">{p.words(1, 5)}</div>' + (
                f'<div class="small muted cut">{p.words(1, 4)}</div>' if p.chance(0.6) else ""
            )
        elif words == "over":
            text = (
                '<span class="cut" style="position:absolute;left:0;right:0;bottom:0;color:#fff;'
                f'background:rgba(0,0,0,.5);padding:2px 6px">{p.words(1, 4)}</span>'
            )
        style = f"position:relative;width:{width:.0f}px;overflow:hidden"
        style += f";border-radius:{p.style.radius}px"
        tool = ""
        if marked and not opening.startswith("<a"):
            tool = f'<span style="position:absolute;right:2px;top:2px">{p.icon()}</span>'
        return whole(p, image + text + tool, "", style, opening)

    chips = p.many(0, 8, lambda: f"<button>{p.words(1, 2)}</button>")
    photos = f'<div class="row wrap">{p.many(8, 40, photo)}</div>'
    return _page(p, f'<div class="row wrap pad">{chips}</div>{photos}')


def manual(p: Parts) -> str:
    """A plain page of reference: contents, definitions and signatures, nearly without style."""

    def contents(depth: int = 0) -> str:
        return (
            "<ul>"
            + p.many(
                2,
                6,
                lambda: (
                    f"<li>{p.link(1, 5)}"
                    f"{contents(depth + 1) if depth < 2 and p.chance(0.25) else ''}</li>"
                ),
            )
            + "</ul>"
        )

    def definitions() -> str:
        term = p.rng.choice((lambda: p.link(1, 3), lambda: f"<code>{p.words(1, 3).lower()}</code>"))
        return (
            "<dl>"
            + p.many(2, 6, lambda: f"<dt>{term()}</dt><dd>{p.linked_text(0.15)}</dd>")
            + "</dl>"
        )

    def table() -> str:
        return (
            '<table style="width:auto">'
            + p.many(3, 14, lambda: f"<tr><td>{p.link(1, 2)}</td><td>{p.words(2, 9)}</td></tr>")
            + "</table>"
        )

    def signature() -> str:
        return (
            f'<p class="mono">{p.words(1).lower()} <b>{p.words(1).lower()}</b>'
            f"({p.link(1)} {p.words(1).lower()}, {p.link(1)} {p.words(1).lower()})</p>"
        )

    def code() -> str:
        return f'<pre class="raised pad">{p.sentence()}\n{p.sentence()}\n</pre>'

    step = f"{p.link(1, 3)} | {p.link(1, 2)} | {p.link(1, 3)}"
    bar = p.rng.choice(
        (
            f'<div class="row between">{p.link(1, 3)}{p.link(1, 2)}{p.link(1, 3)}</div>',
            f'<p style="text-align:right">{step}</p>',
            f"<p>{p.rng.choice(('»', '/', '&gt;')).join(p.many(2, 4, p.link).split('</a>'))}</p>",
        )
    )
    parts = "".join(
        p.rng.choice(
            (
                contents,
                definitions,
                table,
                signature,
                code,
                lambda: p.linked_text(0.08),
                lambda: p.linked_text(0.2),
                lambda: f"<p>{p.paragraph()}</p>",
            )
        )()
        + (f"<h3>{p.words(1, 5)}</h3>" if p.chance(0.4) else "")
        for _ in range(p.rng.randint(4, 16))
    )
    rule = "<hr>" if p.chance(0.7) else ""
    width = p.rng.choice(("auto", f"{p.rng.randint(500, 1100)}px"))
    text = (
        f'<div style="width:{width};line-height:{p.rng.uniform(1.1, 1.7):.2f}" class="grow pad">'
        f"{bar}{rule}<h1>{p.words(1, 5)}</h1>{parts}{rule}{bar}</div>"
    )
    if p.chance(0.4):
        aside = f'<div class="side pad" style="width:{p.rng.randint(160, 300)}px">'
        text = (
            f'<div class="row" style="align-items:flex-start">{aside}{contents()}</div>{text}</div>'
        )
    # The browser's own colours and letters, as pages without a style sheet have them.
    return f'<div class="{"" if p.chance(0.5) else "surface"}">{text}</div>'


def directory(p: Parts) -> str:
    """Columns of links: a portal, a site map, the foot of a shop."""
    spaced, dotted = p.rng.randint(0, 10), p.chance(0.3)

    def column() -> str:
        links = p.many(
            3,
            12,
            lambda: (
                f'<div style="padding:{spaced / 2}px 0">{"• " if dotted else ""}{p.link(1, 4)}'
                f"{' ' + p.badge() if p.chance(0.08) else ''}</div>"
            ),
        )
        width = p.rng.randint(110, 240)
        return f'<div style="min-width:{width}px"><b>{p.words(1, 3)}</b>{links}</div>'

    letters = "".join(f'<a href="#">{letter}</a> ' for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    head = p.rng.choice(
        (letters, p.field("50%", "search") + p.button(), f'<p class="muted">{p.sentence()}</p>', "")
    )
    columns = f'<div class="row wrap" style="align-items:flex-start">{p.many(4, 14, column)}</div>'
    return _page(p, f'<h1>{p.words(1, 3)}</h1><div class="row pad">{head}</div>{columns}')
