"""What the configs of the towers refuse, and what of them is float32 in any host."""

import dataclasses

import jax
import numpy as np
import pytest
from tiny import CLIP, FASTVITHD, strict

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
    ],
)
def test_what_is_no_positive_whole_number(config, field, value):
    with pytest.raises(ConfigError, match=f"{field} must be a positive whole number, got"):
        dataclasses.replace(config, **{field: value})


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
