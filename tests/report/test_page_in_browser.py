"""The demo page in a real browser: it opens at a typical step, and can be stepped through."""

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

import diffvis_jax as dv
from diffvis_jax.measure.recording_run import run_session
from diffvis_jax.report.html_page import write_page

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def page_file(square, tmp_path_factory):
    """Of five frames: a still, two small changes, nothing, another screen."""
    folder = tmp_path_factory.mktemp("page")
    rng = np.random.default_rng(0)
    first, other = rng.integers(0, 256, (2, 72, 72, 3), np.uint8)
    second, third = first.copy(), first.copy()
    second[18:22, 5:12] = 255 - second[18:22, 5:12]
    third[40:60, 40:60] = 0
    third[2, 2] ^= 255
    frames = np.stack([first, second, third, third, other])
    paths = []
    for number, frame in enumerate(frames):
        paths.append(folder / f"{number}.png")
        Image.fromarray(frame).save(paths[-1])
    model = dv.Model(square.config, square.params, "random weights")
    result = run_session(model, frames, dv.Policy(margin=1))
    # Times are as they come; the page is to be the same each time.
    result = dataclasses.replace(
        result,
        frames=tuple(
            dataclasses.replace(frame, step_ms=10.0 + n, full_ms=50.0)
            for n, frame in enumerate(result.frames)
        ),
    )
    labels = ["start", "a", "b", "nothing", "c"]
    return write_page(folder / "index.html", result, paths, labels, model.config, title="test")


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=OPTIONS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser, page_file):
    page = browser.new_page()
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(page_file.as_uri())
    yield page
    page.close()
    assert errors == []


def frame_of(page) -> int:
    return int(page.text_content("#position").split("/")[0])


def test_it_opens_at_a_typical_step(page):
    assert frame_of(page) in (1, 2)
    assert "faster than a full encode" in page.text_content("#verdict")
    assert page.is_visible("#magnifier")
    assert page.get_attribute("#contour", "d")


def test_keys_buttons_and_rows(page):
    page.keyboard.press("Home")
    assert frame_of(page) == 0
    assert page.text_content("#verdict") == "The first frame is encoded in full."
    assert not page.is_visible("#magnifier")
    page.keyboard.press("ArrowRight")
    page.click("#next")
    assert frame_of(page) == 2
    page.keyboard.press("End")
    assert frame_of(page) == 4
    page.click("#table tbody tr:nth-child(2)")
    assert frame_of(page) == 1
    assert page.evaluate("location.hash") == "#1"


def test_the_largest_group_of_changes_is_enlarged(page):
    """In frame 2 four patches below the middle changed, and one in the upper left corner."""
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    left, top, wide, high = map(float, page.get_attribute("#magnifier", "viewBox").split())
    # 32 x 32 pixels and a patch more, 4:3, inside the frame of 72 x 72; the corner is not in it.
    assert (left, top, wide, high) == (8, 24, 64, 48)


def test_the_frame_before_shows_while_a_key_is_held(page):
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    now = page.get_attribute("#picture", "href")
    page.keyboard.down("b")
    before = page.get_attribute("#picture", "href")
    page.keyboard.up("b")
    assert before != now
    assert page.get_attribute("#picture", "href") == now


def test_a_link_opens_its_frame(browser, page_file):
    page = browser.new_page()
    page.goto(f"{page_file.as_uri()}#3")
    assert frame_of(page) == 3
    assert "nothing changed" in page.text_content("#verdict")
    page.close()


def test_it_fits_a_phone(browser, page_file):
    page = browser.new_page(viewport={"width": 390, "height": 800})
    page.goto(page_file.as_uri())
    wide = page.evaluate("document.documentElement.scrollWidth")
    assert wide <= 390
    page.close()


def test_it_asks_for_nothing(page_file):
    """One file, which opens without a network."""
    text = page_file.read_text()
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])
    assert all(url.startswith("data:") for url in data["pictures"])
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)
