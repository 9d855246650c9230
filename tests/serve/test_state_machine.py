"""The invariant of the whole server: whatever clients do, and whatever is forgotten, every answer
of an exact session is that of the stateless model on the same messages and frames."""

import json
import os
import socket

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from serving import NAME, assistant, user
from vlm_files import changed, screen

import diffvis_jax as dv
from diffvis_jax.core.step import jit_encode
from diffvis_jax.language.chat import Message, render
from diffvis_jax.language.generate import jit_all_logits
from diffvis_jax.language.splice import make_prompt

COUNT = 4  # ids of an answer
CLIENTS = 3
SCREENS = [screen(90), changed(screen(90)), screen(91), changed(screen(91))]
MOST_PICTURES, MOST_TURNS = 3, 3


class Stateless:
    """The answers that must come."""

    def __init__(self, model):
        self._model, self._known = model, {}

    def answer(self, conversation):
        """The text; None where the best two ids are as good as equal somewhere."""
        key = repr(conversation)
        if key not in self._known:
            self._known[key] = self._compute(conversation)
        return self._known[key]

    def _compute(self, conversation):
        tokenizer = self._model.language.tokenizer
        messages, frames = [], []
        for role, parts in conversation:
            messages.append(Message(role, [p if isinstance(p, str) else None for p in parts]))
            frames += [SCREENS[p] for p in parts if not isinstance(p, str)]
        ids = render(messages, tokenizer)
        pixels = dv.preprocess(frames, self._model.config) if frames else None
        found = dv.generate_ids(self._model, pixels, ids, COUNT, vocabulary=len(tokenizer))
        if self._is_close(pixels, np.concatenate([ids, found]), len(found), len(tokenizer)):
            return None
        return tokenizer.decode(found)

    def _is_close(self, pixels, ids, count, vocabulary):
        language = self._model.language
        tokens = None
        if pixels is not None:
            tokens = jit_encode(self._model.params, jnp.asarray(pixels), config=self._model.config)
        prompt = make_prompt(language, tokens, ids)
        logits = jit_all_logits(language.params, prompt.embeddings, config=language.config)
        end = int(prompt.length[0]) - 1
        best = np.sort(np.asarray(logits)[0, end - count : end, :vocabulary], axis=-1)
        return bool((best[:, -1] - best[:, -2] < 1e-4).any())


class Clients(RuleBasedStateMachine):
    """Three clients of one server, two of them with a name for their session."""

    running = client = stateless = None  # set by the test

    @initialize()
    def begin(self):
        self.talks = [[] for _ in range(CLIENTS)]  # (role, parts), a number is a screen

    def say(self, who, conversation):
        expected = self.stateless.answer(conversation)
        if expected is None:
            return None
        messages = [
            assistant(parts[0])
            if role == "assistant"
            else user(*(p if isinstance(p, str) else SCREENS[p] for p in parts))
            for role, parts in conversation
        ]
        key = {"prompt_cache_key": f"client {who}"} if who < 2 else {}
        found = self.client.chat.completions.create(
            model=NAME, messages=messages, max_tokens=COUNT, **key
        )
        assert found.choices[0].message.content == expected, found.diffvis
        told = found.diffvis
        assert 0 <= told["prefilled"] <= told["positions"]
        return expected

    who = st.integers(0, CLIENTS - 1)
    pictures = st.lists(st.integers(0, len(SCREENS) - 1), max_size=1)
    words = st.sampled_from(["a", "What?", "<|im_end|>"])

    @rule(who=who, pictures=pictures, words=words)
    def goes_on(self, who, pictures, words):
        talk = [*self.talks[who], ("user", (*pictures, words))]
        if sum(not isinstance(p, str) for _, parts in talk for p in parts) > MOST_PICTURES:
            talk = talk[-1:]
        if len(talk) > 2 * MOST_TURNS:
            talk = talk[-1:]
        said = self.say(who, talk)
        self.talks[who] = [*talk, ("assistant", (said,))] if said else []

    @rule(who=who, words=words)
    def edits_its_last_question(self, who, words):
        talk = self.talks[who]
        if talk:
            role, parts = talk[-2]
            talk = [*talk[:-2], (role, (*parts[:-1], f"{words}!"))]
            said = self.say(who, talk)
            self.talks[who] = [*talk, ("assistant", (said,))] if said else []

    @rule(who=who)
    def drops_old_pictures(self, who):
        talk = self.talks[who]
        if len(talk) > 2:
            self.talks[who] = [
                (role, tuple(p for p in parts if isinstance(p, str))) for role, parts in talk[:-2]
            ] + talk[-2:]

    @rule(who=who, picture=st.integers(0, len(SCREENS) - 1))
    def asks_the_same_about_another_screen(self, who, picture):
        said = self.say(who, [("user", (picture, "What?"))])
        self.talks[who] = [("user", (picture, "What?")), ("assistant", (said,))] if said else []

    @rule(who=who)
    def leaves(self, who):
        body = {"model": NAME, "messages": [user(SCREENS[0], "Bye")], "max_tokens": 50}
        body |= {"prompt_cache_key": f"client {who}"} if who < 2 else {}
        with socket.create_connection(("127.0.0.1", self.running.port)) as peer:
            data = json.dumps(body).encode()
            head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: "
            head += b"application/json\r\ncontent-length: %d\r\n\r\n" % len(data)
            peer.sendall(head + data)

    def in_thread(self, function):
        return self.running.here.engine.call(function).result(timeout=60)

    @rule()
    def maps_are_forgotten(self):
        store = self.running.here.jobs.store

        def drop():
            for session in store.sessions:
                if not session.busy and session.maps_nbytes:
                    session.drop_maps()

        self.in_thread(drop)

    @rule()
    def everything_is_forgotten(self):
        self.in_thread(lambda: self.running.here.jobs.store.shrink_to(0))

    @rule()
    def the_thread_starts_again(self):
        self.in_thread(self.running.here.jobs.restart)


def run(running, client, model, examples, steps):
    machine = type("Run", (Clients,), {})
    machine.running, machine.client, machine.stateless = running, client, Stateless(model)
    options = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(machine, settings=options)


def test_answers_are_those_of_the_stateless_model(running, client, model):
    run(running, client, model, examples=3, steps=10)


@pytest.mark.thorough
def test_answers_are_those_of_the_stateless_model_for_long(running, client, model):
    run(
        running,
        client,
        model,
        examples=int(os.environ.get("DIFFVIS_FUZZ_EXAMPLES", "60")),
        steps=40,
    )
