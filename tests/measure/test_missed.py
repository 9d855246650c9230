"""Which tokens changed, on towers whose token is no patch or does not see the whole frame."""

import numpy as np
import pytest

from diffvis_jax.measure.missed import Missed, changed_tokens, missed_at, missed_tails


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
    assert missed_at(at, tokens, full, before) == (0, pytest.approx(0.8), 1)
    assert missed_at(~at, tokens, full, before) == (1, pytest.approx(0.8), 1)
    assert missed_at(at & ~at, tokens, full, before) == (None, None, None)
    assert missed_at(~at, tokens, full, 0.999 * full).moved == pytest.approx(0.001)


def test_tiny_changes_do_not_count():
    steps = [Missed(), Missed(9.0, 9.0, 0.0009), Missed(0.1, 0.2, 0.001), Missed(0.3, 0.4, 1.0)]
    found = missed_tails(steps)
    assert found["tiny"] == 1
    assert found["missed_changed"] == pytest.approx(dict(median=0.2, p90=0.28, max=0.3))
    assert found["missed_all"]["max"] == 0.4
    nothing = dict.fromkeys(("median", "p90", "max"))
    assert missed_tails(steps[:2]) == dict(missed_changed=nothing, missed_all=nothing, tiny=1)
