"""Writing files and folders: a reader sees the whole old one or the whole new one, never a part."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from glance.errors import SetupError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it takes `path`'s place, else it goes.

    The data is flushed to the disk before the switch, so a crash cannot leave an empty file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(
        dir=path.parent, prefix=f".{path.name[:40]}.", suffix=path.suffix
    )
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o666 & ~_umask())  # mkstemp makes it private
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def beside(folder: Path) -> Iterator[Path]:
    """Yield an empty folder beside `folder`, in which it is made whole before it is renamed.

    What is not renamed at the end of the block is removed. Raises OSError.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name[:40]}."))
    try:
        made.chmod(0o777 & ~_umask())  # mkdtemp makes it private
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON, atomically."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def state_folder() -> Path:
    """Return where glance keeps what belongs to this machine and user; raises SetupError."""
    return _own_folder("XDG_STATE_HOME", ".local/state", kept="a key")


def cache_folder() -> Path:
    """Return where glance keeps what can be made again; raises SetupError."""
    return _own_folder("XDG_CACHE_HOME", ".cache", kept="pictures")


def _own_folder(variable: str, usual: str, *, kept: str) -> Path:
    """Return glance's folder below the one that `variable` names, else below `usual` at home."""
    given = os.environ.get(variable)
    try:
        return (Path(given) if given else Path.home() / usual) / "glance"
    except RuntimeError as exc:  # a container's user that nobody knows
        raise SetupError(
            f"there is no home folder to keep {kept} in",
            hint=f"set {variable} to a folder that you may write to",
        ) from exc


def _umask() -> int:
    mask = os.umask(0o022)  # there is no way to read it without setting it
    os.umask(mask)
    return mask
