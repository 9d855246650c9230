"""LLaVA-1.5 and 1.6 against live transformers, and what tests/data keeps of it."""

import numpy as np
import pytest
from checkpoint_files import DATA, stored
from llava_tiny import GRID, SIZE, answer, make, pixels, prompt, released
from tiny import deviation

import diffvis_jax as dv
from diffvis_jax.checkpoints.convert import convert

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
