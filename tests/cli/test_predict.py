"""`diffvis predict`, end to end: a tiny FastVLM as PyTorch wrote it, and screenshots."""

import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from checkpoint_files import DATA
from PIL import Image
from tiny import FASTVITHD, ROUNDING, random_params
from vlm_files import HEIGHT, WIDTH, changed, screen, write_checkpoint, write_frames

from diffvis_jax.checkpoints import store
from diffvis_jax.checkpoints.conversion_cache import weight_directory
from diffvis_jax.errors import CheckpointError
from diffvis_jax.images.geometry import PreprocessConfig, placement

# One of the folders holds no frames, which is told.
pytestmark = pytest.mark.filterwarnings("default:.*without frames:UserWarning")

FLAGS = """--model-path --image-file --image-sequence --image-dir --sequence-root --sequence-limit
--prompt --prompt-style --conv-mode --temperature --top-p --num-beams --max-new-tokens
--disable-differential --diff-threshold --diff-max-changed-patches --diff-patch-size
--diff-skip-small --diff-print-stats --policy --benchmark --save-heatmap --heatmap-layer
--heatmap-layer-avg-k --heatmap-alpha --heatmap-mode --force-pad-aspect --output-json --strict
--history --compress --token-budget --history-layout --history-tolerance --layer-keep --page"""

NO_REGIONS = ("--click-regions", 0)  # they need the attention to all tokens


@pytest.fixture(scope="module")
def predict(script):
    return script("predict")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A checkpoint, sequences, and a cache of conversions of this module's own."""
    base = tmp_path_factory.mktemp("predict")
    write_checkpoint(base / "tiny")
    first = screen()
    frames = {"f_1.png": first, "f_2.png": changed(first), "f_10.png": changed(first)}
    write_frames(base / "root" / "one", frames)
    write_frames(base / "root" / "two", {"a.png": first, "b.png": screen(1)})
    (base / "root" / "none").mkdir()
    write_frames(base / "broken", frames)
    (base / "broken" / "f_3.png").write_bytes(b"no picture")
    before, os.environ["DIFFVIS_CACHE"] = os.environ.get("DIFFVIS_CACHE"), str(base / "cache")
    yield base
    if before is None:
        del os.environ["DIFFVIS_CACHE"]
    else:
        os.environ["DIFFVIS_CACHE"] = before


@pytest.fixture(scope="module")
def call(predict, place):
    """Runs the script on the checkpoint -> (status, document)."""

    def run(*arguments, model="tiny"):
        target = place / "out.json"
        target.unlink(missing_ok=True)
        options = ["--model-path", place / model, "--max-new-tokens", 6, "--output-json", target]
        options += ["--click-regions", 1]  # everywhere, so that one set of programs is compiled
        status = predict.main([str(part) for part in (*options, *arguments)])
        return status, json.loads(target.read_text()) if target.exists() else None

    return run


@pytest.fixture(scope="module")
def compared(call, place):
    """Everything at once, on a sequence with a picture that cannot be read."""
    return call(
        *("--image-dir", place / "broken", "--policy", "exact", "--benchmark"),
        *("--prompt-style", "pyautogui", "--click-regions", 2, "--diff-print-stats"),
        *("--save-heatmap", place / "heat", "--heatmap-layer-avg-k", 2, "--heatmap-mode", "tile"),
        *("--page", place / "page.html"),
    )


@pytest.fixture(scope="module")
def in_full(call, place):
    """The same answers, all computed afresh."""
    return call(
        *("--image-dir", place / "broken", "--disable-differential"),
        *("--prompt-style", "pyautogui"),
    )[1]


# ---- answers ----------------------------------------------------------------------------------


