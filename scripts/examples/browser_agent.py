#!/usr/bin/env python3
"""An agent at 10 Hz: a browser's screenshots in, clicks out.

    python scripts/examples/browser_agent.py --seconds 60

Opens a page of its own in a Chromium without a window, finds what can be clicked on it with the
bundled weights, and clicks each of it once. Every few seconds the page puts its controls somewhere
else: a click on what was there before then misses. Screenshots are taken and decoded by the thread
that owns the browser, so that no tick waits for one. Needs the extra `train` (playwright) and a
Chromium.
"""

import argparse
import io
import queue
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import diffvis_jax as dv
from diffvis_jax.cli.command_line import Parser, number, run_script, tell
from diffvis_jax.grounding.find import find_elements, maps_of, on_screenshot
from diffvis_jax.runtime.statistics import tails_ms

SIZE = (1024, 576)  # of the window: the bundled tower's frame, so that nothing is resized
FLAGS = ("--disable-gpu", "--force-device-scale-factor=1", "--no-sandbox")
MOVES_S = 6.0  # after which the page puts its controls somewhere else
FORGETS_S = 5.0  # after which the agent may click at a place again
APART = 14.0  # px: clicks nearer than this are at the same place

PAGE = """<!DOCTYPE html>
<html><head><meta charset="utf-8"><title>Controls</title><style>
body { margin: 0; font: 15px sans-serif; background: #f5f6f8; color: #222; overflow: hidden }
header { background: #24508f; color: #fff; padding: 12px 20px; font-size: 18px }
main { position: relative; height: 440px }
.control { position: absolute }
button { padding: 8px 18px; border: 1px solid #8a94a3; border-radius: 5px; background: #fff }
button.done { background: #cfe6d4 }
input[type=text] { padding: 7px; width: 170px; border: 1px solid #8a94a3 }
#bar { position: absolute; bottom: 18px; left: 20px; width: 300px; height: 10px;
  background: #d8dce2 }
#bar div { height: 10px; background: #3f7fd1; animation: grow 4s steps(16) infinite }
@keyframes grow { from { width: 0 } to { width: 100% } }
</style></head><body>
<header>Settings</header><main></main><div id="bar"><div></div></div>
<script>
"use strict";
window.clicks = [];
const names = ["Save", "Cancel", "Open file", "Print", "Send", "Delete", "Next", "Options"];
const make = (tag, fields) => () => Object.assign(document.createElement(tag), fields);
const makers = [
  ...names.map((name) => make("button", {textContent: name})),
  make("input", {type: "text", placeholder: "Search"}),
  make("input", {type: "checkbox"}),
  make("a", {href: "#", textContent: "Read the manual"}),
];
const places = [...Array(15).keys()].map((n) => [40 + 195 * (n % 5), 40 + 130 * Math.floor(n / 5)]);
let seed = 7;
const random = () => (seed = (seed * 16807) % 2147483647) / 2147483647;
function place() {
  const free = [...places], main = document.querySelector("main");
  main.replaceChildren(...makers.map((maker, number) => {
    const control = maker(), [x, y] = free.splice(Math.floor(random() * free.length), 1)[0];
    control.className = "control";
    control.dataset.number = number;
    control.style.left = `${x + Math.floor(random() * 30)}px`;
    control.style.top = `${y + Math.floor(random() * 40)}px`;
    return control;
  }));
}
document.addEventListener("pointerdown", (event) => {
  const control = event.target.closest(".control");
  window.clicks.push(control ? Number(control.dataset.number) : -1);
  if (control) control.classList.add("done");
});
place();
setInterval(place, MOVES_MS);
</script></body></html>
"""


class Browser:
    """A Chromium in a thread of its own: the newest screenshot, and clicks that are carried out
    between two of them.

    Attributes:
      shot_ms, click_ms: what each has cost that thread.
    """

    def __init__(self, page: Path, hz: float):
        self.shot_ms: list[float] = []
        self.click_ms: list[float] = []
        self._page, self._period = page, 1 / hz
        self._newest: dv.Observation | None = None
        self._given: dv.Observation | None = None
        self._error: BaseException | None = None
        self._clicks: queue.SimpleQueue[tuple[float, float]] = queue.SimpleQueue()
        self._there, self._end = threading.Event(), threading.Event()
        self._found: list[int] = []
        self._thread = threading.Thread(target=self._run, name="browser")

    def __enter__(self) -> "Browser":
        self._thread.start()
        self._there.wait()
        self._raise()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def observe(self) -> dv.Observation | None:
        """The newest screenshot with its time; None if the last one was it. Never waits."""
        self._raise()
        newest = self._newest
        if newest is self._given:
            return None
        self._given = newest
        return newest

    def click(self, x: float, y: float) -> None:
        """Asks for one, in px of the screenshot. Never waits."""
        self._clicks.put((x, y))

    def close(self) -> list[int]:
        """Ends it; the number of the control that each click hit, -1 for none."""
        self.__exit__()
        self._raise()
        return self._found

    def _raise(self) -> None:
        if self._error is not None:
            raise RuntimeError(f"the browser failed: {self._error}") from self._error

    # ---- its thread -----------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._drive()
        except BaseException as error:
            self._error = error
        finally:
            self._there.set()

    def _drive(self) -> None:
        from playwright.sync_api import sync_playwright

        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium(), args=list(FLAGS))
            page = browser.new_page(viewport={"width": SIZE[0], "height": SIZE[1]})
            page.goto(self._page.as_uri())
            due = time.monotonic()
            while not self._end.is_set():
                while not self._clicks.empty():
                    start = time.monotonic()
                    page.mouse.click(*self._clicks.get())
                    self.click_ms.append(1e3 * (time.monotonic() - start))
                captured = time.monotonic()  # before the picture is taken: never younger than it is
                with Image.open(io.BytesIO(page.screenshot())) as shot:
                    pixels = np.asarray(shot.convert("RGB"))
                self._newest = dv.Observation(pixels, captured, owned=True)
                self.shot_ms.append(1e3 * (time.monotonic() - captured))
                self._there.set()
                due = max(due + self._period, time.monotonic())
                self._end.wait(due - time.monotonic())
            self._found = page.evaluate("window.clicks")
            browser.close()


