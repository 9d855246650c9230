"""The example agent_loop.py: a Python loop and `lax.scan`, one stream and several, are one."""

import jax
import numpy as np
import pytest
from tiny import ROUNDING, deviation


@pytest.fixture(scope="module")
def agent_loop(script):
    return script("agent_loop")


@pytest.fixture(scope="module")
def params(clip):
    return {
        "vision": clip.params,
        "head": jax.random.normal(jax.random.key(0), (clip.tower.token_width, 5)),
    }


@pytest.fixture(scope="module")
def frames(agent_loop, clip):
    """Four frames of two streams."""
    return agent_loop.synthetic_screens(4, 2, clip.config.size, seed=0)


@pytest.fixture(scope="module")
def scanned(agent_loop, params, clip, frames):
    return agent_loop.scan_loop(params, clip.config, frames)


def test_synthetic_screens_change_a_little_at_each_frame(frames):
    assert frames.shape == (4, 2, 36, 36, 3)
    changed = (frames[1:] != frames[:-1]).any(-1).sum((2, 3))
    assert (changed > 0).all()
    assert changed.max() <= 8 * 8
    assert (frames[:, 0] != frames[:, 1]).any()


@pytest.mark.slow
def test_a_python_loop_does_what_a_scan_does(agent_loop, params, clip, frames, scanned):
    actions, cache = agent_loop.python_loop(params, clip.config, frames)
    assert actions.shape == (4, 2)
    np.testing.assert_array_equal(actions, scanned[0])
    same_caches(cache, scanned[1])


@pytest.mark.slow
def test_several_streams_do_what_each_does_alone(agent_loop, params, clip, frames, scanned):
    for stream in range(2):
        own = slice(stream, stream + 1)
        actions, cache = agent_loop.scan_loop(params, clip.config, frames[:, own])
        np.testing.assert_array_equal(actions, scanned[0][:, own])
        same_caches(cache, jax.tree.map(lambda x, own=own: x[own], scanned[1]))


def same_caches(found, expected):
    """All that is counted or marked is equal; maps and tokens are so to rounding."""
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        if one.dtype == np.float32:
            assert deviation(one, other) < ROUNDING
        else:
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("option", [("--seed", "-1"), ("--steps", "0"), ("--streams", "few")])
def test_wrong_options_are_one_line(agent_loop, capsys, option):
    with pytest.raises(SystemExit) as ended:
        agent_loop.main(list(option))
    assert ended.value.code == 2
    printed = capsys.readouterr().err
    assert printed.startswith(f"error: argument {option[0]}: expected a whole number")
    assert printed.count("\n") == 1