def test_every_flag_is_explained(predict, capsys):
    with pytest.raises(SystemExit) as ended:
        predict.main(["--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert [flag for flag in FLAGS.split() if flag not in said] == []


@pytest.mark.slow
def test_frames_come_in_natural_order_and_say_what_was_done(compared):
    status, document = compared
    assert status == 0
    assert document["complete"]
    (sequence,) = document["sequences"]
    frames = sequence["frames"]
    assert [Path(frame["file"]).name for frame in frames] == ["f_1.png", "f_2.png", "f_10.png"]
    assert [frame["encode"]["path"] for frame in frames] == ["full", "partial", "reuse"]
    # The box lies across the border of two patches, which are 80 px of the screen.
    assert [frame["encode"]["changed_patches"] for frame in frames] == [0, 1, 0]
    assert [frame["encode"]["total_patches"] for frame in frames] == [16] * 3
    assert [frame["prefill"]["path"] for frame in frames][::2] == ["full", "reuse"]
    assert frames[2]["prefill"]["prefilled"] == 0
    for frame in frames:
        assert frame["new_tokens"] == 6
        steps = ("encode_ms", "prefill_ms", "first_token_ms")
        assert all(frame[name] > 0 for name in (*steps, "token_ms"))
        assert frame["time_to_first_token_ms"] == pytest.approx(sum(frame[n] for n in steps))
    assert sequence["stats"]["partial_encodes"] == 1
    assert sequence["stats"]["prompts_reuse"] == 1


@pytest.mark.slow
def test_an_unreadable_frame_is_left_out_and_counted(compared):
    document = compared[1]
    (left_out,) = document["left_out"]
    assert Path(left_out["file"]).name == "f_3.png"
    assert document["summary"]["left_out"] == 1
    assert document["summary"]["frames"] == 3


@pytest.mark.slow
def test_the_text_is_the_same_with_and_without_the_differential_encoder(compared, in_full):
    ours = compared[1]["sequences"][0]["frames"]
    theirs = in_full["sequences"][0]["frames"]
    assert [frame["text"] for frame in ours] == [frame["text"] for frame in theirs]
    assert {frame["encode"]["path"] for frame in theirs} == {"full"}
    assert {frame["prefill"]["path"] for frame in theirs} == {"full"}
    assert all(frame["prefill"]["prefilled"] == frame["prefill"]["total"] for frame in theirs)


@pytest.mark.slow
def test_the_comparison_is_of_both_ways_in_one_run(compared):
    document = compared[1]
    frames = document["sequences"][0]["frames"]
    for frame in frames:
        both = frame["comparison"]
        assert both["same_text"]
        assert both["full"]["encode"]["path"] == "full"
        assert both["full"]["text"] == frame["text"]
        assert both["logits_error"] < 1e-4
        assert both["prefill_error"] < ROUNDING
    assert [frame["comparison"]["missed_changed"] is None for frame in frames] == [
        *(True, False, True)
    ]
    assert frames[1]["comparison"]["missed_all"] < 1e-3
    found = document["summary"]
    assert found["warm_up_compile_s"] > 0
    assert found["frames_compiling"] == 0  # all was compiled beforehand
    assert found["comparison"]["frames"] == found["typical_frames"] == 2
    row = found["comparison"]["time_to_first_token_ms"]
    assert row["speed_up"] == pytest.approx(row["full"]["median"] / row["differential"]["median"])
    assert found["comparison"]["same_text"] == 2
    encode = found["comparison"]["encode_ms"]["differential"]
    assert found["medians"]["encode_ms"] == encode["median"] <= encode["max"]


@pytest.mark.slow
def test_a_policy_that_leaves_something_out_is_told_so(call, place):
    document = call(
        *("--image-dir", place / "root" / "one", "--policy", "0", "--benchmark"),
        *("--prefill", "bounded", "--prefill-refresh", 0),
    )[1]
    second = document["sequences"][0]["frames"][1]
    assert 0.1 < second["comparison"]["missed_all"] < 1.2
    assert second["comparison"]["logits_error"] > 1e-4
    assert second["prefill"]["prefilled"] < second["prefill"]["total"]


@pytest.mark.slow
def test_heatmaps_are_drawn_onto_the_screenshots(compared, place):
    frames = compared[1]["sequences"][0]["frames"]
    files = [Path(frame["heatmap"]) for frame in frames]
    assert sorted(files) == sorted((place / "heat").iterdir())
    for frame, file in zip(frames, files, strict=True):
        with Image.open(file) as drawn, Image.open(frame["file"]) as original:
            assert drawn.size == original.size == (WIDTH, HEIGHT)
            assert not np.array_equal(np.asarray(drawn), np.asarray(original))


@pytest.mark.slow
def test_a_page_holds_what_the_document_holds(compared, place):
    text = (place / "page.html").read_text()
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])  # type: ignore[index]
    frames = compared[1]["sequences"][0]["frames"]
    assert [screen["label"] for screen in data["screens"]] == ["f_1.png", "f_2.png", "f_10.png"]
    (run,) = data["runs"]
    for step, frame in zip(run["steps"], frames, strict=True):
        assert step["answer"] == frame["text"]
        assert step["other"] is None
        assert len(step["changed"]) == frame["encode"]["changed_patches"]
        assert len(step["marks"][0]) == len(frame["click_regions"])
    assert len(data["maps"]) == 2  # where it looks, too
    assert ["3", "frames answered"] in run["tiles"]
    assert ["1", "left out"] in run["tiles"]
    assert "Describe the image." in text


