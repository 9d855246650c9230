"""Families of tools of programmers: code under review, events of a service in rows."""

from collections.abc import Callable

from families_lists import WHOLE, whole
from families_work import GROW, fit, fold, frame, segments, tool, tools
from page_parts import Parts, div

Make = Callable[[], str]


def quiet(p: Parts, low: int = 1, high: int = 3) -> str:
    """A link that looks like the text around it."""
    return f'<a href="#" style="color:inherit;text-decoration:none">{p.words(low, high)}</a>'


def action(p: Parts, size: int = 0) -> Make:
    """Something small to do, of one look for a whole page: words, a drawing or both."""
    s, pad = p.style, p.rng.randint(0, 8)
    size = size or p.rng.choice((16, 18, 20, 24, 28, 32))
    css = f"padding:{pad // 2}px {pad}px;line-height:1.3;"
    css += f"font-size:{max(10.0, min(s.size, size * 0.65)):.0f}px;"
    tone = f"color:{p.rng.choice((s.muted, s.text, s.link))};text-decoration:none;"
    edge = f"border:1px solid {s.border};border-radius:{p.rng.choice((0, 4, 99))}px;"
    back = p.rng.choice(("background:none;", f"background:{s.raised};", f"background:{s.surface};"))
    word = p.rng.choice((p.label, lambda: p.words(1)))
    return p.rng.choice(
        (
            lambda: tool(p, size),
            lambda: tool(p, size, "bare", f"{edge}{back}"),
            lambda: f'<a href="#" style="{css}">{word()}</a>',
            lambda: f'<a href="#" style="{css}{tone}">{word()}</a>',
            lambda: f'<button class="bare" style="{css}{tone}">{word()}</button>',
            lambda: (
                f'<button class="bare" style="{css}{tone}">{p.glyph(size * 0.6)} {word()}</button>'
            ),
            lambda: f'<button style="{css}{edge}{back}color:inherit">{word()}</button>',
            lambda: f'<button style="{css}">{word()}</button>',
        )
    )


def chips(p: Parts) -> Callable[[int, int], str]:
    """Short words in frames: links, choices, words that can be taken away, or only marks."""
    s, way = p.style, p.rng.choice(("link", "button", "plain", "close", "close"))
    pad, size = p.rng.randint(0, 6), p.rng.choice((10, 11, 12, 13, 15))
    css = f"padding:{pad}px {pad + 4}px;font-size:{size}px;line-height:1.3;gap:4px;"
    css += f"border-radius:{p.rng.choice((0, 3, 99))}px;display:inline-flex;white-space:nowrap;"
    looks = (f"background:{s.raised};", f"background:hsl({p.rng.randrange(360)} 60% 50%/.18);")
    # Whether a word in a frame can be clicked shows: by its colour, a line round it, a cross in it.
    css += f"border:1px solid {s.border};" if way == "button" else p.rng.choice(looks)
    css += f"color:{s.muted};" if way == "plain" else ""

    def chip() -> str:
        text = p.words(1, 2) if p.chance(0.7) else f"{p.words(1).lower()}:{p.number()}"
        if way == "link":
            return f'<a href="#" style="{css}text-decoration:none">{text}</a>'
        if way == "button":
            return f'<button class="bare" style="{css}">{text}</button>'
        return div(text + (tool(p, size + 3) if way == "close" else ""), "row", css)

    gap = p.rng.randint(2, 10)
    return lambda low, high: div(p.many(low, high, chip), "row wrap", f"gap:{gap}px")


