"""Weight directories: a round trip, and every kind of damage."""

import json
import shutil
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffvis_jax as dv
from diffvis_jax.checkpoints import store, writer
from diffvis_jax.checkpoints.architectures import expected_shapes
from diffvis_jax.errors import CheckpointError
from diffvis_jax.language.config import DecoderConfig
from diffvis_jax.towers.clip import CLIPConfig

CONFIG = CLIPConfig(width=8, layers=2, heads=2, mlp_width=16, patch=4, size=8)
LANGUAGE = DecoderConfig(
    vocabulary=20, width=8, layers=1, heads=2, kv_heads=1, head_width=4, mlp_width=12,
    projector_layers=1, projector_input=8,
)  # fmt: skip


def parameters(config, seed=0) -> dict:
    rng = np.random.default_rng(seed)
    return store.unflatten(
        {
            path: jnp.asarray(rng.standard_normal(shape), jnp.float32)
            for path, shape in expected_shapes(config).items()
        }
    )


@pytest.fixture(scope="module")
def pristine(tmp_path_factory) -> Path:
    return store.save(
        tmp_path_factory.mktemp("store") / "pristine",
        config=CONFIG,
        params=parameters(CONFIG),
        language_config=LANGUAGE,
        language_params=parameters(LANGUAGE, 1),
        manifest_extra={"source": "trained here"},
    )


@pytest.fixture
def directory(pristine, tmp_path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "weights"))


def edit(file: Path, change) -> None:
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))


def message(directory: Path, load=store.load_vision) -> str:
    with pytest.raises(CheckpointError) as raised:
        load(directory)
    return str(raised.value)


def test_round_trip(pristine):
    config, params = store.load_vision(pristine)
    language_config, language_params = store.load_language(pristine)
    assert (config, language_config) == (CONFIG, LANGUAGE)
    assert hash(config) == hash(CONFIG)  # configs are static arguments
    expected = (parameters(CONFIG), parameters(LANGUAGE, 1))
    for one, other in zip((params, language_params), expected, strict=True):
        assert jax.tree.structure(one) == jax.tree.structure(other)
        assert all(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a == b).all()), one, other)))
    assert store.read_manifest(pristine)["source"] == "trained here"


def test_many_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "_PART_BYTES", 500)
    params = parameters(CONFIG)
    written = store.save(tmp_path / "out", config=CONFIG, params=params)
    assert len(list((written / "vision").iterdir())) > 2
    loaded = store.load_vision(written)[1]
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a == b).all()), loaded, params)))


