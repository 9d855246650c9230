"""Scrolled screens: what moved by whole windows is moved, and nothing is wrong for it."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from tiny import ROUNDING, Kit

import diffvis_jax as dv
from diffvis_jax.core import scroll
from diffvis_jax.core.change import changed_patches
from diffvis_jax.towers import build

WHOLE = Kit(dataclasses.replace(tiny.QWEN, size=(96, 80)))  # 6 x 5 windows of 16 px
PARTIAL = Kit(dataclasses.replace(tiny.QWEN, size=(88, 72)))  # the last row and column are partial
STEM = Kit(dataclasses.replace(tiny.STEM, size=(160, 128)))  # 5 x 4 windows of 32 px
FOLLOW = dv.Policy(margin=0, settle=0, scroll=True)
FIND = jax.jit(scroll.find_shift, static_argnums=0)


def page(kit, seed, height=40):
    """`uint8 [height windows, W, 3]`, each window of its own, wider than the frame."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height * kit.tower.patch, 4 * kit.tower.frame[1], 3), np.uint8)


def view(kit, content, row, column=8):
    """The frame that shows it from that window on."""
    (height, width), side = kit.tower.frame, kit.tower.patch
    return content[row * side : row * side + height, column * side : column * side + width]


def found(kit, before, after):
    """The shift from one frame to the other, and the cells that moved."""
    cache = dv.init_cache(kit.config)
    side, (height, width) = kit.tower.patch, kit.tower.frame
    pixels = np.zeros(cache.pixels.shape, np.uint8)
    pixels[0, :height, :width] = before
    cache = dataclasses.replace(cache, pixels=pixels)
    changed = changed_patches(after[None], before[None], side, "max", 0.0)
    shift = FIND(kit.tower, cache, after[None], changed)
    return np.asarray(shift.by[0]).tolist(), np.asarray(shift.moved[0])


def play(kit, frames, policy):
    """Caches and reports of two equal streams' steps."""
    cache = dv.init_cache(kit.config, 2)
    for frame in frames:
        both = np.stack([frame, frame]) if frame.ndim == 3 else frame
        tokens, cache, report = kit.step(kit.params, cache, both, policy)
        yield both, tokens, cache, report


@pytest.mark.parametrize("by", [1, -1, 2, -3, 5])
@pytest.mark.parametrize("axis", [0, 1])
def test_every_shift_by_whole_windows_is_found(by, axis):
    content = page(WHOLE, 1)
    start = [10, 8]
    before = view(WHOLE, content, *start)
    start[axis] -= by  # the content moves down or to the right
    shift, moved = found(WHOLE, before, view(WHOLE, content, *start))
    sides = WHOLE.tower.grid
    left = sides[axis] - abs(by)
    if left * sides[1 - axis] < scroll.LEAST_CELLS:
        assert shift == [0, 0]
        return
    assert shift[axis] == by
    assert shift[1 - axis] == 0
    kept = np.zeros(sides, bool)
    kept[
        tuple(slice(max(by, 0), left + max(by, 0)) if a == axis else slice(None) for a in (0, 1))
    ] = True
    assert (moved == kept).all()


def test_what_stays_in_its_place_is_not_moved():
    content = page(WHOLE, 2)
    before, after = view(WHOLE, content, 10).copy(), view(WHOLE, content, 11).copy()
    before[:16], after[:16] = 7, 7  # a header
    before[:, :16], after[:, :16] = before[:, :16], before[:, :16]  # and a bar at the side
    after[40:44, 40:44] = 255  # a caret in what scrolled
    shift, moved = found(WHOLE, before, after)
    assert shift == [-1, 0]
    assert not moved[0].any()
    assert not moved[:, 0].any()
    assert not moved[2, 2]
    assert moved[3, 1:].all()


def test_blank_and_periodic_pages():
    blank = np.full((96, 80, 3), 250, np.uint8)
    darker = blank - 1
    assert found(WHOLE, blank, darker)[0] == [0, 0]
    # Equal to itself under several shifts: the smallest.
    stripes = np.tile(page(WHOLE, 3, 3), (14, 1, 1))
    shift, _ = found(WHOLE, view(WHOLE, stripes, 10), view(WHOLE, stripes, 11))
    assert shift == [-1, 0]
    shift, _ = found(WHOLE, view(WHOLE, stripes, 10), view(WHOLE, stripes, 12))
    assert shift == [1, 0]


def test_equal_hashes_of_other_pixels_move_nothing_wrong(monkeypatch):
    monkeypatch.setattr(
        scroll, "cell_hashes", lambda cells: cells[..., 0, :2].astype(np.uint32) * 0
    )
    content = page(WHOLE, 4)
    before, after = view(WHOLE, content, 10), view(WHOLE, content, 12)
    cache = dataclasses.replace(dv.init_cache(WHOLE.config), pixels=np.asarray(before)[None])
    changed = np.ones((1, *WHOLE.tower.grid), bool)
    shift = scroll.find_shift(WHOLE.tower, cache, after[None], changed)
    assert not np.asarray(shift.moved).any()  # the first candidate is not it


