"""Families of programs that things are made in: sound and pictures in time, drawings, models."""

from families_lists import WHOLE, whole
from families_work import GROW, entry, fit, fold, frame, segments, tool, tools
from page_parts import Parts, div


def timeline(p: Parts) -> str:
    """A planner or a cutter of sound and pictures: bars in rows under a scale, names beside."""
    high, size = p.rng.choice((18, 22, 28, 36, 48, 72)), p.rng.choice((16, 20, 26, 32))
    gap, wide, unit = p.rng.randint(0, 6), p.rng.choice((0.6, 1, 2)), p.rng.randint(40, 110)
    tracks, full, inner, knobs, live = (p.chance(share) for share in (0.4, 0.4, 0.6, 0.5, 0.5))
    opening, side, hue = p.rng.choice(WHOLE[:4]), p.rng.randint(110, 280), p.rng.randrange(360)
    line = f"{p.rng.randint(0, 1)}px solid {p.style.border}"

    def bar(left: float, width: float) -> str:
        wave = "repeating-linear-gradient(90deg,#0004 0 2px,#0000 2px 5px)," if full else ""
        text = p.picture(high, high - 4) if tracks and not full and p.chance(0.5) else ""
        text += p.words(1, 3) if inner else ""
        style = f"position:absolute;left:{left:.0f}px;width:{width:.0f}px;top:2px;bottom:2px;"
        style += f"background:{wave}hsl({(hue + p.rng.randrange(120)) % 360} 45% 40%);color:#fff;"
        style += f"padding:0 4px;font-size:{min(p.style.size, high * 0.6):.0f}px;gap:3px;"
        style += f"white-space:nowrap;border-radius:{p.style.radius}px"
        off = p.chance(0.06)
        return (
            div(text, "row clip", f"{style};opacity:.4")
            if off
            else whole(p, text, "row clip", style, opening)
        )

    def row() -> str:
        left, bars = p.rng.uniform(0, p.width * 0.3), ""
        while left < p.width - side and p.chance(0.9 if tracks else 0.6):
            width = max(14, p.rng.uniform(0.3, 4) * unit * wide)
            bars += bar(left, width)
            left += width + p.rng.choice((1, 4, unit, unit * 2))
        if not tracks and p.chance(0.2):
            look = f"position:absolute;left:{left:.0f}px;top:25%;rotate:45deg;width:{high // 2}px"
            bars += div("", "", f"{look};height:{high // 2}px;background:{p.style.accent}")
        name = div(p.words(1, 3), "grow cut") + (tools(p, 2, 2, min(size, high)) if knobs else "")
        style = f"flex:none;width:{side}px;height:{high}px;padding:0 6px"
        name = whole(p, name, "row", style, WHOLE[2]) if live else div(name, "row", style)
        lane = f"position:relative;height:{high}px;background-size:{unit}px 100%;"
        lane += f"background-image:linear-gradient(90deg,{p.style.border} 1px,#0000 1px)"
        edge = f"gap:0;margin-bottom:{gap}px;border-bottom:{line}"
        return div(name + div(bars, "grow clip", lane), "row", edge)

    times = [f"{n // 6}:{n % 6}0" if tracks else str(n + 1) for n in range(60)]
    scale = "".join(div(time, "small muted", f"flex:none;width:{unit}px") for time in times)
    scale = div(div(p.words(1), "", f"flex:none;width:{side}px") + scale, "row clip", "gap:0")
    above = p.rng.uniform(0.25, 0.4) if p.chance(0.35) else 0
    rows = fit(p, p.height * (0.85 - above), high + gap, row)
    look = f"position:absolute;top:0;bottom:0;left:{p.rng.randint(side, p.width)}px;width:2px;"
    rows += div("", "", f"{look}background:{p.style.accent};pointer-events:none")
    shots = p.many(9, 24, lambda: whole(p, p.picture(90, 50), "", "", opening))
    top = p.picture("45%", "100%") + div(shots, "row wrap grow")
    top = div(top, "row clip", f"height:{above * 100:.0f}%;flex:none") if above else ""
    main = top + scale + div(rows, "", "position:relative;flex:none")
    zoom = tool(p, size, "") + p.slider(f"{p.rng.randint(70, 200)}px") + tool(p, size, "")
    strip, views = tools(p, 5, 12, size), segments(p, 2, 5, size + 4, p.chance(0.6))
    ends = p.rng.sample([strip, views, zoom, GROW, p.button()], 5)
    panel = p.many(4, 10, lambda: div(div(p.words(1, 2), "small muted") + p.control()))
    panel = div(f"<h3>{p.words(2)}</h3>{panel}", "pad col") if p.chance(0.3) else ""
    return frame(p, main, strip, "".join(ends), panel, p.rng.randint(160, 280))


