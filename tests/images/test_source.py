"""SOURCE: a folder, a picture, a pattern, a film."""

import pytest
from PIL import Image

from diffvis_jax.images.film_frames import PER_SECOND
from diffvis_jax.images.geometry import ImageError
from diffvis_jax.images.source import read_source


@pytest.fixture
def folder(tmp_path):
    shots = tmp_path / "shots"
    shots.mkdir()
    for number in (1, 2, 10):
        Image.new("RGB", (8, 6), (number, 0, 0)).save(shots / f"shot_{number}.png")
    return shots


def test_a_folder_a_picture_and_a_pattern(folder):
    names = ["shot_1.png", "shot_2.png", "shot_10.png"]
    assert [path.name for path in read_source(folder).paths] == names
    assert [path.name for path in read_source(folder / "shot_2.png").paths] == names[1:2]
    found = read_source(f"{folder}/*.png", most=2)
    assert [path.name for path in found.paths] == names[:2]
    assert found.labels == tuple(names[:2])


def test_what_is_none_of_these(folder):
    (folder / "notes.txt").write_text("")
    for source, said in (
        (folder / "absent.png", "no such file or directory"),
        (f"{folder}/*.jpg", "no picture matches"),
        (folder / "notes.txt", "neither a picture nor a film"),
    ):
        with pytest.raises(ImageError, match=said):
            read_source(source)


def film(path, seconds, per_second=10):
    """A GIF whose red channel counts its frames."""
    count = int(seconds * per_second)
    pictures = [Image.new("RGB", (8, 6), (5 * number, 0, 0)) for number in range(count)]
    pictures[0].save(
        path, save_all=True, append_images=pictures[1:], duration=1000 // per_second, loop=0
    )


def test_a_film_is_taken_apart_once(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFVIS_CACHE", str(tmp_path / "cache"))
    film(tmp_path / "film.gif", seconds=2)
    told = []
    found = read_source(tmp_path / "film.gif", say=told.append)
    assert found.title == "film.gif"
    assert len(found.paths) == 2 * PER_SECOND
    reds = [Image.open(path).convert("RGB").getpixel((0, 0))[0] for path in found.paths]
    assert reds == [0, 25, 50, 75]  # every fifth of ten frames a second
    again = read_source(tmp_path / "film.gif", say=told.append)
    assert again.paths == found.paths
    assert len(told) == 1
    assert len(read_source(tmp_path / "film.gif", most=1).paths) == 1


def test_a_broken_film_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFVIS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "film.gif").write_bytes(b"GIF89a, but no more")
    with pytest.raises(ImageError, match=r"film\.gif"):
        read_source(tmp_path / "film.gif")
    assert list((tmp_path / "cache" / "films").iterdir()) == []


def test_a_video_needs_an_extra_or_is_read(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFVIS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "film.mp4").write_bytes(b"")
    with pytest.raises((ImageError, ImportError), match=r"film\.mp4"):
        read_source(tmp_path / "film.mp4")