@pytest.mark.parametrize(
    "own", [WHOLE, *(pytest.param(kit, marks=pytest.mark.slow) for kit in (PARTIAL, STEM))]
)
def test_moved_features_are_those_of_the_full_encode(own):
    kit = own
    content = page(kit, 5)
    frames = [view(kit, content, row) for row in (10, 11, 13, 12)]
    first_global = [layer.global_ for layer in kit.tower.layers].index(True)
    for number, (both, _, cache, report) in enumerate(play(kit, frames, FOLLOW)):
        np.testing.assert_array_equal(cache.reference, both)
        if not number:
            continue
        assert (np.asarray(report.moved_patches) > 0).all()
        assert (np.asarray(report.recomputed) < 0.7).all()
        # Before the first attention to the whole image: every window, moved or not.
        maps = kit.maps(both[0])
        for layer in range(first_global):
            assert tiny.deviation(cache.map(layer)[:1], maps[kit.tower.names[layer]]) < ROUNDING
        assert not np.asarray(cache.stale)[:, :first_global].any()
        assert np.asarray(cache.stale)[:, first_global:].any((1, 2)).all()
    # What is left is settled, keys turned to their new places included.
    for _ in range(2):
        tokens, cache, _ = kit.step(kit.params, cache, both, dv.Policy(settle=1))
    assert not np.asarray(cache.stale).any()
    assert kit.error(tokens, both) < 2 * ROUNDING


def test_less_is_recomputed_and_streams_move_apart():
    one, other = page(WHOLE, 6), page(WHOLE, 7)
    first = np.stack([view(WHOLE, one, 10), view(WHOLE, other, 10, 8)])
    second = np.stack([view(WHOLE, one, 12), view(WHOLE, other, 10, 7)])
    *_, (_, _, _, plain) = play(WHOLE, [first, second], dataclasses.replace(FOLLOW, scroll=False))
    *_, (_, _, cache, report) = play(WHOLE, [first, second], FOLLOW)
    assert np.asarray(report.moved_patches).tolist() == [20, 24]
    assert np.asarray(report.changed_patches).tolist() == [10, 6]
    assert np.asarray(plain.changed_patches).tolist() == [30, 30]
    assert (np.asarray(report.recomputed) < np.asarray(plain.recomputed)).all()
    np.testing.assert_array_equal(cache.reference, second)


def test_there_and_back_gives_the_same_bits():
    content = page(WHOLE, 8)
    a, b = view(WHOLE, content, 10), view(WHOLE, content, 12)
    steps = list(play(WHOLE, [a, b, a], FOLLOW))
    (*_, before, _), (*_, after, _) = steps[0], steps[2]
    # Rows that stayed on the screen all the time were never recomputed before the first attention.
    rows = slice(2 * 4, None)
    kept = [np.asarray(cache.map(0))[:, rows] for cache in (before, after)]
    assert kept[0].tobytes() == kept[1].tobytes()


@given(rows=st.lists(st.integers(4, 20), min_size=2, max_size=5), edit=st.integers(0, 2**16))
def test_whatever_scrolls_settles_to_the_full_encode(rows, edit):
    kit, content = WHOLE, page(WHOLE, 9)
    frames = [view(kit, content, row).copy() for row in rows]
    for number, frame in enumerate(frames):
        rng = np.random.default_rng(edit + number)
        y, x = rng.integers(0, 60, 2)
        frame[y : y + 9, x : x + 9] = rng.integers(0, 256)
    for both, _, cache, _ in play(kit, frames, dataclasses.replace(FOLLOW, settle=0.1)):
        np.testing.assert_array_equal(cache.reference, both)
    for _ in range(2):
        tokens, cache, _ = kit.step(kit.params, cache, both, dv.Policy(settle=1))
    assert kit.error(tokens, both) < 2 * ROUNDING


def test_a_small_change_is_not_looked_at():
    content = page(WHOLE, 10)
    frame = view(WHOLE, content, 10)
    other = frame.copy()
    other[:16, :32] = frame[16:32, :32]  # two cells that did move
    *_, (_, _, _, report) = play(WHOLE, [frame, other], FOLLOW)
    assert np.asarray(report.moved_patches).tolist() == [0, 0]
    assert np.asarray(report.changed_patches).tolist() == [2, 2]


@pytest.mark.parametrize("config", [tiny.CLIP, tiny.FASTVITHD])
def test_towers_whose_features_do_not_move_are_refused(config):
    step = dv.make_step(config)
    frames = np.zeros((1, *build(config).frame, 3), np.uint8)
    with pytest.raises(dv.ConfigError, match="scroll=True needs a tower of windows"):
        step({}, dv.init_cache(config), frames, FOLLOW)


def test_scroll_is_true_or_false():
    with pytest.raises(dv.ConfigError, match="scroll must be"):
        dv.Policy(scroll=1)
