"""Runs of train.py: what they start from, what they go on with, what they refuse and keep."""

import argparse
import dataclasses
import itertools
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import PIL.Image
import pytest
from tiny import CLIP, ODD, random_params

from diffvis_jax.checkpoints import store
from diffvis_jax.grounding.head import HeadConfig


def shallow_setup(training, **kwargs):
    """A tower of one block a stage, and AdamW."""
    architecture = training("architecture").Architecture((1, 1, 1, 1, 1), helped=False, **kwargs)
    return training("learning").Setup(architecture, training("optimiser").optimiser(0.1, 4))


@pytest.mark.slow
def test_a_run_starts_from_one_with_another_optimiser(training, tmp_path):
    learning, optimiser, runs = training("learning"), training("optimiser"), training("runs")
    starting, other = training("starting"), shallow_setup(training)
    shallow = other.architecture
    recipe = {"depths": shallow.depths, "helped": False, "rate": 0.1, "steps": 4, "muon": 0.1}
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    setup = learning.Setup(shallow, optimiser.optimiser_of(recipe))
    own = {"tower": random_params(shallow.tower, 5), "head": random_params(setup.head, 5)}
    with runs.checkpoints(tmp_path) as manager:
        save = ocp.args.StandardSave(setup.state(own))
        manager.save(3, args=save, metrics={"f1": 0.0})
    state = starting.started_state(other, tmp_path)
    assert jax.tree.all(jax.tree.map(np.array_equal, state["params"], own))
    assert state["step"] == 0
    assert starting.start_step(tmp_path) == 3


@pytest.fixture
def run(training, tmp_path, monkeypatch):
    """Runs train.py with options on pages that are not read, and steps that only count.

    Returns the exit status; `run.losses` are those of the steps, `run.folder` is where it writes.
    """
    train = training("train")

    class Counting:
        head = None
        shape = jax.eval_shape(lambda: {"steps": jnp.zeros(())})

        def __init__(self, architecture, optimiser):
            pass

        def fresh(self, seed):
            return None

        def state(self, params):
            return {"steps": jnp.zeros(())}

        def step(self, state, batch):
            parts = {"loss": jnp.array(next(call.losses)), "gradient": jnp.ones(())}
            return {"steps": state["steps"] + 1}, parts

        def finished(self, state, crops):
            return state

    monkeypatch.setattr(train, "Setup", Counting)
    for name in ("load_screens", "calibration"):
        monkeypatch.setattr(train, name, lambda *_: [])
    monkeypatch.setattr(train, "random_crops", lambda *_: itertools.repeat({}))
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
    runs = training("runs")
    begun = dict.fromkeys(runs.SAME) | {"depths": [1, 2, 3, 1, 1]}
    runs.check_same(tmp_path, begun, begun)
    for other in (
        {"depths": [2, 12, 24, 4, 2]},
        {"frozen": 2},
        {"token_helper": True},
    ):
        with pytest.raises(ValueError, match="another run"):
            runs.check_same(tmp_path, begun, begun | other)
    old = {name: value for name, value in begun.items() if name != "fresh_tokens"}
    runs.check_same(tmp_path, old, begun | {"fresh_tokens": False})
    with pytest.raises(ValueError, match="fresh_tokens False"):
        runs.check_same(tmp_path, old, begun | {"fresh_tokens": True})


def test_bundled_weights_say_what_they_began_with(training, tmp_path, monkeypatch):
    bundle, setup = training("bundle"), shallow_setup(training)
    recipe = {
        "data": str(tmp_path / "data"), "run": str(tmp_path), "start": str(tmp_path / "DEEP"),
        "start_step": 3600, "pages": 7, "depths": [1, 1, 1, 1, 1],
        "helped": False, "side": 256, "batch": 8, "steps": 9, "rate": 0.1, "seed": 0,
    }  # fmt: skip
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    said = {
        "f1": 0.6, "precision": 0.7, "recall": 0.5, "kind": 0.9, "click": 0.8,
        "click_interval": (0.7, 0.9), "elements": 3, "small_recall": None,
    }  # fmt: skip
    of = {"tower": setup.architecture.tower, "head": setup.head}
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


