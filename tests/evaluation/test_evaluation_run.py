"""Streams that share a batch: each is as if it were alone, on one device or on several."""

import dataclasses
import json
import threading
import time
from pathlib import Path

import dataset_samples as samples
import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.experimental import multihost_utils
from tiny import ROUNDING, deviation, edit, random_head, report_of

import diffvis_jax as dv
from diffvis_jax.core.streams import (
    data_mesh,
    init_streams,
    make_stream_step,
    on_devices,
)
from diffvis_jax.core.tuning import GPU
from diffvis_jax.datasets import open_dataset
from diffvis_jax.evaluation import processes
from diffvis_jax.evaluation.full_step import init_full, make_full_step
from diffvis_jax.evaluation.judge import score_screen, screen_queries, unmatched
from diffvis_jax.evaluation.prefetch import prefetch
from diffvis_jax.evaluation.results import ResultsError, open_results, open_run, read_results
from diffvis_jax.evaluation.run import Runner
from diffvis_jax.evaluation.schedule import Assignment, schedule
from diffvis_jax.evaluation.summary import FULL, results_table, summarise, times_table
from diffvis_jax.grounding.decode import Element
from diffvis_jax.grounding.find import Head, on_screenshot
from diffvis_jax.grounding.head import HeadConfig
from diffvis_jax.images.geometry import ImageError, PreprocessConfig, placement
from diffvis_jax.report.text import MISSED

# ---- the schedule -----------------------------------------------------------------------------


def test_schedule_by_hand():
    a, b, c = 0, 1, 2
    assert list(schedule([2, 1, 3], 2)) == [
        (Assignment(a, 0), Assignment(b, 0)),
        (Assignment(a, 1), Assignment(c, 0)),
        (None, Assignment(c, 1)),
        (None, Assignment(c, 2)),
    ]
    assert list(schedule([], 3)) == []


@given(st.lists(st.integers(1, 6), max_size=9), st.integers(1, 4))
def test_every_frame_once_in_order_in_one_slot(lengths, slots):
    rounds = list(schedule(lengths, slots))
    for stream, length in enumerate(lengths):
        scheduled = [
            (t, slot, each.index)
            for t, assignments in enumerate(rounds)
            for slot, each in enumerate(assignments)
            if each and each.stream == stream
        ]
        assert [index for *_, index in scheduled] == list(range(length))
        assert len({slot for _, slot, _ in scheduled}) == 1
        assert [t for t, *_ in scheduled] == list(range(scheduled[0][0], scheduled[0][0] + length))
    # No slot is empty while a stream waits.
    starts = (t for t, assignments in enumerate(rounds) for a in assignments if a and not a.index)
    assert all(None not in assignments for assignments in rounds[: max(starts, default=0)])


# ---- decoding ahead ---------------------------------------------------------------------------


def test_prefetch_keeps_the_order_and_names_what_is_broken():
    def load(item):
        time.sleep(0.001 * (item % 3))
        if item == 5:
            raise ImageError("five is broken")
        return item * 10

    got = list(prefetch(range(12), load, workers=4, ahead=5))
    assert [item for item, _ in got] == list(range(12))
    assert str(got[5][1]) == "five is broken"
    assert [value for item, value in got if item != 5] == [10 * i for i in range(12) if i != 5]


def test_prefetch_holds_no_more_than_asked():
    loaded, taken, most, lock = 0, 0, 0, threading.Lock()

    def load(item):
        nonlocal loaded, most
        with lock:
            loaded += 1
            most = max(most, loaded - taken)

    for _ in prefetch(range(30), load, workers=3, ahead=4):
        with lock:
            taken += 1
        time.sleep(0.001)
    assert loaded == 30
    assert most <= 5  # four waiting, and the one handed out


def test_prefetch_raises_what_is_no_image_error():
    with pytest.raises(ZeroDivisionError):
        list(prefetch([1, 0], lambda item: 1 / item, workers=1, ahead=2))
    with pytest.raises(ValueError, match="at least 1"):
        next(prefetch([1], str, workers=0, ahead=1))


# ---- equal to single runs ---------------------------------------------------------------------

SLOTS = 4
LENGTHS = (5, 2, 3, 1, 4, 2)
KINDS = ("rectangle", "nothing", "pixel", "scroll", "everything")


@pytest.fixture(scope="module")
def episodes(clip):
    """Streams of different length, `uint8 [T, S, S, 3]` each."""
    found = []
    for number, length in enumerate(LENGTHS):
        frames = [clip.frames(seed=20 + number, batch=1)[0]]
        for t in range(1, length):
            frames.append(edit(frames[-1], KINDS[(t + number) % 5], 7 * t + number, frames[0]))
        found.append(np.stack(frames))
    return found


