"""LLaVA-1.5 and 1.6 end to end against the numbers that transformers gave for the same weights."""

import dataclasses

import numpy as np
import pytest
from checkpoint_files import DATA, write_directory
from llava_files import TOWER, VISION, config, hf_config, tensors, write
from tiny import ROUNDING, deviation

import diffvis_jax as dv
from diffvis_jax.checkpoints.convert import convert

LAYOUTS = ("released", "llava-hf")


@pytest.fixture(scope="module")
def golden():
    return np.load(DATA / "llava_tiny.npz")


def loaded(base, version, layout):
    source = write(base / "source", version, layout)
    return dv.load(convert(str(source), base / "out", say=lambda *_: None))


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
    found = {k: x for k, x in tensors(version).items() if "newline" not in k}
    source = write_directory(tmp_path / "source", found, document)
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


def test_unknown_projectors_are_refused(tmp_path):
    change = {"mm_projector_type": "ldpnet"}
    with pytest.raises(dv.CheckpointError, match="mm_projector_type is 'ldpnet', which means"):
        converted(tmp_path, "1.5", change, layout="released", name=None)
