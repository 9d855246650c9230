"""Families of desktops and of what opens over a page. Each function returns a page's body."""

import families_office as office
import families_web as web
from page_parts import Parts

# What may lie under a menu or a dialog, or inside a window. Training families only.
UNDER = (
    web.article,
    web.dashboard,
    office.settings,
    office.files,
    office.code_editor,
    office.data_table,
)


def _under(p: Parts) -> str:
    return p.rng.choice(UNDER)(p)


def menu_open(p: Parts) -> str:
    """A menu bar with one menu open over the work, at times with its submenu."""
    left, top = p.rng.randint(0, p.width // 2), p.style.size * 1.4 + p.style.gap + 4
    menus = p.menu(left, top)
    if p.chance(0.4):
        menus += p.menu(left + p.rng.randint(230, 270), top + p.rng.randint(10, 160), 3, 8)
    return (
        f'<div class="col full" style="gap:0">{p.menu_bar(5, 10)}<div class="grow clip"'
        f' style="position:relative">{_under(p)}</div></div>{menus}'
    )


def context_menu(p: Parts) -> str:
    left = p.rng.randint(10, max(11, p.width - 280))
    top = p.rng.randint(10, max(11, int(p.height * 0.6)))
    return f'<div class="full clip">{_under(p)}</div>{p.menu(left, top, 4, 14)}'


def dialog(p: Parts) -> str:
    return f'<div class="full clip">{_under(p)}</div>{p.dialog()}'


def drawing(p: Parts) -> str:
    size = p.rng.choice((14, 18, 22, 28))
    tools = (
        '<div class="raised"'
        f' style="padding:4px;width:{(size + 22) * p.rng.randint(1, 2) + 10}px">'
        f"{p.icons(8, 24, size)}</div>"
    )
    colours = "".join(
        f'<button class="bare" style="background:hsl({p.rng.randrange(360)}'
        f" {p.rng.randint(0, 100)}%"
        f' {p.rng.randint(10, 90)}%);width:20px;height:20px;padding:0;margin:1px"></button>'
        for _ in range(p.rng.randint(10, 32))
    )
    shapes = "".join(
        f'<ellipse cx="{p.rng.randint(0, 800)}" cy="{p.rng.randint(0, 600)}"'
        f' rx="{p.rng.randint(10, 200)}" ry="{p.rng.randint(10, 140)}"'
        f' fill="hsl({p.rng.randrange(360)} 60% 60%)" opacity=".7"/>'
        for _ in range(p.rng.randint(2, 12))
    )
    canvas = (
        '<div class="grow row clip" style="background:#777;justify-content:center"><svg'
        ' width="80%" height="85%" viewBox="0 0 800 600"'
        f' style="background:#fff">{shapes}</svg></div>'
    )
    layers = p.many(
        2,
        8,
        lambda: p.item(
            f"{p.icon(14)}{p.picture(30, 22)}<span>{p.words(1, 2)}</span>", role="listitem"
        ),
    )
    sliders = p.many(
        2,
        5,
        lambda: (
            '<div class="row"><span style="width:6em"'
            f' class="cut">{p.words(1)}</span>{p.slider("90px")}{p.field("4em")}</div>'
        ),
    )
    panel = (
        f'<div class="col raised pad scroll" style="width:{p.rng.randint(220, 320)}px"><div'
        f' class="row">{p.tabs(2, 3)}</div>{sliders}<div>{colours}</div>{layers}<div'
        f' class="row">{p.icons(2, 5)}</div></div>'
    )
    options = (
        "<div"
        f' class="bar">{p.icons(2, 8)}{p.select()}{p.slider()}{p.field("4em")}{p.check()}'
        f"{p.icons(1, 5)}</div>"
    )
    middle = [tools, canvas, panel] if p.chance(0.7) else [panel, canvas, tools]
    return (
        f'<div class="col full" style="gap:0">{p.menu_bar(5, 10)}{options}<div class="row grow'
        f' clip" style="align-items:stretch;gap:0">{"".join(middle)}</div></div>'
    )


def browser_window(p: Parts) -> str:
    tabs = (
        f'<div class="row raised">{p.tabs(1, 9, closing=True)}{p.icon()}<span'
        f' class="grow"></span>{p.icons(3, 3, 14)}</div>'
    )
    address = (
        f'<div class="bar">{p.icons(2, 4)}<div class="row grow">{p.icon(14)}<input'
        f' value="{p.words(1).lower()}.org/{p.words(1).lower()}"'
        f' class="grow">{p.icon(14)}</div>{p.icons(2, 5)}</div>'
    )
    marks = (
        '<div class="bar'
        ' small">'
        f"{p.many(3, 10, lambda: f'<button class=bare>{p.glyph(13)} {p.words(1, 2)}</button>')}"
        "</div>"
        if p.chance(0.5)
        else ""
    )
    page = p.rng.choice((web.article, web.shop, web.forum, web.login, web.dashboard))(p)
    return (
        f'<div class="col full" style="gap:0">{tabs}{address}{marks}<div class="grow'
        f' scroll">{page}</div></div>'
    )


def _console(p: Parts, lines: int) -> str:
    text = ""
    for _ in range(lines):
        start = (
            f'<span style="color:hsl({p.rng.randrange(360)} 70%'
            f' 60%)">{p.words(1).lower()}@host:~$</span> '
            if p.chance(0.2)
            else ""
        )
        text += f"<div class='cut'>{start}{p.words(1, 12).lower()} {p.number()}</div>"
    return (
        '<div class="mono clip grow"'
        f' style="background:{p.rng.choice(("#000", "#1b1d2a", "#fdf6e3", "#300a24"))};color:'
        f'{p.rng.choice(("#8c8", "#99a"))};padding:6px">{text}▮</div>'
    )


def terminal(p: Parts) -> str:
    top = (
        f'<div class="bar">{p.icons(0, 2)}<span class="grow"'
        f' style="text-align:center">{p.words(1, 3)}</span>{p.icons(3, 3, 12)}</div>'
    )
    bars = (p.menu_bar() if p.chance(0.5) else "") + (
        f'<div class="row raised">{p.tabs(2, 6, closing=True)}{p.icon()}</div>'
        if p.chance(0.6)
        else ""
    )
    panes = "".join(_console(p, p.rng.randint(10, 60)) for _ in range(p.rng.randint(1, 3)))
    return (
        f'<div class="col full" style="gap:0">{top}{bars}<div class="{p.rng.choice(("row", "col"))}'
        f' grow clip" style="align-items:stretch;gap:2px">{panes}</div></div>'
    )


def media_player(p: Parts) -> str:
    line = (
        '<div class="row grow"><span'
        f' class="small">{p.rng.randint(0, 9)}:{p.rng.randint(10, 59)}</span><input type="range"'
        f' value="{p.rng.randint(0, 100)}" class="grow"><span class="small">9:59</span></div>'
    )
    keys = (
        '<div class="row"'
        f' style="justify-content:center">{p.icons(2, 3, 20)}{p.icon(34)}{p.icons(2, 3, 20)}</div>'
    )
    foot = (
        f'<div class="bar">{p.picture(48, 48)}<div>{p.words(1, 3)}<div class="small'
        f' muted">{p.link(1, 2)}</div></div><div'
        f' class="grow">{keys}{line}</div>{p.icons(2, 5)}{p.slider("90px")}</div>'
    )
    size = p.rng.randint(110, 200)
    if p.chance(0.4):
        songs = "".join(
            p.item(
                f'<span class="muted">{index}</span><span class="grow cut">{p.words(1, 5)}</span><a'
                f' href="#">{p.words(1, 2)}</a><span>{index % 7}:{index + 10}</span>{p.icon(14)}',
                index == 4,
                "option",
            )
            for index in range(1, p.rng.randint(8, 30))
        )
        body = (
            '<div class="row'
            f' pad">{p.picture(150, 150)}<div><h1>{p.words(1, 3)}</h1>{p.words(3, 8)}<div'
            f' class="row">{p.many(1, 3, p.button)}{p.icons(1, 3)}</div></div></div>{songs}'
        )
    elif p.chance(0.5):
        album = p.many(
            6,
            24,
            lambda: (
                '<a href="#"'
                f' style="width:{size}px;color:inherit;display:block">'
                f"{p.picture(size, size, f'border-radius:{p.style.radius}px')}<b>"
                f"{p.words(1, 3)}</b></a>"
            ),
        )
        body = (
            f'<div class="bar">{p.tabs(2, 5)}</div><div class="row wrap pad"'
            f' style="gap:16px">{album}</div>'
        )
    else:
        body = p.picture("100%", "100%")
    side = f'<div class="side" style="width:200px">{p.items(5, 14)}</div>' if p.chance(0.6) else ""
    return (
        '<div class="col full" style="gap:0"><div class="row grow clip"'
        f' style="align-items:stretch;gap:0">{side}<div class="grow'
        f' scroll">{body}</div></div>{foot}</div>'
    )


def desktop(p: Parts) -> str:
    """Windows over each other on a wallpaper, with a panel and shortcuts."""
    wallpaper = p.picture("100%", "100%", "position:absolute;inset:0")
    shortcuts = "".join(
        '<div role="option" tabindex="0" class="col"'
        f' style="position:absolute;left:14px;top:{40 + 92 * index}px;width:76px;'
        "align-items:center;color:#fff;gap:2px;cursor:pointer;text-shadow:0"
        f' 0 3px #000">{p.glyph(40)}<span class="small">{p.words(1)}</span></div>'
        for index in range(p.rng.randint(0, 7))
    )
    windows = ""

    def key() -> str:
        return f"<button>{p.rng.choice('0123456789+-=/')}</button>"

    inside = (
        lambda: _console(p, 30),
        lambda: f'<div class="pad">{p.many(2, 8, p.check)}{p.many(1, 3, p.button)}</div>',
        lambda: (
            p.menu_bar() + '<div class="row wrap'
            ' pad">'
            f"{p.many(4, 20, lambda: p.item(f'{p.glyph(36)}<br>{p.file_name()}', role='option'))}"
            "</div>"
        ),
        lambda: p.menu_bar() + p.area(18),
        lambda: f'<div class="pad">{p.many(2, 6, p.linked_text)}</div>',
        lambda: (
            '<div class="pad"'
            ' style="display:grid;grid-template-columns:repeat(4,1fr);gap:6px">'
            f"{p.field('100%')}{p.many(12, 20, key)}</div>"
        ),
    )
    for _ in range(p.rng.randint(2, 5)):
        width, height = (
            p.rng.randint(300, max(320, p.width * 2 // 3)),
            p.rng.randint(200, max(220, p.height * 2 // 3)),
        )
        left, top = (
            p.rng.randint(60, max(61, p.width - width + 60)),
            p.rng.randint(30, max(31, p.height - height)),
        )
        keys = p.icons(3, 3, 13)
        title = f'<span class="grow" style="text-align:center">{p.words(1, 4)}</span>'
        bar = keys + title if p.chance(0.3) else title + keys
        windows += (
            '<div class="float col clip"'
            f' style="left:{left}px;top:{top}px;width:{width}px;height:{height}px;gap:0"><div'
            f' class="bar">{bar}</div><div class="grow clip col"'
            f' style="gap:0">{p.rng.choice(inside)()}</div></div>'
        )
    tasks = p.many(2, 6, lambda: f'<button class="bare">{p.glyph(16)} {p.words(1, 2)}</button>')
    edge = p.rng.choice(("top:0", "bottom:0"))
    panel = (
        '<div class="bar"'
        f' style="position:absolute;left:0;right:0;{edge};z-index:40">'
        f"{p.button()}{p.icons(1, 6, 20)}{tasks}<span"
        f' class="grow"></span>{p.icons(2, 5, 15)}<span>'
        f"{p.rng.randint(10, 23)}:{p.rng.randint(10, 59)}</span></div>"
    )
    return (
        '<div class="full clip"'
        f' style="position:relative">{wallpaper}{shortcuts}{windows}{panel}</div>'
    )


def phone_app(p: Parts) -> str:
    """A narrow application in the middle of an empty page."""

    def row() -> str:
        end = p.rng.choice((lambda: "&rsaquo;", lambda: p.check("", "switch"), p.badge, p.icon))()
        return p.item(
            f'{p.avatar()}<div class="grow clip">{p.words(1, 3)}<div class="small muted'
            f' cut">{p.words(3, 7)}</div></div>{end}',
            role="listitem",
        )

    def place() -> str:
        text = f"<div class=small>{p.words(1)}</div>"
        return f"<button class=bare>{p.glyph(22)}{text}</button>"

    top = f'<div class="bar">{p.icon()}<b class="grow">{p.words(1, 2)}</b>{p.icons(1, 2)}</div>'
    foot = (
        '<div class="row raised"'
        ' style="justify-content:space-around;padding:8px">'
        f"{p.many(3, 5, place)}"
        "</div>"
    )
    chips = f'<div class="row pad clip">{p.many(2, 6, p.button)}</div>'
    width = p.rng.randint(320, 460)
    return (
        '<div class="row full" style="justify-content:center"><div class="col surface full clip"'
        f' style="width:{width}px;gap:0;position:relative">'
        f"{top}{chips if p.chance(0.5) else ''}<div"
        f' class="grow scroll">{p.many(5, 16, row)}</div>{foot}</div></div>'
    )


def map_view(p: Parts) -> str:
    """A map or a gallery of one picture with controls floating over it."""

    def at(style: str, body: str) -> str:
        return f'<div class="float" style="{style};padding:6px">{body}</div>'

    pins = "".join(
        '<div role="button" tabindex="0"'
        f' style="position:absolute;left:{p.rng.randint(5, 95)}%;top:{p.rng.randint(10, 90)}%;'
        f'color:{p.style.accent};cursor:pointer;line-height:0">{p.glyph(24)}</div>'
        for _ in range(p.rng.randint(2, 14))
    )
    found = p.many(
        2,
        8,
        lambda: p.item(
            f'{p.picture(60, 45)}<div class="grow clip"><b class="cut">{p.words(1, 4)}</b><div'
            f' class="small muted">{p.number()}</div></div>',
            role="listitem",
        ),
    )
    return (
        f'<div class="full clip" style="position:relative">{p.picture("100%", "100%")}{pins}'
        + at(
            "left:16px;top:16px;width:340px",
            f'<div class="row">{p.icon()}<div'
            f' class="grow">{p.field("100%", "search")}</div>{p.icon()}</div>{found}',
        )
        + at("right:16px;bottom:16px", f'<div class="col">{p.icons(2, 4)}</div>')
        + at("right:16px;top:16px", f'<div class="row">{p.many(1, 4, p.button)}</div>')
        + "</div>"
    )
