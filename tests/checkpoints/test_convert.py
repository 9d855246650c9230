"""`convert.py`: every layout of a checkpoint, and what it refuses."""

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from checkpoint_files import (
    APPLE,
    DATA,
    LLAVA_CLIP,
    clip_model,
    fastvlm,
    hf_fastvlm,
    openai,
    same,
    stored,
    write_directory,
    write_safetensors,
)

from diffvis_jax.checkpoints import store, writer
from diffvis_jax.checkpoints.architectures import expected_shapes
from diffvis_jax.checkpoints.convert import convert
from diffvis_jax.checkpoints.keys import fastvithd as fastvithd_keys
from diffvis_jax.cli import convert as convert_command
from diffvis_jax.core.step import jit_encode
from diffvis_jax.errors import CheckpointError
from diffvis_jax.towers import clip, fastvithd
from diffvis_jax.towers.init import init_params

ROOT = Path(__file__).parents[2]
TINY = "vlm_tiny_config.json"


def quiet(*_) -> None:
    pass


def error_share(params, config, frames, expected) -> float:
    tokens = jit_encode(params, frames, config=config)
    assert tokens.shape == expected.shape
    return float(np.abs(tokens - expected).max() / np.abs(expected).max())


@pytest.fixture(scope="module")
def released(tmp_path_factory) -> Path:
    """A released FastVLM, converted: what the other layouts are compared with."""
    base = tmp_path_factory.mktemp("released")
    source = write_directory(base / "source", fastvlm(), "vlm_tiny_config.json")
    for name in ("tokenizer.json", "vocab.json", "preprocessor_config.json"):
        (source / name).write_text("{}")
    (source / "LICENSE_MODEL").write_text("terms")
    return convert(str(source), base / "weights" / "tiny", say=quiet)


@pytest.fixture(scope="module")
def clip_converted(tmp_path_factory) -> Path:
    base = tmp_path_factory.mktemp("clip")
    source = write_directory(
        base / "source", stored("clip_tiny.safetensors"), "clip_tiny_config.json"
    )
    return convert(str(source), base / "tiny", say=quiet)


# ---- what comes out ---------------------------------------------------------------------------


def test_released_fastvlm_gives_pytorchs_tokens(released):
    config, params = store.load_vision(released)
    assert config == fastvithd.FastViTHDConfig(
        depths=(1, 2, 2, 1, 1),
        widths=(16, 32, 64, 128, 256),
        token_width=512,
        squeeze_width=32,
        size=256,
    )
    golden = np.load(DATA / "fastvithd_tiny_tokens.npz")
    assert error_share(params, config, golden["image_u8"][None], golden["tokens"]) < 5e-6


@pytest.mark.slow
def test_training_form_gives_pytorchs_tokens(tmp_path):
    source = str(DATA / "fastvit_train_form.safetensors")
    config, params = store.load_vision(convert(source, tmp_path / "out", size=128, say=quiet))
    golden = np.load(DATA / "fastvit_train_form.npz")
    assert config.depths == (1, 2, 1, 1, 1)
    assert error_share(params, config, golden["frames"], golden["tokens"]) < 5e-6


def test_clip_gives_pytorchs_hidden_state(clip_converted):
    config, params = store.load_vision(clip_converted)
    assert (config.heads, config.patch, config.size, config.layers) == (4, 14, 56, 4)
    assert config.resize_mode == "crop"
    golden = np.load(DATA / "clip_tiny.npz")
    expected = golden["hidden3"][:, 1:]  # hidden_states[-2] of 4 layers
    assert error_share(params, config, golden["image_u8"][None], expected) < 5e-6


