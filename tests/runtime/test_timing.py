"""Milliseconds from shares, and shares from milliseconds."""

import numpy as np
import pytest

import diffvis_jax as dv
from diffvis_jax.runtime import timing
from diffvis_jax.runtime.timing import fitted


def test_a_line_is_found():
    shares = [0, 0.1, 0.2, 0.5, 1.0]
    found = fitted(shares, [5 + 100 * share for share in shares])
    assert found.fixed_ms == pytest.approx(5)
    assert found.encode_ms == pytest.approx(100)
    assert (found.p50, found.p95) == pytest.approx((1, 1))
    assert found.steps == 5
    assert found.ms(0.25) == pytest.approx(30)
    assert found.budget_for(30) == pytest.approx(0.25)
    assert found.budget_for(1000) == 1


def test_a_budget_is_for_the_slow_steps():
    """A tenth of the steps takes twice as long."""
    rng = np.random.default_rng(0)
    shares = rng.random(2000)
    ms = (5 + 100 * shares) * np.where(rng.random(2000) < 0.1, 2, 1)
    found = fitted(shares, ms)
    share = found.budget_for(60)
    slow = 2 * (5 + 100 * share)
    assert slow == pytest.approx(60, rel=0.05)
    assert found.p50 < 1 < found.p95


def test_the_line_does_not_begin_below_nothing():
    found = fitted([0.1, 0.5, 1.0], [1, 50, 110])
    assert found.fixed_ms == 0
    assert found.encode_ms > 100


def test_what_no_budget_reaches():
    found = fitted([0, 1], [5, 105])
    with pytest.raises(dv.ConfigError, match=r"no budget for 5 ms: .* takes 5 ms .* encode 105 ms"):
        found.budget_for(5)


@pytest.mark.parametrize(
    ("shares", "ms", "said"),
    [([0.5, 0.5], [1, 2], "the same share"), ([0, 1], [5, 1], "took no longer")],
)
def test_steps_that_say_nothing(shares, ms, said):
    with pytest.raises(dv.ConfigError, match=said):
        fitted(shares, ms)


def test_steps_of_a_stream_are_measured(square, monkeypatch):
    """Two rounds of a full encode, a change, its way back, and nothing; one to compile before."""
    monkeypatch.setattr(timing, "fitted", lambda shares, ms: (shares, ms))
    model = dv.Model(square.config, square.params, "toy")
    first = square.frames(0)[:1]
    frames = np.concatenate([first, square.change_patch(first, 1, 1), first, first])
    shares, ms = dv.calibrate_time(model, dv.Policy.fast(settle=0), frames, rounds=2)
    assert len(shares) == len(ms) == 8
    assert min(ms) > 0
    assert shares[:4] == shares[4:]
    assert shares[0] == pytest.approx(1)
    assert 0 < shares[1] == shares[2] < 1
    assert shares[3] == 0
    with pytest.raises(dv.FrameError, match="at least two frames"):
        dv.calibrate_time(model, None, first)
    with pytest.raises(dv.ConfigError, match="rounds"):
        dv.calibrate_time(model, None, frames, rounds=0)
    with pytest.raises(dv.FrameError, match="uint8"):
        dv.calibrate_time(model, None, frames.astype(np.float32))
