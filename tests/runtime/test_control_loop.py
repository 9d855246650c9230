"""The loop's deadlines, ages and refusals on a fake clock."""

import json
import math

import pytest
from test_worker import Steps

import diffvis_jax as dv
from diffvis_jax.runtime.clock import FakeClock
from diffvis_jax.runtime.executor import InlineExecutor, TimedExecutor
from diffvis_jax.runtime.simulate import simulate
from diffvis_jax.runtime.worker import FrameWorker

ANY_AGE = dv.LoopConfig(max_age=math.inf)


def cycle(values):
    count = iter(range(10**9))
    return lambda: values[next(count) % len(values)]


class Rig:
    """A worker on a fake clock whose steps take these seconds, and an agent that keeps what it got.

    `observe` counts its calls, which are the images.
    """

    def __init__(self, *seconds, steps=None):
        self.clock = FakeClock()
        executor = TimedExecutor(self.clock, cycle(seconds or (0.05,)))
        self.worker = FrameWorker(steps or Steps(), clock=self.clock, executor=executor)
        self.seen, self.acted, self.held = 0, [], 0

    def observe(self):
        self.seen += 1
        return self.seen

    def __call__(self, encoded, images, age):
        self.acted.append((encoded, images, age))

    def hold(self):
        self.held += 1

    def loop(self, config=ANY_AGE, **options):
        return dv.ControlLoop(self.worker, self.observe, self, config, **options)


def test_a_tick_offers_what_it_sees_and_acts_on_the_newest():
    rig = Rig(0.05)
    stats = rig.loop().run(5)
    assert [images - encoded.value for encoded, images, _ in rig.acted] == [1] * 5
    assert [age for *_, age in rig.acted] == pytest.approx([0.1] * 5)
    assert (stats.ticks, stats.missed, stats.skipped, stats.kept) == (5, 0, 0, 1.0)
    assert stats.ended == "ticks"


def test_deadlines_do_not_drift():
    found = simulate(lambda: 0.05, 200, ANY_AGE, act_seconds=cycle([0.0, 0.07, 0.03]))
    begin = found.ticks[0].due
    assert [t.began for t in found.ticks] == pytest.approx([begin + 0.1 * k for k in range(200)])
    assert found.stats.missed == 0


def test_late_ticks_are_skipped():
    """The third action takes 2.5 periods: two due times pass, the next tick is on time."""
    acts = iter([0, 0, 0.25, *[0] * 20])
    found = simulate(lambda: 0.05, 8, ANY_AGE, act_seconds=lambda: next(acts))
    begin = found.ticks[0].due
    due = [round((tick.due - begin) / 0.1) for tick in found.ticks]
    assert due == [0, 1, 2, 5, 6, 7]
    assert [tick.missed for tick in found.ticks] == [False, False, True, False, False, False]
    assert all(tick.began == pytest.approx(tick.due) for tick in found.ticks)
    assert (found.stats.skipped, found.stats.missed) == (2, 1)
    assert found.stats.kept == 5 / 8


def test_late_ticks_are_made_up_for_in_a_burst():
    acts = iter([0, 0, 0.25, *[0] * 20])
    config = dv.LoopConfig(max_age=math.inf, late="burst")
    found = simulate(lambda: 0.05, 8, config, act_seconds=lambda: next(acts))
    begin = found.ticks[0].due
    late = [round(tick.began - tick.due, 6) for tick in found.ticks]
    assert [round((tick.due - begin) / 0.1) for tick in found.ticks] == list(range(8))
    assert late == [0, 0, 0, 0.15, 0.05, 0, 0, 0]
    assert (found.stats.skipped, found.stats.ticks) == (0, 8)


def test_a_tick_that_ends_just_when_the_next_is_due_is_kept():
    found = simulate(lambda: 0.05, 50, ANY_AGE, act_seconds=lambda: 0.1)
    assert (found.stats.missed, found.stats.skipped) == (0, 0)


def test_due_times_that_are_skipped_count():
    found = simulate(lambda: 0.05, 10, ANY_AGE, act_seconds=lambda: 0.35)
    assert found.stats.ticks + found.stats.skipped == 10


