"""Positions on three axes, and runs of placeholders, against transformers' (tests/data)."""

import numpy as np
import pytest
from checkpoint_files import DATA

from diffvis_jax.errors import PromptError
from diffvis_jax.language.generate import rope_delta
from diffvis_jax.language.positions import collapsed, mrope_positions
from diffvis_jax.language.splice import splice

PAD, IMAGE = 315, -200
GRIDS = {"a": (8, 12), "b": (5, 7)}
PROMPTS = {"one": "b", "two": "ab", "text": ""}


@pytest.fixture(scope="module")
def golden():
    return np.load(DATA / "qwen2_5_vl_tiny.npz")


def spliced(ids, grids, **more):
    sizes = [rows * columns for rows, columns in grids]
    return splice(ids, len(grids), sizes, vocabulary=320, pad_id=PAD, **{"max_length": 999, **more})


@pytest.mark.parametrize("prompt", PROMPTS)
def test_positions_equal_transformers(golden, prompt):
    grids = [GRIDS[name] for name in PROMPTS[prompt]]
    ids = golden[f"{prompt}_input_ids"]
    found = spliced(ids, grids)
    assert found.length.tolist() == [len(ids)]
    positions = mrope_positions(found.image, grids)
    np.testing.assert_array_equal(positions[0, : len(ids)].T, golden[f"{prompt}_position_ids"])
    assert rope_delta(positions, found.length).tolist() == [golden[f"{prompt}_rope_delta"]]


def test_both_ways_to_write_an_image_are_the_same(golden):
    expanded, grids = golden["two_input_ids"], list(GRIDS.values())
    places = expanded[np.r_[True, (expanded[1:] != PAD) | (expanded[:-1] != PAD)]]
    short = np.where(places == PAD, IMAGE, places)
    assert (short == IMAGE).sum() == 2
    for one, other in zip(spliced(expanded, grids), spliced(short, grids), strict=True):
        np.testing.assert_array_equal(one, other)


def test_prompts_of_a_batch_have_images_of_their_own():
    grids = [(2, 3), (1, 2), (2, 2)]
    found = spliced([[5, IMAGE, 6, IMAGE], [IMAGE, 7]], grids)
    assert found.length.tolist() == [10, 5]
    positions = mrope_positions(found.image, grids)
    assert positions[0, :10].tolist() == [
        *([0, 0, 0], [1, 1, 1], [1, 1, 2], [1, 1, 3], [1, 2, 1], [1, 2, 2], [1, 2, 3]),
        *([4, 4, 4], [5, 5, 5], [5, 5, 6]),
    ]
    assert positions[1, :5].tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 1], [2, 2, 2]]
    assert rope_delta(positions, found.length).tolist() == [-3, -2]


def test_an_image_that_is_cut_off():
    found = spliced([5, IMAGE, 6], [(2, 3)], max_length=4)
    positions = mrope_positions(found.image[:, :4], [(2, 3)])
    assert positions[0].tolist() == [[0, 0, 0], [1, 1, 1], [1, 1, 2], [1, 1, 3]]


@pytest.mark.parametrize(
    ("ids", "tokens", "message"),
    [
        ([PAD] * 5, [6], "image 3 has 6 tokens, but 5 ids 315 stand for it in input_ids"),
        ([IMAGE, 1, PAD, PAD], [6, 3], "image 4 has 3 tokens, but 2 ids 315"),
        ([PAD] * 6 + [1] + [PAD] * 2, [6], "a run of 2 ids 315 stands for an image that is not"),
    ],
)
def test_runs_that_are_no_image(ids, tokens, message):
    with pytest.raises(PromptError, match=message):
        collapsed(np.array(ids, np.int32), PAD, IMAGE, tokens, 3)
