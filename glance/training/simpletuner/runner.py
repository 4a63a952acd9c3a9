"""The seam to the outside: runs trainer processes. The only module that starts any."""

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import RawIOBase
from pathlib import Path
from typing import IO, Protocol

import psutil

from glance.training.simpletuner import supervisor

_JOB_VARIABLE = "GLANCE_JOB"  # how processes whose parents are gone are known
_CHUNK = 65536
_LONGEST_LINE = 16384


@dataclass(frozen=True, slots=True)
class Job:
    """One start of the trainer."""

    command: Sequence[str]
    folder: Path
    environment: Mapping[str, str]
    log: Path
    secrets: Sequence[str] = ()
    held: Sequence[int] = ()
    """File descriptors that stay open until the last process of the job is gone."""
    name: str = field(default_factory=lambda: secrets.token_hex(16))
    """Unlike that of any other job."""


class JobEnded(Exception):
    """The job was ended by `Runner.end`."""


class Runner(Protocol):
    """Runs jobs to their end, each on a thread of its own."""

    def run(self, job: Job, on_line: Callable[[str], None]) -> int:
        """Run `job`, hand on its output line by line, return its exit code.

        No process of the job is left by the time that this call is, whatever raises in it.
        Raises JobEnded when the job was ended.
        """
        ...

    def end(self) -> None:
        """End what runs, from any thread, and start nothing more; a second call hurries it."""
        ...

    def processes(self, job: Job) -> list[psutil.Process]:
        """Return the processes of a job that are alive."""
        ...


class ProcessRunner:
    """The real one: a supervisor that ends the whole tree, and the log file."""

    def __init__(self) -> None:
        """Begin with nothing that runs."""
        self._turn = threading.Lock()
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._is_over = False

    def run(self, job: Job, on_line: Callable[[str], None]) -> int:
        """See Runner."""
        job.log.parent.mkdir(parents=True, exist_ok=True)
        with job.log.open("ab", buffering=0) as log, self._started(job) as process:
            try:
                for line in _logged(process, log, job.secrets):
                    on_line(line.decode("utf-8", errors="replace").rstrip())
                code = process.wait()
            except BaseException:
                _end(process, lambda: deque(_logged(process, log, job.secrets), maxlen=0))
                raise
        if self._is_over:
            raise JobEnded
        return code if code >= 0 else 128 - code

    def end(self) -> None:
        """See Runner."""
        with self._turn:
            self._is_over = True
            for process in self._running.values():
                process.send_signal(signal.SIGTERM)

    def processes(self, job: Job) -> list[psutil.Process]:
        """See Runner."""
        process = self._running.get(job.name)
        try:
            return psutil.Process(process.pid).children(recursive=True) if process else []
        except psutil.Error:  # it has just ended
            return []

    @contextlib.contextmanager
    def _started(self, job: Job) -> Iterator["subprocess.Popen[bytes]"]:
        with self._turn:
            if self._is_over:
                raise JobEnded
            process = self._running[job.name] = _start(job)
        watch = threading.Thread(target=_end_orphans, args=(process, job.name))
        watch.start()
        try:
            yield process
        finally:
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
            process.wait()
            with self._turn:
                del self._running[job.name]
            watch.join()


def mask(text: bytes, tokens: Sequence[str]) -> bytes:
    """Return `text` without the secrets."""
    for secret in filter(None, map(str.strip, tokens)):
        text = text.replace(os.fsencode(secret), b"***")
    return text


def _start(job: Job) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-I", str(Path(supervisor.__file__)), *job.command],
        cwd=job.folder,
        # PWD as a shell sets it: config files refer to it
        env={**job.environment, "PWD": str(job.folder.resolve()), _JOB_VARIABLE: job.name},
        stdin=subprocess.PIPE,  # the lifeline: never written to
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=job.held,
        start_new_session=True,  # a terminal's Ctrl-C reaches glance alone; glance ends the rest
    )


def _end_orphans(process: "subprocess.Popen[bytes]", name: str) -> None:
    """Wait for the supervisor; when it was killed, kill what it should have ended."""
    if process.wait() >= 0:
        return
    while found := [other for other in psutil.process_iter() if _is_of_job(other, name)]:
        for other in found:
            with contextlib.suppress(psutil.Error):
                other.kill()
        psutil.wait_procs(found, timeout=1)


def _is_of_job(process: psutil.Process, name: str) -> bool:
    try:
        is_dead = process.status() == psutil.STATUS_ZOMBIE
        return not is_dead and bool(process.environ().get(_JOB_VARIABLE) == name)
    except (psutil.Error, OSError):
        return False


def _end(process: "subprocess.Popen[bytes]", drain: Callable[[], object]) -> None:
    """Ask the supervisor to end the tree and wait until it has; a second Ctrl-C hurries it.

    Its last words must be read meanwhile: a full pipe would keep it from ending.
    """
    process.send_signal(signal.SIGTERM)
    while process.poll() is None:
        try:
            drain()
            process.wait()
        except BaseException:  # noqa: BLE001 - whatever it is, the tree must be gone first
            process.send_signal(signal.SIGTERM)


def _logged(
    process: "subprocess.Popen[bytes]", log: RawIOBase, tokens: Sequence[str]
) -> Iterator[bytes]:
    assert process.stdout is not None  # it is a pipe
    for line in _lines(process.stdout, tokens):
        log.write(line)
        yield line


def _lines(stream: IO[bytes], tokens: Sequence[str]) -> Iterator[bytes]:
    """Split on newlines and on the carriage returns of progress bars, bounded in length."""
    rest = b""
    longest_secret = max(map(len, map(os.fsencode, tokens)), default=0)
    while chunk := stream.read1(_CHUNK):  # type: ignore[attr-defined]  # Popen's is buffered
        text = mask(rest + chunk, tokens).replace(b"\r", b"\n")
        *whole, rest = text.split(b"\n")
        yield from (line + b"\n" for line in whole if line.strip())
        if len(rest) > _LONGEST_LINE:
            cut = len(rest) - longest_secret  # what follows may be the beginning of a secret
            yield rest[:cut] + b"\n"
            rest = rest[cut:]
    if rest.strip():
        yield rest + b"\n"