def test_patience_makes_features_younger():
    """Steps of 30 ms: with patience of 50 the tick's own observation is there."""
    rig = Rig(0.03)
    config = dv.LoopConfig(max_age=math.inf, patience=0.05)
    stats = rig.loop(config).run(10)
    assert all(encoded.value == images for encoded, images, _ in rig.acted)
    assert [age for *_, age in rig.acted] == pytest.approx([0.03] * 10)
    assert stats.missed == 0


def test_patience_has_an_end():
    rig = Rig(0.08)
    stats = rig.loop(dv.LoopConfig(max_age=math.inf, patience=0.05)).run(10)
    assert [age for *_, age in rig.acted] == pytest.approx([0.15] * 10)
    assert stats.kept == 1.0


def test_a_synchronous_encoder_ages_while_it_runs():
    """In line, a step of 30 ms: features are 30 ms old when they are acted on."""
    clock = FakeClock()

    class Working(Steps):
        def step(self, images, fresh):
            clock.sleep_until(clock.now() + 0.03)
            return super().step(images, fresh)

    ages = []
    worker = FrameWorker(Working(), clock=clock, executor=InlineExecutor())
    loop = dv.ControlLoop(worker, clock.now, lambda *_: ages.append(_[2]), ANY_AGE)
    loop.run(5)
    assert ages == pytest.approx([0.03] * 5)


@pytest.mark.parametrize("on_stale", ["hold", "stop", "raise"])
def test_stale_features(on_stale):
    """One step of two seconds among short ones: then features are older than half a second."""
    rig = Rig(*[0.05] * 5, 2.0, *[0.05] * 50)
    loop = rig.loop(dv.LoopConfig(max_age=0.5, on_stale=on_stale))
    if on_stale == "raise":
        with pytest.raises(dv.StaleError, match=r"are 0\.6 s old, more than max_age = 0\.5"):
            loop.run(40)
        assert loop.stats.ended == "StaleError"
    else:
        assert loop.run(40).ended == ("ticks" if on_stale == "hold" else "stale")
    stats = loop.stats
    assert max(age for *_, age in rig.acted) <= 0.5
    assert stats.stale == (16 if on_stale == "hold" else 1)
    assert rig.held == (16 if on_stale == "hold" else 0)
    assert len(rig.acted) == stats.ticks - stats.stale


def test_an_agent_without_hold_is_not_called():
    rig, acted = Rig(1.0), []
    config = dv.LoopConfig(max_age=0.2, on_stale="hold")
    stats = dv.ControlLoop(rig.worker, rig.observe, lambda *_: acted.append(1), config).run(20)
    assert stats.stale == 20
    assert not acted


def test_a_run_whose_bound_is_above_max_age_is_refused_with_both_numbers():
    rig = Rig(0.25)
    with pytest.raises(dv.ConfigError, match=r"2E \+ P = 0\.6 s old at 10 Hz, .* max_age = 0\.5"):
        rig.loop(dv.LoopConfig()).run(5)
    assert not rig.acted
    assert Rig(0.2).loop(dv.LoopConfig()).run(5).ticks == 5  # 0.5 s is not above 0.5 s
    assert rig.loop(dv.LoopConfig(on_stale="hold")).run(5).ticks == 5


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"hz": 0}, "hz must be above 0, got 0"),
        ({"hz": -1}, "hz must be above 0"),
        ({"hz": math.nan}, "hz must be above 0"),
        ({"hz": math.inf}, "hz must be above 0"),
        ({"hz": 1}, r"max_age must be at least a period, 1 / hz = 1 s, got 0\.5"),
        ({"max_age": math.nan}, "max_age must be at least a period"),
        ({"on_stale": "wait"}, "on_stale must be"),
        ({"late": "never"}, "late must be"),
        ({"patience": 0.1}, "patience must lie within a period"),
        ({"patience": math.nan}, "patience must lie within a period"),
        ({"report_every": -1}, "report_every"),
    ],
)
def test_settings_that_make_no_sense(settings, said):
    with pytest.raises(dv.ConfigError, match=said):
        dv.LoopConfig(**settings)


def test_a_failure_reaches_the_next_tick_as_it_was():
    rig = Rig(0.05)
    rig.observe = iter([*range(6), "bad", *range(50)]).__next__
    loop = rig.loop()
    with pytest.raises(dv.EncoderError, match="ZeroDivisionError: in the step") as raised:
        loop.run(50)
    assert isinstance(raised.value.__cause__, ZeroDivisionError)
    before = loop.stats.ticks
    assert loop.stats.ended == "EncoderError"
    assert loop.stats.as_dict()["failures"] == 1
    rig.worker.reset()
    assert rig.loop().run(before).ended == "ticks"


