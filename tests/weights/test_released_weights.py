"""On a released FastVLM, where somebody has one: `DIFFVIS_FASTVLM=DIR python -m pytest -m weights`.

DIR is the checkpoint as released, or a directory that convert.py made of it. The published figures
are of COCO val 000000039769; put 000000039769.jpg into DIR, or name it in DIFFVIS_FASTVLM_IMAGE.
"""

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest

import diffvis_jax as dv
from diffvis_jax.checkpoints.convert import convert
from diffvis_jax.language.prompt import IMAGE_TOKEN, build_prompt, tokenize

pytestmark = [
    pytest.mark.weights,
    pytest.mark.skipif("DIFFVIS_FASTVLM" not in os.environ, reason="DIFFVIS_FASTVLM is not set"),
]

QUESTION = "What are these?"
# Width of the decoder -> first three logits of the last position, as transformers' conversion
# script asserts them: of Hugging Face's layout, in bfloat16, to 0.1.
PUBLISHED = {
    896: (4.1250, 9.6875, 11.1875),
    1536: (3.3750, 11.5, 11.8125),
    3584: (3.8281, 9.0625, 7.9062),
}
TOLERANCE = 0.3  # theirs are bfloat16 throughout, ours sum in float32


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    directory = Path(os.environ["DIFFVIS_FASTVLM"]).expanduser()
    if not (directory / "manifest.json").is_file():
        out = tmp_path_factory.mktemp("weights") / "fastvlm"
        directory = convert(str(directory), out, dtype="bfloat16")
    return dv.load(directory)


@pytest.fixture(scope="module")
def cats(model):
    """The picture as Hugging Face's processor makes it: short side resized, middle cut out."""
    default = Path(os.environ["DIFFVIS_FASTVLM"]).expanduser() / "000000039769.jpg"
    image = Path(os.environ.get("DIFFVIS_FASTVLM_IMAGE", default))
    if not image.is_file():
        pytest.skip(f"{image} is not there")
    return dv.preprocess(image, dataclasses.replace(model.config, resize_mode="crop"))


def test_the_question_has_24_tokens(model):
    ids = tokenize(build_prompt(QUESTION), model.language.tokenizer)
    assert (ids != IMAGE_TOKEN).sum() == 24
    assert len(model.language.tokenizer) in (151646, 151647)  # with <image>, where files add it


def test_logits_are_the_published_ones(model, cats):
    ids = tokenize(build_prompt(QUESTION), model.language.tokenizer)
    logits = np.asarray(dv.logits(model, cats, ids))
    assert logits.shape[1] == 280
    expected = PUBLISHED[model.language.config.width]
    np.testing.assert_allclose(logits[0, -1, :3], expected, atol=TOLERANCE)


def test_it_sees_the_cats(model, cats):
    tokenizer = model.language.tokenizer
    ids = tokenize(build_prompt(QUESTION), tokenizer)
    answer = dv.generate_ids(model, cats, ids, 32, vocabulary=len(tokenizer))
    assert "cat" in tokenizer.decode(answer).lower()


def test_differential_prefill_gives_the_same_text(model, cats):
    """A letter's worth of pixels changes; the second frame is prefilled in part."""
    tokenizer = model.language.tokenizer
    ids = tokenize(build_prompt(QUESTION), tokenizer)
    options = dv.AnswerOptions(max_new_tokens=16, vocabulary=len(tokenizer))
    session = dv.PromptSession(model.language, options=options)
    encoder = dv.DifferentialVisionEncoder(model, dv.Policy.exact())
    frame = np.array(cats)
    for change in (0, 1):
        frame[:, -40:-20, -40:-20] += np.uint8(100 * change)
        prefilled = session.prefill(encoder.encode(frame), ids)
        fresh = dv.generate_ids(model, frame, ids, 16, vocabulary=len(tokenizer))
        assert session.generate().tolist() == fresh.tolist()
    assert prefilled.report["total"] == 280
