"""The demo: its session, its numbers, its page, and what it says to bad input."""

import base64
import dataclasses
import errno
import io
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import CLIP, QWEN, ROUNDING, random_params
from tiny import FASTVITHD as TINY

import diffvis_jax as dv
from diffvis_jax.checkpoints import store
from diffvis_jax.cli import source as demo_source
from diffvis_jax.images.geometry import ImageError
from diffvis_jax.images.recording import read_recording
from diffvis_jax.measure.missed import missed_change
from diffvis_jax.measure.recording_run import run_session
from diffvis_jax.report.session_page import write_session_page
from diffvis_jax.report.text import percent
from diffvis_jax.towers import build, registry, with_size

ROOT = Path(__file__).resolve().parents[2]
SESSION = ROOT / "diffvis_jax" / "session"
FLAGS = """--visualize --num-frames --change-threshold --margin --model --weights
--size --dtype --seed --json --output --arch --film --policy --device"""


@pytest.fixture(scope="module")
def demo(script):
    return script("demo")


@pytest.fixture(scope="module")
def model(square):
    return dv.Model(square.config, square.params, "random weights")


def frames_of_a_session() -> np.ndarray:
    """A still, a small change, two idle frames, another page."""
    rng = np.random.default_rng(0)
    first, other = rng.integers(0, 256, (2, 72, 72, 3), np.uint8)
    second = first.copy()
    second[18:22, 5:12] = 255 - second[18:22, 5:12]
    return np.stack([first, second, second, second, other])


@pytest.fixture(scope="module")
def result(model):
    # A margin of 1 leaves the other half pending: there is something to miss, and to settle.
    return run_session(model, frames_of_a_session(), dv.Policy(margin=1, settle=1.0))


# ---- the numbers ------------------------------------------------------------------------------


def test_a_session_is_told_frame_by_frame(result):
    frames = result.frames
    assert [frame.path for frame in frames] == ["full", "partial", "partial", "reuse", "full"]
    assert [frame.changed_patches for frame in frames] == [0, 1, 0, 0, 25]
    assert [frame.missed_changed is None for frame in frames] == [True, False, True, True, False]
    assert frames[1].changed[1, 0]
    assert frames[1].changed.sum() == 1
    assert frames[1].cell_recomputed[1, 0] > frames[1].cell_recomputed[3, 3]
    assert 0 < frames[1].missed_changed < frames[1].missed_all < 1
    # Whatever a stage did not recompute of a changed patch's surroundings, it owes, for so long.
    stages = frames[1].stage_recomputed
    assert (stages[:, 1, 0] > 0).all()
    assert frames[1].stage_pending.max() > 0
    assert ((frames[1].age > 0) == (frames[1].stage_pending > 0).any(0)).all()
    assert not frames[0].stage_pending.any()
    np.testing.assert_allclose(frames[0].stage_recomputed.mean((1, 2)), 1, rtol=1e-5)
    # Of each patch the worst token: at least the mean over all.
    assert frames[1].token_error.shape == (5, 5)
    assert np.sqrt(np.square(frames[1].token_error).mean()) > frames[1].error > 0
    assert all(frame.step_ms > 0 and frame.full_ms > 0 for frame in frames)


def test_idle_frames_settle_to_the_full_encode(result):
    assert result.frames[1].error > 1e-4
    assert result.frames[1].pending > 0
    assert result.frames[2].error < ROUNDING
    assert result.frames[2].pending == 0
    assert result.frames[3].recomputed == 0


def test_an_exact_policy_misses_nothing(model):
    exact = run_session(model, frames_of_a_session(), dv.Policy.exact())
    assert max(f.missed_all for f in exact.frames if f.missed_all is not None) < 1e-3


def test_the_summary_adds_up(result):
    summary, rest = result.summary(), result.frames[1:]
    assert summary["paths"] == {"reuse": 1, "partial": 2, "full": 1}
    assert summary["settling"] == 1
    total = sum(f.full_ms for f in rest) / sum(f.step_ms for f in rest)
    assert summary["speed_up"] == pytest.approx(total)
    assert summary["missed_all"]["max"] == max(rest[0].missed_all, rest[3].missed_all)
    assert summary["step_ms"]["max"] == max(f.step_ms for f in rest)


def test_missed_change_is_0_when_exact_and_1_when_nothing_was_done():
    full, before = np.ones((4, 2)), np.zeros((4, 2))
    assert missed_change(full, full, before) == 0
    assert missed_change(before, full, before) == 1
    assert missed_change(full, full, full) is None


