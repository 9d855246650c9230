"""Families of working applications: tables, files, mail, editors. Each returns a page's body."""

from page_parts import Parts


def _frame(p: Parts, side: str, body: str, top: str = "", end: str = "") -> str:
    """Bars above and below, a list at a side, the work in the middle."""
    inside = (
        [f'<div class="side" style="width:{p.rng.randint(120, 300)}px">{side}</div>']
        if side
        else []
    )
    inside.append(f'<div class="grow col clip" style="gap:0">{body}</div>')
    if p.chance(0.15):
        inside.reverse()
    return (
        f'<div class="col full" style="gap:0">{top}<div class="row grow"'
        ' style="align-items:stretch;gap:0">'
        f"{''.join(inside)}</div>{end}</div>"
    )


def _status(p: Parts) -> str:
    return (
        f'<div class="bar small">{p.many(2, 6, lambda: f"<span>{p.words(1, 3)}</span>")}<span'
        f' class="grow"></span>{p.many(0, 3, lambda: f"<button class=bare>{p.words(1)}</button>")}'
        "</div>"
    )


def _tools(p: Parts, low: int = 5, high: int = 18) -> str:
    parts = [
        p.icon,
        p.icon,
        p.icon,
        p.icon,
        p.button,
        p.select,
        p.decoy,
        lambda: '<span class="line" style="border-left:1px solid;height:1.4em;opacity:.3"></span>',
    ]
    return f'<div class="bar wrap">{p.many(low, high, lambda: p.rng.choice(parts)())}</div>'


def settings(p: Parts) -> str:
    framed = p.chance(0.5)

    def group() -> str:
        rows = p.many(
            2,
            7,
            lambda: (
                f'<div class="row between" style="padding:{p.style.gap}px 0;border-bottom:1px solid'
                f' {p.style.border}"><div><div>{p.words(1, 5)}</div><div class="small'
                f' muted">{p.words(3, 12) if p.chance(0.4) else ""}</div></div>{p.control()}</div>'
            ),
        )
        return (
            f'<h3>{p.words(1, 3)}</h3><div class="{"card" if framed else ""}"'
            f' style="margin-bottom:20px">{rows}</div>'
        )

    body = (
        '<div class="pad scroll"'
        f' style="max-width:{p.rng.randint(480, 1100)}px">{p.many(2, 5, group)}<div'
        f' class="row">{p.many(1, 3, p.button)}</div></div>'
    )
    if p.chance(0.3):
        return _frame(p, "", f'<div class="row">{p.tabs(3, 7)}</div>{body}')
    return _frame(p, p.items(6, 16, p.rng.choice(("menuitem", "treeitem"))), body)


def data_table(p: Parts) -> str:
    columns, picked = p.rng.randint(3, 9), p.chance(0.6)
    kinds = [p.rng.choice(("text", "text", "number", "link", "badge")) for _ in range(columns)]
    makers = {"text": lambda: p.words(1, 3), "number": p.number, "link": p.link, "badge": p.badge}
    action = p.rng.choice(
        (
            lambda: p.icons(1, 4),
            lambda: f"<button>{p.label()}</button>",
            lambda: p.link(1),
            lambda: "",
        )
    )
    sortable = p.chance(0.5)
    head = "".join(
        (
            f"<th><button class=bare style=padding:0>{p.words(1)} ▾</button></th>"
            if sortable
            else f"<th>{p.words(1, 2)}</th>"
        )
        for _ in kinds
    )
    box = "<td><input type=checkbox></td>" if picked else ""
    rows = ""
    for index in range(p.rng.randint(6, 40)):
        tint = ' class="raised"' if index % 2 and p.style.gap > 4 else ""
        cells = "".join(f"<td>{makers[kind]()}</td>" for kind in kinds)
        rows += f"<tr{tint}>{box}{cells}<td><div class=row>{action()}</div></td></tr>"
    table = (
        "<table"
        f' class="surface"><tr>{"<th><input type=checkbox></th>" if picked else ""}{head}<th></th>'
        f"</tr>{rows}</table>"
    )
    top = (
        f'<div class="bar"><h2>{p.words(1, 3)}</h2><span'
        f' class="grow"></span>{p.field("200px", "search")}{p.select()}{p.many(1, 3, p.button)}'
        "</div>"
    )
    end = (
        f'<div class="bar">{p.words(2, 4)}<span'
        f' class="grow"></span>{p.many(3, 8, lambda: f"<button>{p.rng.randint(1, 30)}</button>")}'
        "</div>"
    )
    side = p.items(5, 12) if p.chance(0.4) else ""
    return _frame(p, side, f'{top}<div class="grow scroll pad">{table}</div>{end}')


