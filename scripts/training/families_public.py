"""Families of the public web: news, products, bookings, profiles, prices and scores."""

from collections.abc import Callable

from families_lists import WHOLE, whole
from page_parts import Parts, div

Make = Callable[[], str]
HEIGHTS = (16, 18, 20, 22, 24, 26, 28, 32, 36, 40, 48, 60)


def _cell(p: Parts, text: str, size: tuple[int, int], look: str, state: str = "") -> str:
    """A button of exact size: a day, a seat, a time; `state` is on, off (dead) or empty."""
    s = p.style
    css = f"padding:0 {2 if size[0] < 40 else 6}px;min-width:{size[0]}px;height:{size[1]}px"
    css += f";line-height:1;font-size:{max(8, min(s.size, size[1] * 0.6)):.0f}px"
    edge = f";border:1px solid {s.border};border-radius:"
    looks = {"line": f"{edge}{s.radius}px", "pill": f"{edge}99px", "word": "", "fill": ""}
    css += f";background:{s.raised};border-radius:{s.radius}px" * (look == "fill")
    css += {**looks, "joined": f"{edge}0;margin-right:-1px"}[look]
    css += f";background:{s.accent};color:{s.on_accent}" if state == "on" else ""
    return f'<button class="bare" style="{css}"{" disabled" * (state == "off")}>{text}</button>'


def _strip(p: Parts, low: int, high: int, text: Make | None = None) -> str:
    """Like choices beside each other, one of them chosen, now and then one that is off."""
    if p.chance(0.3):
        return div(p.tabs(low, high), "row wrap", "gap:0")
    look, count = p.rng.choice(("line", "fill", "pill", "joined", "word")), p.rng.randint(low, high)
    size, make = (p.rng.choice((16, 30, 44, 60)), p.rng.choice(HEIGHTS[:-1])), text or p.label
    states = p.rng.sample(["on", "off" if p.chance(0.3) else ""] + [""] * (high - 2), high)
    cells = "".join(_cell(p, make(), size, look, states[i]) for i in range(count))
    return div(cells, "row wrap", f"gap:{0 if look == 'joined' else p.rng.randint(1, 12)}px")


def _rows(p: Parts, count: int, start: Make = str, end: Make = str, holds: bool = False) -> str:
    """Rows drawn alike, clickable whole or only by a link; `holds`: there are controls in them."""
    opening, live, pad = p.rng.choice(WHOLE), p.chance(0.65), p.rng.randint(1, 12)
    opening = p.rng.choice(WHOLE[1:3]) if holds else opening
    ruled, second, bold = p.chance(0.5), p.chance(0.3), p.chance(0.3)
    words, name = p.rng.choice(((1, 2), (2, 5), (4, 9))), p.rng.choice(("row", "row", "row card"))
    css = f"padding:{pad}px {pad // 2 + 4}px{';font-weight:bold' * bold}"
    css, rows = css + f";border-bottom:1px solid {p.style.border}" * ruled, ""
    for _ in range(count):
        title = p.words(*words) if live else p.link(*words)
        below = div(p.words(2, 8), "small muted cut") if second else ""
        inside = start() + div(title + below, "grow cut") + end()
        rows += whole(p, inside, name, css, opening) if live else div(inside, name, css)
    return div(rows, "col", f"gap:{p.rng.randint(2, 10) * ('card' in name)}px")


def _panel(p: Parts, body: str) -> str:
    """A part of a page with its heading, in a frame or without one."""
    more = p.rng.choice((p.link, p.icon, lambda: p.button(main=False), str, str))()
    body = div(f"<b>{p.words(1, 3)}</b>{more}", "row between") + body
    return div(body, p.rng.choice(("card col", "card col", "col")))


def _grid(cells: str, width: float, gap: int = 8) -> str:
    columns = f"repeat(auto-fill,minmax({width:.0f}px,1fr))"
    return div(cells, "", f"display:grid;grid-template-columns:{columns};gap:{gap}px")


def _beside(p: Parts, main: str, aside: str, low: int = 200, high: int = 400) -> str:
    """A wide part and a narrow one on either side of it; below each other if there is no room."""
    if p.width < 2.2 * high:
        return main + aside
    parts = [div(main, "col grow")]
    parts.insert(p.chance(0.6), div(aside, "col", f"width:{p.rng.randint(low, high)}px;flex:none"))
    return div("".join(parts), "row", f"align-items:flex-start;gap:{p.rng.randint(6, 30)}px")


