"""Which session a request goes on from, and what is forgotten."""

import dataclasses

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from diffvis_jax.serve.sessions import (
    Ask,
    Lane,
    Session,
    SessionStore,
    chain_of,
    choose,
    same_share,
)

LANE = Lane("tenant", "exact")


class Maps:
    """An encoder, as far as bytes are concerned."""

    def __init__(self, nbytes):
        self.nbytes = nbytes

    def reset_cache(self):
        self.nbytes = 0


class Prompts:
    def __init__(self, nbytes):
        self.nbytes = nbytes


def session(lane=LANE, key=None, *, chain=(), maps=100, prompts=10, **more):
    return Session(lane, key, Maps(maps), Prompts(prompts), chain=chain, **more)


def chain(*texts):
    """Of messages in turn, the user's first."""
    return chain_of([("assistant" if n % 2 else "user", [text]) for n, text in enumerate(texts)])


def frame(seed=0, box=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (1, 64, 64, 3), np.uint8)
    pixels[:, :box] ^= 255
    return pixels


def test_what_is_chosen_in_order():
    named = session(key="name")
    short = session(chain=chain("a"), last_used=3.0)
    long = session(chain=chain("a", "b", "c"), last_used=1.0)
    seen = session(chain=chain("x"), frame=frame(), last_used=2.0)
    knows = session(chain=chain("z"), last_used=0.0)
    knows.pictures[b"p"] = None
    everything = [named, short, long, seen, knows]

    def chosen(*texts, key=None, picture=None, pictures=(), lane=LANE, of=everything):
        choice = choose(of, Ask(lane, key, chain(*texts), 1, pictures, picture))
        return choice if choice is None else (choice.session, choice.why)

    assert chosen("q", key="name") == (named, "key")
    assert chosen("q", key=short.id) == (short, "key")
    assert chosen("q", key="other") == (None, "new")
    assert chosen("a", "b", "c", "d", "e") == (long, "continues")
    assert chosen("a", "other", "c") == (short, "continues")
    assert chosen("a", "b", "C", of=[long]) == (long, "shares prefix")
    assert chosen("q", pictures=(b"p",)) == (knows, "knows pictures")
    assert chosen("q", picture=frame(box=16)) == (seen, "looks alike")
    assert chosen("q", picture=frame(box=60)) == (None, "new")
    assert chosen("q", "a", "q", picture=frame()) == (None, "new")  # it has a history
    assert chosen("q") == (None, "new")
    for other in (Lane("another", "exact"), Lane("tenant", "fast")):
        assert chosen("a", "b", "c", key="name", lane=other) == (None, "new")
        assert chosen("a", "b", "c", picture=frame(), pictures=(b"p",), lane=other)[0] is None


def test_a_busy_session_is_waited_for_by_its_name_alone():
    busy = session(key="name", busy=True)
    assert choose([busy], Ask(LANE, "name", chain("a"))) is None
    busy = session(chain=chain("a"), busy=True)
    assert choose([busy], Ask(LANE, None, chain("a"))).session is None


def test_a_system_message_in_common_says_nothing():
    system = chain_of([("system", ["be short"]), ("user", ["a"])])
    other = chain_of([("system", ["be short"]), ("user", ["b"])])
    assert choose([session(chain=system)], Ask(LANE, None, other, opening=2)).session is None
    assert choose([session(chain=system)], Ask(LANE, None, system, opening=2)).session


parts = st.lists(st.one_of(st.text("ab", max_size=2), st.binary(max_size=2)), max_size=3)
messages = st.lists(st.tuples(st.sampled_from(["user", "assistant"]), parts), max_size=4)


@given(messages, messages)
def test_chains_tell_conversations_apart(one, other):
    a, b = chain_of(one), chain_of(other)
    common = 0
    while common < min(len(one), len(other)) and one[common] == other[common]:
        common += 1
    assert a[:common] == b[:common]
    assert not set(a[common:]) & set(b[common:])


def test_shares_of_frames():
    assert same_share(frame(), frame(), 32) == 1
    assert same_share(frame(), frame(box=32), 32) == 0.5
    assert same_share(None, frame(), 32) == same_share(frame()[:, :32], frame(), 32) == 0


def store(make=None, clock=None, **options):
    time = [0.0]

    def made(lane, key):
        return session(lane, key, maps=100, prompts=10)

    options = {"max_bytes": 1000, **options}
    return SessionStore(make or made, clock=clock or (lambda: time[0]), **options), time


def taken(sessions, key, lane=LANE):
    choice = sessions.take(Ask(lane, key, ()))
    assert choice is not None
    return choice.session


def test_maps_go_first_and_then_everything():
    sessions, time = store(max_bytes=350)
    made = []
    for name in "abc":
        time[0] += 1
        made.append(taken(sessions, name))
        sessions.give_back(made[-1])
    assert sessions.nbytes == 330
    fourth = taken(sessions, "d")  # room is made before it is there
    assert sessions.nbytes <= 350 - sessions.largest
    time[0] += 1
    sessions.give_back(fourth)
    assert [s.maps_nbytes for s in made] == [0, 100, 100]
    assert [s.nbytes for s in sessions.sessions] == [10, 110, 110, 110]
    for name in range(40):
        time[0] += 1
        sessions.give_back(taken(sessions, f"{name}"))
        assert sessions.nbytes <= 350
    assert made[0] not in sessions.sessions
    assert sessions.sessions[-1].maps_nbytes == 100  # the last one is whole


def test_busy_sessions_are_never_taken_away():
    sessions, _ = store(max_bytes=5)
    one, two = taken(sessions, "a"), taken(sessions, "b")
    sessions.give_back(two)
    assert sessions.sessions == [one]
    sessions.give_back(one)
    assert sessions.sessions == []  # more than there is room for


def test_old_ones_go_and_one_client_cannot_have_all():
    sessions, time = store(ttl_s=100, per_tenant=2, max_bytes=10**6)
    other = taken(sessions, "a", Lane("other", "exact"))
    sessions.give_back(other)
    for name in "abc":
        time[0] += 1
        sessions.give_back(taken(sessions, name))
    assert [s.key for s in sessions.sessions] == ["a", "b", "c"]
    assert sessions.sessions[0] is other
    time[0] = 102.5
    sessions.expire()
    assert [s.key for s in sessions.sessions] == ["c"]


def test_forgetting_is_a_tenants_own():
    sessions, _ = store()
    mine = taken(sessions, "name")
    assert sessions.forget("other", "name") == 0
    assert sessions.forget("tenant", "name") == 1
    sessions.give_back(mine)  # it was busy meanwhile
    assert sessions.sessions == []
    again = taken(sessions, "name")
    assert again is not mine
    assert sessions.forget("tenant", again.id) == 1


def test_few_pictures_are_kept():
    made = session()
    for digest in (b"a", b"b", b"c", b"a", b"d"):
        made.keep(digest, digest, most=3)
    assert list(made.pictures) == [b"c", b"a", b"d"]
    assert dataclasses.replace(made).id == made.id