def files(p: Parts) -> str:
    grid, size = p.chance(0.5), p.rng.choice((32, 48, 64, 96))

    def entry(on: bool) -> str:
        drawing = p.picture(size, size * 0.75) if p.chance(0.2) else p.glyph(size if grid else None)
        if grid:
            inside = (
                f'<div class="col" style="align-items:center;width:{size + 40}px">{drawing}<span'
                f' class="cut" style="max-width:100%">{p.file_name()}</span></div>'
            )
        else:
            drawing = p.glyph()
            inside = (
                f'{drawing}<span class="grow">{p.file_name()}</span><span class="muted"'
                f' style="width:8em">{p.number()}</span><span class="muted"'
                f' style="width:8em">{p.number()}</span>'
            )
        return p.item(inside, on, "option")

    chosen = p.rng.randrange(8)
    entries = "".join(entry(index == chosen) for index in range(p.rng.randint(6, 60)))
    path = p.many(1, 5, lambda: f"<button class=bare>{p.words(1)}</button>&rsaquo;")
    top = (
        (p.menu_bar() if p.chance(0.5) else "")
        + f'<div class="bar">{p.icons(2, 5)}<div class="row grow'
        f' field">{path}</div>{p.field("160px", "search")}{p.icons(1, 4)}</div>'
    )
    body = (
        f'<div class="row wrap pad scroll" style="align-items:flex-start">{entries}</div>'
        if grid
        else f'<div class="scroll">{entries}</div>'
    )
    return _frame(p, p.items(6, 14, "treeitem"), body, top, _status(p) if p.chance(0.6) else "")


def mail(p: Parts) -> str:
    starred, picked = p.chance(0.6), p.chance(0.5)

    def letter(on: bool) -> str:
        start = ("<input type=checkbox>" if picked else "") + (p.icon(14) if starred else "")
        text = (
            f'<b style="width:10em" class="cut">{p.words(1, 2)}</b><span class="grow'
            f' cut">{p.words(3, 7)} <span class="muted">{p.words(4, 9)}</span></span><span'
            f' class="small muted">{p.number()}</span>'
        )
        return p.item(start + text, on, "option")

    chosen = p.rng.randrange(9)
    letters = "".join(letter(index == chosen) for index in range(p.rng.randint(8, 30)))
    top = (
        f'<div class="bar">{p.icon()}<b>{p.words(1)}</b><div'
        f' class="grow">{p.field("60%", "search")}</div>{p.icons(1, 4)}{p.avatar()}</div>'
    )
    reading = (
        f'<div class="grow pad clip"><h2>{p.words(3, 7)}</h2><div class="row">{p.avatar()}<div'
        f' class="grow">{p.words(2)}<div class="small'
        f' muted">{p.words(2, 4)}</div></div>{p.icons(2, 4)}</div>{p.linked_text()}<p>'
        f"{p.paragraph()}</p><p>{p.paragraph()}</p><div"
        f' class="row">{p.many(2, 3, p.button)}</div></div>'
    )
    body = (
        f'{_tools(p, 4, 9)}<div class="grow row clip" style="align-items:stretch;gap:0"><div'
        ' class="scroll" style="flex:1 1'
        f' 40%">{letters}</div>{reading if p.chance(0.6) else ""}</div>'
    )
    return _frame(
        p, f'<div class="pad">{p.button(main=True)}</div>{p.items(5, 12, "treeitem")}', body, top
    )


