"""`diffvis profile`, and `--size` of watch."""

import argparse
import dataclasses
import json
import re
import warnings
from typing import Any

import dataset_samples as samples
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import CLIP, QWEN, random_params
from vlm_files import screen, write_frames

import diffvis_jax as dv
from diffvis_jax.checkpoints import store
from diffvis_jax.cli.chosen_size import sized_models
from diffvis_jax.core.policy_file import policy_fields
from diffvis_jax.datasets import open_dataset
from diffvis_jax.errors import ConfigError
from diffvis_jax.evaluation.summary import FULL
from diffvis_jax.grounding.head import GroundingHead, HeadConfig
from diffvis_jax.resolution.profile import STATISTICS, Row, checksum, this_machine
from diffvis_jax.resolution.sizes import at_size, bounds_of
from diffvis_jax.towers import build, with_size


def save_with_head(place, config, params, width, patch):
    """Weights with a head of random answers."""
    head = HeadConfig(token_width=width, patch=patch, hidden=8, place_width=8)
    inputs = jnp.zeros((1, 1, width))
    head_params: Any = GroundingHead(head).init(jax.random.key(0), inputs)["params"]
    head_params["answers"]["bias"] = head_params["answers"]["bias"] + 4.0
    store.save(
        place, config=config, params=params, grounding_config=head, grounding_params=head_params
    )
    return place


@pytest.fixture(scope="module")
def sessions(tmp_path_factory):
    """Two recorded sessions of 200 x 100 px: a box moves, and is aimed at."""
    root = tmp_path_factory.mktemp("sessions")
    for number, length in enumerate((4, 3)):
        samples.recorded(root / f"s{number}", length, seed=number)
    return root


@pytest.fixture(scope="module")
def clip_place(tmp_path_factory):
    place = tmp_path_factory.mktemp("profile") / "clip"
    return save_with_head(place, CLIP, random_params(CLIP), CLIP.width, CLIP.patch)


@pytest.fixture(scope="module")
def found(clip_place, sessions):
    """A profile of the one size that CLIP has."""
    policies = {"exact": dv.Policy.exact(), "never": dv.Policy(change_threshold=1.0, settle=0)}
    streams = open_dataset(sessions).streams
    return dv.profile(dv.load(clip_place), streams, [CLIP.size], policies)


def test_rows_say_what_was_measured(found):
    assert [row.policy for row in found.rows] == [FULL, "exact", "never"]
    full, exact, never = found.rows
    for row in found.rows:
        assert row.size == (CLIP.size, CLIP.size)
        assert row.bounds is None
        assert row.macs == build(CLIP).macs
        assert row.tokens == 16
        assert row.steps == 5
        assert row.queries == 5
        assert 0 < row.ms["p50"] <= row.ms["p90"] <= row.ms["p95"] <= row.ms["max"]
        assert set(row.ms) == set(STATISTICS)
    assert full.cache_bytes == 0 < exact.cache_bytes == dv.init_cache(CLIP).nbytes
    assert full.recomputed == 1
    assert never.recomputed == never.prefill_tokens == 0 < exact.recomputed
    # Every token attends to all, so the first one moves; one step shows no change to a crop.
    assert full.prefill_tokens == exact.prefill_tokens == 16 * 4 / 5
    assert exact.missed["p50"] < 1e-4 < never.missed["p50"]
    assert (exact.click, exact.iou) == (full.click, full.iou)
    assert full.f1 is None
    assert found.sessions == ("s0", "s1")
    assert found.machine["cpu_cores"]
    assert found.versions["jax"] == jax.__version__


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (dict(sizes=[CLIP.size, 64]), "36 x 36 pixels only"),
        (dict(sizes=[0]), "positive whole number"),
        (dict(sizes=[]), "at least one size"),
        (dict(policy={}), "one policy"),
        (dict(policy={"full": dv.Policy()}), "call none 'full'"),
        (dict(sessions=[]), "at least two"),
    ],
)
def test_bad_input_is_named_before_any_work(clip_place, sessions, changes, said):
    streams = open_dataset(sessions).streams
    given = {"sessions": streams, "sizes": [CLIP.size], "policy": None, **changes}
    with pytest.raises(ConfigError, match=said):
        dv.profile(dv.load(clip_place), **given)


