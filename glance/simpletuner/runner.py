"""The seam to the outside: runs one trainer process. The only module that starts processes."""

import contextlib
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
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
        with job.log.open("ab") as log, _started(job) as process:
            assert process.stdout is not None  # it is a pipe
            for raw in _lines(process.stdout):
                line = _masked(raw, job.secrets)
                log.write(line)
                log.flush()
                on_line(line.decode("utf-8", errors="replace").rstrip())
            return process.wait()


@contextlib.contextmanager
def _started(job: Job) -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen(
        [sys.executable, "-I", str(Path(supervisor.__file__)), *job.command],
        cwd=job.folder,
        env=dict(job.environment),
        stdin=subprocess.PIPE,  # the lifeline: never written to
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # a terminal's Ctrl-C reaches glance alone; glance ends the rest
    )
    try:
        yield process
    except BaseException:
        _end(process)
        raise
    finally:
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        process.wait()


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Ask the supervisor to end the tree and wait until it has; a second Ctrl-C hurries it."""
    process.send_signal(signal.SIGTERM)
    while process.poll() is None:
        try:
            process.wait()
        except BaseException:  # noqa: BLE001 - whatever it is, the tree must be gone first
            process.send_signal(signal.SIGTERM)


def _lines(stream: IO[bytes]) -> Iterator[bytes]:
    """Split on newlines and on the carriage returns of progress bars, bounded in length."""
    rest = b""
    while chunk := stream.read1(_CHUNK):  # type: ignore[attr-defined]  # Popen's is buffered
        *whole, rest = (rest + chunk).replace(b"\r", b"\n").split(b"\n")
        yield from (line + b"\n" for line in whole if line.strip())
        if len(rest) > _LONGEST_LINE:
            yield rest + b"\n"
            rest = b""
    if rest.strip():
        yield rest + b"\n"


def _masked(line: bytes, secrets: Sequence[str]) -> bytes:
    for secret in secrets:
        line = line.replace(secret.encode(), b"***")
    return line
