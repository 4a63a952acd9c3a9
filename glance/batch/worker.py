"""One job, as a process of its own: `glance train` or `glance distill`, followed by its events."""

import json
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import psutil

from glance.core.errors import KILLED, STOPPED, Problem, shown
from glance.core.events import Event, Noted
from glance.training.simpletuner.process import find_secrets
from glance.training.simpletuner.runner import Job as Process
from glance.training.simpletuner.runner import JobEnded, ProcessRunner

_EVENT: Final = '{"time": '
_TALK: Final = ("--json", "--quiet", "--events", "-")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One training of a batch."""

    number: int
    """From 1."""
    name: str
    """Unlike any other's of the batch."""
    command: tuple[str, ...]
    """The words after `glance`, its --run among them."""
    run: Path
    """Its run folder, as the command names it."""
    folder: Path
    """Where the command is given: absolute."""


@dataclass(frozen=True, slots=True)
class JobEnd:
    """How a job ended."""

    exit_code: int
    problems: tuple[Problem, ...] = ()
    result: dict[str, Any] = field(default_factory=dict)
    """The command's JSON document."""

    @property
    def is_done(self) -> bool:
        """Whether the job did all that it was to do."""
        return self.exit_code == 0

    @property
    def is_stopped(self) -> bool:
        """Whether somebody ended it: it goes on when it is run again."""
        return self.exit_code in STOPPED


@dataclass(frozen=True, slots=True)
class JobStarted(Event):
    """A job begins; `where`: on which device, of which machine."""

    job: int
    where: str


@dataclass(frozen=True, slots=True)
class JobTold(Event):
    """A job's command told an event: what it writes to `--events`."""

    job: int
    event: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return the event as it was told, and whose it is."""
        return {**self.event, "job": self.job}


@dataclass(frozen=True, slots=True)
class JobOver(Event):
    """A job is over."""

    job: int
    end: JobEnd


type Told = JobStarted | JobTold | JobOver | Noted
"""What whoever runs jobs tells of them."""


class Executor(Protocol):
    """Whoever runs jobs: this machine's queue, or Ray."""

    def run(self, jobs: Sequence[Job], tell: Callable[[Told], None]) -> None:
        """Run the jobs, begun or not, and return when all are over; one that fails stops no other.

        `tell` is called on the thread of the caller. After a first Ctrl-C the trainers save what
        they have, and KeyboardInterrupt is raised when all are gone.
        """
        ...


class Worker:
    """Runs jobs on this machine, each in processes of its own, of which none is left behind."""

    def __init__(self) -> None:
        """Begin with nothing that runs."""
        self._runner = ProcessRunner()
        self._running: dict[str, Process] = {}
        self._turn = threading.Lock()

    def run(
        self,
        job: Job,
        *,
        environment: Mapping[str, str],
        log: Path,
        on_event: Callable[[dict[str, Any]], None],
    ) -> JobEnd:
        """Run a job to its end; `on_event` hears what it tells, on the thread of the caller.

        Everything it says is added to the file `log`. A job that `end` ends is stopped.
        """
        process = Process(
            [sys.executable, "-P", "-m", "glance", *job.command, *_TALK],
            job.folder,
            environment,
            log,
            find_secrets(environment),
        )
        said = _Said(on_event)
        with self._turn:
            self._running[process.name] = process
        try:
            code = self._runner.run(process, said.hear)
        except JobEnded:
            return JobEnd(128 + signal.SIGTERM)
        finally:
            with self._turn:
                del self._running[process.name]
        return JobEnd(code, said.problems(code, log), said.document)

    def interrupt(self) -> None:
        """Do to each job what Ctrl-C does: its trainer saves a checkpoint, then ends."""
        with self._turn:
            running = [*self._running.values()]
        for process in running:
            for child in self._runner.processes(process)[:1]:  # the command; the trainer is its own
                with suppress(psutil.Error):
                    child.send_signal(signal.SIGINT)

    def end(self) -> None:
        """End all jobs, and start none any more; a second call hurries it."""
        self._runner.end()


class _Said:
    """What a command says: events a line each, then a document, and talk between them."""

    def __init__(self, on_event: Callable[[dict[str, Any]], None]) -> None:
        self._on_event = on_event
        self._lines: list[str] | None = None  # of the document
        self._last = ""
        self.document: dict[str, Any] = {}

    def hear(self, line: str) -> None:
        if line.startswith(_EVENT):
            with suppress(ValueError):
                self._on_event(json.loads(line))
        elif line == "{":
            self._lines = [line]
        elif self._lines is not None:
            self._lines.append(line)
            if line == "}":
                with suppress(ValueError):
                    self.document = json.loads("\n".join(self._lines))
                self._lines = None
        else:
            self._last = line

    def problems(self, code: int, log: Path) -> tuple[Problem, ...]:
        """Return why the command failed, as it says itself; else where to look."""
        if code == 0:
            return ()
        error = self.document.get("error", {})
        found = tuple(Problem(one["message"], one.get("hint")) for one in error.get("problems", ()))
        if found:
            return found
        words = "it was killed" if code == KILLED else f"it ended with code {code}"
        return (Problem(f"{words}: {self._last}".removesuffix(": "), f"see {shown(log)}"),)
