"""Several views: each is a stream of its own, whoever shares its call."""

import jax
import numpy as np
import pytest
from tiny import ROUNDING, deviation, report_of

import diffvis_jax as dv
from diffvis_jax.views import ViewEncoder, ViewSet, order_views

NAMES = ("base", "left", "right")


def views_of(kit, names=NAMES) -> ViewSet:
    return ViewSet(names, dict.fromkeys(names, kit.tower.frame))


def model_of(kit) -> dv.Model:
    return dv.Model(kit.config, kit.params, "tiny")


def pictures(kit, names=NAMES, seed: int = 0):
    return dict(zip(names, kit.frames(seed, batch=len(names)), strict=True))


def changed(kit, images, name, row, column, seed: int = 7):
    picture = kit.change_patch(images[name][None], row, column, seed=seed)[0]
    return {**images, name: picture}


def path(reports, name) -> str:
    return report_of(reports[name], 0)["path"]


def same_bits(one, other) -> bool:
    return np.asarray(one).tobytes() == np.asarray(other).tobytes()


@pytest.fixture(scope="module", params=["clip", pytest.param("toy", marks=pytest.mark.slow)])
def tower(request):
    return request.getfixturevalue(request.param)


def test_views_together_equal_views_one_by_one(tower):
    """Bit for bit in full encodes and where one view changes, to rounding where several do: then
    their cells share a product."""
    together = ViewEncoder(model_of(tower), views_of(tower))
    alone = {name: ViewEncoder(model_of(tower), views_of(tower, (name,))) for name in NAMES}
    images = pictures(tower)
    steps = [(), ("right",), ("base",), NAMES, ("left", "right"), ()]
    for number, moving in enumerate(steps):
        for name in moving:
            images = changed(tower, images, name, number % 3, NAMES.index(name), seed=number)
        tokens, reports = together.encode(images)
        for name in NAMES:
            own, report = alone[name].encode({name: images[name]})
            if number < 3:
                assert same_bits(tokens[name], own[name])
            assert deviation(tokens[name], own[name]) < ROUNDING
            assert report_of(reports[name], 0) == pytest.approx(report_of(report[name], 0))
    assert together.change_rates() == pytest.approx({"base": 2 / 6, "left": 2 / 6, "right": 3 / 6})
    assert order_views(together.change_rates()) == NAMES


def test_a_view_that_changes_leaves_the_others_alone(tower):
    encoder = ViewEncoder(model_of(tower), views_of(tower))
    images = pictures(tower)
    before, reports = encoder.encode(images)
    assert [path(reports, name) for name in NAMES] == ["full"] * 3
    for name in NAMES:
        images = changed(tower, images, name, 1, 2)
        tokens, reports = encoder.encode(images)
        for other in NAMES:
            if other != name:
                assert same_bits(tokens[other], before[other])
                assert report_of(reports[other], 0)["changed_patches"] == 0
        assert not same_bits(tokens[name], before[name])
        assert report_of(reports[name], 0)["changed_patches"] == 1
        for _ in range(4):  # settle
            before, reports = encoder.encode(images)
        assert [path(reports, other) for other in NAMES] == ["reuse"] * 3


def test_views_come_and_go(tower, compilations):
    """An absent view stays as it is, whatever is given for it, and nothing is compiled."""
    encoder = ViewEncoder(model_of(tower), views_of(tower), dv.Policy.exact())
    images = pictures(tower)
    jax.block_until_ready(encoder.encode(images))
    encoder = ViewEncoder(model_of(tower), views_of(tower), dv.Policy.exact())
    del compilations[:]
    tokens, reports = encoder.encode({"base": images["base"]})
    assert encoder.present is not None
    assert encoder.present.tolist() == [[True, False, False]]
    assert path(reports, "base") == "full"
    for name in ("left", "right"):  # never seen
        assert path(reports, name) == "reuse"
        assert not np.asarray(tokens[name]).any()
    tokens, reports = encoder.encode(images)
    assert [path(reports, name) for name in NAMES] == ["reuse", "full", "full"]
    others = changed(tower, changed(tower, images, "left", 0, 0), "right", 2, 2)
    kept, reports = encoder.encode(others, {"right": False})
    assert encoder.present.tolist() == [[True, True, False]]
    assert path(reports, "left") != "reuse"
    assert path(reports, "right") == "reuse"
    assert same_bits(kept["right"], tokens["right"])
    back, reports = encoder.encode({**others, "base": None})
    assert report_of(reports["right"], 0)["changed_patches"] == 1  # against what it showed last
    none, _ = encoder.encode({})
    assert all(same_bits(none[name], back[name]) for name in NAMES)
    # Ticks in which a view is absent do not count.
    assert encoder.change_rates() == pytest.approx({"base": 0, "left": 1 / 3, "right": 1 / 2})
    assert compilations == []
    assert deviation(back["right"], tower.full(others["right"][None])) < ROUNDING


def test_views_begin_anew(clip):
    encoder = ViewEncoder(model_of(clip), views_of(clip))
    images = pictures(clip)
    encoder.encode(images)
    encoder.reset("left")
    _, reports = encoder.encode(images)
    assert [path(reports, name) for name in NAMES] == ["reuse", "full", "reuse"]
    encoder.reset()
    _, reports = encoder.encode(images)
    assert [path(reports, name) for name in NAMES] == ["full"] * 3
    with pytest.raises(dv.FrameError, match=r"no views \['top'\]"):
        encoder.reset(["top"])


