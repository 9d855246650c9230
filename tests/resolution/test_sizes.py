"""Sizes of frames that towers take, and what they cost by arithmetic."""

import pytest
from tiny import CLIP, FASTVITHD, QWEN

import diffvis_jax as dv
from diffvis_jax.errors import ConfigError
from diffvis_jax.resolution.sizes import at_size, default_sizes, size_text
from diffvis_jax.towers import build

SCREEN = (1920, 1080)
FASTVITHD_GMACS = {256: 14.8, 384: 33.4, 512: 59.6, 640: 93.4, 768: 135, 1024: 243, 1280: 386}


def fastvithd_macs(config: dv.FastViTHDConfig) -> int:
    """Convolutions, products and attention of a frame, one by one, for sides of 64 px."""
    total, grid = 0, config.size // 4
    first = config.widths[0]
    total += (2 * grid) ** 2 * 27 * first  # 3 x 3, stride 2, from red, green and blue
    total += grid**2 * 9 * first + grid**2 * first**2  # depthwise to stride 4, and 1 x 1
    for stage, (depth, width) in enumerate(zip(config.depths, config.widths, strict=True)):
        if stage:
            grid //= 2
            total += grid**2 * width * (49 + width)
        ffn = width * (49 + 2 * config.mlp_ratio * width)
        if stage < 3:
            total += depth * grid**2 * (9 * width + ffn)
        else:
            attention = 4 * width**2 + 2 * grid**2 * width
            total += grid**2 * (49 * width + depth * (attention + ffn))
    return total + grid**2 * 9 * config.token_width + 2 * config.token_width * config.squeeze_width


@pytest.mark.parametrize("side", FASTVITHD_GMACS)
def test_the_work_of_a_frame_by_hand(side):
    config = at_size(dv.FastViTHDConfig(), side, SCREEN)
    macs = build(config).macs
    assert macs == fastvithd_macs(config)
    assert macs / 1e9 == pytest.approx(FASTVITHD_GMACS[side], rel=5e-3)


@pytest.mark.parametrize(
    ("size", "screen", "frame"),
    [
        (1792, SCREEN, (1008, 1792)),
        (1316, SCREEN, (728, 1316)),
        (1316, (1080, 1920), (1316, 728)),
        ((728, 1316), SCREEN, (728, 1316)),
        ((1008, 1792), SCREEN, (1008, 1792)),
        (448, (640, 640), (448, 448)),
        (1120, (560, 560), (1120, 1120)),  # larger than the screen
    ],
)
def test_a_screen_becomes_a_frame_of_the_size_that_is_asked_for(size, screen, frame):
    config = at_size(dv.Qwen25VisionConfig(), size, screen)
    assert build(config).frame == frame
    width, height = screen
    assert dv.frame_size(width, height, config) == frame
    place = dv.placement(width, height, config)
    assert (place.frame_height, place.frame_width) == frame


def test_every_multiple_is_reached():
    config = dv.Qwen25VisionConfig()
    for side in range(56, 1920, 28):
        assert max(build(at_size(config, side, SCREEN)).frame) == side


@pytest.mark.parametrize(
    ("config", "size", "said"),
    [
        (FASTVITHD, 0, "positive whole number"),
        (FASTVITHD, -64, "positive whole number"),
        (FASTVITHD, 64.5, "positive whole number"),
        (FASTVITHD, (64, 128), "takes square frames"),
        (QWEN, 0, "positive whole number"),
        (QWEN, 57, "do not become frames of 57 px: the nearest is"),
        (QWEN, (56, 57), "multiples of 8 px"),
        (QWEN, (64, 64), "keep the screen's shape"),
        (CLIP, 64, "position embeddings for 36 x 36 pixels only"),
    ],
)
def test_sizes_that_are_refused(config, size, said):
    with pytest.raises(ConfigError, match=said):
        at_size(config, size, SCREEN)


def test_sizes_by_default_are_those_that_waste_nothing():
    assert default_sizes(dv.FastViTHDConfig(), SCREEN) == (384, 512, 768, 1024)
    assert default_sizes(CLIP, SCREEN)[-1] == CLIP.size
    config = dv.Qwen25VisionConfig(max_pixels=1792 * 1008)
    found = default_sizes(config, SCREEN)
    assert found[-1] == 1792
    assert all(side % 28 == 0 and build(at_size(config, side, SCREEN)) for side in found)


def test_sizes_as_text():
    assert size_text(512) == size_text((512, 512)) == "512 px"
    assert size_text((288, 512)) == "288x512 px"
