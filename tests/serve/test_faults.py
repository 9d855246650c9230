"""Clients that leave, that are slow, and code that fails: who pays for it, and how much."""

import contextlib
import json
import socket
import threading
import time

import httpx
import openai
import pytest
from serving import NAME, assistant, client_of, serving, user
from vlm_files import changed, screen

from diffvis_jax.language import prompt_session
from diffvis_jax.serve.engine import Ticket

QUESTION = "What is this?"


def wait_for(condition, seconds=20):
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "it does not come"
        time.sleep(0.01)


def post_by_hand(port, body, *, host=b"localhost"):
    """A connection on which a request was sent, and nothing read."""
    peer = socket.create_connection(("127.0.0.1", port), timeout=30)
    data = json.dumps(body).encode()
    peer.sendall(
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: %s\r\ncontent-type: application/json\r\n"
        b"content-length: %d\r\n\r\n" % (host, len(data)) + data
    )
    return peer


@pytest.fixture
def steps(monkeypatch):
    """Ids that were chosen; each waits until it may."""
    chosen, gate = [], threading.Semaphore(0)
    advance = prompt_session.answer.advance

    def counted(*args, **options):
        assert gate.acquire(timeout=30)
        chosen.append(time.monotonic())
        return advance(*args, **options)

    monkeypatch.setattr(prompt_session.answer, "advance", counted)
    yield chosen, gate
    for _ in range(1000):
        gate.release()


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_nobody_waits_for_costs_one_id_at_most(running, ask, steps, stream):
    chosen, gate = steps
    body = {"model": NAME, "messages": [user(screen(60), QUESTION)], "max_tokens": 60}
    cancelled = running.metrics.cancelled._value.get
    before, idle = cancelled(), running.here.engine.load
    with post_by_hand(running.port, body | {"stream": stream}):
        gate.release()
        gate.release()
        wait_for(lambda: len(chosen) == 2)
    wait_for(lambda: cancelled() > before)  # the server has seen it
    seen = len(chosen)
    for _ in range(50):
        gate.release()
    wait_for(lambda: running.here.engine.load == idle)
    assert len(chosen) <= seen + 1
    assert not running.server.active
    again = ask(user(screen(60), QUESTION))  # and what was read is still there
    assert (again.diffvis["encoded"], again.diffvis["prefill"]) == (0, "reuse")


def test_a_client_that_leaves_before_its_turn(running, ask, steps):
    chosen, gate = steps
    body = {"model": NAME, "messages": [user(screen(61), QUESTION)], "max_tokens": 20}
    waiting = [post_by_hand(running.port, body) for _ in range(6)]
    wait_for(lambda: running.here.engine.load == 6)
    for peer in waiting:
        peer.close()
    wait_for(lambda: not running.server.active)
    for _ in range(50):
        gate.release()
    wait_for(lambda: running.here.engine.load == 0)
    assert len(chosen) <= 4  # of those that ran
    assert ask(user(screen(61), QUESTION)).usage.completion_tokens == 8


def test_half_a_body_and_silence(running):
    with socket.create_connection(("127.0.0.1", running.port)) as peer:
        peer.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n")
        peer.sendall(b"content-type: application/json\r\ncontent-length: 1000\r\n\r\n{")
        wait_for(lambda: running.server.active == 1)
    wait_for(lambda: not running.server.active)


def test_a_reader_that_stops_reading(model):
    """Its answer is given up, and others get theirs."""
    limits = {"send_timeout_s": 0.3}
    with serving(model, serve={"warm_lengths": 1}, limits=limits) as running:
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            running.socket.setsockopt(socket.SOL_SOCKET, option, 4096)
        body = {
            "model": NAME,
            "messages": [user(screen(62), QUESTION)],
            "max_tokens": 1500,
            "stream": True,
        }
        peer = post_by_hand(running.port, body)
        with contextlib.closing(peer):
            wait_for(lambda: running.server.active == 1)
            with client_of(running) as client:
                options = body | {"stream": False, "max_tokens": 4}
                assert client.chat.completions.create(**options).usage.completion_tokens == 4
            wait_for(lambda: not running.server.active, 60)
            wait_for(lambda: running.here.engine.load == 0)


