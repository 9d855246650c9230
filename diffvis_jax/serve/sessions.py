"""Which kept state a request goes on from, and what is forgotten when there is too much of it.

Bookkeeping only: no arrays are computed here. All of it happens in the engine's thread.
"""

import dataclasses
import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np

from diffvis_jax.encoder import DifferentialVisionEncoder
from diffvis_jax.images.anyres import Frame, pixels_of
from diffvis_jax.language.prompt_session import PromptSession
from diffvis_jax.language.splice import PackedTokens

Chain = tuple[bytes, ...]


@dataclasses.dataclass(frozen=True)
class Lane:
    """Sessions of different lanes never meet.

    Attributes:
      tenant: whose they are.
      policy: what encodes leave out; tokens of one policy are not shown under another.
    """

    tenant: str
    policy: str


@dataclasses.dataclass(eq=False)
class Session:
    """What is kept of one conversation.

    Attributes:
      id: by which a client may name it.
      lane: who may have it.
      key: the client's own name for it; None = it has none.
      encoder: of its pictures; None where every new one is encoded in full.
      prompts: keys and values.
      chain: of the messages last answered (`chain_of`).
      pictures: by their digests, the tokens that they were shown with, projected.
      unsettled: those of them that are not quite what a full encode gives.
      frame: that was encoded last.
      busy: whether a request has it.
      settled: whether nothing of the encoder's work is left.
      last_used: of `time.monotonic`.
      nbytes, maps_nbytes: of everything, and of the encoder's part, as last measured.
    """

    lane: Lane
    key: str | None
    encoder: DifferentialVisionEncoder | None
    prompts: PromptSession
    id: str = dataclasses.field(default_factory=lambda: secrets.token_hex(12))
    chain: Chain = ()
    pictures: OrderedDict[bytes, PackedTokens] = dataclasses.field(default_factory=OrderedDict)
    unsettled: set[bytes] = dataclasses.field(default_factory=set)
    frame: Frame | None = None
    busy: bool = False
    settled: bool = True
    last_used: float = 0.0
    nbytes: int = 0
    maps_nbytes: int = 0

    def measure(self) -> None:
        """Brings the numbers of bytes up to date."""
        self.maps_nbytes = 0 if self.encoder is None else self.encoder.nbytes
        frame = 0 if self.frame is None else pixels_of(self.frame).nbytes
        tokens = sum(p.tokens.nbytes + p.packing.nbytes for p in self.pictures.values())
        self.nbytes = self.maps_nbytes + frame + tokens + self.prompts.nbytes

    def drop_maps(self) -> None:
        """Forgets what the encoder keeps; pictures that are known stay known."""
        assert self.encoder is not None
        self.encoder.reset_cache()
        self.settled = True
        self.measure()

    def keep(self, digest: bytes, tokens: PackedTokens, most: int) -> None:
        """Remembers a picture, and at most so many, those used last."""
        self.pictures[digest] = tokens
        self.pictures.move_to_end(digest)
        while len(self.pictures) > most:
            self.unsettled.discard(self.pictures.popitem(last=False)[0])


def chain_of(messages: Sequence[tuple[str, Sequence[str | bytes]]]) -> Chain:
    """One digest for each message, of it and of all before it.

    Args:
      messages: (role, parts) of each; a part is a text, or the digest of a picture.
    """
    chain: list[bytes] = []
    for role, parts in messages:
        link = hashlib.blake2b(chain[-1] if chain else b"", digest_size=16)
        for part in (role, *parts):
            data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
            kind = b"t" if isinstance(part, str) else b"p"
            link.update(kind + len(data).to_bytes(8, "little") + data)
        chain.append(link.digest())
    return tuple(chain)


@dataclasses.dataclass(frozen=True)
class Ask:
    """A request, as far as the choice of a session is concerned.

    Attributes:
      lane: whose sessions it may have.
      key: the client's name for the session, or its id; None = not said.
      chain: of its messages.
      opening: messages up to the first of the user: a common prefix without one says nothing.
      pictures: digests of its pictures.
      frame: the newest picture; None = there is none.
    """

    lane: Lane
    key: str | None
    chain: Chain
    opening: int = 1
    pictures: tuple[bytes, ...] = ()
    frame: Frame | None = None


@dataclasses.dataclass(frozen=True)
class Choice:
    """A session, None = a new one; and why."""

    session: Session | None
    why: str