def alone(kit, frames, policy):
    """Tokens and reports of one stream by itself."""
    cache = dv.init_cache(kit.config)
    for frame in frames:
        tokens, cache, report = kit.serve(kit.params, cache, frame[None], policy)
        yield np.asarray(tokens[0]), report_of(report, 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "devices", [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(4, marks=pytest.mark.slow)]
)
def test_streams_in_one_batch_are_as_if_alone(clip, episodes, devices):
    policy = dv.Policy(margin=1, settle=0.3, refresh_patches=1, keyframe_every=4)
    mesh = data_mesh(jax.local_devices()[:devices])
    step = make_stream_step(clip.config, mesh)
    cache = init_streams(clip.config, SLOTS, mesh)
    got = {number: [] for number in range(len(LENGTHS))}
    frames = clip.frames(seed=99, batch=SLOTS)  # empty slots may hold anything
    for assignments in schedule(LENGTHS, SLOTS):
        fresh = np.array([each is not None and each.index == 0 for each in assignments])
        active = np.array([each is not None for each in assignments])
        for slot, each in enumerate(assignments):
            if each:
                frames[slot] = episodes[each.stream][each.index]
        given = (on_devices(x.copy(), mesh) for x in (frames, fresh, active))
        tokens, cache, report = step(clip.params, cache, *given, policy)
        for slot, each in enumerate(assignments):
            if each:
                got[each.stream].append((np.asarray(tokens[slot]), report_of(report, slot)))
    for number, frames_ in enumerate(episodes):
        expected = list(alone(clip, frames_, policy))
        assert len(got[number]) == len(expected)
        for (tokens, report), (tokens_alone, alone_) in zip(got[number], expected, strict=True):
            assert deviation(tokens, tokens_alone) < ROUNDING
            for name in ("path", "changed_patches", "skipped"):
                assert report[name] == alone_[name]
            assert report["recomputed"] == pytest.approx(alone_["recomputed"], abs=0.05)


@pytest.mark.slow
def test_streams_on_two_devices_have_policies_of_their_own(clip):
    """Thresholds go to the device of their stream."""
    mesh = data_mesh(jax.local_devices()[:2])
    step = make_stream_step(clip.config, mesh)
    cache = init_streams(clip.config, SLOTS, mesh)
    frames, everybody = clip.frames(batch=SLOTS), np.ones(SLOTS, bool)
    policy = dv.Policy(change_threshold=[0, 0.5, 0.5, 0], settle=0)
    given = (on_devices(x, mesh) for x in (frames, everybody, everybody))
    _, cache, _ = step(clip.params, cache, *given, policy)
    changed = frames.copy()
    changed[:, 8:16, 8:16] ^= 32
    given = (on_devices(x, mesh) for x in (changed, ~everybody, everybody))
    _, cache, report = step(clip.params, cache, *given, policy)
    assert np.asarray(report.changed_patches).tolist() == [1, 0, 0, 1]
    rest = frames, everybody, everybody
    with pytest.raises(dv.ConfigError, match="change_threshold has 2 entries for 4 streams"):
        step(clip.params, cache, *rest, dv.Policy(change_threshold=[0, 0.5]))


@pytest.mark.slow
def test_a_restart_compiles_nothing(clip):
    compiled = []
    mesh = data_mesh(jax.local_devices()[:1])
    step = make_stream_step(clip.config, mesh)
    cache = init_streams(clip.config, SLOTS, mesh)
    frames, everybody = clip.frames(batch=SLOTS), np.ones(SLOTS, bool)
    _, cache, _ = step(clip.params, cache, frames, everybody, everybody)
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, *_, **__: compiled.append(name) if "backend_compile" in name else None
    )
    for fresh in (np.zeros(SLOTS, bool), np.eye(SLOTS, dtype=bool)[1]):
        _, cache, report = step(clip.params, cache, frames, fresh, everybody)
        expected = ["full" if f else "reuse" for f in fresh]
        assert [report_of(report, b)["path"] for b in range(SLOTS)] == expected
    assert not compiled


