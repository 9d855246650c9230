"""Random LLaVAs in their released layout go the whole way: written, converted, asked."""

import dataclasses
import json
import os

import numpy as np
import pytest
from vlm_files import changed, screen, write_frames

import diffvis_jax as dv
from diffvis_jax.agent.answering import Answerer
from diffvis_jax.checkpoints.convert import convert

ARCHITECTURES = ("llava_1_5", "llava_1_6")


@pytest.fixture(scope="module", params=ARCHITECTURES)
def model_path(request, script, tmp_path_factory):
    base = tmp_path_factory.mktemp(request.param)
    source = script("make_random_checkpoint").make(base / "source", "tiny", 0, request.param)
    return convert(str(source), base / request.param, say=lambda *_: None)


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    first = screen()
    pictures = {"a.png": first, "b.png": changed(first), "c.png": changed(first)}
    return write_frames(tmp_path_factory.mktemp("frames"), pictures)


def test_the_converted_model_is_the_one_that_was_written(model_path, script):
    model = dv.load(model_path)
    module = script("make_random_checkpoint")
    tower, language = module.LLAVAS[model_path.name]["tiny"]
    found = model.language.config
    assert (model.config.width, model.config.size) == (tower.width, tower.size)
    assert found.image_newline == language.image_newline == bool(model.config.pinpoints)
    assert (found.kv_heads, found.projector_input) == (language.kv_heads, tower.width)
    assert found.conversation == ("mistral" if found.image_newline else "vicuna_v1")
    tokenizer = model.language.tokenizer
    assert tokenizer.start == [1]
    assert len(tokenizer) <= found.vocabulary
    assert tokenizer.decode(tokenizer.encode("What is open?")) == "What is open?"


def test_full_sizes_are_those_of_the_releases(script):
    module = script("make_random_checkpoint")
    counts = {}
    for name in ARCHITECTURES:
        table = module.entries(*module.LLAVAS[name]["full"])
        counts[name] = sum(e.size for e in table if "model.layers." in e.name)
    # Vicuna's and Mistral's 7B, without embedding, head and last norm.
    assert counts == {
        "llava_1_5": 6_738_415_616 - 2 * 32000 * 4096 - 4096,
        "llava_1_6": 7_241_732_096 - 2 * 32000 * 4096 - 4096,
    }


@pytest.mark.slow
def test_differential_answers_are_those_of_full_encodes(model_path, frames, script, tmp_path):
    """The picture is 320 x 180: two by two tiles and an overview, or one square."""
    predict, told = script("predict"), {}
    for name, more in (("in full", ["--disable-differential"]), ("exact", ["--policy", "exact"])):
        target = tmp_path / "out.json"
        options = ["--model-path", model_path, "--image-dir", frames, "--prompt", "What is open?"]
        options += ["--max-new-tokens", 8, "--output-json", target, "--save-heatmap", tmp_path]
        assert predict.main([str(part) for part in (*options, *more)]) == 0
        told[name] = json.loads(target.read_text())["sequences"][0]["frames"]
    texts = {name: [frame["text"] for frame in told[name]] for name in told}
    assert texts["exact"] == texts["in full"]
    assert any(texts["exact"])
    paths = [frame["encode"]["path"] for frame in told["exact"]]
    tiles = model_path.name == "llava_1_6"
    assert paths == ["full", "partial" if tiles else "full", "reuse"]
    total = {frame["encode"]["total_patches"] for frame in told["exact"]}
    assert total == {16 * (5 if tiles else 1)}
    assert len([name for name in os.listdir(tmp_path) if name.endswith("heatmap.png")]) == 3


@pytest.mark.slow
def test_both_ways_are_compared(model_path, frames, script, tmp_path):
    predict, target = script("predict"), tmp_path / "out.json"
    options = ["--model-path", model_path, "--image-dir", frames, "--max-new-tokens", 4]
    options += ["--benchmark", "--policy", "exact", "--history", 1, "--output-json", target]
    assert predict.main([str(part) for part in options]) == 0
    told = json.loads(target.read_text())["sequences"][0]["frames"]
    assert len(told) == 3
    for frame in told:
        assert frame["comparison"]["same_text"]
        assert frame["comparison"]["logits_error"] < 1e-4
    assert told[1]["comparison"]["missed_all"] < 1e-4


@pytest.mark.parametrize("model_path", ["llava_1_6"], indirect=True)
def test_pictures_are_not_padded_where_there_are_tiles(model_path, frames, script, capsys):
    options = ["--model-path", str(model_path), "--image-dir", str(frames), "--force-pad-aspect"]
    assert script("predict").main(options) == 2
    assert "takes images in their own shape" in capsys.readouterr().err


@pytest.mark.parametrize("model_path", ["llava_1_6"], indirect=True)
def test_all_tiles_must_fit_into_the_context(model_path, monkeypatch):
    model = dv.load(model_path)
    image = dv.preprocess_tiles(np.zeros((180, 320, 3), np.uint8), model.config)
    language = model.language
    short = 2 * len(image.packing)  # for text, and one image, and not for two
    config = dataclasses.replace(language.config, max_length=short)
    model.__dict__["language"] = dataclasses.replace(language, config=config)
    options = dv.AnswerOptions(max_new_tokens=4)
    Answerer(model, "What?", options=options)._check_context(len(image.packing))
    answerer = Answerer(model, "What?", options=options, history=1)  # two overviews fit
    monkeypatch.setattr(answerer, "_encode", None)
    with pytest.raises(dv.PromptError, match=f"do not fit into a context of {short}"):
        answerer.answer(image)


def test_commands_for_single_frames_say_that_tiles_are_left_out(model_path, script, capsys):
    script("frame_sizes").tell_overview(dv.load(model_path))
    tiled = "only the overview is encoded" in capsys.readouterr().err
    assert tiled == (model_path.name == "llava_1_6")


@pytest.mark.parametrize("model_path", ["llava_1_6"], indirect=True)
def test_commands_are_placed_by_the_overview(model_path):
    model = dv.load(model_path)
    image = dv.preprocess_tiles(np.zeros((180, 320, 3), np.uint8), model.config)
    assert image.frames.shape == (5, 56, 56, 3)
    assert dv.placement(320, 180, model.config).scale_y == 56 / 180
