"""Writing an export: a folder appears whole or not at all, and never takes another's files away."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from glance.core.errors import InputError, SetupError
from glance.core.files import beside, require_possible

_README: Final = Path("README.md")


@dataclass(frozen=True, slots=True)
class Exported:
    """A folder that was written."""

    folder: Path
    files: tuple[Path, ...]
    """Everything in it, relative to it."""
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return what `glance export ... --json` prints."""
        return {
            "folder": str(self.folder),
            "files": [path.as_posix() for path in self.files],
            "notes": list(self.notes),
        }


def check_target(folder: Path, *, force: bool) -> None:
    """Raise InputError when something is at `folder` and may not be replaced."""
    if folder.resolve() == Path.cwd():
        raise InputError(
            f"{folder} is the folder that you are in: it would be replaced",
            hint="give --output a folder of its own",
        )
    if folder.is_dir() and not any(folder.iterdir()):
        return
    if folder.is_dir() and force:
        return
    if folder.exists():
        what = "holds files already" if folder.is_dir() else "is a file"
        hint = "give another --output"
        if folder.is_dir():
            hint += "; --force would replace what it holds"
        raise InputError(f"{folder} {what}", hint=hint)


@contextmanager
def whole_folder(folder: Path, *, force: bool) -> Iterator[Path]:
    """Yield an empty folder beside `folder`; on success it takes its place, else it goes.

    What is there already is replaced with `force` alone, and only when the new folder has a file
    of every name in it, and more than a README.md: then it was an export.

    Raises InputError: it may not be replaced. Raises SetupError: it cannot be written.
    """
    folder = folder.resolve()  # "." has no name; a link stays one, and what it names is made
    require_possible(folder, "--output")
    check_target(folder, force=force)
    try:
        with beside(folder) as made:
            yield made
            _require_ours(folder, made)
            _swap(made, folder)
    except OSError as exc:
        raise SetupError(
            f"cannot write {folder}: {exc.strerror or exc}", hint="give --output another place"
        ) from exc


def _swap(made: Path, folder: Path) -> None:
    if not folder.exists():
        made.rename(folder)
        return
    with beside(folder) as aside:
        old = aside / "old"
        try:
            folder.rename(old)
            made.rename(folder)
        finally:  # after Ctrl-C, too: one of the two is there, whatever happens
            if not folder.exists():
                old.rename(folder)


def _require_ours(folder: Path, made: Path) -> None:
    if not folder.is_dir():
        return
    old, new = list_files(folder), list_files(made)
    strangers = sorted(str(path) for path in old - new)
    if not strangers and old == {_README}:  # everybody has one
        strangers = [str(_README)]
    if strangers:
        raise InputError(
            f"{folder} holds what this export would not write: {', '.join(strangers[:3])}",
            hint="give another --output",
        )


def list_files(folder: Path) -> set[Path]:
    """Return every file and link below `folder`, relative to it."""
    return {
        path.relative_to(folder)
        for path in folder.rglob("*")
        if path.is_symlink() or not path.is_dir()
    }