def test_agents_are_streams_as_well(clip):
    """Three agents with a view each are what one agent with three views is: the same program."""
    frames = clip.frames(batch=3)
    encoder = ViewEncoder(model_of(clip), views_of(clip, ("eye",)), agents=3)
    tokens, reports = encoder.encode({"eye": frames})
    expected, _ = ViewEncoder(model_of(clip), views_of(clip)).encode(pictures(clip))
    assert tokens["eye"].shape[0] == 3
    for a, name in enumerate(NAMES):
        assert same_bits(tokens["eye"][a], expected[name][0])
    assert [one["path"] for one in dv.describe(reports["eye"])] == ["full"] * 3
    tokens, reports = encoder.encode({"eye": frames}, {"eye": np.array([True, False, True])})
    assert encoder.present is not None
    assert encoder.present.tolist() == [[True], [False], [True]]


def test_views_have_policies_of_their_own(clip):
    policies = {
        "base": dv.Policy(margin=0, settle=0),
        "left": dv.Policy.exact(),
        "right": dv.Policy(change_threshold=0.5),
    }
    encoder = ViewEncoder(model_of(clip), views_of(clip), policies)
    images = pictures(clip)
    encoder.encode(images)
    for name in NAMES:  # a change of 40 grey levels
        images[name] = images[name].copy()
        images[name][8:16, 8:16] ^= 32
    _, reports = encoder.encode(images)
    assert [report_of(reports[name], 0)["changed_patches"] for name in NAMES] == [1, 1, 0]
    assert report_of(reports["left"], 0)["pending"] == 0  # exact
    assert report_of(reports["base"], 0)["pending"] > 0
    with pytest.raises(dv.FrameError, match=r"no views \['top'\]"):
        ViewEncoder(model_of(clip), views_of(clip), {"top": dv.Policy()})
    with pytest.raises(dv.ConfigError, match="one metric"):
        ViewEncoder(model_of(clip), views_of(clip), {"left": dv.Policy(metric="mean")})
    with pytest.raises(dv.ConfigError, match=r"^settle has 2 entries for 3 streams"):
        ViewEncoder(model_of(clip), views_of(clip), dv.Policy(settle=[0.1, 0.2]))
    own = {"left": dv.Policy(settle=[0.1, 0.2])}
    with pytest.raises(dv.ConfigError, match="not one a stream"):
        ViewEncoder(model_of(clip), views_of(clip), own)


@pytest.mark.slow
def test_views_of_several_sizes(toy, square):
    """A group for each size, dispatched one after the other and reported together."""
    sizes = {"base": (56, 72), "wrist": (72, 72), "top": (56, 72)}
    views = ViewSet(tuple(sizes), sizes)
    assert [group.names for group in views.groups] == [("base", "top"), ("wrist",)]
    encoder = ViewEncoder(model_of(toy), views)
    base, top = toy.frames(batch=2)
    images = {"wrist": square.frames(batch=1)[0], "base": base, "top": top}
    tokens, reports = encoder.encode(images)
    assert list(tokens) == list(reports) == list(views.names)
    assert deviation(tokens["wrist"], square.full(images["wrist"][None])) < ROUNDING
    assert deviation(tokens["top"], toy.full(top[None])) < ROUNDING
    images["wrist"] = square.change_patch(images["wrist"][None], 1, 1)[0]
    del images["top"]
    _, reports = encoder.encode(images)
    assert [path(reports, name) for name in views.names] == ["reuse", "partial", "reuse"]
    assert encoder.present is not None
    assert encoder.present.tolist() == [[True, True, False]]
    assert encoder.change_rates() == {"base": 0, "wrist": 0.5, "top": 0}


def test_bad_pictures_are_named_and_nothing_is_encoded(clip):
    encoder = ViewEncoder(model_of(clip), views_of(clip))
    images = pictures(clip)
    encoder.encode(images)
    moved = changed(clip, images, "base", 1, 1)
    good = moved["left"]
    for wrong, said in (
        ({"top": good}, r"no views \['top'\]: there are \['base', 'left', 'right'\]"),
        ({"left": good.transpose(2, 0, 1)}, "view 'left': .* channels come last"),
        ({"left": good / 255}, "view 'left': .* for values 0..1, pass"),
        ({"left": np.full(good.shape, np.nan)}, "view 'left': .* NaN"),
        ({"left": "nowhere.png"}, "view 'left': .* no such file"),
        ({"left": np.stack([good] * 2)}, "view 'left': 1 agents need as many pictures, got 2"),
    ):
        with pytest.raises((dv.FrameError, dv.ImageError), match=said):
            encoder.encode({**moved, **wrong})
    for mask in (1, [True, False], np.ones((1, 1), bool)):
        with pytest.raises(dv.FrameError, match=r"present\['left'\] must be bool"):
            encoder.encode(moved, {"left": mask})
    with pytest.raises(dv.FrameError, match=r"no views \['top'\]"):
        encoder.encode(moved, {"top": True})
    with pytest.raises(dv.FrameError, match="in a dict by their names, got list"):
        encoder.encode([good])  # type: ignore[arg-type]
    _, reports = encoder.encode(moved)
    assert report_of(reports["base"], 0)["changed_patches"] == 1


def test_views_are_ordered_by_how_rarely_they_change():
    assert order_views({"a": 0.5, "b": 0.0, "c": 1, "d": 0.5}) == ("b", "a", "d", "c")
    for wrong in ({}, {"a": -0.1}, {"a": float("nan")}, {"a": "often"}):
        with pytest.raises(dv.ConfigError):
            order_views(wrong)
