"""`diffvis calibrate` and what it measures with: a single change."""

import json
import sys

import numpy as np
import pytest
from PIL import Image
from tiny import CLIP, FASTVITHD, ROUNDING

import diffvis_jax as dv
from diffvis_jax.checkpoints import store
from diffvis_jax.measure.recording_run import run_session
from diffvis_jax.measure.single_change import Measured, SingleChange, tails_of
from diffvis_jax.towers import build


@pytest.fixture(scope="module")
def calibrate(script):
    return script("calibrate")


@pytest.fixture(scope="module")
def change(square):
    """A patch of one stream becomes another."""
    model = dv.Model(square.config, square.params, "toy")
    before = square.frames()[:1]
    return SingleChange(model, before, square.change_patch(before, 1, 1))


def test_every_measurement_starts_from_the_same_state(change):
    policy = dv.Policy(margin=0, settle=0)
    first = change.measure(policy)
    change.measure(dv.Policy.exact())
    again = change.measure(policy)
    for name in ("changed", "recomputed", "missed_changed", "missed_all"):
        assert getattr(first, name) == getattr(again, name)
    assert first.changed == 1 / 25
    assert first.step_ms > 0 < change.time_full()


def test_exact_misses_nothing_and_doing_nothing_misses_all(change):
    exact = change.measure(dv.Policy.exact())
    assert exact.missed_changed < 100 * ROUNDING > exact.missed_all
    nothing = change.measure(dv.Policy(change_threshold=1.0))
    assert nothing.recomputed == 0
    assert nothing.missed_all == pytest.approx(1, abs=1e-4)


def test_idle_steps_deliver_the_rest(change):
    steps = change.settle(dv.Policy(margin=0, settle=0.2), 8)
    assert len(steps) == 9
    assert [step.changed for step in steps] == [1 / 25] + 8 * [0]
    assert steps[0].pending > 0 == steps[-1].pending
    assert steps[0].missed_all > 0.1
    assert steps[-1].missed_all < 100 * ROUNDING
    assert all(step.recomputed == 0 for step in steps[-2:])


def test_no_change_has_nothing_to_miss(square):
    frame = square.frames()[:1]
    same = SingleChange(dv.Model(square.config, square.params, "toy"), frame, frame)
    found = same.measure(dv.Policy())
    assert (found.changed, found.recomputed) == (0, 0)
    assert found.missed_changed is None
    assert found.missed_all is None
    shares = ((0.5, 0.5, 1.0), (0.7, 0.0, 1.0), (9.0, 9.0, 1e-4))  # of the last next to nothing
    results = [found, *(Measured(0.1, 0.1, 0.0, 1.0, *share) for share in shares)]
    assert tails_of(results)["tiny"] == 1
    assert tails_of(results)["missed_changed"] == pytest.approx(dict(median=0.6, p90=0.68, max=0.7))
    assert tails_of([found])["missed_all"] == dict(median=None, p90=None, max=None)


def numbers(value):
    return {"median": value, "p90": value, "max": value}


ROWS = [
    {
        "policy": name,
        "recomputed": numbers(cost),
        "missed_changed": {"median": 0.0, "p90": missed, "max": 2.0},
    }
    for name, cost, missed in (
        *(("margin 0", 0.1, 0.9), ("margin 1", 0.2, 0.3), ("margin 2", 0.3, 0.4)),
        ("exact", 0.9, 1e-6),
    )
]


