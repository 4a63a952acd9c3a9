"""Where things are, recorded without the names of the folders on the way."""

import re
import shutil
from pathlib import Path

import pytest

from glance.core.files import find_place, record_place

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
    for path in ("~12ab/flux", "up/~12ab/flux"):
        make(path)
        place = record_place(Path(path), Path("runs/x"))
        assert find_place(place, Path("runs/x")) == Path(path).resolve()


def test_what_an_older_glance_recorded_is_found() -> None:
    make("models/flux")

    assert find_place("../../models/flux", Path("runs/x")) == Path("models/flux").resolve()


def test_the_same_mark_twice_is_no_trap(monkeypatch: pytest.MonkeyPatch) -> None:
    make("one")
    make("two/flux")
    monkeypatch.setattr("glance.core.files._mark", lambda _: "~0000")

    place = record_place(Path("two/flux"), Path("runs/x"))

    assert (place, find_place(place, Path("runs/x"))) == (
        "../../~0000/flux",
        Path("two/flux").resolve(),
    )
