"""Families of pages to look things up on: packages and stores of code, questions and answers."""

from families_lists import WHOLE, whole
from families_tools import action, chips, quiet
from families_work import GROW, fit, segments, tool, tools
from page_parts import Parts, div


def sheet(p: Parts, main: str, aside: str, low: int = 180, high: int = 340) -> str:
    """Something to read in a column of some width, `aside` beside or below it, a site's bar."""
    s, do, gap = p.style, action(p), p.rng.randint(8, 40)
    wide = min(p.width, p.rng.choice((680, 860, 1000, 1180, 1400, 1700, 9999, 9999)))
    parts, beside = [div(main, "grow col", f"gap:{gap // 2}px")], wide > 2.5 * high
    look = f"width:{p.rng.randint(low, high)}px;flex:none;gap:{gap}px" if beside else f"gap:{gap}px"
    if aside:
        at = p.rng.randint(0, 1) if beside else 1
        parts.insert(at, div(aside, p.rng.choice(("col", "col", "col card")), look))
    shape = f"align-items:{'flex-start' if beside else 'stretch'};gap:{gap}px"
    body = div("".join(parts), "row" if beside else "col", shape)
    middle = "auto" if p.chance(0.7) else "0"
    body = div(body, "", f"max-width:{wide}px;margin:0 {middle};padding:{p.rng.randint(6, 36)}px")
    name = p.rng.choice((f"<b>{p.words(1, 2)}</b>", p.link(1, 2), quiet(p, 1, 2)))
    name = f'<span style="font-size:{p.rng.uniform(1, 1.8):.2f}em">{p.glyph()} {name}</span>'
    ways = (
        lambda: p.many(3, 6, lambda: quiet(p, 1, 2)),
        lambda: p.many(3, 6, lambda: p.link(1, 2)),
        lambda: p.many(3, 5, lambda: f'<button class="bare">{p.words(1)} ▾</button>'),
        lambda: p.tabs(3, 6),
        lambda: p.field(f"{p.rng.randint(140, 380)}px", "search"),
    )
    ends = p.many(0, 3, lambda: p.rng.choice((p.icon, do, p.avatar, p.select))())
    links = div(p.rng.choice(ways)(), "row", f"gap:{p.rng.randint(4, 26)}px")
    bar = p.rng.choice(("raised", "surface", ""))
    edge = f"padding:{p.rng.randint(2, 16)}px 12px;"
    edge += f"border-bottom:{p.rng.randint(0, 1)}px solid {s.border}"
    if p.chance(0.2):
        mid = "justify-content:center"
        bar = div(links, f"row {bar}", f"{edge};{mid}")
        bar = div(name, "row pad", f"{mid};font-size:1.4em") + bar
    else:
        bar = div(name + links + GROW + ends, f"row clip {bar}", edge)
    thin = p.rng.choice((p.sentence, lambda: p.many(3, 7, lambda: p.link(1, 2))))
    bar = (div(thin(), "row raised small", "padding:3px 12px") if p.chance(0.2) else "") + bar
    foot = div(p.many(3, 8, lambda: p.link(1, 2)), "row wrap small pad", "justify-content:center")
    return (bar if p.chance(0.9) else "") + body + (foot if p.chance(0.5) else "")


def listed(p: Parts, low: int, high: int) -> str:
    """A short list with its heading: links of one look below each other, or rows."""
    s, pad, live = p.style, p.rng.randint(0, 8), p.chance(0.3)
    photo, sign = (lambda: p.picture(40, 30)), p.rng.choice(("•", "&rsaquo;"))
    start = p.rng.choice((str, str, p.glyph, photo, lambda: sign, lambda: p.avatar(20)))
    end = p.rng.choice((str, str, lambda: div(p.number(), "small muted"), p.badge, lambda: sign))
    make = p.rng.choice((p.link, p.link, lambda low, high: quiet(p, low, high)))
    make = p.words if live else make
    words, opening = p.rng.choice(((1, 2), (2, 5), (3, 8))), p.rng.choice(WHOLE)
    line = f"padding:{pad / 2}px 0;gap:6px;border-bottom:{int(pad > 5)}px solid {s.border}"

    def row() -> str:
        text = start() + div(make(*words), "grow") + end()
        return whole(p, text, "row", line, opening) if live else div(text, "row", line)

    more = div(p.link(1, 3), "small") if p.chance(0.3) else ""
    return div(f"<b>{p.words(1, 3)}</b>{p.many(low, high, row)}{more}", "")


