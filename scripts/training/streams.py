"""Records short interactions: what a screen shows after each of about a dozen small actions."""

import json
import random
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from browser import Tab
from page_parts import Parts
from page_templates import TEST_FAMILIES, Page
from prepare import SCROLL, move_cursor, prepare

FRAMES = 12
LETTERS = 4  # typed one by one

Element = dict[str, Any]
Step = tuple[str, tuple[int, int]]  # the action's label and where the cursor is after it, in px

OPEN = """([markup, left, top]) => {
  const height = left === null ? '100%' : '0';
  document.body.insertAdjacentHTML('beforeend', '<div id="overlay" style="position:fixed;left:0;' +
    'top:0;z-index:70;width:100%;height:' + height + '">' + markup + '</div>');
  const menu = document.querySelector('#overlay > [role=menu]');
  if (!menu) return;
  // A menu opens at the cursor, or as near to it as it fits.
  const zoom = document.documentElement.currentCSSZoom || 1, r = menu.getBoundingClientRect();
  menu.style.left = Math.max(0, Math.min(left, innerWidth - r.width)) / zoom + 'px';
  menu.style.top = Math.max(0, Math.min(top, innerHeight - r.height)) / zoom + 'px';
}"""
CLOSE = "() => document.getElementById('overlay')?.remove()"


def _middle(element: Element) -> tuple[int, int]:
    left, top, right, bottom = element["box"]
    return int((left + right) / 2), int((top + bottom) / 2)


class _Recording:
    """Acts on one page. Every method yields its steps one at a time, each once it has been done."""

    def __init__(self, tab: Tab, page: Page):
        self._tab, self._page = tab, page
        self._rng = random.Random(f"{page.family}/{page.seed}/stream")
        zoom = page.style.zoom
        size = int(page.width / zoom), int(page.height / zoom)
        self._parts = Parts(self._rng, page.style, *size)
        self._place = self._anywhere()

    def _anywhere(self) -> tuple[int, int]:
        return self._rng.randrange(self._page.width), self._rng.randrange(self._page.height)

    async def _go(self, place: tuple[int, int]) -> None:
        self._place = place
        await move_cursor(self._tab, self._page, place)

    async def _choose(self, *kinds: str) -> Element | None:
        found = [element for element in await self._tab.elements() if element["kind"] in kinds]
        return self._rng.choice(found) if found else None

    async def start(self) -> AsyncIterator[Step]:
        await self._go(self._place)
        yield "start", self._place

    async def move(self) -> AsyncIterator[Step]:
        await self._go(self._anywhere())
        yield "move", self._place

    async def hover(self) -> AsyncIterator[Step]:
        if element := await self._choose("button", "icon", "menu_item", "link", "tab"):
            await self._go(_middle(element))
            yield "hover", self._place

    async def toggle(self) -> AsyncIterator[Step]:
        if element := await self._choose("checkbox"):
            await self._go(_middle(element))
            await self._tab.page.mouse.click(*self._place)
            yield "toggle", self._place

    async def write(self) -> AsyncIterator[Step]:
        if element := await self._choose("text_field"):
            await self._go(_middle(element))
            await self._tab.page.mouse.click(*self._place)
            yield "focus", self._place
            for letter in self._parts.words(4)[:LETTERS].lower():
                await self._tab.page.keyboard.insert_text(letter)
                yield "type", self._place

    async def overlay(self) -> AsyncIterator[Step]:
        if self._rng.random() < 0.5:
            await self._tab.page.evaluate(OPEN, [self._parts.menu(0, 0), *self._place])
            yield "open_menu", self._place
        else:
            await self._tab.page.evaluate(OPEN, [self._parts.dialog(), None, None])
            yield "open_dialog", self._place
        inside = await self._tab.page.query_selector_all("#overlay [role=menuitem],#overlay button")
        if inside and (box := await self._rng.choice(inside).bounding_box()):
            place = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
            await self._go((int(place[0]), int(place[1])))
            yield "hover", self._place
        await self._tab.page.evaluate(CLOSE)
        yield "close", self._place

    async def scroll(self) -> AsyncIterator[Step]:
        if await self._tab.page.evaluate(SCROLL, self._rng.uniform(0.1, 1)):
            yield "scroll", self._place

    async def steps(self) -> AsyncIterator[Step]:
        """A beginning, then everything that can be done here in some order, then idle moves."""
        actions = [self.write, self.overlay, self.hover, self.toggle, self.scroll, self.hover]
        self._rng.shuffle(actions)
        for action in (self.start, *actions, *[self.move] * FRAMES):
            async for step in action():
                yield step


async def record_stream(tab: Tab, page: Page, folder: Path) -> None:
    """Writes frame_000.png … and trajectory.json to `folder`, which appears when it is complete."""
    await prepare(tab, page)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    frames: list[dict[str, Any]] = []
    async for action, cursor in _Recording(tab, page).steps():
        name = f"frame_{len(frames):03d}.png"
        elements = await tab.elements()
        (partial / name).write_bytes(await tab.screenshot())
        frames.append({"file": name, "action": action, "cursor": cursor, "elements": elements})
        if len(frames) == FRAMES:
            break
    record = {
        "family": page.family,
        "seed": page.seed,
        "split": "test" if page.family in TEST_FAMILIES else "train",
        "width": page.width,
        "height": page.height,
        "frames": frames,
    }
    text = json.dumps(record, separators=(",", ":"))
    (partial / "trajectory.json").write_text(text, encoding="utf-8")
    partial.rename(folder)