def chromium() -> str:
    """Where it is."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    raise FileNotFoundError("no Chromium on the PATH (Debian: apt install chromium)")


class Clicker:
    """Clicks each element that was found, unless it has clicked there a moment ago."""

    def __init__(self, browser: Browser, model: dv.Model):
        self._browser, self._clicked = browser, list[tuple[float, float, float]]()
        self._placement = dv.placement(*SIZE, model.config)
        self.clicks = 0

    def __call__(self, encoded: dv.Encoded, images: Any, age: float) -> None:
        now = time.monotonic()
        self._clicked = [click for click in self._clicked if now - click[2] < FORGETS_S]
        for element in on_screenshot(encoded.value[0], self._placement):
            x, y = element.point
            if all(abs(x - a) + abs(y - b) > APART for a, b, _ in self._clicked):
                self._browser.click(x, y)
                self._clicked.append((x, y, now))
                self.clicks += 1
                return  # one a tick


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--seconds", type=number(0.5, 86400, "seconds"), default=60.0, help="how long (60)")
    add("--hz", type=number(0.5, 60, "ticks a second"), default=10.0, help="ticks a second (10)")
    add("--policy", choices=("faithful", "fast"), default="fast", help="what is left out (fast)")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status."""
    args = build_parser().parse_args(arguments)
    return run_script(lambda: run(args))


def run(args: argparse.Namespace) -> int:
    try:
        import playwright  # noqa: F401
    except ImportError as error:
        raise ImportError("needs playwright: pip install 'diffvis_jax[train]'") from error
    chromium()
    model = dv.load("screens-vit", dtype="float32")
    head = model.head
    assert head is not None

    def elements(tokens: Any, cache: dv.Cache) -> Any:
        return find_elements(head, tokens, maps_of(head.config, cache))

    policy = getattr(dv.Policy, args.policy)()
    # It may be older: a full encode does not fit into every period on two cores.
    config = dv.LoopConfig(hz=args.hz, max_age=max(0.5, 2 / args.hz), on_stale="hold")
    with (
        tempfile.TemporaryDirectory() as folder,
        dv.AsyncEncoder(model, policy, summarise=elements) as encoder,
    ):
        file = Path(folder) / "page.html"
        file.write_text(PAGE.replace("MOVES_MS", str(int(1e3 * MOVES_S))), encoding="utf-8")
        with Browser(file, args.hz) as browser:
            tell("compiling ...")
            agent = Clicker(browser, model)
            loop = dv.ControlLoop(encoder, browser.observe, agent, config)
            stats = loop.run(round(args.seconds * args.hz)).as_dict()
            shots, found = browser.shot_ms[-stats["offered"] :], browser.close()
    report(stats, agent.clicks, found, shots, browser.click_ms)
    return 0


def report(
    stats: dict[str, Any], asked: int, found: list[int], shots: list[float], clicks: list[float]
) -> None:
    """Prints what came of it."""

    def tails(ms: list[float]) -> str:
        return _text(tails_ms(value / 1e3 for value in ms))

    hits = [number for number in found if number >= 0]
    print(
        f"ticks: {stats['ticks']}, kept {stats['kept']:.1%}, skipped {stats['skipped']}, stale "
        f"{stats['stale']}"
    )
    print("p50 / p95 / max:")
    print(f"  age of the pixels acted on: {_text(stats['age_ms'])}")
    print(f"  an encode: {_text(stats['encode_ms'])}, recomputed {stats['recomputed']:.1%} (mean)")
    print(f"  a screenshot, in the browser's thread: {tails(shots)}")
    print(f"  a click, in the browser's thread: {tails(clicks)}")
    share = f" ({len(hits) / len(found):.1%})" if found else ""
    print(f"clicks: {asked} asked for, {len(found)} carried out, {len(hits)} hit{share}")
    print(f"controls hit at least once: {len(set(hits))} of 11")


def _text(values: dict[str, float | None]) -> str:
    shown = ("-" if value is None else f"{value:.0f}" for value in values.values())
    return f"{' / '.join(shown)} ms"


if __name__ == "__main__":
    sys.exit(main())