def package_page(p: Parts) -> str:
    """A package, a program or a store of code: files, versions, counts, and who made it."""
    s, size, pad = p.style, p.rng.choice((16, 18, 22, 28, 34)), p.rng.randint(1, 10)
    do, marks, kind = action(p), chips(p), p.rng.choice(("package", "app", "code", "code"))
    framed, live, round_ = (
        p.rng.choice(("card", "card", "")),
        p.chance(0.35),
        p.rng.choice((0, 4, 8)),
    )
    opening, ruled, named = (
        p.rng.choice(WHOLE),
        p.rng.randint(0, 1),
        p.rng.choice((p.link, p.link, None)),
    )
    shot = p.rng.choice((60, 110, 170, 240))

    def name(low: int, high: int) -> str:
        return named(low, high) if named else quiet(p, low, high)

    def shield() -> str:
        text = f'<span style="background:#555;padding:1px 5px">{p.words(1).lower()}</span>'
        text += f'<span style="background:hsl({p.rng.randrange(360)} 60% 35%);padding:1px 5px">'
        text += f"{p.number()}</span>"
        look = "display:inline-flex;gap:0;color:#fff;font-size:11px;border-radius:3px"
        return whole(p, text, "clip", look, WHOLE[4])

    def install() -> str:
        text = f'<span class="grow cut">$ {p.words(2, 4).lower()}</span>'
        look = f"row mono {p.rng.choice(('raised', 'card', 'surface'))}"
        if p.chance(0.3):
            return whole(p, f"{text}{p.glyph(14)}", look, f"padding:{pad + 2}px 8px", WHOLE[0])
        return div(text + tool(p, size + 4), look, f"padding:{pad + 2}px 8px")

    def files() -> str:
        edge = f"padding:{pad}px 8px;border-bottom:{ruled}px solid {s.border}"

        def row() -> str:
            text = p.glyph(14) + div(p.file_name() if live else p.link(1, 2), "cut", "width:28%")
            text += div(p.words(2, 7) if live else quiet(p, 2, 7), "cut grow muted")
            text += div(p.number(), "small muted")
            return whole(p, text, "row", edge, opening) if live else div(text, "row", edge)

        head = f"{p.avatar(20)}<b>{name(1, 1)}</b>{div(quiet(p, 2, 6), 'cut grow muted')}"
        head += f'<a href="#" class="mono small">{p.rng.randrange(16**6):06x}</a>'
        bar = div(p.select() + p.many(1, 3, do) + GROW + p.many(1, 2, p.button), "row wrap")
        look = f"padding:0;overflow:hidden;border-radius:{round_}px"
        return bar + div(div(head, "row raised", edge) + p.many(6, 16, row), framed, look)

    def code() -> str:
        lines = "\n".join(p.words(2, 8) for _ in range(p.rng.randint(2, 7)))
        copy = div(tool(p, size + 4), "", "position:absolute;right:4px;top:4px")
        look = f"position:relative;white-space:pre;padding:{pad + 6}px;overflow:hidden"
        return div(lines + (copy if pad % 2 else ""), "mono raised", look)

    def points() -> str:
        lines = (
            lambda: p.link(1, 5),
            lambda: p.words(3, 9),
            lambda: f"{p.link()} - {p.words(2, 8)}",
        )
        return f"<ul>{p.many(3, 7, lambda: f'<li>{p.rng.choice(lines)()}</li>')}</ul>"

    def prose() -> str:
        text = div(p.many(2, 8, shield), "row wrap", "gap:4px") if p.chance(0.6) else ""
        for _ in range(p.rng.randint(2, 5)):
            anchor = f' <a href="#" class="small">{p.rng.choice("#§¶")}</a>' if live else ""
            text += f"<h3>{p.words(1, 4)}{anchor}</h3>"
            text += p.rng.choice(
                (code, points, lambda: p.linked_text(0.2), lambda: f"<p>{p.paragraph()}</p>")
            )()
        return div(text, framed)

    def versions() -> str:
        def row() -> str:
            number = f"{p.rng.randint(0, 9)}.{p.rng.randint(0, 20)}.{p.rng.randint(0, 9)}"
            text = f'<a href="#">{number}</a>' + (p.badge() if p.chance(0.2) else "") + GROW
            text += div(p.number(), "muted small") + (do() if live else "")
            return div(text, "row", f"padding:{pad}px 4px;border-bottom:{ruled}px solid {s.border}")

        return div(f"<h3>{p.words(1)}</h3>{p.many(4, 12, row)}", framed)

    def shots() -> str:
        images = p.many(3, 8, lambda: whole(p, p.picture(shot * 1.5, shot), "", "", opening))
        return div(images, "row clip") + (div(tools(p, 2, 2, size + 8), "row") if live else "")

    def ratings() -> str:
        bars, look = "", f"height:{p.rng.choice((6, 10, 14))}px;background:{s.accent};width:"
        for stars in "54321":
            text = f"{stars}{div(div('', '', f'{look}{p.rng.randint(2, 90)}%'), 'grow raised')}"
            bars += div(text, "row")
        said = ""
        for _ in range(p.rng.randint(2, 5)):
            who = div(p.avatar(28) + name(1, 2) + "★" * p.rng.randint(1, 5) + GROW + do(), "row")
            said += div(
                f"{who}<span>{p.paragraph(1, 2)}</span>{div(p.many(0, 3, do), 'row')}", framed
            )
        return div(bars, "col", f"max-width:{shot + 160}px") + said

    def facts() -> str:
        text = f"<b>{p.words(1, 2)}</b>"
        for _ in range(p.rng.randint(3, 8)):
            value = p.rng.choice((p.link, p.number, lambda: f"{p.glyph(13)} {name(1, 2)}"))()
            value = f'<span class="muted">{p.words(1)}</span><span>{value}</span>'
            text += div(value, "row between")
        return div(text, "", f"line-height:{p.rng.uniform(1.3, 2):.2f}")

    def people() -> str:
        face = p.rng.choice((20, 26, 32, 40))
        faces = p.many(3, 14, lambda: whole(p, p.avatar(face), "", "line-height:0", WHOLE[4]))
        return div(f"<b>{p.words(1)}</b>") + div(faces, "row wrap", "gap:4px")

    def shares() -> str:
        parts = [(p.rng.randrange(360), p.rng.randint(1, 9)) for _ in range(4)]
        bar = "".join(div("", "", f"flex:{n};background:hsl({hue} 60% 50%)") for hue, n in parts)
        key = (f'<span style="color:hsl({hue} 60% 50%)">●</span> {name(1, 1)}' for hue, _ in parts)
        bar = div(bar, "row clip", "height:8px;gap:0;align-items:stretch;border-radius:4px")
        return bar + div(" ".join(key), "small")

    def counted() -> str:
        flat = f"height:{size + 6}px;line-height:{size + 4}px;padding:0 8px"
        look = f"{flat};border-radius:{round_}px 0 0 {round_}px"
        star = f'<button style="{look}">{p.glyph(13)} {p.words(1)}</button>'
        look = f"{flat};border:1px solid {s.border}"
        return div(star + whole(p, f"{p.rng.randint(2, 99)}k", "", look, WHOLE[4]), "row", "gap:0")

    path = f"{name(1, 1)} / <b>{name(1, 2)}</b>" if kind == "code" else f"<b>{p.words(1, 3)}</b>"
    title = div(f'<span style="font-size:1.5em">{path}</span> {p.badge()}', "grow")
    deeds = p.many(1, 3, counted) if kind == "code" else p.button(main=True) + p.many(0, 3, do)
    icon = p.picture(72, 72, f"border-radius:{round_ * 2}px") if kind == "app" else p.glyph(28)
    head = div(icon + title + div(deeds, "row"), "row wrap")
    if p.chance(0.7):
        head += div(p.tabs(3, 8), "row clip", f"gap:0;border-bottom:1px solid {s.border}")
    pools = {
        "package": (install, prose, versions, points, code),
        "app": (shots, ratings, prose, versions, points),
        "code": (files, prose, code, versions),
    }
    pool = p.rng.sample(pools[kind], p.rng.randint(3, 4))
    pool = [files, prose] if kind == "code" and p.chance(0.7) else pool
    sides = [facts, people, shares, lambda: marks(3, 9), lambda: listed(p, 3, 8), install]
    sides = p.rng.sample(sides, p.rng.randint(4, 6)) if p.chance(0.9) else []
    return sheet(p, head + "".join(make() for make in pool), "".join(div(make()) for make in sides))


