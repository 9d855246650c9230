"""The router in the server: what is decided, what leaves, and that nothing else does."""

import base64
import io
import json
import os

import numpy as np
import openai
import pytest
from fake_engine import FakeEngine, said
from PIL import Image
from serving import NAME, SERVE, client_of, serving, user
from vlm_files import screen

from diffvis_jax.cli import serve as command
from diffvis_jax.errors import ConfigError
from diffvis_jax.serve.router import router_targets
from diffvis_jax.serve.settings import Settings
from diffvis_jax.serve.settings_file import load_settings

QUESTION = "Where is Save?"
RULES = [
    {
        "when": {"sensitivity": ["public", "internal"], "operation": ["grounding"]},
        "send": {"to": "cloud", "what": "masked"},
    }
]
CANARY = (255, 0, 254)


@pytest.fixture(scope="module")
def cloud():
    with FakeEngine(lambda _: said("from ", "afar")) as engine:
        yield engine


def provider(cloud, **more):
    return {"kind": "openai", "base_url": f"{cloud.url}/v1", "model": "m", "remote": True, **more}


@pytest.fixture(scope="module")
def routed(model, cloud, tmp_path_factory):
    audit = tmp_path_factory.mktemp("route") / "audit.jsonl"
    more = {
        "providers": {"cloud": provider(cloud)},
        "routing": {
            "rules": RULES,
            "audit": {"file": str(audit)},
            "guard": {"presidio": False, "margin_px": 4},
        },
    }
    with serving(model, more=more) as running:
        running.audit = audit
        yield running


def ask(running, model="auto", seed=70, stream=False, **hints):
    with client_of(running) as client:
        answer = client.chat.completions.create(
            model=model,
            messages=[user(screen(seed), QUESTION)],
            max_tokens=6,
            stream=stream,
            extra_body={"diffvis": hints},
        )
        return list(answer) if stream else answer


LABELS = {"sensitivity": "internal", "operation": "grounding", "screens": [{"regions": []}]}


def test_what_may_leave_does_and_is_written_down(routed, cloud):
    cloud.requests.clear()
    answer = ask(routed, **LABELS)
    assert answer.choices[0].message.content == "from afar"
    assert answer.diffvis["route"]["target"] == "cloud"
    assert answer.usage.prompt_tokens_details.cached_tokens == 5
    assert len(cloud.requests) == 1
    intent, outcome = [json.loads(line) for line in routed.audit.read_text().splitlines()][-2:]
    assert (intent["event"], intent["target"], outcome["status"]) == ("intent", "cloud", "ok")
    assert routed.audit.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "hints",
    [
        {},
        LABELS | {"sensitivity": "confidential"},
        LABELS | {"operation": "reading"},
        {"sensitivity": "internal", "operation": "grounding"},  # nobody looked at the picture
    ],
)
def test_what_may_not_leave_is_answered_here(routed, cloud, hints, model):
    cloud.requests.clear()
    answer = ask(routed, **hints)
    here = ask(routed, "here")
    assert answer.diffvis["route"]["target"] == "here"
    assert answer.choices[0].message.content == here.choices[0].message.content
    assert here.choices[0].message.content == ask(routed, NAME).choices[0].message.content
    assert not cloud.requests


def test_who_asks_for_the_cloud_is_refused_what_may_not_leave(routed, cloud):
    cloud.requests.clear()
    with pytest.raises(openai.PermissionDeniedError) as refused:
        ask(routed, "cloud", **LABELS | {"sensitivity": "confidential"})
    assert refused.value.code == "confidential_stays_local"
    with pytest.raises(openai.PermissionDeniedError):
        ask(routed, "cloud", stream=True)
    assert not cloud.requests
    assert ask(routed, "cloud", **LABELS).choices[0].message.content == "from afar"


def test_regions_are_masked_before_anything_leaves(routed, cloud):
    cloud.requests.clear()
    pixels = np.array(screen(71))
    pixels[40:60, 100:160] = CANARY
    content = user(pixels, QUESTION)
    box = {"box": [100, 40, 160, 60], "kind": "password"}
    with client_of(routed) as client:
        client.chat.completions.create(
            model="auto",
            messages=[content],
            extra_body={"diffvis": LABELS | {"screens": [{"regions": [box]}]}},
        )
    (request,) = cloud.requests
    sent = next(
        part["image_url"]["url"]
        for part in request.json["messages"][0]["content"]
        if part["type"] == "image_url"
    )
    seen = np.asarray(Image.open(io.BytesIO(base64.b64decode(sent.partition(",")[2]))))
    assert seen.shape == pixels.shape
    assert not (seen == CANARY).all(-1).any()
    far = seen[120:], pixels[120:]
    np.testing.assert_array_equal(*far)


def test_a_stream_from_elsewhere(routed):
    chunks = ask(routed, stream=True, **LABELS)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == "from afar"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].diffvis["route"]["target"] == "cloud"


