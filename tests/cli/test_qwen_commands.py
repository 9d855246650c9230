"""The commands on a Qwen2.5-VL as it is released, with random weights: screenshot to text."""

import itertools
import json
import os
import sys

import dataset_samples as samples
import numpy as np
import pytest
from tiny import ROUNDING
from vlm_files import changed, screen, write_frames

import diffvis_jax as dv
from diffvis_jax.checkpoints.conversion_cache import weight_directory
from diffvis_jax.images.geometry import placement

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(script, tmp_path_factory):
    """A PyTorch checkpoint, recordings, and a cache of conversions of this module's own."""
    base = tmp_path_factory.mktemp("qwen")
    script("make_random_checkpoint").main([str(base / "tiny"), "--arch", "qwen2_5_vl"])
    first = screen()
    frames = {"f_1.png": first, "f_2.png": changed(first), "f_3.png": changed(first)}
    write_frames(base / "one", frames | {"f_4.png": screen(1)})
    write_frames(base / "mixed", {"f_1.png": first, "f_2.png": first[:100]})
    before, os.environ["DIFFVIS_CACHE"] = os.environ.get("DIFFVIS_CACHE"), str(base / "cache")
    yield base
    if before is None:
        del os.environ["DIFFVIS_CACHE"]
    else:
        os.environ["DIFFVIS_CACHE"] = before


@pytest.fixture(scope="module")
def converted(place):
    return weight_directory(str(place / "tiny"), language=True, say=lambda *_: None)


@pytest.fixture(scope="module")
def call(script, place):
    """predict.py on the checkpoint -> (status, document)."""

    def run(*arguments):
        target = place / "out.json"
        target.unlink(missing_ok=True)
        options = ["--model-path", place / "tiny", "--dtype", "float32", "--max-new-tokens", 8]
        options += ["--output-json", target, "--prompt", "what is it", "--click-regions", 1]
        status = script("predict").main([str(part) for part in (*options, *arguments)])
        return status, json.loads(target.read_text()) if target.exists() else None

    return run


def frames_of(document):
    return [frame for sequence in document["sequences"] for frame in sequence["frames"]]


def test_the_answers_are_the_same_with_and_without_the_differential_encoder(call, place):
    status, document = call("--image-dir", place / "one", "--policy", "exact", "--benchmark")
    assert status == 0
    frames = frames_of(document)
    assert [frame["encode"]["path"] for frame in frames] == ["full", "partial", "reuse", "full"]
    assert [frame["encode"]["changed_patches"] for frame in frames[:3]] == [0, 1, 0]
    # 320 x 180 becomes 308 x 168: three windows by two, 11 tokens by 6.
    assert [frame["encode"]["total_patches"] for frame in frames] == [6] * 4
    for frame in frames:
        assert frame["comparison"]["same_text"]
        assert frame["comparison"]["full"]["encode"]["total_patches"] == 6
        assert frame["comparison"]["logits_error"] < 1e-4
        assert frame["comparison"]["prefill_error"] < ROUNDING
    in_full = frames_of(call("--image-dir", place / "one", "--disable-differential")[1])
    assert [frame["text"] for frame in frames] == [frame["text"] for frame in in_full]


def test_several_images_of_a_prompt(call, place):
    options = ("--image-dir", place / "one", "--history", 1, "--add-vision-id", "--policy", "exact")
    status, document = call(*options)
    assert status == 0
    frames = frames_of(document)
    more = frames[1]["prefill"]["total"] - frames[0]["prefill"]["total"]
    assert more > 11 * 6 + 2  # "Picture 2: ", too
    texts = [frame["text"] for frame in frames_of(call(*options[:-2], "--disable-differential")[1])]
    assert [frame["text"] for frame in frames] == texts


def test_the_answer_is_that_of_the_library(call, place, converted):
    """Template, frame and the penalty of the files, without options."""
    from diffvis_jax.language.prompt import build_prompt, tokenize

    (frame,) = frames_of(call("--image-file", place / "one" / "f_1.png")[1])
    model = dv.load(converted, "float32")
    tokenizer = model.language.tokenizer
    ids = tokenize(build_prompt("what is it", conversation="qwen_2_5_vl"), tokenizer)
    pixels = dv.preprocess(place / "one" / "f_1.png", model.config)
    answers = {
        penalty: tokenizer.decode(
            dv.generate_ids(
                model, pixels, ids, 8, vocabulary=len(tokenizer), repetition_penalty=penalty
            )
        )
        for penalty in (None, 1.05, 3.0)
    }
    assert frame["text"] == answers[None].strip() == answers[1.05].strip()
    (other,) = frames_of(
        call("--image-file", place / "one" / "f_1.png", "--repetition-penalty", 3)[1]
    )
    assert other["text"] == answers[3.0].strip() != frame["text"]


def test_the_bounds_of_a_frame(call, place, capsys):
    file = place / "one" / "f_1.png"
    (frame,) = frames_of(call("--image-file", file, "--max-pixels", 20_000)[1])
    assert frame["encode"]["total_patches"] == 2  # 168 x 84
    assert call("--image-file", file, "--max-pixels", 700) == (2, None)
    assert "max_pixels 700 must be at least" in capsys.readouterr().err
    assert call("--image-file", file, "--force-pad-aspect") == (2, None)
    assert "takes images in their own shape" in capsys.readouterr().err


def test_frames_of_another_size_are_refused_before_any_work(call, place, capsys):
    assert call("--image-dir", place / "mixed") == (2, None)
    said = capsys.readouterr().err
    assert "f_2.png' becomes a frame of 308 x 112, and" in said
    assert "f_1.png' one of 308 x 168 (width x height)" in said
    # Two recordings may differ.
    for name, size in (("a", 180), ("b", 100)):
        write_frames(place / "several" / name, {"f.png": screen()[:size]})
    status, document = call("--sequence-root", place / "several")
    assert status == 0
    assert [frame["encode"]["total_patches"] for frame in frames_of(document)] == [6, 3]


