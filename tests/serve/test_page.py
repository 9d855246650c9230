"""The page that the server shows, in a real browser."""

from serving import png, serving
from vlm_files import changed, screen


def opened(browser, running):
    page = browser.new_page(viewport={"width": 1200, "height": 800})
    page.set_default_timeout(120_000)  # other tests may have all cores
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    page.goto(f"http://127.0.0.1:{running.port}/")
    return page, errors


def ask(page, text, *screens):
    files = [
        {"name": f"{n}.png", "mimeType": "image/png", "buffer": png(pixels)}
        for n, pixels in enumerate(screens)
    ]
    if files:
        page.set_input_files("#files", files)
        page.wait_for_selector(f"#chosen img:nth-child({len(files)})")
    rows = page.locator("#turns tbody tr").count()
    page.fill("#question", text)
    page.keyboard.press("Enter")
    page.wait_for_selector(f"#turns tbody tr:nth-child({rows + 1}), .error")
    assert page.locator(".error").all_inner_texts() == []
    page.wait_for_selector("#stop:disabled")
    return page.locator("#turns tbody tr").last.locator("td").all_inner_texts()


def test_a_conversation_and_what_it_kept(browser, running):
    page, errors = opened(browser, running)
    page.wait_for_selector("#about:has-text('tiny')")
    first = ask(page, "What is <b>this</b>?", screen(120))
    assert first[2:4] == ["1 of 1", "100 %"]
    assert page.locator(".assistant").last.inner_text()
    assert page.locator(".user b").count() == 0  # a text stays one
    assert ask(page, "And now?", changed(screen(120)))[2] == "1 of 2"
    assert ask(page, "Is that so?")[2:4] == ["0 of 2", "none"]
    bar = page.locator("#turns tbody tr").last.locator(".bar")
    kept, _, total, *_ = bar.get_attribute("title").split()
    assert 0 < int(kept) < int(total)
    assert "continues" in page.text_content("#detail")
    page.select_option("#policy", "off")
    assert ask(page, "Sure?")[2] == "2 of 2"
    page.click("#clear")
    assert page.locator("#turns tbody tr").count() == page.locator(".message").count() == 0
    assert errors == []
    page.close()


def test_where_a_key_is_needed_it_is_asked_for(browser, model):
    with serving(model, keys=["key-a"], serve={"warm_lengths": 1}) as running:
        page, _ = opened(browser, running)
        page.wait_for_selector("#key")
        page.fill("#key", "key-a")
        page.keyboard.press("Tab")
        page.wait_for_selector("#about:has-text('tiny')")
        assert ask(page, "What?", screen(121))[2] == "1 of 1"
        page.close()


def test_an_answer_of_before_is_shown_as_one(browser, model):
    more = {"reuse": {"features_mb": 0.0, "answers": {"enabled": True}}}
    with serving(model, serve={"warm_lengths": 1}, more=more) as running:
        page, errors = opened(browser, running)
        page.wait_for_selector("#about:has-text('tiny')")
        first = ask(page, "What?", screen(122))
        said = page.locator(".assistant").last.inner_text()
        page.click("#clear")
        again = ask(page, "What?", screen(122))
        assert (first[2], again[2]) == ("1 of 1", "0 of 1")
        assert page.locator(".assistant").last.inner_text().strip() == said.strip()
        assert "An answer of before" in page.text_content("#detail")
        assert errors == []
        page.close()
