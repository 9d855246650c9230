"""What the configs of the towers refuse, and what of them is float32 in any host."""

import dataclasses

import jax
import numpy as np
import pytest
from tiny import CLIP, FASTVITHD, QWEN, strict

from diffvis_jax.core.step import encode
from diffvis_jax.errors import ConfigError
from diffvis_jax.towers import build
from diffvis_jax.towers.params import draw


@pytest.mark.parametrize(
    ("config", "field", "value"),
    [
        (CLIP, "heads", 0),
        (CLIP, "heads", -1),
        (CLIP, "heads", 2.0),
        (CLIP, "heads", True),
        (CLIP, "width", 0),
        (CLIP, "mlp_width", -64),
        (CLIP, "patch", 0),
        (FASTVITHD, "widths", (0, 16, 32, 64, 128)),
        (FASTVITHD, "widths", (8, 16, 32, 64, "128")),
        (FASTVITHD, "depths", (1, 2, 1, 1, 0)),
        (FASTVITHD, "head_width", 0),
        (FASTVITHD, "mlp_ratio", 0),
        (FASTVITHD, "squeeze_width", -16),
        (FASTVITHD, "size", 0),
        (QWEN, "depth", 0),
        (QWEN, "size", (0, 72)),
        (QWEN, "size", (56, 72.0)),
        (QWEN, "min_pixels", -1),
    ],
)
def test_what_is_no_positive_whole_number(config, field, value):
    with pytest.raises(ConfigError, match=f"{field} must be a positive whole number, got"):
        dataclasses.replace(config, **{field: value})


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("heads", 3, "width 16 does not divide into 3 heads"),
        ("heads", 8, "heads of a multiple of 4 channels"),
        ("full_blocks", (1, 3), "full_blocks must be ascending numbers of the 3 blocks"),
        ("full_blocks", (-1,), "full_blocks must be ascending"),
        ("full_blocks", (2, 1), "full_blocks must be ascending"),
        ("full_blocks", (1, 1), "full_blocks must be ascending"),
        ("window", 20, "window 20 must be a multiple of patch x merge = 8"),
        ("size", (56, 76), "both multiples of patch x merge = 8"),
        ("size", (56, 72, 3), "size must be"),
        ("max_pixels", 63, "max_pixels 63 must be at least"),
        ("dtype", "float16", "dtype must be"),
    ],
)
def test_what_qwen_refuses(field, value, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(QWEN, **{field: value})


def test_one_number_is_both_sides():
    assert dataclasses.replace(QWEN, size=64).size == (64, 64)


def test_attention_in_more_stages_than_there_are():
    with pytest.raises(ConfigError, match="attention_stages must be 0 to 5, got 6"):
        dataclasses.replace(FASTVITHD, attention_stages=6)


SIGLIP = dataclasses.replace(CLIP, class_token=False, patch_bias=True)


@pytest.mark.parametrize("config", [CLIP, SIGLIP, FASTVITHD], ids=["clip", "siglip", "fastvithd"])
def test_parameters_and_tokens_are_float32_in_a_strict_host(config):
    tower = build(config)
    frames = jax.ShapeDtypeStruct((1, *tower.frame, 3), np.uint8)
    with strict():
        params = jax.eval_shape(lambda: draw(tower.specs, jax.random.key(0)))
        every = jax.eval_shape(lambda params, x: encode(params, x, config=config), params, frames)
    assert {leaf.dtype for leaf in jax.tree.leaves((params, every))} == {np.dtype(np.float32)}