@pytest.mark.slow
def test_click_regions_are_pixels_of_the_screenshot(compared):
    for frame in compared[1]["sequences"][0]["frames"]:
        assert 1 <= len(frame["click_regions"]) <= 2
        for region in frame["click_regions"]:
            left, top, right, bottom = region["box"]
            x, y = region["pixel"]
            assert 0 <= left <= x < right <= WIDTH
            assert 0 <= top <= y < bottom <= HEIGHT


@pytest.mark.slow
def test_one_picture_is_answered_too(call, place, capsys):
    file = place / "root" / "one" / "f_1.png"
    status, document = call("--image-file", file, "--save-heatmap", place / "one.png")
    assert status == 0
    (frame,) = document["sequences"][0]["frames"]
    assert capsys.readouterr().out.startswith(frame["text"][:1])  # streamed, bare
    with Image.open(place / "one.png") as drawn:
        assert drawn.size == (WIDTH, HEIGHT)
    assert document["summary"]["typical_frames"] == 0


@pytest.mark.slow
def test_every_sequence_starts_afresh(call, place):
    document = call("--sequence-root", place / "root")[1]
    assert [sequence["name"] for sequence in document["sequences"]] == ["one", "two"]
    for sequence in document["sequences"]:
        first = sequence["frames"][0]
        assert (first["encode"]["path"], first["prefill"]["path"]) == ("full", "full")
        assert sequence["stats"]["total_frames"] == len(sequence["frames"])
    document = call("--sequence-root", place / "root", "--sequence-limit", 1)[1]
    assert [sequence["name"] for sequence in document["sequences"]] == ["one"]


@pytest.mark.slow
def test_files_by_name_stay_in_their_order(call, place):
    folder = place / "root" / "one"
    files = [folder / name for name in ("f_10.png", "f_1.png")]
    document = call("--image-sequence", *files, "--diff-threshold", 1, "--diff-skip-small")[1]
    frames = document["sequences"][0]["frames"]
    assert [frame["file"] for frame in frames] == list(map(str, files))
    assert [frame["encode"]["path"] for frame in frames] == ["full", "reuse"]


@pytest.mark.slow
def test_beams_know_no_first_token(call, place):
    document = call("--image-file", place / "root" / "one" / "f_1.png", "--num-beams", 2)[1]
    (frame,) = document["sequences"][0]["frames"]
    assert frame["first_token_ms"] is None
    assert frame["time_to_first_token_ms"] is None
    assert frame["new_tokens"] == 6


@pytest.mark.slow
def test_chance_can_be_repeated(call, place):
    file = place / "root" / "one" / "f_1.png"
    options = ("--temperature", 5.0, "--top-p", 0.9)
    texts = [
        call("--image-file", file, *options, "--seed", seed)[1]["sequences"][0]["frames"][0]["text"]
        for seed in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]


def test_commands_in_answers_become_pixels(script):
    read = script("predict_output").read_commands
    where = placement(WIDTH, HEIGHT, PreprocessConfig(size=256))
    found = read("click(0.5, 0.5)\nmove(10, 0)\nwrite('a')\nclick(999, 5)", None, where)["actions"]
    assert [action["action"] for action in found] == ["Click", "MoveBy", "Write", "Click"]
    assert found[0]["pixel"] == (160, 90)
    assert found[0]["point"] == {"x": 0.5, "y": 0.5, "space": "screen_share"}
    assert found[1]["pixels"] == (10, 0)
    assert "outside the screenshot" in found[3]["error"]
    assert read("click(127.5, 127.5)", "input", where)["actions"][0]["pixel"] == (160, 90)
    assert "cut off" in read("pyautogui.click(1", None, where)["action_error"]


