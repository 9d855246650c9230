"""Images to frames on the host: parity with transformers, odd inputs, bad inputs, coordinates.

data/preproc.npz holds two images of noise and what transformers' CLIPImageProcessor (Pillow
backend, 5.23) made of them, with LLaVA's square padding ("pad") and without ("crop"), at CLIP's
and FastVLM's settings: every fifth row and column in uint8 (normalisation undone, which left whole
numbers), and the SHA-256 of the whole.
"""

import ast
import dataclasses
import hashlib
import io
import pathlib
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps

from diffvis_jax.errors import ConfigError
from diffvis_jax.images import preprocess as preprocess_module
from diffvis_jax.images.geometry import ImageError, PreprocessConfig, placement
from diffvis_jax.images.preprocess import checked_size, preprocess
from diffvis_jax.images.recording import open_screenshot

DATA = pathlib.Path(__file__).parents[1] / "data" / "preproc.npz"
MODES = ("pad", "crop", "squash")
CLIP_COLOR = (122, 116, 104)
SQUASH = PreprocessConfig(16, "squash")
few = settings(max_examples=40, deadline=None)


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def reference(array, config):
    """The textbook version: whole canvas, one call of Pillow's resize."""
    image, size = Image.fromarray(array), config.size
    width, height = image.size
    if config.mode == "pad":
        side = max(width, height)
        canvas = Image.new("RGB", (side, side), config.pad_color)
        canvas.paste(image, ((side - width) // 2, (side - height) // 2))
        image = canvas
    if config.mode != "crop":
        return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))
    long = int(size * max(width, height) / min(width, height))
    new = (size, long) if width <= height else (long, size)
    left, top = (new[0] - size) // 2, (new[1] - size) // 2
    resized = np.asarray(image.resize(new, Image.Resampling.BICUBIC))
    return resized[top : top + size, left : left + size]


# --- parity ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["land", "port"])
@pytest.mark.parametrize(
    ("case", "color"),
    [
        ("fastvlm_pad_256", (0, 0, 0)),
        ("fastvlm_crop_256", (0, 0, 0)),
        ("clip_pad_224", CLIP_COLOR),
        ("clip_crop_224", CLIP_COLOR),
    ],
)
def test_same_bytes_as_transformers(name, case, color):
    data = np.load(DATA)
    mode, size = case.split("_")[1:]
    frame = preprocess(data[name], PreprocessConfig(int(size), mode, color))[0]
    np.testing.assert_array_equal(frame[::5, ::5], data[f"{name}_{case}"])
    digest = hashlib.sha256(frame.tobytes()).digest()
    assert digest == data[f"{name}_{case}_sha256"].tobytes()


@few
@given(
    st.integers(1, 90), st.integers(1, 90), st.integers(1, 50), st.sampled_from(MODES),
    st.sampled_from([60, 700, 2**24]),
)  # fmt: skip
def test_same_bytes_as_the_textbook_version(height, width, size, mode, strip):
    config = PreprocessConfig(size, mode, CLIP_COLOR)
    array = noise(height, width)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preprocess_module, "_STRIP_PIXELS", strip)
        np.testing.assert_array_equal(preprocess(array, config)[0], reference(array, config))


# --- what may be passed ---------------------------------------------------------------------------


def test_every_way_to_pass_an_image(tmp_path):
    array = noise(20, 30)
    path = tmp_path / "screen.png"
    Image.fromarray(array).save(path)
    rgba = np.dstack([array, np.zeros((20, 30), np.uint8)])
    expected = preprocess(array, SQUASH)
    assert expected.shape == (1, 16, 16, 3)
    assert expected.dtype == np.uint8
    ways = [Image.fromarray(array), path, str(path), rgba, Image.fromarray(rgba), array[None]]
    ways += [[array], (path,), rgba[None], np.ascontiguousarray(array[::-1])[::-1]]
    for way in ways:
        np.testing.assert_array_equal(preprocess(way, SQUASH), expected)

    @dataclasses.dataclass(frozen=True)
    class TowerConfig:
        preprocess: PreprocessConfig

    np.testing.assert_array_equal(preprocess(array, TowerConfig(SQUASH)), expected)