def test_language_model_is_converted_whole(released):
    config, params = store.load_language(released)
    tensors = fastvlm()
    assert (config.vocabulary, config.heads, config.kv_heads, config.tied) == (512, 4, 2, False)
    assert (config.head_width, config.projector_layers, config.qkv_bias) == (16, 2, True)
    layer = params["layer_2"]
    for ours, theirs in (
        (layer["attention"]["key"]["weight"], "model.layers.2.self_attn.k_proj.weight"),
        (layer["mlp"]["down"]["weight"], "model.layers.2.mlp.down_proj.weight"),
        (params["projector"]["linear_1"]["weight"], "model.mm_projector.2.weight"),
        (params["head"]["weight"], "lm_head.weight"),
    ):
        np.testing.assert_array_equal(ours, tensors[theirs])
    np.testing.assert_array_equal(
        params["embed"]["embedding"], tensors["model.embed_tokens.weight"]
    )
    count = sum(np.size(x) for x in store.flatten(params).values())
    assert count == sum(x.size for x in stored("vlm_tiny_language.safetensors").values())


def test_directory_holds_manifest_and_tokenizer(released):
    manifest = store.read_manifest(released)
    assert manifest["source"] == "source"  # a name, not a path
    assert str(released.parents[1]) not in (released / "manifest.json").read_text()
    assert f"{APPLE}head.proj" in manifest["ignored"]
    entry = manifest["tensors"]["vision/stem/conv_0/kernel"]
    assert (entry["shape"], entry["dtype"]) == ([3, 3, 3, 16], "float32")
    assert {"tokenizer.json", "vocab.json", "source_config.json", "LICENSE_MODEL"} <= set(
        os.listdir(released)
    )
    assert json.loads((released / "config.json").read_text())["kind"] == "fastvithd"


def test_bfloat16_rounds_matrices_only(released, tmp_path):
    source = write_directory(tmp_path / "source", fastvlm(), "vlm_tiny_config.json")
    directory = convert(str(source), tmp_path / "out", dtype="bfloat16", say=quiet)
    config, params = store.load_vision(directory)
    _, exact = store.load_vision(released)
    assert config.dtype == store.load_language(directory)[0].dtype == "bfloat16"
    for path, leaf in store.flatten(params).items():
        reference = np.asarray(store.flatten(exact)[path])
        matrix = path.endswith("weight") or path == "stem/conv_0/kernel"
        assert leaf.dtype == (jnp.bfloat16 if matrix else jnp.float32), path
        np.testing.assert_array_equal(leaf, reference.astype(leaf.dtype))
    assert same(store.load_vision(released, dtype="bfloat16")[1], params)


@pytest.mark.parametrize(
    "config",
    [
        fastvithd.FastViTHDConfig(),
        clip.CLIPConfig(width=8, layers=3, heads=2, mlp_width=16, patch=4, size=8),
        clip.CLIPConfig(
            width=8, layers=2, heads=2, mlp_width=16, patch=4, size=8, projection_width=4
        ),
        clip.CLIPConfig(
            width=8, layers=2, heads=2, mlp_width=16, patch=4, size=8,
            class_token=False, patch_bias=True,
        ),
    ],
    ids=["fastvithd", "clip", "clip with projection", "siglip"],
)  # fmt: skip
def test_expected_shapes_are_those_of_the_modules(config):
    made = jax.eval_shape(lambda: init_params(config))
    shapes = {path: leaf.shape for path, leaf in store.flatten(made).items()}
    assert expected_shapes(config) == shapes


# ---- the layouts ------------------------------------------------------------------------------


@pytest.mark.parametrize(("shards", "index"), [(3, True), (3, False)])
def test_shards(released, tmp_path, shards, index):
    source = write_directory(
        tmp_path / "source", fastvlm(), "vlm_tiny_config.json", shards=shards, index=index
    )
    directory = convert(str(source), tmp_path / "out", say=quiet)
    assert same(store.load_vision(directory)[1], store.load_vision(released)[1])
    assert same(store.load_language(directory)[1], store.load_language(released)[1])