# ---- what goes wrong --------------------------------------------------------------------------


@pytest.mark.slow
def test_strict_stops_at_a_frame_that_cannot_be_read(call, place, capsys):
    status, document = call("--image-dir", place / "broken", "--strict")
    assert status == 2
    assert "f_3.png" in capsys.readouterr().err
    assert not document["complete"]
    assert len(document["sequences"][0]["frames"]) == 2  # what was done is kept


@pytest.mark.slow
def test_an_interrupted_run_keeps_what_it_has(call, place, monkeypatch, capsys):
    from diffvis_jax.agent import answering

    answer, seen = answering.Answerer.answer, []

    def interrupted(self, frame, *rest):
        seen.append(frame)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return answer(self, frame, *rest)

    monkeypatch.setattr(answering.Answerer, "answer", interrupted)
    status, document = call("--sequence-root", place / "root")
    assert status == 130
    assert not document["complete"]
    assert [len(sequence["frames"]) for sequence in document["sequences"]] == [2]
    assert document["summary"]["frames"] == 2
    assert "2 frames answered" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--image-dir", "nowhere"), "no such directory: 'nowhere'"),
        (("--image-file", "nothing.png"), "no such file: 'nothing.png'"),
        (("--image-dir", "ROOT/one", "--sequence-limit", 2), "--sequence-limit counts"),
        (("--sequence-root", "ROOT/one"), "no directory with images"),
        (("--image-dir", "ROOT/one", "--diff-patch-size", 24), "are 64 pixels wide"),
        (("--image-dir", "ROOT/one", "--policy", "fastest"), "no policy 'fastest'"),
        (("--image-dir", "ROOT/one", "--conv-mode", "llama"), "no conversation template 'llama'"),
        (("--image-dir", "ROOT/one", "--max-new-tokens", 9000), "do not fit into a context"),
        (("--image-dir", "ROOT/one", "--prompt", "<image> <image>"), "2 <image> marks"),
        (("--image-dir", "ROOT/one", "--save-heatmap", "one.png"), "need a directory"),
        (
            ("--image-dir", "ROOT/one", "--save-heatmap", "x", "--heatmap-layer", 9),
            "layer 9 does not exist: there are 3",
        ),
        (("--image-dir", "ROOT/one", "--num-beams", 2, "--temperature", 1), "temperature 0"),
        (("--image-dir", "ROOT/one", "--top-p", 0.9), "give a --temperature above 0 too"),
        (
            ("--image-dir", "ROOT/one", "--benchmark", "--disable-differential"),
            "--disable-differential leaves nothing out: drop it or --benchmark",
        ),
        (
            ("--image-dir", "ROOT/one", "--policy", "fast", "--disable-differential"),
            "drop it or --policy",
        ),
        (
            ("--image-dir", "ROOT/one", "--diff-patch-size", 64, "--disable-differential"),
            "drop it or --diff-patch-size",
        ),
        (
            ("--image-dir", "ROOT/one", "--prefill-refresh", 3, "--disable-differential"),
            "drop it or --prefill-refresh",
        ),
        (
            ("--image-dir", "ROOT/one", "--prefill-refresh", 3),
            "--prefill-refresh is about --prefill bounded: give that",
        ),
        (
            ("--image-dir", "ROOT/one", "--output-json", "no/such/dir.json"),
            "--output-json: no such",
        ),
        (("--image-dir", "ROOT/one", "--page", "no/such/page.html"), "--page: no such directory"),
        (("--image-dir", "ROOT/one", "--token-budget", 9), "--token-budget needs a way to keep to"),
        (
            ("--image-dir", "ROOT/one", "--history-layout", "current"),
            "--history-layout is about --compress history",
        ),
        (
            ("--image-dir", "ROOT/one", "--compress", "history", "--history", 2),
            "--history shows whole frames, which --compress replaces",
        ),
        (("--image-dir", "ROOT/one", "--compress", "pool"), "look at all tokens of a frame"),
        (("--image-dir", "ROOT/one", "--layer-keep", 0.5), "look at all layers' tokens"),
        (
            ("--image-dir", "ROOT/one", "--layer-keep", 0.5, 0.6, *NO_REGIONS),
            "keep must be falling shares",
        ),
        (
            ("--image-dir", "ROOT/one", "--layer-keep", 0.5, "--prefill", "bounded"),
            "drop --prefill bounded",
        ),
        (
            ("--image-dir", "ROOT/one", "--compress", "merge", "--token-budget", 17, *NO_REGIONS),
            "the token budget must be a whole number in 1-16, got 17",
        ),
        (
            ("--image-dir", "ROOT/one", "--compress", "history", "--token-budget", 31, *NO_REGIONS),
            "needs a token budget of at least 32, got 31",
        ),
        (("--image-dir", "ROOT/one", "--page", "ROOT"), "--page names a directory"),
    ],
)
def test_bad_input_is_named_before_any_answer(call, place, arguments, said, monkeypatch, capsys):
    from diffvis_jax.agent import answering

    def refuse(*args):
        raise AssertionError("work has begun")

    monkeypatch.setattr(answering.Answerer, "answer", refuse)
    given = [str(part).replace("ROOT", str(place / "root")) for part in arguments]
    assert call(*given) == (2, None)
    printed = capsys.readouterr().err
    assert said in printed.splitlines()[-1]


