"""Overview and detail against full encodes of the windows, and a plan in plain Python."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from PIL import Image
from tiny import CLIP, FASTVITHD, ROUNDING, STEM, deviation, edit, random_params

import diffvis_jax as dv
from diffvis_jax.compress.tile_grid import TileGrid, cut_tiles
from diffvis_jax.compress.tiles import DetailPolicy, detail_step, init_details, make_detail_step
from diffvis_jax.core.step import jit_encode
from diffvis_jax.errors import CacheError, ConfigError, FrameError
from diffvis_jax.images.preprocess import preprocess
from diffvis_jax.towers import build, with_size

GRID = TileGrid(30, 42, tile=12, context=3, scale=2)  # 2 x 3 windows of 18 px
TILES = len(GRID.places)
STAGES = build(CLIP).stages


def policy_of(most=2, margin=np.inf, stages=STAGES, **changes):
    """All of one structure, so that one compilation serves them."""
    policy = dv.Policy(margin=(margin,) * stages, settle=1.0)
    most = np.broadcast_to(np.int32(most), 2)
    return DetailPolicy(
        **{
            "max_tiles": most,
            "relevance_above": 0.5,
            "overview": policy,
            "detail": policy,
            **changes,
        }
    )


EXACT = policy_of()


def full(frames, config=CLIP):
    """Tokens `[K, n, D]`, frame by frame."""
    params = random_params(config)
    parts = [jit_encode(params, frame[None], config=config) for frame in np.asarray(frames)]
    return np.concatenate([np.asarray(part) for part in parts])


@functools.cache
def screens_of(seed, grid=GRID, length=6):
    """Uint8 `[T, 2, H, W, 3]`: two screens, edited step by step."""
    rng = np.random.default_rng(seed)
    kinds = ["pixel", "rectangle", "nothing", "faint", "back", "scroll"]
    first = rng.integers(0, 256, (2, grid.height, grid.width, 3), np.uint8)
    clip = [first]
    for t in range(1, length):
        pair = zip(clip[-1], first, rng.permutation(kinds)[:2], strict=True)
        clip.append(np.stack([edit(now, kind, seed + t, then) for now, then, kind in pair]))
    return np.stack(clip)


def run(screens, policy=EXACT, relevance=None, state=None, config=CLIP, grid=GRID):
    """What each step gave, on the host; and the last state."""
    step = make_detail_step(config, grid, donate=False)
    state = init_details(config, grid, 2) if state is None else state
    found = []
    for t, now in enumerate(screens):
        given = np.ones((2, TILES), np.float32) if relevance is None else relevance[t]
        details, state, report = step(random_params(config), state, now, policy, given)
        found.append(jax.tree.map(np.asarray, (details, report)))
    return found, state


def windows(screen, grid=GRID):
    w = grid.window
    return np.stack([screen[y : y + w, x : x + w] for x, y in grid.places])


# ---- the grid -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("numbers", "rows", "columns"),
    [((1080, 1920), 5, 8), ((1080, 1920, 256, 32), 4, 8), ((768, 1024, 512, 0, 1.5), 2, 2)],
)
def test_tiles_cover_the_screen_at_even_distances(numbers, rows, columns):
    grid = TileGrid(*numbers)
    lefts, tops = (sorted(set(side)) for side in zip(*grid.places, strict=True))
    assert (len(tops), len(lefts)) == (rows, columns)
    assert grid.places == tuple((x, y) for y in tops for x in lefts)
    for starts, length in ((tops, grid.height), (lefts, grid.width)):
        assert starts[0] == 0
        assert starts[-1] + grid.window == length
        distances = np.diff(starts)
        assert distances.max() <= grid.tile
        assert np.ptp(distances) <= 1


@pytest.mark.parametrize("scale", [1, 1.5, 2])
def test_tiles_are_pillows_bytes(scale):
    grid = dataclasses.replace(GRID, scale=scale)
    screens = screens_of(1)[0]
    found = np.asarray(jax.jit(cut_tiles, static_argnums=1)(screens, grid))
    size = (grid.side, grid.side)
    expected = [
        np.asarray(Image.fromarray(window).resize(size, Image.Resampling.BICUBIC))
        for screen in screens
        for window in windows(screen)
    ]
    np.testing.assert_array_equal(found, np.stack(expected))


# ---- the step -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "grid", "seed"),
    [
        (CLIP, GRID, 0),
        (CLIP, GRID, 1),
        pytest.param(
            with_size(FASTVITHD, 128), TileGrid(96, 160, 48, 8), 2, marks=pytest.mark.thorough
        ),
    ],
    ids=["clip", "clip again", "fastvithd"],
)
def test_fresh_tiles_are_right_and_the_others_are_not_handed_on(config, grid, seed):
    screens = screens_of(seed, grid)
    policy = policy_of(stages=build(config).stages)
    found, _ = run(screens, policy, config=config, grid=grid)
    kept: list = [[None] * TILES, [None] * TILES]  # pixels and tokens of what was encoded last
    before = screens[0]
    for now, (details, report) in zip(screens, found, strict=True):
        overview = full(preprocess(list(now), config), config)
        assert deviation(details.overview, overview) <= ROUNDING
        truth = full(cut_tiles(now, grid), config).reshape(2, TILES, *details.tiles.shape[2:])
        for b, screen in enumerate(now):
            shown = windows(screen, grid)
            changed = (shown != windows(before[b], grid)).any((1, 2, 3))
            np.testing.assert_array_equal(report.changed[b], changed)
            stale = np.array(
                [k is None or (k[0] != x).any() for k, x in zip(kept[b], shown, strict=True)]
            )
            assert report.encoded[b].sum() == min(2, stale.sum())
            assert not (report.encoded[b] & ~stale).any()
            np.testing.assert_array_equal(details.fresh[b], ~stale | report.encoded[b])
            for tile in range(TILES):
                tokens = details.tiles[b, tile]
                if not details.fresh[b, tile]:
                    assert not tokens.any()
                    continue
                scale = np.abs(truth).max()
                np.testing.assert_allclose(tokens, truth[b, tile], rtol=0, atol=ROUNDING * scale)
                if report.encoded[b, tile]:
                    kept[b][tile] = shown[tile], tokens
                else:  # as it was, to the bit
                    np.testing.assert_array_equal(tokens, kept[b][tile][1])
        before = now


def test_idle_steps_encode_what_is_left_by_relevance():
    screens = np.repeat(screens_of(2)[:1], 4, 0)
    order = np.random.default_rng(2).permuted(np.tile(np.arange(TILES), (2, 1)), axis=1)
    relevance = np.broadcast_to(np.float32(order / 100), (4, 2, TILES))
    found, _ = run(screens, relevance=relevance)
    for b in range(2):
        encoded = [set(np.flatnonzero(report.encoded[b])) for _, report in found]
        best = np.argsort(-order[b]).tolist()
        assert encoded == [set(best[:2]), set(best[2:4]), set(best[4:]), set()]
        assert [details.fresh[b].sum() for details, _ in found] == [2, 4, 6, 6]
    details, report = found[3]
    assert not report.cost.any()
    np.testing.assert_array_equal(details.tiles, found[2][0].tiles)
    # A tile costs as much as the overview here: frames of one size.
    np.testing.assert_allclose(found[0][1].cost, 3, rtol=1e-6)


def test_what_a_step_with_changes_encodes():
    screens = np.repeat(screens_of(3)[:1], 3, 0).copy()
    screens[1:, :, :10, :10] ^= 255  # the first tile alone, and only then
    screens[2, :, 28:, 40:] ^= 255  # the last
    relevance = np.zeros((3, 2, TILES), np.float32)
    relevance[:, :, 1] = 0.9
    relevance[:, 0, 4] = 0.4
    found, state = run(screens[:1], policy_of([6, 0]), relevance)  # none of the second
    assert found[0][1].encoded.sum(1).tolist() == [6, 0]

    def encoded(**changes):
        found, _ = run(screens[1:2], policy_of(**changes), relevance, state)
        return [np.flatnonzero(row).tolist() for row in found[0][1].encoded]

    # The first screen has nothing stale but what changed; the second nothing that is not.
    assert encoded(most=6) == [[0], [0, 1]]
    assert encoded(most=1) == [[0], [1]]
    assert encoded(most=6, always_changed=False) == [[], [1]]
    assert encoded(most=6, relevance_above=0.95) == [[0], [0]]
    assert encoded(most=0) == [[], []]
    assert encoded(most=[0, 6]) == [[], [0, 1]]


@pytest.mark.slow
def test_without_a_relevance_the_latest_change_comes_first():
    screens = np.repeat(screens_of(3)[:1], 4, 0).copy()
    screens[2:, :, 28:, 40:] ^= 255  # the last tile
    state = init_details(CLIP, GRID, 2)
    encoded = []
    step = make_detail_step(CLIP, GRID)
    for now in screens:
        _, state, report = step(random_params(CLIP), state, now, policy_of(most=1))
        encoded.append(np.flatnonzero(report.encoded[0]).tolist())
    assert encoded == [[0], [1], [5], [2]]


def test_what_a_policy_leaves_out_of_tiles_is_settled():
    # With no margin a step recomputes the one patch that changed, and the others move with it.
    screens = np.repeat(screens_of(4)[:1], 6, 0).copy()
    screens[1:, :, :4, :4] ^= 255
    policy = policy_of(6, margin=0.0)
    found, state = run(screens[:1], policy)
    assert found[0][0].fresh.all()
    found, state = run(screens[1:], policy, None, state)
    truth = full(cut_tiles(screens[1], GRID)).reshape(found[0][0].tiles.shape)
    first, last = (deviation(found[t][0].tiles, truth) for t in (0, -1))
    assert first > 100 * ROUNDING
    assert last <= ROUNDING
    assert found[0][1].encoded.sum() == found[1][1].encoded.sum() == 2
    assert not found[-1][1].encoded.any()


def test_screens_do_not_influence_each_other():
    screens = screens_of(5)
    relevance = np.random.default_rng(5).random((len(screens), 2, TILES), np.float32)
    found, _ = run(screens, relevance=relevance)
    swapped, _ = run(screens[:, ::-1], relevance=relevance[:, ::-1])
    for (details, report), (other, reported) in zip(found, swapped, strict=True):
        np.testing.assert_array_equal(details.fresh, other.fresh[::-1])
        np.testing.assert_array_equal(report.encoded, reported.encoded[::-1])
        assert deviation(details.tiles, other.tiles[::-1]) <= ROUNDING


def test_nothing_compiles_after_warm_up(compilations):
    screens = screens_of(6)
    relevance = np.ones((len(screens), 2, TILES), np.float32)
    run(screens[:1], relevance=relevance)
    compilations.clear()
    run(screens, relevance=relevance)
    other = policy_of(5, 1.0, relevance_above=0.1, always_changed=False)
    run(screens, other, relevance / 3)
    assert not compilations


# ---- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ((0, 1920), "height must be a whole number from 1 up"),
        ((1080, 1920, 256.0), "tile must be a whole number"),
        ((1080, 1920, 256, -1), "context must be a whole number from 0 up"),
        ((1080, 1920, 1024, 32), "do not fit on a screen of 1920 x 1080 px"),
        ((1080, 1920, 255, 0, 1.5), "window of 255 px enlarged 1.5 times is no whole number"),
        ((1080, 1920, 256, 0, 0.5), "scale must be a number from 1 up"),
        ((1080, 1920, 256, 0, float("nan")), "scale must be"),
    ],
)
def test_grids_that_are_none(numbers, said):
    with pytest.raises(ConfigError, match=said):
        TileGrid(*numbers)


def test_towers_that_cannot():
    with pytest.raises(ConfigError, match="36"):  # CLIP takes frames of its own size alone
        init_details(CLIP, dataclasses.replace(GRID, scale=1))
    with pytest.raises(ConfigError, match="become frames of"):
        init_details(dataclasses.replace(STEM, min_pixels=3136), TileGrid(200, 200, 64, 0, 1))
    with pytest.raises(CacheError, match="batch"):
        init_details(CLIP, GRID, 0)


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"screens": np.zeros((2, 30, 43, 3), np.uint8)}, FrameError, r"\[B, 30, 42, 3\]"),
        ({"screens": np.zeros((2, 30, 42, 3), np.float32)}, FrameError, "float32"),
        ({"screens": np.zeros((1, 30, 42, 3), np.uint8)}, FrameError, "for a state of 2"),
        ({"grid": TileGrid(30, 42, 14)}, CacheError, "not made for"),
        ({"policy": DetailPolicy(max_tiles=7)}, ConfigError, "max_tiles .* in 0-6, got 7"),
        ({"policy": DetailPolicy(max_tiles=-1)}, ConfigError, "max_tiles"),
        ({"policy": DetailPolicy(max_tiles=1.5)}, ConfigError, "whole number"),
        ({"policy": DetailPolicy(max_tiles=np.int32([1, 1, 1]))}, ConfigError, "one of 2"),
        ({"policy": policy_of(relevance_above=2)}, ConfigError, "relevance_above"),
        ({"policy": policy_of(always_changed=1)}, ConfigError, "always_changed"),
        ({"relevance": np.zeros((2, 5))}, ConfigError, r"relevance must be \[2, 6\]"),
        ({"relevance": np.full((2, 6), np.nan)}, ConfigError, "NaN"),
    ],
)
def test_bad_input(changes, error, said):
    screens = changes.get("screens", np.zeros((2, 30, 42, 3), np.uint8))
    policy, relevance = changes.get("policy"), changes.get("relevance")
    state = init_details(CLIP, GRID, 2)
    with pytest.raises(error, match=said):
        detail_step(
            random_params(CLIP),
            state,
            screens,
            config=CLIP,
            grid=changes.get("grid", GRID),
            policy=policy,
            relevance=relevance,
        )
    if "grid" not in changes:
        step = make_detail_step(CLIP, GRID)
        with pytest.raises(error, match=said):
            step(random_params(CLIP), state, screens, policy, relevance)