def review(p: Parts) -> str:
    """A change of code: files that fold, lines taken out and put in, remarks between them."""
    s, high, pad = p.style, p.rng.choice((14, 16, 18, 20, 24, 28)), p.rng.randint(1, 9)
    split, whole_head, native = p.width > 1200 and p.chance(0.4), p.chance(0.3), p.chance(0.3)
    gutter = p.rng.choice(("plain", "link", "button", "tool", ""))
    more, size = p.rng.choice(("row", "tools", "link")), p.rng.choice((14, 18, 22, 28))
    do, marks, framed = action(p), chips(p), p.rng.choice(("card", "surface", ""))
    opening = p.rng.choice((*WHOLE[:4], '<div role="treeitem" tabindex="-1"'))
    names: tuple[Callable[[int, int], str], ...] = (
        p.link,
        lambda low, high: quiet(p, low, high),
        lambda low, high: f"<b>{p.words(low, high)}</b>",
    )
    named = p.rng.choice(names)
    line = (
        f"height:{high}px;line-height:{high}px;font-size:{min(s.size, high * 0.72):.1f}px;gap:6px"
    )
    at, lightness = p.rng.randint(1, 700), 68 if s.dark else 36

    def code() -> str:
        text = "&nbsp;" * p.rng.choice((0, 2, 4, 4, 8))
        for _ in range(p.rng.randint(1, 7)):
            hue, word = p.rng.choice((0, 120, 210, 280)), p.words(1, 2).lower()
            tone = f'<span style="color:hsl({hue} 55% {lightness}%)">{word}</span>'
            text += tone if p.chance(0.3) else word
            text += p.rng.choice((" ", ".", "(", ") ", " = ", ", "))
        return text

    def half(state: str) -> str:
        look, sign = "flex:none;width:3.6em;padding:0 4px;text-align:right;", state.strip()
        number = div(str(at), "muted", look)
        if gutter == "link":
            number = f'<a href="#" style="{look}">{at}</a>'
        elif gutter == "button":
            look += f"background:{s.raised};line-height:1;height:100%"
            number = f'<button class="bare" style="{look}">{at}</button>'
        elif gutter == "tool" and p.chance(0.07):
            number += tool(p, high - 1, "main")
        back = {"+": "140 70% 50%/.16", "-": "0 75% 50%/.16"}.get(sign, "0 0% 50%/0")
        text = div(f"{sign or '&nbsp;'} {code()}", "clip grow", "white-space:nowrap")
        style = f"flex:1;min-width:0;background:hsl({back});{line}"
        return div((number if gutter else "") + text, "row mono", style)

    def pair() -> str:
        nonlocal at
        at += 1
        state = p.rng.choice(("", "", "", "+", "+", "-"))
        other = half("-" if state == "+" and p.chance(0.5) else "") if split else ""
        return div(other + half(state), "row", "gap:0")

    def remark() -> str:
        head = p.avatar(p.rng.choice((18, 22, 28))) + f"<span>{named(1, 2)}</span>"
        head += f'<span class="small muted grow">{p.number()}</span>' + p.many(0, 2, do)
        text = p.linked_text(0.1) if p.chance(0.4) else f"<p>{p.paragraph(1, 2)}</p>"
        count = p.many(0, 3, lambda: f"<button>{p.glyph(12)} {p.rng.randint(1, 9)}</button>")
        return div(head, "row") + text + (div(count, "row") if p.chance(0.3) else "")

    def thread() -> str:
        write = div(p.field("100%") + p.button(), "row") if p.chance(0.5) else p.many(1, 3, do)
        width = f"max-width:{p.rng.randint(420, 900)}px;margin:{pad}px {p.rng.randint(4, 60)}px"
        return div(p.many(1, 3, remark) + div(write, "row"), "card", width)

    def hunk() -> str:
        text = f"@@ -{at},{p.rng.randint(3, 20)} +{at + 2} @@ {p.words(1, 4)}"
        style = f"padding:{pad // 2}px 8px;background:hsl(210 60% 50%/.12);{line};height:auto"
        head = div(f'{p.link(2, 4)}<span class="muted">{text}</span>', "row mono", style)
        if more == "row":
            head = whole(p, f"{p.glyph(high * 0.7)} {text}", "row mono cut", style, WHOLE[0])
        elif more == "tools":
            head = div(tools(p, 1, 2, min(size, 20)) + text, "row mono cut", style)
        return head + p.many(4, 15, pair) + (thread() if p.chance(0.35) else "")

    def file() -> str:
        name = f"{p.words(1).lower()}/{p.file_name()}"
        stat = f'<span style="color:hsl(140 60% 40%)">+{p.rng.randint(0, 90)}</span> '
        stat += f'<span style="color:hsl(0 65% 50%)">-{p.rng.randint(0, 90)}</span>'
        edge = f"padding:{pad}px 8px;border-bottom:1px solid {s.border}"
        body = p.many(1, 3, hunk) if p.chance(0.85) else ""
        if whole_head:
            head = f'{"▾" if body else "▸"} <span class="grow cut">{name}</span>{stat}'
            head = whole(p, head, "row raised", edge, WHOLE[0])
        else:
            name = p.rng.choice((name, f'<a href="#">{name}</a>', f'<b class="mono">{name}</b>'))
            head = f'{tool(p, size)}<span class="cut">{name}</span>{tool(p, size)}{GROW}{stat}'
            head += p.rng.choice((p.check(kind="checkbox"), do(), "")) + tool(p, size)
            head = div(head, "row raised", edge)
        return div(head + body, framed, "padding:0;overflow:hidden;flex:none")

    def entries() -> str:
        look = f"padding:0 8px 0 {8 + p.rng.choice((0, 0, 14, 28))}px;{line};height:{high + 4}px"
        end = p.rng.choice((p.number, lambda: "●", str))()
        text = p.glyph(high * 0.6) + div(p.file_name(), "cut grow") + end
        return whole(p, text, "row", look, opening)

    def fact() -> str:
        return fold(p, div(p.rng.choice((marks(1, 5), p.link(), remark())), "pad"), pad, "", native)

    head = f'<h2>{p.words(3, 8)} <span class="muted">#{p.rng.randint(2, 9999)}</span></h2>'
    branch = f'<a href="#" class="mono">{p.file_name()}</a>'
    branch = f"{p.badge()}<span>{named(1, 2)} → {branch}</span>{GROW}{p.many(0, 2, p.button)}"
    head = head + div(branch, "row wrap") + (div(p.tabs(3, 5), "row") if p.chance(0.6) else "")
    head += div(p.paragraph(1, 2), "muted") if p.chance(0.3) else ""
    files = fit(p, p.height, 330, file)
    main = div(head, "pad") + div(files, "col", f"gap:{p.rng.randint(0, 18)}px;padding:{pad}px")
    tree = p.field("100%", "search") + fit(p, p.height * 0.9, high + 4, entries)
    panel = p.rng.choice((tree, tree, fit(p, p.height, 80, fact), ""))
    views = segments(p, 2, 4, size + 8, p.chance(0.5))
    wide = views + div(p.number(), "muted") + GROW + p.many(1, 3, do) + p.button(main=True)
    return frame(p, main, tools(p, 4, 9, size + 8), wide, panel, p.rng.randint(170, 320))


