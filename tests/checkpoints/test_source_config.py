"""What the files beside the weights add to a plan; what is assumed without them; their mistakes."""

import re

import numpy as np
import pytest
from checkpoint_files import DATA

from diffvis_jax.checkpoints.conversion_plan import Plan, make_plan
from diffvis_jax.checkpoints.formats.open import open_checkpoint
from diffvis_jax.checkpoints.formats.tensors import Tensor
from diffvis_jax.checkpoints.keys import fastvithd as fastvithd_keys
from diffvis_jax.checkpoints.source_config import SourceConfig, read_source_config
from diffvis_jax.errors import CheckpointError
from diffvis_jax.towers.fastvithd import FastViTHDConfig

FASTVIT, CLIP = "fastvit_train_form", "clip_tiny"
ALL_OF_CLIP = {"num_attention_heads": 4, "hidden_act": "gelu"}


def plan(
    file: str = FASTVIT,
    config: dict | None = None,
    preprocessor: dict | None = None,
    open_clip: dict | None = None,
    **kwargs,
) -> Plan:
    tensors = open_checkpoint(DATA / f"{file}.safetensors").tensors
    source = SourceConfig(config or {}, preprocessor or {}, {}, open_clip or {})
    return make_plan(tensors, source, **kwargs)


def open_clip(vision: dict, **preprocess) -> dict:
    return {"model_cfg": {"vision_cfg": vision}, "preprocess_cfg": preprocess}


# ---- what the files tell ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("theirs", "ours", "color"),
    [
        ({"resize_mode": "shortest"}, "crop", (0, 0, 0)),
        ({"resize_mode": "squash"}, "squash", (0, 0, 0)),
        ({"resize_mode": "longest", "mean": [0.5] * 3, "std": [0.5] * 3}, "pad", (0, 0, 0)),
        ({"resize_mode": "longest", "fill_color": 9}, "pad", (9, 9, 9)),
        ({}, "crop", (0, 0, 0)),
    ],
)
def test_open_clip_tells_size_and_resizing_of_a_fastvithd(theirs, ours, color):
    found = plan(open_clip=open_clip({"image_size": 256}, **theirs))
    assert (found.config.size, found.config.resize_mode) == (256, ours)
    assert found.config.pad_color == color
    assert not found.notes


@pytest.mark.parametrize(
    "files",
    [
        {"config": {"pretrained_cfg": {"input_size": [3, 256, 256]}}},
        {"preprocessor": {"crop_size": {"height": 256, "width": 256}}},
        {"preprocessor": {"size": {"shortest_edge": 256}}},
        {"preprocessor": {"crop_size": {"longest_edge": 980}, "size": [256, 256]}},
        {"config": {"image_seq_length": 16}},
    ],
)
def test_size_of_a_fastvithd_elsewhere(files):
    assert plan(**files).config.size == 256


def test_a_square_is_a_side():
    assert plan(CLIP, config=ALL_OF_CLIP | {"image_size": [56, 56]}).config.size == 56


def test_open_clip_leaves_out_the_usual_width_of_heads():
    found = plan(CLIP, open_clip=open_clip({"width": 64, "layers": 4}))
    assert found.config.heads == 1
    assert not found.notes


# ---- what is assumed --------------------------------------------------------------------------


def test_a_fastvithd_by_itself():
    found = plan()
    assert (found.config.size, found.config.resize_mode) == (1024, "pad")
    (mode,) = (note for note in found.notes if "'pad'" in note)
    (size,) = (note for note in found.notes if "1024 px" in note)
    assert "--size changes it" in size
    assert plan(size=128).notes == [mode]


def test_a_clip_by_itself():
    notes = plan(CLIP).notes
    (activation,) = (note for note in notes if "activation assumed" in note)
    assert "quick_gelu; --activation changes it" in activation
    (heads,) = (note for note in notes if "heads assumed" in note)
    assert "1; a config.json with num_attention_heads" in heads
    assert plan(CLIP, activation="gelu").notes == [heads]
    assert plan(CLIP, config={"num_attention_heads": 4}).notes == [activation]
    assert not plan(CLIP, config=ALL_OF_CLIP).notes


