"""Profiles as files, and the size that is chosen from one."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import CLIP, QWEN, random_params

import diffvis_jax as dv
from diffvis_jax.core.policy_file import policy_fields
from diffvis_jax.errors import ConfigError
from diffvis_jax.evaluation.summary import FULL
from diffvis_jax.resolution.choose import check_profile, choose_size, policy_name
from diffvis_jax.resolution.profile import (
    Profile,
    Row,
    checksum,
    load_profile,
    save_profile,
    this_machine,
)


def row(side, ms, policy="faithful", **changes):
    return Row(
        **{
            **dict(size=(side, side), bounds=None, policy=policy, macs=side**2, tokens=side // 64),
            **dict(cache_bytes=10 * side, steps=9, recomputed=0.5, prefill_tokens=3.5),
            **dict(ms={"p50": ms, "p90": 1.5 * ms, "p95": 2 * ms, "max": 3 * ms}),
            **dict(missed={"p50": 0.1, "p90": None, "max": None}),
            **dict(queries=4, click=side / 1024, iou=0.25, f1=None),
            **changes,
        }
    )


ROWS = (row(256, 10), row(512, 40), row(768, 30), row(1024, 90))
PROFILE = Profile(
    model="m",
    checkpoint="0123abcd",
    machine={"device": "cpu", "cpu_cores": 2},
    versions={"jax": "1"},
    sessions=("a", "b"),
    policies={"faithful": policy_fields(dv.Policy())},
    rows=(row(1024, 300, FULL), *ROWS),
)


def test_a_profile_is_read_as_it_was_written(tmp_path):
    bounded = row(64, 1, size=(64, 72), bounds=(3136, 4608), f1=0.5)
    profile = dataclasses.replace(PROFILE, rows=(*PROFILE.rows, bounded))
    save_profile(profile, tmp_path / "p.json")
    assert load_profile(tmp_path / "p.json") == profile
    assert list(tmp_path.iterdir()) == [tmp_path / "p.json"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.pop("format"), 'its "format" is not'),
        (lambda c: c.update(format="diffvis_jax policy 1"), 'its "format" is not'),
        (lambda c: c.pop("machine"), "missing or unknown: machine"),
        (lambda c: c.update(more=1), "missing or unknown: more"),
        (lambda c: c.update(rows=[]), "no rows"),
        (lambda c: c.update(rows=3), "not iterable"),
        (lambda c: c["rows"][0].pop("ms"), "missing or unknown: ms"),
        (lambda c: c["rows"][0]["ms"].pop("p95"), "p95"),
        (lambda c: c["rows"][0]["ms"].update(p95="fast"), "numbers from 0 up, got 'fast'"),
        (lambda c: c["rows"][0]["ms"].update(p95=float("nan")), "numbers from 0 up, got nan"),
        (lambda c: c["rows"][0].update(size=[64]), "two whole numbers"),
        (lambda c: c["rows"][0].update(size=[64, 0]), "two whole numbers"),
        (lambda c: c["rows"][0].update(macs=True), "macs must be a whole number"),
        (lambda c: c["rows"][0].update(click=1.5), "a score"),
    ],
)
def test_what_is_no_profile(tmp_path, change, said):
    file = tmp_path / "p.json"
    save_profile(PROFILE, file)
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="is no profile of sizes") as raised:
        load_profile(file)
    assert said in str(raised.value)
    assert "p.json" in str(raised.value)


def test_a_file_that_is_not_there_or_no_json(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.json' cannot be read"):
        load_profile(tmp_path / "nowhere.json")
    (tmp_path / "p.json").write_text("[1, 2")
    with pytest.raises(ConfigError, match="cannot be read as JSON"):
        load_profile(tmp_path / "p.json")


# ---- the choice -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("budget", "statistic", "side"),
    [(20, "p95", 256), (60, "p95", 768), (179, "p95", 768), (180, "p95", 1024), (90, "p50", 1024)],
)
def test_the_largest_that_fits(budget, statistic, side):
    choice = choose_size(PROFILE, budget, statistic)
    assert choice.size == (side, side)
    assert f"{side} px takes " in choice.why
    assert f"within {budget} ms" in choice.why
    larger = {256: "512 px takes 80 ms", 768: "1024 px takes 180 ms", 1024: "it is the largest"}
    assert larger[side] in choice.why


@given(
    times=st.lists(st.floats(0.1, 1e4), min_size=1, max_size=6),
    budgets=st.tuples(st.floats(0.1, 1e5), st.floats(0.1, 1e5)),
    least=st.none() | st.floats(0, 1),
)
def test_more_time_never_gives_a_smaller_size(times, budgets, least):
    rows = tuple(row(64 * (1 + n), ms) for n, ms in enumerate(times))
    profile = dataclasses.replace(PROFILE, rows=rows)

    def chosen(budget):
        try:
            return choose_size(profile, budget, min_score=least).row
        except ConfigError:
            return None

    small, large = (chosen(budget) for budget in sorted(budgets))
    for found, budget in zip((small, large), sorted(budgets), strict=True):
        if found is None:
            fitting = [r for r in rows if r.ms["p95"] <= budget and (r.score or 0) >= (least or 0)]
            assert not fitting
        else:
            assert found.ms["p95"] <= budget
            assert least is None or (found.score or 0) >= least
    assert small is None or (large is not None and large.pixels >= small.pixels)


def test_when_none_fits_the_cheapest_is_named():
    with pytest.raises(ConfigError, match="fits into 19 ms: the cheapest, 256 px takes 20 ms"):
        choose_size(PROFILE, 19)
    said = "with a score of 0.5 fits into 19 ms: the cheapest, 768 px takes 60 ms"
    with pytest.raises(ConfigError, match=said):
        choose_size(PROFILE, 19, min_score=0.5)
    small = dataclasses.replace(PROFILE, rows=ROWS[:2])
    with pytest.raises(ConfigError, match=r"no size scores 1.*: the best, 512 px, scores 0\.500"):
        choose_size(small, 1000, min_score=1)


def test_a_score_may_be_asked_for():
    assert choose_size(PROFILE, 85, min_score=0.5).size == (768, 768)
    f1 = dataclasses.replace(PROFILE, rows=(row(256, 10, f1=0.9), row(512, 40, f1=0.2)))
    assert choose_size(f1, 1000, min_score=0.3).size == (256, 256)
    without = dataclasses.replace(PROFILE, rows=(row(256, 10, click=None),))
    with pytest.raises(ConfigError, match="has no scores"):
        choose_size(without, 1000, min_score=0.3)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"budget_ms": 0}, "budget_ms"),
        ({"budget_ms": float("nan")}, "budget_ms"),
        ({"budget_ms": float("inf")}, "budget_ms"),
        ({"budget_ms": 9, "statistic": "mean"}, "statistic must be one of"),
        ({"budget_ms": 9, "min_score": 2}, "min_score"),
        ({"budget_ms": 9, "policy": "fast"}, "no policy 'fast' in the profile: there are full, f"),
    ],
)
def test_what_makes_no_sense_is_named(arguments, said):
    with pytest.raises(ConfigError, match=said):
        choose_size(PROFILE, **arguments)


def test_of_several_policies_one_is_named():
    fast = policy_fields(dv.Policy.fast())
    both = dataclasses.replace(PROFILE, policies={**PROFILE.policies, "fast": fast})
    with pytest.raises(ConfigError, match="which policy"):
        choose_size(both, 100)
    assert choose_size(both, 700, policy=FULL).size == (1024, 1024)
    assert policy_name(both, dv.Policy.fast()) == "fast"
    assert policy_name(both, None) == FULL
    with pytest.raises(ConfigError, match="knows full, faithful, fast"):
        policy_name(both, dv.Policy.fast(change_threshold=0.1))


# ---- whose profile it is ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def mine():
    """A model, and a profile of it on this machine."""
    model = dv.Model(CLIP, random_params(CLIP), "mine")
    rows = (row(CLIP.size, 10),)
    found = dataclasses.replace(PROFILE, rows=rows, machine=this_machine())
    return model, dataclasses.replace(found, checkpoint=checksum(model, rows[0]))


def test_its_own_profile_is_taken_in_silence(mine):
    check_profile(mine[1], mine[0])


def test_a_profile_of_another_checkpoint_is_refused(mine):
    model, profile = mine
    others = (
        dataclasses.replace(model, params=random_params(CLIP, 1)),
        dataclasses.replace(model, config=dataclasses.replace(CLIP, mean=(0.1, 0.2, 0.3))),
        dv.Model(QWEN, random_params(QWEN), "another"),
    )
    for other in others:
        with pytest.raises(ConfigError, match="the profile is of m with checksum"):
            check_profile(profile, other)


def test_another_machine_is_warned_of(mine):
    model, profile = mine
    machine = {**profile.machine, "processor": "a faster one"}
    with pytest.warns(UserWarning, match="processor a faster one"):
        check_profile(dataclasses.replace(profile, machine=machine), model)


def test_the_size_of_the_frames_is_no_other_checkpoint():
    params = random_params(QWEN)
    small = row(64, 1, size=(56, 72), bounds=(3136, 4608))
    sums = {
        checksum(dv.Model(dataclasses.replace(QWEN, size=size), params, "m"), small)
        for size in ((56, 72), (64, 64))
    }
    assert len(sums) == 1
