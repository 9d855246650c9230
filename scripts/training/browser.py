"""Chromium without a window: pages in, screenshots and boxes out."""

import base64
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

ELEMENTS = (Path(__file__).parent / "elements.js").read_text(encoding="utf-8")

# Software drawing at one device px per CSS px: the same pixels whichever screen there is. Names
# are not resolved, so that no page waits for the network or depends on it.
FLAGS = (
    "--disable-gpu",
    "--force-device-scale-factor=1",
    "--force-color-profile=srgb",
    "--disable-lcd-text",
    "--font-render-hinting=none",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--allow-file-access-from-files",
    "--no-sandbox",
)


def chromium_path() -> str:
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    raise SystemExit("error: no Chromium found on the PATH (Debian: apt install chromium)")


@asynccontextmanager
async def open_tabs(count: int) -> AsyncIterator[list["Tab"]]:
    """`count` tabs of one browser; closed with it at the end."""
    try:
        from playwright.async_api import async_playwright
    except ImportError as error:
        raise SystemExit(
            "error: rendering needs playwright: pip install 'diffvis_jax[train]'"
        ) from error
    async with async_playwright() as playwright:
        # Playwright hides scroll bars unless told otherwise; pages hide theirs by their style.
        browser = await playwright.chromium.launch(
            executable_path=chromium_path(),
            args=list(FLAGS),
            ignore_default_args=["--hide-scrollbars"],
        )
        tabs = []
        for _ in range(count):
            # Tabs of one context share a window, whose size could only suit one of them.
            # Scripts of pages stay off: what documentation does by itself after loading would
            # fall before or after the screenshot by chance. Generated pages have none.
            context = await browser.new_context(no_viewport=True, java_script_enabled=False)
            page = await context.new_page()
            tabs.append(Tab(page, await context.new_cdp_session(page)))
        try:
            yield tabs
        finally:
            await browser.close()


class Tab:
    """One tab; `page` is playwright's, for moving the mouse and typing."""

    def __init__(self, page: Any, devtools: Any):
        self.page, self._devtools = page, devtools
        self._size = (0, 0)

    async def resize(self, width: int, height: int) -> None:
        """Width and height of the viewport, hence of screenshots, in px."""
        if self._size != (width, height):
            size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
            await self._devtools.send("Emulation.setDeviceMetricsOverride", size)
            self._size = (width, height)

    async def screenshot(self) -> bytes:
        """PNG of the viewport. Compressed lightly: time matters more than bytes here."""
        answer = await self._devtools.send(
            "Page.captureScreenshot", {"format": "png", "optimizeForSpeed": True}
        )
        picture = base64.b64decode(answer["data"])
        size = tuple(int.from_bytes(picture[at : at + 4], "big") for at in (16, 20))
        if size != self._size:
            raise RuntimeError(f"Chromium drew {size} px where {self._size} were asked for")
        return picture

    async def elements(self) -> list[dict[str, Any]]:
        """[{"box": [left, top, right, bottom] in screenshot px, "kind": one of the head's}]."""
        return await self.page.evaluate(ELEMENTS)
