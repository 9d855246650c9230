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
    """The engines of `providers` behind one question; its `rules` may be replaced by those of other
    settings."""

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
        self.rules, self.providers = rules, dict(providers)
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
            answer = self._answer(decision, judged, chat, task, wish, stream)
            begun = False
            try:
                async with contextlib.aclosing(answer):
                    async for piece in answer:
                        begun = True
                        yield piece
                return
            except (ProviderError, StaysHere) as error:
                if begun or not decision.then:
                    raise
                why = error.kind if isinstance(error, ProviderError) else str(error)
            target, *then = decision.then
            reasons = (*decision.reasons, f"{decision.target}: {why}")
            decision = Decision(target, "nothing", tuple(then), reasons)
            told(decision)
        raise ProviderError("no provider", "busy", 503)

    async def _answer(
        self,
        decision: Decision,
        judged: Judged,
        chat: Chat,
        task: Task,
        wish: Wish,
        stream: MaskedTokens | None,
    ) -> AsyncGenerator[Piece, None]:
        """What the decision's target answers, with the originals of the marks; it is written down
        what is sent and how that went, and how it went is counted."""
        name, request, start = decision.target, secrets.token_hex(8), self._clock()
        provider, audit = self.providers[name], self._audit

        def cleared() -> Cleared:
            assert audit is not None
            if any(map(self._find, wish.stop)):  # a mark would stop at something else
                raise StaysHere("personal data in a stop string")
            settings = self._guard, self._words, self._find
            found = clear(chat, decision, task.screens, *settings, stream)
            audit.intent(request, found, decision, judged.sensitivity)
            return found

        given, status, fault = chat, "left", True  # left by the caller, or kept here
        try:
            if provider.remote:
                # In a thread: encoding pictures takes a while, and so may `stream`.
                given = await asyncio.to_thread(cleared)
            restored = Restored(given.marks if isinstance(given, Cleared) else {})
            async with contextlib.aclosing(provider.generate(given, wish)) as pieces:
                async for piece in pieces:
                    is_text = isinstance(piece, Text)
                    if text := restored.push(piece.text) if is_text else restored.flush():
                        yield Text(text)
                    if not is_text:
                        yield piece
            status = "ok"
        except ProviderError as error:
            status, fault = error.kind, error.is_failure
            raise
        finally:
            now = self._clock()
            if status != "left" and fault:
                self._breakers[name] = self._breakers[name].after(status == "ok", now)
            if isinstance(given, Cleared) and audit is not None:
                try:
                    audit.outcome(request, status, now - start)
                except OSError:  # the intent is there; the next one fails, and nothing is sent
                    _log.warning("the outcome of a request to %s cannot be written down", name)
