"""The rendered screens that a grounding head is trained on, checked without a browser."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffvis_jax.grounding.decode import Element
from diffvis_jax.grounding.head import KINDS, HeadConfig
from diffvis_jax.images.geometry import PreprocessConfig
from diffvis_jax.images.preprocess import preprocess

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "tests" / "data" / "screens_sample"
PAGES = sorted(path for path in SAMPLE.glob("*/*/*.json") if path.name != "trajectory.json")
STREAMS = sorted(SAMPLE.glob("streams/*/trajectory.json"))


def check_elements(elements, width, height):
    for element in elements:
        left, top, right, bottom = element["box"]
        assert element["kind"] in KINDS
        assert 0 <= left <= right - 4 <= width - 4
        assert 0 <= top <= bottom - 4 <= height - 4


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.parent.name)
def test_description_fits_picture(path, training):
    templates = training("page_templates")
    record = json.loads(path.read_text())
    assert record.keys() == {*("family", "seed", "split", "width", "height", "elements", "cursor")}
    split, family, name = path.relative_to(SAMPLE).with_suffix("").parts
    assert (record["split"], record["family"], str(record["seed"])) == (split, family, name)
    assert family in templates.families_of(split)
    with Image.open(path.with_suffix(".png")) as picture:
        assert picture.size == (record["width"], record["height"])
    assert record["elements"]
    check_elements(record["elements"], record["width"], record["height"])


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.parent.name)
def test_page_of_seed_is_the_one_rendered(path, training):
    """As far as can be told without rendering: the same viewport and the same cursor."""
    record = json.loads(path.read_text())
    page = training("page_templates").make_page(record["family"], record["seed"])
    assert (page.width, page.height) == (record["width"], record["height"])
    assert (list(page.cursor) if page.cursor else None) == record["cursor"]


@pytest.mark.parametrize("path", STREAMS, ids=lambda path: path.parent.name)
def test_stream_names_what_happened(path, training):
    record = json.loads(path.read_text())
    assert record["frames"][0]["action"] == "start"
    for frame in record["frames"]:
        with Image.open(path.parent / frame["file"]) as picture:
            assert picture.size == (record["width"], record["height"])
        check_elements(frame["elements"], record["width"], record["height"])
        x, y = frame["cursor"]
        assert 0 <= x < record["width"]
        assert 0 <= y < record["height"]


def test_sample_has_every_split_and_most_kinds():
    records = [json.loads(path.read_text()) for path in PAGES]
    assert {record["split"] for record in records} == {"train", "val", "test"}
    kinds = {element["kind"] for record in records for element in record["elements"]}
    assert len(kinds) >= 7
    assert STREAMS


def test_held_out_families_stay_out(training):
    templates = training("page_templates")
    assert len(templates.TEST_FAMILIES) >= 5
    assert len(templates.TRAINING_FAMILIES) + len(templates.TEST_FAMILIES) >= 20
    seen = {*templates.families_of("train"), *templates.families_of("val")}
    assert not seen & set(templates.families_of("test"))
    # Pages embed other pages; none may embed one that is kept for testing.
    desktop = training("families_desktop")
    assert not {family.__name__ for family in desktop.UNDER} & set(templates.TEST_FAMILIES)


def test_splits_never_share_a_seed(training):
    seeds_of = training("render_pages").seeds_of
    drawn = [seed for split in ("train", "val", "test") for _, seed in seeds_of(split, 0, 500)]
    assert len(set(drawn)) == len(drawn) == 1500


def test_some_families_alone(training, capsys):
    render = training("render_pages")
    drawn = render.seeds_of("train", 40, 5, ("news", "meeting"))
    assert drawn == [(("news", "meeting")[i % 2], 40 + i) for i in range(5)]
    for options, wrong in (
        (["--families", "nonsense", "--train", "1"], "'nonsense'"),
        # A family that is kept for testing is not to be trained on.
        (["--families", "kanban", "--train", "1"], "'kanban'"),
        (["--families", "news", "--test", "1"], "all their families"),
    ):
        with pytest.raises(SystemExit):
            render.main(["out", *options])
        assert wrong in capsys.readouterr().err


def test_what_cannot_be_rendered_is_said(training, tmp_path, capsys):
    render = training("render_pages")
    out = tmp_path / "out"
    for options, wrong in (
        (["--train", "-1"], "--train must be at least 0"),
        (["--train", "1", "--tabs", "0"], "--tabs must be at least 1"),
        ([], "nothing to render"),
    ):
        with pytest.raises(SystemExit):
            render.main([str(out), *options])
        assert wrong in capsys.readouterr().err
    assert not out.exists()
    out.touch()
    assert render.main([str(out), "--train", "1"]) == 2
    assert f"'{out}'" in capsys.readouterr().err


def test_html_depends_on_family_and_seed_only(training):
    templates = training("page_templates")
    for family in (*templates.TRAINING_FAMILIES, *templates.TEST_FAMILIES):
        once, again, other = (templates.make_page(family, seed) for seed in (3, 3, 4))
        assert once == again
        assert once.html != other.html


def test_unseen_documentation_is_told_by_its_name(training):
    documentation = training("documentation")
    names = [f"/usr/share/doc/package{index}/html" for index in range(60)]
    assert 10 <= sum(map(documentation.is_unseen, names)) <= 35


def test_documentation_split_has_no_common_file(training, tmp_path):
    documentation, templates = training("documentation"), training("page_templates")
    for package in range(12):
        folder = tmp_path / f"package{package}"
        folder.mkdir()
        for index in range(5):
            (folder / f"{index}.html").write_text("x" * documentation.SMALLEST)
    roots = (str(tmp_path / "*"),)

    def files(family):
        return {documentation.choose_file(family, seed, roots) for seed in range(80)}

    seen, unseen = files(templates.DOCUMENTATION), files(templates.UNSEEN_DOCUMENTATION)
    assert not seen & unseen


def test_missing_browser_is_named(training, monkeypatch):
    browser = training("browser")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SystemExit, match="Chromium"):
        browser.chromium_path()


def test_kinds_are_those_the_script_in_the_page_knows(training):
    known = set(re.findall(r'"([a-z_]+)"', training("browser").ELEMENTS))
    assert set(KINDS) <= known


def test_a_crop_shows_the_frame_and_the_targets_lie_on_its_elements(training):
    screens = training("screens")
    path = SAMPLE / "train" / "login" / "46.png"
    config = PreprocessConfig(size=256)
    screen = screens.Screen(path, config, KINDS)
    frame = np.asarray(preprocess(path, config))[0]
    np.testing.assert_array_equal(screen.pixels, frame)
    beyond = screen.crop(200, -8, 64)
    np.testing.assert_array_equal(beyond[8:, :56], frame[:56, 200:])
    assert not beyond[:8].any()
    assert not beyond[:, 56:].any()
    head = HeadConfig(token_width=8)
    pixels, target = screens.example(screen, 0, 128, 128, head)
    np.testing.assert_array_equal(pixels, frame[128:, :128])
    asked = target["object"] > 0
    assert asked.any()
    # Every box that is asked for is one of the page's, moved with the crop and cut at its edge.
    known = (screen.boxes - [0, 128, 0, 128]).clip(0, 128)
    for box in target["box"][asked]:
        assert np.abs(known - box).max(1).min() < 1e-3


def first_page(training, size=512):
    path = next(path for path in PAGES if path.parent.parent.name == "train").with_suffix(".png")
    return training("screens").Screen(path, PreprocessConfig(size=size), KINDS)


def test_a_resized_crop_has_resized_targets(training):
    screens, head = training("screens"), HeadConfig(token_width=8)
    screen = first_page(training)
    left, top = 0, 112  # where the page begins in the square
    as_it_is = screens.example(screen, left, top, 256, head)[0]
    half, target = screens.example(screen, left, top, 256, head, 128)
    assert half.shape == (128, 128, 3)
    assert abs(half.mean() - as_it_is.mean()) < 2
    asked = target["object"] > 0
    assert asked.any()
    known = (screen.boxes - [left, top, left, top]).clip(0, 256) / 2
    for box in target["box"][asked]:
        assert np.abs(known - box).max(1).min() < 1e-3


def test_crops_are_those_of_their_seed_and_aim_at_elements(training, monkeypatch):
    screens, head = training("screens"), HeadConfig(token_width=8)
    screen = first_page(training, 1024)
    batches = [next(screens.random_crops([screen], 128, 40, head, seed)) for seed in (1, 1, 2)]
    once, again, other = (batch["pixels"] for batch in batches)
    np.testing.assert_array_equal(once, again)
    assert not np.array_equal(once, other)
    monkeypatch.setattr(screens, "AIMED", 0)
    uniform = next(screens.random_crops([screen], 128, 40, head, 1))
    filled = [(batch["object"] > 0).any((1, 2)).mean() for batch in (batches[0], uniform)]
    assert filled[0] > filled[1] + 0.1


def test_every_so_many_batches_say_what_was_there_before(training):
    screens, head = training("screens"), HeadConfig(token_width=8)
    batches = screens.random_crops([first_page(training)], 128, 4, head, 1, change_every=3)
    first, second, third, fourth = (next(batches) for _ in range(4))
    assert not any("before" in batch for batch in (first, second, fourth))
    assert {len(a) for a in third.values()} == {2}
    assert third["pixels"].shape == third["before"].shape
    differs = (third["pixels"] != third["before"]).any(-1)
    assert (differs.mean((1, 2)) < 0.9).all()
    assert differs.any()


def test_score_of_perfect_and_of_missing_detections(training):
    score = training("score")
    path = SAMPLE / "train" / "login" / "46.png"
    screen = training("screens").Screen(path, PreprocessConfig(size=1024), KINDS)
    right = [
        Element(tuple(box), KINDS[kind], 0.9)
        for box, kind in zip(screen.boxes.tolist(), screen.kinds, strict=True)
    ]
    head = HeadConfig(token_width=8)
    found = score.measure(head, [right], [screen])
    assert (found["f1"], found["click"], found["kind"]) == (1, 1, 1)
    found = score.measure(head, [[]], [screen])
    assert (found["f1"], found["click"]) == (0, 0)
    assert found["elements"] > 0
