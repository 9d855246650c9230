"""From a question to an answer, and what happens when something fails on the way."""

import asyncio
import contextlib
import io
import json
import os

import pytest
from fake_engine import FakeEngine, chunk, error, said, stream
from PIL import Image

from diffvis_jax.errors import ConfigError
from diffvis_jax.providers.chat import (
    Chat,
    Message,
    Picture,
    ProviderError,
    Text,
    Usage,
    Wish,
)
from diffvis_jax.providers.openai_like import OpenAILike
from diffvis_jax.route.audit import Audit
from diffvis_jax.route.labels import Complexity, Screen, Sensitivity, StaysHere, Task
from diffvis_jax.route.routed import Routed
from diffvis_jax.route.settings import ProviderSettings, RoutingSettings, preset

pytestmark = pytest.mark.timeout(60)
PUBLIC, INTERNAL, CONFIDENTIAL = Sensitivity
CLOUD = ProviderSettings(kind="openai", base_url="https://cloud.example/v1", model="m")


class Here:
    """A local provider."""

    name, remote, takes = "here", False, frozenset({Text, Picture})

    def __init__(self):
        self.asked, self.error = [], None

    async def generate(self, chat, wish):
        self.asked.append(chat)
        if self.error:
            raise ProviderError("here", self.error)
        yield Text("from here")
        yield Usage("stop")


class Setup:
    """A router over a fake cloud."""

    def __init__(self, folder, name="cloud_first", **settings):
        self.now = 0.0
        self.cloud = FakeEngine(lambda _: said("from <EMAI", "L_1> there"))
        self.file = folder / "audit.jsonl"
        self.audit = Audit(self.file)
        self.here = Here()
        given = preset(name) | settings
        given["guard"] = {"presidio": False} | given.get("guard", {})
        self.settings = RoutingSettings.model_validate(given)
        self.remote = OpenAILike("cloud", f"{self.cloud.url}/v1", "m", remote=True, retries=0)
        self.routed = Routed(
            self.settings,
            self.settings.make_rules({"cloud": CLOUD}),
            {"here": self.here, "cloud": self.remote},
            self.audit,
            lambda: self.now,
        )

    def close(self):
        self.cloud.close()
        self.audit.close()

    def ask(self, task=None, chat=None, **options):
        """The answer's text, and the decisions."""
        told, texts = [], []

        async def run():
            pieces = self.routed.generate(
                chat or CHAT,
                task or Task("grounding", stated=INTERNAL),
                Wish(deadline_s=20),
                told=told.append,
                **options,
            )
            async for piece in pieces:
                texts.append(piece.text if isinstance(piece, Text) else f"|{piece.finish}")

        asyncio.run(run())
        return "".join(texts), told

    @property
    def lines(self):
        return [json.loads(line) for line in self.file.read_text().splitlines()]


CHAT = Chat((Message("user", (Text("write to a@b.example"),)),))


@pytest.fixture
def setup(tmp_path):
    made = Setup(tmp_path)
    yield made
    made.close()


def test_there_and_back(setup):
    text, (decision,) = setup.ask()
    assert text == "from a@b.example there|stop"
    assert (decision.target, decision.then) == ("cloud", ("here",))
    assert b"a@b.example" not in setup.cloud.requests[0].body
    intent, outcome = setup.lines
    assert (intent["event"], outcome["event"], outcome["status"]) == ("intent", "outcome", "ok")
    assert intent["id"] == outcome["id"]
    assert not setup.here.asked


def test_the_intent_is_on_the_disk_before_anything_is_sent(setup):
    found = []

    def answer(_):
        found.append(setup.lines)
        return said("ok")

    setup.cloud.answer = answer
    setup.ask()
    ((intent,),) = found
    assert intent["event"] == "intent"


def test_what_cannot_be_written_down_stays(setup, monkeypatch):
    def full(*_):
        raise OSError

    monkeypatch.setattr(os, "fsync", full)
    text, (_, then) = setup.ask()
    assert text == "from here|stop"
    assert then.reasons[-1] == "cloud: stays on this machine: the audit log cannot be written"
    assert setup.cloud.connections == 0
    with pytest.raises(StaysHere, match="cannot be written"):
        setup.ask(ask="cloud")
    assert setup.cloud.connections == 0


def test_confidential_stays_and_has_no_way_out(setup):
    setup.here.error = "server"
    for task in (Task("grounding"), Task("grounding", stated=CONFIDENTIAL)):
        with pytest.raises(ProviderError, match="here failed"):
            setup.ask(task)
    for _ in range(5):  # until nobody may be asked
        with contextlib.suppress(ProviderError):
            setup.ask(Task("grounding"))
    with pytest.raises(ProviderError, match="no provider is busy") as caught:
        setup.ask(Task("grounding"))
    assert caught.value.status == 503
    with pytest.raises(StaysHere, match="not labelled; no rule sends such tasks to 'cloud'"):
        setup.ask(Task("grounding"), ask="cloud")
    assert setup.cloud.connections == 0


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500, 503])
def test_a_failing_cloud_is_answered_from_here(setup, status):
    setup.cloud.answer = lambda _: error(status, {"error": "CANARY"})
    text, (first, then) = setup.ask()
    assert text == "from here|stop"
    assert (then.target, then.send, then.then) == ("here", "nothing", ())
    assert then.reasons[:-1] == first.reasons
    assert setup.here.asked == [CHAT]  # the whole of it
    assert "CANARY" not in repr(then)
    assert setup.lines[-1]["status"] in ("auth", "model", "request", "busy", "server")


