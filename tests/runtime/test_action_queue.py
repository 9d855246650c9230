"""Chunks of actions that come late."""

import numpy as np
import pytest

import diffvis_jax as dv
from diffvis_jax.runtime.action_queue import crossfade


def chunk(first, length=5):
    return np.arange(first, first + length, dtype=np.float64)[:, None]


def drained(queue):
    return [float(queue.pop()[0]) for _ in range(len(queue))]


@pytest.mark.parametrize(
    ("delay", "dropped"), [(0, 0), (0.01, 1), (0.1, 1), (0.3, 3), (0.7, 5), (0.31, 4), (9, 5)]
)
def test_actions_whose_time_has_passed_are_dropped(delay, dropped):
    queue = dv.ActionQueue(10)
    assert queue.put(chunk(0), delay) == dropped
    assert drained(queue) == list(range(dropped, 5))
    assert queue.pop() is None


def test_a_newer_chunk_replaces_and_one_that_came_too_late_does_not():
    queue = dv.ActionQueue(10)
    queue.put(chunk(0), 0)
    queue.pop()
    queue.put(chunk(10), 0.2)
    assert queue.put(chunk(20), 3) == 5
    assert drained(queue) == [12, 13, 14]


def test_chunks_are_blended_where_both_have_an_action():
    queue = dv.ActionQueue(10, blend=lambda before, now: before * 100 + now)
    queue.put(chunk(0, 3), 0)
    queue.pop()
    queue.put(chunk(10), 0.1)
    assert drained(queue) == [111, 212, 13, 14]


def test_a_crossfade_goes_evenly_from_one_to_the_other():
    before, now = np.zeros((3, 2)), np.ones((3, 2)) * [4, 8]
    np.testing.assert_allclose(crossfade(before, now), [[1, 2], [2, 4], [3, 6]])


@pytest.mark.parametrize("hz", [0, -1, float("nan"), float("inf")])
def test_a_rate_that_is_none(hz):
    with pytest.raises(dv.ConfigError, match="hz must be above 0"):
        dv.ActionQueue(hz)


@pytest.mark.parametrize("delay", [-0.1, float("nan")])
def test_a_delay_that_is_none(delay):
    with pytest.raises(dv.ConfigError, match="delay must be at least 0"):
        dv.ActionQueue(10).put(chunk(0), delay)