@pytest.mark.slow
def test_a_run_starts_from_bundled_weights(training, tmp_path):
    starting, setup = training("starting"), shallow_setup(training)
    tower = setup.architecture.tower
    held = {"tower": random_params(tower, 3), "head": random_params(setup.head, 3)}
    weights = tmp_path / "weights"
    bundled_head = dataclasses.replace(setup.head, threshold=0.6)
    store.save(
        weights,
        config=tower,
        params=held["tower"],
        grounding_config=bundled_head,
        grounding_params=held["head"],
        manifest_extra={"step": 7},
    )
    starting.check_start(weights)
    assert starting.start_step(weights) == 7
    assert starting.helped(None, 0)
    assert not starting.helped(weights, 0)
    state = starting.started_state(setup, weights)
    for kind in ("params", "average"):
        assert jax.tree.all(jax.tree.map(np.array_equal, state[kind], held))
    # A helper is not bundled, so that it is a fresh one.
    helped = shallow_setup(training, token_helped=True)
    params = starting.started_state(helped, weights)["params"]
    fresh = helped.fresh_head(helped.architecture.heads["token_helper"], 0)
    assert jax.tree.all(jax.tree.map(np.array_equal, params, held | {"token_helper": fresh}))
    # What comes after stage 3 can be begun anew.
    anew = starting.started_state(setup, weights, 5)["params"]["tower"]
    same = jax.tree.map(np.array_equal, anew, held["tower"])
    assert all(jax.tree.all(own) for name, own in same.items() if name not in ("stage_4", "head"))
    assert not same["stage_4"]["downsample"]["conv"]["kernel"]
    assert not same["head"]["conv"]["kernel"]


@pytest.mark.slow
@pytest.mark.parametrize("without", [("finest_width",), ("finest_width", "detail_width")])
def test_a_head_goes_on_with_a_finer_map(training, tmp_path, without):
    starting, setup = training("starting"), shallow_setup(training)
    tower = setup.architecture.tower
    config = dataclasses.replace(setup.head, **dict.fromkeys(without, 0))
    head = random_params(config, 3)
    save = {"config": tower, "params": random_params(tower, 3), "grounding_params": head}
    store.save(tmp_path / "without", grounding_config=config, **save)
    started = starting.started_head(setup, tmp_path / "without")
    assert all(np.array_equal(started[a][b], head[a][b]) for a in head for b in head[a])
    assert not started["finest_places"]["kernel"].any()


def test_a_run_does_not_go_on_with_another_head(training, tmp_path):
    starting, setup = training("starting"), shallow_setup(training)
    tower = setup.architecture.tower
    narrow = HeadConfig(token_width=setup.head.token_width, place_width=8)
    store.save(
        tmp_path / "narrow",
        config=tower,
        params=random_params(tower, 3),
        grounding_config=narrow,
        grounding_params=random_params(narrow, 3),
    )
    with pytest.raises(ValueError, match="another head"):
        starting.started_head(setup, tmp_path / "narrow")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--fresh-tokens",), "--start RUN"),
        (("--frozen", "3"), "--start WEIGHTS"),
        (("--frozen", "3", "--start", "a-run"), "--start WEIGHTS"),
    ],
)
def test_options_that_go_on_from_weights_name_them(
    training, tmp_path, monkeypatch, capsys, options, said
):
    monkeypatch.setattr("sys.argv", ["train.py", "data", str(tmp_path / "run"), *options])
    with pytest.raises(SystemExit):
        training("train").main()
    assert said in capsys.readouterr().err
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
        training("screens").load_screens(tmp_path / "val", HeadConfig(token_width=8), None, 64)


def test_a_run_does_not_start_from_other_weights(training, tmp_path):
    starting = training("starting")
    with pytest.raises(ValueError, match="neither a run"):
        starting.check_start(tmp_path)
    (tmp_path / "recipe.json").write_text("{}")
    assert starting.helped(tmp_path, 0)
    assert not starting.helped(tmp_path, 1)
    for config in (ODD, CLIP):
        store.save(tmp_path / "other", config=config, params=random_params(config), force=True)
        with pytest.raises(ValueError, match="another tower"):
            starting.started_state(shallow_setup(training), tmp_path / "other")
