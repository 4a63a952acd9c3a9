"""A reader sees the whole old file or the whole new one."""

import os
import re
import shutil
from pathlib import Path

import pytest

from glance.core.files import (
    find_place,
    record_place,
    remove_leftovers,
    replacing,
    write_json,
    write_text,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_old_file_is_whole_until_the_new_one_is(tmp_path: Path) -> None:
    path = tmp_path / "out" / "file.txt"
    write_text(path, "old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert (temporary.suffix, temporary.parent) == (".txt", path.parent)
    assert path.read_text() == "new"
    assert names(path.parent) == ["file.txt"]


@pytest.mark.parametrize("old", ["old", None])
def test_failure_leaves_what_was_there_and_nothing_else(tmp_path: Path, old: str | None) -> None:
    path = tmp_path / "out" / "file.txt"
    if old is not None:
        write_text(path, old)
    with pytest.raises(KeyboardInterrupt), replacing(path) as temporary:  # noqa: PT012
        temporary.write_text("half of the n")
        raise KeyboardInterrupt
    assert [one.read_text() for one in path.parent.iterdir()] == ([old] if old else [])


def test_what_a_killed_process_left_goes_once_nobody_can_be_at_it(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    for name in (".hidden.png", "x.png"):
        write_text(folder / name, "somebody's")
        os.utime(folder / name, (0, 0))
    with replacing(folder / "x.png") as old, replacing(folder / "y.png") as young:
        os.utime(old, (0, 0))
        remove_leftovers(folder)
        assert names(folder) == [".hidden.png", young.name, "x.png"]
        old.write_text("it is gone, and comes back")
    remove_leftovers(tmp_path / "nowhere")


def test_a_folder_of_that_name_stays() -> None:
    Path("file.txt").mkdir()
    with pytest.raises(IsADirectoryError):
        write_text(Path("file.txt"), "new")
    assert names(Path()) == ["file.txt"]


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_file_gets_the_permissions_of_any_new_file(tmp_path: Path, mask: int, mode: int) -> None:
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


RUN = Path("project/runs/x")
MARK = "~[0-9a-f]{4}"


def make(path: str) -> Path:
    folder = Path(path)
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize(
    ("path", "recorded"),
    [
        ("project/runs/x/model", "model"),
        ("project/runs/x/parts/model", "parts/model"),
        ("project/runs/model", "../model"),
        ("project/model", "../../model"),
        ("project/models/flux", f"../../{MARK}/flux"),
        ("home/anna/for a customer/flux", f"../../../{MARK}/{MARK}/{MARK}/flux"),
        ("project/runs", ".."),
        ("project", "../.."),
    ],
)
def test_no_folder_above_is_named_and_it_is_found(path: str, recorded: str) -> None:
    Path(path).mkdir(parents=True, exist_ok=True)

    place = record_place(Path(path), RUN)

    assert re.fullmatch(recorded, place)
    assert find_place(place, RUN) == Path(path).resolve()


def test_places_near_the_root_are_recorded() -> None:
    assert record_place(Path("/x"), Path("/a/b/c/d")) == "../../../../x"
    assert re.fullmatch(rf"\.\./\.\./{MARK}/d", record_place(Path("/c/d"), Path("/a/b")))


def test_it_is_found_when_both_are_moved_together() -> None:
    make("a/secret/models/flux")
    place = record_place(Path("a/secret/models/flux"), make("a/runs/x"))
    shutil.move("a", "b")

    assert find_place(place, Path("b/runs/x")) == Path("b/secret/models/flux").resolve()
    assert not find_place(place, Path("a/runs/x")).exists()


def test_what_is_given_away_as_well_is_named() -> None:
    lora = "runs/x/output/glance-slow/lora.safetensors"

    place = record_place(Path(lora), Path("elsewhere/pictures"), shared=Path("runs/x"))

    assert re.fullmatch(rf"\.\./\.\./{MARK}/x/output/glance-slow/lora\.safetensors", place)


def test_a_folder_that_is_called_like_a_mark_is_found() -> None:
    assert find_place("../../models/flux", Path("runs/x")) == Path("models/flux").resolve()
    for path in ("~12ab/flux", "up/~12ab/flux"):
        make(path)
        place = record_place(Path(path), Path("runs/x"))
        assert find_place(place, Path("runs/x")) == Path(path).resolve()


def test_the_same_mark_twice_is_no_trap(monkeypatch: pytest.MonkeyPatch) -> None:
    make("one")
    flux = make("two/flux")
    monkeypatch.setattr("glance.core.files._mark", lambda _: "~0000")

    place = record_place(flux, Path("runs/x"))

    assert (place, find_place(place, Path("runs/x"))) == ("../../~0000/flux", flux.resolve())
