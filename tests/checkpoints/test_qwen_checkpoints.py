"""Checkpoints of Qwen2.5-VL: strictness about tensors, and what is done about every field."""

import json

import numpy as np
import pytest
from checkpoint_files import DATA, nested_qwen_vl_config, qwen_vl, stored, write_directory

from diffvis_jax.checkpoints.conversion_plan import make_plan
from diffvis_jax.checkpoints.convert import convert
from diffvis_jax.checkpoints.formats.tensors import Tensor
from diffvis_jax.checkpoints.source_config import SourceConfig
from diffvis_jax.errors import CheckpointError
from diffvis_jax.towers.qwen2_5_vl import Qwen25VisionConfig

FLAT = json.loads((DATA / "qwen2_5_vl_tiny_config.json").read_text())
PREPROCESSOR = json.loads((DATA / "qwen2_5_vl_tiny_preprocessor.json").read_text())
ARRAYS = qwen_vl()
CONFIGS = {"flat": FLAT, "nested": nested_qwen_vl_config()}


def headers(arrays) -> dict[str, Tensor]:
    return {
        name: Tensor(name, x.shape, x.dtype, "file", lambda x=x: x) for name, x in arrays.items()
    }


def plan(config=FLAT, preprocessor=PREPROCESSOR, arrays=ARRAYS, generation=None, **kwargs):
    source = SourceConfig(config=config, preprocessor=preprocessor, generation=generation or {})
    return make_plan(headers(arrays), source, **{"vision_only": True, **kwargs})


def refusal(**kwargs) -> str:
    with pytest.raises(CheckpointError) as raised:
        plan(**kwargs)
    return str(raised.value)


def vision(**changes) -> dict:
    return FLAT | {"vision_config": FLAT["vision_config"] | changes}


@pytest.mark.parametrize("spelling", ["flat", "nested"])
def test_both_spellings_are_read_without_a_note(spelling):
    made = plan(CONFIGS[spelling])
    assert made.notes == []
    assert made.config.heads == 4
    assert made.config.full_blocks == (2, 5)


def test_what_no_file_tells_is_assumed_and_said():
    arrays = {name: x for name, x in ARRAYS.items() if name.startswith("visual.")}
    arrays |= {  # deep enough for the default's full blocks
        name.replace("blocks.5.", f"blocks.{block}."): x
        for block in range(6, 32)
        for name, x in arrays.items()
        if ".blocks.5." in name
    }
    made = plan({"num_heads": 4}, {}, arrays)
    assert made.config.heads == Qwen25VisionConfig.heads or made.config.width == 80
    assert made.notes == [
        "assumed of the vision tower, as no file tells: full_blocks (7, 15, 23, 31), window 112",
        "min_pixels of an image assumed, as no file tells: 3136",
        "max_pixels of an image assumed, as no file tells: 12845056",
    ]


def test_missing_unknown_and_misshapen_tensors():
    arrays = dict(ARRAYS)
    del arrays["visual.blocks.3.attn.qkv.bias"]
    arrays["visual.blocks.1.norm1.bias"] = np.zeros(80, np.float32)
    arrays["visual.blocks.6.norm1.weight"] = np.zeros(80, np.float32)
    arrays["visual.merger.mlp.2.bias"] = np.zeros(65, np.float32)
    said = refusal(arrays=arrays, config=vision(depth=7))
    assert "missing: visual.blocks.3.attn.qkv.bias [240]" in said
    assert "unknown: visual.blocks.1.norm1.bias [80]" in said
    assert "missing: visual.blocks.6.norm2.weight [80]" in said
    assert "wrong shape: visual.merger.mlp.2.bias is [65], expected [64]" in said


def test_two_layouts_in_one_checkpoint():
    one, other = "visual.patch_embed.proj.weight", "model.visual.patch_embed.proj.weight"
    gate = "visual.blocks.0.mlp.gate_proj.weight"
    arrays = ARRAYS | {other: ARRAYS[one], f"model.{gate}": ARRAYS[gate]}
    assert "several vision towers, with the prefixes model.visual., visual." in refusal(
        arrays=arrays
    )