# ---- recordings -------------------------------------------------------------------------------


def test_the_bundled_session_is_what_it_says():
    recording = read_recording(SESSION)
    assert len(set(recording.paths)) >= 16
    assert all(recording.labels)
    assert sum(path.stat().st_size for path in SESSION.iterdir()) < 4e6
    assert set(SESSION.glob("*.png")) == set(recording.paths)
    for path in set(recording.paths):
        with Image.open(path) as image:
            assert (image.format, image.size) == ("PNG", (1920, 1080))
    assert any(a == b for a, b in zip(recording.paths, recording.paths[1:], strict=False))


def test_frames_are_sorted_as_people_count(tmp_path):
    for name in ("frame_10.png", "frame_2.png", "1.JPG", "notes.txt", ".hidden.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name, "png")
    names = [path.name for path in read_recording(tmp_path).paths]
    assert names == ["1.JPG", "frame_2.png", "frame_10.png"]


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("{", "does not read"),
        ('{"steps": 3}', "does not read"),
        ('{"steps": [{"label": "no frame"}]}', "does not read"),
        ('{"steps": []}', "no frames"),
        ('{"steps": [{"frame": "gone.png"}]}', "gone.png"),
    ],
)
def test_a_broken_script_is_refused(tmp_path, script, message):
    (tmp_path / "session.json").write_text(script)
    with pytest.raises(ImageError, match=message):
        read_recording(tmp_path)


# ---- the page ---------------------------------------------------------------------------------


def test_the_page_is_self_contained_and_holds_the_numbers(tmp_path, model, result):
    paths = []
    for index, frame in enumerate(frames_of_a_session()[[0, 1, 4]]):
        paths.append(tmp_path / f"{index}.png")
        Image.fromarray(frame).save(paths[-1])
    labels = ["start", "</script><b>", "wait", "wait", "<!--CSS-->"]
    order = [paths[0], paths[1], paths[1], paths[1], paths[2]]
    page = write_session_page(
        tmp_path / "page.html",
        {"</script><b>": result},
        order,
        labels,
        model.config,
        title="A & B",
        notes=["<note>"],
    ).read_text(encoding="utf-8")
    assert not re.search(r"(src|href)\s*=\s*[\"'](?!data:)", page)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", page)
    assert "A &amp; B" in page
    assert "&lt;note&gt;" in page
    embedded = re.search(r'id="data">(.*?)</script>', page, re.DOTALL)
    assert embedded is not None
    data = json.loads(embedded[1])
    assert [screen["label"] for screen in data["screens"]] == labels
    assert [screen["picture"] for screen in data["screens"]] == [0, 1, 1, 1, 2]
    (run,) = data["runs"]
    assert run["name"] == "</script><b>"
    assert [step["changed"] for step in run["steps"][:2]] == [[], [5]]
    assert all(len(step["cells"]) == len(data["columns"]) for step in run["steps"])
    assert all(len(step["maps"]) == len(data["maps"]) for step in run["steps"])
    assert not {"-", "0"} & {value for value, _ in run["tiles"]}
    missed = percent(result.frames[1].missed_changed)
    assert f"; {missed} of the change at changed tokens missed" in run["steps"][1]["verdict"]
    assert ["missed", missed] in run["steps"][1]["facts"]
    assert data["screens"][1]["grids"] == [
        {"count": 5, "left": 0, "top": 0, "width": 16, "height": 16}
    ]
    kind, content = data["pictures"][1].split(";base64,")
    assert kind.startswith("data:image/")
    assert Image.open(io.BytesIO(base64.b64decode(content))).size == (72, 72)


# ---- the command ------------------------------------------------------------------------------


def test_the_command_runs_from_end_to_end(demo, model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "random_config", lambda args: model.config)
    monkeypatch.setattr(dv, "init_params", random_params)
    out, numbers = tmp_path / "out", tmp_path / "numbers.json"
    status = demo.main(
        [
            *("--arch", "fastvithd", "--num-frames", "3", "--margin", "1,2"),
            *("--output", str(out), "--json", str(numbers)),
        ]
    )
    printed = capsys.readouterr().out
    assert status == 0
    assert "random weights" in printed
    assert 'type "u"' in printed
    content = json.loads(numbers.read_text())
    assert content["frames"][0]["path"] == "full"
    assert len(content["frames"]) == 3
    assert content["policy"]["margin"] == [1, 2]
    assert sorted(path.name for path in out.iterdir()) == [
        "frame_000.png", "frame_001.png", "frame_002.png", "index.html",
    ]  # fmt: skip


