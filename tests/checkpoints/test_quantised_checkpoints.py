"""Quantised weight directories: written, read, damaged; and the command that makes them."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from checkpoint_files import DATA
from PIL import Image
from tiny import CLIP, LANGUAGE, random_params

import diffvis_jax as dv
from diffvis_jax.checkpoints import store
from diffvis_jax.checkpoints.quantise_directory import quantise_directory
from diffvis_jax.cli import convert as command
from diffvis_jax.core.step import jit_encode
from diffvis_jax.errors import CheckpointError
from diffvis_jax.ops.quantised import QuantKernel

TEXT = dataclasses.replace(LANGUAGE, projector_input=CLIP.width)
W8A8 = dv.QuantConfig(activations=8, skip=("block_0/mlp/*",))
W8A16 = dv.QuantConfig(activations=16)
W4 = dv.QuantConfig("int4", group=16)


def spread(config):
    """Parameters whose bits do not compress: what a directory takes is then what they are."""
    rng = np.random.default_rng(3)
    return jax.tree.map(
        lambda x: jax.numpy.asarray(rng.uniform(-1, 1, x.shape), np.float32), random_params(config)
    )


@pytest.fixture(scope="module")
def floats(tmp_path_factory) -> Path:
    return store.save(
        tmp_path_factory.mktemp("floats") / "floats",
        config=CLIP,
        params=random_params(CLIP),
        language_config=TEXT,
        language_params=random_params(TEXT),
        manifest_extra={"source": "drawn", "measured": {"f1": 0.9}},
    )


@pytest.fixture(scope="module")
def trees():
    vision = dv.quantise(CLIP, random_params(CLIP), W8A8)[0]
    return vision, dv.quantise(TEXT, random_params(TEXT), W4)[0]


@pytest.fixture(scope="module")
def pristine(trees, tmp_path_factory) -> Path:
    return store.save(
        tmp_path_factory.mktemp("quantised") / "pristine",
        config=CLIP,
        params=trees[0],
        language_config=TEXT,
        language_params=trees[1],
    )


@pytest.fixture
def directory(pristine, tmp_path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "weights"))


def same(one, other) -> bool:
    assert jax.tree.structure(one) == jax.tree.structure(other)  # kinds and dtypes, too
    return all(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a == b).all()), one, other)))


def message(directory: Path, load=store.load_vision) -> str:
    with pytest.raises(CheckpointError) as raised:
        load(directory)
    return str(raised.value)


def test_round_trip(pristine, trees):
    (config, vision), (text, language) = store.load_vision(pristine), store.load_language(pristine)
    assert (config, text) == (CLIP, TEXT)
    assert same(vision, trees[0])
    assert same(language, trees[1])
    frames = np.random.default_rng(0).integers(0, 256, (1, 36, 36, 3), np.uint8)
    tokens = (np.asarray(jit_encode(params, frames, config=CLIP)) for params in (vision, trees[0]))
    assert len({each.tobytes() for each in tokens}) == 1


def test_what_the_config_says(pristine, floats):
    said = json.loads((pristine / "config.json").read_text())["quantisation"]
    assert said["vision"]["kind"] == "w8a8"
    assert "block_0/mlp/fc1/weight" in said["vision"]["kept"]
    assert (said["language"]["kind"], said["language"]["group"]) == ("w4", 16)
    assert "quantisation" not in json.loads((floats / "config.json").read_text())
    versions = (json.loads((d / "manifest.json").read_text()) for d in (pristine, floats))
    assert len({each["format_version"] for each in versions}) == 1


def test_quantised_matrices_are_not_cast(pristine):
    with pytest.raises(
        CheckpointError, match="are not cast to bfloat16: load them with dtype=None"
    ):
        dv.load(pristine, dtype="bfloat16")
    model = dv.load(pristine, dtype="float32", decode_dtype="auto")  # as it is
    assert model.language.decode_params is None
    with pytest.raises(CheckpointError, match="are not cast to bfloat16"):
        _ = dv.load(pristine, decode_dtype="bfloat16").language


def test_a_quantised_decoder_is_not_split(pristine):
    mesh = jax.make_mesh((2,), ("model",), devices=jax.devices()[:2])
    with pytest.raises(dv.ConfigError, match="not split over several devices"):
        store.load_language(pristine, mesh=mesh)


def test_bytes_on_disk_are_those_accounted_for(tmp_path):
    config = dv.CLIPConfig(width=256, layers=3, heads=4, mlp_width=1024, patch=8, size=32)
    for name in ("int8", "w8a16"):
        params, report = dv.quantise(config, spread(config), dv.QuantConfig.named(name))
        written = store.save(tmp_path / name, config=config, params=params)
        files = (written / "vision").rglob("*")
        size = sum(file.stat().st_size for file in files if file.is_file())
        assert size == pytest.approx(report.after, rel=0.03)
        assert report.after < 0.4 * report.before


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda q: q.update(kind="w3"), "quantisation cannot be"),
        (lambda q: q.update(kind=["w8"]), "quantisation cannot be"),
        (lambda q: q.update(group=8), "quantisation cannot be"),
        (lambda q: q.update(kept="all"), "quantisation cannot be"),
        (lambda q: q["kept"].append("block_7/mlp/fc1/weight"), "unknown, in quantisation"),
        (lambda q: q["kept"].append("block_1/mlp/fc1/weight"), "block_1/mlp/fc1/weight: missing"),
        (lambda q: q.update(kind="w4", group=16), "int8, expected uint8"),
    ],
)
def test_a_config_that_says_something_else(directory, change, told):
    # The checksum would tell as well: this is what is said without it.
    document = json.loads((directory / "config.json").read_text())
    change(document["quantisation"]["vision"])
    (directory / "config.json").write_text(json.dumps(document))
    manifest = json.loads((directory / "manifest.json").read_text())
    manifest["files"]["config.json"]["size"] = (directory / "config.json").stat().st_size
    (directory / "manifest.json").write_text(json.dumps(manifest))
    assert told in message(directory, lambda d: store.load_vision(d, verify=False))


def test_matrices_of_several_kinds_are_not_written(trees, tmp_path):
    other = dv.quantise(CLIP, random_params(CLIP), dv.QuantConfig())[0]
    mixed = {**trees[0], "block_1": other["block_1"]}
    with pytest.raises(CheckpointError, match="of several kinds"):
        store.save(tmp_path / "mixed", config=CLIP, params=mixed)
    assert not (tmp_path / "mixed").exists()


# ---- directories into directories --------------------------------------------------------------


def test_a_directory_is_quantised(floats, tmp_path):
    quant = dv.QuantConfig(skip=("language/layer_1/*",))
    report = quantise_directory(floats, tmp_path / "out", quant, say=lambda _: None)
    expected, told = dv.quantise(CLIP, random_params(CLIP), dv.QuantConfig())
    assert same(store.load_vision(tmp_path / "out")[1], expected)
    language = store.load_language(tmp_path / "out")[1]
    assert isinstance(language["layer_0"]["mlp"]["up"]["weight"], QuantKernel)
    assert not isinstance(language["layer_1"]["mlp"]["up"]["weight"], QuantKernel)
    assert {each.path for each in told.matrices} < {each.path for each in report.matrices}
    manifest = store.read_manifest(tmp_path / "out")
    assert manifest["source"] == "drawn"
    assert manifest["quantised_from"]["name"] == "floats"
    assert "measured" not in manifest  # of the floats


def test_a_head_is_copied_and_the_rest_cast(grounding_model, tmp_path):
    head = grounding_model.head
    source = store.save(
        tmp_path / "floats",
        config=grounding_model.config,
        params=grounding_model.params,
        grounding_config=head.config,
        grounding_params=head.params,
    )
    quantise_directory(source, tmp_path / "out", W8A16, dtype="bfloat16", say=lambda _: None)
    assert same(store.load_grounding(tmp_path / "out")[1], head.params)
    config, params = store.load_vision(tmp_path / "out")
    assert config.dtype == "bfloat16"
    kernel = params["stage_0"]["block_0"]["ffn"]["fc1"]["weight"]
    assert (kernel.kind, kernel.dtype) == ("w8a16", "bfloat16")
    assert params["head"]["gate"]["reduce"]["weight"].dtype == "bfloat16"


def test_what_is_refused(floats, pristine, tmp_path):
    for source, target, told in (
        (pristine, tmp_path / "out", r"vision is quantised already \(w8a8\)"),
        (floats, floats, "would replace what it is made from"),
        (floats, pristine, "exists already"),
        (tmp_path / "nowhere", tmp_path / "out", "no such directory"),
    ):
        with pytest.raises(CheckpointError, match=told):
            quantise_directory(source, target, W8A16)
    assert not (tmp_path / "out").exists()


# ---- the command -------------------------------------------------------------------------------


def test_command_on_a_directory(floats, tmp_path, capsys):
    assert (
        command.main([str(floats), str(tmp_path / "out"), "--quantise", "int4", "--group", "16"])
        == 0
    )
    said = capsys.readouterr().out
    assert "int4: 14 matrices" in said
    assert "bytes" in said
    assert not any(
        isinstance(leaf, QuantKernel)
        for leaf in jax.tree.leaves(
            store.load_vision(tmp_path / "out")[1], is_leaf=lambda x: isinstance(x, QuantKernel)
        )
    )


def test_command_on_a_pytorch_checkpoint(tmp_path, capsys):
    source = tmp_path / "clip.safetensors"
    shutil.copy(DATA / "clip_tiny.safetensors", source)
    arguments = [str(source), str(tmp_path / "out"), "--quantise", "w8a16", "--report"]
    assert command.main(arguments) == 0
    assert "vision/mlp/fc1" in capsys.readouterr().out
    assert command.main([str(source), str(tmp_path / "floats")]) == 0
    config, params = store.load_vision(tmp_path / "floats")
    assert same(store.load_vision(tmp_path / "out")[1], dv.quantise(config, params, W8A16)[0])


@pytest.mark.slow
def test_command_reports_on_frames(floats, tmp_path, capsys):
    (tmp_path / "frames").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (36, 36, 3), np.uint8)
    for name in ("a.png", "b.png"):
        Image.fromarray(pixels).save(tmp_path / "frames" / name)
        pixels[:8, :8] ^= 255
    arguments = [str(floats), str(tmp_path / "out"), "--quantise", "w8a8", "--vision-only"]
    assert command.main([*arguments, "--report", str(tmp_path / "frames")]) == 0
    said = capsys.readouterr().out
    for name in ("token error", "error of the change", "jitter of the stream"):
        assert f"{name}: " in said


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--skip", "x"], "belong to --quantise"),
        (["--quantise", "int8", "--group", "32"], "--group is for --quantise int4"),
        (["--quantise", "int9"], "invalid choice"),
    ],
)
def test_a_wrong_command_line(arguments, told, capsys):
    with pytest.raises(SystemExit):
        command.parse_arguments(["source", "target", *arguments])
    assert told in capsys.readouterr().err


def test_the_command_names_what_is_wrong(floats, tmp_path, capsys):
    lone = tmp_path / "lone.png"
    Image.new("RGB", (40, 40)).save(lone)
    torch = str(DATA / "clip_tiny.safetensors")
    for source, further, told in (
        (str(floats), ["--size", "32"], "is converted already"),
        (str(floats), ["--report", str(lone)], "one frame shows no change"),
        (torch, ["--report", str(lone)], "the floats are needed"),
        (str(floats), ["--skip", "block_9/*"], "no matrix is called 'block_9/*'"),
    ):
        target = str(tmp_path / "out")
        assert command.main([source, target, "--quantise", "w8a8", *further]) == 2
        assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
