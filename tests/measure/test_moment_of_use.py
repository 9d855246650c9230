"""What was missing at the moment of use: late, approximate, or neither."""

import numpy as np
import pytest

import diffvis_jax as dv
from diffvis_jax.measure.moment_of_use import MissedWhenUsed, MomentOfUse, use_tails


@pytest.fixture(scope="module")
def frames(square):
    """A screen, a change, the same again, another change."""
    first = square.frames(0)[:1]
    second = square.change_patch(first, 1, 1)
    third = square.change_patch(second, 3, 3)
    return np.concatenate([first, second, second, third])


def test_late_by_a_change_is_all_of_it_and_in_time_is_nothing(square, frames):
    judge = MomentOfUse(dv.Model(square.config, square.params, "toy"), frames)
    full = square.full(frames)
    half = (full[2] + full[3]) / 2
    uses = [(0, full[0]), (1, full[0]), (1, full[1]), (2, full[0]), (3, full[2]), (3, half)]
    found = [judge.missed(*use) for use in uses]
    assert found[0] == MissedWhenUsed()  # nothing has changed yet
    missed = [one.missed_changed for one in found[1:]]
    assert missed == pytest.approx([1, 0, 1, 1, 0.5], abs=1e-3)
    assert [one.missed_all for one in found[1:]] == pytest.approx([1, 0, 1, 1, 0.5], abs=1e-3)
    assert all(one.moved > 0 for one in found[1:])
    assert judge.missed(3, full[0]).missed_all > 1  # two changes behind


def test_the_mean_is_what_was_missing_over_what_had_changed():
    small, large = (MissedWhenUsed(9.0, 8.0, 0.01, 0.01), MissedWhenUsed(0.1, 0.2, 0.89, 0.79))
    tiny = MissedWhenUsed(50.0, 50.0, 1e-6, 1e-6)
    found = use_tails([small, large, tiny, MissedWhenUsed()])
    assert found["uses"] == 2
    assert found["missed_changed"]["mean"] == pytest.approx((0.09 + 0.089) / 0.9)
    assert found["missed_all"]["mean"] == pytest.approx((0.08 + 0.158) / 0.8)
    assert found["missed_changed"]["max"] == 9
    assert use_tails([])["missed_all"] == dict.fromkeys(("mean", "median", "p90", "max"))