def test_several_policies_are_told_one_after_the_other(demo, model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "random_config", lambda args: model.config)
    monkeypatch.setattr(dv, "init_params", random_params)
    out, numbers = tmp_path / "out", tmp_path / "numbers.json"
    command = ["--arch", "fastvithd", "--num-frames", "2", "--policy", "exact, 0"]
    assert demo.main([*command, "--output", str(out), "--json", str(numbers)]) == 0
    printed = capsys.readouterr().out
    assert printed.index("exact: margin unlimited") < printed.index("margin 0: margin 0, change")
    assert printed.count("frames after the first") == 2
    content = json.loads(numbers.read_text())
    assert "frames" not in content
    assert list(content["policies"]) == ["exact", "margin 0"]
    exact, least = content["policies"].values()
    assert exact["policy"]["margin"] != least["policy"]["margin"]
    assert len(exact["frames"]) == least["summary"]["frames"] == 2
    page = (out / "index.html").read_text()
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])  # type: ignore[index]
    assert [run["name"] for run in data["runs"]] == ["exact", "margin 0"]
    assert len(data["pictures"]) == 2


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["clip", "qwen2_5_vl"])
def test_any_architecture_may_have_random_weights(demo, arch, tmp_path, monkeypatch, capsys):
    tiny = {"clip": CLIP, "qwen2_5_vl": QWEN}[arch]
    monkeypatch.setitem(registry.ARCHITECTURES, arch, tiny)
    numbers = tmp_path / "numbers.json"
    command = ["--arch", arch, "--num-frames", "3", "--policy", "exact", "--json", str(numbers)]
    bound = ["--max-pixels", "4000"] * (arch == "qwen2_5_vl")
    assert demo.main([*command, *bound, "--output", str(tmp_path / "out")]) == 0
    assert "random" in capsys.readouterr().out
    content = json.loads(numbers.read_text())
    assert content["frames"][0]["path"] == "full"
    assert max(frame["error"] for frame in content["frames"]) < ROUNDING
    if bound:  # pictures of 16:9
        bounded = dataclasses.replace(tiny, max_pixels=4000)
        size = dv.frame_size(1920, 1080, bounded)
        assert content["frames"][0]["total_patches"] == build(with_size(tiny, size)).cells


@pytest.mark.usefixtures("no_work")
def test_a_size_of_its_own_and_a_bound_are_told_apart(demo, capsys):
    said = complaint(demo, capsys, "--arch", "qwen2_5_vl", "--size", "512")
    assert "--max-pixels" in said
    said = complaint(demo, capsys, "--arch", "fastvithd", "--max-pixels", "4000")
    assert "have one size" in said
    assert "fastvithd, clip, qwen2_5_vl" in complaint(demo, capsys, "--arch", "resnet")


@pytest.mark.usefixtures("no_work")
def test_one_frame_shows_no_change(demo, capsys):
    said = complaint(demo, capsys, "--arch", "clip", str(SESSION / "frame_00.png"))
    assert "one frame shows no change: give at least two" in said
    said = complaint(demo, capsys, "--arch", "clip", "--max-frames", "1")
    assert "give at least two" in said


@pytest.mark.slow
def test_weights_with_a_head_show_what_can_be_clicked(demo, grounding_model, tmp_path, capsys):
    head = grounding_model.head
    store.save(
        tmp_path / "trained",
        config=TINY,
        params=grounding_model.params,
        grounding_config=head.config,
        grounding_params=head.params,
    )
    out, numbers = tmp_path / "out", tmp_path / "numbers.json"
    command = ["--weights", str(tmp_path / "trained"), "--num-frames", "3", "--policy", "exact"]
    out.mkdir()
    for name in ("frame_007.png", "frame_of_mine.png"):
        (out / name).write_text("of a longer run, or the user's own")
    film = tmp_path / "film.webp"
    more = ("--json", str(numbers), "--film", str(film))
    assert demo.main([*command, "--output", str(out), *more]) == 0
    assert sorted(path.name for path in out.glob("*.png")) == [
        *(f"frame_00{index}.png" for index in range(3)),
        "frame_of_mine.png",
    ]
    with Image.open(film) as moving, Image.open(out / "frame_000.png") as first_picture:
        assert moving.n_frames == 3
        assert moving.width == first_picture.width
        assert moving.height > first_picture.height  # the captions
    printed = capsys.readouterr().out
    assert re.search("clickable elements: exactly those of a full encode in [0-2] of 2", printed)
    first = json.loads(numbers.read_text())["frames"][0]
    # Rounding alone may push a random answer over the threshold.
    assert first["elements_both"] > 50 * (first["elements_lost"] + first["elements_added"])
    page = (out / "index.html").read_text()
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])  # type: ignore[index]
    detected = first["elements_both"] + first["elements_added"]
    marks = data["runs"][0]["steps"][0]["marks"][1]
    assert 0 < len(marks) <= detected  # some may lie in the padding
    left, top, right, bottom, kind = marks[0]
    width, height = data["screens"][0]["size"]
    assert 0 <= left <= right <= width
    assert 0 <= top <= bottom <= height
    assert kind.replace(" ", "_") in head.config.kinds