def test_the_cheapest_within_the_bound_is_chosen(calibrate):
    missed = {"margin 0": 1.5, "margin 1": 0.45, "margin 2": 0.5, "exact": 1e-5}
    same = {"margin 1": 0.8, "exact": 1.0}

    def in_stream(name):
        return {"missed_changed": numbers(missed[name]), "same": same.get(name)}

    def chosen(*bounds):
        return calibrate.choose(rows, *bounds, in_stream)["policy"]

    rows = [dict(row) for row in ROWS]  # the results of the stream are written into them
    assert chosen(0.5, 0.8) == "margin 1"
    # Within the bound for single changes, but not for a stream of them.
    assert chosen(0.3, 0.8) == "exact"
    tried = {row["policy"]: row["stream"]["same"] for row in rows if "stream" in row}
    assert tried == same
    assert chosen(0.5, 0.9) == "exact"  # too few frames with the same elements
    same.clear()  # no head
    assert chosen(0.5, 0.9) == "margin 1"
    with pytest.raises(ValueError, match="not even exact"):
        chosen(5e-6, 0.9)
    assert [row["policy"] for row in calibrate.best_rows(ROWS)] == ["margin 0", "margin 1", "exact"]


def test_pairs_are_spread_over_the_recording(calibrate):
    assert calibrate.spread_evenly([3, 5], 8) == [3, 5]
    assert calibrate.spread_evenly(list(range(100)), 3) == [0, 49, 99]


@pytest.fixture
def screens(square, tmp_path):
    """Weights, and three frames of which each differs in a patch from the one before."""
    store.save(tmp_path / "weights", config=square.config, params=square.params)
    (tmp_path / "frames").mkdir()
    frame = square.frames()[:1]
    for index in range(3):
        Image.fromarray(np.asarray(frame[0])).save(tmp_path / "frames" / f"{index}.png")
        frame = square.change_patch(frame, 1, index, seed=index)
    return tmp_path


def run(calibrate, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["calibrate.py", *map(str, arguments)])
    return calibrate.main()


def test_the_policy_written_keeps_the_bound(calibrate, screens, square, monkeypatch, capsys):
    out, curve = screens / "policy.json", screens / "curve.png"
    where = ("--weights", screens / "weights", "--frames", screens / "frames", "--most", 0.5)
    # As cheap a choice as serves: every candidate would compile nothing, but take its time.
    some = {"margin 0": dv.Policy(margin=0), "margin 1": dv.Policy(margin=1)}
    some["exact"] = dv.Policy.exact(settle=0)
    monkeypatch.setattr(calibrate, "candidates", lambda tower: some)
    assert (
        run(calibrate, monkeypatch, *where, "--missed", 0.6, "--output", out, "--curve", curve) == 0
    )
    printed = capsys.readouterr().out
    assert "share of dense MACs" in printed
    about = json.loads(out.read_text())["about"]
    missed = about["stream"]["missed_changed"]
    assert about["missed_changed"]["p90"] <= 0.6 >= missed["p90"]
    last = printed.splitlines()[-1]
    assert last.startswith(f"choose '{about['policy']}': ")
    assert "less work than a full encode in the median step" in last
    assert about["pairs"] == [1, 2]
    with Image.open(curve) as picture:
        assert picture.size[0] > 400
    chosen = dv.load_policy(out)
    assert np.array_equal(chosen.margin, some[about["policy"]].margin)
    assert chosen.settle == dv.Policy().settle
    model = dv.Model(square.config, square.params, "toy")
    frames = dv.preprocess(sorted((screens / "frames").glob("*.png")), square.config)
    changes = [SingleChange(model, frames[i : i + 1], frames[i + 1 : i + 2]) for i in range(2)]
    measured = tails_of(change.measure(chosen) for change in changes)
    assert measured["missed_changed"] == pytest.approx(about["missed_changed"])
    stream = run_session(model, frames, chosen).summary()
    assert stream["missed_changed"] == pytest.approx(missed, rel=1e-3)


@pytest.mark.parametrize("config", [CLIP, FASTVITHD])
def test_candidates_suit_the_tower(calibrate, config):
    tower = build(config)
    policies = calibrate.candidates(tower)
    assert "exact" in policies  # so that any bound above rounding can be kept
    for policy in policies.values():
        assert policy.margins(tower).shape == (tower.stages,)
        assert policy.settle == 0
    own = [name for name in policies if name.endswith(("(faithful)", "(fast)"))]
    assert len(own) == 2