def test_the_tower_of_an_older_model_is_another():
    arrays = {
        name.replace("gate_proj", "fc1"): x
        for name, x in ARRAYS.items()
        if "up_proj" not in name and name.startswith("visual.")
    }
    assert "model_type is 'qwen2_vl'" in refusal(arrays=arrays, config={"model_type": "qwen2_vl"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": 5}, "depth is 5, the weights say 6"),
        ({"hidden_size": 96}, "hidden_size is 96, the weights say 80"),
        ({"intermediate_size": 1}, "intermediate_size is 1, the weights say 108"),
        ({"out_hidden_size": 1}, "out_hidden_size is 1, the weights say 64"),
        ({"patch_size": 16}, "patch_size is 16, the weights say 14"),
        ({"spatial_patch_size": 16}, "spatial_patch_size is 16, the weights say 14"),
        ({"spatial_merge_size": 1}, "spatial_merge_size is 1, the weights say 2"),
        ({"temporal_patch_size": 1}, "temporal_patch_size is 1, which means another number"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu', which means another activation"),
        ({"in_chans": 4}, "in_chans is 4, which means images of other channels"),
        ({"num_heads": 3}, "width 80 does not divide into 3 heads"),
        ({"fullatt_block_indexes": [2, 6]}, "full_blocks must be ascending numbers of the 6"),
        ({"fullatt_block_indexes": "2"}, "fullatt_block_indexes must be a list of whole numbers"),
        ({"window_size": 100}, "window 100 must be a multiple of patch x merge = 28"),
        ({"model_type": "qwen2_vl"}, "model_type is 'qwen2_vl', which means another tower"),
    ],
)
def test_what_a_tower_cannot_be(change, message):
    assert message in refusal(config=vision(**change))


def test_an_unknown_field_is_noted():
    assert plan(vision(shortcut=3)).notes == [
        "config.json: not known here, and without effect: vision_config.shortcut"
    ]


@pytest.mark.parametrize(
    ("change", "bounds"),
    [
        ({"min_pixels": 6272, "max_pixels": 1_003_520}, (6272, 1_003_520)),
        (
            {
                "min_pixels": None,
                "max_pixels": None,
                "size": {"shortest_edge": 3200, "longest_edge": 99_000},
            },
            (3200, 99_000),
        ),
    ],
)
def test_bounds_of_an_image(change, bounds):
    config = plan(preprocessor=PREPROCESSOR | change).config
    assert (config.min_pixels, config.max_pixels) == bounds


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_pixels": 700}, "max_pixels 700 must be at least"),
        ({"merge_size": 4}, "preprocessor_config.json: merge_size is 4, the weights say 2"),
        ({"patch_size": 16}, "preprocessor_config.json: patch_size is 16, the weights say 14"),
        ({"temporal_patch_size": 1}, "temporal_patch_size is 1, which means another number"),
        ({"do_center_crop": True}, "do_center_crop is True, which means images that are cut"),
        ({"do_resize": False}, "do_resize is False, which means images that are not resized"),
        ({"image_processor_type": "CLIPImageProcessor"}, "which means another image processor"),
    ],
)
def test_what_a_processor_cannot_do(change, message):
    assert message in refusal(preprocessor=PREPROCESSOR | change)


@pytest.mark.parametrize("option", ["size", "activation"])
def test_options_of_other_towers(option):
    value = {"size": 336, "activation": "gelu"}[option]
    assert f"--{option} is for" in refusal(**{option: value})


@pytest.mark.parametrize("spelling", ["flat", "nested"])
def test_the_decoder_is_read_from_both_spellings(spelling):
    made = plan(CONFIGS[spelling], vision_only=False)
    config = made.language_config
    assert config is not None
    assert (config.mrope_section, config.rope_theta, config.tied) == ((2, 3, 3), 1e6, False)
    assert (config.heads, config.kv_heads, config.head_width) == (4, 2, 16)
    assert (config.projector_layers, config.projector_input) == (0, 64)
    assert (config.image_token_id, config.video_token_id) == (315, 316)
    assert config.eos_ids == (311,)
    assert made.notes == []


def test_how_it_is_talked_to():
    sampling = {"do_sample": True, "temperature": 1e-6, "repetition_penalty": 1.05}
    for generation, penalty in ((None, 1.0), (sampling | {"eos_token_id": [311, 309]}, 1.05)):
        made = plan(generation=generation, vision_only=False)
        assert made.language_config is not None
        assert made.language_config.conversation == "qwen_2_5_vl"
        assert made.language_config.repetition_penalty == penalty
        assert ("generation_config.json: temperature" in made.ignored) == bool(generation)
        assert "generation_config.json: repetition_penalty" not in made.ignored
    assert made.language_config.eos_ids == (311, 309)
    with pytest.raises(CheckpointError, match="repetition_penalty must be above 0, got 0"):
        plan(generation={"repetition_penalty": 0}, vision_only=False)


ROPE = FLAT["rope_scaling"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rope_scaling": ROPE | {"type": "yarn"}}, "rope_scaling.type is 'yarn', which means"),
        ({"rope_scaling": {"type": "mrope"}}, "mrope_section is missing"),
        (
            {"rope_scaling": ROPE | {"mrope_section": [2, 2, 3]}},
            "mrope_section must be three numbers that add up to half the head width of 16",
        ),
        ({"rope_scaling": ROPE | {"mrope_section": 3}}, "must be a list of whole numbers"),
        ({"use_sliding_window": True}, "use_sliding_window is True, which means"),
        ({"hidden_size": 65}, "hidden_size is 65, the weights say 64"),
    ],
)
def test_what_a_decoder_cannot_be(change, message):
    assert message in refusal(config=FLAT | change, vision_only=False)


def test_a_missing_tensor_of_the_decoder():
    arrays = {k: x for k, x in ARRAYS.items() if k != "model.layers.1.self_attn.q_proj.bias"}
    assert "missing: layers.1.self_attn.q_proj.bias" in refusal(arrays=arrays, vision_only=False)


def test_bfloat16_keeps_the_patch_matrix_and_the_norms(tmp_path):
    source = write_directory(tmp_path / "source", stored("qwen2_5_vl_tiny.safetensors"), FLAT)
    out = convert(
        str(source), tmp_path / "out", dtype="bfloat16", vision_only=True, say=lambda *_: None
    )
    tensors = json.loads((out / "manifest.json").read_text())["tensors"]
    kept = {name for name, entry in tensors.items() if entry["dtype"] == "float32"}
    assert "vision/run_0/embed/filters" in kept
    assert {name.rsplit("/", 1)[-1] for name in kept} == {"filters", "bias", "norm_scale"}
