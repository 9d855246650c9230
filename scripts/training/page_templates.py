"""Which families exist, which are kept for testing, and the HTML of one page from its seed."""

import random
from collections.abc import Callable
from dataclasses import dataclass

import families_canvas as canvas
import families_desktop as desktop
import families_lessons as lessons
import families_lists as lists
import families_mixed as mixed
import families_office as office
import families_public as public
import families_reading as reading
import families_studio as studio
import families_tools as tools
import families_web as web
import families_work as work
from page_parts import Parts
from page_style import Style, draw_style, style_sheet

Family = Callable[[Parts], str]

TRAINING_FAMILIES: dict[str, Family] = {
    family.__name__: family
    for family in (
        web.login,
        web.article,
        web.shop,
        web.dashboard,
        web.long_form,
        web.forum,
        web.chat,
        office.settings,
        office.data_table,
        office.files,
        office.code_editor,
        office.spreadsheet,
        office.calendar,
        office.tree_panel,
        desktop.menu_open,
        desktop.context_menu,
        desktop.dialog,
        desktop.drawing,
        desktop.browser_window,
        desktop.terminal,
        desktop.phone_app,
        desktop.map_view,
        lists.pinboard,
        lists.feed,
        lists.tickets,
        lists.launcher,
        lists.gallery,
        lists.manual,
        lists.directory,
        mixed.patchwork,
        public.news,
        public.product,
        public.booking,
        public.profile,
        public.pricing,
        public.scores,
        work.invoice,
        work.meeting,
        work.admin_console,
        work.query_tool,
        studio.timeline,
        studio.inspector,
        tools.review,
        tools.log_viewer,
        canvas.node_graph,
        canvas.control_panel,
        reading.package_page,
        reading.help_centre,
        lessons.course,
        lessons.recipe,
    )
}
# Never seen in training or validation, neither alone nor inside another family's page.
TEST_FAMILIES: dict[str, Family] = {
    family.__name__: family
    for family in (
        office.mail,
        office.kanban,
        web.search_results,
        web.wizard,
        desktop.media_player,
        desktop.desktop,
    )
}
# Pages of documentation: the test split draws on packages of which training saw none.
DOCUMENTATION = "docs"
UNSEEN_DOCUMENTATION = "docs_unseen"
SPLITS = ("train", "val", "test")

VIEWPORTS = (
    (1920, 1080),
    (1366, 768),
    (1280, 720),
    (1600, 900),
    (2560, 1440),
    (1024, 1024),
    (1280, 1024),
)
VIEWPORT_WEIGHTS = (50, 12, 9, 9, 6, 6, 8)


@dataclass(frozen=True)
class Page:
    """What to render. Sizes and the cursor's tip are in screenshot px.

    `scroll` is the share of the scrollable way, `focus` a number that chooses a field or None.
    """

    family: str
    seed: int
    width: int
    height: int
    html: str
    cursor: tuple[int, int] | None
    scroll: float
    focus: int | None
    typed: str
    style: Style


def families_of(split: str) -> tuple[str, ...]:
    """The families of a split, documentation included; they take turns.

    In training the two without a layout of their own come more often.
    """
    if split == "test":
        return (*TEST_FAMILIES, UNSEEN_DOCUMENTATION)
    often = (DOCUMENTATION, "patchwork")
    return (*TRAINING_FAMILIES, DOCUMENTATION, *(often * 2 if split == "train" else ()))


def cursor_drawing(rng: random.Random) -> str:
    """An arrow of 12 to 32 px whose tip is the top left corner of its picture."""
    size, dark = rng.choice((18, 22, 22, 26, 36)), rng.random() < 0.5
    fill, line = ("#000", "#fff") if dark else ("#fff", "#000")
    return (
        f'<svg id="cursor" width="{size}" height="{size}" viewBox="0 0 24 24" '
        'style="position:fixed;left:0;top:0;z-index:2147483647;pointer-events:none">'
        '<path d="M0 0v20l5-5 3 7 3-1-3-7h7z" '
        f'fill="{fill}" stroke="{line}" stroke-width="1.4"/></svg>'
    )


def _over(p: Parts) -> str:
    """What lies over one page in six, of whichever family."""
    kind = p.rng.random()
    if kind < 0.04:
        return p.dialog()
    if kind < 0.08:
        return p.menu(p.rng.uniform(0, p.width * 0.8), p.rng.uniform(0, p.height * 0.6))
    return p.banner() if kind < 0.16 else ""


def make_page(family: str, seed: int) -> Page:
    """The page of `seed`; the same everywhere. A documentation family's HTML is empty."""
    rng = random.Random(f"{family}/{seed}")
    width, height = rng.choices(VIEWPORTS, VIEWPORT_WEIGHTS)[0]
    style = draw_style(rng)
    cursor = (rng.randrange(width), rng.randrange(height)) if rng.random() < 0.5 else None
    scroll = rng.random() if rng.random() < 0.4 else 0.0
    focus = rng.randrange(1000) if rng.random() < 0.25 else None
    parts = Parts(rng, style, int(width / style.zoom), int(height / style.zoom))
    typed = parts.words(1, 3) if rng.random() < 0.6 else ""
    make = {**TRAINING_FAMILIES, **TEST_FAMILIES}.get(family)
    html = ""
    if make is not None:
        html = (
            f'<!doctype html><html lang="{style.language}"><head><meta charset="utf-8"><style>'
            f"{style_sheet(style)}</style></head><body>{make(parts)}{_over(parts)}</body></html>"
        )
    return Page(family, seed, width, height, html, cursor, scroll, focus, typed, style)