def test_hugging_face_native_fastvlm(released, tmp_path):
    text = json.loads((DATA / "vlm_tiny_config.json").read_text())
    config = {
        "model_type": "fast_vlm",
        "text_config": {k: v for k, v in text.items() if not k.startswith("mm_")},
        "vision_config": {"model_type": "timm_wrapper", "hidden_size": 512},
        "image_token_index": 511,
        "image_seq_length": 16,
    }
    source = write_directory(tmp_path / "source", hf_fastvlm(), config)
    directory = convert(str(source), tmp_path / "out", say=quiet)
    vision, language = store.load_vision(directory), store.load_language(directory)
    assert vision[0] == store.load_vision(released)[0]
    expected = store.load_language(released)[0]
    assert language[0] == dataclasses.replace(expected, image_token_id=511)
    assert same(vision[1], store.load_vision(released)[1])
    assert same(language[1], store.load_language(released)[1])


def test_training_form_in_apples_names(tmp_path):
    timm = stored("fastvit_train_form.safetensors")
    apple = {
        APPLE + fastvithd_keys.apple(k): v for k, v in timm.items() if not k.startswith("head.")
    }
    assert f"{APPLE}network.1.proj.0.lkb_origin.bn.weight" in apple
    assert f"{APPLE}network.6.pe.weight" in apple
    assert f"{APPLE}network.0.0.token_mixer.mixer.rbr_skip.weight" in apple
    one = convert(str(DATA / "fastvit_train_form.safetensors"), tmp_path / "one", say=quiet)
    source = write_safetensors(tmp_path / "apple.safetensors", apple)
    two = convert(str(source), tmp_path / "two", say=quiet)
    assert same(store.load_vision(one)[1], store.load_vision(two)[1])


@pytest.mark.parametrize("name", ["fastvithd_tiny", "fastvit_train_form"])
def test_both_ways_of_naming_fastvithd_are_inverses(name):
    names = [k.removeprefix(APPLE) for k in stored(f"{name}.safetensors") if "head." not in k]
    for key in names:
        canonical = fastvithd_keys.canonical(key)
        assert canonical is not None
        assert fastvithd_keys.canonical(fastvithd_keys.apple(canonical)) == canonical
        assert key in (canonical, fastvithd_keys.apple(canonical))


@pytest.mark.parametrize("layout", ["vision_model", "clip_model", "llava", "openai", "float16"])
def test_clip_layouts(clip_converted, tmp_path, layout):
    bare = stored("clip_tiny.safetensors")
    tensors = {
        "vision_model": {f"vision_model.{k}": v for k, v in bare.items()},
        "clip_model": clip_model(),
        "llava": {LLAVA_CLIP + k: v for k, v in bare.items()}
        | stored("vlm_tiny_language.safetensors")
        | {"model.mm_projector.0.weight": np.ones((64, 64), np.float32)},
        "openai": openai(bare),
        "float16": {k: v.astype(np.float16) for k, v in bare.items()},
    }[layout]
    vision = json.loads((DATA / "clip_tiny_config.json").read_text())
    config = {"vision_config": vision}
    if layout == "llava":
        text = json.loads((DATA / "vlm_tiny_config.json").read_text())
        config |= {"text_config": text, "image_aspect_ratio": "pad"}
    source = write_directory(tmp_path / "source", tensors, config)
    directory = convert(str(source), tmp_path / "out", say=quiet)
    config, params = store.load_vision(directory)
    if layout == "float16":
        rounded = jax.tree.map(
            lambda x: x.astype(jnp.float16).astype(jnp.float32),
            store.load_vision(clip_converted)[1],
        )
        assert same(params, rounded)
        return
    if layout == "clip_model":
        assert config.projection_width == 32
        weight = params.pop("projection")["weight"]
        np.testing.assert_array_equal(weight, tensors["visual_projection.weight"])
        ignored = store.read_manifest(directory)["ignored"]
        assert ignored["text_projection.weight"] == "text tower"
        assert "vision_model.embeddings.position_ids" in ignored
    if layout == "llava":
        assert (config.resize_mode, config.pad_color) == ("pad", (122, 116, 104))
        assert store.load_language(directory)[0].projector_input == 64
    assert same(params, store.load_vision(clip_converted)[1])