@pytest.mark.parametrize(
    "named",
    [
        {"mm_vision_tower": "mobileclip_l_1024"},
        {"vision_config": {"architecture": "fastvit_mci3.apple_mclip2"}},
    ],
)
@pytest.mark.parametrize("lost", [False, True])
def test_a_tower_that_lost_its_last_block(named, lost):
    tensors = {
        name: Tensor(name, shape, np.dtype(np.float32), "file", lambda: np.zeros(0))
        for rule in fastvithd_keys.rules(FastViTHDConfig())
        for name, shape in rule.sources.items()
        if not (lost and name.startswith("stages.2.blocks.23."))
    }
    source = SourceConfig({"image_aspect_ratio": "pad"} | named, {}, {}, {})
    found = make_plan(tensors, source, size=1024)
    assert found.config.depths == (2, 12, 23 if lost else 24, 4, 2)
    assert bool(found.notes) == lost
    assert all("(2, 12, 24, 4, 2)" in note and "lost" in note for note in found.notes)


# ---- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "files", "expected"),
    [
        (FASTVIT, {"size": 0}, "size must be a positive whole number, got 0"),
        (FASTVIT, {"size": -64}, "size must be a positive whole number, got -64"),
        (
            FASTVIT,
            {"config": {"pretrained_cfg": {"input_size": [3, 256, 224]}}},
            "config.json: input_size must be the side of a square in whole pixels, got [3, 256, 22",
        ),
        (
            FASTVIT,
            {"config": {"image_seq_length": -1}},
            "image_seq_length must be a positive whole number",
        ),
        (
            FASTVIT,
            {"open_clip": open_clip({"image_size": "256"})},
            "open_clip_config.json: image_size must be the side of a square",
        ),
        (
            FASTVIT,
            {"open_clip": open_clip({"image_size": 256}, resize_mode=["longest"])},
            "open_clip_config.json: resize_mode must be one of shortest, longest, squash, got",
        ),
        (
            FASTVIT,
            {"preprocessor": {"image_mean": [0, 0, "0"], "image_std": [1, 1, 1]}},
            "preprocessor_config.json: image_mean must be three numbers, got [0, 0, '0']",
        ),
        (
            CLIP,
            {"config": {"num_attention_heads": "x"}},
            "config.json: num_attention_heads must be a positive whole number, got 'x'",
        ),
        (
            CLIP,
            {"config": ALL_OF_CLIP | {"image_size": [56, 70]}},
            "config.json: image_size must be the side of a square in whole pixels, got [56, 70]",
        ),
        (
            CLIP,
            {"config": ALL_OF_CLIP | {"layer_norm_eps": "small"}},
            "config.json: layer_norm_eps must be a number, got 'small'",
        ),
        (
            CLIP,
            {"config": ALL_OF_CLIP | {"hidden_act": ["gelu"]}},
            "config.json: hidden_act must be a text, got ['gelu']",
        ),
        (CLIP, {"config": ALL_OF_CLIP | {"hidden_act": "relu"}}, "activation 'relu' is none of"),
        (CLIP, {"config": {"num_attention_heads": 3}}, "width 64 does not divide into 3 heads"),
    ],
)
def test_values_that_make_no_sense(file, files, expected):
    with pytest.raises(CheckpointError, match=re.escape(expected)):
        plan(file, **files)


@pytest.mark.parametrize(
    "config", [{"pretrained_cfg": None}, {"pretrained_cfg": "x"}, {"vision_config": None}]
)
def test_sections_without_content_are_as_good_as_not_there(config):
    assert plan(config=config).config == plan().config


def test_a_file_that_is_no_object(tmp_path):
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"config\.json: not a JSON object"):
        read_source_config(tmp_path)
