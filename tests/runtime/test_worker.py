"""The worker's state machine, step by step: nothing here sleeps or compiles."""

import threading

import pytest

import diffvis_jax as dv
from diffvis_jax.runtime.clock import FakeClock, SystemClock
from diffvis_jax.runtime.encoded import Outcome
from diffvis_jax.runtime.executor import (
    InlineExecutor,
    ManualExecutor,
    ThreadExecutor,
    TimedExecutor,
)
from diffvis_jax.runtime.simulate import SimulatedSteps
from diffvis_jax.runtime.worker import FrameWorker


class Steps(SimulatedSteps):
    """Counts steps, and those that overlap; "bad" fails; "big" does not fit."""

    def __init__(self, slices=0):
        super().__init__(lambda: slices)
        self.done, self.inside, self.overlapped = [], 0, False

    def check(self, images):
        if images == "big":
            raise dv.FrameError("image: too big")

    def step(self, images, fresh):
        self.inside += 1
        self.overlapped |= self.inside > 1
        try:
            if images == "bad":
                raise ZeroDivisionError("in the step")
            self.done.append((images, fresh))
            return super().step(images, fresh)
        finally:
            self.inside -= 1


def manual(steps=None, **options):
    """A started worker, its clock at 10 s, and its executor."""
    clock, executor = FakeClock(), ManualExecutor()
    worker = FrameWorker(steps or Steps(), clock=clock, executor=executor, **options)
    worker.start("first")
    clock.sleep_until(10.0)
    return worker, clock, executor


def test_start_gives_the_first_features_and_measures():
    clock = FakeClock()
    worker = FrameWorker(Steps(), clock=clock, executor=TimedExecutor(clock, lambda: 0.25))
    first = worker.start("first")
    assert (first.value, first.sequence, first.epoch, first.path) == ("first", 1, 0, "full")
    assert worker.encode_seconds == pytest.approx(0.25)
    assert first.captured == 0  # before what was compiled
    assert first.ready - first.started == pytest.approx(0.25)
    assert worker.latest() is first
    with pytest.raises(dv.EncoderError, match=r"started already: reset\(\)"):
        worker.start("again")


def test_the_newest_wins_and_a_running_step_is_not_broken_off():
    worker, _, executor = manual()
    numbers = [worker.offer(name) for name in "abc"]
    assert numbers == [2, 3, 4]
    assert executor.waiting == 1  # a runs, c waits, b is gone
    assert worker.latest().value == "first"
    executor.run()
    assert worker.latest().value == "a"
    executor.run()
    assert worker.latest().value == "c"
    assert executor.waiting == 0
    stats = worker.stats()
    assert (stats["offered"], stats["superseded"], stats["encodes"]) == (4, 1, 3)


def test_features_know_their_times():
    worker, clock, executor = manual()
    worker.offer("a", 9.5)
    clock.sleep_until(10.3)
    executor.run()
    a = worker.latest()
    assert (a.captured, a.started, a.ready) == (9.5, 10.0, 10.3)


def test_an_idle_worker_goes_on_with_what_is_pending_and_a_new_frame_comes_next():
    steps = Steps(slices=3)
    worker, _, executor = manual(steps)
    worker.offer("a")
    executor.run()
    assert worker.latest().pending == 3
    worker.offer("b")  # while the first slice runs
    executor.run()
    assert (worker.latest().value, worker.latest().pending) == ("a", 2)
    executor.run()
    assert (worker.latest().value, worker.latest().pending) == ("b", 3)
    executor.run(3)
    assert worker.latest().pending == 0
    assert executor.waiting == 0
    assert steps.done[1:] == [("a", False), (None, False), ("b", False), *[(None, False)] * 3]
    assert worker.stats()["slices"] == 4


def test_without_settling_nothing_goes_on():
    worker, _, executor = manual(Steps(slices=3), settle=False)
    worker.offer("a")
    executor.run()
    assert executor.waiting == 0
    assert worker.latest().pending == 3


def test_a_slice_that_does_nothing_is_the_last_one():
    class Stuck(Steps):
        def step(self, images, fresh):
            return super().step(images, fresh)._replace(pending=1.0, recomputed=0.0)

    _, _, executor = manual(Stuck())
    assert executor.waiting == 1  # the first frame's
    executor.run()
    assert executor.waiting == 0


