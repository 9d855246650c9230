"""What belongs to a recording, in which order; and its pictures, for people to look at."""

import contextlib
import io
import json
import os
import pathlib
import warnings

import numpy as np
import pytest
from fuzzing import fuzz, json_texts
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from diffvis_jax.datasets import DatasetError
from diffvis_jax.datasets.records import image_size
from diffvis_jax.images.geometry import ImageError, PreprocessConfig
from diffvis_jax.images.preprocess import preprocess
from diffvis_jax.images.recording import (
    natural_order,
    open_screenshot,
    read_recording,
    sequence_folders,
)


def files(folder, *names):
    """Empty files: which frames there are is a matter of names."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def names(folder):
    return [path.name for path in read_recording(folder).paths]


@pytest.mark.parametrize(
    "ordered",
    [
        ["frame_2.png", "frame_10.png", "frame_10b.png"],
        ["frame_02.png", "frame_2.png"],  # the same number: by name, not by chance
        ["A.png", "b.png", "C.png"],
        [
            "Screenshot 2024-03-02 at 12.05.00 AM.png",
            "Screenshot 2024-03-02 at 9.58.12 AM.png",
            "Screenshot 2024-03-02 at 11.30.00 AM.png",
            "Screenshot 2024-03-02 at 12.05.00 PM.png",
            "Screenshot 2024-03-02 at 1.10.00\u202fPM.png",  # as newer systems write it
            "Screenshot 2024-03-02 at 1.10.00 PM (2).png",
            "Screenshot 2024-03-03 at 1.00.00 AM.png",
        ],
        ["截屏2024-03-02 上午9.58.12.png", "截屏2024-03-02 下午1.10.00.png"],
        ["02-11-1.30 PM.png", "02-11-11.30 PM.png"],
        ["2024-03-02 13.10.00.png", "2024-03-02 14-05-00.png"],
        ["shot.png", "shot (1).png", "shot (2).png", "shot (10).png"],
        ["shot.png", "shot 2.png", "shot 10.png"],
        ["shot.png", "shot-1.png"],
        ["Screenshot.png", "Screenshot1.png"],
        ["a.1.png", "a.2.png", "a.10.png"],
        ["a las 9.58.12 a. m..png", "a las 11.30 a.m..png", "a las 1.10.00 p. m..png"],
        ["1709369999.9.png", "1709370000.25.png", "1709370000.5.png"],
        ["frame_\u0669.png", "frame_\u0661\u0660.png"],  # 9 and 10 in Arabic
    ],
)
def test_frames_come_in_the_order_that_their_names_mean(tmp_path, ordered):
    files(tmp_path, *reversed(ordered))
    assert names(tmp_path) == ordered


def test_folders_are_ordered_as_frames_are(tmp_path):
    folders = [tmp_path / name for name in ("run.10", "run.2", "run")]
    assert [p.name for p in sorted(folders, key=natural_order)] == ["run", "run.2", "run.10"]


def test_hidden_files_and_companions_are_no_frames(tmp_path):
    files(tmp_path, "a.png", "._a.png", ".thumbs/b.png", "__MACOSX/a.png", "notes.txt")
    assert names(tmp_path) == ["a.png"]


def test_what_looks_like_frames_and_is_left_out_is_told(tmp_path):
    files(tmp_path, "a.png", "heat/a_heatmap.png", "empty/notes.txt")
    with pytest.warns(UserWarning, match="holds 1 folder with frames .'heat'. beside its frames"):
        assert names(tmp_path) == ["a.png"]
    files(tmp_path / "other", "a.png", "b.heic", "c.HEIC")
    with pytest.warns(UserWarning, match="2 files in formats that are not read .'b.heic', 'c.HE"):
        assert names(tmp_path / "other") == ["a.png"]
    files(tmp_path / "none", "b.heic")
    with pytest.raises(ImageError, match=r"no images in .*; it holds 1 file in formats"):
        read_recording(tmp_path / "none")


def test_one_frame_in_two_formats_is_told(tmp_path):
    files(tmp_path, "a.png", "a.jpg", "b.png")
    with pytest.warns(UserWarning, match="holds several files of one name .'a.jpg', 'a.png'."):
        assert names(tmp_path) == ["a.jpg", "a.png", "b.png"]


def test_a_folder_with_the_name_of_a_frame_is_none(tmp_path):
    files(tmp_path, "a.png", "b.png/notes.txt")
    assert names(tmp_path) == ["a.png"]


def test_folders_with_sequences(tmp_path):
    files(tmp_path, "run 10/a.png", "run 2/a.png", ".git/a.png")
    assert [path.name for path in sequence_folders(tmp_path)] == ["run 2", "run 10"]
    files(tmp_path, "plots/notes.txt")
    with pytest.warns(UserWarning, match="holds 1 folder without frames .'plots'."):
        sequence_folders(tmp_path)
    files(tmp_path, "plots/a.png", "cover.png")
    with pytest.warns(UserWarning, match="holds 1 image beside its folders"):
        sequence_folders(tmp_path)
    with pytest.raises(ImageError, match="no directory with images"):
        sequence_folders(tmp_path / "run 2")


def test_names_that_are_no_utf8_can_be_shown(tmp_path):
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/b\xfccher")
    os.mkdir(folder)
    name = os.fsdecode(b"bild_\xe4.png")
    open(os.path.join(folder, name), "wb").close()
    recording = read_recording(folder)
    assert recording.paths[0].name == name
    assert recording.labels == ("bild_\\udce4.png",)
    assert recording.title == "b\\udcfccher"


def test_a_script_gives_order_and_labels(tmp_path):
    files(tmp_path, "a.png", "b.png")
    steps = {"title": "T", "steps": [{"frame": "b.png", "label": "open\ud800"}, {"frame": "a.png"}]}
    steps["steps"].append({"frame": "a.png", "label": None})
    (tmp_path / "session.json").write_text(json.dumps(steps), encoding="utf-8-sig")
    recording = read_recording(tmp_path)
    assert names(tmp_path) == ["b.png", "a.png", "a.png"]
    assert recording.labels == ("open\\ud800", "a.png", "a.png")
    steps = {"steps": [{"frame": "x" * 5000}]}
    (tmp_path / "session.json").write_text(json.dumps(steps))
    with pytest.raises(ImageError, match="lists a frame that is not there"):
        read_recording(tmp_path)


WHOLE = {"title": "T", "licences": "L", "steps": [{"frame": "a.png", "label": "open"}] * 2}


@fuzz()
@given(json_texts(WHOLE))
def test_any_script_is_read_or_refused(tmp_path_factory, content):
    folder = files(tmp_path_factory.getbasetemp() / "any", "a.png")
    (folder / "session.json").write_bytes(content)
    with contextlib.suppress(ImageError):
        recording = read_recording(folder)
        assert len(recording.paths) == len(recording.labels)
        "".join((*recording.labels, recording.title, recording.note)).encode()


NAMES = st.text(st.characters(exclude_characters="/\x00", exclude_categories=("Cs",)), max_size=20)


@fuzz()
@given(st.lists(NAMES | st.from_regex(r"\A[0-9]{1,2}[.:][0-9]{2} ?[AP]M( \([0-9]\))?\Z")))
def test_any_names_have_an_order(some):
    paths = [pathlib.Path(f"{name}.png") for name in some]
    assert sorted(sorted(paths, key=natural_order, reverse=True), key=natural_order) == sorted(
        paths, key=natural_order
    )


def test_pictures_are_those_that_the_model_sees(tmp_path):
    path = tmp_path / "picture.png"
    Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000).save(path)  # 16-bit grey
    picture = open_screenshot(path)
    assert picture.mode == "RGB"
    np.testing.assert_array_equal(
        np.asarray(picture), preprocess(path, PreprocessConfig(8, "squash"))[0]
    )


def test_pictures_are_upright(tmp_path):
    path = tmp_path / "picture.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 4)).save(path, exif=exif)
    assert open_screenshot(path).size == (4, 8)


def test_a_damaged_picture_is_named(tmp_path):
    path = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ImageError, match=r"picture\.png': damaged or truncated"):
        open_screenshot(path)


def test_oriented_pictures_of_any_format_have_one_size(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    for suffix in ("png", "jpg", "tiff", "webp"):
        path = tmp_path / f"a.{suffix}"
        for mode in ("RGB", "L"):
            picture = Image.new("RGB", (30, 20), (9, 9, 9))
            picture.paste((200, 200, 200), (0, 0, 30, 10))
            picture.convert(mode).save(path, exif=exif)
            upright = open_screenshot(path)
            assert image_size(path, "here") == upright.size == (20, 30), (suffix, mode)
            # What was stored at the top is on the right.
            pixels = np.asarray(upright)[..., 0]
            assert pixels[:, :9].max() < 50, (suffix, mode)
            assert pixels[:, 11:].min() > 150, (suffix, mode)


@pytest.fixture(scope="module")
def pictures():
    """Encoded pictures of every format."""
    found = []
    noise = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 8
    for name in ("png", "jpeg", "webp", "bmp", "tiff", "ppm", "gif"):
        for image in (Image.fromarray(noise), Image.fromarray(noise[..., 0])):
            buffer = io.BytesIO()
            image.save(buffer, name, exif=exif)
            found.append(buffer.getvalue())
    return found


@fuzz()
@given(data=st.data())
def test_any_damage_is_an_image_or_an_error(pictures, tmp_path_factory, data):
    content = bytearray(data.draw(st.sampled_from(pictures)))
    for _ in range(data.draw(st.integers(0, 4))):
        # Mostly in the header, where most of the decisions are.
        at = data.draw(st.integers(0, 80) | st.integers(0, len(content) - 1)) % len(content)
        content[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.none() | st.integers(0, len(content)))
    path = tmp_path_factory.getbasetemp() / "any.png"
    path.write_bytes(content[:cut])
    sizes = []
    for read in (
        lambda: image_size(path, "here"),
        lambda: open_screenshot(path).size,
        lambda: preprocess(path, PreprocessConfig(16)).shape,
    ):
        with contextlib.suppress(ImageError, DatasetError), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow, about damaged metadata
            sizes.append(read())
    if len(sizes) == 3:  # one that can be read has one size
        assert sizes[0] == sizes[1]
