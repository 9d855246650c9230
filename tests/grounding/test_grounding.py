"""The grounding head: places, decoding, agreement, drawing, storing, and what it is trained on."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
from tiny import CLIP, FASTVITHD, ROUNDING, random_head, random_params, strict

import diffvis_jax as dv
from diffvis_jax.checkpoints import store
from diffvis_jax.errors import CheckpointError, ConfigError
from diffvis_jax.grounding.decode import Element, decode
from diffvis_jax.grounding.find import (
    Head,
    encode_for_head,
    find_elements,
    head_answers,
    map_names,
    maps_of,
    on_screenshot,
)
from diffvis_jax.grounding.head import (
    KINDS,
    GroundingHead,
    HeadConfig,
    corner_boxes,
    places,
)
from diffvis_jax.measure.elements import agreement
from diffvis_jax.report.elements import COLORS, draw_elements

CONFIG = HeadConfig(token_width=8, hidden=16, place_width=8)
WITH_MAP = dataclasses.replace(CONFIG, map_width=4)
WITH_BOTH = dataclasses.replace(WITH_MAP, detail_width=3, detail_hidden=8)
WITH_ALL = dataclasses.replace(WITH_BOTH, finest_width=5, finest_hidden=6)
jit_corner_boxes = jax.jit(corner_boxes, static_argnums=0)
FRAME = 128  # pixels: a grid of 2 x 2 tokens, 16 x 8 places


@pytest.fixture(scope="module")
def targets(training):
    return training("targets").targets


@pytest.fixture(scope="module")
def grounding_loss(training):
    return jax.jit(training("loss").grounding_loss, static_argnums=0)


def params_of(config: HeadConfig, seed: int = 0):
    tokens = jnp.zeros((1, 4, config.token_width))
    return GroundingHead(config).init(jax.random.key(seed), tokens, blank(config))["params"]


def blank(config: HeadConfig) -> tuple[jax.Array, ...]:
    """The maps that a head sees beside 2 x 2 tokens."""
    return tuple(jnp.zeros((1, 2 * n, 2 * n, width)) for n, width in config.maps)


def perfect(target: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """What a head that answers the targets exactly would return."""
    x, y = places(CONFIG, *target["object"].shape)
    left, top, right, bottom = np.moveaxis(target["box"], -1, 0)
    box = np.stack(
        [
            (left + right) / 2 - np.asarray(x)[None],
            (top + bottom) / 2 - np.asarray(y)[:, None],
            right - left,
            bottom - top,
        ],
        -1,
    )
    return {
        "object": jnp.asarray(np.where(target["object"] > 0, 9.0, -9.0))[None],
        "kind": 9.0 * jax.nn.one_hot(target["kind"], len(KINDS))[None],
        "box": jnp.asarray(box, jnp.float32)[None],
    }


@pytest.mark.slow
def test_places_of_a_token_lie_in_its_patch():
    # A head that looks at one token only answers in that token's patch.
    tokens = jax.random.normal(jax.random.key(1), (1, 4, 8))
    run = lambda t: GroundingHead(CONFIG).apply({"params": params_of(CONFIG)}, t)  # noqa: E731
    moved = run(tokens.at[0, 1, 3].add(1.0))["object"] != run(tokens)["object"]
    expected = np.zeros((1, 16, 8), bool)
    expected[0, :8, 4:] = True
    np.testing.assert_array_equal(moved, expected)


@pytest.mark.slow
@pytest.mark.parametrize(("row", "column"), [(0, 0), (2, 1), (3, 3)])
@pytest.mark.parametrize("config", [WITH_MAP, WITH_BOTH, WITH_ALL])
def test_places_of_a_map_position_lie_in_it(config, row, column):
    tokens, (fine, *others) = jnp.zeros((1, 4, 8)), blank(config)
    params = random_head(config)
    run = lambda x: GroundingHead(config).apply({"params": params}, tokens, (x, *others))  # noqa: E731
    moved = run(fine.at[0, row, column, 1].add(1.0))["object"] != run(fine)["object"]
    expected = np.zeros((1, 16, 8), bool)
    expected[0, 4 * row : 4 * row + 4, 2 * column : 2 * column + 2] = True
    np.testing.assert_array_equal(moved, expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "which", "row", "column", "place"),
    [
        (WITH_BOTH, 1, 0, 0, np.s_[0:2, 0]),
        (WITH_BOTH, 1, 5, 2, np.s_[10:12, 2]),
        (WITH_ALL, 1, 7, 7, np.s_[14:16, 7]),
        (WITH_ALL, 2, 0, 1, np.s_[0, 0]),
        (WITH_ALL, 2, 9, 10, np.s_[9, 5]),
        (WITH_ALL, 2, 15, 15, np.s_[15, 7]),
    ],
)
def test_places_of_a_position_of_a_finer_map_lie_in_it(config, which, row, column, place):
    tokens, maps = jnp.zeros((1, 4, 8)), list(blank(config))
    params = random_head(config)
    run = lambda maps: GroundingHead(config).apply({"params": params}, tokens, maps)  # noqa: E731
    before = run(maps)["object"]
    maps[which] = maps[which].at[0, row, column, 1].add(1.0)
    expected = np.zeros((16, 8), bool)
    expected[place] = True
    np.testing.assert_array_equal((run(maps)["object"] != before)[0], expected)


@pytest.mark.slow
@pytest.mark.parametrize(("config", "coarser"), [(WITH_BOTH, WITH_MAP), (WITH_ALL, WITH_BOTH)])
def test_a_new_head_says_the_same_whatever_the_finest_map_holds(config, coarser):
    tokens, maps = jax.random.normal(jax.random.key(1), (1, 4, 8)), blank(config)
    params = params_of(config)
    seen = (*maps[:-1], jax.random.normal(jax.random.key(2), maps[-1].shape))
    found = GroundingHead(config).apply({"params": params}, tokens, seen)
    alone = GroundingHead(coarser).apply({"params": params}, tokens, maps[:-1])
    for name, values in alone.items():
        np.testing.assert_array_equal(found[name], values)


@pytest.mark.slow
def test_a_strict_host_gets_the_same_answers():
    params = random_head(WITH_ALL)
    tokens, maps = jax.random.normal(jax.random.key(1), (1, 4, 8)), blank(WITH_ALL)
    expected = head_answers(params, tokens, maps, config=WITH_ALL)
    with strict():
        found = head_answers(params, tokens, maps, config=WITH_ALL)
        boxes = corner_boxes(WITH_ALL, found["box"])
    assert boxes.dtype == np.float32
    for name, values in expected.items():
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], values, atol=1e-6)


def test_a_token_reaches_the_places_of_its_patch_beside_a_map():
    tokens, maps = jax.random.normal(jax.random.key(1), (1, 4, 8)), blank(WITH_BOTH)
    params = random_head(WITH_BOTH)
    run = lambda t: head_answers(params, t, maps, config=WITH_BOTH)  # noqa: E731
    moved = run(tokens.at[0, 2, 3].add(1.0))["object"] != run(tokens)["object"]
    expected = np.zeros((1, 16, 8), bool)
    expected[0, 8:, :4] = True
    np.testing.assert_array_equal(moved, expected)


@pytest.mark.slow
def test_the_maps_of_a_cache_are_those_of_a_full_encode():
    """After a change and after none; the cache's maps have a border that is no part of them."""
    widths = FASTVITHD.widths
    config = HeadConfig(
        token_width=FASTVITHD.token_width,
        map_width=widths[3],
        detail_width=widths[2],
        finest_width=widths[1],
    )
    params = random_params(FASTVITHD)
    frames = np.random.default_rng(0).integers(0, 256, (2, 1, 256, 256, 3), np.uint8)
    step, cache = dv.make_step(FASTVITHD), dv.init_cache(FASTVITHD)
    for frame in frames:
        tokens, cache, _ = step(params, cache, frame, dv.Policy.exact())
        wanted, maps = encode_for_head(params, frame, config=FASTVITHD, head=config)
        assert [each.shape for each in maps] == [(1, 8, 8, 64), (1, 16, 16, 32), (1, 32, 32, 16)]
        for found, each in zip(maps_of(config, cache), maps, strict=True):
            close(found, each)
        close(tokens, wanted)
    assert maps_of(CONFIG, cache) == ()
    assert encode_for_head(params, frames[0], config=FASTVITHD, head=CONFIG)[1] == ()


