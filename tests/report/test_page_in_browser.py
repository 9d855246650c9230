"""Pages to step through, in a real browser: the demo's, and that of answers."""

import dataclasses
import json
import re

import numpy as np
import pytest
from looks import HOSTILE, looks
from PIL import Image

import diffvis_jax as dv
from diffvis_jax.measure.recording_run import run_session
from diffvis_jax.report.answers_page import write_answers_page
from diffvis_jax.report.pictures import compressed
from diffvis_jax.report.plain_page import captioned, heading, table, write_plain_page
from diffvis_jax.report.session_page import write_session_page


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

    def result(margin, times):
        """Times are as they come; the page is to be the same each time."""
        found = run_session(model, frames, dv.Policy(margin=margin))
        timed = [
            dataclasses.replace(frame, step_ms=times + n, full_ms=50.0)
            for n, frame in enumerate(found.frames)
        ]
        return dataclasses.replace(found, frames=tuple(timed))

    labels = ["start", "a", "b", "nothing", "c"]
    results = {"margin 1": result(1, 10.0), "margin 2": result(2, 20.0)}
    for name, some in (("one", {"margin 1": results["margin 1"]}), ("index", results)):
        write_session_page(folder / f"{name}.html", some, paths, labels, model.config, title="test")
    return folder / "index.html"


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


def test_policies_are_switched_by_their_buttons_and_by_a_key(page):
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")

    def shown():
        chosen = page.locator("#switch button[aria-pressed=true] b").text_content()
        row = page.text_content("#table tbody tr:nth-child(2)")
        tile = page.text_content(".tile")
        return chosen, page.text_content("#bars div:last-child em"), row, tile, frame_of(page)

    first = shown()
    assert first[:2] == ("margin 1", "11.0 ms")
    page.click("#switch button:nth-child(2)")
    second = shown()
    assert second[:2] == ("margin 2", "21.0 ms")
    assert all(a != b for a, b in zip(first[:4], second[:4], strict=True))
    assert first[4] == second[4] == 1
    assert page.evaluate("location.hash") == "#1,1"
    page.keyboard.press("p")
    assert shown() == first
    page.keyboard.press("p")
    page.reload()
    assert shown() == second


def test_one_policy_has_no_switch(browser, page_file):
    page = browser.new_page()
    page.goto(page_file.with_name("one.html").as_uri())
    assert not page.is_visible("#switch")
    assert "policy" not in page.text_content(".notes li")
    assert not page.is_visible("label:has(.element)")  # the tower has no head
    page.keyboard.press("p")
    assert page.text_content("#bars div:last-child em") in ("11.0 ms", "12.0 ms")
    page.close()


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


def test_tables_and_pictures_fit_a_phone(browser, tmp_path):
    rows = [["policy", *["a long head of a column"] * 9], ["fast", *["12.3% / 45.6% / 78.9%"] * 9]]
    wide = compressed(Image.new("RGB", (900, 90))).url
    parts = [heading("H"), table(rows), captioned(wide, "<a picture>")]
    file = write_plain_page(tmp_path / "plain.html", "Tables", parts, [("device", "cpu")])
    page = browser.new_page(viewport={"width": 390, "height": 800}, color_scheme="dark")
    page.goto(file.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.text_content("figcaption") == "<a picture>"
    assert page.text_content(".facts dd") == "cpu"
    # As dark as the pages to step through.
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(22, 24, 27)"
    page.close()


# ---- the page of answers ----------------------------------------------------------------------


@pytest.fixture
def answers(browser, square, tmp_path):
    """The page of three frames, open."""
    file = write_answers_page(
        tmp_path / "answers.html",
        looks(),
        square.config,
        question="What?",
        prompt="You see a screen. What?",
        title="shots",
        tiles=[("3", "frames answered"), ("0", "left out")],
    )
    page = browser.new_page(viewport={"width": 390, "height": 800})
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("dialog", lambda dialog: errors.append(dialog.message))
    page.goto(file.as_uri())
    yield page
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.close()
    assert errors == []


def test_answers_can_be_stepped_through(answers):
    page = answers
    assert frame_of(page) == 1  # the answers differ
    assert page.text_content(".question") == "What?"
    assert page.locator(".tile").count() == 1  # nothing was left out
    assert page.text_content("#answer") == "click(0.5, 0.25)"
    assert page.text_content("#other") == "No."
    assert page.text_content("#lines li") == "action: Click at (36, 18)"
    assert page.locator("#bars em").all_text_contents()[:2] == ["12.0 ms", "48.0 ms"]
    assert page.locator("tr.differs").count() == 1
    assert page.is_visible("#magnifier")
    page.keyboard.press("ArrowRight")
    assert page.text_content("#answer") == HOSTILE
    assert page.is_hidden("#other")
    assert page.is_hidden("#magnifier")
    page.keyboard.press("Home")
    assert page.text_content("#answer") == "A page."
    assert "4.00x faster" in page.text_content("#verdict")


def test_what_an_answer_clicks_is_drawn(answers):
    page = answers
    assert page.locator("#marks .click circle").count() == 2  # the ring, and its halo
    assert page.get_attribute("#marks .click circle", "cx") == "36"
    assert page.text_content("#marks .candidate title") == "candidate 1"
    page.uncheck("label:has(.key.click) input")
    assert page.locator("#marks .click").count() == 0
    assert page.locator("#marks .candidate").count() == 1
    page.select_option("#map", label="where the model looks")
    assert page.locator("#heat rect").count() == 5
