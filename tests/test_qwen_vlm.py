"""Qwen2.5-VL end to end against the numbers that transformers gave for the same weights."""

import shutil

import numpy as np
import pytest
from checkpoint_files import DATA, qwen_vl, write_directory
from tiny import ROUNDING, deviation

import diffvis_jax as dv
from diffvis_jax.checkpoints.convert import convert
from diffvis_jax.core.step import jit_encode

PROMPTS = {"one": "b", "two": "ab", "text": ""}
GRIDS = {"a": (8, 12), "b": (5, 7)}


@pytest.fixture(scope="module")
def golden():
    return np.load(DATA / "qwen2_5_vl_tiny.npz")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    base = tmp_path_factory.mktemp("qwen")
    source = write_directory(base / "source", qwen_vl(), "qwen2_5_vl_tiny_config.json")
    shutil.copy(DATA / "qwen2_5_vl_tiny_preprocessor.json", source / "preprocessor_config.json")
    return dv.load(convert(str(source), base / "out", say=lambda *_: None))


def frames_of(golden, prompt):
    return [golden[f"{name}_resized"] for name in PROMPTS[prompt]]


def slow(*prompts):
    """Each length of a prompt is several programs."""
    return [pytest.param(name, marks=[pytest.mark.slow] * (name in prompts)) for name in PROMPTS]


@pytest.mark.parametrize("prompt", slow("one"))
def test_logits_are_those_of_pytorch(model, golden, prompt):
    frames, ids = frames_of(golden, prompt), golden[f"{prompt}_input_ids"]
    assert deviation(dv.logits(model, frames, ids)[0], golden[f"{prompt}_logits"]) < ROUNDING


@pytest.mark.parametrize("prompt", slow("one", "text"))
def test_a_greedy_answer_is_that_of_pytorch(model, golden, prompt):
    frames, ids = frames_of(golden, prompt), golden[f"{prompt}_input_ids"]
    expected = golden[f"{prompt}_greedy"].tolist()
    assert dv.generate_ids(model, frames, ids, 14, stop_ids=()).tolist() == expected


@pytest.mark.slow
@pytest.mark.parametrize("prompt", PROMPTS)
def test_beams_go_on_behind_a_prompt(model, golden, prompt):
    frames, ids = frames_of(golden, prompt), golden[f"{prompt}_input_ids"]
    beams = dv.generate_ids(model, frames, ids, 3, stop_ids=(), num_beams=2)
    assert len(beams) == 3


@pytest.mark.slow
def test_decoding_in_another_dtype(model, golden, tmp_path):
    source = write_directory(tmp_path / "source", qwen_vl(), "qwen2_5_vl_tiny_config.json")
    loaded = dv.load(
        convert(str(source), tmp_path / "out", say=lambda *_: None),
        "bfloat16",
        decode_dtype="float32",
    )
    assert len(dv.generate_ids(loaded, None, golden["text_input_ids"], 2, stop_ids=())) == 2


def vision(model, golden, name):
    frame = golden[f"{name}_resized"][None]
    return np.asarray(jit_encode(model.params, frame, config=model.config))[0]


@pytest.mark.slow
def test_a_session_of_changing_images_equals_fresh_prefills(model, golden):
    """An image changes, is added, changes its size, and goes; text alone."""
    big, small = (vision(model, golden, name) for name in "ab")
    other = small.copy()
    other[20:] += 0.5
    a, b = GRIDS["a"], GRIDS["b"]
    session = dv.PromptSession(model.language, options=dv.AnswerOptions(max_new_tokens=5))
    fresh = dv.PromptSession(
        model.language, options=dv.AnswerOptions(max_new_tokens=5), differential=False
    )
    for tokens, grids, ids in (
        ([small], [b], [5, -200, 6, 7]),
        ([other], [b], [5, -200, 6, 7]),
        ([small], [(7, 5)], [5, -200, 6, 7]),  # as many tokens, in other places
        ([small, big], [b, a], [5, -200, 6, -200, 7]),
        ([big, small], [a, b], [5, -200, 6, -200, 7]),
        (None, None, [5, 6, 7]),
    ):
        found, expected = (s.prefill(tokens, ids, grids) for s in (session, fresh))
        assert deviation(found.logits, expected.logits) < ROUNDING
        assert session.generate().tolist() == fresh.generate().tolist()
    assert session.get_stats()["partial"] > 0


def test_unchanged_tokens_before_a_change_are_kept(model, golden):
    small = vision(model, golden, "b")
    other = small.copy()
    other[20:] += 0.5
    session = dv.PromptSession(model.language, options=dv.AnswerOptions(max_new_tokens=5))
    session.prefill([small], [5, -200, 6, 7], [GRIDS["b"]])
    report = session.prefill([other], [5, -200, 6, 7], [GRIDS["b"]]).report
    assert (report["first"], report["prefilled"], report["total"]) == (21, 17, 38)
    # Token 1 of 7 x 5 stands in another place than token 5 of 5 x 7.
    report = session.prefill([other], [5, -200, 6, 7], [(7, 5)]).report
    assert report["first"] == 1 + 5


@pytest.mark.parametrize("several", [False, True])
def test_a_place_for_a_video_is_refused(model, golden, several):
    ids = golden["text_input_ids"]
    with_video = np.concatenate([ids, [312, 316, 313]])
    given = [ids, with_video] if several else with_video
    said = r"hold 316 \(<\|video_pad\|>\), a place for a video; videos are not supported"
    for call in (dv.logits, dv.generate_ids):
        with pytest.raises(dv.PromptError, match=said):
            call(model, None, given)
    with pytest.raises(dv.PromptError, match=said):
        dv.PromptSession(model.language).prefill(None, with_video)


def test_grids_must_be_told(model, golden):
    session = dv.PromptSession(model.language)
    with pytest.raises(dv.PromptError, match="grids must be"):
        session.prefill([vision(model, golden, "b")], [5, -200])
    with pytest.raises(dv.PromptError, match="image 0 has 35 tokens, but 34 ids 315"):
        dv.logits(model, frames_of(golden, "one"), [5, *[315] * 34, 6])
