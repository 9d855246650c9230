"""Pages and films replace an existing file completely or not at all."""

import numpy as np
import pytest
from PIL import Image
from tiny import FASTVITHD

from diffvis_jax.measure.recording_run import FrameResult, SessionResult
from diffvis_jax.report.film import write_film
from diffvis_jax.report.plain_page import paragraph, write_plain_page
from diffvis_jax.report.session_page import write_session_page

NOT_UTF_8 = "\ud800"  # fails when the file is already open


def session_page(target):
    pixels = np.zeros((4, 4), np.float32)
    stages = np.zeros((5, 4, 4), np.float32)
    frame = FrameResult(
        index=0,
        path="full",
        changed_patches=0,
        total_patches=16,
        recomputed=1.0,
        pending=0.0,
        step_ms=1.0,
        full_ms=1.0,
        missed_changed=None,
        missed_all=None,
        moved=None,
        error=0.0,
        changed=np.zeros((4, 4), bool),
        cell_recomputed=pixels,
        stage_recomputed=stages,
        stage_pending=stages,
        age=np.zeros((4, 4), np.int32),
        token_error=pixels,
    )
    picture = target.parent / "picture.png"
    Image.new("RGB", (8, 8)).save(picture)
    results = {"exact": SessionResult((frame,), 0.0, 0.0)}
    write_session_page(target, results, [picture], ["start"], FASTVITHD, title=NOT_UTF_8)


def plain_page(target):
    write_plain_page(target, "A page", [paragraph(NOT_UTF_8)])


def film(target):
    pictures = [target.parent / name for name in ("0.png", "1.png")]
    Image.new("RGB", (8, 8)).save(pictures[0])
    pictures[1].write_bytes(pictures[0].read_bytes()[:40])  # breaks after the first frame
    write_film(pictures, ["first", "second"], target)


@pytest.mark.parametrize(
    ("write", "name"), [(session_page, "a.html"), (plain_page, "a.html"), (film, "a.webp")]
)
def test_a_failure_keeps_the_old_file_and_leaves_no_other(tmp_path, write, name):
    target = tmp_path / name
    target.write_text("the old file")
    with pytest.raises((UnicodeEncodeError, OSError)):
        write(target)
    assert target.read_text() == "the old file"
    assert all(path.suffix == ".png" for path in tmp_path.iterdir() if path != target)
