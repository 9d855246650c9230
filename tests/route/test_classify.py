"""How tasks are judged."""

import dataclasses
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffvis_jax.route.classify import Words, classify, whole_words
from diffvis_jax.route.labels import Complexity, Region, Screen, Sensitivity, Task
from diffvis_jax.route.marks import find_built_in

PUBLIC, INTERNAL, CONFIDENTIAL = Sensitivity
WORDS = Words(
    raising=((whole_words(["password", "mot de passe", "密码", "Straße"]), CONFIDENTIAL),),
    titles=((re.compile("(?i)keepass"), CONFIDENTIAL), (re.compile("Intranet"), INTERNAL)),
    simple=whole_words(["click"]),
    complex=whole_words(["compare"]),
)


def judge(words=WORDS, **fields):
    return classify(Task("reading", **{"stated": PUBLIC} | fields), words, find_built_in)


def test_what_nobody_labels_is_confidential():
    found = judge(stated=None)
    assert found.sensitivity == CONFIDENTIAL
    assert found.reasons == ("confidential: not labelled",)
    assert (
        judge(dataclasses.replace(WORDS, unlabelled=INTERNAL), stated=None).sensitivity == INTERNAL
    )


@pytest.mark.parametrize(
    ("text", "raised"),
    [
        ("type the password", True),
        ("PASSWORD?", True),
        ("pass\u200bword", True),  # a space of no width
        ("ｐａｓｓｗｏｒｄ", True),  # noqa: RUF001
        ("le mot  de\npasse", True),
        ("输入密码吧", True),
        ("in der STRASSE", True),
        ("passwords", False),  # whole words: add them to the table
        ("mot de passeport", False),
        ("click on it", False),
    ],
)
def test_words(text, raised):
    assert (judge(text=text).sensitivity == CONFIDENTIAL) is raised
    assert (judge(titles=(text,)).sensitivity == CONFIDENTIAL) is raised


def window(label, kind="window"):
    return Screen((Region((0, 0, 9, 9), kind, label),))


def test_a_title_without_a_box_raises_and_with_one_does_not():
    assert judge(titles=("KeePass - a.kdbx",)).sensitivity == CONFIDENTIAL
    screen = window("KeePass - a.kdbx")
    assert judge(titles=("KeePass - a.kdbx",), screens=(screen,)).sensitivity == PUBLIC
    assert judge(titles=("KeePass",), screens=(screen,)).sensitivity == CONFIDENTIAL  # another
    # Of the newest screen: an older one has it covered, this one does not.
    screens = (screen, Screen(()))
    assert judge(titles=("KeePass - a.kdbx",), screens=screens).sensitivity == CONFIDENTIAL
    assert judge(titles=("Intranet",)).sensitivity == INTERNAL


def test_a_window_that_is_not_masked_shows_its_title():
    assert judge(screens=(window("the password list"),)).sensitivity == CONFIDENTIAL
    assert judge(screens=(window("a@example.com - Mail"),)).sensitivity == CONFIDENTIAL
    assert judge(screens=(window("a@example.com - Mail", "user"),)).sensitivity == PUBLIC
    assert judge(screens=(window("Notes"),)).sensitivity == PUBLIC


def test_personal_data():
    assert judge(text="write to a@example.com").sensitivity == PUBLIC  # is replaced by a mark
    assert judge(titles=("Inbox of a@example.com",)).sensitivity == CONFIDENTIAL
    block = dataclasses.replace(WORDS, block_pii=True)
    assert judge(block, text="write to a@example.com").sensitivity == CONFIDENTIAL
    assert judge(block, text="write to them").sensitivity == PUBLIC


def test_complexity():
    assert judge(text="Click!").complexity == Complexity.SIMPLE
    assert judge(text="compare, then click").complexity == Complexity.COMPLEX
    assert judge(text="hm").complexity == Complexity.MODERATE
    assert judge(text="compare", complexity=Complexity.SIMPLE).complexity == Complexity.SIMPLE


def test_reasons_quote_nothing():
    found = judge(text="the password is XYZ", titles=("KeePass XYZ", "x@XYZ.example"))
    assert len(found.reasons) == 3
    assert "XYZ" not in str(found)


@given(st.text(max_size=60), st.sampled_from(Sensitivity), st.text(max_size=20))
def test_texts_never_lower(text, stated, title):
    one = judge(text=text, stated=stated)
    two = judge(text=f"{text} public not confidential", stated=stated, titles=(title,))
    assert stated <= one.sensitivity <= two.sensitivity
