"""The whole model against the numbers that transformers' FastVLM gave for the same weights."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkpoint_files import DATA, fastvlm, hf_fastvlm, stored, write_directory
from tiny import FASTVITHD, LANGUAGE, ROUNDING, Kit, deviation, random_params

import diffvis_jax as dv
from diffvis_jax.checkpoints.convert import convert
from diffvis_jax.language.decoder import forward
from diffvis_jax.language.generate import jit_all_logits, padded_length
from diffvis_jax.language.kv_cache import init_kv_cache
from diffvis_jax.language.splice import make_prompt, project, splice

IMAGE = -200


@pytest.fixture(scope="module")
def golden():
    return np.load(DATA / "vlm_tiny_256.npz")


# That both are one model, test_convert.py says.
LAYOUTS = ("released", pytest.param("hugging face", marks=pytest.mark.slow))


@pytest.fixture(scope="module", params=LAYOUTS)
def model(request, tmp_path_factory):
    base = tmp_path_factory.mktemp("vlm")
    text = json.loads((DATA / "vlm_tiny_config.json").read_text())
    config, tensors = text, fastvlm()
    if request.param != "released":
        config = {
            "model_type": "fast_vlm",
            "text_config": {k: v for k, v in text.items() if not k.startswith("mm_")},
            "vision_config": {"model_type": "timm_wrapper", "hidden_size": 512},
            "image_token_index": 511,
            "image_seq_length": 16,
        }
        tensors = hf_fastvlm()
    source = write_directory(base / "source", tensors, config)
    return dv.load(convert(str(source), base / "out", say=lambda *_: None))


def test_projected_tokens_are_those_of_pytorch(model, golden):
    language = model.language
    found = project(language.params, golden["tokens"], config=language.config)
    assert deviation(found, golden["projected"]) < ROUNDING


def test_spliced_prompt_is_that_of_pytorch(model, golden):
    prompt = make_prompt(model.language, golden["tokens"], golden["input_ids"])
    assert prompt.length.tolist() == [23]
    assert prompt.embeddings.shape == (1, padded_length(23), 64)
    assert deviation(prompt.embeddings[:, :23], golden["inputs_embeds"]) < ROUNDING
    assert not prompt.embeddings[:, 23:].any()


jit_forward = jax.jit(forward, static_argnames="config")


def test_every_layer_is_that_of_pytorch(model, golden):
    language = model.language
    x = jnp.asarray(golden["hidden0"])
    positions = jnp.arange(x.shape[1])[None]
    for n in range(1, language.config.layers):
        config = dataclasses.replace(language.config, layers=n)
        cache = init_kv_cache(config, 1, x.shape[1])
        found, _, _ = jit_forward(language.params, cache, x, positions, config=config)
        assert deviation(found, golden[f"hidden{n}"]) < ROUNDING, n


def test_logits_are_those_of_pytorch(model, golden):
    found = dv.logits(model, golden["image_u8"][None], golden["input_ids"])
    assert found.dtype == jnp.float32
    assert deviation(found, golden["logits"]) < ROUNDING


def test_greedy_continuation_is_that_of_pytorch(model, golden):
    frames, ids = golden["image_u8"][None], golden["input_ids"]
    assert dv.generate_ids(model, frames, ids, 12).tolist() == golden["greedy"].tolist()
    found = dv.generate_ids(model, frames, ids[None], max_new_tokens=12, temperature=0.0)
    assert found.tolist() == [golden["greedy"].tolist()]
    options = dv.AnswerOptions(max_new_tokens=12)
    assert list(dv.stream_ids(model, frames, ids, options)) == golden["greedy"].tolist()


# ---- loading ----------------------------------------------------------------------------------


def test_the_language_side_is_read_when_it_is_asked_for(model, tmp_path):
    assert model.has_language
    assert "language" not in dataclasses.replace(model).__dict__
    assert model.language is model.language
    bare = dv.Model(FASTVITHD, random_params(FASTVITHD), "tower")
    assert not bare.has_language
    with pytest.raises(dv.CheckpointError, match="tower has no language model"):
        dv.logits(bare, None, [1, 2])


def test_load_casts_both_sides(tmp_path):
    source = write_directory(tmp_path / "source", fastvlm(), "vlm_tiny_config.json")
    loaded = dv.load(convert(str(source), tmp_path / "out", say=lambda *_: None), "bfloat16")
    assert loaded.language.params["embed"]["embedding"].dtype == jnp.bfloat16
    assert loaded.language.config.dtype == loaded.config.dtype == "bfloat16"


@pytest.mark.slow
def test_decoding_may_have_a_dtype_of_its_own(tmp_path, golden):
    source = write_directory(tmp_path / "source", fastvlm(), "vlm_tiny_config.json")
    out = convert(str(source), tmp_path / "out", say=lambda *_: None)
    loaded = dv.load(out, "bfloat16", decode_dtype="float32")
    language = loaded.language
    assert language.params["head"]["weight"].dtype == jnp.bfloat16
    assert language.decoding["head"]["weight"].dtype == jnp.float32
    found = dv.generate_ids(loaded, golden["image_u8"][None], golden["input_ids"], 4)
    assert len(found) == 4
    assert dv.load(out, decode_dtype="float32").language.decode_params is None


def test_the_faster_dtype_of_each_phase_is_chosen_on_a_cpu(tmp_path, monkeypatch):
    source = write_directory(tmp_path / "source", fastvlm(), "vlm_tiny_config.json")
    out = convert(str(source), tmp_path / "out", say=lambda *_: None)
    language = dv.load(out, "bfloat16", decode_dtype="auto").language
    assert language.params["head"]["weight"].dtype == jnp.bfloat16
    assert language.decoding["head"]["weight"].dtype == jnp.float32
    assert dv.load(out, "float32", decode_dtype="auto").language.decode_params is None
    monkeypatch.setattr("diffvis_jax.model._SMALL_COPY", 1e3)
    assert dv.load(out, "bfloat16", decode_dtype="auto").language.decode_params is None


def test_a_tower_alone_has_no_language_side(tmp_path):
    source = write_directory(tmp_path / "source", stored("fastvithd_tiny.safetensors"))
    loaded = dv.load(convert(str(source), tmp_path / "out", size=256, say=lambda *_: None))
    assert not loaded.has_language


# ---- the splice -------------------------------------------------------------------------------


def plan(ids, images, max_length=100, **more):
    return splice(ids, images, 3, vocabulary=50, max_length=max_length, **more)


def test_images_stand_where_their_places_are():
    found = plan([5, IMAGE, 6, 7, IMAGE], 2, padded=12)
    assert found.length.tolist() == [9]
    assert found.text[0].tolist() == [5, 0, 0, 0, 6, 7, 0, 0, 0, 0, 0, 0]
    assert found.image[0].tolist() == [-1, 0, 1, 2, -1, -1, 3, 4, 5, -1, -1, -1]


def test_images_of_a_batch_go_in_order_and_texts_without_one_use_one_up():
    found = plan([[IMAGE, 5], [6, 7, 8], [IMAGE, IMAGE]], 4)
    assert found.length.tolist() == [4, 3, 6]
    assert found.text.shape == found.image.shape == (3, padded_length(6))
    assert found.image[0, :4].tolist() == [0, 1, 2, -1]
    assert found.image[1, :3].tolist() == [-1, -1, -1]
    assert found.image[2, :6].tolist() == [6, 7, 8, 9, 10, 11]  # the second image is nowhere


def test_long_prompts_are_cut_at_their_end():
    found = plan([5, IMAGE, 6, 7], 1, max_length=3)
    assert found.length.tolist() == [3]
    assert found.image[0, :3].tolist() == [-1, 0, 1]


@pytest.mark.parametrize(
    ("ids", "images", "message"),
    [
        ([5, IMAGE], 0, "1 places for images in input_ids, but no images"),
        ([5, 6], 1, "1 images, but no place"),
        ([5, IMAGE, IMAGE], 1, "1 images for 2 places"),
        ([[5, IMAGE], [6, IMAGE]], 3, r"3 images for 2 places: \[1, 1\]"),
        ([5, 50], 0, r"ids \[50\] are neither -200"),
        ([5, -3], 0, r"ids \[-3\]"),
        ([], 0, "no ids|whole numbers"),
        ([[5], []], 0, "no ids|whole numbers"),
        ([1.5], 0, "whole numbers"),
        ([[[1]]], 0, "whole numbers"),
    ],
)
def test_what_does_not_fit_is_refused(ids, images, message):
    with pytest.raises(dv.PromptError, match=message):
        plan(ids, images)


@pytest.fixture(scope="module")
def tiny_model():
    params = random_params(LANGUAGE)
    return dv.Model(
        FASTVITHD,
        random_params(FASTVITHD),
        language_loader=lambda: dv.Language(LANGUAGE, params),
    )


@pytest.mark.slow
def test_prompts_of_a_batch_do_not_influence_each_other(tiny_model):
    frames = Kit(FASTVITHD).frames()
    prompts = [[5, IMAGE, 6, 7, 8], [IMAGE, 9]]
    together = dv.logits(tiny_model, frames, prompts)
    assert together.shape == (2, 20, LANGUAGE.vocabulary)
    for b, prompt in enumerate(prompts):
        alone = dv.logits(tiny_model, frames[b : b + 1], prompt)
        assert deviation(together[b : b + 1, : alone.shape[1]], alone) < ROUNDING
    answers = dv.generate_ids(tiny_model, frames, prompts, 6)
    assert answers.shape == (2, 6)
    for b, prompt in enumerate(prompts):
        alone = dv.generate_ids(tiny_model, frames[b : b + 1], prompt, 6)
        assert answers[b, : len(alone)].tolist() == alone.tolist()


@pytest.mark.slow
def test_several_images_and_none(tiny_model):
    frames = Kit(FASTVITHD).frames()
    two = dv.logits(tiny_model, frames, [5, IMAGE, 6, IMAGE, 7])
    one_by_one = dv.logits(tiny_model, list(frames), [5, IMAGE, 6, IMAGE, 7])
    np.testing.assert_array_equal(two, one_by_one)
    swapped = dv.logits(tiny_model, frames[::-1], [5, IMAGE, 6, IMAGE, 7])
    assert two.shape == (1, 35, LANGUAGE.vocabulary)
    assert deviation(two[:, 0], swapped[:, 0]) == 0
    assert deviation(two[:, 1:], swapped[:, 1:]) > 0.01
    text = dv.logits(tiny_model, None, [5, 6, 7])
    x = random_params(LANGUAGE)["embed"]["embedding"][jnp.array([[5, 6, 7]])]
    expected = jit_all_logits(random_params(LANGUAGE), x, config=LANGUAGE)
    assert deviation(text, expected) < ROUNDING


def test_a_context_that_is_too_short(tiny_model):
    long = [5] * 300
    assert dv.logits(tiny_model, None, long).shape[1] == LANGUAGE.max_length
    with pytest.raises(dv.PromptError, match=r"300 positions.*context of 256"):
        dv.generate_ids(tiny_model, None, long, 4)
    with pytest.raises(dv.PromptError, match="at most 6 new tokens"):
        dv.generate_ids(tiny_model, None, [5] * 250, 7)
    with pytest.raises(dv.PromptError, match="max_new_tokens must be at least 1"):
        dv.generate_ids(tiny_model, None, [5], 0)


def test_tokens_of_another_tower_are_refused(tiny_model):
    tokens = np.zeros((1, 16, 12), np.float32)
    with pytest.raises(dv.PromptError, match=r"\[images, tokens, 256\].*got \[1, 16, 12\]"):
        make_prompt(tiny_model.language, tokens, [IMAGE])


@pytest.mark.slow
def test_the_language_side_is_differentiable(tiny_model):
    """Through the projector, for those who train on top."""
    tokens = np.random.default_rng(0).standard_normal((1, 16, FASTVITHD.token_width))
    params = random_params(LANGUAGE)

    def loss(tokens):
        prompt = make_prompt(dv.Language(LANGUAGE, params), tokens, [5, IMAGE, 6])
        return jit_all_logits(params, prompt.embeddings, config=LANGUAGE)[0, 17].max()

    gradient = jax.grad(loss)(jnp.asarray(tokens, jnp.float32))
    assert bool(jnp.isfinite(gradient).all())
    assert float(jnp.abs(gradient).max()) > 0