def _broken(*_, **__):
    raise RuntimeError("a secret: /nowhere")


def fail_in(monkeypatch, place):
    if place == "encode":
        monkeypatch.setattr("diffvis_jax.encoder.make_step", lambda config: _broken)
    elif place == "prefill":
        monkeypatch.setattr(prompt_session, "prefill_next", _broken)
    else:
        monkeypatch.setattr(prompt_session.answer, "advance", _broken)


@pytest.mark.parametrize("place", ["encode", "prefill", "decode"])
def test_a_failure_costs_its_own_session(running, ask, monkeypatch, place):
    """Caches are donated: they are gone, or half done."""
    first = ask(user(screen(63), QUESTION))
    other = ask(user(screen(64), QUESTION))
    with monkeypatch.context() as patch:
        fail_in(patch, place)
        with pytest.raises(openai.InternalServerError) as error:
            ask(user(screen(65 if place == "encode" else 63), QUESTION, "More."))
        assert error.value.status_code == 500
        assert "secret" not in str(error.value)
        with pytest.raises((openai.APIError, openai.InternalServerError)) as error:
            list(ask(user(screen(66), QUESTION), stream=True))
        assert "secret" not in str(error.value)
    kept = ask(user(screen(64), QUESTION))
    assert kept.diffvis["session"] == other.diffvis["session"]
    assert kept.diffvis["prefilled"] == 0
    if place != "encode":  # then it was another session, of the picture
        again = ask(user(screen(63), QUESTION))
        assert again.diffvis["session"] != first.diffvis["session"]
        assert again.choices[0].message.content == first.choices[0].message.content
    assert running.here.engine.restarts == 0


def test_a_failure_of_the_thread_costs_all_sessions_and_no_more(running, ask, monkeypatch):
    class Failure(BaseException):
        pass

    def broken(self):
        raise Failure

    first = ask(user(screen(67), QUESTION))
    with monkeypatch.context() as patch:
        patch.setattr(Ticket, "step", broken)
        with pytest.raises(openai.InternalServerError) as error:
            ask(user(screen(67), QUESTION))
        assert (error.value.status_code, error.value.code) == (503, "overloaded")
        assert error.value.response.headers["retry-after"] == "1"
    wait_for(lambda: running.here.engine.restarts == 1)
    assert running.here.jobs.store.sessions == []
    again = ask(user(screen(67), QUESTION))
    assert again.diffvis["encoded"] == 1
    assert again.choices[0].message.content == first.choices[0].message.content
    assert httpx.get(f"http://127.0.0.1:{running.port}/health").status_code == 200


@pytest.fixture(scope="module")
def two(model):
    """A server for two clients, with room for four sessions."""
    with serving(model, keys=["key-a", "key-b"], serve={"warm_lengths": 1}) as running:
        store = running.here.jobs.store
        store._max_bytes = running.here.jobs.max_bytes = 4 * store.largest
        yield running


def of(running, key, *messages, **options):
    with client_of(running, key) as client:
        return client.chat.completions.create(
            model=NAME, messages=list(messages), max_tokens=4, **options
        )


def test_clients_share_nothing(two):
    messages = [user(screen(68), QUESTION)]
    named = {"extra_body": {"diffvis": {"session": "same"}}}
    first = of(two, "key-a", *messages, **named)
    theirs = of(two, "key-b", *messages, **named)
    for told in (theirs.diffvis, of(two, "key-b", *messages).diffvis):
        assert told["encoded"] == 1
        assert told["session_choice"] == "new"
        assert told["prefilled"] == told["positions"]
    assert theirs.diffvis["pictures"]["resized"] == 1  # not even the pixels
    assert theirs.choices[0].message.content == first.choices[0].message.content
    with client_of(two, "key-b") as client:
        with pytest.raises(openai.NotFoundError):
            client.delete(
                f"/sessions/{of(two, 'key-a', *messages).diffvis['session']}", cast_to=object
            )
        client.delete("/sessions/same", cast_to=object)
    assert of(two, "key-a", *messages, **named).diffvis["encoded"] == 0


