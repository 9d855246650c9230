"""The engine's thread, with jobs that compute nothing."""

import queue
import threading
import time

import pytest

from diffvis_jax.serve.engine import Engine, EngineDown


class Failure(BaseException):
    """What no job may raise."""


@pytest.fixture
def make():
    engines = []

    def make(**options):
        engine = Engine(**options)
        engines.append(engine)
        engine.start()
        return engine

    yield make
    for engine in engines:
        engine.stop()


def job(name, count, log, gate=None):
    def steps():
        if gate is not None:
            gate.wait(10)
        try:
            for number in range(count):
                log.append((name, number))
                yield number
        finally:
            log.append((name, "closed"))

    return steps


def events_of(engine, start, until=None):
    """Hands a job in; a queue of its events."""
    got = queue.Queue()
    return engine.submit(start, got.put), got


def wait_for(condition):
    ends = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < ends, "it does not come"
        time.sleep(0.005)


def test_jobs_take_turns(make):
    engine, log, gate = make(max_running=2), [], threading.Event()
    events_of(engine, job("a", 4, log, gate))
    events_of(engine, job("b", 3, log))
    events_of(engine, job("c", 1, log))
    gate.set()
    wait_for(lambda: len(log) == 11)
    # One step each; the third begins when one of two has ended.
    order = [entry for entry in log if entry[1] != "closed"]
    assert order[:6] == [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("a", 2), ("b", 2)]
    assert log.index(("c", 0)) > log.index(("b", "closed"))


def test_a_job_that_is_cancelled_takes_no_further_step(make):
    engine, log = make(), []
    stepped, go_on = threading.Event(), threading.Event()

    def steps():
        try:
            for number in range(100):
                log.append(number)
                stepped.set()
                assert go_on.wait(10)
                yield number
        finally:
            log.append("closed")

    ticket, _ = events_of(engine, steps)
    assert stepped.wait(10)
    ticket.cancel()  # within its first step
    go_on.set()
    wait_for(lambda: log[-1] == "closed")
    assert log == [0, "closed"]
    # One that has not begun never does.
    gate = threading.Event()
    events_of(engine, job("other", 1, [], gate))
    wait_for(lambda: engine.waiting == 0)
    ticket, _ = events_of(engine, job("late", 1, log))
    ticket.cancel()
    gate.set()
    wait_for(lambda: engine.load == 0)
    assert ("late", 0) not in log


def test_a_job_that_cannot_begin_is_asked_again_and_others_go_first(make):
    engine, log, free = make(), [], threading.Event()
    steps = job("busy", 1, log)
    events_of(engine, lambda: steps() if free.is_set() else None)
    _, got = events_of(engine, job("other", 1, log))
    assert got.get(timeout=10) == 0
    assert log[0] == ("other", 0)
    free.set()
    wait_for(lambda: ("busy", 0) in log)


def test_a_job_that_fails_fails_alone(make):
    engine = make()

    def broken():
        yield 1
        raise ValueError("no")

    def cannot():
        raise KeyError("no")

    _, got = events_of(engine, broken)
    _, other = events_of(engine, cannot)
    assert got.get(timeout=10) == 1
    assert isinstance(got.get(timeout=10), ValueError)
    assert isinstance(other.get(timeout=10), KeyError)
    assert engine.call(lambda: 7).result(timeout=10) == 7
    with pytest.raises(ZeroDivisionError):
        engine.call(lambda: 1 / 0).result(timeout=10)
    assert engine.restarts == 0


def test_a_thread_that_fails_is_started_again_but_not_for_ever(make):
    restarted, died = [], []
    engine = make(on_restart=lambda: restarted.append(1), on_death=lambda: died.append(1))
    for count in range(1, Engine.MOST_RESTARTS + 2):

        def broken():
            yield None
            raise Failure

        log = []
        _, bystander = events_of(engine, job("by", 10**9, log))
        _, got = events_of(engine, broken)
        for each in (got, bystander):
            while not isinstance(event := each.get(timeout=20), EngineDown):
                assert not isinstance(event, Exception)
        wait_for(lambda count=count: engine.dead or engine.restarts == count)
    assert engine.dead
    assert (len(restarted), len(died)) == (Engine.MOST_RESTARTS, 1)
    with pytest.raises(EngineDown):
        engine.submit(lambda: None, print)
    with pytest.raises(EngineDown):
        engine.call(lambda: None)


def test_it_is_idle_while_nothing_runs(make):
    slices = []

    def idle():
        slices.append(1)
        return len(slices) < 3

    engine = make(idle=idle)
    wait_for(lambda: len(slices) >= 3)
    _, got = events_of(engine, job("a", 1, []))
    assert got.get(timeout=10) == 0  # and what comes is served
    before = engine.beat
    wait_for(lambda: engine.beat > before)


def test_what_runs_has_time_to_end_and_no_more(make):
    engine, log = make(), []
    events_of(engine, job("short", 3, log))
    _, endless = events_of(engine, job("long", 10**9, log))
    engine.stop(0.2)
    assert ("short", "closed") in log
    assert log[-1] == ("long", "closed")
    last = None
    while not endless.empty():
        last = endless.get()
    assert isinstance(last, EngineDown)