def test_settled_results_alone():
    worker, _, executor = manual(Steps(slices=2), publish="settled")
    number = worker.offer("a")
    executor.run(2)
    assert worker.latest().value == "first"
    executor.run()
    assert (worker.latest().value, worker.latest().sequence) == ("a", number)
    with pytest.raises(dv.ConfigError, match="settle=True"):
        FrameWorker(Steps(), publish="settled", settle=False)
    with pytest.raises(dv.ConfigError, match="'sometimes'"):
        FrameWorker(Steps(), publish="sometimes")  # pyright: ignore[reportArgumentType]


def test_results_of_an_old_epoch_are_dropped():
    steps = Steps(slices=1)
    worker, _, executor = manual(steps)
    worker.offer("old")
    worker.offer("older than the reset, and waiting")
    worker.reset()
    with pytest.raises(dv.EncoderError, match="nothing is encoded yet"):
        worker.latest()
    worker.offer("new")
    assert executor.waiting == 1  # what ran is finished first
    executor.run()
    with pytest.raises(dv.EncoderError, match="nothing is encoded yet"):
        worker.latest()
    executor.run()
    new = worker.latest()
    assert (new.value, new.epoch) == ("new", 1)
    assert steps.done[-1] == ("new", True)  # in full
    assert worker.stats()["dropped"] == 2
    assert worker.stats()["epoch"] == 1


def test_a_failure_reaches_every_call_with_its_own_cause_until_a_reset():
    worker, _, executor = manual()
    worker.offer("bad")
    worker.offer("waiting")
    executor.run()
    assert executor.waiting == 0
    for call in (worker.latest, lambda: worker.offer("next"), lambda: worker.wait(2)):
        with pytest.raises(dv.EncoderError, match="observation 2: ZeroDivisionError: in the") as e:
            call()
        assert isinstance(e.value.__cause__, ZeroDivisionError)
    with pytest.raises(dv.EncoderError, match="failed"):
        worker.start("again")
    worker.reset()
    assert worker.start("again").value == "again"
    worker.offer("next")
    executor.run()
    assert worker.latest().value == "next"
    assert worker.stats()["failures"] == 1


def test_a_failure_of_an_old_epoch_is_not_the_new_ones():
    worker, _, executor = manual()
    worker.offer("bad")
    worker.reset()
    worker.offer("new")
    executor.run(2)
    assert worker.latest().value == "new"
    assert worker.stats()["failures"] == 1


def test_a_start_that_fails_can_be_tried_again():
    class Picky(Steps):
        def warm(self, images):
            if images == "big":
                raise dv.FrameError("image: too big")

    worker = FrameWorker(Picky(), clock=FakeClock(), executor=ManualExecutor())
    with pytest.raises(dv.FrameError, match="too big"):
        worker.start("big")
    assert not worker.started
    assert worker.start("first").value == "first"


@pytest.mark.parametrize(
    ("captured", "said"),
    [(float("nan"), "nan is no time"), (10.5, "lies in the future"), (8.0, "before the last")],
)
def test_times_that_make_no_sense(captured, said):
    worker, *_ = manual()
    worker.offer("a", 9.0)
    with pytest.raises(dv.FrameError, match=said):
        worker.offer("b", captured)
    assert worker.stats()["offered"] == 2


def test_images_that_do_not_fit_are_refused_where_they_are_offered():
    worker, _, executor = manual()
    with pytest.raises(dv.FrameError, match="too big"):
        worker.offer("big")
    worker.offer("a")
    executor.run()
    assert worker.latest().value == "a"


def test_before_the_start_and_after_the_end():
    worker = FrameWorker(Steps(), clock=FakeClock(), executor=ManualExecutor())
    with pytest.raises(dv.EncoderError, match="has not started"):
        worker.offer("a")
    worker.start("first")
    worker.close()
    worker.close()
    for call in (lambda: worker.offer("a"), worker.reset, lambda: worker.start("again")):
        with pytest.raises(dv.EncoderError, match="is closed"):
            call()
    assert worker.latest().value == "first"


def test_a_close_waits_for_what_runs_and_drops_what_waits():
    clock = FakeClock()
    steps = Steps(slices=5)
    worker = FrameWorker(steps, clock=clock, executor=TimedExecutor(clock, lambda: 0.5))
    worker.start("first")
    worker.offer("a")
    worker.offer("b")
    worker.close()
    assert [images for images, _ in steps.done] == ["first", "a"]
    assert worker.latest().value == "a"
    clock.sleep_until(100)
    assert len(steps.done) == 2