def test_a_session_of_one_frame_shows_no_step(clip_place, sessions):
    (first, _) = open_dataset(sessions).streams
    short = dataclasses.replace(first, screens=first.screens[:1])
    with pytest.raises(ConfigError, match="show no step"):
        dv.profile(dv.load(clip_place), [short], [CLIP.size])


# ---- the commands -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def square_place(tmp_path_factory, square):
    place = tmp_path_factory.mktemp("profile") / "toy"
    width, token = square.tower.token_width, square.tower.token
    return save_with_head(place, square.config, square.params, width, token)


@pytest.fixture(scope="module")
def profiled(square_place, sessions, tmp_path_factory, script):
    """What `diffvis profile` wrote of two sizes."""
    pytest.importorskip("matplotlib")
    place = tmp_path_factory.mktemp("written")
    status = script("profile").main(
        [
            *(str(sessions), "--model", str(square_place), "--sizes", "72,48"),
            *("--policies", "faithful", "--output", str(place / "p.json")),
            *("--page", str(place / "p.html"), "--latency-budget-ms", "1e9"),
        ]
    )
    assert status == 0
    return place


@pytest.mark.slow
def test_a_profile_of_two_sizes(profiled, square):
    profile = dv.load_profile(profiled / "p.json")
    sizes = [(row.size, row.policy) for row in profile.rows]
    assert sizes == [((side, side), name) for side in (48, 72) for name in (FULL, "faithful")]
    for row in profile.rows:
        assert row.macs == build(with_size(square.config, row.size)).macs
        assert row.click is not None
    page = (profiled / "p.html").read_text()
    assert "48 px" in page
    assert "data:image/png" in page
    assert "faithful" in page


@pytest.fixture
def watched(script, square_place, tmp_path, capsys):
    """`diffvis watch` on a folder of frames -> status, what was printed."""
    frames = {f"{n}.png": screen(min(n, 1)) for n in range(4)}
    frames["3.png"] = np.roll(frames["3.png"], 40, axis=0)
    folder = write_frames(tmp_path / "frames", frames)

    def run(*options):
        fixed = ("--model", square_place, folder, "--idle", 0.2, "--interval", 0.02)
        status = script("watch").main([str(part) for part in (*fixed, *options)])
        return status, capsys.readouterr()

    return run


@pytest.mark.slow
@pytest.mark.parametrize(("budget", "patches"), [(1e8, 25), (None, 9)])
def test_the_size_is_chosen_once(watched, profiled, tmp_path, budget, patches):
    profile = dv.load_profile(profiled / "p.json")
    if budget is None:  # fits the smaller size alone
        small, large = (dict.fromkeys(STATISTICS, ms) for ms in (10.0, 30.0))
        rows = [
            dataclasses.replace(row, ms=small if row.size == (48, 48) else large)
            for row in profile.rows
        ]
        profile = dataclasses.replace(profile, rows=tuple(rows))
    dv.save_profile(profile, tmp_path / "p.json")
    options = ("--latency-budget-ms", budget or 20, "--profile", tmp_path / "p.json")
    status, printed = watched("--size", "auto", *options)
    assert status == 0
    # One size from the first frame to the last.
    assert printed.err.count("--size auto: ") == 1
    assert {total for total in re.findall(r"\d+/(\d+) ", printed.out)} == {f"{patches}"}


@pytest.mark.slow
def test_nothing_is_compiled_inside_an_episode(profiled, square_place, square, compilations):
    profile = dv.load_profile(profiled / "p.json")
    model = dv.load(square_place)
    small = profile.of("faithful")[0]
    encoder = dv.DifferentialVisionEncoder(
        dataclasses.replace(model, config=small.config(model.config))
    )
    frames = [screen(n) for n in range(5)]
    for frame in frames[:2]:
        encoder.encode(frame)
    compilations.clear()
    for frame in [*frames, *reversed(frames)]:
        encoder.encode(frame)
    assert not compilations
    assert encoder.get_stats()["cache_restarts"] == 0


