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
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from io import BufferedReader, TextIOWrapper
from pathlib import Path, PurePosixPath
from queue import Empty, Queue
from threading import Thread
from typing import Any, Final

from glance.core.errors import InputError, SetupError

_MARK: Final = re.compile(r"~[0-9a-f]{4}")  # stands for a folder's name
_AGAIN: Final = "download or copy it again, whole"
_SAFETENSORS: Final = "get it as .safetensors"
_PICKLE: Final = (
    "a pickle, which may run code when it is opened, so glance opens none",
    "convert it to .safetensors, or get it as that",
)
_PICKLE_NAMES: Final = (".pt", ".pth", ".ckpt", ".bin", ".pkl")
_KINDS: Final = (
    (b"GGUF", "a GGUF file", _SAFETENSORS),
    (b"\x1f\x8b", "a gzip archive", "unpack it, and give the .safetensors file that is in it"),
    (b"7z\xbc\xaf", "a 7z archive", "unpack it, and give the .safetensors file that is in it"),
    (b"Rar!", "a RAR archive", "unpack it, and give the .safetensors file that is in it"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive", "unpack it, and give the .safetensors in it"),
    (b"\x89HDF", "an HDF5 file", _SAFETENSORS),
    (b"\x93NUMPY", "a numpy file", _SAFETENSORS),
    (b"\x89PNG", "a PNG picture", _AGAIN),
    (b"\xff\xd8\xff", "a JPEG picture", _AGAIN),
    *((bytes((0x80, protocol)), *_PICKLE) for protocol in range(2, 6)),
)
"""By their first bytes: what they are, and what to do."""
_NO_FILES: Final = (
    (stat.S_ISFIFO, "named pipe"),
    (stat.S_ISSOCK, "socket"),
    (stat.S_ISCHR, "device"),
    (stat.S_ISBLK, "device"),
)
_PATIENCE: Final = 20.0  # seconds for a disk that has gone to sleep, or a slow server
_LONGEST_HEADER: Final = 100_000_000  # as the safetensors library has it
_TITLE: Final = re.compile(r"<title[^>]*>\s*(.{1,80}?)\s*</title>", re.IGNORECASE | re.DOTALL)


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
        reason = getattr(exc, "strerror", None) or exc
        raise SetupError(f"{flag} {path}: {reason}", hint=f"give {flag} another path") from exc


def is_folder(path: Path) -> bool:
    """Whether a folder is there; of a path that no file system takes, False."""
    with suppress(OSError, ValueError):
        return path.is_dir()
    return False


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
        reason = exc.strerror or str(exc)
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


def explain_tensors(path: Path) -> tuple[str, str] | None:
    """Return what a file is that should be safetensors, and what to do; None: it looks whole.

    By its first bytes and its length: whether the header's content makes sense is not asked, and
    no tensor is read. Raises OSError where it cannot be read.
    """
    mode, size = path.stat().st_mode, path.stat().st_size
    if not stat.S_ISREG(mode):  # opening a pipe would wait forever
        kind = "a folder" if stat.S_ISDIR(mode) else "no regular file"
        return kind, "give a .safetensors file"
    if not size:
        return "empty", _AGAIN
    with open_file(path) as file:
        head = file.read(4096)
        found = _explain_head(head, path)
        if found is None:
            found = _explain_length(file, size)
    # what the name says, where the content says nothing: a pickle may begin with anything
    is_strange = found is not None and found[0].startswith(("no safetensors", "text"))
    return _PICKLE if is_strange and path.suffix.lower() in _PICKLE_NAMES else found


def _explain_head(head: bytes, path: Path) -> tuple[str, str] | None:
    if head.startswith(b"version https://git-lfs"):
        match = re.search(rb"\nsize (\d+)", head)
        size = f" of {int(match[1]) / 1e6:,.1f} MB" if match else ""
        return (
            f"a Git LFS pointer, which stands for a file{size} that was not fetched",
            "run `git lfs pull` in the folder that it was cloned to, or download the file itself",
        )
    if head.startswith(b"PK\x03\x04"):
        return _explain_zip(path)
    for mark, *what in _KINDS:
        if head.startswith(mark):
            return what[0], what[1]
    if not head.strip(b"\0"):
        return "zeros where its header should be: a download that was not finished", _AGAIN
    return _explain_text(head)


def _explain_zip(path: Path) -> tuple[str, str]:
    """Tell what torch.save writes, a pickle in a zip archive, from an archive of something."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return "a damaged zip archive", _AGAIN
    if any(name.endswith(("data.pkl", ".pkl")) for name in names):
        return _PICKLE
    inside = next((name for name in names if name.endswith(".safetensors")), None)
    if inside is not None:
        return "a zip archive", f"unpack it, and give the {inside} that is in it"
    return "a zip archive without a .safetensors file in it", _AGAIN


def _explain_text(head: bytes) -> tuple[str, str] | None:
    """Tell what a server has sent in place of a file; None: it is no text."""
    text = head.decode("utf-8-sig", errors="replace").lstrip()
    if "<html" in text.lower() or text.lower().startswith("<!doctype html"):
        match = _TITLE.search(text)
        title = f', "{_one_line(match[1])}",' if match else ""
        return (
            f"a web page{title} which a server sent in place of the file",
            "download the file itself: its link may want a token, or `resolve` in place of `blob`",
        )
    text = text.rstrip("\ufffd")  # a character may be cut in two at the end
    if not text or not all((c.isprintable() and c != "\ufffd") or c in "\t\r\n\f" for c in text):
        return None
    kind = "JSON" if text[0] in "{[" else "XML" if text[0] == "<" else "text"
    return f'{kind}, no tensors: "{_one_line(text)}"', "download the file itself, or give another"


def _one_line(text: str) -> str:
    first = "".join(c if c.isprintable() else " " for c in text[:200])
    first = " ".join(first.split())
    return first if len(first) <= 80 else f"{first[:80]}..."


def _explain_length(file: Any, size: int) -> tuple[str, str] | None:
    """Compare a file's length with what its header says that it has."""
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    start = file.read(1)
    if size < 8 or (length <= _LONGEST_HEADER and start == b"{" and 8 + length > size):
        return f"cut short within its header, after {size:,} bytes", _AGAIN
    if length > _LONGEST_HEADER or start != b"{":
        return "no safetensors file, by its first bytes", _AGAIN
    file.seek(8)
    try:
        entries = json.loads(file.read(length))
        ends = [entry["data_offsets"][1] for key, entry in entries.items() if key != "__metadata__"]
        whole = 8 + length + max(ends, default=0)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return "damaged: its header cannot be read", _AGAIN
    if size < whole:
        return f"cut short: {size:,} of its {whole:,} bytes are there", _AGAIN
    if size > whole:
        return f"damaged: {size - whole:,} bytes longer than its header says", _AGAIN
    return None


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


def _walk(folder: Path, parts: Sequence[str]) -> Iterator[Path]:
    """Yield all that the parts may mean."""
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