def help_centre(p: Parts) -> str:
    """Questions and answers: topics, parts that fold out, votes, remarks, what is alike."""
    s, pad, size = p.style, p.rng.randint(1, 16), p.rng.choice((16, 20, 24, 32))
    do, marks, sign = action(p), chips(p), p.rng.choice(("▾", "+", "&rsaquo;", "⌄", ""))
    framed, gap = p.rng.choice(("card", "raised", "surface", "")), p.rng.choice((0, 0, 2, 8))
    native, first, live = p.chance(0.25), p.chance(0.4), p.chance(0.6)
    opening, cell, ruled = p.rng.choice(WHOLE), p.rng.randint(130, 300), p.rng.randint(0, 1)
    votes, tile = p.rng.choice(("upright", "flat", "pill", "none")), p.rng.choice(("row", "col"))

    def folding() -> str:
        look = f"padding:{pad}px {pad // 2 + 6}px;border-bottom:{ruled}px solid {s.border}"
        text = f'<span class="grow">{p.words(3, 9)}?</span>'
        body = p.rng.choice((p.linked_text, lambda: f"<p>{p.paragraph(1, 2)}</p>"))() + do()
        body = div(body, "", f"padding:{pad}px {pad + 8}px") if p.chance(0.15) else ""
        if native:
            head = f'<summary class="{framed}" style="cursor:pointer;{look}">{text}</summary>'
            return f"<details{' open' if body else ''}>{head}{body}</details>"
        mark = tool(p, size, "raised") if sign == "" else f"<span>{sign}</span>"
        opener = WHOLE[1] if sign == "" else WHOLE[0]
        return whole(p, mark + text if first else text + mark, f"row {framed}", look, opener) + body

    def questions() -> str:
        return f"<h3>{p.words(1, 3)}</h3>" + div(p.many(4, 10, folding), "col", f"gap:{gap}px")

    def topics() -> str:
        def card() -> str:
            icon = p.glyph(size + 10) if p.chance(0.9) else p.picture(40, 40)
            title = f"<b>{p.words(1, 3)}</b>" if live else f"<b>{p.link(1, 3)}</b>"
            text = div(title + div(p.words(3, 12), "small muted"), "grow")
            if not live:
                text += div(p.many(2, 5, lambda: div(p.link(2, 5))), "small")
            if live:
                return whole(p, icon + text, f"{tile} card", "", opening)
            return div(icon + text, f"{tile} {framed}")

        grid = f"repeat(auto-fill,minmax({cell}px,1fr));gap:{gap + 6}px"
        return div(p.many(4, 12, card), "", f"display:grid;grid-template-columns:{grid}")

    def voting() -> str:
        count = f"<b>{p.rng.randint(-3, 300)}</b>"
        if votes == "none":
            look = "width:4em;text-align:center;flex:none"
            return div(count + div(p.words(1), "small muted"), "", look)
        count = tool(p, size) + count + tool(p, size)
        if votes == "upright":
            return div(count, "col", "align-items:center;gap:2px;flex:none")
        look = "gap:2px;flex:none;align-self:flex-start;border-radius:99px;padding:0 4px"
        return div(count, "row raised" if votes == "pill" else "row", look)

    def remark() -> str:
        text = f"{p.words(5, 20)} - {p.link(1, 2)} <span class=muted>{p.number()}</span> "
        look = f"padding:{pad // 3}px 0;border-top:1px solid {s.border}"
        return div(text + (do() if live else ""), "small", look)

    def answer() -> str:
        text = "".join(p.rng.choice((p.linked_text(0.1), f"<p>{p.paragraph()}</p>")) for _ in "12")
        if p.chance(0.3):
            text += div(f"{p.words(4, 9)}<br>{p.words(3, 9)}", "mono raised pad")
        who = p.avatar(32) + div(p.link(1, 2) + div(p.number(), "small muted"))
        who = div(who, p.rng.choice(("row", "row raised pad")))
        ends = div(div(p.many(1, 4, do), "row") + who, "row between wrap")
        said = p.many(1, 5, remark) if p.chance(0.5) else ""
        good = div(p.glyph(24), "", "color:hsl(140 60% 40%)") if p.chance(0.2) else ""
        look = f"align-items:flex-start;gap:14px;padding:{pad}px {8 * (framed != '')}px;"
        look += f"border-bottom:{ruled}px solid {s.border}"
        return div(div(voting() + good) + div(text + ends + said, "grow"), f"row {framed}", look)

    def asked() -> str:
        title = f"<b>{p.words(4, 11)}?</b>" if live else p.link(4, 11)
        text = title + (div(p.sentence(), "muted small cut") if first else "")
        text += "" if live else marks(1, 4)
        counts = div(p.number(), "small muted") + (p.badge() if p.chance(0.3) else "")
        look = f"padding:{pad}px 4px;border-bottom:1px solid {s.border}"
        inside = div(counts, "", "width:5em;flex:none") + div(text, "grow clip")
        return whole(p, inside, "row", look, opening) if live else div(inside, "row", look)

    def thread() -> str:
        head = div(f"<h2>{p.words(4, 10)}?</h2>{p.button(main=True)}", "row between")
        order = f"<h3>{p.number()}</h3>{segments(p, 2, 4, size + 6, True)}"
        parts = head + answer() + marks(2, 5) + div(order, "row between")
        write = tools(p, 4, 9, size) + p.area(5) + p.button(main=True)
        return parts + p.many(2, 5, answer) + (write if p.chance(0.5) else "")

    def reached() -> str:
        ask = div(f"<span>{p.words(3, 5)}?</span>{do()}{do()}", "row")
        more = div(f"{p.sentence()} {p.link()}", "raised pad")
        return p.rng.choice((ask, div(p.many(2, 4, p.button), "row wrap"), more))

    seek = p.field(f"{p.rng.randint(200, 640)}px", "search")
    seek = div(seek + (p.button(main=True) if native else p.icon() * first), "row")
    words = f"<h1>{p.words(2, 6)}</h1>{seek}" + div(p.many(0, 5, lambda: p.link(1, 2)), "row small")
    hero = f"padding:{p.rng.randint(16, 80)}px 20px;align-items:"
    hero += p.rng.choice(("center", "flex-start"))
    hero = div(words, f"col {p.rng.choice(('raised', 'surface', ''))}", hero)
    crumbs = div(" &rsaquo; ".join(p.link(1, 2) for _ in range(3)), "small")
    listing = div(p.tabs(2, 5), "row") + fit(p, p.height * 0.8, 40 + pad * 2, asked)
    listing = div(f"<h2>{p.words(1, 3)}</h2>{p.button()}", "row between") + listing
    listing += div(p.many(3, 9, lambda: f"<button>{p.rng.randint(1, 40)}</button>"), "row")
    ways = (
        lambda: hero + topics() + questions(),
        lambda: crumbs + f"<h1>{p.words(2, 4)}</h1>" + fit(p, p.height, 380, questions) + reached(),
        lambda: crumbs * first + thread(),
        lambda: hero * native + listing,
    )
    aside = p.many(1, 4, lambda: listed(p, 3, 9)) + marks(4, 10) * p.chance(0.4) + reached()
    return sheet(p, p.rng.choice(ways)(), aside if p.chance(0.75) else "")
