"""Families of pages as found on the web. Each function returns the body of one page."""

from page_parts import Parts


def _header(p: Parts) -> str:
    links = p.many(2, 7, lambda: p.link(1, 2))
    search = p.field(f"{p.rng.randint(120, 420)}px", "search") if p.chance(0.6) else ""
    right = p.icons(0, 3) + (p.avatar() if p.chance(0.4) else p.button())
    brand = f"<b style='font-size:1.3em'>{p.glyph()} {p.words(1)}</b>"
    space = "<span class='grow'></span>"
    return (
        "<div"
        f' class="bar">{brand}{space if p.chance(0.3) else ""}{links}{space}{search}{right}</div>'
    )


def login(p: Parts) -> str:
    labelled = p.chance(0.6)
    fields = ""
    for kind in p.rng.choice(
        (("text", "password"), ("email", "password"), ("text", "text", "email"))
    ):
        fields += (f"<span class='small'>{p.words(1, 2)}</span>" if labelled else "") + p.field(
            "100%", kind
        )
    others = p.many(0, 3, p.button)
    form = (
        f'<div class="card col" style="width:{p.rng.randint(260, 460)}px">'
        f"{p.avatar() if p.chance(0.5) else ''}<h2>{p.words(1, 3)}</h2>"
        f'<p class="muted">{p.sentence() if p.chance(0.5) else ""}</p>{fields}'
        f'<div class="row between">{p.check()}{p.link()}</div>{p.button(main=True)}'
        f'<div class="row wrap">{others}</div><p class="small">{p.words(2)} {p.link()}</p></div>'
    )
    place = p.rng.choice(("center", "flex-start", "flex-end"))
    if p.chance(0.4):
        side = f'<div class="grow full clip">{p.picture("100%", "100%")}</div>'
        return f'<div class="row full">{side}<div class="pad">{form}</div></div>'
    back = (
        p.picture("100%", "100%", "position:absolute;inset:0;z-index:-1") if p.chance(0.3) else ""
    )
    return (
        f'{back}<div class="col full">{_header(p) if p.chance(0.4) else ""}'
        f'<div class="row grow pad" style="justify-content:{place}">{form}</div>'
        f'<div class="row pad small muted">{p.words(2, 4)} {p.many(0, 5, p.link)}</div></div>'
    )


def article(p: Parts) -> str:
    parts = []
    for _ in range(p.rng.randint(4, 14)):
        parts.append(
            p.rng.choice(
                (
                    lambda: f"<h2>{p.words(2, 5)}</h2>",
                    p.linked_text,
                    p.linked_text,
                    lambda: f"<p>{p.paragraph()}</p>",
                    lambda: "<ul>" + p.many(2, 5, lambda: f"<li>{p.link(1, 6)}</li>") + "</ul>",
                    lambda: (
                        p.picture("100%", p.rng.randint(80, 320))
                        + f"<p class='small muted'>{p.sentence()}</p>"
                    ),
                    lambda: f'<div class="card mono small">{p.sentence()}<br>{p.sentence()}</div>',
                    lambda: f'<div class="row">{p.many(1, 4, p.badge)}</div>',
                )
            )()
        )
    width = p.rng.randint(460, 980)
    text = (
        f'<div style="width:{width}px;max-width:100%"'
        f' class="pad"><h1>{p.words(3, 7)}</h1>{"".join(parts)}</div>'
    )
    aside = ""
    if p.chance(0.5):
        rows = p.many(4, 14, lambda: f"<div>{p.link(1, 4)}</div>")
        aside = f'<div class="col pad card" style="width:{p.rng.randint(140, 260)}px">{rows}</div>'
    order = (aside, text) if p.chance(0.5) else (text, aside)
    middle = "justify-content:center;" if p.chance(0.6) else ""
    return (
        f'{_header(p)}<div class="row"'
        f' style="{middle}align-items:flex-start">{"".join(order)}</div>'
    )


