"""Folders that appear whole or not at all, and that never take another's files away."""

import os
from pathlib import Path

import pytest

from glance.core.errors import InputError, SetupError
from glance.interop.export import whole_folder

OUT = Path("out")
ONE, TWO = {"a.txt": "1", "b/c.txt": "2"}, {"a.txt": "3", "b/c.txt": "4", "d.txt": "5"}


def write(files: dict[str, str], folder: Path = OUT, *, force: bool = False) -> None:
    with whole_folder(folder, force=force) as made:
        fill(made, files)


def write_half(failure: BaseException, *, force: bool = False) -> None:
    with whole_folder(OUT, force=force) as made:
        fill(made, {"a.txt": "half"})
        raise failure


def fill(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def content(folder: Path = OUT) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_text() for path in files}


def beside() -> set[str]:
    """Return what lies here: nothing temporary may stay."""
    return {path.name for path in Path.cwd().iterdir()}


@pytest.mark.parametrize("name", ["far/away/out", "empty", "x" * 255])
def test_the_folder_appears_with_those_above_it(name: str) -> None:
    if name == "empty":
        Path(name).mkdir()

    write(ONE, Path(name))

    assert content(Path(name)) == ONE
    assert beside() == {Path(name).parts[0]}


def test_nothing_is_there_before_all_is() -> None:
    with whole_folder(OUT, force=False) as made:
        fill(made, ONE)
        assert not OUT.exists()
        assert made.parent.samefile(Path.cwd())  # else it could not be moved in one step

    assert content() == ONE


def test_others_may_read_it_as_usual() -> None:
    before = os.umask(0o027)
    try:
        write(ONE)
        mode = OUT.stat().st_mode & 0o777
    finally:
        os.umask(before)

    assert mode == 0o750


@pytest.mark.parametrize("force", [False, True])
def test_what_is_there_is_refused_before_any_work(force: bool) -> None:
    fill(Path("held"), {"a.txt": "mine"})
    OUT.write_text("mine")

    with pytest.raises(InputError, match="out is a file") as caught:
        write(ONE, force=force)
    assert caught.value.problems[0].hint == "give another --output"
    if not force:
        with pytest.raises(InputError, match="held holds files already") as caught:
            write(ONE, Path("held"))
        assert "--force would replace" in str(caught.value.problems[0].hint)

    assert (content(Path("held")), OUT.read_text()) == ({"a.txt": "mine"}, "mine")
    assert beside() == {"held", "out"}


@pytest.mark.parametrize(
    ("there", "named"),
    [
        (TWO, r"would not write: d\.txt"),
        ({"README.md": "mine"}, r"README\.md"),  # everybody has one: it makes no export of it
        ({**ONE, "link": ""}, "would not write: link"),  # a linked folder is another's, too
    ],
    ids=["a file", "a README", "a link"],
)
def test_force_takes_nobodys_files_away(there: dict[str, str], named: str) -> None:
    fill(OUT, there)
    if "link" in there:
        fill(Path("pictures"), {"cat.png": "mine"})
        (OUT / "link").unlink()
        (OUT / "link").symlink_to(Path("pictures").absolute())
    before = content()

    with pytest.raises(InputError, match=named) as caught:
        write({**ONE, "README.md": "new"}, force=True)

    assert "another --output" in str(caught.value.problems[0].hint)
    assert content() == before


def test_what_comes_in_meanwhile_is_kept() -> None:
    late = pytest.raises(InputError, match=r"would not write: late\.txt")
    with late, whole_folder(OUT, force=False) as made:
        fill(made, ONE)
        fill(OUT, {"late.txt": "mine"})

    assert (content(), beside()) == ({"late.txt": "mine"}, {"out"})


@pytest.mark.parametrize("failure", [KeyboardInterrupt, ValueError, SystemExit])
def test_a_failure_midway_leaves_what_was_there(failure: type[BaseException]) -> None:
    write(ONE)

    with pytest.raises(failure):
        write_half(failure(), force=True)

    assert (content(), beside()) == (ONE, {"out"})


def test_a_full_disk_is_no_bug() -> None:
    with pytest.raises(SetupError, match=r"cannot write .*out: No space left") as caught:
        write_half(OSError(28, "No space left on device"))

    assert caught.value.problems[0].hint == "give --output another place"
    assert beside() == set()


@pytest.mark.parametrize("failure", [OSError(5, "Input/output error"), KeyboardInterrupt()])
def test_a_failure_in_the_last_step_puts_the_old_one_back(
    failure: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(ONE)
    rename = Path.rename

    def fail(self: Path, target: Path) -> Path:
        if target == OUT.absolute() and self.name != "old":
            raise failure
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises((SetupError, KeyboardInterrupt)):
        write(TWO, force=True)

    assert (content(), beside()) == (ONE, {"out"})


def test_the_folder_that_one_stands_in_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its shell would stand in a folder that is gone, and every later command would fail."""
    Path("here").mkdir()
    monkeypatch.chdir("here")

    with pytest.raises(InputError, match="here") as caught:
        write(ONE, Path())

    assert "--output" in str(caught.value.problems[0].hint)
    assert beside() == set()


def test_a_link_to_an_empty_folder_stays_a_link() -> None:
    """Somebody means the files to lie on that other disk."""
    disk = Path("disk")
    disk.mkdir()
    OUT.symlink_to(disk.absolute())

    write(ONE)

    assert OUT.is_symlink()
    assert content(disk) == ONE
    assert beside() == {"disk", "out"}
