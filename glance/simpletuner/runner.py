"""The seam to the outside: runs one trainer process. The only module that starts processes."""

import contextlib
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import RawIOBase
from pathlib import Path
from typing import IO, Protocol

from glance.simpletuner import supervisor

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


class Runner(Protocol):
    """Runs a job to its end."""

    def run(self, job: Job, on_line: Callable[[str], None]) -> int:
        """Run `job`, hand on its output line by line, return its exit code.

        When an exception passes through (Ctrl-C, SIGTERM, a failing `on_line`), no process of
        the job is left by the time it leaves this call.
        """
        ...


class ProcessRunner:
    """The real one: a supervisor that ends the whole tree, and the log file."""

    def run(self, job: Job, on_line: Callable[[str], None]) -> int:
        """See Runner."""
        job.log.parent.mkdir(parents=True, exist_ok=True)
        with job.log.open("ab", buffering=0) as log, _started(job) as process:
            try:
                for line in _logged(process, log, job.secrets):
                    on_line(line.decode("utf-8", errors="replace").rstrip())
                code = process.wait()
            except BaseException:
                _end(process, lambda: deque(_logged(process, log, job.secrets), maxlen=0))
                raise
            return code if code >= 0 else 128 - code


def mask(text: bytes, secrets: Sequence[str]) -> bytes:
    """Return `text` without the secrets."""
    for secret in filter(None, map(str.strip, secrets)):
        text = text.replace(os.fsencode(secret), b"***")
    return text


@contextlib.contextmanager
def _started(job: Job) -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen(
        [sys.executable, "-I", str(Path(supervisor.__file__)), *job.command],
        cwd=job.folder,
        # PWD as a shell sets it: config files refer to it
        env={**job.environment, "PWD": str(job.folder.resolve())},
        stdin=subprocess.PIPE,  # the lifeline: never written to
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # a terminal's Ctrl-C reaches glance alone; glance ends the rest
    )
    try:
        yield process
    finally:
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        process.wait()


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
    process: "subprocess.Popen[bytes]", log: RawIOBase, secrets: Sequence[str]
) -> Iterator[bytes]:
    assert process.stdout is not None  # it is a pipe
    for line in _lines(process.stdout, secrets):
        log.write(line)
        yield line


def _lines(stream: IO[bytes], secrets: Sequence[str]) -> Iterator[bytes]:
    """Split on newlines and on the carriage returns of progress bars, bounded in length."""
    rest = b""
    longest_secret = max(map(len, map(os.fsencode, secrets)), default=0)
    while chunk := stream.read1(_CHUNK):  # type: ignore[attr-defined]  # Popen's is buffered
        text = mask(rest + chunk, secrets).replace(b"\r", b"\n")
        *whole, rest = text.split(b"\n")
        yield from (line + b"\n" for line in whole if line.strip())
        if len(rest) > _LONGEST_LINE:
            cut = len(rest) - longest_secret  # what follows may be the beginning of a secret
            yield rest[:cut] + b"\n"
            rest = rest[cut:]
    if rest.strip():
        yield rest + b"\n"