def shop(p: Parts) -> str:
    width, wide = p.rng.randint(150, 300), p.chance(0.25)
    wishes, buttons, tagged = p.chance(0.5), p.chance(0.7), p.chance(0.4)

    def product() -> str:
        image = p.picture(90 if wide else "100%", 90 if wide else p.rng.choice((90, 120, 180)))
        title = f'<a href="#">{p.words(2, 6)}</a>'
        price = f"<b>{p.rng.uniform(1, 900):.2f} €</b>"
        row = price + (p.icon() if wishes else "") + (p.button() if buttons else "")
        tag = p.badge() if tagged else ""
        body = (
            f'<div class="col grow">{title}<span class="muted'
            f' small">{p.words(2, 8)}</span>{tag}</div>'
        )
        shape = "row" if wide else "col"
        size = "100%" if wide else f"{width}px"
        return (
            f'<div class="card {shape}" style="width:{size}">{image}{body}<div class="row'
            f' wrap">{row}</div></div>'
        )

    filters = ""
    for _ in range(p.rng.randint(2, 5)):
        filters += f"<b>{p.words(1)}</b>" + p.many(2, 6, lambda: p.check(kind="checkbox"))
    tools = (
        f'<div class="row wrap pad">{p.words(1, 3)}{p.select()}{p.select()}{p.icons(0, 2)}</div>'
    )
    side = (
        '<div class="side col pad"'
        f' style="width:{p.rng.randint(150, 240)}px">{filters}{p.slider()}</div>'
    )
    grid = f'<div class="row wrap pad" style="align-items:stretch">{p.many(8, 30, product)}</div>'
    return (
        f'<div class="col full" style="gap:0">{_header(p)}<div class="row grow"'
        f' style="align-items:stretch;gap:0">{side if p.chance(0.7) else ""}<div class="grow'
        f' scroll">{tools}{grid}</div></div></div>'
    )


def dashboard(p: Parts) -> str:
    def chart() -> str:
        bars = "".join(
            f'<rect x="{index * 12}" y="{100 - height}" width="9" height="{height}" '
            f'fill="{p.style.accent}"/>'
            for index, height in enumerate(p.rng.choices(range(5, 100), k=p.rng.randint(8, 30)))
        )
        line = " ".join(f"{x * 20},{p.rng.randint(5, 95)}" for x in range(15))
        drawn = (
            bars
            if p.chance(0.5)
            else f'<polyline points="{line}" fill="none" stroke="{p.style.link}" stroke-width="2"/>'
        )
        return (
            f'<svg width="100%" height="{p.rng.randint(70, 200)}" viewBox="0 0 300 100"'
            f' preserveAspectRatio="none">{drawn}</svg>'
        )

    def card() -> str:
        body = p.rng.choice(
            (
                chart,
                lambda: f"<h1>{p.number()}</h1><span class='muted'>{p.words(1, 4)}</span>",
                lambda: p.many(
                    2, 6, lambda: f'<div class="row between line">{p.link()}{p.number()}</div>'
                ),
                lambda: p.many(
                    2,
                    5,
                    lambda: (
                        f'<div class="row">{p.check()}<span class="grow"></span>{p.icon()}</div>'
                    ),
                ),
                lambda: f'<div class="row">{p.many(2, 5, p.decoy)}</div><p>{p.sentence()}</p>',
            )
        )()
        tools = p.rng.choice(("", p.icon(), p.select(), p.button(), p.link()))
        return (
            f'<div class="card col" style="flex:1 1 {p.rng.randint(180, 420)}px">'
            f'<div class="row between"><b>{p.words(1, 3)}</b>{tools}</div>{body}</div>'
        )

    side = f'<div class="side" style="width:{p.rng.randint(140, 260)}px">{p.items(5, 14)}</div>'
    body = f'<div class="row wrap pad" style="align-items:stretch">{p.many(5, 14, card)}</div>'
    tabs = f'<div class="row">{p.tabs(2, 6)}</div>' if p.chance(0.4) else ""
    return (
        f'<div class="col full" style="gap:0">{_header(p)}<div class="row grow"'
        f' style="align-items:stretch;gap:0">{side if p.chance(0.7) else ""}<div class="grow'
        f' scroll">{tabs}{body}</div></div></div>'
    )


