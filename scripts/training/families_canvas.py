"""Families of things laid out on a plane: drawings of nodes and lines, panels of switches."""

from families_lists import WHOLE, whole
from families_tools import action
from families_work import GROW, entry, fit, fold, frame, segments, tool, tools
from page_parts import Parts, div

EDGES = ("left", "right", "top", "bottom")


def node_graph(p: Parts) -> str:
    """Nodes and lines on a canvas: a flow chart, a family, a pipeline, what depends on what."""
    s, kind = p.style, p.rng.choice(("card", "person", "shape", "pill", "ports"))
    sizes = {"person": (90, 190, 40, 80), "pill": (60, 150, 18, 34), "shape": (60, 140, 36, 90)}
    low, high, *flat = sizes.get(kind, (130, 230, 60, 110))
    wide, tall = p.rng.randint(low, high), p.rng.randint(*flat)
    down, bend, share = p.chance(0.5), p.rng.choice("|CL"), p.rng.uniform(0.4, 0.8)
    spread, size = (p.rng.randint(24, 90), p.rng.randint(16, 70)), p.rng.choice((14, 18, 22))
    live, tooled, plus = p.chance(0.7), p.chance(0.4), p.chance(0.3)
    opening = p.rng.choice(WHOLE[1:3] if tooled else WHOLE[:4])
    radius, hue = p.rng.choice((0, 4, 12, 99)), p.rng.randrange(360)
    shapes = (
        f"border-radius:{radius}px",
        "clip-path:polygon(50% 0,100% 50%,50% 100%,0 50%)",
        "border-radius:50%",
    )
    filled, knob = kind == "shape" or p.chance(0.5), p.rng.choice((9, 11, 14, 18))
    edge = f"border:{p.rng.randint(1, 2)}px solid {p.rng.choice((s.border, s.muted, s.accent))}"

    def port(side: str) -> str:
        look = f"position:absolute;{side}:-{knob // 2}px;width:{knob}px;height:{knob}px;padding:0;"
        look += f"border-radius:50%;background:hsl({p.rng.randrange(360)} 60% 50%)"
        return f'<button class="bare" style="{look}"></button>'

    def ports() -> str:
        rows, style = "", f"position:relative;padding:0 {knob}px;height:{knob + 9}px;gap:4px"
        for _ in range(max(1, (tall - 26) // (knob + 9))):
            value = entry(p.number(), f"width:50%;height:{knob + 6}px;padding:0 3px;font-size:10px")
            text = div(p.words(1), "small cut grow") + (value if p.chance(0.4) else "")
            rows += div(port(p.rng.choice(("left", "right"))) + text, "row", style)
        return rows

    def node(left: float, top: float) -> str:
        chosen, ending = p.chance(0.04), tool(p, size) if tooled and p.chance(0.8) else ""
        place = f"position:absolute;left:{left:.0f}px;top:{top:.0f}px;width:{wide}px;"
        tint = f"hsl({(hue + p.rng.choice((0, 40, 90))) % 360} 45% {28 if s.dark else 80}%)"
        back = f"background:{tint if filled else s.surface};{edge};"
        back += f"outline:2px solid {s.accent};outline-offset:2px;" * chosen
        clicked = live
        if kind == "ports":
            head = div(p.words(1, 2), "grow cut") + ending
            css = f"padding:2px 6px;background:{tint}"
            head = whole(p, head, "row", css, opening) if live else div(head, "row", css)
            body, look, clicked = head + ports(), "padding:0;border-radius:6px", False
        elif kind == "person":
            name = p.words(1, 2) if live else p.link(1, 2)
            body = div(name, "cut") + div(f"{p.rng.randint(1800, 1999)} -", "small muted")
            body = div(p.avatar(min(40, tall - 14)) + div(body, "grow clip") + ending, "row")
            look = f"padding:4px 6px;height:{tall}px;border-radius:{s.radius}px;"
            look += "justify-content:center"
        elif kind == "card":
            title = f"<b>{p.words(1, 2)}</b>" if live else p.link(1, 2)
            body = div(p.glyph(14) + div(title, "cut grow") + ending, "row")
            body += div(p.words(2, 6), "small muted cut") + (p.badge() if p.chance(0.3) else "")
            look = f"padding:6px;min-height:{tall}px;border-radius:{s.radius}px;gap:3px"
        else:
            body = div(p.words(1, 2), "cut", "max-width:88%") if live else p.link(1, 1)
            look = f"height:{tall}px;align-items:center;justify-content:center;text-align:center;"
            look += p.rng.choice(shapes) if kind == "shape" else f"border-radius:{radius}px"
            look += f";font-size:{min(s.size, tall * 0.55):.0f}px;padding:2px 4px"
        look = place + back + look
        return whole(p, body, "col", look, opening) if clicked else div(body, "col", look)

    steps = (wide + spread[0], tall + spread[1])
    room = ((p.width, steps[0]), (p.height, steps[1]))
    columns, rows = (max(2, int(n * 0.85 / step)) for n, step in room)
    nodes, lines, before, over = "", "", [], ""
    outer, inner = (rows, columns) if down else (columns, rows)
    for level in range(min(outer, p.rng.randint(3, 12))):
        here = []
        for place in range(min(inner, p.rng.randint(2, 14))):
            if not p.chance(share):
                continue
            column, row = (place, level) if down else (level, place)
            left = 30 + column * steps[0] + p.rng.uniform(0, 0.4) * spread[0]
            top = 30 + row * steps[1] + p.rng.uniform(0, 0.4) * spread[1]
            nodes += node(left, top)
            here.append((left, top))
            for x, y in p.rng.sample(before, min(len(before), p.rng.choice((1, 1, 2)))):
                x, y = (x + wide / 2, y + tall) if down else (x + wide, y + tall / 2)
                a, b = (left + wide / 2, top) if down else (left, top + tall / 2)
                mid = (x, (y + b) / 2, a, (y + b) / 2) if down else ((x + a) / 2, y, (x + a) / 2, b)
                way = bend + " ".join(f"{n:.0f}" for n in mid) if bend != "|" else ""
                lines += f"M{x:.0f} {y:.0f}{way}{' ' if bend == 'C' else 'L'}{a:.0f} {b:.0f}"
                if plus and p.chance(0.4):
                    at = f"position:absolute;left:{(x + a) / 2 - size / 2:.0f}px;"
                    at += f"top:{(y + b) / 2 - size / 2:.0f}px;border-radius:50%"
                    over += tool(p, size, p.rng.choice(("main", "")), at)
        before = here or before
    dash = p.rng.choice(("", "", 'stroke-dasharray="6 4"'))
    drawn = f'fill="none" stroke="{p.rng.choice((s.muted, s.border, s.accent))}" {dash}'
    drawn += f' stroke-width="{p.rng.randint(1, 3)}"'
    lines = f'<path d="{lines}" {drawn}/>'
    lines = f'<svg style="position:absolute;inset:0;width:100%;height:100%">{lines}</svg>'
    zoom = div(tools(p, 2, 5, size + p.rng.randint(2, 14)), p.rng.choice(("row", "col")), "gap:2px")
    corners = [f"{x}:8px;{y}:8px;padding:4px;z-index:4" for x in EDGES[:2] for y in EDGES[2:]]
    legend = p.many(2, 5, lambda: div(p.glyph(12) + p.words(1, 2), "row small"))
    floats = (zoom, p.picture(p.rng.randint(100, 220), p.rng.randint(70, 140)), legend)
    for corner, inside in zip(p.rng.sample(corners, 3), floats, strict=True):
        over += div(inside, "float", corner) if p.chance(0.6) else ""
    ruled = f"{s.border} 1px,#0000 1px) 0 0/{p.rng.randint(12, 30)}px {p.rng.randint(12, 30)}px"
    ruled = (f"radial-gradient({ruled}", f"linear-gradient({ruled},linear-gradient(90deg,{ruled}")
    ground = p.rng.choice(("", *ruled))
    canvas = div(lines + nodes + over, "grow clip", f"position:relative;background:{ground}")

    def stencil() -> str:
        return whole(p, p.glyph(size + 6) + div(p.words(1), "small cut"), *cell)

    def labelled() -> str:
        control = p.rng.choice((p.field, p.select, lambda width: p.area(2, width)))("100%")
        return div(div(p.words(1, 2), "small muted") + control)

    upright = "align-items:center;padding:4px;gap:2px;min-width:0"
    flat_cell = ("row", f"padding:{size // 5}px 8px", WHOLE[2])
    cell = p.rng.choice((flat_cell, ("col card", upright, WHOLE[0])))
    shelf = f"display:grid;grid-template-columns:repeat({p.rng.randint(2, 4)},1fr);gap:4px"
    shelf = shelf if "col" in cell[0] else ""

    def drawer() -> str:
        return fold(p, div(p.many(3, 12, stencil), "pad", shelf), 4, "", filled)

    groups = p.many(1, 4, drawer)
    facts = f"<h3>{p.words(1, 2)}</h3>{p.many(3, 7, labelled)}{p.many(1, 3, p.check)}{p.button()}"
    panel = p.rng.choice((groups, groups, div(facts, "pad col"), ""))
    below = div(p.tabs(2, 5, p.chance(0.5)) + tool(p, size), "row") if p.chance(0.3) else ""
    bar = p.many(2, 5, action(p)) + segments(p, 2, 5, size + 8, p.chance(0.3)) + GROW
    bar += tools(p, 2, 6, size + 8) + p.many(0, 2, p.button)
    palette = tools(p, 5, 12, size + 12)
    return frame(p, canvas + below, palette, bar, panel, p.rng.randint(140, 280))


def control_panel(p: Parts) -> str:
    """Switches of a phone or a computer: tiles, sliders, networks, what has been notified."""
    s, kind = p.style, p.rng.choice(("square", "pill", "round", "split", "bare"))
    size, gap = p.rng.choice((32, 40, 48, 60)), p.rng.randint(3, 12)
    radius, ruled, flat = p.rng.choice((0, 6, 14, 24)), p.rng.randint(0, 1), p.chance(0.4)
    live, closing, native = p.chance(0.6), p.rng.choice(("head", "corner", "none")), p.chance(0.5)
    do, opening = action(p), p.rng.choice(WHOLE[1:3])
    height, pad = p.rng.choice((20, 24, 28, 36, 44)), p.rng.randint(2, 12)
    fat, columns = p.chance(0.5), p.rng.randint(2, 4)

    def tile() -> str:
        on = p.chance(0.4)
        back = f"background:{s.accent if on else s.raised};color:{s.on_accent if on else s.text};"
        back += f"border:{ruled}px solid {s.border};border-radius:{radius}px;"
        name, state = div(p.words(1, 2), "cut"), div(p.words(1), "small cut", "opacity:.7")
        middle = "align-items:center;gap:3px;min-width:0"
        if kind == "round":
            drawn = tool(p, size, "", f"{back}border-radius:50%")
            return div(drawn + div(name, "small", "max-width:100%"), "col", middle)
        if kind == "bare":
            inside = div(p.glyph(size * 0.6) + div(name, "small"), "col", middle)
            return f'<button class="bare" style="min-width:0;padding:{pad}px 2px">{inside}</button>'
        if kind == "split":
            rest = f"{back}padding:{pad}px 8px;flex:1;min-width:0;border-radius:"
            rest += f"{radius}px 0 0 {radius}px"
            main = whole(p, p.glyph(18) + name, "row", rest, WHOLE[0])
            back += f"border-radius:0 {radius}px {radius}px 0;margin-left:1px;padding:0 7px"
            main += f'<button class="bare" style="{back}">&rsaquo;</button>'
            return div(main, "row", "gap:0;align-items:stretch;min-width:0")
        shape = "row" if kind == "pill" else "col"
        text = p.glyph(size * 0.5) + div(name + (state if flat else ""), "clip", "min-width:0")
        return whole(p, text, shape, f"{back}padding:{pad + 4}px;gap:{pad}px;min-width:0", WHOLE[0])

    def tiles() -> str:
        count = min(columns, 3)
        if kind in ("round", "bare"):
            count = min(columns + 2, 240 // (size + gap))
        look = f"display:grid;grid-template-columns:repeat({count},minmax(0,1fr));gap:{gap}px"
        return div("".join(tile() for _ in range(count * p.rng.randint(1, 4))), "", look)

    def slide() -> str:
        end, part = tool(p, height) if p.chance(0.5) else p.glyph(16), p.rng.randint(10, 95)
        if fat:
            style = f"background:linear-gradient(90deg,{s.accent} {part}%,{s.raised} 0);"
            style += f"padding:0 8px;height:{height}px;border-radius:{radius}px"
            fat_one = '<div role="slider" tabindex="0"'
            return whole(p, p.glyph(height * 0.5), "row", style, fat_one)
        track = div(p.slider("100%"), "grow", "line-height:0")
        return div(end + track + (tool(p, height) if flat else p.number()), "row")

    def notice() -> str:
        shut = tool(p, p.rng.choice((16, 20, 24))) if closing == "head" else ""
        head = p.glyph(14) + div(p.words(1, 2), "small muted cut grow")
        head = div(head + div(p.number(), "small muted") + shut, "row")
        text = f"<b>{p.words(2, 5)}</b>{div(p.words(4, 16), 'small')}"
        text = div(text, "grow") + (p.picture(44, 44) if p.chance(0.25) else "")
        text = head + div((p.avatar(32) if native else "") + text, "row")
        if p.chance(0.12):
            back = f"linear-gradient(90deg,{s.accent} {p.rng.randint(5, 90)}%,{s.border} 0)"
            text += div("", "", f"height:4px;background:{back}")
        text += div(p.many(1, 3, do), "row wrap") if p.chance(0.4) else ""
        text += div(p.field("100%") + tool(p, 26), "row") if p.chance(0.06) else ""
        look = f"padding:{pad + 3}px;gap:4px;position:relative;border-radius:{radius}px"
        look += f";border-bottom:1px solid {s.border}" if flat else f";background:{s.raised}"
        if closing == "corner" and p.chance(0.6):
            text += tool(p, 18, "", "position:absolute;right:-5px;top:-5px;border-radius:50%")
        return whole(p, text, "col", look, opening)

    def net() -> str:
        below = div(p.words(1), "small muted") if native else ""
        text = p.glyph(18) + div(p.words(1, 2) + below, "grow cut")
        text += p.rng.choice((p.glyph(12), "", "", tool(p, 22) if not live else ""))
        look = f"padding:{pad}px 8px;border-radius:{radius // 2}px"
        look += f";background:{s.raised}" if p.chance(0.12) else ""
        if live or native:
            return whole(p, text, "row", look, opening)
        return div(text + do(), "row", look)

    def month() -> str:
        side = f"height:{p.rng.choice((18, 22, 28))}px;padding:0;text-align:center"
        side += f";background:{s.raised}" if native else ""
        way = "button class=bare" if native else "div"
        days = "".join(f'<{way} style="{side}">{n % 31 + 1}</{way.split()[0]}>' for n in range(35))
        days = div(days, "small", "display:grid;grid-template-columns:repeat(7,1fr);gap:1px")
        return div(p.words(1) + div(tools(p, 2, 2, 20), "row"), "row between") + days

    def switch() -> str:
        return div(p.check(kind="switch"))

    def heading() -> str:
        return div(f"<b>{p.words(1, 2)}</b>{GROW}{p.many(0, 2, do)}", "row")

    def section() -> str:
        kinds = (tiles, tiles, lambda: p.many(1, 3, slide), month, lambda: p.many(3, 8, net))
        kinds += (lambda: p.many(2, 5, switch),)
        body = p.rng.choice(kinds)()
        body = div(body, "col", f"gap:{2 if flat else gap}px")
        return (heading() if p.chance(0.4) else "") + body

    def column(room: float, notified: bool) -> str:
        rows = notice if notified else net
        found = p.rng.sample((tiles, lambda: p.many(1, 3, slide), lambda: p.many(3, 8, rows)), 3)
        parts = "".join(div(make(), "col", f"gap:{gap}px") for make in found[: p.rng.randint(1, 3)])
        parts += fit(p, room - 300, 260, section) if room > 800 or p.chance(0.4) else ""
        ends = div(p.avatar(26) + div(p.number(), "small muted grow") + tools(p, 2, 5, 26), "row")
        clock = f"<h1>{p.rng.randint(1, 23)}:{p.rng.randint(10, 59)}</h1>"
        head = p.rng.choice((heading(), clock, ""))
        return head + parts + (ends if p.chance(0.6) else "")

    back = "position:absolute;inset:0;z-index:-1"
    prose = div(p.many(5, 9, lambda: f"<p>{p.paragraph()}</p>"), "muted pad", back)
    photo = p.picture("100%", "100%", back)
    back = p.rng.choice((photo, photo, prose, ""))
    signs = tools(p, 3, 7, 20) if p.chance(0.5) else p.many(3, 6, lambda: p.glyph(14))
    status = f"<b>{p.number()}</b>{GROW}{signs}"
    status = div(status, "row raised", "height:26px;padding:0 8px;flex:none")
    count = p.rng.choice((1, 1, 2, min(4, p.width // 330), min(4, p.width // 330)))
    across = p.rng.choice(("flex-end", "flex-end", "center", "flex-start", "space-between"))
    stretch, parts = p.rng.choice(("stretch", "flex-start", "flex-end")), ""
    chosen = p.rng.randrange(count)
    for index in range(count):
        width = p.rng.randint(280, 440) if count < 3 else p.width // count - 30
        name = f"col {p.rng.choice(('surface', 'surface', 'card'))} clip"
        look = f"width:{width}px;max-height:100%;flex:none;gap:{gap + 2}px;padding:{pad + 8}px"
        look += f";border-radius:{radius}px;box-shadow:{s.shadow}"
        parts += div(column(p.height, index == chosen), name, look)
    away = f"justify-content:{across};align-items:{stretch};padding:{p.rng.choice((0, 8, 20))}px"
    body = div(parts, "row grow clip", f"{away};gap:{p.rng.choice((0, 8, 20))}px")
    pieces = [status, body] if p.chance(0.6) else [body, status]
    pieces = pieces if p.chance(0.8) else [body]
    return back + div("".join(pieces), "col full", "gap:0;position:relative")