def _chart(p: Parts, width: str, height: int) -> str:
    """A drawn line or bars; nothing in it can be clicked."""
    bars, count, drawn = p.chance(0.3), p.rng.randint(8, 40), "M0 50"
    for i in range(count):
        x, y = 300 * (i + 0.5) / count, p.rng.randint(8, 92)
        drawn += f"M{x:.0f} 100V{y}" if bars else f"L{x:.0f} {y}"
    look = f'fill="none" stroke="{p.style.accent}" stroke-width="{200 // count if bars else 2}"'
    size = f'style="width:{width};height:{height}px" viewBox="0 0 300 100"'
    return f'<svg {size} preserveAspectRatio="none" {look}><path d="{drawn}"/></svg>'


def _site(p: Parts, body: str, gap: int = 12) -> str:
    """`body` with the site's navigation along one or two edges, and a foot of links or none."""
    edge = p.rng.choice(("top", "top", "top", "left", "right", "bottom"))
    logo = f'<b style="font-size:{p.rng.uniform(1, 1.9):.2f}em">{p.words(1, 2)}</b>'
    links = div(p.many(3, 6, lambda: p.link(1, 1)), "row", "gap:16px")
    menus = p.many(3, 6, lambda: f"<button class=bare>{p.words(1)} ▾</button>")
    field = p.field(f"{p.rng.randint(120, 300)}px", "search")
    way = p.rng.choice((links, menus, field, _strip(p, 3, 6)))
    tools = p.many(0, 3, lambda: p.rng.choice((p.icon, p.button, p.avatar, p.link))())
    bar = div(f'{logo}{way}<span class="grow"></span>{tools}', "bar")
    under, column, air = "", p.rng.randint(120, 220), f"padding:{p.rng.randint(0, 4)}px 0"
    for _ in range(max(2, p.width // (2 * column))):
        under += div(p.words(1, 2) + p.many(3, 6, lambda: div(p.link(), "", air)), "")
    under = div(_grid(under, column), "raised pad") if p.chance(0.35) else ""
    size = f"width:{p.rng.choice((100, 100, 96, 88, 78))}%;min-height:90%;gap:{gap}px"
    main = div(body, "pad col", f"{size};margin:0 auto") + under
    if edge == "top" and p.chance(0.5):
        return bar + main
    parts = [div(main, "grow scroll")]
    side = div(p.items(5, 14), "side", f"width:{p.rng.randint(110, 240)}px")
    parts.insert(edge == "right", side if edge in ("left", "right") else "")
    middle = div("".join(parts), "row grow", "align-items:stretch;gap:0")
    below = p.many(3, 6, lambda: f"<button class='bare grow'>{p.glyph()}<br>{p.words(1)}</button>")
    below = div(below, "row raised", "flex:none;gap:0") if edge == "bottom" else ""
    return div(bar + middle + below, "col full", "gap:0")


def news(p: Parts) -> str:
    """The front page of a paper: teasers of many sizes, topics, a ticker, what is read most."""
    live, framed, opening = p.chance(0.55), p.chance(0.4), p.rng.choice(WHOLE)
    place = p.rng.choice(("top", "left", "right", "none", "mixed"))
    plain, kicker = p.chance(0.5), p.rng.choice((str, p.badge, lambda: f"{p.words(1)} · "))
    gap, layout = p.rng.randint(4, 26), p.rng.choice(("mosaic", "columns", "even"))

    def teaser(size: int) -> str:
        where = p.rng.choice(("top", "left", "none")) if place == "mixed" else place
        css = f"font-size:{(0.95, 1.1, 1.4, 2)[size]}em;line-height:1.2;font-weight:bold"
        css += ";color:inherit" if live or p.style.underline else ""
        tag = "b" if live else "a"
        title = f'<{tag} href="#" style="{css}">{p.words(4, 11)}</{tag}>'
        lead = f"<span>{p.sentence()}</span>" if p.rng.randint(0, 3) < size + 1 else ""
        when = f'<span class="small muted">{kicker()}{p.number()}</span>'
        text = div(f"<div>{title}</div>{lead}{when}", "col grow", "gap:4px")
        tall = (54, 84, 150, 240)[size] + p.rng.randint(-10, 30)
        image = p.picture(tall * 1.3, tall, "max-width:38%") if where in ("left", "right") else ""
        image = p.picture("100%", tall) if where == "top" else image
        inside = text + image if where == "right" else image + text
        name = f"{'card ' * framed}{'col' if where == 'top' else 'row'}"
        css = f"min-width:0{';align-items:flex-start' * (where != 'top')}"
        return whole(p, inside, name, css, opening) if live else div(inside, name, css)

    columns, main = max(2, int(p.width * 0.7) // p.rng.randint(180, 360)), ""
    if layout == "mosaic":
        for _ in range(columns * (p.height // 200 + 2)):
            span, down = p.rng.choice(((1, 1), (1, 1), (1, 1), (2, 1), (2, 2), (1, 2)))
            area = f"grid-column:span {span};grid-row:span {down};display:grid"
            main += div(teaser(span + down - 2 + p.rng.randint(0, 1)), "", area)
        rule = f"display:grid;grid-template-columns:repeat({columns},minmax(0,1fr));gap:{gap}px"
        main = div(main, "", f"{rule};grid-auto-flow:dense")
    elif layout == "columns":
        for _ in range(p.rng.choice((1, columns, columns))):
            parts = "".join(teaser(p.rng.randint(0, 2)) for _ in range(p.height // 190 + 2))
            main += div(parts, "col", f"flex:{p.rng.randint(2, 4)};min-width:0;gap:{gap}px")
        main = div(main, "row", f"align-items:flex-start;gap:{gap}px")
    else:
        for i in (p.rng.choice((1, 2)), 0, 1, 0):
            cells = "".join(teaser(i) for _ in range(columns * 2))
            main += f"<h2>{p.link(1, 2) if plain else p.words(1, 2)}</h2>"
            main += _grid(cells, p.width * 0.6 / columns, gap)
    rank = p.rng.choice((lambda: f"<b>{p.rng.randint(1, 20)}</b>", p.glyph, lambda: "•"))
    most = _panel(p, _rows(p, p.rng.randint(5, 12), rank))
    most += _panel(p, _rows(p, p.height // 90, lambda: p.picture(48, 34))) if plain else ""
    ticker = div(p.badge() + p.many(4, 9, lambda: p.link(3, 7)), "row raised pad clip cut")
    topics = _strip(p, 5, max(6, p.width // 160), lambda: p.words(1, 2))
    heads = p.rng.sample((topics, ticker, f"<h1>{p.words(1, 3)}</h1>", teaser(3)), 3)
    body = _beside(p, main, most, 200, 340) if p.chance(0.7) else main
    return _site(p, "".join(heads[p.rng.randint(0, 2) :]) + body, gap)


def product(p: Parts) -> str:
    """A thing for sale or a dish: pictures, choices, a count, tabs, reviews, related things."""
    side, tall = p.rng.choice((20, 28, 40, 56, 80)), int(p.height * p.rng.uniform(0.25, 0.55))
    opening, size = p.rng.choice(WHOLE), p.rng.choice(HEIGHTS)
    edge, along = f"border:1px solid {p.style.border}", p.rng.choice(("row", "column"))
    thumbs = p.many(3, 6, lambda: whole(p, p.picture(side, side), "row", edge, opening))
    thumbs = div(thumbs, "col" if along == "row" else "row wrap")
    arrows = div(p.icon() + p.icon(), "row between", "position:absolute;inset:45% 4px")
    big = div(p.picture("100%", tall) + p.rng.choice((arrows, "")), "grow", "position:relative")
    show = f"display:flex;flex-direction:{along}{p.rng.choice(('', '-reverse'))};gap:6px"
    show = div(thumbs + big, "", show)
    look = f"width:{size}px;height:{size}px;padding:0;{edge};background:hsl"
    dots = "".join(f'<button style="{look}({hue} 60% 50%)"></button>' for hue in range(0, 360, 50))
    shape, count = p.rng.choice(("line", "fill", "pill")), p.rng.randint(1, 9)
    value = p.rng.choice((f"<b>{count}</b>", f'<input type="text" value="{count}" size="2">'))
    minus, plus = (_cell(p, sign, (size, size), shape) for sign in "-+")
    pad = f"padding:{p.rng.randint(0, 6)}px"

    def stars() -> str:
        return f"<span>{'★' * p.rng.randint(1, 5)}☆</span> {p.rng.choice((p.link, p.number))()}"

    parts = [stars(), p.badge(), f"<h2>{p.rng.uniform(1, 900):.2f} €</h2>", p.sentence()]
    parts += [f"<b>{p.words(1)}</b>{_strip(p, 3, 8)}" for _ in range(p.rng.randint(1, 3))]
    dish = p.many(4, 12, lambda: div(p.check(kind="checkbox"), "", pad))
    parts += [p.rng.choice((dish, div(dots, "row wrap"))), div(minus + value + plus, "row")]
    buy = div(p.button(main=True) + p.many(0, 2, p.button) + p.decoy(), "row wrap")
    parts = p.rng.sample([*parts, p.select(), p.icons(1, 3), buy], p.rng.randint(8, len(parts) + 3))
    info = f"<h1>{p.words(2, 6)}</h1>" + "".join(div(part, "") for part in parts)
    more = [_strip(p, 3, 6) + f"<p>{p.paragraph()}</p>"]
    for _ in range(p.rng.randint(1, 3)):
        who = div(f"{p.avatar()}<b>{p.words(1, 2)}</b>{stars()}", "row")
        more.append(_panel(p, f"{who}<span>{p.paragraph(1, 2)}</span>{_strip(p, 2, 3)}"))
    cards, small, frame = "", p.rng.randint(40, 180), p.rng.choice(("col", "card col"))
    for _ in range(p.rng.randint(4, 10)):
        text = div(p.words(1, 5) + (f" {p.badge()}" if size % 3 else ""), "")
        cards += whole(p, p.picture("100%", small) + text, frame, "", opening)
    more.append(_panel(p, _grid(cards, p.rng.randint(120, 260))))
    more.append(_panel(p, _rows(p, p.rng.randint(3, 8), p.rng.choice((p.glyph, p.avatar)))))
    path = div(" / ".join(p.link(1, 2) for _ in range(3)), "") if p.chance(0.5) else ""
    p.rng.shuffle(more)
    show += more.pop() if p.chance(0.6) else ""
    return _site(p, path + _beside(p, show, info, 280, 520) + "".join(more))


def booking(p: Parts) -> str:
    """A journey, a film or a table to be reserved: months, seats, times, filters, the sum."""
    look, size = p.rng.choice(("line", "fill", "pill", "word")), p.rng.choice(HEIGHTS)
    wide, free, named = int(size * p.rng.uniform(1, 2)), p.rng.uniform(0.55, 0.95), p.chance(0.5)
    aisle, faced = p.rng.randint(3, 9), p.chance(0.5)

    def cell(text: str, width: int) -> str:
        state = "off" if not p.chance(free) else "on" if p.chance(0.04) else ""
        return _cell(p, text, (width, size), look, state)

    room, kind = 7 * max(wide, 24) + 60, p.rng.randrange(4)
    count, body = 1 + int(p.width * 0.7) // room * (p.height // (8 * size + 90)), ""
    if kind == 0:
        for _ in range(min(12, count)):
            days = "".join(f'<span class="small muted">{p.words(1)[:2]}</span>' for _ in range(7))
            days += "<i></i>" * p.rng.randrange(7)
            days += "".join(cell(f"{day}", wide) for day in range(1, 31))
            days = div(days, "", "display:grid;grid-template-columns:repeat(7,1fr);gap:3px")
            body += div(div(p.icon() + p.words(1) + p.icon(), "row between") + days, "card")
        body = _grid(body, room)
    elif kind == 1:
        for row in range(min(18, int(p.height * 0.75 / (size + 5)))):
            line = f'<span class="muted" style="width:2em">{row + 1}</span>'
            for seat in range(min(30, int(p.width * 0.55 / (size + 5)))):
                line += "<i style=width:14px></i>" if seat % aisle == 0 else ""
                line += cell(str(seat + 1) if named or look in ("fill", "word") else "", size)
            body += div(line, "row", "gap:3px;justify-content:center")
        screen = div(p.words(1), "raised small", "text-align:center")
        body = div(screen + body, "col card", "gap:3px")
    elif kind == 2:
        for _ in range(p.height // 110):
            slots = p.many(5, 16, lambda: cell(f"{p.rng.randint(8, 23)}:30", wide))
            text = div((p.words if named else p.link)(1, 4) + div(slots, "row wrap"), "col grow")
            body += div((p.picture(70, 80) if faced else "") + text, "row card")
    else:
        end = p.rng.choice((str, p.icon, p.button))
        face = p.picture(p.rng.choice((40, 90)), p.rng.choice((24, 40, 70)))
        body = _rows(p, p.height // 50, lambda: face, lambda: p.number() + end(), True)
    filters = ""
    for _ in range(p.rng.randint(2, 4)):
        part = p.many(2, 6, lambda: div(p.check(kind="checkbox"), ""))
        ways = (part, part, p.slider("90%"), p.select("100%"), _strip(p, 2, 6))
        filters += _panel(p, p.rng.choice(ways))
    ask = p.many(2, 5, lambda: p.rng.choice((p.field, p.select))("140px")) + p.button(main=True)
    lines = p.many(2, 6, lambda: div(p.words(1, 3) + p.number(), "row between"))
    total = _panel(p, lines + p.check() + p.button(main=True) + div(p.link(), ""))
    days = _strip(p, 5, 9, lambda: f"{p.words(1)[:3]} {p.rng.randint(1, 28)}")
    heads = p.rng.sample((div(ask, "row wrap card"), days, f"<h1>{p.words(1, 4)}</h1>"), 2)
    aside = p.rng.choice((filters, total, total + filters))
    return _site(p, "".join(heads) + _beside(p, body, aside, 180, 300))


def profile(p: Parts) -> str:
    """Somebody's page or account: a cover, counts, tabs, what they did, fields and switches."""
    face, tile, side = p.rng.choice((48, 72, 110, 150)), p.rng.choice(WHOLE), p.rng.randint(60, 220)
    deep, gap, counts = p.height // 60, p.rng.randint(1, 12), p.rng.choice((p.link, p.words))
    stats = p.many(2, 5, lambda: f"<span><b>{p.number()}</b> {counts(1, 2)}</span>")
    deeds = p.button(main=True) + p.many(0, 2, p.button) + p.icons(0, 2)
    name = f'<h2 style="margin:0">{p.words(1, 3)}</h2><span class="muted">{p.words(2, 8)}</span>'
    head = p.avatar(face) + div(name, "grow") + div(deeds, "row wrap")
    up = f"align-items:flex-start;margin-top:-{face // 3 if p.chance(0.5) else 0}px"
    head = div(head, p.rng.choice(("row", "row", "col")), f"padding:0 12px;{up}")
    head += div(stats, "row wrap", "gap:18px")
    starts = (p.avatar, p.glyph, lambda: p.avatar(20), str)
    ends = (p.number, lambda: p.button(main=False), p.icon, lambda: p.check("", "switch"), p.badge)

    def listing(low: int, high: int) -> str:
        start, end = p.rng.choice(starts), p.rng.choice((*ends, str))
        return _panel(p, _rows(p, p.rng.randint(low, high), start, end, True))

    form, beside = p.button(main=True) + p.button(), p.rng.choice(("row", ""))
    for _ in range(p.rng.randint(3, 9)):
        control = p.rng.choice((p.field, p.field, p.select, lambda _: p.words(1, 4)))("100%")
        text = f'<span class="muted" style="width:9em">{p.words(1, 2)}</span>'
        form = div(text + div(control + p.rng.choice((p.icon, str))(), "row grow"), beside) + form
    shots = p.many(8, 24, lambda: whole(p, p.picture("100%", side * 0.8), "row", "", tile))
    parts = [_panel(p, form), _grid(shots, side, gap), listing(deep // 2, deep), listing(4, deep)]
    main = "".join(p.rng.sample(parts, 3))
    aside = "".join(listing(3, 8) for _ in range(p.rng.randint(1, 3)))
    if p.chance(0.3):
        return _site(p, _beside(p, _strip(p, 3, 6) + main, head + aside, 260, 420))
    cover = p.picture("100%", p.rng.randint(60, 240)) if p.chance(0.7) else div("", "", up)
    return _site(p, cover + head + _strip(p, 3, 7) + _beside(p, main, aside, 180, 380))


def pricing(p: Parts) -> str:
    """Plans beside each other, a table of what each can do, questions that fold out."""
    count, live, opening = p.rng.randint(2, 5), p.chance(0.45), p.rng.choice(WHOLE)
    best, tick, fold = p.rng.randrange(count), p.rng.choice("✓•-"), p.rng.choice(WHOLE[:4])
    feature, info = p.rng.choice((p.words, p.link)), p.rng.choice((str, p.icon, p.badge))
    pad, sign = p.rng.randint(2, 16), p.rng.choice(("▾", "+", "&rsaquo;"))
    frame, ruled = p.rng.choice(("card", "raised", "")), f"border-bottom:1px solid {p.style.border}"
    plans, table, faq = "", "", f"<h2>{p.words(1, 3)}</h2>"
    for index in range(count):
        inside = f"<b>{p.words(1, 2)}</b><h2>{p.rng.randint(0, 99)} €</h2>"
        inside += p.many(2, 6, lambda: f"<div>{tick} {p.words(1, 5)}</div>")
        inside += div(p.badge() * (index == best), "") + ("" if live else p.button())
        css = f"flex:1;min-width:130px;{f'border:2px solid {p.style.accent}' * (index == best)}"
        card = whole(p, inside, "card col", css, opening)
        plans += card if live else div(inside, "card col", css)
    plans = div(plans, "row wrap", "align-items:stretch")
    for _ in range(p.rng.randint(5, 12)):
        text = f'<span class="grow">{p.words(4, 10)}?</span><span>{sign}</span>'
        faq += whole(p, text, f"row {frame}", f"padding:{pad}px;{ruled}", fold)
        faq += f"<p style='padding:{pad}px'>{p.paragraph(1, 2)}</p>" if p.chance(0.2) else ""
    for _ in range(p.height // 50):
        cells = "".join(f"<td>{p.rng.choice((*'✓✕-', p.number()))}</td>" for _ in range(count))
        table += f"<tr><td>{feature(1, 6)} {info()}</td>{cells}</tr>"
    last = "".join(f"<td>{p.button()}</td>" for _ in range(count))
    table = f'<table class="surface">{table}<tr><td></td>{last}</tr></table>'
    term = p.rng.choice((p.check(kind="switch"), _strip(p, 2, 3), p.slider("240px")))
    head = f"<h1>{p.words(2, 5)}</h1>{div(term + p.badge(), 'row wrap')}"
    if p.chance(0.3):
        return _site(p, head + plans + _beside(p, table, faq, 260, 420))
    return _site(p, head + "".join(p.rng.sample((plans, table, faq), 3)), p.rng.randint(6, 30))


def scores(p: Parts) -> str:
    """Matches, weather or shares: dense tables, strips of days, charts, stars to watch."""
    live, pad, tall = p.chance(0.6), p.rng.randint(0, 10), p.rng.randint(80, 320)
    star = p.rng.choice((lambda: '<button class="icon bare">☆</button>', p.icon, str, str))
    mark = p.rng.choice((p.glyph, lambda: p.picture(22, 15), lambda: p.avatar(18), str))
    card, framed = p.rng.choice(WHOLE), p.rng.choice(("col card", "col", "row card", "col raised"))
    way = ' role="option" tabindex="-1" style="cursor:pointer"' if live else ""

    def table() -> str:
        kinds = p.rng.choices((p.number, p.number, p.badge, p.label), k=p.rng.randint(2, 6))
        kinds += [lambda: _chart(p, "70px", 16)] if p.chance(0.3) else []
        rows = "".join(f"<th>{p.words(1)}</th>" for _ in range(len(kinds) + 2))
        for place in range(1, p.rng.randint(8, max(9, p.height // 36))):
            name = div(mark() + (p.words(1, 3) if live else p.link(1, 3)), "row")
            cells = "".join(f'<td style="padding-top:{pad}px">{kind()}</td>' for kind in kinds)
            rows += f"<tr{way}><td>{star()} {place}</td><td>{name}</td>{cells}</tr>"
        return _panel(p, f"<table>{rows}</table>")

    def match() -> str:
        return f"{p.badge()} <b>{p.rng.randint(0, 5)} : {p.rng.randint(0, 5)}</b> {star()}"

    days = ""
    for _ in range(p.rng.randint(5, max(6, p.width // 130))):
        text = f"<b>{p.words(1)}</b>{mark()}<span>{p.rng.randint(-9, 35)}°</span>"
        days += whole(p, text, framed, "flex:1;align-items:center", card)
    days, chart = div(days, "row"), p.slider() if live else ""
    chart = _panel(p, _strip(p, 4, 8) + _chart(p, "100%", tall) + chart)
    lists = [_panel(p, _rows(p, p.rng.randint(5, p.height // 50), mark, match, True)) for _ in "12"]
    sheets = p.rng.sample([table(), table(), *lists, chart, days], 5)
    main = _grid("".join(sheets), p.width * 0.28, 14) if p.chance(0.4) else "".join(sheets[:4])
    aside = _rows(p, p.rng.randint(4, 12), mark, p.number) + p.rng.choice((table(), chart, *lists))
    head = p.rng.choice((days, _strip(p, 5, 12), f"<h1>{p.words(1, 3)}</h1>"))
    return _site(p, head + (_beside(p, main, aside, 180, 340) if p.chance(0.6) else main))
