"""Runs of train.py: what they start from, what they go on with, what they refuse and keep."""

import argparse
import itertools
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
from tiny import STEM, random_params

from diffvis_jax.grounding.head import KINDS, HeadConfig
from diffvis_jax.images.geometry import PreprocessConfig


@pytest.fixture
def run(training, tmp_path, monkeypatch):
    """Runs train.py with options on pages that are not read, and steps that only count.

    Returns the exit status; `run.losses` are those of the steps, `run.folder` is where it writes.
    """
    train = training("train")

    class Counting:
        shape = jax.eval_shape(
            lambda: {"steps": jnp.zeros(()), "average": {"tower": jnp.zeros(())}}
        )

        def __init__(self, optimiser, teacher):
            pass

        def fresh(self, seed):
            return {"tower": jnp.zeros(())}

        def state(self, params):
            call.began = params
            return {"steps": jnp.zeros(()), "average": params}

        def step(self, state, batch, taught):
            parts = {"loss": jnp.array(next(call.losses)), "gradient": jnp.ones(())}
            average = {"tower": state["average"]["tower"] + 1}
            return {"steps": state["steps"] + 1, "average": average}, parts

    monkeypatch.setattr(train, "Setup", Counting)
    monkeypatch.setattr(train, "load_screens", lambda *_: [])
    monkeypatch.setattr(train, "random_crops", lambda *_, **__: itertools.repeat({}))
    monkeypatch.setattr(train, "ahead", lambda crops: crops)
    monkeypatch.setattr(train, "validate", lambda *_: {"f1": 0.5})
    monkeypatch.setattr(train, "finished", lambda state: state)
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
    assert run("--steps", "5", "--batch", "4", "--seed", "1", "--rate", "0.1") == 2
    said = capsys.readouterr().err
    differing = "batch 2 (now 4), rate 0.002 (now 0.1), seed 0 (now 1): give"
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


def test_a_run_goes_on_with_the_tower_it_began_with(run, capsys):
    assert run("--steps", "3") == 0
    recipe = run.folder / "recipe.json"
    begun = json.loads(recipe.read_text())
    recipe.write_text(json.dumps({**begun, "tower": {**begun["tower"], "depth": 40}}))
    assert run("--steps", "5") == 2
    assert "'depth': 40" in capsys.readouterr().err


def test_a_run_starts_from_the_averages_of_another(run, tmp_path, capsys):
    assert run("--steps", "3") == 0
    first, run.folder = run.folder, tmp_path / "second"
    assert run("--steps", "1", "--start", str(first)) == 0
    assert run.began["tower"] == 3
    assert "started from step 3" in capsys.readouterr().out
    run.folder = tmp_path / "third"
    assert run("--steps", "1", "--start", str(tmp_path / "nothing")) == 2
    assert "no run of train.py" in capsys.readouterr().err


def test_a_run_of_another_tower_is_refused(run, training, tmp_path, capsys):
    assert run("--steps", "1") == 0
    first, run.folder = run.folder, tmp_path / "second"
    recipe = json.loads((first / "recipe.json").read_text())
    (first / "recipe.json").write_text(json.dumps({**recipe, "tower": {"depth": 4}}))
    assert run("--steps", "1", "--start", str(first)) == 2
    assert "another tower" in capsys.readouterr().err
    args = argparse.Namespace(
        run=first, target=tmp_path / "NAME", data=tmp_path, pages=None, force=False
    )
    with pytest.raises(ValueError, match="another tower"):
        training("bundle").bundle(args)
    assert not (tmp_path / "NAME").exists()


def test_bundled_weights_say_what_they_began_with(training, tmp_path, monkeypatch):
    bundle = training("bundle")
    tower, head = STEM, HeadConfig(token_width=24, map_width=8, patch=16, rows=2, columns=2)
    monkeypatch.setattr(bundle, "TOWER", tower)
    monkeypatch.setattr(bundle, "HEAD", head)
    recipe = {
        "data": str(tmp_path / "data"), "run": str(tmp_path), "start": str(tmp_path / "FIRST"),
        "teacher": str(tmp_path / "TEACHER"), "pages": 7, "side": 256, "batch": 8, "steps": 9,
        "rate": 0.1, "change_every": 4, "seed": 0,
    }  # fmt: skip
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    said = {
        "f1": 0.6, "precision": 0.7, "recall": 0.5, "kind": 0.9, "click": 0.8,
        "click_interval": (0.7, 0.9), "elements": 3, "small_recall": None,
    }  # fmt: skip
    trained = {"tower": random_params(tower), "head": random_params(head)}
    for name, found in {
        "restore": (9, None), "load_screens": [], "answer": None, "best_threshold": 0.4,
        "score": said, "finished": trained,
    }.items():  # fmt: skip
        monkeypatch.setattr(bundle, name, lambda *_, found=found, **__: found)
    target = tmp_path / "NAME"
    args = argparse.Namespace(run=tmp_path, target=target, data=tmp_path, pages=None, force=False)
    assert bundle.bundle(args) == 0
    text = (target / "manifest.json").read_text()
    manifest = json.loads(text)
    assert (manifest["recipe"]["start"], manifest["recipe"]["teacher"]) == ("FIRST", "TEACHER")
    assert str(tmp_path) not in text
    # Of what came with the rest, in one go, the manifest knows.
    assert manifest["files"]["README.md"]["size"] == (target / "README.md").stat().st_size

    # A run may begin with them.
    runs = training("runs")
    with pytest.raises(ValueError, match="another tower or head"):
        runs.beginning(target)
    monkeypatch.setattr(runs, "TOWER", tower)
    monkeypatch.setattr(runs, "HEAD", head)
    _, held = runs.beginning(target)
    assert held.keys() == trained.keys()
    for ours, theirs in zip(*map(jax.tree.leaves, (held, trained)), strict=True):
        assert ours.dtype == jnp.float32
        np.testing.assert_allclose(ours, theirs, rtol=2**-8, atol=1e-6)


@pytest.mark.parametrize(
    "option",
    [
        ("--rate", "0"),
        ("--rate", "nan"),
        ("--every", "0"),
        ("--batch", "0"),
        ("--change-every", "-1"),
    ],
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
        training("screens").load_screens(tmp_path / "val", KINDS, None, PreprocessConfig(64))