def test_prefills_are_as_the_options_say(predict, script):
    make_prefill = script("answering_options").make_prefill

    def made(*options):
        given = ["--model-path", "x", "--image-file", "y", *options]
        policy = make_prefill(predict.build_parser().parse_args(given))
        return bool(policy.bounded), int(policy.refresh_every), float(policy.tolerance)

    assert made() == (False, 0, 0)
    assert made("--prefill-tolerance", "0.5") == (False, 0, 0.5)
    assert made("--prefill", "bounded") == (True, 10, 0)
    assert made("--prefill", "bounded", "--prefill-refresh", "0") == (True, 0, 0)
    both = ("--prefill-refresh", "3", "--prefill-tolerance", "0.5")
    assert made("--prefill", "bounded", *both) == (True, 3, 0.5)


def test_wrong_options_are_one_line(predict, capsys):
    for arguments in (
        ["--model-path", "x"],
        ["--model-path", "x", "--image-file", "a", "--image-dir", "b"],
        ["--model-path", "x", "--image-file", "a", "--temperature", "-1"],
        ["--model-path", "x", "--image-file", "a", "--heatmap-mode", "blurred"],
    ):
        with pytest.raises(SystemExit) as ended:
            predict.main(arguments)
        assert ended.value.code == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_no_readable_frame_at_all(call, place, capsys):
    assert call("--image-file", place / "broken" / "f_3.png")[0] == 2
    assert "none of the 1 pictures could be read" in capsys.readouterr().err


# ---- models -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_checkpoint_is_converted_once(compared, place, capsys):
    said = []
    first = weight_directory(place / "tiny", language=True, say=said.append)
    assert said == []  # `compared` did it
    assert first.parent == place / "cache"
    assert weight_directory(first) == first
    os.utime(place / "tiny" / "config.json", ns=(1, 1))
    second = weight_directory(place / "tiny", say=said.append)
    assert second != first
    assert "converting it, once" in said[0]


@pytest.mark.slow
def test_a_converted_directory_is_taken_as_it_is(call, place):
    directory = weight_directory(place / "tiny", say=lambda text: None)
    (place / "converted").symlink_to(directory)
    status, document = call("--image-file", place / "root" / "one" / "f_1.png", model="converted")
    assert status == 0
    assert len(document["sequences"][0]["frames"]) == 1


@pytest.mark.parametrize("kind", ["converted", "checkpoint"])
def test_a_model_without_a_language_side(kind, place):
    if kind == "converted":
        source = place / "tower"
        if not source.exists():
            store.save(source, config=FASTVITHD, params=random_params(FASTVITHD))
    else:
        source = DATA / "fastvithd_tiny.safetensors"
    with pytest.raises(CheckpointError, match="holds a vision tower, but no language model"):
        weight_directory(source, language=True)