def test_labels_that_do_not_fit(routed):
    with pytest.raises(openai.BadRequestError, match="2 lists of regions for 1 pictures"):
        ask(routed, **LABELS | {"screens": [{}, {}]})
    with pytest.raises(openai.BadRequestError, match="sensitivity"):
        ask(routed, sensitivity="secret")


def test_when_the_cloud_fails_this_machine_answers(routed, cloud, monkeypatch):
    def broken(_):
        raise ConnectionError

    monkeypatch.setattr(cloud, "answer", broken)
    answer = ask(routed, **LABELS)
    assert answer.diffvis["route"]["target"] == "here"
    assert any("cloud" in reason for reason in answer.diffvis["route"]["reasons"])


def test_models_are_listed(routed):
    with client_of(routed) as client:
        names = {each.id for each in client.models.list()}
    assert names == {NAME, "auto", "here", "cloud"}


def settings_of(text, tmp_path):
    file = tmp_path / "serve.yaml"
    file.write_text(text)
    return load_settings(str(file), environment={})[0]


FILE = """
preset: {preset}
model: {{path: weights/x}}
providers:
  cloud: {{kind: openai, base_url: "https://cloud.example/v1", model: m, api_key_env: CLOUD_KEY}}
routing:
  guard: {{titles: {{"(?i)my[.]bank": confidential}}}}
"""


@pytest.mark.parametrize("preset", ["hybrid", "cloud_first"])
def test_presets_of_the_router(tmp_path, preset):
    settings = settings_of(FILE.format(preset=preset), tmp_path)
    assert settings.routing.rules
    assert settings.routing.guard.titles == {"(?i)my[.]bank": "confidential"}
    assert settings.routing.make_rules(settings.providers).providers["cloud"]


def test_nothing_beyond_this_machine_where_all_is_local(tmp_path, model):
    settings = settings_of(FILE.format(preset="local_only"), tmp_path)
    with pytest.raises(ConfigError, match="allow_remote is false"):
        settings.routing.make_rules(settings.providers)


def test_one_variable_keeps_all_here(tmp_path):
    file = tmp_path / "serve.yaml"
    file.write_text(FILE.format(preset="cloud_first"))
    given = {"DIFFVIS_ROUTING__FORCE_LOCAL": "true"}
    settings, sources = load_settings(str(file), environment=given)
    assert settings.routing.force_local
    assert sources["routing.force_local"] == "environment"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("    api_key: sk-secret", "a key in a file is read by others"),
        ("    modell: m", "did you mean model?"),
        ("    kind: openia", "providers.cloud.kind"),
    ],
)
def test_wrong_engines_are_told_without_their_keys(tmp_path, more, message):
    engine = "    kind: openai\n    base_url: http://127.0.0.1:1/v1\n    model: m\n"
    text = f"model: {{path: x}}\nproviders:\n  cloud:\n{engine}{more}\n"
    text = text.replace("    kind: openai\n", "") if "kind:" in more else text
    with pytest.raises(ConfigError) as error:
        settings_of(text, tmp_path)
    assert message in str(error.value)
    assert "sk-secret" not in str(error.value)


def test_tokens_do_not_leave_this_machine(tmp_path, model):
    engine = {"kind": "vllm_tokens", "base_url": "https://far.example/v1", "model": "m"}
    settings = Settings.model_validate(
        {"model": {"path": NAME}, "serve": SERVE, "providers": {"vllm": engine}}
    )
    with pytest.raises(ConfigError, match="tokens hold all that a picture shows"):
        router_targets(settings, here=None)


def test_a_decision_is_explained(tmp_path, capsys):
    file, task = tmp_path / "serve.yaml", tmp_path / "task.json"
    file.write_text(FILE.format(preset="cloud_first"))
    body = {"model": "auto", "messages": [user(screen(72), QUESTION)], "diffvis": LABELS}
    task.write_text(json.dumps(body))
    assert command.main(["--config", str(file), "--explain", str(task)]) == 0
    printed = capsys.readouterr().out
    assert "cloud" in printed
    assert "internal" in printed
    assert "CLOUD_KEY" not in os.environ  # no key is needed to decide
    task.write_text("{}")
    assert command.main(["--config", str(file), "--explain", str(task)]) == 2


def test_our_tokens_reach_an_engine_that_reads_them(model, cloud, tmp_path):
    engine = {"kind": "vllm_tokens", "base_url": f"{cloud.url}/v1", "model": "m"}
    cloud.requests.clear()
    with serving(model, more={"providers": {"vllm": engine}}) as running:
        assert ask(running, "vllm").choices[0].message.content == "from afar"
        (request,) = cloud.requests
        kinds = [part["type"] for part in request.json["messages"][0]["content"]]
        assert kinds == ["prompt_embeds", "text"]
        second = ask(running, "vllm")
        assert second.diffvis["encoded"] == 0  # known from the turn before
        before, after = (r.json["messages"][0]["content"][0]["data"] for r in cloud.requests)
        assert before == after