def log_viewer(p: Parts) -> str:
    """Events of a service: a query, filters with counts, bars over time, wide rows to open."""
    s, high = p.style, p.rng.choice((16, 18, 20, 24, 30, 38))
    way, sign = p.rng.choice(("whole", "whole", "arrow", "link", "plain")), p.chance(0.7)
    mark, named = p.rng.choice(("badge", "dot", "edge", "word", "icon")), p.rng.choice((0, 1, 2))
    picked, hovered, mono, native = (p.chance(share) for share in (0.25, 0.3, 0.6, 0.5))
    opening, ruled, size = p.rng.choice(WHOLE[:4]), p.rng.randint(0, 1), p.rng.choice((14, 18, 22))
    do, marks, facets = action(p), chips(p), p.rng.choice(("check", "row", "link"))
    look = f"min-height:{high}px;padding:0 8px;font-size:{min(s.size, high * 0.72):.1f}px;"
    look += f"line-height:1.25;border-bottom:{ruled}px solid {s.border};gap:8px"

    def level() -> str:
        hue = p.rng.choice((0, 40, 140, 210, 210, 210))
        tone, word = (
            f"hsl({hue} 60% {62 if s.dark else 40}%)",
            p.rng.choice(("INFO", "WARN", "ERR")),
        )
        if mark == "badge":
            return f'<span class="badge" style="background:{tone};color:#fff">{word}</span>'
        if mark == "icon":
            return f'<span style="color:{tone}">{p.glyph(high * 0.6)}</span>'
        side = 3 if mark == "edge" else 9
        shape = (
            f"flex:none;width:{side}px;height:{9 if side == 9 else high - 2}px;background:{tone}"
        )
        word = f'<b style="color:{tone}">{word}</b>'
        return word if mark == "word" else div("", "", f"{shape};border-radius:{side}px")

    def detail() -> str:
        def line() -> str:
            text = f'<span class="muted" style="width:9em">{p.words(1).lower()}</span>'
            text += p.rng.choice((p.number, p.number, p.link, lambda: p.words(1, 6)))()
            return div((tools(p, 1, 3, size) if hovered else "") + text, "row", "padding:1px 0")

        head = div(p.tabs(2, 4), "row") if p.chance(0.3) else ""
        return div(
            head + p.many(3, 9, line) + div(p.many(0, 3, do), "row"), "raised pad mono small"
        )

    def row() -> str:
        text = (tool(p, min(high, 22)) if way == "arrow" else "") + level()
        text = ("▸" if sign and way == "whole" else "") + text
        text = ("<input type=checkbox>" if picked else "") + text
        time = f"{p.rng.randint(10, 23)}:{p.rng.randint(10, 59)}:{p.rng.randint(10, 59)}.{high}"
        text += f'<span class="muted" style="white-space:nowrap">{time}</span>'
        if named:
            name = p.words(1) if named == 1 or way == "whole" else p.link(1, 1)
            text += div(name, "cut", "width:7em;flex:none")
        words = (p.link if way == "link" else p.words)(3, 16)
        text += div(words, "grow cut")
        text += p.number() if p.chance(0.5) else ""
        if hovered and way != "whole" and p.chance(0.15):
            text += tools(p, 2, 4, min(high, 24))
        name = f"row{' mono' * mono}"
        found = whole(p, text, name, look, opening) if way == "whole" else div(text, name, look)
        return found + (detail() if way in ("whole", "arrow") and p.chance(0.04) else "")

    def facet() -> str:
        def share() -> str:
            count, part = div(str(p.rng.randint(1, 9000)), "muted small"), p.rng.randint(3, 95)
            if facets == "check":
                return div(p.check(kind="checkbox") + GROW + count, "row")
            if facets == "link":
                return div(p.link(1, 2) + f" ({p.rng.randint(1, 99)})")
            bar = f"linear-gradient(90deg,hsl({high * 9} 50% 50%/.25) {part}%,#0000 0)"
            text = div(p.words(1, 2), "grow cut") + count
            return whole(p, text, "row", f"background:{bar};padding:{size // 9}px 6px", WHOLE[2])

        body = p.many(3, 8, share) + (div(p.link(1, 2), "small") if p.chance(0.4) else "")
        body = div(body, "pad") if p.chance(0.8) else ""
        return fold(p, body, size // 4, p.rng.choice(("", "", "raised")), native)

    bars = p.rng.randint(20, 120)
    chart = "".join(
        f'<i style="flex:1;background:{p.rng.choice((s.accent, s.accent, s.muted))};'
        f'height:{p.rng.randint(3, 100)}%"></i>'
        for _ in range(bars)
    )
    chart = div(chart, "row", f"align-items:flex-end;gap:1px;height:{p.rng.randint(24, 140)}px")
    chart = div(chart, "pad") if p.chance(0.7) else ""
    query = p.field("100%", "search")
    if p.chance(0.4):
        query = f'<div contenteditable="true" class="field mono grow">{p.words(2, 6).lower()}</div>'
    ask = [p.select(), segments(p, 3, 6, high + 8, True), p.check("", "switch"), p.button()]
    ask = [*p.rng.sample(ask, p.rng.randint(1, 4)), f"<button class=main>{p.label()}</button>"]
    top = div(query + "".join(ask), f"row pad{' wrap' if p.width < 500 * len(ask) else ''}")
    top += div(marks(2, 7), "pad") if p.chance(0.7) else ""
    tiles = p.many(2, 5, lambda: div(f"<b>{p.number()}</b>{div(p.words(1, 2), 'small')}", "card"))
    top += div(tiles, "row wrap pad") if p.chance(0.2) else ""
    number = div(f"{p.rng.randint(99, 99999)} {p.words(1)}", "small muted grow")
    head = div(number + p.many(1, 4, do) + tools(p, 0, 4, size + 4), "row pad")
    room = max(6 * high, p.height * p.rng.choice((0.5, 0.8, 1.3)))
    rows = div(fit(p, room, high + 1, row), "grow scroll")
    pages = p.many(3, 8, do) + div("…", "muted") + do()
    rows += div(p.rng.choice((pages, p.button(), number)), "row pad", "flex:none")
    panel = p.field("100%", "search") * p.chance(0.4) + fit(p, p.height, 170, facet)
    parts = p.rng.sample((top, chart), 2) if p.chance(0.3) else [top, chart]
    wide = f"<b>{p.words(1, 2)}</b>" + p.many(2, 6, lambda: quiet(p, 1, 2)) + GROW + p.icons(2, 5)
    panel = panel if p.chance(0.8) else ""
    main = "".join(parts) + head + rows
    return frame(p, main, tools(p, 4, 9, size + 10), wide, panel, p.rng.randint(160, 300))
