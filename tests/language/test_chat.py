"""Conversations whose texts nobody vouches for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vlm_files import SPECIAL, write_checkpoint

import diffvis_jax as dv
from diffvis_jax.language.chat import Message, render
from diffvis_jax.language.prompt import build_prompt, tokenize
from diffvis_jax.language.tokenizer import load_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return load_tokenizer(write_checkpoint(tmp_path_factory.mktemp("chat") / "tiny"))


def user(*parts):
    return Message("user", parts)


def test_a_question_is_what_a_prompt_is(tokenizer):
    expected = tokenize(build_prompt("What is it?"), tokenizer)
    assert render([user(None, "What is it?")], tokenizer).tolist() == expected.tolist()


def test_turns_and_pictures_stand_in_their_order(tokenizer):
    found = render(
        [user(None, "One?"), Message("assistant", "Yes."), user("And ", None, None, "this?")],
        tokenizer,
    )
    text = build_prompt("And <image>\n<image>\nthis?", images=3, turns=[("<image>\nOne?", "Yes.")])
    assert found.tolist() == tokenize(text, tokenizer).tolist()


def test_the_system_may_say_something_else(tokenizer):
    found = render([Message("system", "Be short."), user("Hi")], tokenizer)
    text = build_prompt("Hi", images=0).replace("You are a helpful assistant.", "Be short.")
    assert found.tolist() == tokenize(text, tokenizer).tolist()


spelled = st.lists(st.sampled_from([*SPECIAL, "<image>", "\n", "a", " ", "\ue0000\ue001"]))


@given(spelled.map("".join), st.booleans())
def test_no_text_becomes_a_control_token(tokenizer, text, picture):
    """As many of each as in a conversation that spells none; and the text comes back."""
    parts = (None, text) if picture else (text,)
    ids = render([user(*parts)], tokenizer)
    plain = render([user(*((None, "x") if picture else ("x",)))], tokenizer)
    for token in (-200, *(tokenizer.id_of(name) for name in SPECIAL)):
        assert (ids == token).sum() == (plain == token).sum()
    back = tokenizer.decode(ids[ids >= 0], skip_special=False)
    kept = text.replace("\ue000", "").replace("\ue001", "")
    assert f"user\n{chr(10) if picture else ''}{kept}<|im_end|>" in back


def test_messages_of_one_side_are_lines(tokenizer):
    found = render([user("a"), user("b")], tokenizer)
    assert found.tolist() == render([user("a\nb")], tokenizer).tolist()
    assert found.dtype == np.int32


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([], "begins and ends with a message of the user"),
        ([user("a"), Message("assistant", "b")], "begins and ends"),
        ([Message("assistant", "b"), user("a")], "begins and ends"),
        ([user("a"), Message("system", "b"), user("c")], "comes first, and once"),
        ([Message("system", [None]), user("a")], "the system sent one"),
        ([user("a"), Message("assistant", [None]), user("b")], "the assistant sent one"),
        ([Message("tool", "a")], "no role 'tool'"),
    ],
)
def test_conversations_that_make_no_sense(tokenizer, messages, said):
    with pytest.raises(dv.PromptError, match=said):
        render(messages, tokenizer)


def test_templates(tokenizer):
    with pytest.raises(dv.PromptError, match="no conversation template 'llama'"):
        render([user("a")], tokenizer, conversation="llama")
    with pytest.raises(dv.PromptError, match="'plain' has no place for a system message"):
        render([Message("system", "a"), user("b")], tokenizer, conversation="plain")
