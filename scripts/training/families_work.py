"""Families of programs people work in all day: dense panels, wide rows, small controls."""

from collections.abc import Callable

from families_lists import WHOLE, whole
from page_parts import Parts, div

GROW = "<span class=grow></span>"


def frame(p: Parts, main: str, narrow: str, wide: str, panel: str, width: int) -> str:
    """`main`, a panel beside it, and tools on one side: `narrow` ones if upright, else `wide`."""
    place, line = p.rng.choice(("top", "top", "bottom", "left", "right")), p.style.border
    upright, back = place in ("left", "right"), p.rng.choice(("raised", "surface", ""))
    look = f"flex:none;overflow:hidden;align-items:center;padding:{p.rng.randint(2, 12)}px"
    look += f";border:{1 if back else 0}px solid {line}"
    strip = div(narrow if upright else wide, f"{'col' if upright else 'row wrap'} {back}", look)
    parts = [div(main, "grow scroll col", "gap:0;position:relative")]
    if panel:
        look = (
            f"flex:none;width:{width}px;max-width:42%;border:{p.rng.choice((0, 1))}px solid {line}"
        )
        parts.insert(p.rng.randint(0, 1), div(panel, "scroll surface", look))
    if upright:
        parts.insert(0 if place == "left" else len(parts), strip)
    rows = [div("".join(parts), "row grow", "align-items:stretch;gap:0")]
    if not upright:
        rows.insert(0 if place == "top" else 1, strip)
    return div("".join(rows), "col full", "gap:0")


def fit(p: Parts, room: float, each: float, make: Callable[[], str]) -> str:
    """As many as fill about `room` px, of `each` px; at least three."""
    return "".join(make() for _ in range(max(3, int(room / each * p.rng.uniform(0.7, 1.15)))))


def tool(p: Parts, size: float, name: str = "bare", style: str = "") -> str:
    """A square button with a drawing in it."""
    style = f"width:{size:.0f}px;height:{size:.0f}px;padding:0;flex:none;{style}"
    return f'<button class="icon {name}" style="{style}">{p.glyph(size * 0.55)}</button>'


def tools(p: Parts, low: int, high: int, size: float) -> str:
    return p.many(low, high, lambda: tool(p, size))


def entry(value: str, style: str) -> str:
    return f'<input type="text" value="{value}" style="{style}">'


def segments(p: Parts, low: int, high: int, size: int, words: bool) -> str:
    """Buttons joined into a strip, one of them chosen."""
    count, line = p.rng.randint(low, high), p.style.border
    chosen = p.rng.randrange(count)
    buttons = "".join(
        f'<button class="icon {"main" if index == chosen else "bare"}" style="border-radius:0;'
        f'height:{size}px;padding:0 {size // 4 + 2}px;border-left:{min(index, 1)}px solid {line}">'
        f"{p.words(1) if words else p.glyph(size * 0.55)}</button>"
        for index in range(count)
    )
    look = f"display:inline-flex;gap:0;border:1px solid {line};border-radius:{p.style.radius}px"
    return div(buttons, "row clip", look)


def fold(p: Parts, body: str, pad: int, look: str, native: bool) -> str:
    """A part of a panel that folds at its head, which is one wide thing to click."""
    head, style = f"<b>{p.words(1, 3)}</b>", f"padding:{pad}px {pad + 4}px"
    if native:
        summary = f'<summary class="{look}" style="cursor:pointer;{style}">{head}</summary>'
        return f"<details{' open' if body else ''}>{summary}{body}</details>"
    head = f"<span>{'▾' if body else '▸'}</span>{head}{p.badge() if p.chance(0.2) else ''}"
    return whole(p, head, f"row {look}", style, WHOLE[0]) + body


