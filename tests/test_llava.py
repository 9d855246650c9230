"""LLaVA-1.5 and 1.6 end to end against the numbers that transformers gave for the same weights."""

import dataclasses

import numpy as np
import pytest
from checkpoint_files import DATA, same, write_directory
from llava_files import SIZES, TOWER, VISION, config, hf_config, tensors, write
from tiny import ROUNDING, deviation

import diffvis_jax as dv
from diffvis_jax.checkpoints.convert import convert
from diffvis_jax.checkpoints.decoders import DECODERS
from diffvis_jax.core.step import jit_encode
from diffvis_jax.language.prompt import build_prompt
from diffvis_jax.language.splice import make_prompt, packed

# Of both layouts the same model is made (test_both_layouts_are_one_model): one is enough for what
# takes compiling.
LAYOUTS = (pytest.param("released", marks=pytest.mark.slow), "llava-hf")


@pytest.fixture(scope="module")
def golden():
    return np.load(DATA / "llava_tiny.npz")


def loaded(base, version, layout):
    source = write(base / "source", version, layout)
    return dv.load(convert(str(source), base / "out", say=lambda *_: None))


@pytest.mark.parametrize("version", ["1.5", "1.6"])
def test_both_layouts_are_one_model(version, tmp_path):
    released, hf = (loaded(tmp_path / name, version, name) for name in ("released", "llava-hf"))
    assert same(released.params, hf.params)
    assert same(released.language.params, hf.language.params)
    # What the files say differently: which id stands for an image, and how pictures are resized.
    tiles = released.config.resize_mode if version == "1.6" else "crop"
    assert dataclasses.replace(released.config, resize_mode=tiles) == hf.config
    of_released, of_hf = released.language.config, hf.language.config
    assert (of_released.image_token_id, of_hf.image_token_id) == (None, 119)
    assert dataclasses.replace(of_released, image_token_id=119) == of_hf


@pytest.fixture(scope="module", params=LAYOUTS)
def llava_1_5(request, tmp_path_factory):
    return loaded(tmp_path_factory.mktemp("llava"), "1.5", request.param)


def test_llava_1_5_says_what_transformers_says(llava_1_5, golden):
    model, frames, ids = llava_1_5, golden["frame"][None], golden["input_ids"]
    assert deviation(dv.logits(model, frames, ids)[0], golden["logits"]) < ROUNDING
    found = dv.generate_ids(model, frames, ids, 12, stop_ids=())
    assert found.tolist() == golden["greedy"].tolist()


def test_llava_1_5_knows_how_it_is_talked_to(llava_1_5):
    config = llava_1_5.language.config
    assert config.conversation == "vicuna_v1"
    assert (config.bos_id, config.eos_ids) == (1, (2,))
    assert (config.rope_theta, config.norm_epsilon, config.max_length) == (1e4, 1e-5, 1024)
    assert (config.qkv_bias, config.tied) == (False, False)


@pytest.fixture(scope="module", params=LAYOUTS)
def llava_1_6(request, tmp_path_factory):
    return loaded(tmp_path_factory.mktemp("llava"), "1.6", request.param)


@pytest.mark.parametrize("name", SIZES)
def test_tiles_and_tokens_are_those_of_transformers(llava_1_6, golden, name):
    model = llava_1_6
    image = dv.preprocess_tiles(golden[f"{name}_image"], model.config)
    np.testing.assert_array_equal(image.frames, golden[f"{name}_frames"])
    tokens = jit_encode(model.params, image.frames, config=model.config)
    prompt = make_prompt(model.language, [packed(tokens, image.packing)], [5, -200])
    count = len(golden[f"{name}_features"])
    found = prompt.embeddings[0, 1 : 1 + count]
    assert prompt.length.tolist() == [1 + count]
    assert deviation(found, golden[f"{name}_features"]) < ROUNDING


@pytest.mark.parametrize("name", ["wide", pytest.param("small", marks=pytest.mark.slow)])
def test_logits_behind_tiles_are_those_of_transformers(llava_1_6, golden, name):
    model, ids = llava_1_6, golden["input_ids"]
    images = [dv.preprocess_tiles(golden[f"{name}_image"], model.config)]
    assert model.language.config.conversation == "mistral"
    found = dv.logits(model, images, ids)[0]
    assert deviation(found[-8:], golden[f"{name}_logits"]) < ROUNDING


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wide", "small"])
def test_llava_1_6_says_what_transformers_says(llava_1_6, golden, name):
    model, ids = llava_1_6, golden["input_ids"]
    images = [dv.preprocess_tiles(golden[f"{name}_image"], model.config)]
    found = dv.generate_ids(model, images, ids, 12, stop_ids=())
    assert found.tolist() == golden[f"{name}_greedy"].tolist()