@pytest.mark.parametrize("tuning", [None, GPU])  # one stream at a time; all that there are
def test_the_full_encode_of_those_who_take_part(toy, tuning):
    mesh = data_mesh(jax.local_devices()[:1])
    head = HeadConfig(token_width=16, map_width=8)
    full = make_full_step(toy.config, mesh, head=head, tuning=tuning)
    last = init_full(toy.config, 3, mesh, head=head)
    frames = toy.frames(batch=3)
    tokens, maps = full(toy.params, last, frames, np.array([True, False, True]))
    expected = toy.full(frames)
    for stream in (0, 2):
        assert deviation(tokens[stream], expected[stream]) < ROUNDING
    assert not np.asarray(tokens[1]).any()
    assert [each.shape for each in maps] == [(3, 14, 18, 8)]
    for each in maps:
        assert np.asarray(each).any((1, 2, 3)).tolist() == [True, False, True]


def test_devices_must_divide_the_batch(clip):
    mesh = data_mesh(jax.local_devices()[:4])
    with pytest.raises(dv.ConfigError, match=r"6 streams does not divide among 4.*: take 4 or 8"):
        init_streams(clip.config, 6, mesh)
    with pytest.raises(dv.ConfigError, match="take 4"):
        Runner(dv.Model(clip.config, clip.params), {}, 2, mesh)


# ---- detections against labels ----------------------------------------------------------------

STREAM = Path(__file__).resolve().parents[1] / "data" / "screens_sample" / "streams" / "login_46"


def element(*box: float) -> Element:
    return Element(box, "button", 0.9)  # type: ignore[arg-type]


def test_elements_in_the_padding_count_nowhere():
    # 200 x 100 px in a frame of 200: half of it is padding, 50 px above and below.
    where = placement(200, 100, PreprocessConfig(size=200))
    on_edge, inside = element(10, 40, 30, 60), element(100, 100, 120, 110)
    elements = [element(0, 0, 20, 20), on_edge, inside, element(50, 160, 70, 199)]
    assert unmatched(elements, elements, where) == ([], [])
    assert unmatched(elements, elements[:2], where) == ([[100, 50, 120, 60]], [])
    # Clipped to the screenshot, the two would overlap by a fifth only.
    assert unmatched([on_edge], [element(10, 40, 30, 52)], where) == ([], [])
    screen = open_dataset(STREAM).streams[0].screens[0]
    scores = score_screen(on_screenshot(elements, where), [], screen, (1280, 720), 16)
    assert scores["elements"] == 2
    assert scores["counts"][:2] == [0, 2]


def test_labelled_elements_are_the_queries_where_nothing_else_is():
    screen = open_dataset(STREAM).streams[0].screens[1]
    labels = json.loads((STREAM / "trajectory.json").read_text())["frames"][1]["elements"]
    large = [x["box"] for x in labels if min(np.subtract(x["box"][2:], x["box"][:2])) >= 16]
    queries = screen_queries(screen, (1280, 720), 16)
    np.testing.assert_allclose([target for _, target in queries], large)
    assert 1 < len(large) < len(labels)
    assert len({record.id for record, _ in queries}) == len(queries)


# ---- a data set through it --------------------------------------------------------------------


@pytest.fixture(scope="module")
def sessions(tmp_path_factory):
    root = tmp_path_factory.mktemp("sessions")
    for number, length in enumerate((4, 2, 3)):
        samples.recorded(root / f"s{number}", length, seed=number)
    path = root / "s2" / "frame_001.png"
    path.write_bytes(path.read_bytes()[:70])
    return open_dataset(root)


@pytest.fixture(scope="module")
def model(clip):
    """With a head: random answers, but enough of them to compare."""
    config = HeadConfig(token_width=clip.config.width, patch=8, hidden=8, place_width=8)
    params = random_head(config)
    params["answers"]["bias"] = params["answers"]["bias"] + 4.0
    whole = dataclasses.replace(clip.config, resize_mode="squash")  # crops no side
    return dv.Model(whole, clip.params, "random", Head(config, params))


