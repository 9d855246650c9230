"""Files that are there whole or not at all."""

import pytest

from diffvis_jax.utils.atomic_file import write_whole


def test_a_file_is_replaced(tmp_path):
    target = tmp_path / "a.txt"
    for text in ("first, and longer", "zweite ü"):
        write_whole(target, text)
        assert target.read_text(encoding="utf-8") == text
    assert list(tmp_path.iterdir()) == [target]


def test_a_failure_loses_nothing_and_leaves_nothing(tmp_path):
    target = tmp_path / "a.txt"
    write_whole(target, "what stood there")
    with pytest.raises(UnicodeEncodeError):
        write_whole(target, "whole lines, then \ud800")  # cannot be written
    assert target.read_text() == "what stood there"
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        write_whole(tmp_path / "folder", "text")  # cannot be renamed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "folder"]