def test_an_answer_that_has_begun_is_not_begun_anew(setup):
    setup.cloud.answer = lambda _: stream(chunk("a"), cut=True)
    with pytest.raises(ProviderError, match="broke off"):
        setup.ask()
    assert not setup.here.asked


def test_leaving_early_is_nobodys_fault(setup):
    async def leave():
        pieces = setup.routed.generate(CHAT, Task("grounding", stated=PUBLIC), Wish())
        async with contextlib.aclosing(pieces):
            await anext(pieces)

    for _ in range(6):
        asyncio.run(leave())
    assert setup.lines[-1]["status"] == "left"
    assert setup.ask()[1][0].target == "cloud"


def test_a_cloud_that_keeps_failing_is_not_asked_for_a_while(setup):
    setup.cloud.answer = lambda _: error(500, "")
    for _ in range(5):
        setup.ask()
    _, (decision,) = setup.ask()
    assert decision.target == "here"
    assert "cloud cannot be asked now" in decision.reasons
    assert len(setup.cloud.requests) == 5
    with pytest.raises(ProviderError, match="busy"):
        setup.ask(ask="cloud")
    setup.now, setup.cloud.answer = 31, lambda _: said("again")
    assert setup.ask()[0] == "again|stop"


def test_what_the_engine_was_asked_wrongly_is_not_its_failure(setup):
    setup.cloud.answer = lambda _: error(400, "")
    for _ in range(7):
        setup.ask()
    assert len(setup.cloud.requests) == 7


def test_asking_by_name(tmp_path):
    setup = Setup(tmp_path, "hybrid")
    simple = Task("grounding", stated=PUBLIC, complexity=Complexity.SIMPLE)
    assert setup.ask(simple)[0] == "from here|stop"
    assert setup.ask(simple, ask="cloud")[0] == "from a@b.example there|stop"  # a choice of model
    with pytest.raises(StaysHere, match="no rule sends"):  # what may leave is none
        setup.ask(Task("reading", stated=PUBLIC), ask="cloud")
    hard = Task("grounding", stated=PUBLIC, complexity=Complexity.COMPLEX)
    assert setup.ask(hard, ask="here")[1][0].target == "here"
    with pytest.raises(StaysHere):
        setup.ask(hard, ask="nobody")
    setup.close()


def test_another_engine_of_this_machine_may_be_asked_for_anything(setup):
    other = Here()
    other.name = "other"
    rules = setup.settings.make_rules(
        {"cloud": CLOUD, "other": CLOUD.model_copy(update={"base_url": "http://127.0.0.1:1"})}
    )
    providers = {"here": setup.here, "other": other, "cloud": setup.remote}
    setup.routed = Routed(setup.settings, rules, providers, setup.audit)
    assert setup.ask(Task("reading"), ask="other")[0] == "from here|stop"
    assert other.asked


def test_what_stops_an_answer_is_said_to_the_engine_too(setup):
    task = Task("grounding", stated=PUBLIC)

    def ask(stop):
        async def run():
            wish, told = Wish(stop=(stop,)), []
            async for _ in setup.routed.generate(CHAT, task, wish, told=told.append):
                pass
            return told[-1]

        return asyncio.run(run())

    assert ask("a@b.example").reasons[-1].endswith("personal data in a stop string")
    assert ask("password").reasons[0] == "confidential: a word of the rules"
    assert setup.cloud.connections == 0
    assert ask("STOP").target == "cloud"


def test_force_local(tmp_path):
    setup = Setup(tmp_path, force_local=True)
    assert setup.ask(Task("grounding", stated=PUBLIC))[0] == "from here|stop"
    with pytest.raises(StaysHere):
        setup.ask(Task("grounding", stated=PUBLIC), ask="cloud")
    assert setup.cloud.connections == 0
    setup.close()


def test_all_texts_of_a_conversation_count(setup):
    older = Message("assistant", (Text("your password is x"),))
    chat = Chat((Message("user", (Text("hi"),)), older, *CHAT.messages))
    _, (decision,) = setup.ask(Task("grounding", stated=PUBLIC), chat)
    assert (decision.target, decision.then) == ("here", ())
    assert decision.reasons[0] == "confidential: a word of the rules"


def test_what_the_guard_keeps_is_answered_from_here(setup):
    file = io.BytesIO()
    Image.new("RGB", (9, 9)).save(file, "PNG")
    chat = Chat((Message("user", (Picture(file.getvalue(), (9, 9)),)),))
    task = Task("grounding", stated=PUBLIC, screens=(Screen(),))
    text, (_, then) = setup.ask(task, chat)
    assert text == "from here|stop"
    assert then.reasons[-1].endswith("a picture without a list of regions")
    with pytest.raises(StaysHere, match="without a list of regions"):
        setup.ask(task, chat, ask="cloud")
    assert setup.cloud.connections == 0
    assert not setup.lines


def test_providers_must_be_those_of_the_rules(setup):
    rules = setup.settings.make_rules({"cloud": CLOUD})
    trusted = OpenAILike("cloud", "http://127.0.0.1:1/v1", "m")
    renamed = OpenAILike("other", "http://127.0.0.1:1/v1", "m", remote=True)
    for cloud in (trusted, renamed):
        with pytest.raises(ConfigError, match="are not those of the rules"):
            Routed(setup.settings, rules, {"here": setup.here, "cloud": cloud}, setup.audit)
    with pytest.raises(ConfigError, match="without an audit log"):
        Routed(setup.settings, rules, {"here": setup.here, "cloud": setup.remote}, None)
    local = RoutingSettings.model_validate(preset("local_only"))
    Routed(local, local.make_rules({}), {"here": setup.here}, None)