@pytest.fixture
def no_work(demo, monkeypatch):
    """Fails a test that gets as far as drawing weights."""

    def refuse(*args, **kwargs):
        raise AssertionError("work has begun")

    monkeypatch.setattr(dv, "init_params", refuse)


def complaint(demo, capsys, *arguments: str) -> str:
    """Runs the command, which has to fail; returns the one line it says."""
    try:
        status = demo.main(list(arguments))
    except SystemExit as stop:
        status = stop.code
    captured = capsys.readouterr()
    assert status not in (0, None)
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    return captured.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("--num-frames", "0"),
        ("--num-frames", "many"),
        ("--change-threshold", "1.5"),
        ("--change-threshold", "nan"),
        ("--margin", "1,x"),
        ("--margin=-1",),
        ("--margin", "1,2"),
        ("--margin", "1,,2"),
        ("--margin", ""),
        ("--size", "0"),
        ("--size", "big"),
        ("--dtype", "int8"),
        ("--seed", "-1"),
        ("--seed", "1"),  # of weights that are not drawn
        ("--weights", "no-such-weights"),
        ("--weights", "no-such-weights", "--arch", "fastvithd"),
        ("--arch", "resnet"),
        ("--frames", "no/such/directory"),
        ("--frames", __file__),
        ("--json", "no/such/directory/numbers.json"),
        ("--json", "."),
        ("--film", "film.mp4"),
        ("--film", "no/such/directory/film.webp"),
        ("--film", "film.webp", "--no-visualize"),
        ("--policy", "fastest"),
        ("--policy", "fast,fastest"),
        ("--policy", "fast,"),
        ("--output", __file__),
        ("--nonsense",),
    ],
)
@pytest.mark.usefixtures("no_work")
def test_nonsense_is_refused_in_one_line(demo, capsys, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    complaint(demo, capsys, *arguments)


@pytest.mark.parametrize("text", ["1,1,2.5,4,8", "1 1 2.5 4 8", "1, 1, 2.5, 4, 8"])
def test_margins_of_stages_are_separated_as_one_likes(demo, text):
    assert demo.build_parser().parse_args(["--margin", text]).margin == (1, 1, 2.5, 4, 8)


@pytest.mark.usefixtures("no_work")
def test_bad_frames_are_named(demo, capsys, tmp_path):
    output = ("--output", str(tmp_path / "out"), "--arch", "fastvithd")
    frames = tmp_path / "frames"
    frames.mkdir()
    assert "no images" in complaint(demo, capsys, "--frames", str(frames), *output)
    Image.new("RGB", (300, 200)).save(frames / "a.png")
    (frames / "b.png").write_text("not an image")
    assert "b.png" in complaint(demo, capsys, "--frames", str(frames), *output)
    whole = (frames / "a.png").read_bytes()
    (frames / "b.png").write_bytes(whole[: len(whole) // 2])
    assert "b.png" in complaint(demo, capsys, "--frames", str(frames), *output)


def test_the_help_names_every_flag(demo, capsys):
    with pytest.raises(SystemExit):
        demo.main(["--help"])
    said = capsys.readouterr().out
    assert set(FLAGS.split()) <= set(re.findall(r"--[a-z-]+", said))
    assert "SOURCE" in said


def test_a_source_goes_by_its_place_or_by_its_old_flag(demo):
    parse = demo.build_parser().parse_args
    assert parse([]).frames == demo_source.BUNDLED
    for given in (["shots"], ["--frames", "shots"], ["--max-frames", "2", "shots"]):
        assert parse(given).frames == Path("shots")


def test_a_full_disk_says_what_to_do(script, monkeypatch, capsys):
    def full(args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    demo = script("demo")
    monkeypatch.setattr(demo, "run", full)
    assert demo.main([]) == 2
    said = capsys.readouterr().err
    assert said.endswith("make room where results are written, or name another place\n")
    assert said.count("\n") == 1