def test_windows_around_grow_from_block_to_block(calibrate):
    policies = calibrate.candidates(build(dv.Qwen25VisionConfig()))
    assert "margin 0 0 1 2 all" in policies
    assert "margin 0 1 1 1 1 (faithful)" in policies
    assert not any(name.startswith("margin 1 ") for name in policies)  # windows spread nothing


def test_bad_input_is_named_before_any_work(calibrate, screens, monkeypatch, capsys):
    def refuse(*args):
        raise AssertionError("work has begun")

    monkeypatch.setattr(calibrate, "sweep", refuse)
    where = ("--weights", screens / "weights", "--frames", screens / "frames")
    still = screens / "still"  # what changes comes later
    still.mkdir()
    for index, of in enumerate((0, 0, 1)):
        (still / f"{index}.png").write_bytes((screens / "frames" / f"{of}.png").read_bytes())
    for arguments, said in [
        (("--weights", "none-such"), "no model 'none-such'"),
        ((*where, "--output", screens / "no" / "policy.json"), "no such directory"),
        ((*where, "--curve", screens / "curve.json"), "must end in .png"),
        ((*where, "--most", 0.01), "no two frames differ in at most 1%"),
        (
            ("--weights", screens / "weights", "--frames", still, "--stream", 2),
            "nothing changes in",
        ),
    ]:
        assert run(calibrate, monkeypatch, *arguments) == 2
        printed = capsys.readouterr().err
        assert said in printed
        assert printed.count("\n") == 1
    for arguments in (
        ("--missed", 2),
        ("--missed", "nan"),
        ("--same", 2),
        ("--pairs", 0),
        ("--stream", 1),
    ):
        with pytest.raises(SystemExit):
            run(calibrate, monkeypatch, *where, *arguments)


def test_a_still_scene_gives_a_threshold(calibrate, square, tmp_path, capsys):
    weights = store.save(tmp_path / "tower", config=square.config, params=square.params)
    rng = np.random.default_rng(0)
    scene = square.frames()[0].clip(20, 235)
    still, moving = tmp_path / "still", tmp_path / "moving"
    for folder in (still, moving):
        folder.mkdir()
    for number in range(10):
        noise = rng.normal(0, 2, scene.shape)
        picture = np.round(scene + noise).clip(0, 255).astype(np.uint8)
        Image.fromarray(picture).save(still / f"{number}.png")
    for number in range(3):
        Image.fromarray(square.change_patch(scene[None], number, 1)[0]).save(
            moving / f"{number}.png"
        )
    output = tmp_path / "policy.json"
    options = ["--static", str(still), "--model", str(weights), "--output", str(output)]
    assert calibrate.main([str(moving), *options, "--metric", "p99"]) == 0
    printed = capsys.readouterr().out
    policy = dv.load_policy(output)
    assert policy.metric == "p99"
    assert 4 < 255 * float(policy.change_threshold) < 12
    assert [line.split()[1] for line in printed.splitlines() if line.startswith("| ")] == [
        *("metric", "max", "mean", "p99")
    ]
    assert json.loads(output.read_text())["about"]["comparisons"] == 45 * 25


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--static", "nowhere"], "no such file or directory: 'nowhere'"),
        (["--static", "one"], "too few for a rate of 0.1%"),
    ],
)
def test_a_still_scene_must_be_one(
    calibrate, square, tmp_path, monkeypatch, capsys, arguments, said
):
    monkeypatch.chdir(tmp_path)
    weights = store.save(tmp_path / "tower", config=square.config, params=square.params)
    (tmp_path / "one").mkdir()
    for number in range(2):
        Image.fromarray(square.frames()[0]).save(tmp_path / "one" / f"{number}.png")
    assert calibrate.main([*arguments, "--model", str(weights)]) == 2
    assert said in capsys.readouterr().err
    with pytest.raises(SystemExit):
        calibrate.main([*arguments, "--curve", "curve.png"])