@pytest.mark.slow
def test_a_profile_that_does_not_fit_is_refused(watched, profiled, clip_place, found, tmp_path):
    profile = profiled / "p.json"
    auto = ("--size", "auto", "--latency-budget-ms", 1e-3, "--profile", profile)
    status, printed = watched(*auto)
    assert status == 2
    assert "no size fits into 0.001 ms: the cheapest, " in printed.err
    status, printed = watched(*auto, "--policy", "fast")
    assert status == 2
    assert "not measured under this policy: it knows full, faithful" in printed.err
    dv.save_profile(found, tmp_path / "clip.json")
    status, printed = watched(*auto[:-1], tmp_path / "clip.json")
    assert status == 2
    assert "the profile is of clip with checksum" in printed.err
    other = json.loads(profile.read_text())
    other["machine"]["processor"] = "another"
    (tmp_path / "other.json").write_text(json.dumps(other))
    with warnings.catch_warnings():
        warnings.simplefilter("default")  # in tests they are errors
        _, printed = watched(*auto[:-1], tmp_path / "other.json")
    assert "warning: the profile's times are of another machine: processor another" in printed.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--size", "auto"), "--size auto goes with --latency-budget-ms: give that"),
        (("--size", "auto", "--latency-budget-ms", 9), "goes with --profile: give that"),
        (("--profile", "x.json"), "--size auto goes with --profile: drop it"),
        (("--latency-budget-ms", 9), "goes with --latency-budget-ms: drop it"),
        (("--size", 64, "--profile", "x.json"), "goes with --profile: drop it"),
        (("--size", 64, "--max-pixels", 900), "drop it or --max-pixels"),
        (
            ("--size", "auto", "--latency-budget-ms", 9, "--profile", "x.json"),
            "'x.json' cannot be read",
        ),
    ],
)
def test_options_that_do_not_go_together(watched, options, said):
    status, printed = watched(*options)
    assert status == 2
    assert said in printed.err


def test_screens_of_another_shape_are_not_what_was_measured(tmp_path):
    """Of a tower whose frames keep the shape of the screen; nothing is encoded."""
    model = dv.Model(QWEN, random_params(QWEN), "qwen")
    config = at_size(QWEN, 72, (144, 112))
    row = measured_row(config)
    profile = dv.Profile(
        model="qwen",
        checkpoint=checksum(model, row),
        machine=this_machine(),
        versions={},
        sessions=("s",),
        policies={"faithful": policy_fields(dv.Policy())},
        rows=(row,),
    )
    dv.save_profile(profile, tmp_path / "p.json")
    given = argparse.Namespace(
        size="auto", latency_budget_ms=5.0, profile=tmp_path / "p.json", min_pixels=None
    )
    wide, high = (np.zeros((*shape, 3), np.uint8) for shape in ((112, 144), (144, 112)))
    (found,) = sized_models(given, model, [[wide]], dv.Policy())
    assert build(found.config).frame == (56, 72)
    assert dv.frame_size(144, 112, found.config) == (56, 72)
    with pytest.raises(ConfigError, match="frames are 56x72 px, these screens become 72x56 px"):
        sized_models(given, model, [[wide], [high]], dv.Policy())
    given.size = 64  # the longer side
    (found,) = sized_models(given, model, [[high]], None)
    assert build(found.config).frame == (64, 48)


def measured_row(config):
    return Row(
        size=build(config).frame,
        bounds=bounds_of(config),
        policy="faithful",
        macs=build(config).macs,
        tokens=build(config).tokens,
        cache_bytes=1,
        steps=1,
        ms=dict.fromkeys(STATISTICS, 1.0),
        recomputed=0.5,
        prefill_tokens=1.0,
        missed={"p50": 0.0, "p90": 0.0, "max": 0.0},
        queries=0,
        click=None,
        iou=None,
        f1=None,
    )


def test_a_size_that_the_tower_does_not_take(script, clip_place, sessions, capsys):
    folder = str(sessions / "s0")
    options = ("--model", str(clip_place), "--idle", "0.2", "--interval", "0.02", "--size", "64")
    assert script("watch").main([folder, *options]) == 2
    assert "position embeddings for 36 x 36 pixels only" in capsys.readouterr().err


def test_a_profile_of_unknown_sizes(script, clip_place, sessions, tmp_path, capsys):
    options = ("--model", str(clip_place), "--output", str(tmp_path / "p.json"))
    assert script("profile").main([str(sessions), *options, "--sizes", "36,64"]) == 2
    assert "position embeddings for 36 x 36 pixels only" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
