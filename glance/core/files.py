"""Files: written so that a reader sees the whole old one or the whole new one, never a part; what
one is that should hold tensors and does not; and where one is.

A run and a picture are shared, and both record what lies elsewhere: a base model, say. A relative
path finds it again when both are moved together, but it names every folder on the way down, which
may be somebody's name, or a customer's. So of these names only a mark is recorded, four digits of
their hash: enough to find the folder among its neighbours, and not enough to tell its name.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from io import BufferedReader, TextIOWrapper
from pathlib import Path, PurePosixPath
from queue import Empty, Queue
from threading import Thread
from typing import Any, Final

from glance.core.errors import Findings, InputError, SetupError, quoted, reason_of

_MARK: Final = re.compile(r"~[0-9a-f]{4}")  # stands for a folder's name
_NO_FILES: Final = (
    (stat.S_ISFIFO, "named pipe"),
    (stat.S_ISSOCK, "socket"),
    (stat.S_ISCHR, "device"),
    (stat.S_ISBLK, "device"),
)
_PATIENCE: Final = 20.0  # seconds for a disk that has gone to sleep, or a slow server
_TEMPORARY: Final = re.compile(r"\..+\.[a-z0-9_]{8}(\.\w+)?")  # as mkstemp names it below
_ABANDONED: Final = 300.0  # seconds: nobody writes one file for so long


def open_file(path: Path) -> BufferedReader:
    """Open a regular file to read it; raise OSError for anything else, and never wait for ever.

    A pipe would wait for who writes to it, a device may give bytes without end, and a network
    folder whose server is gone does not answer.
    """
    mode = _look_at(path).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder, not a file", str(path))
    for is_kind, kind in _NO_FILES:
        if is_kind(mode):
            raise OSError(errno.EINVAL, f"it is a {kind}, not a file", str(path))
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # it may have become a pipe by now
    return os.fdopen(os.open(path, flags), "rb")


def require_file(path: Path) -> None:
    """Raise OSError unless a library that opens it by name will open a regular file."""
    open_file(path).close()


def is_readable(path: Path, what: str, found: Findings, *, remedy: str) -> bool:
    """Refuse what is not a regular file that can be opened."""
    try:
        require_file(path)
    except (FileNotFoundError, NotADirectoryError):
        found.refuse(f"{what} does not exist", remedy)
    except PermissionError:
        found.refuse(f"{what} may not be read", f"chmod u+r {quoted(path)}")
    except IsADirectoryError:
        found.refuse(f"{what} is a directory", remedy)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        found.refuse(f"{what} cannot be read: {reason_of(error)}", remedy)
    else:
        return True
    return False


def read_text(path: Path, *, errors: str = "strict") -> str:
    """Return what a regular file holds, as UTF-8; raise OSError or UnicodeDecodeError."""
    with TextIOWrapper(open_file(path), encoding="utf-8", errors=errors) as file:
        return file.read()


def _look_at(path: Path) -> os.stat_result:
    """Return the file's status, if the file system answers in time."""
    answers: Queue[os.stat_result | OSError | ValueError] = Queue()

    def look() -> None:
        try:
            answers.put(path.stat())
        except (OSError, ValueError) as exc:  # ValueError: a NUL in the path
            answers.put(exc)

    Thread(target=look, daemon=True).start()
    try:
        answer = answers.get(timeout=_PATIENCE)
    except Empty:
        reason = "it does not answer: is it in a network folder whose server is gone?"
        raise TimeoutError(errno.ETIMEDOUT, reason, str(path)) from None
    if isinstance(answer, Exception):
        raise answer
    return answer


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


def remove_leftovers(folder: Path) -> None:
    """Remove what `replacing` left in the folder, some minutes ago, when its process was killed."""
    with suppress(OSError):
        for path in folder.iterdir():
            if _TEMPORARY.fullmatch(path.name):
                with suppress(OSError):
                    if path.is_file() and time.time() - path.stat().st_mtime > _ABANDONED:
                        path.unlink()


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