def test_a_full_disk_is_told_before_anything_is_written(tmp_path, monkeypatch):
    usage = types.SimpleNamespace(free=1000)
    monkeypatch.setattr(writer.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(CheckpointError, match=r"do not fit into .* make room"):
        store.save(tmp_path / "out", config=CONFIG, params=parameters(CONFIG))
    assert not list(tmp_path.iterdir())


def test_dtype_on_saving_and_loading(pristine, tmp_path):
    config, params = store.load_vision(pristine, dtype="bfloat16")
    assert config.dtype == "bfloat16"
    assert params["block_0"]["mlp"]["fc1"]["weight"].dtype == jnp.bfloat16
    assert params["block_0"]["mlp"]["fc1"]["bias"].dtype == jnp.float32
    assert params["embed"]["position"].dtype == jnp.float32
    again = store.save(tmp_path / "out", config=config, params=params)
    assert store.load_vision(again)[1]["projection" if CONFIG.projection_width else "post"]
    assert store.load_vision(again)[0] == config


@pytest.mark.parametrize(
    ("path", "shape", "expected"),
    [
        ("stem/conv_0/kernel", (3, 3, 3, 96), "bfloat16"),
        ("stem/conv_1/kernel", (3, 3, 1, 96), "float32"),
        (("block_0", "ffn", "fc1", "weight"), (384, 96), "bfloat16"),
        ("embed/embedding", (512, 64), "bfloat16"),
        ("embed/position", (577, 1024), "float32"),
        ("block_0/ffn/fc1/bias", (384,), "float32"),
    ],
)
def test_storage_dtype(path, shape, expected):
    assert store.storage_dtype(path, shape, "bfloat16").name == expected
    assert store.storage_dtype(path, shape, "float32").name == "float32"


def test_parameters_must_fit_the_config(tmp_path):
    params = parameters(CONFIG)
    del params["post"]["norm_bias"]
    params["post"]["extra"] = jnp.zeros(3)
    params["embed"]["class_token"] = jnp.zeros(9)
    with pytest.raises(CheckpointError) as raised:
        store.save(tmp_path / "out", config=CONFIG, params=params)
    for expected in (
        "vision/post/norm_bias: missing",
        "vision/post/extra: unknown",
        "vision/embed/class_token: shape [9], expected [8]",
    ):
        assert expected in str(raised.value)
    assert not list(tmp_path.iterdir())


# ---- damage -----------------------------------------------------------------------------------


def largest(directory: Path, tree: str) -> Path:
    return max((directory / tree).rglob("*"), key=lambda p: p.stat().st_size if p.is_file() else -1)


def test_missing_directory(tmp_path):
    assert "no such directory" in message(tmp_path / "absent")


def test_files_do_not_say_where_they_were_written(pristine):
    files = [path for path in pristine.rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if bytes(pristine.parent) in path.read_bytes()]


def test_half_written_directory(directory):
    (directory / "manifest.json").unlink()
    assert "half-written" in message(directory)


def test_foreign_directory(tmp_path):
    (tmp_path / "model.safetensors").write_text("")
    assert "convert it first" in message(tmp_path)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda m: m.update(format="flax"), "not of this library"),
        (lambda m: m.update(format_version=99), "format version 99"),
        (lambda m: m.pop("tensors"), "manifest.json is damaged"),
        (lambda m: m["tensors"].pop("vision/post/norm_bias"), "vision/post/norm_bias: missing"),
        (
            lambda m: m["tensors"]["vision/post/norm_bias"].update(shape=[9]),
            "vision/post/norm_bias: shape [9], expected [8]",
        ),
        (
            lambda m: m["tensors"]["vision/post/norm_bias"].update(dtype="bfloat16"),
            "vision/post/norm_bias: bfloat16, expected float32",
        ),
        (
            lambda m: m["tensors"]["vision/post/norm_bias"].pop("crc32"),
            "vision/post/norm_bias: malformed",
        ),
        (
            lambda m: m["tensors"]["vision/post/norm_bias"].update(crc32=1),
            "vision/post/norm_bias: checksum differs",
        ),
        (
            lambda m: m["files"].update({"vision/part_00/_METADATA": 3}),
            "vision/part_00/_METADATA: malformed entry in manifest.json",
        ),
        (
            lambda m: m["tensors"].update(
                {"vision/x": {"shape": [1], "dtype": "float32", "crc32": 0, "part": 0}}
            ),
            "vision/x: unknown",
        ),
    ],
)
def test_damaged_manifest(directory, change, expected):
    edit(directory / "manifest.json", change)
    assert expected in message(directory)


@pytest.mark.parametrize("name", ["manifest.json", "config.json"])
def test_unreadable_json(directory, name):
    file = directory / name
    file.write_text(file.read_text()[:50])
    assert f"{name}: cannot be read" in message(directory)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda c: c.update(kind="resnet"), "kind 'resnet'"),
        (lambda c: c["vision"].update(colour="blue"), "unknown fields ['colour']"),
        (lambda c: c["vision"].update(layers=3), "vision/block_2/mlp/fc1/weight: missing"),
        (lambda c: c["vision"].update(heads=3), "does not divide into 3 heads"),
        (lambda c: c["vision"].update(heads=0), "config.json: heads must be a positive whole"),
        (lambda c: c["vision"].update(dtype="bfloat16"), "expected bfloat16"),
        (lambda c: c["vision"].update(class_token=None), "class_token cannot be None"),
        (lambda c: c["vision"].update(norm_epsilon="1e-5"), "norm_epsilon cannot be '1e-5'"),
        (lambda c: c["vision"].update(mean=[0, 0, None]), "mean cannot be (0, 0, None)"),
        (lambda c: c["vision"].update(layers=10**9), "vision: 1000000000 layers, but 35 tensors"),
    ],
)
def test_edited_config(directory, change, expected):
    edit(directory / "config.json", change)
    assert expected in message(directory)


def test_a_config_that_fits_the_shapes_but_was_changed(directory):
    config = directory / "config.json"
    config.write_text(config.read_text().replace('"heads": 2', '"heads": 4', 1))
    assert "config.json: checksum differs, its data was changed" in message(directory)
    assert "config.json: checksum differs" in message(directory, store.load_language)