def code_editor(p: Parts) -> str:
    def line(number: int) -> str:
        pieces = "".join(
            f'<span style="color:hsl({p.rng.randrange(360)} 60%'
            f' {70 if p.style.dark else 35}%)">{p.words(1, 2).lower()}</span>'
            f"{p.rng.choice((' = ', '(', ') ', ': ', '.', ' '))}"
            for _ in range(p.rng.randint(0, 7))
        )
        return (
            '<div style="white-space:pre"><span class="muted"'
            f' style="display:inline-block;width:3em">{number}</span>'
            f"{'    ' * p.rng.randint(0, 3)}{pieces}</div>"
        )

    tree = "".join(
        p.item(
            "<span"
            f' style="width:{p.rng.randint(0, 3) * 14}px"></span>{p.glyph(12)}<span>'
            f"{p.file_name()}</span>",
            index == 3,
            "treeitem",
        )
        for index in range(p.rng.randint(8, 30))
    )
    lines = "".join(line(number) for number in range(1, 60))
    body = (
        f'<div class="row raised" style="gap:0">{p.tabs(2, 6, closing=True)}<span'
        f' class="grow"></span>{p.icons(1, 4)}</div><div class="grow mono clip'
        f' surface">{lines}</div>'
    )
    if p.chance(0.5):
        body += (
            f'<div class="row raised">{p.tabs(2, 5)}<span'
            f' class="grow"></span>{p.icons(1, 3)}</div><div class="mono pad"'
            f' style="height:{p.rng.randint(80, 220)}px;overflow:hidden">'
            f"{p.many(3, 9, lambda: f'<div>{p.sentence()}</div>')}</div>"
        )
    strip = (
        f'<div class="col raised" style="padding:6px">{p.icons(4, 8, 22)}</div>'
        if p.chance(0.5)
        else ""
    )
    inside = _frame(p, tree, body, p.menu_bar() + (_tools(p) if p.chance(0.4) else ""), _status(p))
    return (
        f'<div class="row full" style="align-items:stretch;gap:0">{strip}<div'
        f' class="grow">{inside}</div></div>'
    )


