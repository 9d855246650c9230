"""Ages of features on a fake clock: the table of constant times, and the bound on any times."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import diffvis_jax as dv
from diffvis_jax.runtime.simulate import simulate, sweep

HZ = (5.0, 10.0, 20.0, 30.0)


def test_the_table_of_constant_times():
    """By hand for 150 ms: taken at 0, 100, 200, 400, 500, .. and shown from 150, 300, 450, 600: of
    three ticks one finds features of 200 ms, two of 300; of three frames one is superseded."""
    rows = sweep(ticks=4000)
    assert [row["encode_ms"] for row in rows] == [60, 90, 150, 250, 380, 700, 1452]
    ages = [(round(row["age_p50_ms"], 6), round(row["age_max_ms"], 6)) for row in rows]
    assert ages == [
        (100, 100), (100, 100), (300, 300), (400, 500), (600, 800), (1100, 1400), (2200, 3000)
    ]  # fmt: skip
    assert [round(row["actions_per_encode"], 1) for row in rows] == [
        1, 1, 1.5, 2.5, 3.8, 7.0, 14.5
    ]  # fmt: skip
    shares = [round(100 * row["superseded"]) for row in rows]
    assert shares == [0, 0, 33, 60, 74, 86, 93]
    assert all(row["age_max_ms"] <= row["bound_ms"] for row in rows)


def schedules():
    """(hz, seconds of each step, slices of each observation): times around the period, with whole
    and half periods among them, that meet ticks exactly."""
    steps = st.one_of(st.floats(0.001, 4.0), st.sampled_from([0.5, 1.0, 1.5, 2.0]))
    return st.tuples(
        st.sampled_from(HZ),
        st.lists(steps, min_size=1, max_size=8),
        st.lists(st.integers(0, 3), min_size=1, max_size=4),
    )


def cycle(values):
    count = iter(range(10**9))
    return lambda: values[next(count) % len(values)]


def check_the_bound(schedule):
    hz, steps, slices = schedule
    seconds = [round(step / hz, 9) for step in steps]
    found = simulate(
        cycle(seconds), 24, dv.LoopConfig(hz=hz, max_age=math.inf), slices=cycle(slices)
    )
    bound = 2 * max(seconds) + 1 / hz
    assert all(tick.age <= bound + 1e-8 for tick in found.ticks)
    order = [tick.sequence for tick in found.ticks]
    assert order == sorted(order)
    spans = list(found.encoder.snapshot().spans)
    assert all(a.ready <= b.started for a, b in itertools.pairwise(spans))


@settings(max_examples=300)
@given(schedules())
def test_features_are_never_older_than_two_steps_and_a_period(schedule):
    check_the_bound(schedule)


@pytest.mark.slow
@settings(max_examples=10_000)
@given(schedules())
def test_features_are_never_older_on_ten_thousand_schedules(schedule):
    check_the_bound(schedule)


def test_the_bound_is_met_by_less_than_a_period():
    """A step that begins just after a tick: the bound is no looser than it has to be."""
    found = simulate(lambda: 0.2999, 200)
    assert max(tick.age for tick in found.ticks) > 2 * 0.2999 + 0.1 - 0.1


def test_settled_results_alone_are_older_than_the_bound():
    """Three steps a frame, of which only the last is shown; each new frame comes before it."""
    seconds, slices = (lambda: 0.06), (lambda: 2)
    mixed = simulate(seconds, 50, slices=slices)
    settled = simulate(seconds, 50, slices=slices, publish="settled")
    assert max(tick.age for tick in mixed.ticks) <= 2 * 0.06 + 0.1
    assert settled.ticks[-1].sequence == 1  # that of the start, in full
    assert settled.ticks[-1].age > 4


def test_the_same_schedule_gives_the_same_numbers():
    first, second = (simulate(cycle([0.38, 0.2]), 300).stats.as_dict() for _ in range(2))
    assert first == second