@pytest.mark.parametrize(
    "name", ["openai_clip_zip.bin", "openai_clip_legacy.bin", "openai_clip_script.pt"]
)
def test_pytorch_files(tmp_path, name):
    directory = convert(str(DATA / name), tmp_path / "out", say=quiet)
    reference = convert(str(DATA / "openai_clip.safetensors"), tmp_path / "reference", say=quiet)
    assert same(store.load_vision(directory)[1], store.load_vision(reference)[1])
    assert store.load_vision(directory)[0].projection_width == 8


def test_open_clip_config_tells_the_activation(tmp_path):
    source = write_directory(tmp_path / "source", openai(stored("clip_tiny.safetensors")))
    document = {
        "model_cfg": {"vision_cfg": {"width": 64, "layers": 4, "head_width": 16}},
        "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
    }
    (source / "open_clip_config.json").write_text(json.dumps(document))
    config, _ = store.load_vision(convert(str(source), tmp_path / "out", say=quiet))
    assert (config.heads, config.activation, config.mean) == (4, "gelu", (0.5, 0.5, 0.5))


def test_head_equal_to_embedding_is_tied_whatever_the_config_says(tmp_path):
    tensors = fastvlm()
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
    source = write_directory(tmp_path / "source", tensors, "vlm_tiny_config.json")
    lines: list[str] = []
    directory = convert(str(source), tmp_path / "out", say=lines.append)
    config, params = store.load_language(directory)
    assert config.tied
    assert "head" not in params
    assert any("lm_head.weight (the same numbers" in line for line in lines)


def test_hub_source(monkeypatch, tmp_path, released):
    commit = tmp_path / "0123abcd"
    write_directory(commit, fastvlm(), "vlm_tiny_config.json")
    calls = []

    def snapshot_download(repo, revision, allow_patterns):
        calls.append((repo, revision))
        return str(commit)

    module = types.ModuleType("huggingface_hub")
    module.snapshot_download = snapshot_download  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    directory = convert("hf:owner/name@main", tmp_path / "out", say=quiet)
    manifest = store.read_manifest(directory)
    assert calls == [("owner/name", "main")]
    assert (manifest["source"], manifest["revision"]) == ("hf:owner/name@main", "0123abcd")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match=r"diffvis_jax\[hub\]"):
        convert("hf:owner/name", tmp_path / "other", say=quiet)


def test_a_failed_download_says_why_even_without_a_message(monkeypatch, tmp_path):
    def snapshot_download(*_, **__):
        raise TimeoutError

    module = types.ModuleType("huggingface_hub")
    module.snapshot_download = snapshot_download  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    with pytest.raises(CheckpointError, match="hf:owner/name: TimeoutError"):
        convert("hf:owner/name", tmp_path / "out", say=quiet)


def test_what_is_assumed_is_printed(tmp_path):
    lines: list[str] = []
    convert(str(DATA / "openai_clip.safetensors"), tmp_path / "out", say=lines.append)
    assert any(line.startswith("note: activation assumed") for line in lines)


# ---- what is refused --------------------------------------------------------------------------


def refused(tmp_path: Path, tensors, config: dict | str | None = TINY, **kwargs) -> str:
    """The message; checks that nothing was left behind."""
    source = write_directory(tmp_path / "source", tensors, config)
    with pytest.raises(CheckpointError) as raised:
        convert(str(source), tmp_path / "weights" / "out", say=quiet, **kwargs)
    left = tmp_path / "weights"
    assert not left.exists() or not os.listdir(left)
    return str(raised.value)


