"""Rules and providers as they are written down."""

import pytest
import yaml
from pydantic import ValidationError

from diffvis_jax.errors import ConfigError
from diffvis_jax.route.labels import Sensitivity
from diffvis_jax.route.settings import (
    PRESETS,
    ProviderSettings,
    RoutingSettings,
    make_provider,
    preset,
)

CLOUD = {"kind": "openai", "base_url": "https://cloud.example/v1", "model": "m"}
HERE = CLOUD | {"base_url": "http://127.0.0.1:8000/v1"}


@pytest.mark.parametrize("name", PRESETS)
def test_presets(name):
    settings = RoutingSettings.model_validate(preset(name))
    assert RoutingSettings.model_validate_json(settings.model_dump_json()) == settings
    assert settings.unlabelled == "confidential"
    assert settings.guard.require_regions
    if name == "local_only":
        assert settings.make_rules({"vllm": ProviderSettings(**HERE)}).force_local
        with pytest.raises(ConfigError, match="cloud is beyond this machine"):
            settings.make_rules({"cloud": ProviderSettings(**CLOUD)})
    else:
        words = settings.make_words().raising[0][0]
        assert words.search("mot de passe")


def test_no_such_preset():
    with pytest.raises(ConfigError, match="local_only, hybrid, cloud_first"):
        preset("../hybrid")


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("unlabelled: secret", "unlabelled", "'public', 'internal' or 'confidential'"),
        ("force_local: yep", "force_local", "valid boolean"),
        ("force_local: 'true'", "force_local", "valid boolean"),
        ("rulez: []", "rulez", "not permitted"),
        ("rules: {}", "rules", "valid tuple"),
        ("rules: [{when: {sensitivity: [low]}, send: {to: x}}]", "rules.0.when.sensitivity.0", ""),
        ("rules: [{when: {sensitivty: []}, send: {to: x}}]", "rules.0.when.sensitivty", ""),
        ("rules: [{when: {operation: reading}, send: {to: x}}]", "rules.0.when.operation", "tuple"),
        ("rules: [{send: {to: no}}]", "rules.0.send.to", "valid string"),
        ("rules: [{send: {to: x, what: all}}]", "rules.0.send.what", "'masked' or 'changes'"),
        ("guard: {margin_px: -1}", "guard.margin_px", "greater than or equal to 0"),
        ("guard: {margin_px: 1.5}", "guard.margin_px", "valid integer"),
        ("guard: {titles: {'(': confidential}}", "guard.titles", "is no pattern"),
        ("guard: {pii: hide}", "guard.pii", "'mark' or 'block'"),
        ("words: {confidential: [no]}", "words.confidential.0", "valid string"),
    ],
)
def test_wrong_settings_are_told_by_their_place(text, place, message):
    with pytest.raises(ValidationError) as caught:
        RoutingSettings.model_validate(yaml.safe_load(text))
    (problem,) = caught.value.errors()
    assert ".".join(map(str, problem["loc"])) == place
    assert message in problem["msg"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"api_key": "sk-1"}, "use api_key_env or api_key_file"),
        ({"kind": "vllm"}, "'openai', 'ollama' or 'vllm_tokens'"),
        ({"dialect": "azure"}, "'openrouter'"),
        ({"base_url": "http://cloud.example/v1"}, "unencrypted"),
        ({"base_url": "cloud.example"}, "base_url must be like"),
        ({"timeout_s": 0}, "greater than 0"),
        ({"modle": "x"}, "not permitted"),
    ],
)
def test_wrong_providers(fields, message):
    with pytest.raises(ValidationError, match=message):
        ProviderSettings.model_validate(CLOUD | fields)


def test_a_key_is_not_shown_in_the_error():
    with pytest.raises(ValidationError) as caught:
        ProviderSettings.model_validate(CLOUD | {"api_key": "sk-CANARY"})
    assert "CANARY" not in str(caught.value)


def test_who_is_remote():
    assert ProviderSettings(**CLOUD).is_remote
    assert not ProviderSettings(**HERE).is_remote
    assert ProviderSettings(**HERE, remote=True).is_remote
    assert ProviderSettings(**(HERE | {"kind": "ollama", "model": "x-cloud"})).is_remote
    trusted = {"base_url": "http://gpu-box:8000/v1", "trusted_hosts": ["gpu-box"]}
    assert not ProviderSettings.model_validate(CLOUD | trusted).is_remote


def test_a_provider_beyond_this_machine_is_an_error_of_rules_only_where_it_is_sent_to():
    rule = {"when": {"sensitivity": ["confidential"]}, "send": {"to": "engine"}}
    settings = RoutingSettings.model_validate({"rules": [rule]})
    rules = settings.make_rules({"engine": ProviderSettings(**HERE)})
    assert rules.rules[0].sensitivity == {Sensitivity.CONFIDENTIAL}
    with pytest.raises(ConfigError, match="confidential tasks do not go to engine"):
        settings.make_rules({"engine": ProviderSettings(**CLOUD)})


@pytest.mark.parametrize("kind", ["openai", "ollama", "vllm_tokens"])
def test_clients_agree_with_their_settings_on_who_is_remote(kind, tmp_path, monkeypatch):
    monkeypatch.setenv("CLOUD_KEY", "k")
    for fields in (CLOUD, HERE, HERE | {"remote": True}, HERE | {"model": "x:cloud"}):
        settings = ProviderSettings(**(fields | {"kind": kind}), api_key_env="CLOUD_KEY")
        provider = make_provider("p", settings)
        assert provider.remote == settings.is_remote
        assert provider.name == "p"


def test_keys(tmp_path, monkeypatch):
    file = tmp_path / "key.txt"
    file.write_text("k\n")
    settings = ProviderSettings(**HERE, api_key_file="key.txt")
    file.chmod(0o640)
    with pytest.raises(ConfigError, match="others can read"):
        make_provider("p", settings, tmp_path)
    file.chmod(0o600)
    make_provider("p", settings, tmp_path)
    with pytest.raises(ConfigError, match="cannot be read"):
        make_provider("p", settings)
    monkeypatch.delenv("NO_KEY", raising=False)
    with pytest.raises(ConfigError, match="has no NO_KEY"):
        make_provider("p", ProviderSettings(**HERE, api_key_env="NO_KEY"))