def long_form(p: Parts) -> str:
    columns, beside = p.rng.randint(1, 3), p.chance(0.4)

    def entry() -> str:
        control = p.rng.choice(
            (
                lambda: p.field("100%"),
                lambda: p.field("100%", p.rng.choice(("number", "date", "email"))),
                lambda: p.select("100%"),
                lambda: p.area(3),
                lambda: p.check() + p.check(),
            )
        )()
        mark = ' <b style="color:#d33">*</b>' if p.chance(0.3) else ""
        shape = "row" if beside else "col"
        return (
            f'<div class="{shape}" style="gap:4px"><span'
            f' style="min-width:7em">{p.words(1, 3)}{mark}</span><div'
            f' class="grow">{control}</div></div>'
        )

    grid = f"display:grid;grid-template-columns:repeat({columns},1fr);gap:{p.style.gap + 8}px"
    groups = ""
    for _ in range(p.rng.randint(1, 4)):
        groups += (
            f'<div class="card"><h3>{p.words(1, 4)}</h3><div'
            f' style="{grid}">{p.many(3, 9, entry)}</div></div>'
        )
    end = f'<div class="row">{p.many(1, 3, p.button)}{p.decoy()}</div>'
    width = p.rng.randint(420, 1100)
    return (
        f'{_header(p)}<div class="col pad"'
        f' style="max-width:{width}px;margin:auto"><h1>{p.words(2, 4)}</h1>{groups}{end}</div>'
    )


def forum(p: Parts) -> str:
    def post() -> str:
        votes = (
            '<div class="col"'
            f' style="align-items:center;gap:0">{p.icon()}{p.rng.randint(0, 99)}{p.icon()}</div>'
        )
        tags = p.many(0, 3, lambda: f'<a href="#" class="badge">{p.words(1)}</a>')
        under = p.many(1, 4, lambda: f'<button class="bare small">{p.label()}</button>')
        return (
            f'<div class="card row" style="align-items:flex-start">{votes}<div class="grow"><div'
            f' class="row small muted">{p.avatar(24)}<a href="#">{p.words(1)}</a>{p.number()}'
            f' {p.badge()}</div><h3>{p.link(3, 8)}</h3>{p.linked_text(0.06)}<div class="row'
            f' wrap">{tags}{under}</div></div></div>'
        )

    side = (
        '<div class="col card"'
        f' style="width:{p.rng.randint(180, 300)}px">{p.button()}{p.paragraph()}'
        f"{p.many(2, 8, lambda: f'<div>{p.link(1, 4)}</div>')}</div>"
    )
    pages = (
        f'<div class="row">{p.many(3, 8, lambda: f"<button>{p.rng.randint(1, 40)}</button>")}</div>'
    )
    return (
        f'{_header(p)}<div class="row pad" style="align-items:flex-start"><div class="col'
        f' grow">{p.many(3, 9, post)}{pages}</div>{side if p.chance(0.6) else ""}</div>'
    )


def chat(p: Parts) -> str:
    def person(on: bool) -> str:
        text = (
            f'<div class="grow clip"><b>{p.words(1, 2)}</b><div class="small muted'
            f' cut">{p.words(3, 8)}</div></div>'
        )
        return p.item(p.avatar() + text + (p.badge() if p.chance(0.3) else ""), on, "listitem")

    def message() -> str:
        mine = p.chance(0.4)
        text = p.linked_text(0.05) if p.chance(0.2) else p.words(2, 20)
        extra = p.icons(1, 3, 12) if p.chance(0.15) else ""
        look = "main" if mine else "raised"
        return (
            '<div class="row"'
            f' style="{"flex-direction:row-reverse" if mine else ""}">{p.avatar(32)}<div'
            f' class="{look} pad"'
            f' style="border-radius:{p.style.radius}px;max-width:60%">{text}</div>{extra}</div>'
        )

    chosen = p.rng.randrange(5)
    people = "".join(person(index == chosen) for index in range(p.rng.randint(5, 16)))
    write = (
        f'<div class="bar">{p.icons(1, 3)}<div'
        f' class="grow">{p.field("100%")}</div>{p.icons(0, 2)}{p.button()}</div>'
    )
    top = f'<div class="bar">{p.avatar(32)}<b class="grow">{p.words(1, 2)}</b>{p.icons(1, 4)}</div>'
    return (
        '<div class="row full" style="align-items:stretch;gap:0"><div class="side"'
        f' style="width:{p.rng.randint(180, 340)}px"><div'
        f' class="pad">{p.field("100%", "search")}</div>{people}</div><div class="col'
        f' grow">{top}<div class="col grow clip'
        f' pad">{p.many(5, 18, message)}</div>{write}</div></div>'
    )


