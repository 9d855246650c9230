"""LLaVA-1.5 and 1.6 against live transformers, and what tests/data keeps of it."""

import numpy as np
import pytest
import torch
import transformers
from checkpoint_files import DATA, stored
from llava_tiny import (
    GRID,
    IMAGE_ID,
    SIZE,
    SIZES,
    answer,
    make,
    packed,
    pixels,
    prompt,
    released,
    tiled,
)
from tiny import deviation

import diffvis_jax as dv
from diffvis_jax.checkpoints.convert import convert
from diffvis_jax.images import anyres
from diffvis_jax.language.prompt import build_prompt, tokenize
from diffvis_jax.language.tokenizer import load_tokenizer

pytestmark = pytest.mark.parity

TOLERANCE = 1e-5  # of the largest value


@pytest.fixture(scope="module")
def golden():
    return np.load(DATA / "llava_tiny.npz")


def both(base, version):
    """transformers' model, and ours out of what it saves."""
    theirs = make(version)
    theirs.save_pretrained(base / "source")
    return theirs, dv.load(convert(str(base / "source"), base / "out", say=lambda *_: None))


@pytest.fixture(scope="module")
def llava_1_5(tmp_path_factory):
    return both(tmp_path_factory.mktemp("llava"), "1.5")


@pytest.mark.parametrize("version", ["1.5", "1.6"])
def test_the_stored_weights_are_these(version):
    kept = stored("llava_tiny.safetensors")
    for name, x in make(version).state_dict().items():
        if x.is_floating_point():
            np.testing.assert_array_equal(kept[released(name)], x.numpy())


def test_llava_1_5(llava_1_5, golden):
    theirs, model = llava_1_5
    ours, spelled = prompt(GRID**2)
    for seed in range(3):
        frame = np.random.default_rng(seed).integers(0, 256, (1, SIZE, SIZE, 3), np.uint8)
        logits, greedy = answer(theirs, spelled, pixel_values=pixels(frame))
        assert deviation(dv.logits(model, frame, ours)[0], logits) < TOLERANCE
        assert dv.generate_ids(model, frame, ours, 12, stop_ids=()).tolist() == greedy.tolist()
    logits, greedy = answer(theirs, spelled, pixel_values=pixels(golden["frame"][None]))
    assert deviation(golden["logits"], logits) < TOLERANCE
    assert golden["greedy"].tolist() == greedy.tolist()


def test_differential_frames_give_transformers_text(llava_1_5):
    """Encoder and prefill both differential and exact; every frame in full by transformers."""
    theirs, model = llava_1_5
    encoder = dv.DifferentialVisionEncoder(model, dv.Policy.exact())
    session = dv.PromptSession(model.language, options=dv.AnswerOptions(12, stop_ids=()))
    frame = np.random.default_rng(0).integers(0, 256, (1, SIZE, SIZE, 3), np.uint8)
    ours, spelled = prompt(GRID**2)
    for t in range(3):
        frame = frame.copy()
        frame[:, 20 : 20 + 3 * t, 10:18] ^= 77
        logits, greedy = answer(theirs, spelled, pixel_values=pixels(frame))
        prefilled = session.prefill(encoder.encode(frame), ours)
        assert deviation(prefilled.logits, logits[-1]) < TOLERANCE
        assert session.generate().tolist() == greedy.tolist()


# ---- tiles --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def llava_1_6(tmp_path_factory):
    return both(tmp_path_factory.mktemp("llava"), "1.6")


@pytest.mark.parametrize("name", SIZES)
def test_llava_1_6(llava_1_6, golden, name):
    """Pictures, tokens and answers; what is kept is what transformers says today."""
    theirs, model = llava_1_6
    image, frames, given = tiled(theirs, name)
    ours = dv.preprocess_tiles(image, model.config)
    np.testing.assert_array_equal(ours.frames, frames)
    features = packed(theirs, given)
    assert len(ours.packing) == len(features)
    ids, spelled = prompt(len(features))
    logits, greedy = answer(theirs, spelled, **given)
    assert deviation(dv.logits(model, [ours], ids)[0], logits) < TOLERANCE
    assert dv.generate_ids(model, [ours], ids, 12, stop_ids=()).tolist() == greedy.tolist()
    np.testing.assert_array_equal(golden[f"{name}_image"], image)
    np.testing.assert_array_equal(golden[f"{name}_frames"], frames)
    assert deviation(golden[f"{name}_features"], features) < TOLERANCE
    assert deviation(golden[f"{name}_logits"], logits[-8:]) < TOLERANCE
    assert golden[f"{name}_greedy"].tolist() == greedy.tolist()


