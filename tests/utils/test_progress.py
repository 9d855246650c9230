"""The progress bar: how far, how fast, how long still."""

import io

import pytest

from diffvis_jax.utils import progress


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_lines_where_there_is_no_terminal(clock):
    stream = io.StringIO()
    with progress.Progress(20, "frames", stream) as bar:
        for _ in range(4):
            clock[0] += 2
            bar("a")
        clock[0] += 8
        bar("b", 16)
    assert stream.getvalue().splitlines() == [
        "frames 2/20 (0.5/s, 0:36 left)",
        "frames 4/20 (0.5/s, 0:32 left)",
        "frames 20/20 (1.36/s, 0:00 left)",
    ]


def test_a_bar_on_a_terminal(clock):
    stream = io.StringIO()
    stream.isatty = lambda: True
    with progress.Progress(2, "frames", stream) as bar:
        bar("first.png")
        clock[0] += 90
        bar("second.png")
    first, second = stream.getvalue().split("\r")[1:]
    assert first.startswith("frames [############------------] 1/2 first.png")
    assert second.startswith("frames [########################] 2/2 (0.0111/s, 0:00 left) second")
