"""A reader sees the whole old file or the whole new one."""

import os
from pathlib import Path

import pytest

from glance.core.files import replacing, write_json, write_text


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_new_content_takes_the_place_of_the_old(tmp_path: Path) -> None:
    path = tmp_path / "out" / "file.txt"
    write_text(path, "old")
    write_text(path, "new")
    assert path.read_text() == "new"
    assert names(path.parent) == ["file.txt"]


def test_old_file_is_whole_until_the_new_one_is(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
def test_failure_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, failure: type[BaseException]
) -> None:
    path = tmp_path / "out" / "file.txt"
    write_text(path, "old")
    with pytest.raises(failure), replacing(path) as temporary:  # noqa: PT012
        temporary.write_text("half of the n")
        raise failure
    assert path.read_text() == "old"
    assert names(path.parent) == ["file.txt"]


def test_failure_leaves_no_file_where_none_was(tmp_path: Path) -> None:
    path = tmp_path / "out" / "file.txt"
    with pytest.raises(ValueError, match="oops"), replacing(path):
        raise ValueError("oops")
    assert names(path.parent) == []


def test_failing_switch_leaves_no_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "out" / "file.txt"
    path.mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        write_text(path, "new")
    assert names(path.parent) == ["file.txt"]


def test_temporary_path_has_the_same_ending_in_the_same_folder(tmp_path: Path) -> None:
    with replacing(tmp_path / "picture.png") as temporary:
        assert temporary.suffix == ".png"
        assert temporary.parent == tmp_path


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_file_gets_the_permissions_that_any_new_file_gets(
    tmp_path: Path, mask: int, mode: int
) -> None:
    before = os.umask(mask)
    try:
        write_text(tmp_path / "file.txt", "new")
    finally:
        after = os.umask(before)
    assert (tmp_path / "file.txt").stat().st_mode & 0o777 == mode
    assert after == mask


def test_json_is_indented_utf8_with_a_last_newline(tmp_path: Path) -> None:
    write_json(tmp_path / "file.json", {"caption": "füchsin", "steps": [1]})
    expected = '{\n  "caption": "füchsin",\n  "steps": [\n    1\n  ]\n}\n'
    assert (tmp_path / "file.json").read_bytes() == expected.encode()