def test_two_tiled_images_of_different_sizes(llava_1_6):
    theirs, model = llava_1_6
    one, other = (tiled(theirs, name) for name in ("small", "square"))
    counts = [len(packed(theirs, given)) for _, _, given in (one, other)]
    pixel_values = [given["pixel_values"][0] for _, _, given in (one, other)]
    tiles = max(len(x) for x in pixel_values)
    padded = [torch.nn.functional.pad(x, (0,) * 7 + (tiles - len(x),)) for x in pixel_values]
    given = {
        "pixel_values": torch.stack(padded),
        "image_sizes": torch.cat([given["image_sizes"] for _, _, given in (one, other)]),
    }
    spelled = [1, *[IMAGE_ID] * counts[0], 9, *[IMAGE_ID] * counts[1], 7]
    logits, _ = answer(theirs, np.array(spelled), **given)
    images = [dv.preprocess_tiles(image, model.config) for image, _, _ in (one, other)]
    assert deviation(dv.logits(model, images, [1, -200, 9, -200, 7])[0], logits) < TOLERANCE


def test_canvases_and_tokens_of_many_sizes():
    """Released sizes: 336 pixels, 24 x 24 tokens."""
    from transformers.image_processing_utils import get_patch_output_size, select_best_resolution
    from transformers.models.llava_next.modeling_llava_next import unpad_image

    points = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
    config = dv.CLIPConfig(
        resize_mode="squash", pinpoints=tuple((height, width) for height, width in points)
    )
    rng = np.random.default_rng(0)
    sizes = [*rng.integers(20, 2500, (200, 2)), (1080, 1920), (1920, 1080), (500, 500), (336, 672)]
    for height, width in ((int(h), int(w)) for h, w in sizes):
        canvas = anyres.best_canvas(width, height, config.pinpoints)
        assert canvas == select_best_resolution((height, width), points)
        fitted = get_patch_output_size(np.zeros((height, width, 1)), canvas, "channels_last")
        assert anyres.fitted_size(width, height, canvas) == fitted
        rows, columns = canvas[0] // 336, canvas[1] // 336
        tokens = torch.arange(576, 576 * (1 + rows * columns))
        tokens = tokens.view(rows, columns, 24, 24).permute(0, 2, 1, 3)
        tokens = unpad_image(tokens.reshape(1, rows * 24, columns * 24), (height, width))[0]
        lines = torch.nn.functional.pad(tokens, (0, 1), value=anyres.NEWLINE).flatten().tolist()
        assert anyres.packing(width, height, config).tolist() == [*range(576), *lines]


@pytest.mark.parametrize("conversation", ["vicuna_v1", "mistral"])
def test_prompts_are_cut_as_llava_and_transformers_do(script, tmp_path, conversation):
    for name, content in script("random_llava").sentencepiece_files(768).items():
        (tmp_path / name).write_text(content)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    text = build_prompt("What is open, 漢?", conversation=conversation)
    # LLaVA's `tokenizer_image_token`
    first, second = (theirs(piece).input_ids for piece in text.split("<image>"))
    assert tokenize(text, load_tokenizer(tmp_path)).tolist() == [*first, -200, *second[1:]]
    # llava-hf's, where the mark is a token
    theirs.add_special_tokens({"additional_special_tokens": ["<image>"]})
    theirs.save_pretrained(tmp_path / "hf")
    tokenizer = load_tokenizer(tmp_path / "hf")
    mark = tokenizer.id_of("<image>")
    expected = [-200 if i == mark else i for i in theirs(text).input_ids]
    assert tokenize(text, tokenizer).tolist() == expected
