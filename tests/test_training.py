"""What a training run does around its steps: growing a tower, scoring it."""

import argparse
import dataclasses
import itertools
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
from tiny import random_params

import diffvis_jax as dv
from diffvis_jax.checkpoints import store
from diffvis_jax.grounding.decode import Element
from diffvis_jax.grounding.find import encode_for_head
from diffvis_jax.grounding.head import HeadConfig
from diffvis_jax.step import jit_encode

SHALLOW = dv.FastViTHDConfig(
    depths=(1, 1, 1, 1, 1),
    widths=(4, 8, 16, 32, 32),
    token_width=32,
    squeeze_width=8,
    size=64,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
)


def test_grown_tower_computes_nearly_the_same(training):
    growing = training("grow")
    deep = dataclasses.replace(SHALLOW, depths=(2, 3, 1, 2, 1))
    params = growing.near_identity(random_params(SHALLOW))
    grown = growing.grow(params, SHALLOW.depths, deep.depths)
    assert jax.tree.map(jnp.shape, grown) == jax.tree.map(jnp.shape, random_params(deep))
    leaves = jax.tree.leaves(grown)
    assert len({id(leaf) for leaf in leaves}) == len(leaves)  # none is given to a step twice
    frame = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)

    def encode(params, config):
        return np.asarray(jit_encode(params, frame, config=config))

    before, after = encode(params, SHALLOW), encode(grown, deep)
    fresh = encode(growing.near_identity(random_params(deep, 1)), deep)
    size = np.linalg.norm(before)
    assert np.linalg.norm(after - before) < 0.05 * size
    assert np.linalg.norm(fresh - before) > 0.5 * size  # another tower is not near


def test_crops_of_a_vit_have_the_positions_of_their_place(training):
    family = training("family").CLIP(size=64)
    params = random_params(family.tower)
    frame = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)

    def see(frame, left, top):
        return family.see(params, frame, jnp.array([[left, top]]))["head"][0]

    whole = see(frame, 0, 0)
    np.testing.assert_allclose(
        whole, jit_encode(params, frame, config=family.tower), atol=1e-4 * np.abs(whole).max()
    )
    left, top = 16, 32  # patch 1 from the left, 2 from the top, of 4 x 4
    places = [0, 1 + 2 * 4 + 1, 1 + 2 * 4 + 2, 1 + 3 * 4 + 1, 1 + 3 * 4 + 2]
    position = params["embed"]["position"][np.array(places)]
    own = {**params, "embed": {**params["embed"], "position": position}}
    crop = frame[:, top : top + 32, left : left + 32]
    wanted = jit_encode(own, crop, config=dataclasses.replace(family.tower, size=32))
    found = see(crop, left, top)
    np.testing.assert_allclose(found, wanted, atol=1e-4 * np.abs(found).max())
    assert np.abs(see(crop, 0, 0) - found).max() > 1e-2 * np.abs(found).max()