def test_directories_from_before_configs_had_a_checksum(directory):
    edit(directory / "manifest.json", lambda m: m["files"].pop("config.json"))
    assert store.load_vision(directory)[0] == CONFIG


def test_missing_file(directory):
    file = largest(directory, "vision")
    file.unlink()
    assert f"{file.relative_to(directory).as_posix()}: missing" in message(directory)
    store.load_language(directory)  # is whole


def test_truncated_file(directory):
    file = largest(directory, "language")
    file.write_bytes(file.read_bytes()[:-10])
    assert "bytes, expected" in message(directory, store.load_language)
    store.load_vision(directory)


def flip_bits(file: Path) -> None:
    data = bytearray(file.read_bytes())
    for at in range(len(data) // 2, min(len(data) // 2 + 8, len(data))):
        data[at] ^= 0xFF
    file.write_bytes(bytes(data))


def test_flipped_bits_in_any_file(pristine, tmp_path):
    for tree, load in (("vision", store.load_vision), ("language", store.load_language)):
        files = [p.relative_to(pristine) for p in (pristine / tree).rglob("*") if p.is_file()]
        directory = Path(shutil.copytree(pristine, tmp_path / tree))
        for file in files:
            if (directory / file).stat().st_size:
                flip_bits(directory / file)
        for file in files:
            if (directory / file).stat().st_size:
                assert f"{file.as_posix()}: checksum differs" in message(directory, load)


@pytest.mark.parametrize("tree", ["vision", "language"])
def test_large_files_are_checked_as_they_are_loaded(directory, tree, monkeypatch):
    monkeypatch.setattr(store, "_LARGE", 0)
    load = store.load_vision if tree == "vision" else store.load_language
    load(directory)
    for file in (directory / tree).rglob("d/*"):
        flip_bits(file)
    assert "damaged, convert the checkpoint again" in message(directory, load)


def test_loading_reads_no_large_file_for_its_checksum_alone(directory, monkeypatch):
    read = []
    monkeypatch.setattr(store, "file_checksum", lambda file: read.append(file.name))
    monkeypatch.setattr(store, "_LARGE", 0)
    store.load_vision(directory)
    assert not read


def test_without_verification(directory, monkeypatch):
    edit(
        directory / "manifest.json", lambda m: m["tensors"]["vision/post/norm_bias"].update(crc32=1)
    )
    edit(directory / "config.json", lambda c: c.update(note="changed"))
    size = (directory / "config.json").stat().st_size
    edit(directory / "manifest.json", lambda m: m["files"]["config.json"].update(size=size))
    assert "checksum differs" in message(directory)
    assert dv.load(directory, verify=False).config == CONFIG
    assert store.load_language(directory, verify=False)[0] == LANGUAGE
    largest(directory, "vision").unlink()
    with pytest.raises(CheckpointError, match="missing"):
        dv.load(directory, verify=False)


def test_whatever_orbax_raises_becomes_a_checkpoint_error(directory, monkeypatch):
    import orbax.checkpoint as ocp

    def restore(*_):
        raise RuntimeError("DATA_LOSS: it is gone\nand a hundred lines more")

    monkeypatch.setattr(ocp.StandardCheckpointer, "restore", restore)
    found = message(directory)
    assert "vision/part_00: cannot be read (DATA_LOSS: it is gone)" in found


def test_weights_of_another_directory(directory, tmp_path):
    other = store.save(tmp_path / "other", config=CONFIG, params=parameters(CONFIG, 7))
    shutil.rmtree(directory / "vision")
    shutil.copytree(other / "vision", directory / "vision")
    assert "damaged" in message(directory)


def test_no_language_model(tmp_path):
    written = store.save(tmp_path / "out", config=CONFIG, params=parameters(CONFIG))
    assert "no language model" in message(written, store.load_language)


def test_a_step_on_loaded_weights_is_compiled_once(tmp_path, clip, compilations):
    model = dv.load(store.save(tmp_path / "clip", config=clip.config, params=clip.params))
    step, frame = dv.make_step(model.config), clip.frames()[:1]
    cache = step(model.params, dv.init_cache(model.config), frame)[1]
    compilations.clear()
    step(model.params, cache, frame + 1)
    assert not compilations