def test_all_problems_are_reported_together(tmp_path):
    tensors = fastvlm()
    del tensors[f"{APPLE}network.4.1.convffn.fc1.bias"]
    del tensors["model.layers.1.mlp.up_proj.weight"]
    tensors[f"{APPLE}network.3.proj.0.lkb_reparam.bias"] = np.zeros(63, np.float32)
    tensors["model.norm.weight"] = np.zeros(64, np.int64)
    tensors[f"{APPLE}network.2.0.adapter.weight"] = np.zeros(3, np.float32)
    tensors["model.layers.0.self_attn.q_norm.weight"] = np.zeros(16, np.float32)
    tensors["something.else"] = np.zeros(1, np.float32)
    message = refused(tmp_path, tensors)
    for expected in (
        "7 problems",
        f"missing: {APPLE}network.4.1.convffn.fc1.bias [256]",
        "missing: layers.1.mlp.up_proj.weight [160, 64]",
        f"wrong shape: {APPLE}network.3.proj.0.lkb_reparam.bias is [63], expected [64]",
        "wrong dtype: model.norm.weight is int64",
        f"unknown: {APPLE}network.2.0.adapter.weight [3]",
        "unknown: model.layers.0.self_attn.q_norm.weight [16]",
        "unknown: something.else [1]",
    ):
        assert expected in message


def test_a_missing_branch_of_the_training_form_is_missed(tmp_path):
    tensors = stored("fastvit_train_form.safetensors")
    for name in [k for k in tensors if k.startswith("stem.2.identity.")]:
        del tensors[name]
    assert "missing: stem.2.identity.weight [8]" in refused(tmp_path, tensors, None)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"mm_hidden_size": 3072}, "mm_hidden_size is 3072, the weights say 512"),
        ({"num_hidden_layers": 4}, "num_hidden_layers is 4, the weights say 3"),
        ({"num_attention_heads": 5}, "5 heads and 2 key-value heads do not fit"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "yarn"),
        ({"use_sliding_window": True}, "use_sliding_window"),
        ({"quantization_config": {"bits": 4}}, "quantised"),
    ],
)
def test_config_and_weights_must_agree(tmp_path, change, expected):
    config = json.loads((DATA / "vlm_tiny_config.json").read_text()) | change
    assert expected in refused(tmp_path, fastvlm(), config)


def test_clip_config_and_weights_must_agree(tmp_path):
    config = json.loads((DATA / "clip_tiny_config.json").read_text()) | {"image_size": 336}
    message = refused(tmp_path, stored("clip_tiny.safetensors"), config)
    assert "image_size is 336, but the positions are a grid of 4 x 4" in message


def test_heads_of_an_unknown_language_model_are_not_guessed(tmp_path):
    message = refused(tmp_path, fastvlm(), None)
    assert "config.json" in message
    assert "--vision-only" in message
    directory = convert(
        str(tmp_path / "source"), tmp_path / "out", vision_only=True, size=256, say=quiet
    )
    assert "model.norm.weight" in store.read_manifest(directory)["ignored"]
    with pytest.raises(CheckpointError, match="no language model"):
        store.load_language(directory)


def test_missing_head_of_an_untied_model(tmp_path):
    tensors = fastvlm()
    del tensors["lm_head.weight"]
    assert "missing: lm_head.weight" in refused(tmp_path, tensors)


def test_not_finite_weights_are_all_named(tmp_path):
    tensors = fastvlm()
    for name, value in (
        ("model.norm.weight", np.nan),
        (f"{APPLE}patch_embed.1.reparam_conv.bias", np.inf),
    ):
        tensors[name] = tensors[name].copy()
        tensors[name][0] = value
    message = refused(tmp_path, tensors)
    assert "not finite" in message
    assert "model.norm.weight" in message
    assert "patch_embed.1.reparam_conv.bias" in message


def test_bfloat16_nan_is_seen(tmp_path):
    tensors = {k: v.astype(ml_dtypes.bfloat16) for k, v in stored("clip_tiny.safetensors").items()}
    tensors["post_layernorm.bias"][3] = np.nan
    assert "post_layernorm.bias" in refused(tmp_path, tensors, "clip_tiny_config.json")