def test_runner_measures_every_frame(model, sessions):
    policies = {"exact": dv.Policy.exact(), "nothing": dv.Policy(change_threshold=1.0)}
    runner = Runner(model, policies, 2, data_mesh(jax.local_devices()[:2]))
    counted = []
    lines = list(runner.run(sessions.streams, on_frames=counted.append))
    assert sum(counted) == 9
    assert sorted(line["stream"] for line in lines) == ["s0", "s1", "s2"]
    by = {line["stream"]: line["frames"] for line in json.loads(json.dumps(lines))}
    assert [frame["first"] for frame in by["s0"]] == [True, False, False, False]
    assert "frame_001.png" in by["s2"][1]["broken"]
    assert by["s2"][2]["first"] is False
    for frame in by["s0"][1:3]:
        assert [query["target"][1::2] for query in frame["queries"]] == [[20, 40]]
        exact, nothing = frame["runs"]["exact"], frame["runs"]["nothing"]
        assert exact["missed_changed"] < 1e-3
        assert exact["clicks"] == frame["runs"][FULL]["clicks"]
        differing = len(exact["only_here"]) + len(exact["only_full"])
        assert differing <= 0.02 * exact["elements"]  # rounding at the threshold
        assert nothing["path"] == "reuse"
        assert nothing["recomputed"] == 0
    assert by["s0"][1]["runs"]["nothing"]["missed_changed"] == pytest.approx(1, abs=1e-3)
    summary = summarise(lines, list(policies), seed=0)
    exact = summary["all"]["exact"]
    assert exact["frames"] == 8
    assert exact["steps"] == 5
    assert exact["queries"] == 5  # of six one is on the broken frame
    nothing = summary["all"]["nothing"]
    assert nothing["missed_changed"]["max"] >= nothing["missed_changed"]["median"] > 0.9
    assert nothing["lost"] > 0
    assert set(summary["groups"]) == {"session", "action before"}
    assert summary["groups"]["session"]["s1"]["exact"]["frames"] == 2
    for table in (results_table(summary["all"]), times_table(summary["all"])):
        assert [row[0] for row in table] == ["policy", "exact", "nothing"]
        assert len({len(row) for row in table}) == 1


@pytest.mark.slow
def test_a_tower_without_a_head(clip, sessions):
    runner = Runner(
        dv.Model(clip.config, clip.params),
        {"exact": dv.Policy.exact()},
        1,
        data_mesh([jax.devices()[0]]),
    )
    lines = list(runner.run(sessions.streams[:1]))
    summary = summarise(lines, ["exact"], seed=0)
    assert summary["all"]["exact"]["missed_all"]["max"] < 1e-3
    assert "click" not in summary["all"]["exact"]
    assert results_table(summary["all"])[0] == [
        *("policy", "frames", "recomputed", *MISSED, "token error"),
    ]


# ---- on disk ----------------------------------------------------------------------------------


def test_a_line_cut_off_is_written_again(tmp_path):
    with open_results(tmp_path, 0) as add:
        add({"n": 1})
    path = tmp_path / "results-0.jsonl"
    path.write_bytes(path.read_bytes() + b'{"n": 2, "x')
    assert read_results(tmp_path) == [{"n": 1}]
    with open_results(tmp_path, 0) as add:
        add({"n": 2})
    assert read_results(tmp_path) == [{"n": 1}, {"n": 2}]
    path.write_bytes(b'{"n": 1\n{"n": 2}\n')
    with pytest.raises(ResultsError, match=r"results-0.jsonl' line 1 is damaged"):
        read_results(tmp_path)


def test_a_directory_is_of_one_run(tmp_path):
    target = tmp_path / "run"
    open_run(target, {"policies": {"fast": 1}, "seed": 0})
    open_run(target, {"policies": {"fast": 1}, "seed": 0})
    with pytest.raises(ResultsError, match=r"holds another run .seed: 0 there, 1 now"):
        open_run(target, {"policies": {"fast": 1}, "seed": 1})
    with pytest.raises(ResultsError, match=r"policies\.fast: 1 there, nothing now"):
        open_run(target, {"policies": {}, "seed": 0})
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("")
    with pytest.raises(ResultsError, match=r"is not empty, and holds no run\.json"):
        open_run(other, {})
    (target / "run.json").write_text("{")
    with pytest.raises(ResultsError, match=r"run\.json' cannot be read"):
        open_run(target, {})


# ---- several processes ------------------------------------------------------------------------


def test_every_stream_is_of_one_process(monkeypatch):
    shares = []
    for process in range(3):
        monkeypatch.setattr(jax, "process_count", lambda: 3)
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        shares.append(list(processes.local_streams(8)))
    assert sorted(i for share in shares for i in share) == list(range(8))
    assert shares[1] == [1, 4, 7]


def test_processes_must_be_started_alike(monkeypatch):
    processes.agree("anything")  # alone
    digests = []

    def gathered(digest):  # two processes, one after the other
        digests.append(digest)
        return np.stack([digests[0], digest])

    monkeypatch.setattr(multihost_utils, "process_allgather", gathered)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    processes.agree("a run")
    processes.agree("a run")
    with pytest.raises(dv.ConfigError, match=r"processes \[1\] were started with other arguments"):
        processes.agree("another run")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((None, 2, 0), "2 processes need a coordinator"),
        (("localhost:1", None, 0), "got None and 0"),
        (("localhost:1", 2, 2), "got 2 and 2"),
    ],
)
def test_processes_that_do_not_fit(arguments, said):
    with pytest.raises(dv.ConfigError, match=said):
        processes.join(*arguments)
