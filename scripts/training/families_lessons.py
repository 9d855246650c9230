"""Families of pages to learn or cook by: a course with its outline, a recipe with its helpers."""

from collections.abc import Callable

from families_lists import WHOLE, whole
from families_reading import listed, sheet
from families_tools import action, chips, quiet
from families_work import GROW, fit, segments, tool, tools
from page_parts import Parts, div

MARKS = ("check", "disc", "glyph", "number")
ANSWERS = ("radio", "card", "letter", "line")


def course(p: Parts) -> str:
    """A course: its chapters and lessons in an outline, a lesson to read, questions to answer."""
    s, pad, size = p.style, p.rng.randint(1, 12), p.rng.choice((14, 18, 22, 28))
    do, native, live = action(p), p.chance(0.3), p.chance(0.7)
    mark, ended = p.rng.choice(MARKS), p.rng.choice((p.number, str, p.badge))
    opening, ruled, chosen = p.rng.choice(WHOLE[:4]), p.rng.randint(0, 1), p.rng.randint(2, 9)
    answer, place = p.rng.choice(ANSWERS), p.rng.choice(("left", "right", "right", "top"))
    look, radius, at = p.rng.choice(("raised", "", "surface")), p.rng.choice((0, 4, 10, 99)), 0
    line = f"border-bottom:{ruled}px solid {s.border}"

    def lesson() -> str:
        nonlocal at
        at += 1
        done = p.chance(0.4)
        disc = f"width:{size}px;height:{size}px;flex:none;border-radius:50%;"
        disc += f"border:1px solid {s.muted};line-height:{size - 2}px;text-align:center;"
        disc += f"font-size:{size * 0.6:.0f}px"
        disc += f";background:{s.accent};color:{s.on_accent}" * done
        marks = {"check": f"<input type=checkbox{' checked' * done}>", "glyph": p.glyph(size)}
        start = marks.get(mark) or div("✓" if done else str(at) * (mark == "number"), "", disc)
        off = p.chance(0.1)
        name = p.words(2, 6) if live or off else p.link(2, 6)
        end = p.glyph(12) if off else f'<span class="small muted">{ended()}</span>'
        text, style = start + div(name, "grow cut") + end, f"padding:{pad}px {pad + 4}px;{line}"
        style += f";background:{s.raised};box-shadow:inset 3px 0 {s.accent}" * (at == chosen)
        style += ";opacity:.5" * off
        opened = WHOLE[1 if opening == WHOLE[1] else 2] if mark == "check" else opening
        return whole(p, text, "row", style, opened) if live and not off else div(text, "row", style)

    def chapter() -> str:
        title = f'<b class="grow cut">{p.words(2, 5)}</b>'
        part = f'<span class="small muted">{p.rng.randint(0, 9)}/{p.rng.randint(9, 12)}</span>'
        style = f"padding:{pad + 2}px {pad + 6}px"
        body = p.many(2, 7, lesson) if p.chance(0.6) else ""
        if native:
            head = f'<summary class="{look}" style="{style}">{title} {part}</summary>'
            return f"<details open>{head}{body}</details>"
        head = f"<span>{'▾' if body else '▸'}</span>{title}{part}"
        return whole(p, head, f"row {look}", style, WHOLE[0]) + body

    def choice(index: int, on: bool) -> str:
        text, letter = p.words(2, 10), "ABCDEF"[index]
        if answer == "radio":
            return p.check(text, "radio")
        if answer == "letter":
            shape = f"width:{size + 10}px;height:{size + 10}px;padding:0;border-radius:{radius}px"
            name = "main" if on else "bare raised"
            return div(f'<button class="{name}" style="{shape}">{letter}</button>{text}', "row")
        edge = f"border:1px solid {s.accent if on else s.border};border-radius:{min(radius, 12)}px"
        style = f"padding:{pad + 2}px 10px;{edge if answer == 'card' else line}"
        inside = ("◉" if on else "○") if native else letter
        inside += f" <span>{text}</span>"
        return whole(p, inside, "row", style, WHOLE[0] if answer == "card" else WHOLE[2])

    def question() -> str:
        count = p.rng.randint(2, 6)
        marked, shape = p.rng.randrange(count), "display:grid;grid:auto-flow/1fr 1fr"
        found = "".join(choice(index, index == marked) for index in range(count))
        found = div(found, "col", shape if p.chance(0.3) else "")
        ends = div(p.many(1, 3, do) + GROW + p.many(1, 2, p.button), "row")
        image = p.picture("50%", 140) if p.chance(0.2) else ""
        asked = f"<b>{p.rng.randint(1, 20)}. {p.words(5, 14)}?</b>"
        return div(asked + image + found + ends, "card col")

    def numbers() -> str:
        side, count = p.rng.choice((18, 22, 26, 32, 40)), p.rng.randint(8, 30)
        buttons, shape = "", f"width:{side}px;height:{side}px;padding:0;line-height:1;"
        shape += (
            f"font-size:{side * 0.5:.0f}px;border-radius:{radius}px;border:1px solid {s.border}"
        )
        for index in range(count):
            chosen = f";background:{s.accent};color:{s.on_accent}"
            look = shape + p.rng.choice(("", "", chosen, f";background:{s.raised}"))
            buttons += f'<button class="bare" style="{look}">{index + 1}</button>'
        return div(buttons, "row wrap", "gap:3px")

    def spoken() -> str:
        def line() -> str:
            time = f"{p.rng.randint(0, 40)}:{p.rng.randint(10, 59)}"
            said = f"<span>{p.words(6, 18)}</span>"
            if live:
                said = f'<span class="muted small">{time}</span>{said}'
                return whole(p, said, "row", f"padding:{pad // 2}px 4px", opening)
            return div(f'<a href="#" class="small">{time}</a>{said}', "row")

        return div(p.many(5, 14, line), "col", "gap:2px")

    def prose() -> str:
        image = p.picture(f"{p.rng.randint(40, 100)}%", p.rng.randint(120, int(p.height * 0.5)))
        text = p.linked_text(0.1) + f"<h3>{p.words(2, 5)}</h3><p>{p.paragraph()}</p>"
        note = div(f"{p.glyph()} {p.sentence()}", "raised pad")
        return div("".join(p.rng.sample((image, text, note), p.rng.randint(1, 3))))

    def material() -> str:
        def row() -> str:
            text = p.glyph() + div(p.file_name(), "grow cut") + div(p.number(), "small muted")
            if native:
                return div(text + do(), "row")
            return whole(p, text, "row", f"padding:{pad // 2}px 6px", opening)

        return div(p.many(2, 6, row), p.rng.choice(("card", "")))

    def talk() -> str:
        said = div(p.link(1, 2) + f"<p>{p.sentence()}</p>" + div(p.many(1, 3, do), "row"), "grow")
        return div(p.avatar(28) + said, "row", "align-items:flex-start")

    share = f"linear-gradient(90deg,{s.accent} {p.rng.randint(5, 95)}%,{s.raised} 0)"
    share += f";height:{p.rng.choice((3, 6, 12))}px;border-radius:99px;min-width:90px;flex:1"
    share = div("", "", f"background:{share}")
    makers = (question, question, numbers, spoken, prose, prose, material, talk)
    parts = fit(p, p.height * 1.1, 210, lambda: p.rng.choice(makers)())
    move = div(p.button() + share * native + p.button(main=True), "row between")
    crumbs = div(" / ".join(p.link(1, 3) for _ in range(2)) + GROW + p.many(1, 3, do), "row")
    head = crumbs * p.chance(0.6) + f"<h2>{p.words(2, 6)}</h2>"
    head += div(p.tabs(2, 5), "row") * p.chance(0.5)
    wide = f"max-width:{p.rng.choice((620, 800, 1000, 2000))}px;gap:{pad + 8}px"
    wide += f";margin:0 {p.rng.choice(('auto', '0'))}"
    main = div(head + parts + move, "col", wide)
    count = div(share + p.number(), "row pad") + p.field("100%", "search") * p.chance(0.3)
    outline = count + fit(p, p.height * 0.9, 40 + 4 * (2 * pad + s.size * 1.4), chapter)
    ends = p.many(1, 3, p.icon) + p.avatar(28)
    bar = f'{p.icon()}<b class="cut">{p.words(2, 4)}</b>{GROW}'
    bar = div(bar + div(share, "row", "width:140px") + do() + ends, "bar")
    main = div(main, "grow scroll pad")
    if place == "top" or p.width < 800:
        wide = f"margin:10px auto;width:{p.rng.randint(50, 96)}%"
        return bar + div(outline, p.rng.choice(("card", "")), wide) + main
    wide = f"width:{p.rng.randint(220, 420)}px;flex:none;border:{ruled}px solid {s.border}"
    both = [main, div(outline, p.rng.choice(("scroll surface", "scroll")), wide)]
    both = both if place == "right" else both[::-1]
    body = div("".join(both), "row grow", "align-items:stretch;gap:0")
    return div(bar * p.chance(0.85) + body, "col full", "gap:0")