def choose(sessions: Sequence[Session], ask: Ask, patch: int = 32) -> Choice | None:
    """Which session a request goes on from; None = the one that it names is busy.

    In order: the one that it names; an idle one whose whole chain it continues; the one of the
    longest common prefix; the idle one that knows most of its pictures (of a history that was cut
    at its beginning); for a request without a history, the idle one whose frame has at least half
    of its patches; a new one. Sessions with a name are found by it alone. Pure.

    Args:
      patch: side in pixels of what is compared of frames.
    """
    lane = [s for s in sessions if s.lane == ask.lane]
    if ask.key is not None:
        named = [s for s in lane if ask.key in (s.key, s.id)]
        if not named:
            return Choice(None, "new")
        return None if named[0].busy else Choice(named[0], "key")
    # The one used last is the likeliest of several equal ones.
    idle = sorted((s for s in lane if not s.busy and s.key is None), key=lambda s: -s.last_used)
    common = {id(s): _common(s.chain, ask.chain) for s in idle}
    whole = [s for s in idle if s.chain and common[id(s)] == len(s.chain) >= ask.opening]
    if whole:
        return Choice(max(whole, key=lambda s: len(s.chain)), "continues")
    shared = max(idle, key=lambda s: common[id(s)], default=None)
    if shared is not None and common[id(shared)] >= ask.opening:
        return Choice(shared, "shares prefix")
    known = {id(s): sum(digest in s.pictures for digest in ask.pictures) for s in idle}
    knowing = max(idle, key=lambda s: known[id(s)], default=None)
    if knowing is not None and known[id(knowing)]:
        return Choice(knowing, "knows pictures")
    if len(ask.chain) <= ask.opening and ask.frame is not None:
        alike = {id(s): same_share(s.frame, ask.frame, patch) for s in idle}
        best = max(idle, key=lambda s: alike[id(s)], default=None)
        if best is not None and alike[id(best)] >= 0.5:
            return Choice(best, "looks alike")
    return Choice(None, "new")


def _common(one: Chain, other: Chain) -> int:
    length = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        length += 1
    return length


def same_share(one: Frame | None, other: Frame, patch: int) -> float:
    """The share of the patches that are the same bytes; 0 where sizes differ."""
    if one is None or pixels_of(one).shape != pixels_of(other).shape:
        return 0.0
    differs = (pixels_of(one) != pixels_of(other)).any((0, 3))
    rows, columns = (-(-side // patch) for side in differs.shape)
    padded = np.zeros((rows * patch, columns * patch), bool)
    padded[: differs.shape[0], : differs.shape[1]] = differs
    return 1 - float(padded.reshape(rows, patch, columns, patch).any((1, 3)).mean())


class SessionStore:
    """The sessions, within a number of bytes.

    Attributes:
      sessions: all of them.
      largest: bytes of the largest session so far: what a new one is expected to take.
    """

    def __init__(
        self,
        make: Callable[[Lane, str | None], Session],
        *,
        max_bytes: int,
        ttl_s: float = 900.0,
        per_tenant: int = 64,
        clock: Callable[[], float] = time.monotonic,
    ):
        """Args:
        make: makes an empty session.
        max_bytes: of all sessions.
        ttl_s: idle ones go after so long.
        per_tenant: sessions of one tenant at most; busy ones are never taken away.
        """
        self._make, self._clock = make, clock
        self._max_bytes, self._ttl_s, self._per_tenant = max_bytes, ttl_s, per_tenant
        self.sessions: list[Session] = []
        self.largest = 0

    def take(self, ask: Ask, patch: int = 32) -> Choice | None:
        """The session for a request, which has it until it is given back; None = not yet."""
        self.expire()
        choice = choose(self.sessions, ask, patch)
        if choice is None:
            return None
        session = choice.session
        if session is None:
            own = [s for s in self._idle() if s.lane.tenant == ask.lane.tenant]
            busy = sum(s.busy and s.lane.tenant == ask.lane.tenant for s in self.sessions)
            for old in own[: max(0, len(own) + busy + 1 - self._per_tenant)]:
                self.drop(old)
            self.shrink_to(self._max_bytes - self.largest)
            session = self._make(ask.lane, ask.key)
            self.sessions.append(session)
        session.busy = True
        return Choice(session, choice.why)

    def give_back(self, session: Session) -> None:
        """The request is done with it."""
        session.busy, session.last_used = False, self._clock()
        session.measure()
        self.largest = max(self.largest, session.nbytes)
        self.shrink_to(self._max_bytes)

    def drop(self, session: Session) -> None:
        """Forgets a session; one that is busy is not kept when it comes back."""
        if session in self.sessions:
            self.sessions.remove(session)

    def forget(self, tenant: str, key: str) -> int:
        """Forgets what a tenant calls so; how many sessions that were."""
        found = [s for s in self.sessions if s.lane.tenant == tenant and key in (s.key, s.id)]
        for session in found:
            self.drop(session)
        return len(found)

    def expire(self) -> None:
        """Forgets idle sessions that are too old."""
        oldest = self._clock() - self._ttl_s
        for session in [s for s in self._idle() if s.last_used < oldest]:
            self.drop(session)

    def shrink_to(self, nbytes: int) -> None:
        """Forgets idle sessions, those used longest ago first: their maps, and if that is not
        enough, everything."""
        for session in self._idle():
            if self.nbytes <= nbytes:
                return
            if session.maps_nbytes:
                session.drop_maps()
        for session in self._idle():
            if self.nbytes <= nbytes:
                return
            self.drop(session)

    @property
    def nbytes(self) -> int:
        """Of all sessions, as last measured."""
        return sum(session.nbytes for session in self.sessions)

    def _idle(self) -> list[Session]:
        """Those that nobody has, the one used longest ago first."""
        return sorted((s for s in self.sessions if not s.busy), key=lambda s: s.last_used)
