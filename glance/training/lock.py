"""One training at a time in a run folder: whoever comes second is told who is there."""

import errno
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import psutil

from glance.errors import RunError
from glance.run import RunFolder, now
from glance.training.prepare import writing

_LINGERS_SECONDS: Final = 20.0  # the trainer of a killed glance is ended within ten
_TICK_SECONDS: Final = 0.1
_NO_LOCKS: Final = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


@contextmanager
def locked(run: RunFolder, on_wait: Callable[[str], None]) -> Iterator[int | None]:
    """Hold the run folder while the block runs; yields what a child inherits to hold it too.

    The system drops the lock when the last process that has it is gone, however that came about:
    a lock file that is left over is no obstacle. Where glance was killed, its trainer takes some
    seconds to end and holds the lock until then: that is waited for, and said with `on_wait`.
    Yields None where the file system has no locks. Raises RunError when somebody trains there,
    SetupError when the folder cannot be written.
    """
    with writing(run.path):
        run.path.mkdir(parents=True, exist_ok=True)
        handle = _acquire(run, on_wait)
    if handle is None:
        yield None
        return
    try:
        os.truncate(handle, 0)
        os.write(handle, json.dumps({"pid": os.getpid(), "started": now().isoformat()}).encode())
        yield handle
    finally:
        with suppress(OSError):
            run.lock.unlink()
        os.close(handle)


def _acquire(run: RunFolder, on_wait: Callable[[str], None]) -> int | None:
    import fcntl  # where there is none, training is refused before this

    deadline: float | None = None
    while True:
        handle = os.open(run.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            os.close(handle)
            if exc.errno in _NO_LOCKS:
                return None
            holder, is_alive = _holder(run.lock)
            if deadline is None:
                deadline = time.monotonic() + _LINGERS_SECONDS
                if not is_alive:
                    on_wait(f"waiting for the end of an earlier training of {run.path}")
            if is_alive or time.monotonic() > deadline:
                raise RunError(
                    f"run {run.path} is being trained by {holder}",
                    hint="wait for it, end it, or give another --run",
                ) from exc
            time.sleep(_TICK_SECONDS)
            continue
        if _is_same(handle, run.lock):
            return handle
        os.close(handle)  # the holder before has removed it meanwhile


def _holder(lock: Path) -> tuple[str, bool]:
    """Return who wrote the lock file, in words, and whether that process is there."""
    for _ in range(20):  # it may be writing it just now
        with suppress(OSError, ValueError, KeyError, TypeError):
            content = json.loads(lock.read_text(encoding="utf-8"))
            pid = int(content["pid"])
            return f"process {pid}, since {content['started']}", psutil.pid_exists(pid)
        time.sleep(_TICK_SECONDS / 10)
    return "another process", True


def _is_same(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except OSError:
        return False