def test_a_worker_that_hangs_is_named():
    clock = FakeClock()
    times = iter([0.1, 0.1, float("inf")])
    worker = FrameWorker(Steps(), clock=clock, executor=TimedExecutor(clock, lambda: next(times)))
    worker.start("first")
    number = worker.offer("a")
    with pytest.raises(TimeoutError, match="observation 2 was not encoded in 5 s"):
        worker.wait(number, 5)
    for _ in range(2):
        with pytest.raises(dv.EncoderError, match="ended its step on observation 2 in 10 s"):
            worker.close()


def test_waiting_for_an_observation():
    clock = FakeClock()
    worker = FrameWorker(Steps(), clock=clock, executor=TimedExecutor(clock, lambda: 0.5))
    worker.start("first")
    begin = clock.now()
    first, second, third = (worker.offer(name) for name in "abc")
    assert worker.wait(first).value == "a"
    assert worker.wait(second).value == "c"  # a newer one does as well
    assert clock.now() - begin == pytest.approx(1.0)
    assert worker.wait(third, 0).value == "c"
    with pytest.raises(dv.EncoderError, match="observation 99 will not come"):
        worker.wait(99)


def test_in_line_an_offer_is_encoded_and_settled_when_it_returns():
    steps = Steps(slices=40)
    worker = FrameWorker(steps, executor=InlineExecutor())
    worker.start("first")
    worker.offer("a")
    assert (worker.latest().value, worker.latest().pending) == ("a", 0)
    assert worker.stats()["slices"] == 40
    assert not steps.overlapped  # no step inside another


def test_an_interrupt_in_line_reaches_the_caller():
    class Interrupted(Steps):
        def step(self, images, fresh):
            if images == "a":
                raise KeyboardInterrupt
            return super().step(images, fresh)

    worker = FrameWorker(Interrupted(), executor=InlineExecutor())
    worker.start("first")
    with pytest.raises(KeyboardInterrupt):
        worker.offer("a")
    with pytest.raises(dv.EncoderError, match="KeyboardInterrupt"):
        worker.latest()


def test_a_clock_that_goes_back_fails_the_step():
    class Back(FakeClock):
        def step_back(self):
            self._now -= 5

    clock, executor = Back(20.0), ManualExecutor()
    worker = FrameWorker(Steps(), clock=clock, executor=executor)
    worker.start("first")
    worker.offer("a")
    clock.step_back()
    executor.run()
    with pytest.raises(dv.EncoderError, match="clock went back, from 20 to 15"):
        worker.latest()


def test_threads_never_step_twice_at_once_and_never_go_back():
    """Three threads offer while one looks; a step takes the time of a few offers."""

    class Slow(Steps):
        def step(self, images, fresh):
            release.wait(0.001)
            return super().step(images, fresh)

    release, steps = threading.Event(), Slow(slices=2)
    with FrameWorker(steps) as worker:
        worker.start("first")

        def offer():
            for number in range(100):
                worker.offer(number, begin)

        begin = SystemClock().now()
        threads = [threading.Thread(target=offer) for _ in range(3)]
        for thread in threads:
            thread.start()
        seen = []
        while any(thread.is_alive() for thread in threads):
            seen.append(worker.latest().sequence)
        last = worker.wait(301)
        stats = worker.stats()
    assert seen == sorted(seen)
    assert last.sequence == 301
    assert not steps.overlapped
    assert stats["offered"] == 301
    assert stats["encodes"] + stats["superseded"] == 301
    assert not any(thread.name.startswith("diffvis") for thread in threading.enumerate())


def test_a_threads_job_that_cannot_begin_is_a_failure():
    """As at the interpreter's end, when no thread takes jobs any more."""
    executor = ThreadExecutor()
    worker = FrameWorker(Steps(), executor=executor)
    worker.start("first")
    executor.shutdown()
    worker.offer("a")
    with pytest.raises(dv.EncoderError, match="RuntimeError: cannot schedule"):
        worker.latest()


def test_outcomes_say_what_had_to_be_compiled():
    class Compiling(Steps):
        def step(self, images, fresh):
            return Outcome(images, 0.0, "full", 1.0, compiled=2)

    worker, _, executor = manual(Compiling())
    worker.offer("a")
    executor.run()
    assert worker.stats()["compiled_after_start"] == 4
