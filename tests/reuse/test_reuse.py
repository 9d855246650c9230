"""What was computed before: when it is given again, and when not."""

import sqlite3
import stat

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffvis_jax.errors import ConfigError
from diffvis_jax.reuse.answers import AnswerCache, Kept
from diffvis_jax.reuse.features import FeatureCache
from diffvis_jax.reuse.keys import answer_key, digest, feature_key

ANSWER = Kept("click the box", "stop", 40, 5, settled=True)


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@given(st.lists(st.one_of(st.binary(max_size=3), st.text(max_size=3), st.integers()), max_size=4))
def test_parts_of_a_digest_do_not_run_into_each_other(parts):
    assert digest(*parts) == digest(*parts)
    assert digest(*parts) != digest(*parts, b"")
    if len(parts) > 1:
        assert digest(*parts) != digest(parts[0])
    assert digest(1) != digest("1") != digest(b"1") != digest(1.0)


def test_keys_hold_all_that_decides():
    frame, ids = np.zeros((1, 4, 4, 3), np.uint8), np.arange(5, dtype=np.int32)
    assert feature_key(frame, "a") != feature_key(frame, "b")
    assert feature_key(frame, "a") != feature_key(frame.reshape(1, 2, 8, 3), "a")
    base = ("tenant", "model", ids, (b"p1", b"p2"), (0.0, None, 64))
    other = [
        ("tenant2", *base[1:]),
        ("tenant", "model2", *base[2:]),
        (*base[:2], ids + 1, *base[3:]),
        (*base[:3], (b"p2", b"p1"), base[4]),
        (*base[:3], (b"p1",), base[4]),
        (*base[:4], (0.0, 1, 64)),
    ]
    assert len({answer_key(*each) for each in (base, *other)}) == len(other) + 1


def test_features_are_bounded():
    cache = FeatureCache(4 * 40)
    tokens = np.arange(10, dtype=np.float32).reshape(5, 2)
    assert cache.get(b"p") is None
    for number in range(5):
        assert cache.put(bytes([number]), tokens + number)
    assert cache.nbytes <= 160
    assert cache.get(b"\0") is None
    found = cache.get(b"\4")
    np.testing.assert_array_equal(found, tokens + 4)
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 1
    assert (cache.hits, cache.misses) == (1, 2)
    assert not cache.put(b"big", np.zeros((5, 20), np.float32))
    assert not FeatureCache(0).put(b"a", tokens)
    with pytest.raises(ConfigError, match="max_bytes"):
        FeatureCache(-1)


def test_answers_are_given_again_for_a_while(tmp_path, clock):
    file = tmp_path / "answers.db"
    cache = AnswerCache(file, ttl_s=60, max_repeats=2, clock=clock)
    assert cache.get(b"k") is None
    assert cache.put(b"k", ANSWER)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    clock.now += 10
    found = cache.get(b"k")
    assert (found.text, found.age_s, found.settled) == ("click the box", 10.0, True)
    cache.close()
    again = AnswerCache(file, ttl_s=60, max_repeats=2, clock=clock)
    assert again.get(b"k") is not None
    assert again.get(b"k") is None  # twice in a row is enough
    assert again.put(b"k", ANSWER)
    assert again.get(b"k") is not None
    clock.now += 61
    assert again.get(b"k") is None
    assert again.put(b"l", ANSWER)
    assert len(again) == 1  # the old one is gone
    assert b"click the box" not in (tmp_path / "answers.db").name.encode()


def test_answers_are_bounded(clock):
    cache = AnswerCache(max_entries=3, clock=clock)
    for number in range(5):
        clock.now += 1
        cache.put(bytes([number]), ANSWER)
    assert len(cache) == 3
    assert cache.get(b"\0") is None
    assert cache.get(b"\4") is not None
    small = AnswerCache(max_bytes=300, clock=clock)
    for number in range(5):
        clock.now += 1
        small.put(bytes([number]), ANSWER)
    assert 0 < len(small) < 5
    with pytest.raises(ConfigError, match="max_repeats"):
        AnswerCache(max_repeats=0)


def test_a_damaged_file_is_put_aside(tmp_path, caplog, clock):
    file = tmp_path / "answers.db"
    file.write_bytes(b"this is no database, and was never one" * 40)
    cache = AnswerCache(file, clock=clock)
    assert "put aside" in caplog.text
    assert [each.name for each in tmp_path.glob("*.damaged-*")] == ["answers.db.damaged-1000"]
    assert cache.put(b"k", ANSWER)
    assert cache.get(b"k") is not None


def test_a_file_that_cannot_be_written_turns_it_off(tmp_path, caplog, clock, monkeypatch):
    cache = AnswerCache(tmp_path / "answers.db", clock=clock)

    class Full:
        def execute(self, *_):
            raise sqlite3.OperationalError("database or disk is full")

        def close(self):
            pass

    cache._base = Full()
    assert not cache.put(b"k", ANSWER)
    assert cache.get(b"k") is None
    assert "disk is full" in cache.off
    assert caplog.text.count("off until the next start") == 1
