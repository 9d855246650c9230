"""Answers as events: what a stop string cuts off, and that nobody pays for ids after the end."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vlm_files import write_checkpoint

import diffvis_jax as dv
from diffvis_jax.checkpoints.convert import convert
from diffvis_jax.language.events import Done, Started, StopStrings, Text, answer_events

words = st.text("ab<|", max_size=12)


@given(st.lists(words), st.lists(words.filter(bool), max_size=4))
def test_a_text_ends_where_its_first_stop_string_begins(pieces, strings):
    stops, out = StopStrings(strings), []
    for piece in pieces:
        out.append(stops.push(piece))
        # What is out already can be no part of a stop string.
        if stops.found:
            break
    text = "".join(pieces)
    found = [at for s in strings if (at := text.find(s)) >= 0]
    assert stops.found == bool(found)
    given_out = "".join(out) + ("" if stops.found else stops.flush())
    # Of two that overlap, the one that is complete first counts, as in a stream it must.
    if found:
        ends = min(text.find(s) + len(s) for s in strings if s in text)
        assert given_out in {text[:at] for at in found}
        assert len(given_out) <= ends
    else:
        assert given_out == text


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    base = tmp_path_factory.mktemp("events")
    return dv.load(convert(str(write_checkpoint(base / "pt")), base / "out", say=lambda *_: None))


def test_closing_the_events_ends_the_answer(model):
    tokenizer = model.language.tokenizer
    options = dv.AnswerOptions(max_new_tokens=20, vocabulary=len(tokenizer))
    session = dv.PromptSession(model.language, options=options)
    ids = np.array(tokenizer.encode("<|im_start|>user\nHi<|im_end|>\n"), np.int32)

    def events(**more):
        return answer_events(session, None, ids, tokenizer=tokenizer, **more)

    whole = list(events())
    assert isinstance(whole[0], Started)
    assert isinstance(whole[-1], Done)
    assert all(isinstance(event, Text) for event in whole[1:-1])
    done, text = whole[-1], "".join(event.text for event in whole[1:-1])
    expected = dv.generate_ids(model, None, ids, 20, vocabulary=len(tokenizer))
    assert done.ids.tolist() == expected.tolist()
    assert text == tokenizer.decode(done.ids)
    assert (done.reason, len(done.times_ms)) == ("length", 20)

    short = list(events(limit=3))[-1]
    assert short.ids.tolist() == done.ids[:3].tolist()
    begun = events()
    assert [type(next(begun)) for _ in range(3)] == [Started, Text, Text]
    begun.close()
    assert int(session._generation.step) == 2  # two ids, and no third
    again = list(events())  # the session goes on
    assert again[-1].ids.tolist() == done.ids.tolist()
    assert again[0].prefilled.report["path"] == "reuse"

    middle = text[len(text) // 2 :][:2]
    cut = list(events(stop=(middle,)))
    assert cut[-1].reason == "stop"
    assert "".join(e.text for e in cut[1:-1]) == text[: text.find(middle)]