def recipe(p: Parts) -> str:
    """A recipe or a diary's page: a large picture, lists to tick, steps, remarks, small helpers."""
    s, size, pad = p.style, p.rng.choice((16, 20, 24, 30)), p.rng.randint(0, 10)
    do, marks, native = action(p), chips(p), p.chance(0.4)
    tick, columns = p.rng.choice(("check", "check", "plain", "whole")), p.rng.randint(1, 3)
    framed, opening = p.rng.choice(("card", "raised pad", "", "")), p.rng.choice(WHOLE)
    shade = p.rng.randint(100, int(p.height * 0.6))
    numbered, named = p.rng.choice(("disc", "plain", "large")), p.rng.choice((p.link, p.link, None))
    line = f"padding:{pad / 2}px 0;border-bottom:{p.rng.randint(0, 1)}px solid {s.border}"

    def title(low: int, high: int) -> str:
        return named(low, high) if named else quiet(p, low, high)

    def ingredient() -> str:
        linked = tick != "whole" and p.chance(0.2)
        text = f"<b>{p.rng.randint(1, 900)} g</b> {p.link() if linked else p.words(1, 4)}"
        if tick == "check":
            return div(p.check(text, "checkbox"), "", line)
        if tick == "whole":
            return whole(p, f"{p.glyph(14)} <span>{text}</span>", "row", line, WHOLE[2])
        return div(f"• {text}", "", line)

    def ingredients() -> str:
        value = f"<b>{p.rng.randint(1, 12)}</b>"
        serve = tool(p, size, "") + value + tool(p, size, "") if native else p.select()
        units = segments(p, 2, 3, size + 6, True) if p.chance(0.6) else p.many(1, 2, do)
        lines = div(p.many(6, 14, ingredient), "", f"columns:{columns}")
        return div(div(f"<h3>{p.words(1)}</h3>{GROW}{serve}{units}", "row wrap") + lines, framed)

    def steps() -> str:
        text, side = "", p.rng.choice((20, 28, 36))
        look = f"flex:none;font-size:{side}px;color:{s.muted}" if numbered == "large" else ""
        if numbered == "disc":
            look = f"flex:none;width:{side}px;height:{side}px;line-height:{side}px;color:#fff;"
            look += f"border-radius:50%;text-align:center;background:hsl({side * 9} 45% 40%)"
        for index in range(p.rng.randint(3, 7)):
            words = p.linked_text(0.06) if p.chance(0.4) else f"<p>{p.paragraph(1, 3)}</p>"
            words += div(do(), "") if native and p.chance(0.4) else ""
            image = p.picture(120, 80) if p.chance(0.2) else ""
            words = div(str(index + 1), "", look) + div(words, "grow") + image
            text += div(words, "row", "align-items:flex-start;gap:12px")
        return div(f"<h3>{p.words(1, 2)}</h3>{text}", "col")

    def facts() -> str:
        def fact() -> str:
            return div(f"{p.glyph()} <b>{p.number()}</b>{div(p.words(1), 'small muted')}", "grow")

        return div(p.many(3, 6, fact), "row wrap card")

    def table() -> str:
        row = p.many(3, 8, lambda: f"<tr><td>{p.words(1, 2)}</td><td>{p.number()}</td></tr>")
        return f"<table>{row}</table>"

    def remark() -> str:
        head = f'<b>{title(1, 2)}</b> <span class="small muted">{p.number()}</span> '
        head += "★" * p.rng.randint(0, 5)
        body = div(head + f"<p>{p.paragraph(1, 2)}</p>" + div(p.many(1, 3, do), "row"), "grow")
        inset = f"align-items:flex-start;margin-left:{p.rng.choice((0, 0, 40))}px;{line}"
        return div((p.avatar(32) if native else "") + body, "row", inset)

    def remarks() -> str:
        write = p.area(3) + div(p.field() + p.field("", "email") + p.button(main=True), "row wrap")
        return f"<h3>{p.words(1)} ({p.rng.randint(2, 90)})</h3>{p.many(2, 5, remark)}{write}"

    def teasers() -> str:
        tall = p.rng.randint(60, 160)

        def card() -> str:
            text = p.picture("100%", tall) + f"<b>{p.words(2, 6) if native else title(2, 6)}</b>"
            text += div(p.number(), "small muted")
            return whole(p, text, "col", "", opening) if native else div(text, "col")

        grid = f"repeat(auto-fill,minmax({p.rng.randint(120, 260)}px,1fr));gap:12px"
        return div(p.many(3, 8, card), "", f"display:grid;grid-template-columns:{grid}")

    def cloud() -> str:
        words = ""
        for _ in range(22):
            words += f'<a href="#" style="font-size:{p.rng.randint(10, 24)}px">{p.words(1)}</a> '
        return f"<b>{p.words(1)}</b><div>{words}</div>"

    def letter() -> str:
        ask = p.field("100%", "email") + p.button(main=True)
        return f"<b>{p.words(2, 4)}</b><p>{p.sentence()}</p>{ask}"

    def author() -> str:
        text = f'<b>{title(1, 2)}</b><span class="small">{p.sentence()}</span>'
        text = p.avatar(72) + text + div(tools(p, 3, 6, size), "row wrap")
        return div(text, "col", "align-items:center;text-align:center")

    def month() -> str:
        days = ""
        for n in range(1, 31):
            days += f'<a href="#">{n}</a>' if p.chance(0.3) else f"<span>{n}</span>"
        week = "display:grid;grid-template-columns:repeat(7,1fr);justify-items:center"
        return div(days, "small", week) + div(p.link(1, 1))

    def advert() -> str:
        image = p.picture("100%", p.rng.choice((90, 250, 400)))
        return image + div(p.words(1, 2) + (tool(p, 16) if native else ""), "row small muted")

    def older() -> str:
        def one() -> str:
            return div(f"{title(1, 2)} ({p.rng.randint(1, 40)})")

        return p.select("100%") if native else p.many(3, 9, one)

    shares = p.many(3, 7, lambda: tool(p, size, p.rng.choice(("bare", "raised"))))
    jumps = div(p.button(main=True) + p.many(1, 3, do) + GROW + shares, "row wrap")
    by = f'{p.avatar(28)}<span>{title(1, 2)}</span><span class="muted small">{p.number()}</span>'
    head = [f"<h1>{p.words(3, 8)}</h1>", div(by + p.link(1, 2), "row wrap"), jumps]
    head += [p.picture("100%", shade), f"<p>{p.paragraph(1, 3)}</p>"]
    head = p.rng.sample(head, p.rng.randint(2, 5))
    crumbs = div(p.rng.choice((" &rsaquo; ", " / ")).join(p.link(1, 2) for _ in range(3)), "small")
    body = [ingredients(), steps()]
    if p.width > 1300 and p.chance(0.4):
        columned = "".join(div(part, "", "flex:1;min-width:0") for part in body)
        body = [div(columned, "row", "align-items:flex-start;gap:20px")]
    body += [p.linked_text(0.15), p.linked_text(0.06), p.picture("100%", shade // 2)]
    body += [facts(), table(), marks(3, 8)]
    body = p.rng.sample(body, p.rng.randint(3, 6))
    body += p.rng.sample((remarks(), teasers()), p.rng.randint(1, 2))
    pages = div(f"&lsaquo; {p.link(2, 4)}{GROW}{p.link(2, 4)} &rsaquo;", "row")
    pages = p.rng.choice((pages, div(p.many(3, 8, do), "row"), ""))
    several: list[Callable[[], str]] = [lambda: listed(p, 4, 8), lambda: listed(p, 4, 8)]
    several += [lambda: p.field("100%", "search"), lambda: div(shares, "row wrap")]
    widgets = [cloud, letter, author, month, advert, older, *several]
    widgets = p.rng.sample(widgets, p.rng.randint(3, 7)) if p.chance(0.75) else []
    main = crumbs * p.chance(0.5) + "".join(head) + "".join(body) + pages
    return sheet(p, main, "".join(div(make(), framed) for make in widgets), 170, 320)