def invoice(p: Parts) -> str:
    """An order or invoice being written: its lines, sums and the fields beside them."""
    kind, pad = p.rng.choice(("cells", "bare", "rows", "cards")), p.rng.randint(1, 10)
    picked, pictured, ruled, beside = (p.chance(share) for share in (0.4, 0.3, 0.6, 0.6))
    size, tail, columns = p.rng.choice((14, 18, 24, 32)), p.rng.randint(0, 2), p.rng.randint(2, 4)
    bare = "background:none;border:1px solid transparent;" if kind == "bare" else ""
    opening, room = p.rng.choice(WHOLE[:4]), p.height * p.rng.uniform(0.4, 0.75)

    def amount(share: float = 0, style: str = "width:7em") -> str:
        text = f"{p.rng.uniform(1, 9999):.2f}"
        return entry(text, f"{style};text-align:right;{bare}") if p.chance(share) else text

    def cells() -> str:
        found = ["<input type=checkbox>"] if picked else []
        found += [entry(p.words(1, 4), f"width:100%;{bare}")]
        found += [amount(1, "width:100%") for _ in range(columns - 1)]
        found += [p.select("100%") if columns > 2 else "", amount(), tools(p, tail, tail, size)]
        cut = f'</td><td style="padding:{pad // 2}px 3px">'
        return f"<tr><td>{cut.join(found)}</td></tr>"

    def row() -> str:
        text = p.words(1, 5) + (div(p.words(2, 7), "small muted cut") if pictured else "")
        text = (p.picture(32, 24 + pad) if pictured else "") + div(text, "grow cut")
        text += p.badge() if picked else ""
        if kind == "rows":
            text += "".join(div(amount(), "", "width:5em") for _ in range(columns))
            look = f"padding:{pad}px 8px;border-bottom:{int(ruled)}px solid {p.style.border}"
            return whole(p, text, "row", look, opening)
        count = entry(str(p.rng.randint(1, 40)), "width:4em")
        count = f"{tool(p, size, '')}{count}{tool(p, size, '')}" if ruled else count
        return div(f"{text}{count}<b>{amount()}</b>{tools(p, tail, tail, size)}", "card row")

    def labelled() -> str:
        control = p.rng.choice((p.field, p.field, p.select, lambda width: p.area(2, width)))
        return div(div(p.words(1, 2), "small muted") + control("100%"))

    def attached() -> str:
        text = f'{p.glyph()}<span class="grow cut">{p.file_name()}</span>{p.number()}'
        return whole(p, text, "row", f"padding:{pad // 2 + 2}px 4px", WHOLE[2])

    each = (
        p.style.size * (2.8 if pictured else 1.4) + pad + {"rows": pad, "cards": 30}.get(kind, 14)
    )
    lines = fit(p, room, each, row if kind in ("rows", "cards") else cells)
    if kind in ("cells", "bare"):
        heads = "".join(f"<th>{p.words(1) if n else ''}</th>" for n in range(columns + 2 + picked))
        lines = f"<table><tr>{heads}</tr>{lines}</table>"
    lines += whole(p, f"+ {p.words(1, 2)}", "row muted", f"padding:{pad}px 8px", WHOLE[0])
    sums = p.many(2, 5, lambda: div(div(p.words(1, 2), "muted") + amount(0.3), "row between"))
    sums += div(f"<b>{p.words(1)}</b><h2>{amount()}</h2>", "row between line")
    foot = p.rng.choice((p.area(3, "40%"), p.badge(), ""))
    foot += div(sums, "col", f"width:{p.rng.randint(200, 340)}px")
    face = p.avatar() + div(p.words(1, 3) + div(p.words(3), "small muted"), "grow") + "▾"
    party = whole(p, face, "card row", "", WHOLE[0]) if p.chance(0.5) else labelled()
    grid = f"display:grid;grid-template-columns:repeat({p.rng.randint(2, 4)},1fr);gap:10px"
    top = "" if beside else div(party + p.many(2, 6, labelled), "", grid)
    head = div(f"<h2>{p.words(1)} #{p.rng.randint(9, 9999)}</h2>{p.badge()}", "row between")
    paper = head + top + lines + div(foot, "row between")
    paper = div(paper, p.rng.choice(("card col", "col", "surface col")), f"padding:{pad + 8}px")
    panel = party + p.many(2, 6, labelled) + f"<h3>{p.words(1)}</h3>{p.many(2, 9, attached)}"
    gone = f"<button disabled>{p.label()}</button>" if p.chance(0.4) else ""
    wide = f"{p.icon()}{p.link()}{GROW}{segments(p, 2, 4, size + 8, True)}{gone}"
    wide, narrow = wide + p.many(2, 5, p.button), tools(p, 4, 10, size + 10)
    panel = div(panel, "pad col") if beside else ""
    return frame(p, div(paper, "pad"), narrow, wide, panel, p.rng.randint(200, 380))


