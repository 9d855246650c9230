"""Streams that share a batch: each is as if it were alone, on one device or on several."""

import json
import threading
import time

import dataset_samples as samples
import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.experimental import multihost_utils
from tiny import ROUNDING, deviation, edit, report_of

import diffvis_jax as dv
from diffvis_jax.core.streams import (
    data_mesh,
    init_full,
    init_streams,
    make_full_step,
    make_stream_step,
    on_devices,
)
from diffvis_jax.datasets import open_dataset
from diffvis_jax.evaluation import processes
from diffvis_jax.evaluation.prefetch import prefetch
from diffvis_jax.evaluation.results import ResultsError, ResultsFile, open_run, read_results
from diffvis_jax.evaluation.run import Runner
from diffvis_jax.evaluation.schedule import Seat, schedule
from diffvis_jax.evaluation.summary import FULL, markdown, results_table, summarise, times_table
from diffvis_jax.grounding.head import HeadConfig
from diffvis_jax.images.geometry import ImageError

# ---- who stands where -------------------------------------------------------------------------


def test_schedule_by_hand():
    a, b, c = 0, 1, 2
    assert list(schedule([2, 1, 3], 2)) == [
        (Seat(a, 0), Seat(b, 0)),
        (Seat(a, 1), Seat(c, 0)),
        (None, Seat(c, 1)),
        (None, Seat(c, 2)),
    ]
    assert list(schedule([], 3)) == []


@given(st.lists(st.integers(1, 6), max_size=9), st.integers(1, 4))
def test_every_frame_once_in_order_at_one_place(lengths, places):
    turns = list(schedule(lengths, places))
    for stream, length in enumerate(lengths):
        stands = [
            (t, place, seat.index)
            for t, turn in enumerate(turns)
            for place, seat in enumerate(turn)
            if seat and seat.stream == stream
        ]
        assert [index for *_, index in stands] == list(range(length))
        assert len({place for _, place, _ in stands}) == 1
        assert [t for t, *_ in stands] == list(range(stands[0][0], stands[0][0] + length))
    # No place is empty while a stream waits.
    last_start = max(
        (t for t, turn in enumerate(turns) for s in turn if s and not s.index), default=0
    )
    assert all(None not in turn for turn in turns[:last_start])


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

PLACES = 4
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


@pytest.mark.parametrize("devices", [1, 2, 4])
def test_streams_that_take_turns_are_as_if_alone(clip, episodes, devices):
    policy = dv.Policy(margin=1, settle=0.3, refresh_patches=1, keyframe_every=4)
    mesh = data_mesh(jax.local_devices()[:devices])
    step = make_stream_step(clip.config, mesh)
    cache = init_streams(clip.config, PLACES, mesh)
    got = {number: [] for number in range(len(LENGTHS))}
    frames = clip.frames(seed=99, batch=PLACES)  # what stands at empty places is anything
    for turn in schedule(LENGTHS, PLACES):
        fresh = np.array([seat is not None and seat.index == 0 for seat in turn])
        active = np.array([seat is not None for seat in turn])
        for place, seat in enumerate(turn):
            if seat:
                frames[place] = episodes[seat.stream][seat.index]
        given = (on_devices(x.copy(), mesh) for x in (frames, fresh, active))
        tokens, cache, report = step(clip.params, cache, *given, policy)
        for place, seat in enumerate(turn):
            if seat:
                got[seat.stream].append((np.asarray(tokens[place]), report_of(report, place)))
    for number, frames_ in enumerate(episodes):
        expected = list(alone(clip, frames_, policy))
        assert len(got[number]) == len(expected)
        for (ours, said), (theirs, told) in zip(got[number], expected, strict=True):
            assert deviation(ours, theirs) < ROUNDING
            for name in ("path", "changed_patches", "skipped"):
                assert said[name] == told[name]
            assert said["recomputed"] == pytest.approx(told["recomputed"], abs=0.05)


def test_a_restart_compiles_nothing(clip):
    compiled = []
    mesh = data_mesh(jax.local_devices()[:1])
    step = make_stream_step(clip.config, mesh)
    cache = init_streams(clip.config, PLACES, mesh)
    frames, everybody = clip.frames(batch=PLACES), np.ones(PLACES, bool)
    _, cache, _ = step(clip.params, cache, frames, everybody, everybody)
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, *_, **__: compiled.append(name) if "backend_compile" in name else None
    )
    for fresh in (np.zeros(PLACES, bool), np.eye(PLACES, dtype=bool)[1]):
        _, cache, report = step(clip.params, cache, frames, fresh, everybody)
        expected = ["full" if f else "reuse" for f in fresh]
        assert [report_of(report, b)["path"] for b in range(PLACES)] == expected
    assert not compiled