@pytest.mark.parametrize(
    ("tensors", "config", "expected"),
    [
        ({"classifier.weight": np.zeros((2, 2), np.float32)}, None, "no vision tower"),
        ({"visual.conv1.weight": np.zeros((2, 3, 3, 3), np.float32)}, None, "no vision tower"),
        (
            {"model.mm_projector.0.weight": np.zeros((2, 2), np.float32)},
            {"mm_vision_tower": "openai/clip-vit-large-patch14-336", "vocab_size": 2},
            "'openai/clip-vit-large-patch14-336'; tell where that is with --vision-tower",
        ),
    ],
)
def test_no_tower(tmp_path, tensors, config, expected):
    assert expected in refused(tmp_path, tensors, config)


def test_two_towers(tmp_path):
    one = stored("clip_tiny.safetensors")
    tensors = {f"{p}.{k}": v for p in ("left", "right") for k, v in one.items()}
    assert "several vision towers" in refused(tmp_path, tensors, None)


def test_size_of_a_clip_is_fixed(tmp_path):
    message = refused(tmp_path, stored("clip_tiny.safetensors"), "clip_tiny_config.json", size=70)
    assert "--size 70" in message


# ---- nothing is lost --------------------------------------------------------------------------


def test_an_existing_directory_is_kept_without_force(clip_converted, tmp_path):
    source = str(DATA / "openai_clip.safetensors")
    out = convert(source, tmp_path / "out", say=quiet)
    before = store.load_vision(out)
    with pytest.raises(CheckpointError, match="--force"):
        convert(str(DATA / "clip_tiny.safetensors"), out, say=quiet)
    assert same(store.load_vision(out)[1], before[1])
    convert(str(DATA / "clip_tiny.safetensors"), out, force=True, say=quiet)
    assert store.load_vision(out)[0].width == 64
    assert os.listdir(tmp_path) == ["out"]


def test_force_does_not_replace_what_is_not_ours(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    with pytest.raises(CheckpointError, match="not a weight directory"):
        convert(str(DATA / "openai_clip.safetensors"), out, force=True, say=quiet)
    assert (out / "thesis.tex").exists()


def test_a_failed_conversion_keeps_the_old_one(tmp_path, monkeypatch):
    out = convert(str(DATA / "openai_clip.safetensors"), tmp_path / "out", say=quiet)

    def no_space(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(writer, "write_json", no_space)
    with pytest.raises(OSError, match="no space"):
        convert(str(DATA / "clip_tiny.safetensors"), out, force=True, say=quiet)
    assert store.load_vision(out)[0].width == 16
    assert os.listdir(tmp_path) == ["out"]


# ---- the script -------------------------------------------------------------------------------


def test_script_converts(tmp_path, capsys):
    assert convert_command.main([str(DATA / "openai_clip_zip.bin"), str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "text tower" in out
    assert "peak memory" in out
    assert store.load_vision(tmp_path / "out")[0].width == 16


def test_script_reports_errors_and_fails(tmp_path, capsys):
    assert convert_command.main([str(tmp_path / "absent"), str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    target = tmp_path / "file"
    target.write_text("")
    source = str(DATA / "openai_clip.safetensors")
    assert convert_command.main([source, str(target / "out")]) == 2
    assert "error: " in capsys.readouterr().err


def test_verify_without_pytorch_names_the_extra(tmp_path, capsys, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n, *a: None if n == "torch" else find_spec(n, *a)
    )
    source = str(DATA / "openai_clip.safetensors")
    assert convert_command.main([source, str(tmp_path / "out"), "--verify"]) == 2
    assert "diffvis_jax[parity]" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_converting_needs_no_extra():
    code = (
        "import sys; import diffvis_jax.checkpoints.convert; "
        "bad = {'torch', 'safetensors', 'huggingface_hub', 'orbax', 'PIL', 'transformers'}; "
        "print(*sorted(bad & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout.strip()) == (0, ""), result.stderr
