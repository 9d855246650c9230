"""Settings: where each comes from, and everything that can be wrong with them at once."""

# ruff: noqa: E501

import os
import socket

import pytest

import diffvis_jax as dv
from diffvis_jax.cli.serve import main
from diffvis_jax.errors import ConfigError
from diffvis_jax.serve.run import listen
from diffvis_jax.serve.settings import ServeSettings
from diffvis_jax.serve.settings_file import (
    PRESETS,
    load_settings,
    read_keys,
    show_settings,
)


@pytest.fixture
def write(tmp_path):
    def write(text, name="serve.yaml"):
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


def test_what_comes_before_what(write):
    file = write("preset: agent\nmodel: {path: a, policy: fast}\nserve: {port: 1, drain_s: 2}\n")
    environment = {"DIFFVIS_SERVE__PORT": "3", "DIFFVIS_MODEL__PREFILL": "bounded",
                   "DIFFVIS_CACHE": "x", "DIFFVIS_SERVE__HOSTS": "[a, b]"}  # fmt: skip
    settings, sources = load_settings(file, {"serve.memory_mb": 5}, environment)
    assert settings.model.policy == "fast"  # over the preset's
    assert settings.limits.running_per_key == 16  # the preset's
    assert (settings.serve.port, settings.serve.drain_s) == (3, 2)
    assert settings.serve.hosts == ["a", "b"]
    assert settings.serve.memory_mb == 5
    assert settings.model.prefill == "bounded"
    shown = show_settings(settings, sources)
    assert f"model.policy: 'fast'  # {file}" in shown
    assert "serve.port: 3  # environment" in shown
    assert "serve.memory_mb: 5.0  # command line" in shown
    assert "limits.running_per_key: 16  # preset agent" in shown
    assert "limits.queue: 32  # default" in shown
    assert (
        load_settings(None, {"model.path": "a", "preset": "shared"}, {})[0].model.policy == "exact"
    )


@pytest.mark.parametrize("preset", sorted(file.stem for file in PRESETS.glob("*.yaml")))
def test_presets_are_in_order(preset):
    settings, sources = load_settings(preset, {"model.path": "a"}, {})
    assert settings.preset == preset
    assert any(source == f"preset {preset}" for source in sources.values())


WRONG = {
    "": "model: must be given",
    "model: {}": "model.path ({file}, line 1): must be given",
    "model: {path: 3}": "model.path ({file}, line 1): Input should be a valid string, got 3",
    "model: {path: no}": "model.path ({file}, line 1): Input should be a valid string, got False",
    "model: {path: a}\nserve: {port: 08}": "serve.port ({file}, line 2): Input should be a valid integer, got '08'",
    "model: {path: a}\nserve: {port: '80'}": "serve.port ({file}, line 2): Input should be a valid integer, got '80'",
    "model: {path: a}\nserve: {port: 70000}": "serve.port ({file}, line 2): Input should be less than or equal to 65535",
    "model: {path: a}\nserve:\n  prot: 80": "serve.prot ({file}, line 3): there is no such setting; did you mean port?",
    "model: {path: a}\nsevre: {port: 80}": "sevre: there is no such setting; did you mean serve?",
    "model: {path: a}\nserve: {api_key: abc}": "serve.api_key ({file}, line 2): there is no such setting; did you mean api_key_",
    "model: {path: a, policy: lazy}": "model.policy ({file}, line 1): Input should be 'exact', 'faithful'",
    "model: {path: a}\nserve: {policy_override: 1}": "serve.policy_override ({file}, line 2): Input should be a valid boolean, got 1",
    "model: {path: a}\nserve: {policy_override: 'no'}": "Input should be a valid boolean, got 'no'",
    "model: {path: a}\nserve: {warm_screens: [1080p]}": "serve.warm_screens.0 ({file}, line 2): String should match",
    "model: {path: a}\nserve: {warm_sampling: [beam]}": "serve.warm_sampling.0 ({file}, line 2): Input should be 'greedy'",
    "model: {path: a}\nserve: {memory_mb: -1}": "serve.memory_mb ({file}, line 2): Input should be greater than 0",
    "model: {path: a}\nlimits: {images: 0}": "limits.images ({file}, line 2): Input should be greater than or equal to 1",
    "model: {path: a}\nlimits: {timeout_s: .inf}": "limits.timeout_s ({file}, line 2)",
    "model: {path: a}\nserve: 5": "serve ({file}, line 2): Input should be a valid dictionary",
    "model: {path: a, path: b}": "{file}, line 1: model.path stands there twice",
    "model: {path: a}\nmodel: {name: b}\nmodel: {path: c}": "{file}, line 3: model.path stands there twice",
    "- a": "{file}: expected settings by their names",
    "model: [": "{file}: while parsing",
    "model: !!python/object:os.system {}": "{file}: could not determine a constructor",
    "model: {path: a}\npreset: cloud": "preset: no preset 'cloud': there are agent, cloud_first, hybrid, local_only, shared",
    "&a {model: *a}": "{file}: ",
}  # fmt: skip