def test_images_of_another_size_fail_the_tick_that_sees_them():
    rig = Rig(0.05)
    rig.observe = iter([*range(6), "big"]).__next__
    loop = rig.loop()
    with pytest.raises(dv.FrameError, match="too big"):
        loop.run(50)
    assert loop.stats.ticks == 6 - 2  # one is compiled with, one is there before the first tick


def test_errors_of_the_agent_pass_and_the_statistics_stay():
    rig = Rig(0.05)

    def act(*_):
        if len(ticks) == 3:
            raise KeyError("arm")

    ticks = []
    loop = dv.ControlLoop(rig.worker, rig.observe, act, ANY_AGE, on_tick=ticks.append)
    with pytest.raises(KeyError):
        loop.run()
    assert (loop.stats.ticks, loop.stats.ended) == (3, "KeyError")


def test_a_clock_that_goes_back_is_refused():
    class Back(FakeClock):
        def step_back(self):
            self._now -= 5

    rig = Rig(0.05)
    clock = rig.clock = Back(100.0)
    rig.worker = FrameWorker(Steps(), clock=clock, executor=TimedExecutor(clock, lambda: 0.05))
    loop = dv.ControlLoop(rig.worker, rig.observe, lambda *_: clock.step_back(), ANY_AGE)
    with pytest.raises(dv.ConfigError, match="the clock went back"):
        loop.run(5)


def test_the_run_ends_when_it_is_told():
    rig = Rig(0.05)
    stats = rig.loop().run(stop=lambda: len(rig.acted) == 7)
    assert (stats.ticks, stats.ended) == (7, "stop")


def test_nothing_new_to_see_is_not_offered():
    rig = Rig(0.05)
    rig.observe = iter([1, 2, *[None] * 9]).__next__
    stats = rig.loop().run(4)
    assert rig.worker.stats()["offered"] == 2
    assert [images for _, images, _ in rig.acted] == [None] * 4
    assert [age for *_, age in rig.acted] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert stats.kept == 1
    rig.observe = lambda: None
    with pytest.raises(dv.ConfigError, match="nothing to start with"):
        rig.loop().run(1)


def test_observations_bring_their_own_times():
    rig = Rig(0.05)
    rig.observe = lambda: dv.Observation("screen", max(0.0, rig.clock.now() - 0.04))
    rig.loop().run(5)
    assert [age for *_, age in rig.acted] == pytest.approx([0.14] * 5)
    rig = Rig(0.05)
    rig.observe = lambda: dv.Observation("screen", owned=True)
    rig.loop().run(5)
    assert [age for *_, age in rig.acted] == pytest.approx([0.1] * 5)


def test_an_encoder_that_has_started_goes_on():
    rig = Rig(0.05)
    rig.worker.start("first")
    rig.loop().run(3)
    rig.loop().run(3)
    assert rig.worker.stats()["paths"]["full"] == 1


def test_statistics_are_of_the_run():
    rig = Rig(0.25)
    rig.loop().run(40)
    found = rig.loop().run(40).as_dict()
    json.dumps(found)
    assert found["ticks"] == 40
    assert found["encodes"] in (15, 16)  # in 4 s; the last one may end after the last tick
    assert found["actions_per_encode"] == 40 / found["encodes"]
    assert found["offered"] == 40
    assert found["superseded"] in (24, 25)
    assert found["encode_ms"]["max"] == pytest.approx(250)
    assert (found["age_ms"]["p50"], found["age_ms"]["max"]) == pytest.approx((400, 500))
    assert found["compiled_after_start"] == found["failures"] == 0
    assert found["lateness_ms"]["max"] == 0


def test_a_line_every_so_many_ticks():
    rig, lines = Rig(0.05), []
    config = dv.LoopConfig(max_age=math.inf, report_every=4)
    rig.loop(config, say=lines.append).run(10)
    assert len(lines) == 2
    assert lines[0].startswith("4 ticks, 100.0% kept, 0 skipped, 0 stale; age 100 / 100 / 100 ms")
    assert dv.LoopStats(10.0).line().startswith("0 ticks, - kept")
