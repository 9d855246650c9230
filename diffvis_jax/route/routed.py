"""One answer, from wherever it may come: judge, decide, clear, write down, send; and what to do
when that fails."""

import asyncio
import contextlib
import dataclasses
import logging
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Mapping

from diffvis_jax.errors import ConfigError
from diffvis_jax.providers.chat import (
    Breaker,
    Chat,
    Cleared,
    Piece,
    Provider,
    ProviderError,
    Text,
    Wish,
)
from diffvis_jax.route.audit import Audit
from diffvis_jax.route.classify import Judged, classify
from diffvis_jax.route.decide import Decision, Rules, decide
from diffvis_jax.route.guard import clear
from diffvis_jax.route.labels import Complexity, StaysHere, Task
from diffvis_jax.route.marks import Restored, make_finder
from diffvis_jax.route.masked_tokens import MaskedTokens
from diffvis_jax.route.settings import RoutingSettings

_log = logging.getLogger(__name__)


class Routed:
    """Providers behind one question.

    Attributes:
      rules: may be replaced by those of other settings.
    """

    def __init__(
        self,
        settings: RoutingSettings,
        rules: Rules,
        providers: Mapping[str, Provider],
        audit: Audit | None,
        clock: Callable[[], float] = time.monotonic,
    ):
        """Args:
          rules: `settings.make_rules(..)`.
          providers: all that the rules know, the local one among them.
          audit: None where nothing is remote.

        Raises:
          ConfigError: providers that are not those of the rules, or a remote one without an audit.
        """
        remote = {name: provider.remote for name, provider in providers.items()}
        names = {name: provider.name for name, provider in providers.items()}
        if remote != dict(rules.providers) or any(a != b for a, b in names.items()):
            raise ConfigError(f"the providers {remote} are not those of the rules")
        if audit is None and any(remote.values()):
            raise ConfigError("nothing leaves without an audit log: name a file under audit")
        self.rules, self._providers = rules, dict(providers)
        self._guard, self._words = settings.guard, settings.make_words()
        self._find = make_finder(settings.guard.presidio, settings.guard.recognizers)
        self._audit, self._clock = audit, clock
        self._breakers = dict.fromkeys(providers, Breaker())

    def decide(self, chat: Chat, task: Task, ask: str = "auto") -> tuple[Decision, Judged]:
        """What would be done; the arguments are those of `generate`.

        Raises:
          StaysHere: a provider was asked for that may not be given this.
        """
        texts = [part.text for part in chat.parts if isinstance(part, Text)]
        task = dataclasses.replace(task, text="\n".join([task.text, *texts]))
        judged = classify(task, self._words, self._find)
        now = self._clock()
        health = {name: breaker.allows(now) for name, breaker in self._breakers.items()}
        if ask == "auto" or not self.rules.providers.get(ask, True):
            rules = self.rules
            if ask != "auto":  # here, or another one of this machine
                rules = dataclasses.replace(rules, rules=(), local=ask)
            return decide(judged, task.operation, rules, health), judged
        # A provider by its name is a choice about the work, not about what may leave.
        for kind in Complexity:
            tried = dataclasses.replace(judged, complexity=kind)
            decision = decide(tried, task.operation, self.rules, {})
            if decision.target == ask:
                target = ask if health[ask] else ""
                return dataclasses.replace(decision, target=target, then=()), judged
        raise StaysHere(*judged.reasons, f"no rule sends such tasks to {ask!r}")

    async def generate(
        self,
        chat: Chat,
        task: Task,
        wish: Wish,
        *,
        ask: str = "auto",
        stream: MaskedTokens | None = None,
        told: Callable[[Decision], None] = lambda _: None,
    ) -> AsyncGenerator[Piece, None]:
        """Pieces of text, then a `Usage`.

        Args:
          task: labels; `screens` are those of the chat's pictures.
          ask: "auto", or the name of a provider.
          stream: see `clear`; of this conversation.
          told: called with each decision: the first, and what became of it.

        Raises:
          StaysHere: a provider was asked for that may not be given this.
          ProviderError: none could answer; "busy" where none may be asked now.
        """
        task = dataclasses.replace(task, text="\n".join([task.text, *wish.stop]))
        decision, judged = await asyncio.to_thread(self.decide, chat, task, ask)
        told(decision)
        while decision.target:
            run = _Run(decision, self._clock())
            try:
                given, marks = chat, {}
                if self._providers[decision.target].remote:
                    # In a thread: encoding pictures takes a while, and so may `stream`.
                    each = chat, task, wish, judged, run, stream
                    given = await asyncio.to_thread(self._cleared, *each)
                    marks = given.marks
                async with contextlib.aclosing(self._pieces(given, marks, wish, run)) as pieces:
                    async for piece in pieces:
                        yield piece
                return
            except (ProviderError, StaysHere) as error:
                if run.begun or not decision.then:
                    raise
                why = error.kind if isinstance(error, ProviderError) else str(error)
            finally:
                self._ended(run)
            target, *then = decision.then
            reasons = (*decision.reasons, f"{decision.target}: {why}")
            decision = Decision(target, "nothing", tuple(then), reasons)
            told(decision)
        raise ProviderError("no provider", "busy", 503)

    def _cleared(
        self,
        chat: Chat,
        task: Task,
        wish: Wish,
        judged: Judged,
        run: "_Run",
        stream: MaskedTokens | None,
    ) -> Cleared:
        """Cleared and written down, or StaysHere."""
        assert self._audit is not None
        if any(map(self._find, wish.stop)):  # a mark would stop at something else
            raise StaysHere("personal data in a stop string")
        settings = self._guard, self._words, self._find
        cleared = clear(chat, run.decision, task.screens, *settings, stream)
        self._audit.intent(run.request, cleared, run.decision, judged.sensitivity)
        run.written = True
        return cleared

    async def _pieces(
        self, given: Chat | Cleared, marks: Mapping[str, str], wish: Wish, run: "_Run"
    ) -> AsyncGenerator[Piece, None]:
        """The answer, with the originals of the marks."""
        restored = Restored(marks)
        provider = self._providers[run.decision.target]
        try:
            async with contextlib.aclosing(provider.generate(given, wish)) as pieces:
                async for piece in pieces:
                    run.begun = True
                    is_text = isinstance(piece, Text)
                    if text := restored.push(piece.text) if is_text else restored.flush():
                        yield Text(text)
                    if not is_text:
                        yield piece
            run.status = "ok"
        except ProviderError as error:
            run.status, run.fault = error.kind, error.is_failure
            raise

    def _ended(self, run: "_Run") -> None:
        """Counts, and writes down how it went."""
        now, name = self._clock(), run.decision.target
        if run.status != "left" and run.fault:
            self._breakers[name] = self._breakers[name].after(run.status == "ok", now)
        if run.written and self._audit is not None:
            try:
                self._audit.outcome(run.request, run.status, now - run.start)
            except OSError:  # it was told what would be sent; the next intent fails, and nothing is
                _log.warning("the outcome of a request to %s cannot be written down", name)


@dataclasses.dataclass
class _Run:
    """What is known of one try."""

    decision: Decision
    start: float
    request: str = dataclasses.field(default_factory=lambda: secrets.token_hex(8))
    begun: bool = False  # a piece has come
    written: bool = False  # into the audit log
    status: str = "left"  # by the caller, or kept here
    fault: bool = True  # of the engine, rather than of what it was asked