def test_the_full_encode_of_those_who_take_part(fastvithd):
    kit, mesh = fastvithd, data_mesh(jax.local_devices()[:2])
    head = HeadConfig(token_width=kit.config.token_width, map_width=64, detail_width=32)
    full = make_full_step(kit.config, mesh, head=head)
    last = init_full(kit.config, 2, mesh, head=head)
    frames = kit.frames()
    tokens, maps = full(kit.params, last, frames, np.array([True, False]))
    assert deviation(tokens[0], kit.full(frames[:1])[0]) < ROUNDING
    assert not np.asarray(tokens[1]).any()
    assert [each.shape for each in maps] == [(2, 8, 8, 64), (2, 16, 16, 32)]
    assert all(np.asarray(each[0]).any() for each in maps)
    assert not any(np.asarray(each[1]).any() for each in maps)


def test_devices_must_divide_the_batch(clip):
    mesh = data_mesh(jax.local_devices()[:4])
    with pytest.raises(dv.ConfigError, match=r"6 streams does not divide among 4.*: take 4 or 8"):
        init_streams(clip.config, 6, mesh)
    with pytest.raises(dv.ConfigError, match="take 4"):
        Runner(dv.Model(clip.config, clip.params), {}, 2, mesh)


# ---- a data set through it --------------------------------------------------------------------


@pytest.fixture(scope="module")
def sessions(tmp_path_factory):
    root = tmp_path_factory.mktemp("sessions")
    for number, length in enumerate((4, 2, 3)):
        samples.recorded(root / f"s{number}", length, seed=number)
    path = root / "s2" / "frame_001.png"
    path.write_bytes(path.read_bytes()[:70])
    return open_dataset(root)


def test_runner_measures_every_frame(grounding_model, sessions):
    policies = {"exact": dv.Policy.exact(), "nothing": dv.Policy(change_threshold=1.0)}
    runner = Runner(grounding_model, policies, 2, data_mesh(jax.local_devices()[:2]))
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
        assert nothing["path"] == "reuse"
        assert nothing["recomputed"] == 0
    assert by["s0"][1]["runs"]["nothing"]["missed_changed"] == pytest.approx(1, abs=1e-3)
    summary = summarise(lines, list(policies), seed=0)
    said = summary["all"]["exact"]
    assert said["frames"] == 8
    assert said["steps"] == 5
    assert said["queries"] == 5  # of six one is on the broken frame
    assert set(summary["groups"]) == {"session", "action before"}
    assert summary["groups"]["session"]["s1"]["exact"]["frames"] == 2
    for table in (results_table(summary["all"]), times_table(summary["all"])):
        assert markdown(table).count("\n") == 3


def test_a_tower_without_a_head(clip, sessions):
    runner = Runner(
        dv.Model(clip.config, clip.params),
        {"exact": dv.Policy.exact()},
        1,
        data_mesh([jax.devices()[0]]),
    )
    lines = list(runner.run(sessions.streams[:1]))
    summary = summarise(lines, ["exact"], seed=0)
    assert summary["all"]["exact"]["missed_all"] < 1e-3
    assert "click" not in summary["all"]["exact"]
    assert results_table(summary["all"])[0] == [
        *("policy", "frames", "recomputed", "missed change", "over all", "token error"),
    ]


# ---- on disk ----------------------------------------------------------------------------------


def test_a_line_cut_off_is_written_again(tmp_path):
    with ResultsFile(tmp_path, 0) as file:
        file.add({"n": 1})
    path = tmp_path / "results-0.jsonl"
    path.write_bytes(path.read_bytes() + b'{"n": 2, "x')
    assert read_results(tmp_path) == [{"n": 1}]
    with ResultsFile(tmp_path, 0) as file:
        file.add({"n": 2})
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
        shares.append(list(processes.mine(8)))
    assert sorted(i for share in shares for i in share) == list(range(8))
    assert shares[1] == [1, 4, 7]


def test_processes_must_be_started_alike(monkeypatch):
    processes.agree("anything")  # alone
    said = []

    def gathered(mine):  # two processes, one after the other
        said.append(mine)
        return np.stack([said[0], mine])

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