@pytest.mark.slow
def test_a_caret_touches_the_overview_and_one_tile(llava_1_6, golden):
    """Each frame is a stream; encoder and session together say what a fresh model says."""
    model, ids = llava_1_6, golden["input_ids"]
    encoder = dv.DifferentialVisionEncoder(model, dv.Policy.exact())
    options = dv.AnswerOptions(max_new_tokens=6, stop_ids=())
    session = dv.PromptSession(model.language, options=options)
    pixels = golden["square_image"]
    for t in range(3):
        image = dv.preprocess_tiles(pixels, model.config)
        tokens = encoder.encode(image)
        assert tokens.shape == (5, 16, 32)
        assert encoder.report is not None
        touched = [one["path"] != "reuse" for one in dv.describe(encoder.report)]
        assert touched == [True, *[not t] * 3, True]
        found = session.prefill([packed(tokens, image.packing)], ids)
        expected = dv.logits(model, [image], ids)[0, -1]
        assert deviation(found.logits, expected) < ROUNDING
        answer = dv.generate_ids(model, [image], ids, 6, stop_ids=()).tolist()
        assert session.generate().tolist() == answer
        pixels = pixels.copy()
        pixels[70:76, 80:82] ^= 99  # in the tile at the lower right
    stats = encoder.get_stats()
    assert (stats["full_encodes"], stats["partial_encodes"], stats["total_frames"]) == (1, 2, 3)
    assert stats["total_patches_total"] == 3 * 5 * 16
    encoder.encode(dv.preprocess_tiles(golden["small_image"], model.config))
    assert encoder.get_stats()["cache_restarts"] == 1


def test_tiles_where_there_are_none_and_the_other_way_round(llava_1_5, llava_1_6, golden):
    tiled = [dv.preprocess_tiles(golden["small_image"], llava_1_6.config)]
    ids = golden["input_ids"]
    with pytest.raises(dv.PromptError, match="not cut into tiles: give each as preprocess makes"):
        dv.logits(llava_1_5, tiled, ids)
    with pytest.raises(dv.PromptError, match="cut into tiles: give each as preprocess_tiles"):
        dv.logits(llava_1_6, golden["frame"][None], ids)
    with pytest.raises(dv.ImageError, match="not cut into tiles: use preprocess"):
        dv.preprocess_tiles(golden["small_image"], llava_1_5.config)
    with pytest.raises(dv.ImageError, match="one image is wanted, got 2"):
        dv.preprocess_tiles([golden["small_image"]] * 2, llava_1_6.config)
    slots = dv.DifferentialVisionEncoder(llava_1_6, slots=2)
    with pytest.raises(dv.FrameError, match="one slot"):
        slots.encode(tiled[0])
    with pytest.raises(dv.ConfigError, match="multiples of 32 pixels"):
        dataclasses.replace(llava_1_6.config, pinpoints=((32, 40),))


def test_a_run_of_ids_that_is_not_the_images(tmp_path, golden):
    model = loaded(tmp_path, "1.6", "llava-hf")
    images = [dv.preprocess_tiles(golden["small_image"], model.config)]
    ids = golden["input_ids"].tolist()
    place = ids.index(-200)
    found = dv.logits(model, images, [*ids[:place], *[119] * 36, *ids[place + 1 :]])
    assert deviation(found[0, -8:], golden["small_logits"]) < ROUNDING
    with pytest.raises(dv.PromptError, match="image 0 has 36 tokens, but 48 ids 119 stand for it"):
        dv.logits(model, images, [*ids[:place], *[119] * 48, *ids[place + 1 :]])


def test_an_image_may_be_a_run_of_its_id(tmp_path, golden):
    model = loaded(tmp_path, "1.5", "llava-hf")
    frames, ids = golden["frame"][None], golden["input_ids"].tolist()
    place = ids.index(-200)

    def logits(run):
        return dv.logits(model, frames, [*ids[:place], *[119] * run, *ids[place + 1 :]])

    assert deviation(logits(16)[0], golden["logits"]) < ROUNDING
    with pytest.raises(dv.PromptError, match="image 0 has 16 tokens, but 15 ids 119 stand for it"):
        logits(15)


def test_the_tower_may_be_a_checkpoint_of_its_own(tmp_path, golden):
    """LLaVA-1.5's own release has none; OpenAI's is a CLIPModel."""
    found = tensors("1.5")
    rest = {k: x for k, x in found.items() if not k.startswith(TOWER)}
    tower = {k.removeprefix(TOWER): x for k, x in found.items() if k.startswith(TOWER)}
    tower |= {"logit_scale": np.float32(2.6), "text_model.final_layer_norm.bias": np.ones(4, "f")}
    source = write_directory(tmp_path / "source", rest, config("1.5"))
    clip = {"model_type": "clip", "vision_config": VISION | {"layer_norm_eps": 1e-4}}
    beside = write_directory(tmp_path / "clip", tower, clip)
    with pytest.raises(dv.CheckpointError, match=r"patch14-336'; tell where.*--vision-tower"):
        convert(str(source), tmp_path / "out")
    out = convert(str(source), tmp_path / "out", vision_tower=beside, say=lambda *_: None)
    model = dv.load(out)
    assert model.config.norm_epsilon == 1e-4
    model = dataclasses.replace(model, config=dataclasses.replace(model.config, norm_epsilon=1e-5))
    found = dv.logits(model, golden["frame"][None], golden["input_ids"])
    assert deviation(found[0], golden["logits"]) < ROUNDING
    whole = write(tmp_path / "whole", "1.5")
    with pytest.raises(dv.CheckpointError, match="several vision towers"):
        convert(str(whole), tmp_path / "other", vision_tower=beside, say=lambda *_: None)