def close(found, wanted):
    scale = np.abs(wanted).max()
    np.testing.assert_allclose(found, wanted, rtol=0, atol=ROUNDING * scale)


@pytest.mark.parametrize("config", [WITH_MAP, WITH_ALL])
def test_on_a_wide_frame_each_patch_answers_as_on_a_square_one(config):
    """2 x 3 tokens, of which the right four are a square by themselves."""
    rng = np.random.default_rng(0)
    params = random_head(config)
    wide = rng.standard_normal((1, 2, 3, config.token_width)).astype(np.float32)
    maps = [
        rng.standard_normal((1, 2 * n, 3 * n, width)).astype(np.float32) for n, width in config.maps
    ]
    found = head_answers(params, wide.reshape(1, 6, -1), maps, config=config)
    assert found["object"].shape == (1, 16, 12)
    right = [each[:, :, each.shape[2] // 3 :] for each in maps]
    alone = head_answers(params, wide[:, :, 1:].reshape(1, 4, -1), right, config=config)
    for name, values in alone.items():
        np.testing.assert_allclose(found[name][:, :, 4:], values, rtol=1e-4, atol=1e-4)
    # Boxes are told from the middles of their places, which the frame's width must not move.
    boxes, square = (jit_corner_boxes(config, answers["box"]) for answers in (found, alone))
    np.testing.assert_allclose(boxes[:, :, 4:, 0], square[..., 0] + 64, atol=1e-3)


def test_a_tower_without_such_a_map_is_refused():
    with pytest.raises(ConfigError, match="no map"):
        map_names(CLIP, WITH_MAP)


def test_targets_are_found_again(targets):
    boxes = np.array([[4.0, 6, 60, 20], [70, 100, 90, 116], [2, 40, 120, 90], [30, 50, 42, 62]])
    kinds = [1, 4, 2, 3]
    target = targets(CONFIG, FRAME, boxes, kinds, np.ones(4, bool))
    found = decode(CONFIG, perfect(target))[0]
    assert len(found) == 4  # many places say the same element, one is kept
    for box, kind in zip(boxes, kinds, strict=True):
        near = min(found, key=lambda e: np.abs(np.array(e.box) - box).sum())
        np.testing.assert_allclose(near.box, box, atol=1e-3)
        assert near.kind == KINDS[kind]
        assert near.point == pytest.approx(((box[0] + box[2]) / 2, (box[1] + box[3]) / 2), abs=1e-3)


def test_a_perfect_answer_costs_next_to_nothing_and_a_wrong_one_does(targets, grounding_loss):
    boxes = np.array([[4.0, 6, 60, 20], [70, 100, 90, 116]])
    target = targets(CONFIG, FRAME, boxes, [1, 4], np.ones(2, bool))
    batch = {key: jnp.asarray(value)[None] for key, value in target.items()}
    right = perfect(target)
    good = grounding_loss(CONFIG, right, batch)[0]
    assert good < 0.01
    for key, wrong in (
        ("object", -right["object"]),
        ("kind", jnp.roll(right["kind"], 1, -1)),
        ("box", right["box"] + 8),
    ):
        assert grounding_loss(CONFIG, {**right, key: wrong}, batch)[0] > good + 0.1


def test_unsure_elements_are_neither_asked_for_nor_held_against(targets, grounding_loss):
    boxes = np.array([[4.0, 6, 60, 20]])
    target = targets(CONFIG, FRAME, boxes, [1], np.zeros(1, bool))
    assert target["object"].sum() == 0
    assert (target["weight"] == 0).sum() > 0
    batch = {key: jnp.asarray(value)[None] for key, value in target.items()}
    answers = perfect(target)
    here = jnp.where(batch["weight"] == 0, 9.0, answers["object"])
    losses = [grounding_loss(CONFIG, {**answers, "object": o}, batch)[0] for o in (here, -here)]
    assert losses[0] < 1e-3 < losses[1]


def test_of_two_places_the_one_with_the_better_box_is_to_be_surer(targets, grounding_loss):
    target = targets(CONFIG, FRAME, np.array([[4.0, 6, 60, 20]]), [1], np.ones(1, bool))
    batch = {key: jnp.asarray(value)[None] for key, value in target.items()}
    right = perfect(target)
    off = {**right, "box": right["box"].at[..., 0].add(28.0)}  # half beside it: IoU 1/3

    @jax.jit
    def loss(logit):
        here = jnp.where(batch["object"] > 0, logit, right["object"])
        return grounding_loss(CONFIG, {**off, "object": here}, batch)[1]["object"]

    logits = np.linspace(-4, 4, 81, dtype=np.float32)
    best = logits[np.argmin([loss(logit) for logit in logits])]
    assert 1 / (1 + np.exp(-best)) == pytest.approx(1 / 3, abs=0.02)


def test_overlaps_of_known_boxes(training):
    overlaps = training("loss").overlaps
    a = jnp.array([[0.0, 0, 2, 2], [0, 0, 1, 1], [0, 0, 2, 2]])
    b = jnp.array([[0.0, 0, 2, 2], [2, 0, 3, 1], [1, 0, 3, 2]])
    # Equal: 1. Apart: 0 - (3 - 2) / 3. Half over: 2 / 6 - 0.
    iou, giou = overlaps(a, b)
    np.testing.assert_allclose(iou, [1, 0, 1 / 3], atol=1e-6)
    np.testing.assert_allclose(giou, [1, -1 / 3, 1 / 3], atol=1e-6)


def test_threshold_and_limit(targets):
    boxes = np.array([[4.0, 6, 60, 20], [70, 100, 90, 116]])
    answers = perfect(targets(CONFIG, FRAME, boxes, [1, 4], np.ones(2, bool)))
    assert decode(CONFIG, answers, threshold=0.9999) == [[]]
    assert len(decode(CONFIG, answers, limit=1)[0]) == 1


def test_corner_boxes_are_in_pixels_of_the_frame():
    boxes = corner_boxes(CONFIG, jnp.full((1, 16, 8, 4), 4.0))
    # Place (row 1, column 2): middle (40, 12).
    np.testing.assert_allclose(boxes[0, 1, 2], [42, 14, 46, 18])


def element(*box: float, kind: str = "button", score: float = 0.9) -> Element:
    return Element(box, kind, score)  # type: ignore[arg-type]


def test_agreement():
    a, b = element(0, 0, 10, 10), element(20, 0, 30, 10)
    moved = element(0, 0, 10, 9)
    assert agreement([a, b], [b, moved]).same
    other = agreement([a, b], [element(0, 0, 10, 10, kind="link"), b])
    assert (other.both, other.only_first, other.only_second) == (1, 1, 1)
    assert agreement([], []).same
    assert not agreement([a], []).same
    assert not agreement([a], [a, moved]).same  # one to one


def test_on_screenshot_maps_and_clips():
    where = dv.placement(256, 128, dv.FastViTHDConfig(size=128))  # half size, 32 px of padding
    found = on_screenshot([element(10, 40, 20, 50), element(-5, 20, 8, 40)], where)
    assert [e.box for e in found] == [(20.0, 16.0, 40.0, 36.0), (0.0, 0.0, 16.0, 16.0)]
    assert on_screenshot([], where) == []


def test_drawn_elements_have_the_colour_of_their_kind():
    picture = PIL.Image.new("RGB", (40, 30))
    drawn = draw_elements(picture, [element(5, 5, 20, 20, kind="link")])
    assert drawn.getpixel((5, 12)) == COLORS["link"]
    assert drawn.getpixel((12, 12)) == (0, 0, 0)
    assert set(COLORS) == set(KINDS)


def test_bad_tokens_and_configs():
    head = Head(CONFIG, random_head(CONFIG))
    with pytest.raises(ConfigError, match=r"2 x 2 tokens \[B, N, 8\]"):
        find_elements(head, jnp.zeros((1, 4, 9)))
    with pytest.raises(ConfigError, match="g"):
        find_elements(head, jnp.zeros((1, 5, 8)))
    with pytest.raises(ConfigError, match=r"wants no map beside 2 x 2 tokens, got a map of 4 x"):
        find_elements(head, jnp.zeros((1, 4, 8)), [jnp.zeros((1, 4, 4, 4))])
    head = Head(WITH_MAP, random_head(WITH_MAP))
    with pytest.raises(ConfigError, match=r"wants a map of 4 x 4 x 4 beside .*, got no map"):
        find_elements(head, jnp.zeros((1, 4, 8)))
    with pytest.raises(ConfigError, match="got a map of 2 x 2 x 4"):
        find_elements(head, jnp.zeros((1, 4, 8)), [jnp.zeros((1, 2, 2, 4))])
    with pytest.raises(ConfigError, match="divide"):
        HeadConfig(token_width=8, rows=7)
    with pytest.raises(ConfigError, match="do not divide among the 2 x 2 map positions"):
        HeadConfig(token_width=8, map_width=4, columns=1)
    with pytest.raises(ConfigError, match="needs map_width"):
        HeadConfig(token_width=8, detail_width=4)
    with pytest.raises(ConfigError, match="needs detail_width"):
        HeadConfig(token_width=8, map_width=4, finest_width=4)
    finest = {"map_width": 4, "detail_width": 4, "finest_width": 4}
    with pytest.raises(ConfigError, match="12 x 4 places do not divide among the 8 x 8 map"):
        HeadConfig(token_width=8, patch=48, rows=12, **finest)
    with pytest.raises(ConfigError, match="dtype"):
        HeadConfig(token_width=8, dtype="int8")


def test_a_head_is_stored_with_its_tower(tmp_path):
    tower = dv.CLIPConfig(
        width=8, layers=2, heads=2, mlp_width=16, patch=16, size=32, class_token=False
    )
    params = random_params(tower)
    head_params = random_head(CONFIG)
    saved = store.save(
        tmp_path / "both",
        config=tower,
        params=params,
        grounding_config=CONFIG,
        grounding_params=head_params,
    )
    model = dv.load(saved)
    assert model.head is not None
    assert model.head.config == CONFIG
    jax.tree.map(np.testing.assert_array_equal, model.head.params, head_params)
    alone = dv.load(store.save(tmp_path / "alone", config=tower, params=params))
    assert alone.head is None
    with pytest.raises(CheckpointError, match="no grounding head"):
        store.load_grounding(tmp_path / "alone")
    with pytest.raises(CheckpointError, match="hidden/kernel"):
        store.save(
            tmp_path / "wrong",
            config=tower,
            params=params,
            grounding_config=dataclasses.replace(CONFIG, hidden=17),
            grounding_params=head_params,
        )
    with pytest.raises(TypeError, match="grounding_config"):
        store.save(tmp_path / "half", config=tower, params=params, grounding_config=CONFIG)
