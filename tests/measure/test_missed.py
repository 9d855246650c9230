"""Which tokens changed, on towers whose token is no patch or does not see the whole frame."""

import numpy as np
import pytest

from diffvis_jax.measure.missed import changed_tokens, missed_at


def test_a_token_changes_with_its_own_pixels(toy):
    frames = toy.frames()
    changed = frames.copy()
    changed[1, 9, 70, 2] ^= 1  # 56 x 72 px, tokens of 8: the second row, the last column
    found = np.asarray(changed_tokens(toy.tower, frames, changed)).reshape(2, 7, 9)
    assert np.argwhere(found).tolist() == [[1, 1, 8]]


def test_pixels_that_no_token_sees_change_none(clip):
    frames = clip.frames()
    changed = frames.copy()
    changed[:, 33:] ^= 1  # of 36 px CLIP looks at 32
    assert not np.asarray(changed_tokens(clip.tower, frames, changed)).any()
    changed[0, 0, 31] ^= 1
    assert np.argwhere(changed_tokens(clip.tower, frames, changed)).tolist() == [[0, 3]]


def test_what_is_missed_at_the_marks_and_over_all():
    before, full = np.zeros((2, 1)), np.array([[3.0], [4.0]])
    tokens = np.array([[3.0], [0.0]])
    at = np.array([True, False])
    assert missed_at(at, tokens, full, before) == (0, pytest.approx(0.8))
    assert missed_at(~at, tokens, full, before) == (1, pytest.approx(0.8))
    assert missed_at(at & ~at, tokens, full, before) == (None, None)