def test_lists_may_mix_kinds_and_sizes():
    other = noise(7, 5)
    both = preprocess([Image.fromarray(noise(20, 30)), other, other[..., 0]], SQUASH)
    assert both.shape == (3, 16, 16, 3)
    np.testing.assert_array_equal(both[1], preprocess(other, SQUASH)[0])
    np.testing.assert_array_equal(both[2][..., 0], preprocess(other, SQUASH)[0][..., 0])


def test_array_like_objects_of_other_libraries():
    class Tensor:
        def __array__(self, dtype=None, copy=None):
            return noise(4, 4)

    frame = preprocess(Tensor(), SQUASH)  # type: ignore[arg-type]
    np.testing.assert_array_equal(frame, preprocess(noise(4, 4), SQUASH))


def test_the_given_image_is_not_changed():
    image = Image.fromarray(noise(20, 30))
    before = image.tobytes()
    frames = preprocess(image, PreprocessConfig(20, "squash"))
    frames[:] = 0
    assert image.tobytes() == before


@pytest.mark.parametrize(
    "mode", ["1", "L", "P", "LA", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "HSV", "RGB"]
)
def test_modes_that_pillow_converts(mode):
    colors = Image.fromarray(np.kron(noise(4, 4), np.ones((4, 4, 1), np.uint8)))
    source = colors.convert("RGBA") if mode == "RGBa" else colors
    image = source.convert(mode)
    expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(preprocess(image, SQUASH)[0], expected)


def test_modes_that_pillow_cannot_convert_by_itself():
    gray = Image.fromarray(np.full((16, 16), 77, np.uint8))
    for image in (gray.convert("PA"), gray.convert("LA").convert("La")):
        assert (preprocess(image, SQUASH) == 77).all()
    to_lab = ImageCms.buildTransform(
        ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"
    )
    lab = ImageCms.applyTransform(Image.new("RGB", (16, 16), (200, 100, 50)), to_lab)
    assert lab is not None
    frame = preprocess(lab, SQUASH)[0].astype(int)
    assert np.abs(frame - (200, 100, 50)).max() <= 3


@pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B", "I;16N", "I", "F"])
def test_16_bit_is_scaled_not_clipped(mode):
    levels = np.arange(256, dtype=np.uint16).reshape(16, 16)
    image = Image.fromarray(levels * 257)
    image = image if mode == "I;16" else image.convert("I").convert(mode)
    assert image.mode == mode
    np.testing.assert_array_equal(preprocess(image, SQUASH)[0][..., 1], levels)


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_16_bit_files(tmp_path, suffix):
    # All dark: a range guessed from the values would be wrong.
    values = np.full((16, 16), 200, np.uint16)
    path = tmp_path / f"deep.{suffix}"
    Image.fromarray(values).save(path)
    assert (preprocess(path, SQUASH) == 1).all()


@pytest.mark.parametrize("mode", ["I", "F"])
def test_wide_modes_with_8_bit_values(mode):
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    image = Image.fromarray(levels).convert(mode)
    np.testing.assert_array_equal(preprocess(image, SQUASH)[0][..., 2], levels)


@pytest.mark.parametrize(
    "values", [[-1.0, 5.0], [0.0, 70000.0], [np.nan, 5.0], [np.inf, 5.0], [0.25, 1.0]]
)
def test_wide_modes_with_other_values(values):
    image = Image.fromarray(np.array([values], np.float32))
    with pytest.raises(ImageError, match=r"images\[1\]: mode F .*scale|images\[1\]: mode F .*0-65"):
        preprocess([image.convert("L"), image], SQUASH)