# ---- what the files of other Llamas and Mistrals say ---------------------------------------------


def converted(tmp_path, version, change, *, layout="llava-hf", name="text_config", lines=None):
    """The decoder of a checkpoint one of whose settings is another; None = left out."""
    document = hf_config(version) if layout == "llava-hf" else config(version)
    section = document[name] if name else document
    section |= change
    document_of = {k: v for k, v in section.items() if v != "left out"}
    section.clear()
    section |= document_of
    source = write_directory(tmp_path / "source", tensors(version), document)
    say = (lambda *_: None) if lines is None else lines.append
    return dv.load(convert(str(source), tmp_path / "out", say=say)).language.config


def test_defaults_are_those_of_the_config_classes(tmp_path):
    out = dict.fromkeys(("rms_norm_eps", "max_position_embeddings", "pad_token_id"), "left out")
    found = converted(tmp_path / "llama", "1.5", out)
    assert (found.rope_theta, found.norm_epsilon, found.max_length) == (1e4, 1e-6, 2048)
    assert (found.bos_id, found.pad_id, found.eos_ids) == (1, None, (2,))
    heads = dict.fromkeys(("num_attention_heads", "num_key_value_heads"), "left out")
    with pytest.raises(dv.CheckpointError, match="32 heads and 32 key-value heads do not fit"):
        converted(tmp_path / "heads", "1.5", heads)


def test_a_sliding_window_limits_the_context(tmp_path):
    lines = []
    change = {"model_type": "mistral", "sliding_window": 300}
    assert converted(tmp_path / "a", "1.5", change, lines=lines).max_length == 300
    assert any("a sliding window of 300 positions" in line for line in lines)
    change["sliding_window"] = 5000
    found = converted(tmp_path / "b", "1.5", change)
    assert (found.max_length, found.conversation) == (1024, "mistral")
    change |= {"sliding_window": "left out", "max_position_embeddings": 32768}
    assert converted(tmp_path / "c", "1.5", change).max_length == 4096


@pytest.mark.parametrize("version", ["1.5", "1.6"])
def test_a_vocabulary_of_another_family_has_no_template(tmp_path, version, monkeypatch):
    """As LLaVA-1.6 with Yi's and Llama 3's; here Llama's own is made smaller."""
    small = {name: each._replace(vocabulary=119) for name, each in DECODERS.items()}
    monkeypatch.setattr("diffvis_jax.checkpoints.source_config.DECODERS", small)
    lines = []
    found = converted(tmp_path, version, {}, lines=lines)
    assert found.conversation == ""
    assert any("but not with a vocabulary of 120; one must be named" in line for line in lines)
    with pytest.raises(dv.PromptError, match="do not tell how it is talked to: name"):
        build_prompt("What?", conversation=found.conversation)


def test_unknown_projectors_are_refused(tmp_path):
    change = {"mm_projector_type": "ldpnet"}
    with pytest.raises(dv.CheckpointError, match="mm_projector_type is 'ldpnet', which means"):
        converted(tmp_path, "1.5", change, layout="released", name=None)


@pytest.mark.parametrize(
    ("layout", "change", "expected"),
    [
        ("released", {"image_aspect_ratio": "anyres_max_9"}, "images in many tiles"),
        ("released", {"mm_patch_merge_type": "flat"}, "tiles that are put together otherwise"),
        ("released", {"image_grid_pinpoints": "(1x1),...,(6x6)"}, "a list of pairs"),
        ("released", {"image_grid_pinpoints": "left out"}, "image_grid_pinpoints is missing"),
        ("released", {"image_grid_pinpoints": [[32, 40]]}, "multiples of 32 pixels"),
        ("llava-hf", {"vision_feature_layer": -1}, "another block than the last but one"),
        ("llava-hf", {"model_type": "llava_onevision"}, "images in many tiles, or videos"),
        ("llava-hf", {"use_image_newline_parameter": False}, "rows of tokens without an end"),
    ],
)
def test_other_tiles_are_refused(tmp_path, layout, change, expected):
    with pytest.raises(dv.CheckpointError, match=expected):
        converted(tmp_path, "1.6", change, layout=layout, name=None)
