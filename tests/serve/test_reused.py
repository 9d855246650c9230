"""What was computed before is given again, to the same client, and told."""

import sqlite3

import pytest
from serving import NAME, client_of, serving, user
from vlm_files import changed, screen

QUESTION = "What is on it?"


@pytest.fixture(scope="module")
def kept(model, tmp_path_factory):
    answers = {"enabled": True, "file": str(tmp_path_factory.mktemp("kept") / "answers.db")}
    more = {"reuse": {"features_mb": 8.0, "answers": answers | {"max_repeats": 2}}}
    with serving(model, keys=["first", "second"], more=more) as running:
        yield running


def ask(running, shown, key="first", **options):
    """About a screen, or the one of a seed."""
    pixels = screen(shown) if isinstance(shown, int) else shown
    with client_of(running, key) as client:
        answer = client.chat.completions.create(
            model=NAME,
            messages=[user(pixels, options.pop("text", QUESTION))],
            max_tokens=options.pop("max_tokens", 6),
            **options,
        )
        return list(answer) if options.get("stream") else answer


def test_an_answer_of_before_is_told_to_be_one(kept):
    first = ask(kept, 60)
    again = ask(kept, 60)
    assert again.choices[0].message.content == first.choices[0].message.content
    assert again.usage.completion_tokens == first.usage.completion_tokens
    assert again.usage.prompt_tokens == first.usage.prompt_tokens
    assert again.diffvis["path"] == "answer"
    assert again.diffvis["answer"]["settled"]
    assert again.diffvis["answer"]["age_s"] >= 0
    ask(kept, 60)
    anew = ask(kept, 60)  # an agent that is stuck is not told the same for ever
    assert anew.diffvis["path"] != "answer"
    assert anew.choices[0].message.content == first.choices[0].message.content


@pytest.mark.parametrize(
    "other",
    [
        {"text": "And now?"},
        {"max_tokens": 5},
        {"temperature": 1.0},
        {"key": "second"},
        {"extra_headers": {"cache-control": "no-store"}},
        {"extra_body": {"diffvis": {"policy": "off"}}},
    ],
)
def test_another_question_is_another_answer(kept, other):
    ask(kept, 61)
    assert ask(kept, 61, **other).diffvis["path"] != "answer"


def test_a_stream_of_an_answer_of_before(kept):
    whole = ask(kept, 62).choices[0].message.content
    chunks = ask(kept, 62, stream=True)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text.strip() == whole.strip()
    assert chunks[-1].diffvis["path"] == "answer"


def test_features_are_for_the_other_sessions_of_a_client(kept):
    named = [{"extra_body": {"diffvis": {"session": name}}, "text": name} for name in "ab"]
    first, second = (ask(kept, 63, **each) for each in named)
    assert first.diffvis["encoded"] == 1
    assert (second.diffvis["encoded"], second.diffvis["features_reused"]) == (0, 1)
    stranger = ask(kept, 63, key="second", text="c")
    assert (stranger.diffvis["encoded"], stranger.diffvis["features_reused"]) == (1, 0)
    fresh = ask(kept, 63, text="b", extra_body={"diffvis": {"policy": "off"}})
    assert fresh.choices[0].message.content == second.choices[0].message.content


def test_what_is_not_settled_is_told_and_kept_by_nobody_else(kept):
    hints = {"policy": "fast", "session": "unsettled"}
    fast = {"extra_body": {"diffvis": hints}}
    assert ask(kept, 65, **fast).diffvis["settled"]  # the first is encoded whole
    pixels = changed(screen(65))
    first, again = ask(kept, pixels, **fast), ask(kept, pixels, **fast)
    other = ask(kept, pixels, text="Is it so?", **fast)  # about a picture that is known by now
    assert first.diffvis["pending"] > 0
    assert not first.diffvis["settled"]
    assert again.diffvis["answer"]["settled"] is False
    assert other.diffvis["path"] == "known"
    assert not other.diffvis["settled"]
    assert ask(kept, pixels, text="b").diffvis["features_reused"] == 0


def test_off_keeps_nothing(kept):
    before = kept.here.jobs.features.nbytes
    ask(kept, 66, extra_body={"diffvis": {"policy": "off"}})
    assert kept.here.jobs.features.nbytes == before
    ask(kept, 66)
    assert kept.here.jobs.features.nbytes > before


def test_without_a_disk_answers_go_on(kept, monkeypatch):
    class Full:
        def execute(self, *_):
            raise sqlite3.OperationalError("database or disk is full")

        def close(self):
            pass

    monkeypatch.setattr(kept.here.answers, "_base", Full())
    assert ask(kept, 64).choices
    assert ask(kept, 64).diffvis["path"] != "answer"
    assert kept.here.answers.off