def test_heads_of_a_fresh_vit_look_at_neighbours(training):
    config = dataclasses.replace(training("family").CLIP().tower, size=128)
    params = training("offset_heads").look_around(random_params(config), config)
    frame = np.random.default_rng(0).integers(0, 256, (1, 128, 128, 3), np.uint8)
    x = jit_encode(params, frame, config=config, output="intermediates")["embed"][0, :, 0]
    x = np.asarray(x, np.float64)
    x = (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True)
    row, column = np.divmod(np.arange(config.grid**2), config.grid)
    for block, offsets in ((0, [(-1, 0), (1, 0), (0, -1)]), (1, [(0, 1), (-2, 0), (2, 0)])):
        held = params[f"block_{block}"]["attention"]
        queries = np.split(x @ held["query"]["kernel"], config.heads, axis=1)
        keys = np.split(x @ held["kv"]["kernel"][:, : config.width], config.heads, axis=1)
        for (right, down), query, key in zip(offsets, queries, keys, strict=True):
            seen = jax.nn.softmax(query @ key.T / (config.width // config.heads) ** 0.5)
            seen = seen[config.lead :, config.lead :]
            at_column, at_row = column + right, row + down
            inside = (at_column % config.grid == at_column) & (at_row % config.grid == at_row)
            # A patch away from where the head is to look, at most: 9 of the 64 patches.
            near = (abs(row - at_row[:, None]) <= 1) & (abs(column - at_column[:, None]) <= 1)
            assert (seen * near).sum(1)[inside].mean() > 0.6


def test_a_fresh_vit_sees_whitened_patches(training):
    family = training("family").CLIP(size=128)
    tower, rng = family.tower, np.random.default_rng(0)
    # Mostly brightness, as screens are: flat patches with a little of everything on top.
    flat = rng.integers(30, 220, (40, 8, 1, 8, 1, 1))
    noise = rng.integers(-20, 20, (40, 8, 16, 8, 16, 3))
    crops = (flat + noise).reshape(40, 128, 128, 3).astype(np.uint8)
    fresh = family.fresh(0)
    params = family.prepared(fresh, [crops[:20], crops[20:]])

    position = tower.width // tower.heads
    pixels = crops.reshape(40, 8, 16, 8, 16, 3).swapaxes(2, 3).reshape(-1, 16 * 16 * 3) / 127.5 - 1
    seen = {}
    for name, held in (("fresh", fresh), ("prepared", params)):
        embed = jax.tree.map(np.asarray, held["embed"])
        where = np.tile(embed["position"][tower.lead :], (40, 1))
        x = pixels @ embed["patch"]["kernel"] + where
        seen[name] = x[:, position:]
        np.testing.assert_array_equal(x[:, :position], where[:, :position])
    spread = {name: np.linalg.eigvalsh(np.cov(x, rowvar=False)) for name, x in seen.items()}
    assert spread["fresh"][-1] > 0.9 * spread["fresh"].sum()  # brightness
    assert spread["prepared"][-1] < 0.02 * spread["prepared"].sum()  # of 128 channels
    assert abs(seen["prepared"].mean(0)).max() < 1e-3
    assert 0.6 < seen["prepared"].std() < 0.75


def test_muon_is_for_products_inside_blocks(training):
    train, family = training("train"), training("family").CLIP(size=64)
    setup = train.Setup(family, training("optimiser").optimiser(0.1, 4, muon=0.1))
    own = {"tower": random_params(family.tower), "head": random_params(setup.head)}
    named = training("optimiser")._optimisers(own)
    block = named["tower"]["block_0"]
    assert block["attention"]["query"] == {"kernel": "muon", "bias": "adam"}
    assert named["tower"]["embed"]["patch"]["kernel"] == "adam"
    assert named["head"]["hidden"]["kernel"] == "adam"
    recipe = {"rate": 0.1, "steps": 4}
    held = jax.tree.structure(setup.optimiser.init(own))
    assert held == jax.tree.structure(train.optimiser_of({**recipe, "muon": 0.1}).init(own))
    assert held != jax.tree.structure(train.optimiser_of(recipe).init(own))


def test_a_run_starts_from_one_with_another_optimiser(training, tmp_path):
    train, family = training("train"), training("family").CLIP()
    recipe = {"family": "clip", "rate": 0.1, "steps": 4, "muon": 0.1}
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    setup = train.Setup(family, train.optimiser_of(recipe))
    own = {"tower": random_params(family.tower, 5), "head": random_params(setup.head, 5)}
    with train.checkpoints(tmp_path) as manager:
        save = train.ocp.args.StandardSave(setup.state(own))
        manager.save(3, args=save, metrics={"f1": 0.0})
    other = train.Setup(family, training("optimiser").optimiser(0.1, 4))
    state = train.started_state(other, tmp_path)
    assert jax.tree.all(jax.tree.map(np.array_equal, state["params"], own))
    assert state["step"] == 0
    assert train.start_step(tmp_path) == 3


def test_depths_that_are_no_multiples_are_refused(training):
    growing = training("grow")
    with pytest.raises(ValueError, match="not multiples"):
        growing.grow({}, (2, 2, 2, 2, 2), (2, 3, 2, 2, 2))


class Page:
    """What scoring asks of a screen."""

    size = 1024

    def __init__(self, boxes):
        self.boxes = np.array(boxes, float)
        self.kinds = [0] * len(boxes)


def test_measure_counts_large_elements_and_small_ones_apart(training):
    score = training("score")
    page = Page([(0, 0, 40, 20), (100, 100, 140, 120), (200, 200, 240, 210)])
    found = [
        Element((1, 0, 41, 20), "button", 0.9),  # the first, with the right kind
        Element((100, 150, 140, 170), "link", 0.8),  # nothing there
        Element((200, 200, 240, 210), "button", 0.7),  # the small one
    ]
    said = score.measure(HeadConfig(token_width=8), [found], [page])
    assert said["precision"] == 0.5
    assert said["recall"] == 0.5
    assert said["small_recall"] == 1.0
    assert said["kind"] == 1.0
    assert said["elements"] == 2
    # The second element's nearest detection would click beside it.
    assert said["click"] == 0.5
    low, high = said["click_interval"]
    assert low < 0.5 < high


def test_best_threshold_separates_right_from_wrong(training):
    score = training("score")
    config = HeadConfig(token_width=8, patch=64, rows=1, columns=1)
    probability = jnp.array([[[0.45, 0.27]]])  # the first place is right, the second wrong
    answers = {
        "object": jnp.log(probability / (1 - probability)),
        "kind": jnp.zeros((1, 1, 2, 8)),
        "box": jnp.array([[[[0, 0, 40, 20], [0, 0, 40, 20]]]], jnp.float32),
    }
    page = Page([(12, 22, 52, 42)])
    assert 0.27 < score.best_threshold(config, [answers], [page]) <= 0.45


def test_card_says_what_was_measured(training):
    said = {
        "f1": 0.612, "precision": 0.7, "recall": 0.55, "kind": 0.9, "click": 0.8,
        "click_interval": (0.75, 0.84), "elements": 321, "small_recall": None, "pages": 12,
    }  # fmt: skip
    text = training("card").card(
        "name",
        kind="FastViTHD",
        tower="A tower.",
        kinds=("button", "link"),
        parameters=3_600_000,
        recipe={
            "pages": 7, "family": "fastvithd", "side": 256, "batch": 8, "steps": 9, "rate": 0.1,
            "seed": 0, "start": None,
        },
        step=5,
        threshold=0.45,
        measured={"test 1024": said},
    )  # fmt: skip
    row = "| 12 test | 1024 px | 321 | 0.612 | 0.700 | 0.550 | 0.800 (0.750-0.840) | 0.900 | - |"
    assert row in text
    assert "70% of what it marks on the test pages is an element, and it marks 55%" in text
    assert "earlier run" not in text
    assert all(line.count("{") == 0 for line in text.splitlines())


@pytest.fixture
def run(training, tmp_path, monkeypatch):
    """Runs train.py with options on pages that are not read, and steps that only count.

    Returns the exit status; `run.losses` are those of the steps, `run.folder` is where it writes.
    """
    train = training("train")

    class Counting:
        head = None
        shape = jax.eval_shape(lambda: {"steps": jnp.zeros(())})

        def __init__(self, family, optimiser):
            pass

        def prepared(self, seed, crops):
            return {"steps": jnp.zeros(())}

        def step(self, state, batch):
            parts = {"loss": jnp.array(next(call.losses)), "gradient": jnp.ones(())}
            return {"steps": state["steps"] + 1}, parts

        def finished(self, state, crops):
            return state

    monkeypatch.setattr(train, "Setup", Counting)
    for name in ("load_screens", "calibration"):
        monkeypatch.setattr(train, name, lambda *_: [])
    monkeypatch.setattr(train, "random_crops", lambda *_, align: itertools.repeat({}))
    monkeypatch.setattr(train, "ahead", lambda crops: crops)
    monkeypatch.setattr(train, "validate", lambda *_: {"f1": 0.5})
    for split in ("val", "train"):
        (tmp_path / "data" / split / "family").mkdir(parents=True)
        for kind in ("png", "json"):
            (tmp_path / "data" / split / "family" / f"page.{kind}").touch()

    def call(*options):
        places = [str(tmp_path / "data"), str(call.folder)]
        monkeypatch.setattr("sys.argv", ["train.py", *places, "--side", "64", *options])
        return train.main()

    call.losses, call.folder = itertools.repeat(1.0), tmp_path / "run"
    return call


def kept_steps(run):
    return sorted(int(path.name) for path in (run.folder / "checkpoints").iterdir())


def test_weights_that_are_no_numbers_are_not_saved(run, capsys):
    run.losses = iter([1.0, 1.0, 1.0, np.nan, np.nan, np.nan])
    assert run("--every", "3", "--steps", "6") == 2
    assert "no longer a number at step 6: lower --rate" in capsys.readouterr().err
    assert kept_steps(run) == [3]


def test_a_run_that_saved_nothing_begins_as_one_likes(run):
    run.losses = iter([np.nan])
    assert run("--steps", "1", "--rate", "1") == 2
    run.losses = iter([1.0])
    assert run("--steps", "1", "--rate", "0.1") == 0
    assert json.loads((run.folder / "recipe.json").read_text())["rate"] == 0.1


def test_a_run_goes_on_with_the_options_it_began_with(run, capsys):
    assert run("--steps", "3") == 0
    recipe = run.folder / "recipe.json"
    begun = recipe.read_text()
    assert run("--steps", "5", "--batch", "4", "--seed", "1", "--rate", "0.1", "--muon", "0.2") == 2
    said = capsys.readouterr().err
    differing = "batch 8 (now 4), rate 0.002 (now 0.1), muon None (now 0.2), seed 0 (now 1): give"
    assert differing in said
    assert run("--steps", "5", "--start", str(run.folder)) == 2
    assert f"start None (now {run.folder})" in capsys.readouterr().err
    page = run.folder.parent / "data" / "train" / "family" / "another"
    for kind in (".png", ".json"):
        page.with_suffix(kind).touch()
    assert run("--steps", "5") == 2
    assert "pages 1 (now 2)" in capsys.readouterr().err
    page.with_suffix(".json").unlink()
    assert run("--steps", "2") == 2
    assert "3 steps already" in capsys.readouterr().err
    assert recipe.read_text() == begun
    assert kept_steps(run) == [3]


def test_a_run_may_become_longer(run, tmp_path, capsys):
    assert run("--steps", "3") == 0
    recipe = run.folder / "recipe.json"
    begun = recipe.read_text()
    os.link(recipe, tmp_path / "begun.json")
    assert run("--steps", "5", "--every", "2", "--validation", "9") == 0
    assert "going on from step 3" in capsys.readouterr().out
    assert 5 in kept_steps(run)
    assert (tmp_path / "begun.json").read_text() == begun  # replaced, not written into
    changed = {"steps": 5, "every": 2, "validation": 9}
    assert json.loads(recipe.read_text()) == json.loads(begun) | changed


def test_a_run_goes_on_with_the_tower_it_began_with(training, tmp_path):
    train, family = training("train"), training("family")
    begun = dict.fromkeys(train.SAME) | {"family": "fastvithd", "depths": [1, 2, 3, 1, 1]}
    train.check_same(tmp_path, begun, begun)
    for other in ({"depths": family.FastViTHD().depths}, {"family": "clip"}, {"frozen": 2}):
        with pytest.raises(ValueError, match="another run"):
            train.check_same(tmp_path, begun, begun | other)


def test_bundled_weights_say_what_they_began_with(training, tmp_path, monkeypatch):
    bundle, family = training("bundle"), training("family")
    shallow = family.FastViTHD((1, 1, 1, 1, 1), helped=False)
    recipe = {
        "data": str(tmp_path / "data"), "run": str(tmp_path), "start": str(tmp_path / "DEEP"),
        "start_step": 3600, "pages": 7, "family": "fastvithd", "depths": [1, 1, 1, 1, 1],
        "helped": False, "side": 256, "batch": 8, "steps": 9, "rate": 0.1, "seed": 0,
    }  # fmt: skip
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    said = {
        "f1": 0.6, "precision": 0.7, "recall": 0.5, "kind": 0.9, "click": 0.8,
        "click_interval": (0.7, 0.9), "elements": 3, "small_recall": None,
    }  # fmt: skip
    of = {"tower": shallow.tower, "head": shallow.heads["head"]}
    finished = {name: random_params(config) for name, config in of.items()}
    for name, found in {
        "restore": (9, None), "load_screens": [], "calibration": [], "answer": None,
        "best_threshold": 0.4, "score": said,
    }.items():  # fmt: skip
        monkeypatch.setattr(bundle, name, lambda *_, found=found, **__: found)
    monkeypatch.setattr(bundle.Setup, "finished", lambda *_: finished)
    target = tmp_path / "NAME"
    args = argparse.Namespace(run=tmp_path, target=target, data=tmp_path, pages=None, force=False)
    assert bundle.bundle(args) == 0
    text = (target / "manifest.json").read_text()
    manifest = json.loads(text)
    assert (manifest["recipe"]["start"], manifest["recipe"]["start_step"]) == ("DEEP", 3600)
    assert str(tmp_path) not in text
    # Of what came with the rest, in one go, the manifest knows.
    assert manifest["files"]["README.md"]["size"] == (target / "README.md").stat().st_size


def test_a_run_starts_from_bundled_weights(training, tmp_path):
    train, family = training("train"), training("family")
    shallow = family.FastViTHD((1, 1, 1, 1, 1), helped=False)
    setup = train.Setup(shallow, training("optimiser").optimiser(0.1, 4))
    held = {
        name: random_params(of, 3) for name, of in (("tower", shallow.tower), ("head", setup.head))
    }
    weights = tmp_path / "weights"
    bundled_head = dataclasses.replace(setup.head, threshold=0.6)
    store.save(
        weights,
        config=shallow.tower,
        params=held["tower"],
        grounding_config=bundled_head,
        grounding_params=held["head"],
        manifest_extra={"step": 7},
    )
    train.check_start(weights)
    assert train.start_step(weights) == 7
    assert train.helped(None, 0)
    assert not train.helped(weights, 0)
    state = train.started_state(setup, weights)
    for kind in ("params", "average"):
        assert jax.tree.all(jax.tree.map(np.array_equal, state[kind], held))
    with pytest.raises(ValueError, match=r"is a FastViTHD, not a CLIP"):
        train.started_state(train.Setup(family.CLIP(), setup.optimiser), weights)


@pytest.mark.parametrize("without", [("finest_width",), ("finest_width", "detail_width")])
def test_a_head_goes_on_with_a_finer_map(training, tmp_path, without):
    train, family = training("train"), training("family")
    shallow = family.FastViTHD((1, 1, 1, 1, 1), helped=False)
    setup = train.Setup(shallow, training("optimiser").optimiser(0.1, 4))
    config = dataclasses.replace(setup.head, **dict.fromkeys(without, 0))
    head = random_params(config, 3)
    tower = random_params(shallow.tower, 3)
    save = {"config": shallow.tower, "params": tower, "grounding_params": head}
    store.save(tmp_path / "without", grounding_config=config, **save)
    started = train.started_head(setup, tmp_path / "without")
    assert all(np.array_equal(started[a][b], head[a][b]) for a in head for b in head[a])
    assert not started["finest_places"]["kernel"].any()


def test_a_run_does_not_go_on_with_another_head(training, tmp_path):
    train, family = training("train"), training("family")
    shallow = family.FastViTHD((1, 1, 1, 1, 1), helped=False)
    setup = train.Setup(shallow, training("optimiser").optimiser(0.1, 4))
    narrow = HeadConfig(token_width=setup.head.token_width, place_width=8)
    store.save(
        tmp_path / "narrow",
        config=shallow.tower,
        params=random_params(shallow.tower, 3),
        grounding_config=narrow,
        grounding_params=random_params(narrow, 3),
    )
    with pytest.raises(ValueError, match="another head"):
        train.started_head(setup, tmp_path / "narrow")


@pytest.mark.parametrize("frozen", [0, 2, 3])
def test_what_is_trained_is_what_is_used(training, frozen):
    """Folded with a batch's own statistics, the tower gives what its step saw of that batch."""
    train, family = training("train"), training("family")
    shallow = family.FastViTHD((1, 1, 1, 1, 1), helped=False, frozen=frozen)
    setup = train.Setup(shallow, training("optimiser").optimiser(0.1, 4))
    tower = random_params(shallow.tower, 3)
    state = setup.state({"tower": tower, "head": setup.fresh_head(setup.head, 0)})
    assert not state["kept"].keys() & state["params"]["tower"].keys()
    assert state["kept"].keys() | state["params"]["tower"].keys() == tower.keys()
    crops = np.random.default_rng(0).integers(0, 256, (2, 128, 128, 3), np.uint8)
    taken = shallow.before(state["kept"], crops)
    seen = shallow.see(state["params"]["tower"], taken, np.zeros((2, 2), np.int32))
    used = setup.finished(state, [crops])["tower"]
    for name in shallow.kept:
        assert jax.tree.all(jax.tree.map(np.array_equal, used[name], tower[name]))
    tokens, maps = encode_for_head(used, crops, config=shallow.tower, head=setup.head)
    for found, wanted in zip(jax.tree.leaves(seen["head"]), (tokens, *maps), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-4 * float(np.abs(wanted).max()))


def test_what_is_frozen_stays(training):
    train, family, targets = training("train"), training("family"), training("targets").targets
    shallow = family.FastViTHD((1, 1, 1, 1, 1), helped=False, frozen=3)
    setup = train.Setup(shallow, training("optimiser").optimiser(0.1, 4))
    state = setup.state(
        {
            "tower": random_params(shallow.tower, 3),
            "head": setup.fresh_head(setup.head, 0),
        }
    )
    before = jax.tree.map(np.array, {k: state[k] for k in ("kept", "params")})
    boxes = np.array([[8.0, 8, 60, 40]])
    batch = {
        "pixels": np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8),
        "corner": np.zeros((1, 2), np.int32),
        **{k: v[None] for k, v in targets(setup.head, 64, boxes, [0], np.ones(1, bool)).items()},
    }
    for _ in range(2):  # the rate of the first step is 0
        state, parts = setup.step(state, batch)
    assert np.isfinite(parts["loss"])
    same = lambda kind: jax.tree.map(np.array_equal, state[kind], before[kind])  # noqa: E731
    assert jax.tree.all(same("kept"))
    changed = same("params")
    assert not changed["tower"]["stage_3"]["downsample"]["conv"]["kernel"]
    assert not changed["head"]["detail_places"]["kernel"]
    assert not changed["head"]["finest_places"]["kernel"]


@pytest.mark.parametrize("options", [[], ["--start", "a-run"], ["--family", "clip"]])
def test_frozen_stages_come_from_a_weight_directory(
    training, tmp_path, monkeypatch, capsys, options
):
    command = ["train.py", "data", str(tmp_path / "run"), "--frozen", "3", *options]
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(SystemExit):
        training("train").main()
    assert "--start WEIGHTS" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "option",
    [("--rate", "0"), ("--rate", "nan"), ("--muon", "-1"), ("--every", "0"), ("--batch", "0")],
)
def test_rates_and_counts_are_positive(training, tmp_path, monkeypatch, capsys, option):
    monkeypatch.setattr("sys.argv", ["train.py", "data", str(tmp_path / "run"), *option])
    with pytest.raises(SystemExit):
        training("train").main()
    said = capsys.readouterr().err
    assert (
        f"{option[0]} must be a positive number" in said or f"{option[0]} must be at least" in said
    )
    assert not (tmp_path / "run").exists()


def test_a_truncated_page_is_named(training, tmp_path):
    page = tmp_path / "val" / "family" / "page.png"
    page.parent.mkdir(parents=True)
    PIL.Image.effect_noise((64, 64), 50).save(page)
    page.write_bytes(page.read_bytes()[:1000])
    page.with_suffix(".json").write_text('{"elements": []}')
    with pytest.raises(ValueError, match=r"page\.png cannot be read .*truncated"):
        training("train").load_screens(tmp_path / "val", HeadConfig(token_width=8), None, 64)


def test_a_run_does_not_start_from_other_weights(training, tmp_path):
    train, family = training("train"), training("family")
    setup = train.Setup(family.FastViTHD((1, 1, 1, 1, 1)), training("optimiser").optimiser(0.1, 4))
    with pytest.raises(ValueError, match="neither a run"):
        train.check_start(tmp_path)
    (tmp_path / "recipe.json").write_text("{}")
    assert train.helped(tmp_path, 0)
    assert not train.helped(tmp_path, 1)
    store.save(tmp_path / "other", config=SHALLOW, params=random_params(SHALLOW))
    with pytest.raises(ValueError, match="other sizes"):
        train.started_state(setup, tmp_path / "other")
