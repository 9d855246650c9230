"""The bundled weights: what they find on the sample of rendered screens, full and differential.

The inputs are fixed and nothing is timed; a bound leaves room for rounding (other CPUs, other
versions of XLA), and none for a real loss.
"""

import dataclasses
import statistics
from pathlib import Path

import numpy as np
import pytest

import diffvis_jax as dv
from diffvis_jax.core.step import jit_encode
from diffvis_jax.datasets import open_dataset
from diffvis_jax.evaluation.judge import score_screen, screen_queries
from diffvis_jax.grounding.find import on_screenshot
from diffvis_jax.measure.missed import changed_tokens
from diffvis_jax.measure.recording_run import run_session
from diffvis_jax.measure.single_change import SingleChange
from diffvis_jax.metrics import mcnemar
from diffvis_jax.towers import build

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "tests" / "data" / "screens_sample"
SESSION = ROOT / "diffvis_jax" / "session"
WEIGHTS = ROOT / "weights" / "fastvithd-screens"


@pytest.fixture(scope="module")
def model():
    return dv.load(WEIGHTS, dtype="float32")


def test_small_enough_and_described():
    size = sum(path.stat().st_size for path in WEIGHTS.rglob("*") if path.is_file())
    assert size <= 12e6
    assert (WEIGHTS / "README.md").is_file()


def test_full_depth(model):
    assert model.config.depths == (2, 12, 24, 4, 2)


@pytest.mark.slow
def test_pages_of_the_sample(model, training):
    """What a full encode finds on seven pages; four of them were like those trained on."""
    score, screens = training("score"), training("screens")
    paths = sorted(path for path in SAMPLE.glob("*/*/*.png") if path.parts[-3] != "streams")
    head = model.head
    pages = [screens.Screen(path, model.config.preprocess, head.config.kinds) for path in paths]
    params = {"tower": model.params, "head": head.params}
    said = score.score(model.config, head.config, params, pages)
    assert said["elements"] == 216
    assert said["click"] >= 0.76  # 0.778
    assert said["f1"] >= 0.685  # 0.702


@pytest.mark.slow
def test_differential_and_full_detect_the_same(model):
    """The start of an interaction with a page, in faithful mode."""
    (stream,) = open_dataset(SAMPLE / "streams" / "login_46").streams
    size, small = (1280, 720), 20
    frames = dv.preprocess([screen.image for screen in stream.screens], model.config)
    result = run_session(model, frames, dv.Policy.faithful())
    assert any(0 < frame.recomputed < 0.5 for frame in result.frames)  # else this shows nothing
    clicks = []
    for frame, screen in zip(result.frames, stream.screens, strict=True):
        queries, where = screen_queries(screen, size, small), dv.placement(*size, model.config)
        scores = [
            score_screen(on_screenshot(elements, where), queries, screen, size, small)
            for elements in (frame.full_elements, frame.elements)
        ]
        clicks += zip(*(score["clicks"] for score in scores), strict=True)
    right = np.array(clicks) == "correct"
    paired = mcnemar(*right.T)
    assert paired.only_full <= 1
    assert paired.both > 0
    agreed = [frame.agreement for frame in result.frames[1:]]
    assert sum(a.both for a in agreed) > 0
    assert sum(a.only_second for a in agreed) == 0
    assert result.summary()["missed_changed"]["max"] < 0.3


@pytest.mark.slow
def test_tokens_say_where_a_menu_opened(model):
    """A tower whose tokens all move alike says little of a change, and its missed change less.

    The head could do without them: it also sees the finer maps.
    """
    frames = [dv.preprocess(SESSION / f"frame_{n}.png", model.config) for n in (13, 14)]
    before, after = (
        np.asarray(jit_encode(model.params, frame, config=model.config)[0]) for frame in frames
    )
    at = np.asarray(changed_tokens(build(model.config), *frames)[0])
    moved = np.square(after - before)
    here, elsewhere = (moved[where].sum(1).mean() ** 0.5 for where in (at, ~at))
    assert here > 0.2 * np.square(after).sum(1).mean() ** 0.5
    assert here > 2 * elsewhere
    assert moved[at].sum(0).max() < 0.9 * moved[at].sum()  # not in one channel alone


# Frames of the bundled session: a letter, a letter, a menu, a hover, a move of the cursor.
PAIRS = (("07", "08"), ("08", "09"), ("13", "14"), ("14", "15"), ("18", "19"))
# Missed change at changed tokens, median and largest of the five, at most.
MISSED = {
    "faithful": (0.01, 0.05),  # 0.003, 0.019
    "fast": (0.02, 0.1),  # 0.004, 0.026
    "1 1 2 3 4": (0.17, 0.6),  # 0.133, 0.514
    "1 1 2 32 32": (0.08, 0.2),  # 0.044, 0.096
}


@pytest.mark.slow
@pytest.mark.parametrize("policy", [dv.Policy.faithful(), dv.Policy.fast()], ids=["faithful", "fast"])
def test_nine_of_ten_steps_miss_less_than_half(model, policy):
    """In a stream, where what was left out of earlier changes counts as well."""
    paths = sorted(SESSION.glob("*.png"))
    frames = dv.preprocess(paths, model.config)
    found = run_session(dataclasses.replace(model, head=None), frames, policy).summary()
    assert found["tiny"] == 0
    assert found["missed_changed"]["p90"] < 0.5  # faithful 0.01, fast 0.07; 1 1 2 3 4: 1.6
    assert found["recomputed_mean"] < 0.7


@pytest.mark.slow
def test_what_a_change_misses(model, script):
    """Single changes, under the policies and under narrower margins."""
    changes = [
        SingleChange(
            model, *(dv.preprocess(SESSION / f"frame_{n}.png", model.config) for n in pair)
        )
        for pair in PAIRS
    ]

    def missed(policy):
        return [change.measure(policy).missed_changed for change in changes]

    for policy, (median, largest) in MISSED.items():
        found = missed(script("named_policies").find_policy(policy))
        assert statistics.median(found) < median, policy
        assert max(found) < largest, policy
    # The changed patches alone deliver nothing.
    assert statistics.median(missed(dv.Policy(margin=0))) > 0.8  # 0.971
