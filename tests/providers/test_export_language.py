"""A decoder as other engines read it; that transformers does: tests/parity."""

import json

import numpy as np
import pytest
from vlm_files import write_checkpoint

import diffvis_jax as dv
from diffvis_jax.checkpoints.convert import convert
from diffvis_jax.checkpoints.export_language import export_language
from diffvis_jax.checkpoints.format import flatten
from diffvis_jax.checkpoints.formats.open import open_checkpoint
from diffvis_jax.checkpoints.keys import language as keys
from diffvis_jax.cli import convert as command
from diffvis_jax.errors import CheckpointError
from diffvis_jax.quantisation import QuantConfig


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    base = tmp_path_factory.mktemp("export")
    source = write_checkpoint(base / "source")
    return convert(source, base / "weights", say=lambda _: None)


def test_the_exported_tensors_are_ours(weights, tmp_path):
    out = export_language(weights, tmp_path / "out")
    tensors = open_checkpoint(out).tensors
    language = dv.load(weights).language
    leaves = flatten(language.params)
    used = {"model.safetensors"}
    for rule in keys.rules(language.config):
        for name, path in zip(rule.sources, rule.targets, strict=True):
            if path.startswith("projector/"):
                continue
            full = name if name.startswith("lm_head") else f"model.{name}"
            used.add(full)
            assert np.array_equal(tensors.pop(full).load(), leaves[path])
    assert not tensors
    names = {file.name for file in out.iterdir()}
    assert names >= {"config.json", "model.safetensors", "chat_template.jinja", "vocab.json"}
    config = json.loads((out / "config.json").read_text())
    assert config["architectures"] == ["Qwen2ForCausalLM"]
    assert config["num_key_value_heads"] == language.config.kv_heads
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


def test_the_template_gives_our_prompt(weights, tmp_path):
    jinja2 = pytest.importorskip("jinja2")
    from diffvis_jax.language.prompt import build_prompt

    text = (export_language(weights, tmp_path / "out") / "chat_template.jinja").read_text()
    template = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(text)
    messages = [{"role": "user", "content": "<image>\nwhat is it"}]
    messages += [{"role": "assistant", "content": "this"}, {"role": "user", "content": "sure?"}]
    found = template.render(messages=messages, add_generation_prompt=True)
    assert found == build_prompt("sure?", turns=[("<image>\nwhat is it", "this")])


def test_what_cannot_be_exported(weights, tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(CheckpointError, match="exists already"):
        export_language(weights, tmp_path / "taken")
    with pytest.raises(CheckpointError, match="no language model"):
        export_language("weights/screens-vit", tmp_path / "out")
    quantised = convert(
        weights.parent / "source",
        tmp_path / "quantised",
        quantise=QuantConfig.named("int8"),
        say=lambda _: None,
    )
    with pytest.raises(CheckpointError, match="no plain Qwen2"):
        export_language(quantised, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command(weights, tmp_path, capsys):
    assert command.main([str(weights), str(tmp_path / "out"), "--export-language"]) == 0
    assert "wrote" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        command.main(
            [str(weights), str(tmp_path / "b"), "--export-language", "--dtype", "bfloat16"]
        )
    assert "takes no other options" in capsys.readouterr().err
