"""What makes a tile relevant, against plain Python."""

import jax
import numpy as np
import pytest

from diffvis_jax.compress.relevance import (
    REACH,
    SHARP,
    WEIGHTS,
    change,
    edges,
    elements,
    focus,
    relevance,
)
from diffvis_jax.compress.tile_grid import TileGrid
from diffvis_jax.errors import ConfigError, FrameError

GRID = TileGrid(30, 42, tile=12, context=3)  # windows of 18 px at 0, 12 and 0, 12, 24
TILES = len(GRID.places)


def test_a_change_counts_half_after_four_steps():
    np.testing.assert_allclose(change(np.int32([[0, 4, 8, 400]])), [[1, 0.5, 0.25, 0]], atol=1e-9)


def test_edges_are_the_mean_sobel_magnitude():
    rng = np.random.default_rng(0)
    screens = rng.integers(0, 256, (2, 30, 42, 3), np.uint8)
    screens[1] = 77  # nothing to see
    screens[1, :, 30:] = 200  # and one edge
    grey = screens @ np.array([0.299, 0.587, 0.114]) / 255
    kernel = np.outer([1, 2, 1], [-1, 0, 1]) / 8
    magnitude = np.zeros(grey.shape)
    for y in range(1, 29):
        for x in range(1, 41):
            around = grey[:, y - 1 : y + 2, x - 1 : x + 2]
            parts = [(around * k).sum((1, 2)) for k in (kernel, kernel.T)]
            magnitude[:, y, x] = np.hypot(*parts)
    mean = np.stack([magnitude[:, y : y + 18, x : x + 18].mean((1, 2)) for x, y in GRID.places], 1)
    found = np.asarray(jax.jit(edges, static_argnums=1)(screens, GRID))
    np.testing.assert_allclose(found, mean / (mean + SHARP), rtol=1e-4, atol=1e-5)
    assert (found[1] > 0.01).tolist() == 2 * [False, True, True]  # columns 0-18, 12-30, 24-42
    with pytest.raises(FrameError, match=r"\[B, 30, 42, 3\]"):
        edges(screens[:, :29], GRID)


def test_elements_count_where_some_of_them_is_shown():
    boxes = np.float32([[[0, 0, 5, 5], [18, 0, 24, 12], [13, 13, 17, 29], [0, 0, 42, 30]]])
    scores = np.float32([[0.5, 0.7, 0.6, 0.0]])
    # The second begins where the first window ends, and ends where the third begins; the third
    # crosses both rows and the first two columns; the last is none.
    expected = np.float32([[0.6, 0.7, 0, 0.6, 0.6, 0]])
    np.testing.assert_allclose(elements(boxes, scores, GRID), expected)
    assert not np.asarray(elements(np.zeros((1, 0, 4)), np.zeros((1, 0)), GRID)).any()


def test_focus_falls_with_the_distance():
    points = np.float32([[30, 5], [0, 29], [np.nan, 3]])
    found = np.asarray(focus(points, GRID))
    for (x, y), row in zip(points[:2], found, strict=False):
        for (left, top), value in zip(GRID.places, row, strict=True):
            across = max(left - x, x - left - 18, 0)
            down = max(top - y, y - top - 18, 0)
            far = np.hypot(across, down)
            assert value == pytest.approx(np.exp(-((far / REACH) ** 2) / 2), rel=1e-5)
    assert found[0].max() == found[1].max() == 1
    assert not found[2].any()


def test_relevance_is_a_logistic_sum():
    rng = np.random.default_rng(1)
    parts = {name: rng.random((2, TILES), np.float32) for name in ("change", "focus")}
    weights = {"bias": -1.0, "change": 2.0, "focus": np.float32(0.5), "edges": 9.0}
    total = -1 + 2 * parts["change"] + 0.5 * parts["focus"]
    np.testing.assert_allclose(relevance(parts, weights), 1 / (1 + np.exp(-total)), rtol=1e-5)
    for name in ("change", "edges", "elements", "focus"):
        alone = np.float32([[0, 1]])
        none, one = np.asarray(relevance({name: alone}))[0]
        assert none < 0.2 < 0.5 < one
    # Each screen for itself.
    both = np.asarray(relevance(parts))
    first = relevance({name: values[:1] for name, values in parts.items()})
    np.testing.assert_array_equal(both[:1], first)


@pytest.mark.parametrize(
    ("parts", "weights", "said"),
    [
        ({}, None, "of one shape"),
        ({"change": np.zeros((1, 2)), "focus": np.zeros((1, 3))}, None, "of one shape"),
        ({"query": np.zeros((1, 2))}, None, "no weight for query"),
        ({"change": np.zeros((1, 2))}, {"change": 1.0}, "no weight for bias"),
    ],
)
def test_bad_components(parts, weights, said):
    assert set(WEIGHTS) == {"bias", "change", "edges", "elements", "focus"}
    with pytest.raises(ConfigError, match=said):
        relevance(parts, weights)
