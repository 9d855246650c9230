"""Brings a tab to the state a page describes: loaded, scrolled, focused, with the cursor drawn."""

import random
from pathlib import Path

from browser import Tab
from page_templates import Page, cursor_drawing

# The first thing that can be scrolled by more than a little: the document or one of its panes.
# Tells whether there was one and it moved.
SCROLL = """share => {
  for (const node of [document.scrollingElement, ...document.querySelectorAll('body,.scroll')]) {
    const way = node.scrollHeight - node.clientHeight;
    if (way > 20 && node.clientHeight > 0) {
      const before = node.scrollTop;
      node.scrollTop = way * share;
      return node.scrollTop !== before;
    }
  }
  return false;
}"""

# Tells whether what has the focus takes text.
FOCUS = """choice => {
  const fields = [...document.querySelectorAll('input,textarea,button,a[href]')].filter(node => {
    const r = node.getBoundingClientRect();
    return !node.disabled && r.top >= 0 && r.bottom <= innerHeight && r.width > 0;
  });
  const node = fields[choice % fields.length];
  if (node) node.focus({preventScroll: true});
  return !!node && (node.matches('textarea,input:not([type])') ||
    ['text', 'search', 'email', 'password'].includes(node.type));
}"""

# Documentation brings its own style sheet; what moves by itself is stopped there too.
STILL = """zoom => {
  document.documentElement.style.zoom = zoom;
  document.head.insertAdjacentHTML('beforeend', '<style>*{animation:none!important;' +
    'transition:none!important;caret-color:transparent!important;' +
    'scroll-behavior:auto!important}</style>');
}"""

DRAW_CURSOR = """([drawing, x, y]) => {
  document.getElementById('cursor')?.remove();
  document.documentElement.insertAdjacentHTML('beforeend', drawing);
  const zoom = document.documentElement.currentCSSZoom || 1;
  const style = document.getElementById('cursor').style;
  style.left = x / zoom + 'px'; style.top = y / zoom + 'px';
}"""

OUTSIDE = (-10, -10)  # where the mouse hovers over nothing


async def move_cursor(tab: Tab, page: Page, place: tuple[int, int] | None) -> None:
    """The mouse goes to `place`, in screenshot px, and the cursor is drawn there; None: no cursor.

    A screenshot never shows the real cursor. The drawn one lets clicks and hit tests through.
    """
    await tab.page.mouse.move(*(place or OUTSIDE))
    if place:
        drawing = cursor_drawing(random.Random(f"{page.family}/{page.seed}/cursor"))
        await tab.page.evaluate(DRAW_CURSOR, [drawing, *place])


async def prepare(tab: Tab, page: Page, file: str | None = None) -> None:
    """`file` is a page of documentation, loaded instead of the HTML of `page`."""
    await tab.resize(page.width, page.height)
    # The mouse would otherwise hover where it was on the last page, now or a moment later.
    await tab.page.mouse.move(*OUTSIDE)
    if file is None:
        await tab.page.set_content(page.html, wait_until="load")
    else:
        await tab.page.goto(Path(file).as_uri(), wait_until="load")
        await tab.page.evaluate(STILL, page.style.zoom)
    share = random.Random(page.seed).random() if file else page.scroll
    if share:
        await tab.page.evaluate(SCROLL, share)
    if page.focus is not None and await tab.page.evaluate(FOCUS, page.focus) and page.typed:
        await tab.page.keyboard.insert_text(page.typed)
    await move_cursor(tab, page, page.cursor)
