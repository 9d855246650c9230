"""The page of answers: what it holds, and that nothing in it can be more than text."""

import json
import re

import numpy as np
import pytest
from looks import HOSTILE, look, looks
from PIL import Image

from diffvis_jax.report import pictures
from diffvis_jax.report.answers_page import write_answers_page


@pytest.fixture
def write(square, tmp_path):
    """Writes a page -> its text, and its data."""

    def written(some, **options):
        given = {"question": "What?", "title": "shots", "tiles": [("3", "frames")], **options}
        page = write_answers_page(tmp_path / "a.html", some, square.config, **given)
        text = page.read_text(encoding="utf-8")
        embedded = re.search(r'id="data">(.*?)</script>', text, re.DOTALL)
        assert embedded is not None
        return text, json.loads(embedded[1])

    return written


def test_it_holds_the_answers_and_what_they_took(write):
    text, data = write(looks())
    (run,) = data["runs"]
    first, second, third = run["steps"]
    assert first["answer"] == "A page."
    assert first["other"] is None
    assert second["other"] == "No."
    assert second["verdict"] == "First token: 4.00x faster than in full; another answer"
    assert third["verdict"].endswith("the same answer")
    assert [bar[:2] for bar in second["bars"][:2]] == [["encode", 12.0], ["in full", 48.0]]
    assert second["changed"] == [8]
    assert second["marks"][1] == [[36, 18, "Click"]]
    assert ["prompt tokens read", "40/80"] in second["facts"]
    assert data["start"] == 1  # where the answers differ
    assert [screen["picture"] for screen in data["screens"]] == [0, 1, 1]
    heads = [name for name, _ in data["columns"]]
    assert "in full" in heads
    assert "true error" not in heads  # nobody measured it
    assert all(len(step["cells"]) == len(heads) for step in run["steps"])
    assert "In full" in text


def test_attention_has_a_map_of_its_own(write):
    data = write(looks())[1]
    assert [entry["grid"] for entry in data["maps"]] == [0, 1]
    assert data["runs"][0]["steps"][1]["maps"][1][:7] == [1, 0, 0, 0, 0, 0, 1]
    assert data["screens"][1]["grids"][1]["width"] == 8  # pixels of a token; of a patch 16


def test_texts_stay_texts(write):
    text, data = write(looks(), question=HOSTILE, prompt=f"{HOSTILE} more", title=HOSTILE)
    assert "<img src=x" not in text
    assert text.count("</script>") == 2
    assert data["runs"][0]["steps"][2]["answer"] == HOSTILE
    assert not re.search(r"(src|href)\s*=\s*[\"'](?!data:)", text)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)


def test_without_question_answers_or_differences(write):
    blank = Image.new("RGB", (72, 72))
    some = looks()[:0]
    for path in ("full", "reuse"):
        seen = look(f"{path}.png", "", path, blank)
        some.append(type(seen)(seen.label, seen.picture, seen.encoded, seen.encode_ms))
    text, data = write(some, question=None)
    assert "A watched screen" in text
    assert 'class="question"' not in text
    (run,) = data["runs"]
    assert [step["answer"] for step in run["steps"]] == [None, None]
    assert data["maps"] == []
    assert [chart["title"] for chart in run["charts"]] == ["Time of each encode", "Done anew"]
    assert "answer" not in [name for name, _ in data["columns"]]


def test_what_was_compiled_for_does_not_set_the_axis(write):
    some = looks()
    slow = type(some[0])(**{**vars(some[0]), "encode_ms": 1e5, "compile_s": 99.0})
    chart = write([slow, *some[1:]])[1]["runs"][0]["charts"][0]
    assert chart["top"] == pytest.approx(4 * 44)


def test_pictures_are_made_smaller_until_they_fit(monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (3, 400, 1500, 3), np.uint8)
    some = [pictures.compressed(Image.fromarray(pixels)) for pixels in noise[[0, 1, 0, 2]]]
    urls, numbers = pictures.packed(some)
    assert numbers == [0, 1, 0, 2]
    assert some[0].size == (1500, 400)
    monkeypatch.setattr(pictures, "BYTES", sum(len(one.data) for one in some[:2]))
    smaller, _ = pictures.packed(some)
    assert len(smaller) == 3
    assert sum(map(len, smaller)) < sum(map(len, urls)) * 0.9