def search_results(p: Parts) -> str:
    def result() -> str:
        return (
            f'<div style="max-width:640px"><div class="small muted">{p.words(1).lower()}.org'
            f' &rsaquo; {p.words(1)} {p.icon(11) if p.chance(0.4) else ""}</div><a href="#"'
            f' style="font-size:1.3em">{p.words(3, 9)}</a><p>{p.paragraph(1, 2)}</p><div class="row'
            f' small">{p.many(0, 4, p.link)}</div></div>'
        )

    panel = (
        '<div class="card col"'
        f' style="width:{p.rng.randint(240, 380)}px">{p.picture("100%", 140)}<h2>'
        f"{p.words(1, 3)}</h2>{p.linked_text()}{p.button()}</div>"
    )
    top = (
        '<div class="bar"><b'
        f' style="font-size:1.6em">{p.words(1)}</b>'
        f"{p.field(f'{p.rng.randint(240, 600)}px', 'search')}{p.icon()}<span"
        f' class="grow"></span>{p.icons(0, 3)}{p.button()}</div>'
    )
    pages = (
        f'<div class="row">{p.many(3, 10, lambda: f"<a href=#>{p.rng.randint(1, 20)}</a>")}</div>'
    )
    return (
        f'{top}<div class="row">{p.tabs(3, 7)}</div><div class="row pad"'
        ' style="align-items:flex-start;gap:40px">'
        '<div class="col"'
        f' style="gap:{p.style.gap + 12}px">{p.many(4, 10, result)}{pages}</div>'
        f"{panel if p.chance(0.6) else ''}</div>"
    )


def wizard(p: Parts) -> str:
    def tile() -> str:
        return f"<button style=padding:24px>{p.glyph(32)}<br>{p.words(1)}</button>"

    steps = "".join(
        '<div class="row"><span'
        f' class="badge{" hot" if index == 1 else ""}">{index + 1}</span>{p.words(1, 2)}</div>'
        for index in range(p.rng.randint(3, 6))
    )
    body = p.rng.choice(
        (
            lambda: p.many(2, 5, lambda: p.check(kind="radio")) + p.sentence(),
            lambda: p.many(2, 4, lambda: f"<span>{p.words(1, 2)}</span>{p.field('100%')}"),
            lambda: f'<div class="row wrap">{p.many(3, 8, tile)}</div>',
            lambda: f"<p>{p.paragraph()}</p>{p.select('60%')}{p.check()}",
        )
    )()
    upright = p.chance(0.5)
    trail = (
        f'<div class="{"col raised pad" if upright else "row bar"}" style="gap:16px">{steps}</div>'
    )
    end = (
        '<div class="row bar" style="justify-content:flex-end"><button'
        f" disabled>{p.label()}</button><span"
        f' class="grow"></span>{p.button(main=False)}{p.button(main=True)}</div>'
    )
    width, height = p.rng.randint(480, 900), p.rng.randint(340, 600)
    return (
        '<div class="row full" style="justify-content:center"><div class="card col"'
        f' style="padding:0;width:{width}px;height:{height}px;max-height:100%"><div'
        f' class="{"row" if upright else "col"} grow" style="align-items:stretch">{trail}<div'
        ' class="col pad grow'
        f' clip"><h2>{p.words(2, 4)}</h2>{body}{p.decoy()}</div></div>{end}</div></div>'
    )
