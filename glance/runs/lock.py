"""One training at a time in a run folder: whoever comes second is told who is there."""

import errno
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from glance.core.errors import RunError
from glance.runs.folder import RunFolder, writing
from glance.runs.manifest import now

TRAINED_BY: Final = "is being trained by"
"""What the refusal says of a folder that is held."""
_LINGERS_SECONDS: Final = 20.0  # the trainer of a killed glance is ended within ten
_TICK_SECONDS: Final = 0.1
_SIGNED_WITHIN: Final = 0.2
_HELD: Final = (errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES)


@contextmanager
def locked(run: RunFolder, on_wait: Callable[[str], None]) -> Iterator[int | None]:
    """Hold the run folder while the block runs; yields what a child inherits to hold it too.

    The system drops the lock when the last process that has it is gone, however that came about:
    a lock file that is left over is no obstacle. Where glance was killed, its trainer takes some
    seconds to end and holds the lock until then: that is waited for, and said with `on_wait`.
    Where the file system has no locks, the file alone holds the folder, as long as the process
    that it names is there; then None is yielded. Raises RunError when somebody trains there,
    SetupError when the folder cannot be written.
    """
    with writing(run.path):
        run.path.mkdir(parents=True, exist_ok=True)
        handle, is_lock = _acquire(run, on_wait)
    try:
        _sign(handle)
        yield handle if is_lock else None
    finally:
        with suppress(OSError):
            run.lock.unlink()
        os.close(handle)


def who_trains(run: RunFolder) -> str | None:
    """Return who trains in a run folder, in words; None: nobody that is known of.

    It only looks: whoever wants to be sure takes the lock.
    """
    if not run.lock.exists():
        return None
    holder = _holder(run.lock)
    return None if holder is None or not holder.is_alive else holder.words


@dataclass(frozen=True, slots=True)
class _Holder:
    """Who wrote a lock file."""

    words: str
    is_alive: bool
    is_sure: bool = True
    """Whether that can be known: the process may be another machine's."""


def _acquire(run: RunFolder, on_wait: Callable[[str], None]) -> tuple[int, bool]:
    """Return the open lock file, and whether the system holds it locked."""
    import fcntl  # where there is none, training is refused before this

    deadline: float | None = None
    while True:
        handle = os.open(run.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            os.close(handle)
            if exc.errno not in _HELD:
                return _acquire_without_locks(run), False
            holder = _holder(run.lock) or _Holder("another process", is_alive=True)
            if deadline is None:
                deadline = time.monotonic() + _LINGERS_SECONDS
                if not holder.is_alive:
                    on_wait(f"waiting for the end of an earlier training of {run.path}")
            if holder.is_alive or time.monotonic() > deadline:
                raise _refusal(run, holder) from exc
            time.sleep(_TICK_SECONDS)
            continue
        if _is_same(handle, run.lock):
            return handle, True
        os.close(handle)  # the holder before has removed it meanwhile


def _acquire_without_locks(run: RunFolder) -> int:
    """Return the lock file, made anew: only one of several can make it.

    Somebody may have taken the file before it for left over, and remove this one in its place: so
    it must still be there when all who looked at that have done so.
    """
    while True:
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            handle = os.open(run.lock, flags, 0o644)
        except FileExistsError:
            holder = _holder(run.lock)
            if holder is not None and holder.is_alive:
                raise _refusal(run, holder) from None
            with suppress(FileNotFoundError):
                run.lock.unlink()  # nobody's: left over, or made by the trial above
            continue
        _sign(handle)
        time.sleep(2 * _SIGNED_WITHIN)
        if _is_same(handle, run.lock):
            return handle
        os.close(handle)


def _refusal(run: RunFolder, holder: _Holder) -> RunError:
    hint = "wait for it, end it, or give another --run"
    if not holder.is_sure:
        hint = f"wait for it, or give another --run; if it has ended, remove {run.lock}"
    return RunError(f"run {run.path} {TRAINED_BY} {holder.words}", hint=hint)


def _sign(handle: int) -> None:
    """Write who we are into the lock file."""
    content = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "began": psutil.Process().create_time(),
        "started": now().isoformat(),
    }
    os.truncate(handle, 0)
    os.pwrite(handle, json.dumps(content).encode(), 0)


def _holder(lock: Path) -> _Holder | None:
    """Return who wrote the lock file; None: nobody has."""
    deadline = time.monotonic() + _SIGNED_WITHIN
    while time.monotonic() < deadline:  # it may be writing it just now
        with suppress(OSError, ValueError, KeyError, TypeError):
            content = json.loads(lock.read_text(encoding="utf-8"))
            pid, words = int(content["pid"]), f"process {content['pid']}"
            if content.get("host", socket.gethostname()) != socket.gethostname():
                words += f" of {content['host']}"
                is_alive, is_sure = True, False
            else:
                is_alive, is_sure = _is_running(pid, content.get("began")), True
            return _Holder(f"{words}, since {content['started']}", is_alive, is_sure)
        time.sleep(_TICK_SECONDS / 10)
    return None


def _is_running(pid: int, began: float | None) -> bool:
    """Whether the process is there, and not another one that has its number now."""
    try:
        there = psutil.Process(pid).create_time()
    except psutil.Error:
        return False
    return began is None or abs(there - began) < 1


def _is_same(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except OSError:
        return False
