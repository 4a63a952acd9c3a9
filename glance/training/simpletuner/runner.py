"""The seam to the outside: runs trainer processes. The only module that starts any."""

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Protocol

import psutil

from glance.training.simpletuner import supervisor

_JOB_VARIABLE = "GLANCE_JOB"  # how processes whose parents are gone are known
_GATE_VARIABLE = "GLANCE_GATE"  # what one that is prepared waits at: inside/glance_gate.py
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

    def prepare(self, job: Job, folder: Path) -> None:
        """Start a job in `folder`, up to where it would begin: `run` lets it go on from there.

        `run` is given a job of that name, whose environment may say other things by then. Where the
        prepared one cannot go on, or could not be started, `run` starts it as any other.
        """
        ...

    def dismiss(self) -> None:
        """End what was prepared and is not run; no process of it is left."""
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
        self._running: dict[str, _Tree] = {}
        self._prepared: dict[str, _Tree] = {}
        self._is_over = False

    def run(self, job: Job, on_line: Callable[[str], None]) -> int:
        """See Runner."""
        job.log.parent.mkdir(parents=True, exist_ok=True)
        with job.log.open("ab", buffering=0) as log:
            has_begun = False
            while not has_begun:  # what was prepared may have ended before its turn: then anew
                with self._started(job) as tree:
                    try:
                        for line in tree.lines():
                            log.write(line)
                            on_line(line.decode("utf-8", errors="replace").rstrip())
                        code = tree.process.wait()
                    except BaseException:
                        tree.end(log.write)
                        raise
                has_begun = tree.has_begun
                if self._is_over:
                    raise JobEnded
        return code if code >= 0 else 128 - code

    def prepare(self, job: Job, folder: Path) -> None:
        """See Runner."""
        with self._turn, contextlib.suppress(OSError):
            if not self._is_over:
                self._prepared[job.name] = _Tree(job, folder)

    def dismiss(self) -> None:
        """See Runner."""
        while self._prepared:
            name, tree = next(iter(self._prepared.items()))
            tree.end(lambda _: None)
            tree.close()
            del self._prepared[name]

    def end(self) -> None:
        """See Runner."""
        with self._turn:
            self._is_over = True
            for tree in (*self._running.values(), *self._prepared.values()):
                tree.process.send_signal(signal.SIGTERM)

    def processes(self, job: Job) -> list[psutil.Process]:
        """See Runner."""
        tree = self._running.get(job.name)
        try:
            return psutil.Process(tree.process.pid).children(recursive=True) if tree else []
        except psutil.Error:  # it has just ended
            return []

    @contextlib.contextmanager
    def _started(self, job: Job) -> Iterator["_Tree"]:
        with self._turn:
            if self._is_over:
                raise JobEnded
            is_prepared = job.name in self._prepared
            tree = self._prepared.pop(job.name) if is_prepared else _Tree(job)
            self._running[job.name] = tree
        try:
            tree.begin(job.environment)
            yield tree
        finally:
            tree.close()
            with self._turn:
                del self._running[job.name]


class _Tree:
    """The processes of a job, by the supervisor above them."""

    def __init__(self, job: Job, waits_in: Path | None = None) -> None:
        """Start it; one that waits in a folder of its own has not begun by that."""
        self._job = job
        self._gate: socket.socket | None = None
        self.has_begun = waits_in is None
        if waits_in is None:
            self.process = _start(job, job.folder)
        else:
            self._gate, theirs = socket.socketpair()
            with theirs:
                try:
                    self.process = _start(job, waits_in, theirs.fileno())
                except OSError:
                    self._gate.close()
                    raise
        watched = (self.process, job.name)
        # a daemon: else a glance that gives up would wait for it, and it for glance
        self._watch = threading.Thread(target=_end_orphans, args=watched, daemon=True)
        self._watch.start()

    def begin(self, environment: Mapping[str, str]) -> None:
        """Let it begin, if it waits."""
        if self._gate is not None:
            changes = dict(environment.items() - self._job.environment.items())
            with contextlib.suppress(OSError):  # it is gone
                self._gate.sendall(json.dumps(changes).encode() + b"\n")

    def lines(self) -> Iterator[bytes]:
        """Return what it says until it ends, without the secrets."""
        assert self.process.stdout is not None  # it is a pipe
        return _lines(self.process.stdout, self._job.secrets)

    def end(self, keep: Callable[[bytes], object]) -> None:
        """Ask the supervisor to end the tree and wait until it has; a second Ctrl-C hurries it.

        Its last words must be read meanwhile: a full pipe would keep it from ending.
        """
        self.process.send_signal(signal.SIGTERM)
        while self.process.poll() is None:
            try:
                deque(map(keep, self.lines()), maxlen=0)
                self.process.wait()
            except BaseException:  # noqa: BLE001 - whatever it is, the tree must be gone first
                self.process.send_signal(signal.SIGTERM)

    def close(self) -> None:
        """Let go of it, and wait until no process of it is left; know whether it had begun."""
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        self.process.wait()
        self._watch.join()
        if self._gate is not None:
            with contextlib.suppress(OSError):  # it ended before it read
                self.has_begun = bool(self._gate.recv(1, socket.MSG_DONTWAIT))
            self._gate.close()


def mask(text: bytes, tokens: Sequence[str]) -> bytes:
    """Return `text` without the secrets."""
    for secret in filter(None, map(str.strip, tokens)):
        text = text.replace(os.fsencode(secret), b"***")
    return text


def _start(job: Job, folder: Path, gate: int | None = None) -> "subprocess.Popen[bytes]":
    # PWD as a shell sets it: config files refer to it
    own = {"PWD": str(job.folder.resolve()), _JOB_VARIABLE: job.name}
    return subprocess.Popen(
        [sys.executable, "-I", str(Path(supervisor.__file__)), *job.command],
        cwd=folder,
        env={**job.environment, **own, **({} if gate is None else {_GATE_VARIABLE: str(gate)})},
        stdin=subprocess.PIPE,  # the lifeline: never written to
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=job.held if gate is None else (*job.held, gate),
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
