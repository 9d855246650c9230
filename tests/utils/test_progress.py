"""The progress bar: plain lines in a log, a bar on a terminal."""

import io
import re

from diffvis_jax.utils.progress import Progress


def test_a_log_has_plain_lines():
    stream = io.StringIO()
    with Progress(20, "frames", stream) as progress:
        for index in range(4):
            progress(f"[red]frame {index}")
        progress("the rest", 16)
    lines = stream.getvalue().splitlines()
    assert all(re.fullmatch(r"frames \d+/20( \([\d.e+]+/s, [\d:]+ left\))?", x) for x in lines)
    assert [line.split()[1] for line in lines] == ["2/20", "4/20", "20/20"]


def test_a_terminal_has_a_bar():
    stream = io.StringIO()
    stream.isatty = lambda: True
    with Progress(2, "frames", stream) as progress:
        progress("first.png")
        progress("[second].png")
    assert "\r" in stream.getvalue()
    assert re.search(r"frames.*2/2.*\[second\]\.png", stream.getvalue())
