"""Doing without some of the views: what it costs is measured on the same ticks."""

import dataclasses
import types

import numpy as np
import pytest
from tiny import CLIP, LANGUAGE, random_params

import diffvis_jax as dv
from diffvis_jax.views import drop_study, study_table

NAMES = ("base", "left", "right")


def ticks(clip):
    """Four ticks; "right" shows something else in each, the others stand still."""
    first = clip.frames(batch=3)
    found = [first]
    for number in range(3):
        found.append(clip.change_patch(found[-1], number, 1, stream=2, seed=number))
    return np.stack(found)


@pytest.fixture(scope="module")
def model():
    return dv.Model(CLIP, random_params(CLIP), "tiny")


def test_every_subset_is_studied(clip, model):
    seen = []

    def score(tokens, present):
        seen.append(present.tolist())
        assert tokens.shape == (4, 3, 16, 32)
        assert not tokens[:, ~present].any()
        return float(present.sum())

    rows = drop_study(model, ticks(clip), score, names=NAMES)
    assert [row.views for row in rows] == [
        NAMES,
        *(("base", "left"), ("base", "right"), ("left", "right")),
        *(("base",), ("left",), ("right",)),
    ]
    assert [row.score for row in rows] == [3, 2, 2, 2, 1, 1, 1]
    assert seen[0] == [True] * 3
    whole = rows[0]
    assert whole.feature_change["max"] == 0
    for row in rows[1:]:
        assert row.feature_change["median"] > 0
        # Only the view that moves costs anything.
        assert row.recomputed == pytest.approx(whole.recomputed if "right" in row.views else 0)
        assert row.prefill_ms is None
    assert whole.recomputed > 0
    assert len(study_table(rows)) == 8
    (_, only) = drop_study(model, ticks(clip), names=NAMES, subsets=[("left",)])
    assert only.views == ("left",)
    assert only.score is None


@pytest.mark.slow
def test_prompts_of_the_views_are_prefilled_as_well(clip, model):
    """Up to the first view that changed, which is the last one, everything is reused."""
    config = dataclasses.replace(LANGUAGE, projector_input=32, conversation="plain")
    language = dv.Language(config, random_params(config))
    words = types.SimpleNamespace(
        encode=lambda text: [7] * len(text), start=(), id_of=lambda _: None
    )
    language.__dict__["tokenizer"] = words  # as if it had been read
    model = dataclasses.replace(model, language_loader=lambda: language)
    subsets = [("base", "right"), ("base", "left")]
    whole, moving, still = drop_study(
        model, ticks(clip), names=NAMES, subsets=subsets, question="Go?"
    )
    text = len("Go?") + 1 + 1  # the line's end, and one between the last image and it
    assert whole.prefilled == 16 + text
    assert moving.prefilled == 2 * 16 + text + 1  # more than half of it: as a whole
    assert still.prefilled == 0
    for row in (whole, moving, still):
        assert row.prefill_ms is not None
        assert row.prefill_ms["median"] is not None
    assert study_table([whole])[1][3] != "-"


def test_bad_studies_are_refused(clip, model):
    frames = ticks(clip)
    for wrong in (frames[0], frames[:1], frames.astype(np.float32)):
        with pytest.raises(dv.FrameError, match=r"frames must be uint8 \[T, V, H, W, 3\]"):
            drop_study(model, wrong)
    for options, said in (
        ({"names": ("a", "b")}, "3 views need as many names"),
        ({"names": ("a", "b", "b")}, "3 views need as many names"),
        ({"subsets": [("top",)]}, r"a subset must be some of"),
        ({"subsets": [()]}, r"a subset must be some of"),
    ):
        with pytest.raises(dv.ConfigError, match=said):
            drop_study(model, frames, **options)
    with pytest.raises(dv.ConfigError, match="6 views have too many subsets"):
        drop_study(model, np.concatenate([frames, frames], 1))