def meeting(p: Parts) -> str:
    """A meeting or a lesson: people in tiles, round buttons in a bar, a list or talk beside."""
    size, view = p.rng.choice((24, 30, 36, 44, 56, 72)), p.rng.choice(("grid", "face", "shared"))
    live, tooled, floats, labelled = (p.chance(share) for share in (0.5, 0.5, 0.6, 0.35))
    name = p.rng.choice(("left:6px", "left:0;right:0", "left:30%;right:30%;text-align:center"))
    opening, round_ = p.rng.choice(WHOLE[1:3]), p.rng.choice((0, 4, 8, 16))
    plain, gap = p.rng.choice((0.2, 0.5, 0.9)), p.rng.choice((0, 2, 6, 12))
    knob, talk = p.rng.choice(("50%", "50%", "50%", "6px")), p.chance(0.4)

    def tile(style: str, main: bool = False) -> str:
        inside = p.picture("100%", "100%", "position:absolute;inset:0")
        if p.chance(plain):
            look = f"position:absolute;inset:0;justify-content:center;background:hsl({size} 9% 25%)"
            inside = div(p.avatar(size * 2 if view == "grid" or main else size), "row", look)
        look = "position:absolute;color:#fff;padding:1px 6px;background:rgba(0,0,0,.6);bottom:4px;"
        off = p.glyph(12) if p.chance(0.5) else ""
        inside += div(f"{off} {p.words(1, 2)}", "small cut", look + name)
        if p.chance(0.15):
            inside += div(p.badge(), "", "position:absolute;left:6px;top:6px")
        if tooled and p.chance(0.7):
            look = "position:absolute;right:5px;top:5px;background:rgba(0,0,0,.5);color:#fff"
            inside += tool(p, p.rng.choice((18, 22, 28)), "", look)
        look = f"position:relative;min-width:0;border-radius:{round_}px;{style}"
        look += f";border:2px solid {p.style.accent}" if p.chance(0.1) else ""
        clicked = live and not main
        return whole(p, inside, "clip", look, opening) if clicked else div(inside, "clip", look)

    if view == "grid":
        columns = p.rng.randint(2, 6)
        look = f"display:grid;gap:{gap}px;grid:auto-flow 1fr/repeat({columns},1fr)"
        count = columns * max(1, columns - p.rng.randint(0, 2))
        stage = div("".join(tile("") for _ in range(count)), "grow", look)
    else:
        large = tile("flex:1", True)
        if view == "shared":
            points = p.many(4, 8, lambda: f"<p>• {p.words(3, 9)}</p>") + p.picture("45%", "40%")
            look = f"background:#fff;color:#222;padding:3%;font-size:{p.rng.randint(16, 30)}px"
            large = div(f"<h1>{p.words(2, 5)}</h1>{points}", "grow clip", look)
        upright, high = p.chance(0.5), p.rng.randint(50, 130)
        look = f"flex:none;width:{high * 1.8:.0f}px;height:{high}px"
        room = p.height if upright else p.width / 2
        strip = div(fit(p, room, high, lambda: tile(look)), f"{'col' if upright else 'row'} clip")
        parts = [large, strip] if p.chance(0.6) else [strip, large]
        stage = div("".join(parts), f"{'row' if upright else 'col'} grow", "align-items:stretch")

    def control(back: str = "") -> str:
        if labelled:
            word = p.glyph(size * 0.6) + div(p.words(1), "small")
            return f'<button class="bare" style="padding:4px;{back}">{word}</button>'
        button = tool(p, size, p.rng.choice(("", "", "main")), f"border-radius:{knob};{back}")
        return button + (tool(p, max(14, size // 2)) if p.chance(0.15) else "")

    def person() -> str:
        text = p.avatar(min(size, 40)) + div(p.words(1, 3), "grow cut")
        text += div(p.glyph(14), "muted") if p.chance(0.5) else tool(p, 22)
        return whole(p, text, "row", "padding:3px 8px", opening) if live else div(text, "row")

    def said() -> str:
        return div(f"<b>{p.words(1)}</b> {p.number()}{div(p.words(2, 14))}", "", "padding:4px 8px")

    clock = div(f"{p.rng.randint(1, 59)}:{p.rng.randint(10, 59)}", "small muted")
    controls = clock + p.many(4, 6, control) + control("background:#d33;color:#fff")
    body = fit(p, p.height * 0.8, 60 if talk else 40, said if talk else person)
    write = div(p.field("100%") + p.icon(), "row pad") if talk else p.button()
    panel = div(p.tabs(2, 3), "row") + div(body, "grow clip") + write
    panel = div(panel, "col full", "gap:0") if p.chance(0.65) else ""
    look = f"padding:{gap}px {gap}px {size + 40 if floats else gap}px;background:hsl({size} 9% 12%)"
    main, icons = div(stage, "col grow", look), p.many(3, 6, p.icon)
    if floats:
        look = f"left:50%;bottom:8px;transform:translateX(-50%);border-radius:{size}px;z-index:5"
        main += div(controls, "row float pad", look)
        return frame(p, main, icons, clock + icons, panel, p.rng.randint(200, 360))
    wide = GROW + controls + GROW
    return frame(p, main, controls, wide + icons, panel, p.rng.randint(200, 360))


def admin_console(p: Parts) -> str:
    """Settings of a service: parts that fold, chips, toggles, rows to open, marks of progress."""
    size, pad, native = p.rng.choice((14, 18, 24, 32)), p.rng.randint(2, 12), p.chance(0.5)
    live, marked, switched = p.chance(0.6), p.chance(0.5), p.chance(0.25)
    look, opening = p.rng.choice(("raised", "surface", "card", "")), p.rng.choice(WHOLE)
    opening = WHOLE[1] if switched else opening
    end = p.rng.choice((p.number, lambda: "&rsaquo;", p.badge))
    edge = f"padding:{pad}px 8px;border-bottom:{p.rng.randint(0, 1)}px solid {p.style.border}"

    def chip() -> str:
        return div(p.words(1, 2) + tool(p, size), "badge row", "display:inline-flex;gap:3px")

    def row() -> str:
        text = p.words(1, 4) if live else p.link(1, 4)
        text += div(p.words(3, 9), "small muted cut") if marked else ""
        text = div(text, "grow cut") + (p.check("", "switch") if switched else end())
        return whole(p, text, "row", edge, opening) if live else div(text, "row", edge)

    def line() -> str:
        return div(div(p.words(1, 3), "grow muted cut") + p.control(), "row", edge)

    def folding() -> str:
        body = p.many(1, 4, p.rng.choice((row, line, p.sentence))) if p.chance(0.3) else ""
        return fold(p, div(body, "pad") if body else "", pad, look, native)

    def step() -> str:
        disc = f"width:{size}px;height:{size}px;line-height:{size}px;border-radius:50%;color:#fff;"
        disc += f"text-align:center;background:hsl({p.rng.choice((0, 40, 140))} 50% 40%)"
        text = div(p.rng.choice("✓●123"), "small", disc) + p.words(1, 2)
        return whole(p, text, "row grow", edge, WHOLE[0]) if native else div(text, "row grow")

    def stat() -> str:
        text, name = div(p.words(1, 3), "small muted") + f"<b>{p.number()}</b>", "card col grow"
        return whole(p, text, name, "", WHOLE[0]) if live else div(text + p.picture(60, 20), name)

    def part() -> str:
        kinds = (
            lambda: div(p.many(3, 9, chip) + p.button(), f"row wrap {look}"),
            lambda: div(p.many(3, 6, folding), "col", f"gap:{pad // 2}px"),
            lambda: div(p.many(3, 6, step), "row wrap"),
            lambda: div(p.many(2, 5, stat), "row wrap", "align-items:stretch"),
            lambda: segments(p, 2, 5, size + 6, marked) + p.many(2, 5, line),
            lambda: p.many(3, 6, row),
        )
        head = f"<h3>{p.words(1, 3)} {p.badge() if p.chance(0.3) else ''}</h3>"
        return div(head + p.rng.choice((*kinds, kinds[1], kinds[5]))(), p.rng.choice(("card", "")))

    count = p.rng.randint(1, 3 if p.width > 1100 else 2)
    main = "".join(
        div(fit(p, p.height, 9 * p.style.size + 45, part), "col grow") for _ in range(count)
    )
    head = div(f"<h2>{p.words(1, 3)}</h2>{div(p.many(1, 3, p.button), 'row')}", "row between pad")
    head += div(p.tabs(3, 7), "row") if p.chance(0.5) else ""
    crumbs = p.rng.choice((" / ", " · ", " &gt; ")).join(p.link() for _ in range(3))
    icons = tools(p, 3, 6, size + 8)
    groups = p.many(2, 4, lambda: div(p.words(1), "small muted pad") + p.items(3, 8))
    main = head + div(main, "row pad", f"align-items:flex-start;gap:{pad + 6}px")
    wide = f"<span>{crumbs}</span>{GROW}{p.avatar()}{icons}"
    return frame(p, main, icons, wide, groups, p.rng.randint(140, 300))


def query_tool(p: Parts) -> str:
    """A client of a database or a service: what there is, a request, and what came back."""
    high, size, columns = (
        p.rng.choice((16, 20, 28, 36)),
        p.rng.choice((18, 22, 32)),
        p.rng.randint(3, 9),
    )
    service, picked, beside = p.chance(0.4), p.chance(0.4), p.width > 1300 and p.chance(0.3)
    way, heads = p.rng.choice(("whole", "cells", "link", "plain")), p.rng.choice(("bare", "th", ""))
    level = 0

    def node() -> str:
        nonlocal level
        level = max(0, min(3, level + p.rng.choice((-1, 0, 0, 0, 1))))
        text = p.rng.choice(("▾ ", "▸ ", "")) + p.glyph(high * 0.6)
        text += div(p.words(1, 2), "cut grow") + (p.badge() if service and p.chance(0.5) else "")
        style = f"height:{high}px;padding:0 6px 0 {6 + level * 14}px"
        style += f";line-height:1;font-size:{min(p.style.size, high * 0.7):.0f}px"
        return whole(p, text, "row", style, '<div role="treeitem" tabindex="-1"')

    def head() -> str:
        if heads == "th":
            return f'<th role="button" tabindex="0" class="raised">{p.words(1)} ▾</th>'
        text = f'<button class="bare">{p.words(1)} ↕</button>' if heads else ""
        return f"<th>{text or p.words(1) + tool(p, 16)}</th>"

    def row() -> str:
        cell = f'<td class="cut"{" role=gridcell tabindex=-1" if way == "cells" else ""}>'
        first = "<td style=width:1px><input type=checkbox></td>" if picked else ""
        first += f"<td>{p.link(1, 2)}</td>" if way == "link" else ""
        texts = (p.rng.choice((p.number(), p.words(1, 3), "<i>NULL</i>")) for _ in range(columns))
        clicked = ' role="option" tabindex="-1" style="cursor:pointer"' if way == "whole" else ""
        return f"<tr{clicked}>{first}{''.join(f'{cell}{text}</td>' for text in texts)}</tr>"

    def pair() -> str:
        fields = p.many(2, 3, lambda: p.field("100%"))
        return div(p.check("", "checkbox") + fields + tool(p, size), "row")

    blank = "<th></th>" * (picked + (way == "link"))
    rows = fit(p, p.height * 0.55, p.style.size * 1.4 + p.style.gap + 5, row)
    table = f"<table><tr>{blank}{''.join(head() for _ in range(columns))}</tr>{rows}</table>"
    pages = p.many(2, 6, lambda: f"<button>{p.rng.randint(1, 40)}</button>")
    pages = p.rng.choice((pages, tools(p, 2, 4, size) + p.select("5em")))
    pages = div(div(p.number(), "muted small grow") + pages, "row pad")
    answer = pages + table if p.chance(0.3) else div(table, "grow scroll") + pages
    answer = (div(p.tabs(2, 4) + p.badge(), "row") if p.chance(0.5) else "") + answer
    run = f"<button class=main>▶ {p.label()}</button>"
    code = "\n".join(p.words(2, 9) for _ in range(12))
    text = '<div contenteditable="true" class="mono surface pad clip" style="white-space:pre;'
    text += f'flex:1 0 {p.rng.randint(80, 300)}px">{code}</div>'
    text = text if beside or p.chance(0.6) else div(p.area(p.rng.randint(4, 12)), "mono")
    if service:
        text = p.many(2, 16 if beside else 6, pair) if p.chance(0.7) else text
        text = div(p.select("7em") + p.field("100%") + run, "row") + div(p.tabs(3, 6)) + text
    files = div(p.tabs(2, 6, p.chance(0.5)), "row raised") if p.chance(0.6) else ""
    look = "width:40%" if beside else "flex:none"
    main = div(files + text, "col pad" if service else "col", look) + div(answer, "col grow clip")
    main = div(main, "row grow" if beside else "col grow", "align-items:stretch")
    panel = p.field("100%", "search") + fit(p, p.height - 40, high, node)
    wide = f"{run}{p.many(1, 4, p.button)}{p.icons(1, 4, size * 0.6)}{p.select()}"
    panel = panel if p.chance(0.85) else ""
    return frame(p, main, tools(p, 4, 9, size + 4), wide, panel, p.rng.randint(150, 320))
