"""Recorded sessions at their times."""

import json

import pytest
from test_control_loop import Rig

import diffvis_jax as dv
from diffvis_jax.runtime.clock import FakeClock
from diffvis_jax.runtime.replay import Replay, recorded_times, tick_times


def test_frames_come_at_their_times_from_the_beginning_on():
    clock = FakeClock(100.0)
    replay = Replay("abc", [0, 0.5, 2.0], clock)
    clock.sleep_until(200)
    assert (replay.index, replay.elapsed) == (0, 0)
    replay.begin()
    seen = []
    for moment in (200, 200.49, 200.5, 201.9, 202, 999):
        clock.sleep_until(moment)
        replay.begin()  # once is enough
        seen.append(replay.observe().images)
    assert "".join(seen) == "aabbcc"
    assert replay.observe().owned


def test_a_frame_at_every_tick():
    clock = FakeClock()
    replay = Replay("abcd", tick_times(4, 10), clock)
    replay.begin()
    seen = []
    for tick in range(6):
        clock.sleep_until(tick / 10 + 0.01)
        seen.append(replay.observe().images)
    assert "".join(seen) == "abcddd"


@pytest.mark.parametrize("times", [[0, 1], [], [0, 2, 1], [1, 2, 3], [0, 1, float("inf")]])
def test_times_that_are_none(times):
    with pytest.raises(dv.FrameError, match="times"):
        Replay("abc", times, FakeClock())


def write(folder, steps):
    (folder / "trajectory.json").write_text(json.dumps({"steps": steps}))
    return [folder / name for name in ("a.png", "b.png")]


def test_times_that_a_recorder_wrote(tmp_path):
    assert recorded_times(tmp_path, [tmp_path / "a.png"]) is None
    paths = write(tmp_path, [{"frame": "a.png", "t": 3.5}, {"frame": "b.png", "t": 5}])
    assert recorded_times(tmp_path, paths) == [0, 1.5]
    paths = write(tmp_path, [{"frame": "a.png"}, {"frame": "b.png"}])
    assert recorded_times(tmp_path, paths) is None


@pytest.mark.parametrize(
    "steps",
    [
        [{"frame": "a.png", "t": 3.5}, {"frame": "b.png"}],
        [{"frame": "a.png", "t": 3.5}, {"frame": "b.png", "t": 1}],
        [{"frame": "a.png", "t": 3.5}],
        [{"t": 1}],
        "steps",
    ],
)
def test_times_that_make_no_sense(tmp_path, steps):
    paths = write(tmp_path, steps)
    with pytest.raises(dv.ImageError, match=r"trajectory\.json"):
        recorded_times(tmp_path, paths)


def test_a_replay_drives_a_loop(square):
    """Features of a frame come a tick after it; nothing is copied on the way."""
    rig = Rig(0.03)
    frames = [[number] for number in range(6)]
    replay = Replay(frames, tick_times(6, 10), rig.clock)
    used = []

    def act(encoded, images, age):
        replay.begin()
        used.append((images[0], encoded.value[0]))
        assert images is frames[images[0]]

    dv.ControlLoop(rig.worker, replay.observe, act, dv.LoopConfig()).run(7)
    assert used == [(0, 0), (1, 0), (2, 1), (3, 2), (4, 3), (5, 4), (5, 5)]