@pytest.mark.parametrize("text", WRONG)
def test_what_is_wrong(write, text):
    file = write(text)
    with pytest.raises(dv.ConfigError) as error:
        load_settings(file, {}, {})
    assert WRONG[text].replace("{file}", file) in str(error.value)


def test_all_that_is_wrong_is_told_at_once(write):
    file = write("model: {path: 1}\nserve: {port: a, hots: b}\n")
    with pytest.raises(dv.ConfigError) as error:
        load_settings(file, {"limits.queue": "many"}, {"DIFFVIS_LIMITS__IMAGE": "2"})
    told = str(error.value).splitlines()
    assert len(told) == 6
    assert (
        "limits.queue (command line): Input should be a valid integer, got 'many'"
        in told[-1] + told[-2]
    )
    assert any(
        "limits.image (environment): there is no such setting; did you mean image" in x
        for x in told
    )


def test_keys(tmp_path):
    serve = load_settings(None, {"model.path": "a"}, {})[0].serve
    assert read_keys(serve, {}) == []
    assert read_keys(serve, {"DIFFVIS_API_KEYS": "a, b"}) == ["a", "b"]
    with pytest.raises(dv.ConfigError, match=r"0\.0\.0\.0 is seen by other machines"):
        read_keys(serve.model_copy(update={"host": "0.0.0.0"}), {})
    file = tmp_path / "keys"
    file.write_text("one\ntwo\n")
    os.chmod(file, 0o644)
    there = serve.model_copy(update={"api_key_file": str(file), "host": "0.0.0.0"})
    with pytest.raises(dv.ConfigError, match="others may read"):
        read_keys(there, {})
    os.chmod(file, 0o600)
    assert read_keys(there, {}) == ["one", "two"]
    file.write_text("")
    with pytest.raises(dv.ConfigError, match="holds no keys"):
        read_keys(there, {})


def test_the_command_shows_them_and_tells_what_is_wrong(write, capsys, monkeypatch):
    monkeypatch.setenv("DIFFVIS_API_KEYS", "very-secret")
    arguments = ["--model", "a", "--port", "5", "--set", "limits.images=3", "--show-config"]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "serve.port: 5  # command line" in shown
    assert "limits.images: 3  # command line" in shown
    assert "reuse.answers.enabled: False  # default" in shown
    assert "very-secret" not in shown
    file = write("model: {path: a}\nrouting: {guard: {margin_px: 8}}\n")
    assert main(["--config", str(file), "--show-config"]) == 0
    shown = capsys.readouterr().out
    assert f"routing.guard.margin_px: 8  # {file}" in shown
    assert "routing.guard.pii: 'mark'  # default" in shown
    assert main(["--model", "a", "--set", "limits.imgaes=3"]) == 2
    assert "did you mean images?" in capsys.readouterr().err
    assert main(["--set", "limits"]) == 2
    assert "expected PATH=VALUE" in capsys.readouterr().err
    assert main(["--model", "/nowhere/at-all"]) == 2
    assert "no model '/nowhere/at-all'" in capsys.readouterr().err


def test_the_page_about_it_names_what_there_is():
    from pathlib import Path

    from diffvis_jax.serve.settings import Limits, ModelSettings, ServeSettings

    page = (Path(dv.__file__).parents[1] / "docs" / "serving.md").read_text()
    for section in (ModelSettings, ServeSettings, Limits):
        for name in section.model_fields:
            assert f"`{name}`" in page, name


def test_an_address_that_is_taken_is_told_before_anything_is_loaded():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"cannot listen at 127.0.0.1:{port}"):
            listen(ServeSettings(port=port))