def test_a_model_without_a_tokenizer(call, place, capsys):
    source = write_checkpoint(place / "mute")
    (source / "vocab.json").unlink()
    status, _ = call("--image-dir", place / "root" / "one", model="mute")
    assert status == 2
    assert "no tokenizer" in capsys.readouterr().err


def test_without_the_extra(call, place, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    assert call("--image-dir", place / "root" / "one")[0] == 2
    assert "diffvis_jax[text]" in capsys.readouterr().err


def test_no_model_at_all(predict, place, capsys):
    status = predict.main(["--model-path", "nowhere", "--image-dir", str(place / "root" / "one")])
    assert status == 2
    assert "no model 'nowhere': neither bundled" in capsys.readouterr().err


@pytest.fixture(autouse=True)
def _nothing_else_is_written(tmp_path, monkeypatch):
    """Relative paths of the bad examples must not end up in the working directory."""
    monkeypatch.chdir(tmp_path)
    yield
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_history_shows_the_frames_before_again(call, place):
    arguments = ("--image-dir", place / "root" / "one", "--history", 1)
    status, found = call(*arguments, "--policy", "exact")
    status_full, full = call(*arguments, "--disable-differential")
    assert status == status_full == 0
    frames, afresh = (run["sequences"][0]["frames"] for run in (found, full))
    totals = [frame["prefill"]["total"] for frame in frames]
    # An image more, and the line break after its mark.
    assert totals[1] - totals[0] == frames[0]["encode"]["total_patches"] + 1
    assert totals[2] == totals[1]
    assert [frame["text"] for frame in frames] == [frame["text"] for frame in afresh]
    # The third frame equals the second: the screen before it does not, so the prompt is another.
    assert frames[2]["prefill"]["prefilled"] > 0


def test_a_history_in_place_of_frames(call, place):
    lossless = ("--compress", "history", "--history-tolerance", 0, "--policy", "exact")
    status, found = call("--image-dir", place / "root" / "one", *lossless, *NO_REGIONS)
    assert status == 0
    frames = found["sequences"][0]["frames"]
    made = [frame["compressed"] for frame in frames]
    patches = frames[0]["encode"]["total_patches"]
    assert made[0]["tokens"] == patches < made[1]["tokens"] <= made[1]["tokens_of_frames"]
    assert made[2]["tokens"] == made[1]["tokens"]  # the third frame equals the second
    assert made[2]["tokens_of_frames"] == 3 * patches
    assert [frame["prefill"]["path"] for frame in frames] == ["full", "partial", "reuse"]
    assert [part["whitened_error"] for part in made] == [0, 0, 0]


@pytest.mark.slow
def test_fewer_tokens_of_a_frame(call, place):
    arguments = ("--image-dir", place / "root" / "one", "--token-budget", 4, *NO_REGIONS)
    for method in ("merge", "pool", "random"):
        status, found = call(*arguments, "--compress", method)
        assert status == 0
        frames = found["sequences"][0]["frames"]
        assert [frame["compressed"]["tokens"] for frame in frames] == [4, 4, 4]
        assert frames[2]["prefill"]["path"] == "reuse"
        status, full = call(*arguments, "--compress", method, "--disable-differential")
        assert [f["text"] for f in full["sequences"][0]["frames"]] == [f["text"] for f in frames]


@pytest.mark.slow
def test_image_tokens_that_go_no_deeper(call, place):
    arguments = ("--image-dir", place / "root" / "one", *NO_REGIONS)
    status, found = call(*arguments, "--layer-keep", 0.5, 0.25)
    assert status == 0
    frames = found["sequences"][0]["frames"]
    assert [frame["prefill"]["path"] for frame in frames] == ["full"] * 3
    assert frames[1]["text"] == frames[2]["text"]
    whole = call(*arguments, "--layer-keep", 1.0)[1]["sequences"][0]["frames"]
    plain = call(*arguments)[1]["sequences"][0]["frames"]
    assert [frame["text"] for frame in whole] == [frame["text"] for frame in plain]
