"""What is found in texts, and what stands in its place."""

import socket
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffvis_jax.errors import ConfigError
from diffvis_jax.route.marks import Restored, find_built_in, make_finder, replaced
from diffvis_jax.route.settings import GuardSettings


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("pay 4111 1111 1111 1111 now", ["4111 1111 1111 1111"]),
        ("4111-1111-1111-1111 2025", ["4111-1111-1111-1111"]),
        ("4111111111111111", ["4111111111111111"]),
        ("4111\u00a01111\u20131111 - 1111", ["4111\u00a01111\u20131111 - 1111"]),
        ("378282246310005 and 6011000990139424", ["378282246310005", "6011000990139424"]),
        ("4111 1111 1111 1112", []),  # its check digit is wrong
        ("12 4111 1111 1111 1111", ["4111 1111 1111 1111"]),
        ("order 20261130 of 1234", []),
        ("IBAN DE89 3704 0044 0532 0130 00 IS IT", ["DE89 3704 0044 0532 0130 00"]),
        ("gb82west12345698765432.", ["gb82west12345698765432"]),
        ("DE89 3704 0044 0532 0130 02", []),
        ("<a.b+c@x-y.example.com>, d@e", ["a.b+c@x-y.example.com", "d@e"]),
        ("mailto:ä@müller.example.", ["ä@müller.example"]),
        ("a @ b, @c, d@", []),
    ],
)
def test_built_in(text, values):
    assert [text[f.start : f.stop] for f in find_built_in(text)] == values


def test_marks_are_one_for_equal_values_and_no_text_spells_them():
    texts = ["a@b.example A@b.example a@b.example", "<EMAIL_1> 4111111111111111"]
    found, marks = replaced(texts, find_built_in)
    assert found == ["<EMAIL_2> <EMAIL_3> <EMAIL_2>", "<EMAIL_1> <CARD_4>"]
    assert marks["<EMAIL_3>"] == "A@b.example"
    assert "".join(marks.values()) == "a@b.exampleA@b.example4111111111111111"


MARKS = {"<EMAIL_1>": "a@b", "<EMAIL_11>": "c@d", "<CARD_2>": "4"}
words = st.sampled_from([*MARKS, "<", ">", "<EMA", "IL_1", "1>", "<<EMAIL_1>", "x", "<CARD_3>"])


@given(st.lists(words, max_size=12), st.lists(st.integers(0, 80), max_size=9))
def test_an_answer_in_pieces_is_restored_as_a_whole(parts, cuts):
    text = "".join(parts)
    expected = text
    for mark in sorted(MARKS, key=len, reverse=True):
        expected = expected.replace(mark, MARKS[mark])
    restored, found, at = Restored(MARKS), "", 0
    for cut in sorted(cuts):
        found, at = found + restored.push(text[at:cut]), max(at, cut)
    assert found + restored.push(text[at:]) + restored.flush() == expected


def test_without_marks_nothing_is_held_back():
    assert Restored({}).push("a < b <EMAIL_1") == "a < b <EMAIL_1"


TEXT = (
    "call +1 212-555-0199 or mail jo@corp.internal, jo@example.com from 203.0.113.7; "
    "card 4111 1111 1111 1111, SSN 536-90-4399"
)


def test_presidio_finds_more_and_asks_no_network(monkeypatch):
    pytest.importorskip("presidio_analyzer", reason="needs the extra `privacy`")

    def refuse(*args, **_):
        raise AssertionError(f"a connection to {args}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    find = make_finder(True, GuardSettings().recognizers)
    found, marks = replaced([TEXT], find)
    for secret in ("555-0199", "jo@", "203.0.113.7", "1111", "536-90"):
        assert secret not in found[0]
    restored = Restored(marks)
    assert restored.push(found[0]) + restored.flush() == TEXT
    with pytest.raises(ConfigError, match="no recogniser 'NoSuch"):
        make_finder(True, ("NoSuchRecognizer",))


def test_without_presidio(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "presidio_analyzer", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="privacy"):
        make_finder(True, ())
    assert make_finder(None, ()) is find_built_in
    assert "only cards, IBANs and e-mail" in caplog.text
    assert make_finder(False, ()) is find_built_in