def test_transparency_is_ignored(tmp_path):
    array = noise(16, 16)
    palette = Image.fromarray(array).quantize(8)
    expected = np.asarray(palette.convert("RGB"))
    path = tmp_path / "palette.png"
    palette.save(path, transparency=bytes(range(8)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(preprocess(path, SQUASH)[0], expected)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_exif_orientation(tmp_path, orientation, suffix):
    upright = noise(24, 16)
    turn = {  # how a camera that is held so stores the upright picture
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"photo.{suffix}"
    Image.fromarray(np.ascontiguousarray(turn(upright))).save(path, exif=exif)
    config = PreprocessConfig(24, "pad")
    np.testing.assert_array_equal(preprocess(path, config), preprocess(upright, config))
    with Image.open(path) as image:
        np.testing.assert_array_equal(preprocess(image, config), preprocess(upright, config))


def test_damaged_exif_does_not_spoil_the_picture():
    image = Image.fromarray(noise(16, 16))
    image.info["exif"] = b"Exif\0\0MM\0*\0\0\0\xff\xff\xff"
    np.testing.assert_array_equal(preprocess(image, SQUASH)[0], noise(16, 16))


# --- what is refused ------------------------------------------------------------------------------


def _png(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def _jpeg(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1", "not an image"),
        (_png(noise(40, 40))[:20], "not an image|damaged|cannot be read"),
        (_png(noise(40, 40))[:2000], "truncated"),
        (_jpeg(noise(40, 40))[:1000], "truncated"),
        (_png(noise(40, 40))[:2000].ljust(5000, b"\0"), "damaged"),
        (None, "no such file"),
    ],
)
def test_bad_files(tmp_path, content, complaint):
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    good.write_bytes(_png(noise(8, 8)))
    if content is not None:
        bad.write_bytes(content)
    for images, name in ((bad, "image"), ([good, str(bad)], r"images\[1\]")):
        with pytest.raises(ImageError, match=rf"(?s)^{name} \(.*bad\.png'\): .*({complaint})"):
            preprocess(images, SQUASH)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_several_frames_are_refused_and_one_is_not(tmp_path, format):
    first, second = (Image.fromarray(noise(16, 16, seed)) for seed in (0, 1))
    path = tmp_path / "animation"
    first.save(path, format, save_all=True, append_images=[second])
    with pytest.raises(ImageError, match=rf"animation'\): the {format} file holds several frames"):
        preprocess(path, SQUASH)
    with Image.open(path) as image:
        with pytest.raises(ImageError, match="several frames"):
            preprocess(image, SQUASH)
        image.seek(1)
        assert preprocess(image.convert("RGB"), SQUASH).shape == (1, 16, 16, 3)
    first.save(path, format)
    assert preprocess(path, SQUASH).shape == (1, 16, 16, 3)


def test_phone_photos_with_a_preview_are_stills(tmp_path):
    path = tmp_path / "photo.mpo"
    Image.fromarray(noise(16, 16)).save(path, save_all=True, append_images=[Image.new("L", (4, 4))])
    with Image.open(path) as image:
        assert image.format == "MPO"
    assert preprocess(path, SQUASH).shape == (1, 16, 16, 3)


def test_directories_and_absurd_paths(tmp_path):
    with pytest.raises(ImageError, match="is a directory"):
        preprocess(tmp_path, SQUASH)
    with pytest.raises(ImageError, match="cannot be opened") as caught:
        preprocess("data:image/png;base64," + 9000 * "A", SQUASH)
    assert len(str(caught.value)) < 600
    with pytest.raises(ImageError, match="cannot be opened"):
        preprocess("a\0b.png", SQUASH)


@pytest.mark.parametrize(
    ("images", "complaint"),
    [
        ([], "list is empty"),
        (np.zeros((0, 4, 4, 3), np.uint8), r"no images.*\(0, 4, 4, 3\)"),
        (np.zeros((4, 4, 3), np.float32), r"image: expected a uint8 array.*got float32"),
        (np.full((4, 4, 3), np.nan), "image: float64 array with NaN"),
        (np.zeros((2, 4, 4, 3), np.float32), "images: expected a uint8 array"),
        ([np.zeros((4, 4), np.uint16)], r"images\[0\]: .*got uint16.*257"),
        (np.zeros((4, 4, 3), np.int64), "got int64; if all values are 0-255"),
        (np.zeros((4, 4), bool), "got bool"),
        (np.zeros((4, 4, 3), object), "got object"),
        (np.zeros((3, 4, 5), np.uint8), r"shape \(3, 4, 5\); channels come last"),
        (np.zeros((4, 4, 1), np.uint8), r"shape \(4, 4, 1\); pass array\[..., 0\]"),
        (np.zeros((4, 4, 2), np.uint8), r"shape \(4, 4, 2\)"),
        (np.zeros((4,), np.uint8), r"shape \(4,\)"),
        ([np.zeros((1, 4, 4, 3), np.uint8)], r"images\[0\]: .*not inside a list"),
        (np.zeros((0, 5, 3), np.uint8), "empty image of 5 x 0"),
        (Image.new("RGB", (0, 5)), "empty image of 0 x 5"),
        ([np.zeros((4, 4), np.uint8), None], r"images\[1\]: got NoneType"),
        ([[np.zeros((4, 4), np.uint8)]], r"images\[0\]: got a list inside a list"),
        (b"\x89PNG", r"got bytes; open"),
        (7, "got int; expected a PIL image"),
    ],
)
def test_bad_values(images, complaint):
    with pytest.raises(ImageError, match=complaint):
        preprocess(images, SQUASH)


def test_nothing_is_decoded_before_all_are_checked(tmp_path, monkeypatch):
    def decode(*_):
        raise AssertionError("decoded too early")

    monkeypatch.setattr(preprocess_module, "_load", decode)
    with pytest.raises(ImageError, match=r"images\[1\]"):
        preprocess([noise(4, 4), tmp_path / "missing.png"], SQUASH)


def test_decompression_bombs(tmp_path, monkeypatch):
    path = tmp_path / "huge.png"
    Image.new("1", (100, 100)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 6000)  # Pillow warns up to twice that ...
    with pytest.warns(Image.DecompressionBombWarning), pytest.raises(ImageError, match="bomb"):
        preprocess(path, SQUASH)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageError, match="bomb"):
            preprocess(path, SQUASH)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3000)  # ... and raises beyond
    with pytest.raises(ImageError, match=r"huge\.png.*bomb"):
        preprocess(path, SQUASH)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert preprocess(path, SQUASH).shape == (1, 16, 16, 3)


@pytest.mark.parametrize("mode", MODES)
def test_one_pixel(mode):
    frame = preprocess(np.array([[[1, 2, 3]]], np.uint8), PreprocessConfig(64, mode, (9, 9, 9)))
    assert (frame == (1, 2, 3)).all()


@pytest.mark.parametrize("shape", [(1, 5000, 3), (5000, 1, 3)])
def test_extremely_elongated(shape):
    line = np.full(shape, 255, np.uint8)
    for mode in ("pad", "squash"):
        frame = preprocess(line, PreprocessConfig(256, mode))
        assert frame.shape == (1, 256, 256, 3)
        assert frame.max() > 0
    with pytest.raises(ImageError, match=r"too elongated for mode 'crop' at size 1024.*'pad'"):
        preprocess(line, PreprocessConfig(1024, "crop"))


@pytest.mark.parametrize("mode", MODES)
def test_no_mode_takes_gigabytes(mode):
    for shape in ((9_000_000, 1), (1, 9_000_000)):
        line = np.zeros(shape, np.uint8)
        config = PreprocessConfig(16, mode)
        if mode == "squash":
            assert preprocess(line, config).shape == (1, 16, 16, 3)
        else:
            with pytest.raises(ImageError, match="too elongated"):
                preprocess(line, config)


# --- the config -----------------------------------------------------------------------------------


def test_config_is_hashable_also_when_read_from_json():
    config = PreprocessConfig(1024, "pad", [1, 2, 3])  # type: ignore[arg-type]
    assert hash(config) == hash(PreprocessConfig(1024, "pad", (1, 2, 3)))
    assert PreprocessConfig(**dataclasses.asdict(config)) == config


@pytest.mark.parametrize(
    "fields",
    [
        {"size": 0},
        {"size": 1.5},
        {"size": True},
        {"size": 8, "mode": "stretch"},
        {"size": 8, "resample": "lanczos"},
        {"size": 8, "pad_color": (0, 0)},
        {"size": 8, "pad_color": (0, 0, 256)},
        {"size": 8, "pad_color": 0},
    ],
)
def test_config_refuses_nonsense(fields):
    with pytest.raises(ConfigError, match=next(reversed(fields))):
        PreprocessConfig(**fields)


def test_something_else_as_config():
    with pytest.raises(ConfigError, match="PreprocessConfig"):
        preprocess(noise(4, 4), 1024)  # type: ignore[arg-type]


def test_neither_pil_nor_jax_at_module_level():
    package = pathlib.Path(preprocess_module.__file__).parent
    for name in ("preprocess.py", "geometry.py"):
        for node in ast.parse((package / name).read_text()).body:
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {m.split(".")[0] for m in modules} & {"jax", "PIL", "flax"}, name


# --- where pixels go ------------------------------------------------------------------------------

sides = st.integers(1, 3000)
configs = st.builds(PreprocessConfig, st.integers(1, 1100), st.sampled_from(MODES))
points = st.lists(st.floats(-4000, 4000), min_size=2, max_size=6)


@few
@given(sides, sides, configs, points)
def test_points_and_boxes_come_back(width, height, config, numbers):
    place = placement(width, height, config)
    x, y = np.array(numbers[::-1]), np.array(numbers)
    for there, back in (
        (place.to_model, place.to_original),
        (place.to_original, place.to_model),
    ):
        np.testing.assert_allclose(back(*there(x, y)), (x, y), rtol=1e-9, atol=1e-6)
    boxes = np.stack([x, y, x + 3, y + 4], axis=-1)
    there = place.box_to_model(boxes)
    assert there.shape == boxes.shape
    np.testing.assert_allclose(place.box_to_original(there), boxes, rtol=1e-9, atol=1e-6)
    # A point and the middle of the box around its pixel are the same place.
    box = place.box_to_model(np.stack([x, y, x + 1, y + 1], axis=-1))
    middles = (box[:, :2] + box[:, 2:]) / 2 - 0.5
    np.testing.assert_allclose(middles.T, place.to_model(x, y), rtol=1e-9, atol=1e-6)


@few
@given(sides, sides, configs)
def test_the_frame_shows_the_middle_of_the_image(width, height, config):
    place = placement(width, height, config)
    size = config.size
    whole = place.box_to_model((0, 0, width, height))
    if config.mode == "squash":
        np.testing.assert_allclose(whole, (0, 0, size, size), atol=1e-6)
    elif config.mode == "pad":
        assert (whole >= -1e-9).all()
        assert (whole <= size + 1e-9).all()
        np.testing.assert_allclose(max(whole[2] - whole[0], whole[3] - whole[1]), size)
    else:
        assert (whole[:2] <= 1e-9).all()
        assert (whole[2:] >= size - 1e-9).all()
    # Off the middle by at most the truncated half pixels.
    slack = 0.5 * max(1.0, place.scale_x) + 1e-6
    assert abs(whole[0] + whole[2] - size) / 2 <= slack
    assert abs(whole[1] + whole[3] - size) / 2 <= slack


@few
@given(sides, sides, configs)
def test_contains_what_is_neither_padding_nor_outside(width, height, config):
    place = placement(width, height, config)
    grid = np.arange(-1, config.size + 1, max(1, config.size // 50))
    x, y = np.meshgrid(grid, grid)
    left, top = place.to_original(x, y)
    inside = (left >= -0.5) & (left < width - 0.5) & (top >= -0.5) & (top < height - 0.5)
    inside &= (x >= 0) & (x < config.size) & (y >= 0) & (y < config.size)
    found = place.contains(x, y)
    border = np.minimum.reduce(
        [abs(left + 0.5), abs(left + 0.5 - width), abs(top + 0.5), abs(top + 0.5 - height)]
    )
    clear = border > 1e-6
    np.testing.assert_array_equal(found[clear], inside[clear])


def test_contains_agrees_with_the_padding_in_the_pixels():
    config = PreprocessConfig(64, "pad", (0, 0, 255))
    for height, width in ((36, 64), (64, 36), (37, 80)):
        frame = preprocess(np.full((height, width, 3), (255, 0, 0), np.uint8), config)[0]
        x, y = np.meshgrid(np.arange(64), np.arange(64))
        shows = frame[..., 0] > frame[..., 2]
        np.testing.assert_array_equal(placement(width, height, config).contains(x, y), shows)
    assert not placement(4, 4, config).contains(np.nan, 0)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", [(30, 50), (50, 30), (90, 160), (270, 480), (40, 40)])
@pytest.mark.parametrize("where", [(0.5, 0.5), (0.42, 0.61), (0.55, 0.37)])
def test_a_dot_lands_where_to_model_says(mode, shape, where):
    height, width = shape
    config = PreprocessConfig(240, mode)
    x, y = int(where[0] * width), int(where[1] * height)
    screen = np.zeros((height, width, 3), np.uint8)
    screen[y, x] = (255, 255, 255)
    frame = preprocess(screen, config)[0][..., 0].astype(float)
    frame[frame < 12] = 0  # the ripples around it
    rows, columns = np.indices(frame.shape)
    found = np.array([(columns * frame).sum(), (rows * frame).sum()]) / frame.sum()
    place = placement(width, height, config)
    assert place.contains(*place.to_model(x, y))
    enlarged = min(place.scale_x, place.scale_y) >= 1
    np.testing.assert_allclose(found, place.to_model(x, y), atol=0.1 if enlarged else 0.4)
    # An agent that clicks on the brightest pixel hits the dot.
    click = np.unravel_index(frame.argmax(), frame.shape)
    hit = np.array(place.to_original(click[1], click[0]))
    assert np.abs(hit - (x, y)).max() <= 0.5 * max(1, 1 / place.scale_x, 1 / place.scale_y) + 0.01


def test_known_places():
    place = placement(1920, 1080, PreprocessConfig(1024, "pad"))
    np.testing.assert_allclose(place.box_to_model((0, 0, 1920, 1080)), (0, 224, 1024, 800))
    np.testing.assert_allclose(place.to_original(511.5, 511.5), (959.5, 539.5))
    assert not place.contains(10, 223)
    assert place.contains(10, 224)
    place = placement(300, 200, PreprocessConfig(100, "crop"))
    np.testing.assert_allclose(place.box_to_original((0, 0, 100, 100)), (50, 0, 250, 200))


@pytest.mark.parametrize(
    ("width", "height"), [(0, 5), (5, -1), (5.0, 5), (None, 5), (True, 5), ("5", 5)]
)
def test_placement_refuses_nonsense(width, height):
    with pytest.raises(ImageError, match="positive whole numbers"):
        placement(width, height, SQUASH)


def test_boxes_need_four_numbers():
    with pytest.raises(ValueError, match=r"\[\.\.\., 4\].*\(3,\)"):
        placement(4, 4, SQUASH).box_to_model((1, 2, 3))


# ---- captures and phones ------------------------------------------------------------------------


def test_captures_are_taken_in_their_own_order():
    capture = pytest.importorskip("mss.screenshot", reason="the extra [watch]")
    bgra = np.zeros((20, 30, 4), np.uint8)
    bgra[..., 2] = 200  # a red screen
    shot = capture.ScreenShot.from_size(bytearray(bgra.tobytes()), 30, 20)
    config = PreprocessConfig(size=8, mode="squash")
    for image in (shot, [shot], bgra[..., 2::-1]):
        assert (preprocess(image, config) == [200, 0, 0]).all()


def test_the_loop_of_the_readme_is_right_for_pictures_that_are_stored_sideways(tmp_path):
    upright = np.zeros((100, 60, 3), np.uint8)
    upright[80:90, 40:50] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(upright)).save(tmp_path / "phone.png", exif=exif)
    config = PreprocessConfig(size=256)
    for image in (
        ImageOps.exif_transpose(Image.open(tmp_path / "phone.png")),
        open_screenshot(tmp_path / "phone.png"),
    ):
        frame = preprocess(image, config)
        np.testing.assert_array_equal(frame, preprocess(tmp_path / "phone.png", config))
        rows, columns = np.nonzero(frame[0, ..., 0] > 127)
        place = placement(*image.size, config)
        x, y = place.to_original(columns.mean(), rows.mean())
        assert (float(x), float(y)) == pytest.approx((44.5, 84.5), abs=0.5)


def test_the_size_of_a_frame_is_known_before_anything_is_decoded(tmp_path):
    """Of a picture as it lies and one that is to be turned, in a mode in which that matters."""
    native = PreprocessConfig(size=0, mode="native", multiple=8, min_pixels=64, max_pixels=10**6)
    flat = Image.new("RGB", (64, 32))
    flat.save(tmp_path / "flat.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    flat.save(tmp_path / "turned.png", exif=exif)
    flat.save(tmp_path / "turned.jpg", exif=exif)
    with Image.open(tmp_path / "flat.png") as opened:
        assert checked_size(opened, native) == (32, 64)
        assert opened.tile  # still to be decoded
    assert checked_size(tmp_path / "flat.png", native) == (32, 64)
    assert checked_size(np.asarray(flat), native) == (32, 64)
    for name in ("turned.png", "turned.jpg"):
        assert checked_size(tmp_path / name, native) == (64, 32)
        assert preprocess(tmp_path / name, native).shape[1:3] == (64, 32)
    with pytest.raises(ImageError, match="view 'wrist': expected a uint8 array"):
        checked_size(np.zeros((4, 4, 3)), native, "view 'wrist'")