def inspector(p: Parts) -> str:
    """Panels of a drawing or modelling program: number fields, swatches, icons, layers."""
    high, pad, native = p.rng.choice((18, 20, 24, 30)), p.rng.randint(1, 7), p.chance(0.4)
    swatch, cell = p.rng.choice((14, 18, 24, 36)), p.rng.choice((18, 24, 32, 48))
    layer, thumbs, eyes = p.rng.choice((18, 22, 28, 38)), p.chance(0.5), p.chance(0.6)
    look, where = p.rng.choice(("raised", "", "surface")), p.rng.choice(("left", "in", "above"))
    knob, width = p.rng.choice(("0", "50%", "3px")), p.rng.randint(190, 320)
    flat = f"width:100%;height:{high}px;padding:0 4px;font-size:{min(13, high - 6)}px"

    def numbers() -> str:
        line = div(p.words(1), "small cut", "width:4em;flex:none") if where == "left" else ""
        for name in p.rng.choice(("XYZ", "WH", "XY", "RGBA", "↔↕∠")):
            field = entry(f"{p.rng.uniform(-99, 999):.{p.rng.randint(0, 2)}f}", flat)
            line += div(
                div(name, "small muted") + field, "grow" if where == "above" else "row grow"
            )
        return div(line + (tool(p, high) if p.chance(0.4) else ""), "row", "gap:4px")

    def well(side: int) -> str:
        fill = f"hsl({p.rng.randrange(360)} {p.rng.randint(10, 90)}% {p.rng.randint(20, 80)}%)"
        style = f"padding:0;flex:none;width:{side}px;height:{side}px;border-radius:{knob}"
        return f'<button style="{style};background:{fill}"></button>'

    def row() -> str:
        text = (tool(p, min(layer, 22)) if eyes else "") + p.glyph(layer * 0.6)
        text += p.picture(layer, layer - 6) if thumbs else ""
        text += div(p.words(1, 3), "grow cut") + (p.glyph(12) if p.chance(0.2) else "")
        style = f"height:{layer}px;padding:0 4px 0 {p.rng.choice((4, 4, 18))}px"
        style += f";line-height:1.1;font-size:{min(p.style.size, layer * 0.7):.0f}px"
        return whole(p, text, p.rng.choice(("row",) * 9 + ("row main",)), style, WHOLE[2])

    def colour() -> str:
        field = entry(f"#{p.rng.randrange(16**6):06X}", flat)
        return div(well(high) + field + tool(p, high), "row")

    def slid() -> str:
        text = div(p.words(1), "small cut grow") + p.slider("45%")
        return div(text + entry(str(p.rng.randint(0, 99)), "width:4em"), "row")

    lines = (
        *(numbers, numbers, numbers, colour, slid, p.check),
        lambda: div(p.many(5, 20, lambda: well(swatch)), "row wrap", "gap:3px"),
        lambda: segments(p, 3, 6, high, False),
        lambda: div(tools(p, 4, 14, cell), "row wrap", "gap:2px"),
        lambda: div(div(p.words(1), "small") + p.select("60%"), "row between"),
    )

    def section() -> str:
        body = p.rng.choice((row, None, None, slid))
        inside = p.picture("100%", p.rng.randint(50, 120)) if body is slid else ""
        inside += p.many(3, 14, row) if body is row else p.many(2, 6, lambda: p.rng.choice(lines)())
        inside = div(inside, "col", f"padding:{pad + 3}px;gap:{pad + 2}px") if p.chance(0.8) else ""
        return fold(p, inside, pad, look, native)

    def column() -> str:
        tabs = div(p.tabs(2, 4), "row clip") if p.chance(0.4) else ""
        return tabs + fit(p, p.height * 1.3, 140, section)

    place = f"position:absolute;left:{p.rng.randint(5, 30)}%;top:{p.rng.randint(5, 30)}%"
    board = div(p.picture(p.rng.randint(150, 500), p.rng.randint(120, 400)), "", place)
    board += div(p.words(2), "badge", "position:absolute;left:8px;top:8px")
    grid = f"repeating-linear-gradient({high * 5}deg,#0000 0 29px,#8884 29px 30px)"
    board = div(board, "grow clip", f"position:relative;background:{grid}")
    count = p.rng.randint(1, 3) if p.chance(0.7) else min(5, p.width // width)
    stretch = p.rng.randint(0, 1) if count < 4 else 1
    style = f"flex:{stretch} 0 {width}px;border-right:1px solid {p.style.border}"
    more = "".join(div(column(), "clip surface", style) for _ in range(count))
    main = div((board if count < 4 else "") + more, "row grow clip", "align-items:stretch;gap:0")
    strip, panel = tools(p, 6, 14, cell), column() if p.chance(0.6) else ""
    wide = strip + segments(p, 3, 6, high, False) + p.select("6em") + p.button()
    return frame(p, main, strip, wide, panel, width)