def actual_bytes(sessions):
    """What the arrays of sessions really hold."""
    import jax

    leaves = []
    for s in sessions:
        leaves += jax.tree.leaves((s.prompts._cache, s.prompts._ids, list(s.pictures.values())))
        if s.encoder is not None:
            leaves += jax.tree.leaves((s.encoder._cache, s.encoder._last))
        leaves.append(s.frame)
    arrays = {id(leaf): leaf for leaf in leaves if hasattr(leaf, "nbytes")}
    return sum(array.nbytes for array in arrays.values())


def open_sessions(running, count):
    store, budget = running.here.jobs.store, running.here.jobs.max_bytes
    for number in range(count):
        named = {"extra_body": {"diffvis": {"session": f"{number}"}}}
        of(running, "key-a", user(screen(70), QUESTION), **named)
        assert store.nbytes <= budget
        assert actual_bytes(store.sessions) <= 1.1 * budget


def test_sessions_keep_to_the_bytes_there_are(two):
    open_sessions(two, 8)
    store = two.here.jobs.store
    assert [s.maps_nbytes > 0 for s in store.sessions][-1]
    without = [s for s in store.sessions if not s.maps_nbytes]
    assert without, "no maps were dropped"
    # One that lost its maps answers about a picture that it knows.
    named = {"extra_body": {"diffvis": {"session": without[-1].key}}}
    told = of(two, "key-a", user(screen(70), QUESTION), **named).diffvis
    assert (told["encoded"], told["prefilled"]) == (0, 0)
    answer = of(two, "key-a", user(changed(screen(70)), QUESTION), **named)
    assert answer.diffvis["path"] == "full"
    fresh = {"extra_body": {"diffvis": {"policy": "off"}}}
    expected = of(two, "key-a", user(changed(screen(70)), QUESTION), **fresh)
    assert answer.choices[0].message.content == expected.choices[0].message.content


@pytest.mark.slow
def test_two_hundred_sessions_where_there_is_room_for_four(two):
    open_sessions(two, 200)


def test_the_time_between_requests_makes_up_what_was_left_out(model):
    """Under a policy that leaves much out; the tokens that were shown stay as they were."""
    import numpy as np

    from diffvis_jax.core.step import jit_encode

    serve = {"warm_lengths": 1, "settle_idle": False}
    with serving(model, policy="fast", serve=serve) as running, client_of(running) as client:
        options = {"model": NAME, "max_tokens": 4}
        messages = [user(screen(80), QUESTION)]
        client.chat.completions.create(messages=messages, **options)
        messages += [assistant("a"), user(changed(screen(80)), QUESTION)]
        told = client.chat.completions.create(messages=messages, **options).diffvis
        assert told["path"] == "partial"
        assert told["pending"] > 0
        (session,) = running.here.jobs.store.sessions
        shown = [np.asarray(p.tokens) for p in session.pictures.values()]
        jobs = running.here.jobs
        settling = jobs._settings.serve.model_copy(update={"settle_idle": True})
        jobs._settings = jobs._settings.model_copy(update={"serve": settling})
        running.here.engine.call(lambda: None).result()
        wait_for(lambda: session.settled)
        full = jit_encode(model.params, session.frame, config=model.config)
        np.testing.assert_allclose(session.encoder._last[1], full, atol=2e-4)
        for now, before in zip(session.pictures.values(), shown, strict=True):
            np.testing.assert_array_equal(now.tokens, before)
        again = client.chat.completions.create(messages=messages, **options).diffvis
        assert (again["encoded"], again["prefilled"]) == (0, 0)


def test_a_turn_waits_for_its_session(running, steps):
    """Two requests of one name, one after the other; another one need not wait."""
    _, gate = steps
    body = {"model": NAME, "max_tokens": 3, "prompt_cache_key": "queue"}
    messages = [user(screen(81), QUESTION)]
    with post_by_hand(running.port, body | {"messages": messages}) as one:
        wait_for(lambda: running.here.engine.load == 1)
        with post_by_hand(running.port, body | {"messages": messages}) as two:
            wait_for(lambda: running.here.engine.load == 2)
            assert running.here.engine.waiting == 1
            for _ in range(20):
                gate.release()
            for peer in (one, two):
                told = b""
                while b'"diffvis"' not in told:
                    part = peer.recv(65536)
                    assert part
                    told += part
            assert b'"prefilled":0' in told