def test_coordinates_are_pixels_of_the_frame(script, converted):
    read, options = script("predict_output").read_commands, script("answering_options")
    model = dv.load(converted)
    args = script("predict").build_parser().parse_args(["--model-path=x", "--image-file=y"])
    space = options.make_space(args, model)
    where = placement(320, 180, model.config)
    (click,) = read("click(154, 84)", space, where)["actions"]
    assert click["pixel"] == (160, 90)  # x by 320 / 308, y by 180 / 168
    args.coordinates = "as-written"
    (click,) = read("click(154, 84)", options.make_space(args, model), where)["actions"]
    assert click["pixel"] == (154, 84)


def test_a_folder_is_watched(script, place, capsys):
    options = ("--model-path", place / "tiny", "--folder", place / "mixed", "--idle", 0.1)
    more = ("--interval", 0.05, "--prompt", "what is it", "--max-new-tokens", 4)
    assert script("watch").main([str(part) for part in (*options, *more)]) == 0
    said = capsys.readouterr().out
    assert "2 answers" in said  # a screen may change its size
    assert "0/6" in said


def test_a_policy_is_calibrated(script, place, converted, tmp_path, monkeypatch):
    calibrate, target = script("calibrate"), tmp_path / "policy.json"
    some = {"margin 0": dv.Policy(margin=0, settle=0), "exact": dv.Policy.exact(settle=0)}
    monkeypatch.setattr(calibrate, "candidates", lambda tower: some)
    options = ["--weights", converted, "--frames", place / "one", "--most", 0.5, "--missed", 0.99]
    options += ["--max-pixels", 20_000, "--output", target]
    monkeypatch.setattr(sys, "argv", ["calibrate.py", *map(str, options)])
    assert calibrate.main() == 0
    assert dv.load_policy(target).margin is not None


def test_sessions_are_evaluated(script, place, converted, tmp_path, monkeypatch, capsys):
    for number in range(2):
        samples.recorded(tmp_path / "data" / f"s{number}", 3, seed=number)
    options = [tmp_path / "data", "--weights", converted, "--policies", "exact", "--no-report"]
    options += ["--output", tmp_path / "run", "--min-pixels", 20_000]
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *map(str, options)])
    assert script("evaluate").main() == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["run"]["min_pixels"] == 20_000
    assert summary["broken"] == []
    samples.recorded(tmp_path / "data" / "s2", 2, size=(200, 300))
    # Streams of another size have a step of their own.
    options[-3] = tmp_path / "other"
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *map(str, options)])
    assert script("evaluate").main() == 0
    (all_of_it,) = json.loads((options[-3] / "summary.json").read_text())["weights"].values()
    assert all_of_it["all"]["exact"]["frames"] == 8
    # But one stream has one size.
    options[0], options[-3] = place / "mixed", tmp_path / "third"
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *map(str, options)])
    capsys.readouterr()
    assert script("evaluate").main() == 2
    assert "all frames of a stream must have one size" in capsys.readouterr().err


def test_the_first_token_after_a_changed_window_is_measured(script, place, converted, tmp_path):
    target = tmp_path / "rows.json"
    options = ["--weights", converted, "--frames", place / "one", "--windows", 3, "--tolerance", 0]
    options += ["--policies", "exact,fast", "--new-tokens", 2, "--dtype", "float32"]
    main = script("benchmark_prefill").main
    assert main([str(part) for part in (*options, "--json", target)]) == 0
    rows = {(row["encoder"], row["policy"]): row for row in json.loads(target.read_text())}
    others = itertools.product(("exact", "fast"), ("exact", "bounded"))
    assert list(rows) == [("full", "fresh"), *others]
    for row in rows.values():
        assert len(row["frames"]) == 3
        for frame in row["frames"]:
            assert frame["first_token_ms"] == frame["encode_ms"] + frame["prefill_ms"]
        ratios = row["first_token_speed_up"]
        assert ratios["median"] >= ratios["p90"] >= ratios["max"] > 0  # the worst is the smallest
    assert rows["full", "fresh"]["first_token_speed_up"]["median"] == 1
    assert rows["full", "fresh"]["full_error"]["max"] == 0
    assert rows["exact", "exact"]["full_error"]["max"] < ROUNDING
    fast = rows["fast", "bounded"]
    assert ROUNDING < fast["full_error"]["median"] < 0.5
    # One window is 16 tokens at most: the first frame is where each change begins.
    assert all(0 < frame["changed"] <= 16 for frame in fast["frames"])
    assert fast["prefilled"] < rows["fast", "exact"]["prefilled"] <= fast["total"]
    # A recording is followed, too.
    options[4:6] = ["--num-frames", 3]
    assert main([str(part) for part in (*options, "--json", target)]) == 0
    rows = {(row["encoder"], row["policy"]): row for row in json.loads(target.read_text())}
    assert [frame["prefilled"] for frame in rows["exact", "exact"]["frames"]][1] == 0
    assert rows["exact", "exact"]["full_error"]["max"] < ROUNDING


def test_pictures_that_cannot_be_read_have_no_size(script, place, converted, tmp_path):
    model, sized = dv.load(converted), script("frame_sizes").sized_for
    files = sorted((place / "one").iterdir())
    (tmp_path / "broken.png").write_bytes(b"no picture")
    assert sized(model, [tmp_path / "broken.png", *files]).config.size == (168, 308)
    assert sized(model, [tmp_path / "broken.png"]).config == model.config
    assert sized(model, [np.zeros((100, 320, 3), np.uint8)]).config.size == (112, 308)