def spreadsheet(p: Parts) -> str:
    wide, high = p.rng.randint(70, 180), p.rng.randint(20, 44)
    # A sheet that filled the screen would have more cells than all other pages have controls.
    columns = min(p.width // wide, p.rng.randint(4, 9))
    rows = min((p.height - 120) // high, p.rng.randint(8, 18))
    cell = (
        f"display:inline-block;width:{wide}px;height:{high}px;border:0 solid"
        f" {p.style.border};border-width:0 1px 1px 0;padding:2px"
        " 4px;overflow:hidden;white-space:nowrap;vertical-align:top"
    )
    heads = "".join(
        '<button class="bare raised"'
        f' style="{cell};border-radius:0;text-align:center">{chr(65 + index % 26)}</button>'
        for index in range(columns)
    )
    focus, lines = (p.rng.randrange(6), p.rng.randrange(4)), ""
    for row in range(rows):
        filled = p.chance(0.7)
        cells = "".join(
            '<div role="gridcell" contenteditable="true"'
            f' class="{"focused" if (row, column) == focus else ""}"'
            f' style="{cell}">'
            f"{(p.number() if column else p.words(1)) if filled and column < 7 else ''}</div>"
            for column in range(columns)
        )
        lines += (
            '<div style="white-space:nowrap"><button class="bare raised"'
            f' style="width:40px;height:{high}px;padding:0;border-radius:0">{row + 1}</button>'
            f"{cells}</div>"
        )
    formula = (
        f'<div class="bar">{p.select("80px")}{p.icons(1, 3)}<div'
        f' class="grow">{p.field("100%")}</div></div>'
    )
    top = p.menu_bar() + _tools(p, 8, 24) + formula
    heads = f'<div style="white-space:nowrap;padding-left:40px">{heads}</div>'
    chart = p.picture(p.rng.randint(200, 500), p.rng.randint(150, 300), "margin:20px")
    beside = p.rng.choice(
        (chart, "", f'<div class="pad">{p.many(3, 7, p.check)}{p.button()}</div>')
    )
    return (
        f'<div class="col full" style="gap:0">{top}<div class="row grow clip surface"'
        f' style="align-items:stretch"><div>{heads}{lines}</div>{beside}</div>'
        f'<div class="row raised">{p.tabs(1, 5)}{p.icon()}</div></div>'
    )


def calendar(p: Parts) -> str:
    week = "".join(
        f'<div class="muted small" style="flex:1;text-align:center">{p.words(1)[:3]}</div>'
        for _ in range(7)
    )

    def day(number: int) -> str:
        events = p.many(
            0,
            3,
            lambda: (
                '<div role="button" tabindex="0" class="cut small"'
                f' style="background:hsl({p.rng.randrange(360)} 50%'
                f" 45%);color:#fff;border-radius:{p.style.radius // 2}px;padding:1px"
                f' 4px;margin-top:2px;cursor:pointer">{p.words(1, 3)}</div>'
            ),
        )
        return (
            f'<div class="grow clip" style="border:1px solid {p.style.border};padding:3px"><button'
            f' class="bare small" style="padding:1px 5px">{number}</button>{events}</div>'
        )

    weeks = "".join(
        '<div class="row grow"'
        ' style="align-items:stretch;gap:0">'
        f"{''.join(day((7 * row + column) % 31 + 1) for column in range(7))}</div>"
        for row in range(5)
    )
    top = (
        f'<div class="bar">{p.icon()}{p.button()}{p.icons(2, 2)}<h2>{p.words(1)}'
        f" 20{p.rng.randint(10, 40)}</h2><span"
        f' class="grow"></span>{p.tabs(2, 4)}{p.button(main=True)}</div>'
    )
    small = "".join(
        f'<button class="bare small" style="width:14%;padding:2px 0">{number}</button>'
        for number in range(1, 31)
    )

    def listed() -> str:
        return f'<div class="pad" style="padding-block:2px">{p.check(kind="checkbox")}</div>'

    side = f'<div class="pad">{small}</div>{p.many(2, 6, listed)}' if p.chance(0.6) else ""
    return _frame(
        p,
        side,
        f'<div class="row">{week}</div><div class="col grow" style="gap:0">{weeks}</div>',
        top,
    )


def kanban(p: Parts) -> str:
    def note() -> str:
        foot = (
            f'<div class="row between">{p.many(0, 3, p.badge)}<span'
            f' class="grow"></span>{p.avatar(24) if p.chance(0.6) else ""}</div>'
        )
        cover = p.picture("100%", 60) if p.chance(0.15) else ""
        return (
            '<div class="card col" role="listitem" tabindex="0"'
            f' style="padding:10px;cursor:pointer">{cover}<span>{p.words(2, 8)}</span>{foot}</div>'
        )

    width = p.rng.randint(190, 300)
    columns = p.many(
        3,
        7,
        lambda: (
            '<div class="raised col pad"'
            f' style="width:{width}px;flex:none;border-radius:{p.style.radius}px"><div class="row'
            f' between"><b>{p.words(1, 2)}</b>{p.badge()}{p.icon()}</div>'
            f"{p.many(1, 7, note)}<button"
            f' class="bare">+ {p.label()}</button></div>'
        ),
    )
    top = (
        f'<div class="bar">{p.icon()}<h2>{p.words(1, 3)}</h2>{p.icons(1, 3)}<span'
        f' class="grow"></span>{p.avatar()}{p.avatar()}{p.field("150px", "search")}'
        f"{p.button(main=True)}</div>"
    )
    return _frame(
        p,
        p.items(4, 9) if p.chance(0.5) else "",
        f'<div class="row pad scroll grow" style="align-items:flex-start">{columns}</div>',
        top,
    )


def tree_panel(p: Parts) -> str:
    """A package manager or a settings editor: trees, lists and a sheet of properties."""

    def branch(depth: int) -> str:
        indent = f'<span style="width:{depth * 16}px"></span>'
        return p.item(
            f"{indent}{p.rng.choice('▸▾')} <span>{p.words(1, 2)}</span>", p.chance(0.05), "treeitem"
        )

    tree = "".join(branch(p.rng.randint(0, 3)) for _ in range(p.rng.randint(10, 40)))
    sheet = p.many(
        6,
        18,
        lambda: (
            '<div class="row" style="padding:2px 8px;border-bottom:1px solid'
            f' {p.style.border}"><span style="width:10em" class="cut">{p.words(1, 2)}</span><div'
            f' class="grow">{p.control()}</div></div>'
        ),
    )
    listed = p.many(
        3,
        12,
        lambda: p.item(
            f'{p.glyph(28)}<div class="grow clip"><b>{p.words(1, 2)}</b><div class="small muted'
            f' cut">{p.words(4, 9)}</div></div>{p.button() if p.chance(0.5) else p.decoy()}',
            role="listitem",
        ),
    )
    panes = [
        f'<div class="grow scroll">{listed}</div>',
        f'<div class="scroll surface" style="width:{p.rng.randint(240, 420)}px">{sheet}</div>',
    ]
    body = (
        f'{_tools(p, 3, 10)}<div class="row grow clip"'
        f' style="align-items:stretch">{"".join(panes)}</div>'
    )
    return _frame(p, tree, body, p.menu_bar(), _status(p))
