"""A sequence of screens as overview and tiles: what is up to date, and whose elements count."""

import dataclasses

import numpy as np
import pytest
from tiny import CLIP, ROUNDING, deviation, random_params

import diffvis_jax as dv
from diffvis_jax.agent.crop_places import crop_placement, join_elements
from diffvis_jax.agent.tile_encoder import TileEncoder
from diffvis_jax.compress.tile_grid import TileGrid, cut_tiles
from diffvis_jax.compress.tiles import DetailPolicy
from diffvis_jax.core.step import jit_encode
from diffvis_jax.errors import ConfigError
from diffvis_jax.grounding.decode import Element
from diffvis_jax.grounding.find import encode_for_head, find_elements
from diffvis_jax.images.geometry import placement
from diffvis_jax.towers import build, with_size

GRID = TileGrid(30, 42, 12, 3)  # 2 x 3 windows of 18 px


@pytest.fixture(scope="module")
def model():
    return dv.Model(CLIP, random_params(CLIP), "clip")


def encoder_of(model, **changes):
    given = {"overview": CLIP.size, "tile": 12, "context": 3, "by": ("focus",), **changes}
    return TileEncoder(model, DetailPolicy(max_tiles=2), **given)


def screen(seed=0, width=42, height=30):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def test_where_an_enlarged_tile_lies():
    where = crop_placement((24, 12), (18, 18), (42, 30), 2.0)
    assert (where.frame_width, where.frame_height) == (36, 36)
    np.testing.assert_array_equal(where.box_to_original((0, 2, 36, 8)), (24, 13, 42, 16))


def test_what_an_edge_cuts_off_is_another_tiles_or_the_overviews():
    size, screen = (18, 18), (42, 30)
    places = [(0, 0), (12, 0), None]
    cut = [place and crop_placement(place, size, screen, 2.0) for place in places]
    whole = placement(*screen, CLIP)
    left, top, right, bottom = whole.box_to_model((1, 19, 20, 27))

    def element(*box, score):
        return Element(tuple(map(float, box)), "link", score)

    parts = [
        [element(4, 4, 12, 12, score=0.9), element(26, 4, 36, 12, score=0.8)],  # the second is cut
        [element(6, 4, 16, 12, score=0.7)],  # as it is in the tile that holds it
        [element(9, 9, 20, 20, score=0.99)],  # not up to date
    ]
    found = join_elements(
        [element(left, top, right, bottom, score=0.3)], parts, whole, cut, places, size
    )
    boxes = [(2, 2, 6, 6), (15, 2, 20, 6), (1, 19, 20, 27)]
    assert [each.score for each in found] == [0.9, 0.7, 0.3]
    np.testing.assert_allclose([each.box for each in found], boxes, atol=1e-6)


def test_tiles_follow_the_pointer_and_the_change(model, compilations):
    encoder = encoder_of(model)
    now = screen()
    look = encoder.encode(now, (40, 29))
    assert look.places == (None, None, None, None, (12, 12), (24, 12))
    assert look.elements is None
    assert [report["path"] for report in look.reports] == ["full"] + 4 * ["reuse"] + 2 * ["full"]
    full = np.asarray(jit_encode(model.params, cut_tiles(now[None], GRID)[5:], config=CLIP))
    assert deviation(look.crops[5:], full) <= ROUNDING
    assert not np.asarray(look.crops[:4]).any()
    assert look.macs == pytest.approx(3 * build(CLIP).macs)

    look = encoder.encode(now, (0, 0))
    assert [place is not None for place in look.places] == [True, True, False, False, True, True]
    changed = now.copy()
    changed[29, 41] ^= 255  # the last tile, beyond what fits
    changed[0, 41] ^= 255
    look = encoder.encode(changed, (0, 29))
    assert [place is not None for place in look.places] == [True, True, False, True, True, True]
    compilations.clear()
    for seed in range(2):
        encoder.encode(screen(seed), (seed, 9))
        encoder.encode(changed)
        encoder.encode(changed, relevance=np.ones((1, 6), np.float32))
    assert not compilations


def test_what_makes_a_tile_relevant(model):
    encoder = encoder_of(model, by=("edges",))
    now = np.full((30, 42, 3), 90, np.uint8)
    now[20:, 30:] = screen()[20:, 30:]
    look = encoder.encode(now)
    assert [place is not None for place in look.places] == 4 * [False] + 2 * [True]
    encoder = encoder_of(model, by=("change", "elements"))
    assert sum(place is not None for place in encoder.encode(now).places) == 2


def test_bad_input(model):
    with pytest.raises(ConfigError, match="by must name some of"):
        encoder_of(model, by=("colour",))
    with pytest.raises(ConfigError, match="do not fit on a screen"):
        encoder_of(model).encode(screen(height=16))
    with pytest.raises(ConfigError, match="36 x 36 pixels only"):
        encoder_of(model, scale=1.5).encode(screen())
    with pytest.raises(ConfigError, match=r"max_tiles .* in 0-1, got 2"):
        encoder_of(model, tile=18, context=0).encode(screen(width=18, height=18))
    encoder = encoder_of(model)
    with pytest.raises(ConfigError, match=r"relevance must be \[1, 6\]"):
        encoder.encode(screen(), relevance=np.ones((1, 5), np.float32))
    with pytest.raises(dv.ImageError):
        encoder.encode(screen().astype(np.float32))


@pytest.mark.slow
def test_elements_are_those_of_the_windows(grounding_model):
    model = dataclasses.replace(
        grounding_model, config=dataclasses.replace(grounding_model.config, size=128)
    )
    policy = DetailPolicy(max_tiles=4, overview=dv.Policy.exact(), detail=dv.Policy.exact())
    encoder = TileEncoder(model, policy, overview=128, tile=64)
    now = screen(width=128, height=100)
    look = encoder.encode(now)
    assert len(look.places) == 4
    grid, head = TileGrid(100, 128, 64), model.head
    config = with_size(model.config, 128)
    frames = [*dv.preprocess(now, config), *np.asarray(cut_tiles(now[None], grid))]
    whole, *parts = (
        find_elements(
            head, *encode_for_head(model.params, frame[None], config=config, head=head.config)
        )[0]
        for frame in frames
    )
    cut = [crop_placement(place, (64, 64), (128, 100), 2.0) for place in grid.places]
    expected = join_elements(whole, parts, placement(128, 100, config), cut, grid.places, (64, 64))
    assert expected
    assert len(look.elements) == len(expected)
    for found, wanted in zip(look.elements, expected, strict=True):
        np.testing.assert_allclose(found.box, wanted.box, atol=0.01)
        assert found.kind == wanted.kind
    again = encoder.encode(now)
    assert again.elements == look.elements
    assert again.macs == 0