def require_possible(path: Path, flag: str) -> None:
    """Raise SetupError for a path that no file system takes; it need not be there."""
    try:
        path.exists()
    except (OSError, ValueError) as exc:  # too long, out of reach; a NUL in it
        reason = reason_of(exc)
        raise SetupError(f"{flag} {path}: {reason}", hint=f"give {flag} another path") from exc


def is_folder(path: Path) -> bool:
    """Whether a folder is there; of a path that no file system takes, False."""
    with suppress(OSError, ValueError, RuntimeError):  # RuntimeError: ~ of an unknown user
        return path.expanduser().is_dir()
    return False


def is_there(path: Path) -> bool:
    """Whether anything is there; of a path that no file system takes, False."""
    with suppress(OSError, ValueError):
        return path.exists()
    return False


def unused_path(path: Path) -> Path:
    """Return `path`, or one like it with a number, where nothing is: for a command to write to."""
    candidate, number = path, 1
    while candidate.exists() or candidate.is_symlink():
        number += 1
        candidate = path.with_stem(f"{path.stem}-{number}")
    return candidate


def require_writable(path: Path, flag: str, *, as_folder: bool = False) -> None:
    """Raise SetupError where `path` cannot come to be: now, and not after hours of work.

    Raises InputError where a folder is wanted and something else is there.
    """
    place = path.absolute()
    try:
        if as_folder and place.exists() and not place.is_dir():
            raise InputError(f"{flag} {path} is not a folder", hint=f"give {flag} another path")
        while not place.exists() and place != place.parent:
            place = place.parent
        folder = place if place.is_dir() else place.parent
        is_below_a_file = place not in (path.absolute(), folder)
        reason = f"{place} is no folder" if is_below_a_file else f"{folder} may not be written to"
        if not is_below_a_file and os.access(folder, os.W_OK):
            return
    except OSError as exc:
        reason = reason_of(exc)
    raise SetupError(
        f"{flag} {path}: nothing can be written there: {reason}",
        hint=f"give {flag} a place that you may write to",
    )


def state_folder() -> Path:
    """Return where glance keeps what belongs to this machine and user; raises SetupError."""
    return _own_folder("XDG_STATE_HOME", ".local/state", kept="a key")


def cache_folder() -> Path:
    """Return where glance keeps what can be made again; raises SetupError."""
    return _own_folder("XDG_CACHE_HOME", ".cache", kept="pictures")


def record_place(path: Path, start: Path, *, shared: Path | None = None) -> str:
    """Return where `path` is as seen from the folder `start`.

    Its own name is written as it is, and those of folders within `start` or `shared`: what is
    given away with both.
    """
    target, start = path.resolve(), start.resolve()
    open_to_all = [start, *([] if shared is None else [shared.resolve()])]
    written: list[str] = []
    folder = start
    for part in Path(os.path.relpath(target, start)).parts:
        folder = folder.parent if part == ".." else folder / part
        is_open = part == ".." or folder == target or any(map(folder.is_relative_to, open_to_all))
        written.append(part if is_open else _mark(part))
    return PurePosixPath(*written).as_posix()


def find_place(place: str, start: Path) -> Path:
    """Return what is recorded as `place` as seen from `start`; neither need exist."""
    parts = PurePosixPath(place).parts
    found = next((path for path in _walk(start.resolve(), parts) if os.path.lexists(path)), None)
    return found or Path(os.path.normpath(start.resolve() / place))


def _own_folder(variable: str, usual: str, *, kept: str) -> Path:
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


def _walk(folder: Path, parts: Sequence[str]) -> Iterator[Path]:
    if not parts:
        yield folder
        return
    part, rest = parts[0], parts[1:]
    if part == "..":
        yield from _walk(folder.parent, rest)
        return
    if _MARK.fullmatch(part):
        with suppress(OSError):  # it may not be ours to list
            for child in sorted(folder.iterdir()):
                if _mark(child.name) == part:
                    yield from _walk(child, rest)
    yield from _walk(folder / part, rest)


def _mark(name: str) -> str:
    return f"~{hashlib.sha256(os.fsencode(name)).hexdigest()[:4]}"
