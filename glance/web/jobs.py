"""Commands that a page has started: they outlive the server, and the next one finds them again.

Each has a folder in .glance/jobs: the command, what it tells (`--events`), what it said, and the
JSON document that it ended with. The run folder that it fills holds nothing of that.
"""

import json
import os
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil

from glance.core.errors import STOPPED, Problem, RunError
from glance.core.files import read_text, write_json

_RECORD: Final = "job.json"
_EVENTS: Final = "events.jsonl"
_SAID: Final = "said.txt"
_DOCUMENT: Final = "document.json"
_KEPT: Final = 50  # jobs that are over
_NOTES: Final = 40  # lines that are shown of one
_OF_PHASE: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "PhaseStarted": ("starting", ("steps",)),
    "PhaseSkipped": ("done before", ()),
    "StageEntered": ("", ()),
    "StepDone": ("training", ("steps", "loss", "eta_seconds")),
    "PhaseFinished": ("done", ("seconds",)),
}
"""Events of a training: the stage that it is in then (its own label), and what is kept of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One command."""

    id: str
    command: str
    words: tuple[str, ...]
    """After `glance`."""
    run: str | None
    """The run folder that it works in, from the working folder."""
    started: float
    """Seconds since 1970."""
    pid: int
    began: float | None
    """When the process began, by the system: numbers of processes are used again."""


@dataclass(slots=True)
class Progress:
    """What a job has told so far, the newest of each kind."""

    phases: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Of the training: stage, step, steps, loss, eta_seconds, seconds when done."""
    sampling: dict[str, Any] | None = None
    fetched: dict[str, Any] | None = None
    images: list[str] = field(default_factory=list)
    previews: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    offset: int = 0
    """Bytes of the file that are read."""

    def hear(self, event: Mapping[str, Any]) -> None:
        """Take in one event, as `--events` writes it."""
        kind = event["event"]
        if kind in _OF_PHASE:
            told = {name: event[name] for name in ("step", *_OF_PHASE[kind][1]) if name in event}
            stage = _OF_PHASE[kind][0] or event["label"]
            self.phases.setdefault(event["phase"], {}).update(told, stage=stage)
        elif kind == "SamplingStep":
            self.sampling = dict(event)
        elif kind == "ModelFetched":
            self.fetched = dict(event)
        elif kind == "PictureDone":
            self.images.append(event["path"])
        elif kind == "PreviewDone":
            self.previews += event["paths"]
        elif kind in ("Noted", "Warned"):
            hint = f" ({event['hint']})" if event.get("hint") else ""
            word = "warning: " if kind == "Warned" else ""
            self.notes = [*self.notes, f"{word}{event['message']}{hint}"][-_NOTES:]


@dataclass(frozen=True, slots=True)
class Ending:
    """How a job ended."""

    state: str
    """done, failed or stopped."""
    problems: tuple[Problem, ...] = ()
    document: Mapping[str, Any] = field(default_factory=dict)


class Jobs:
    """All jobs of a working folder."""

    def __init__(self, folder: Path, *, root: Path, environment: Mapping[str, str]) -> None:
        """Find those of earlier servers in `folder`; commands run in `root`."""
        self._folder = folder
        self._root = root
        self._environment = dict(environment)
        self._turn = threading.Lock()
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._progress: dict[str, Progress] = {}
        self._records: dict[str, Job] = {}

    def start(self, words: Sequence[str], *, run: str | None = None) -> Job:
        """Start a command, in a session of its own: neither Ctrl-C here nor our end reaches it.

        Raises RunError where another job works in that run, which one of two tabs is told.
        """
        with self._turn:
            other = next(iter(self.running(run)), None) if run is not None else None
            if other is not None:
                raise RunError(
                    f"{run}: a job of this page works in it already: glance {other.command}",
                    hint="wait for it, or stop it on the run's page",
                )
            name = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
            folder = self._folder / name
            folder.mkdir(parents=True)
            # the documents of commands name paths from the folder in which they are given
            events = os.path.relpath(folder / _EVENTS, self._root)
            line = [sys.executable, "-P", "-m", "glance", *words, "--json", "--events", events]
            with (folder / _DOCUMENT).open("wb") as out, (folder / _SAID).open("wb") as said:
                child = subprocess.Popen(
                    line,
                    cwd=self._root,
                    env=self._environment,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=said,
                    start_new_session=True,
                )
            self._children[name] = child
            job = Job(
                id=name,
                command=words[0],
                words=tuple(words),
                run=run,
                started=time.time(),
                pid=child.pid,
                began=_began(child.pid),
            )
            write_json(folder / _RECORD, asdict(job))
            self._records[name] = job
        self._forget_old()
        return job

    def all(self) -> list[Job]:
        """Return all jobs that are known, the newest first."""
        found = []
        for path in self._folder.glob(f"*/{_RECORD}"):
            job = self._records.get(path.parent.name) or _read(path)
            if job is not None:
                self._records[job.id] = job
                found.append(job)
        return sorted(found, key=lambda one: (one.started, one.id), reverse=True)

    def find(self, name: str) -> Job | None:
        """Return a job by its id."""
        return next((job for job in self.all() if job.id == name), None)

    def of_run(self, run: str, commands: Sequence[str]) -> Job | None:
        """Return the newest job of those commands that works or worked in a run."""
        found = (job for job in self.all() if job.run == run)
        return next((job for job in found if job.command in commands), None)

    def running(self, run: str | None = None) -> list[Job]:
        """Return the jobs that still run, of one run or of all."""
        return [job for job in self.all() if run in (None, job.run) and self.runs(job)]

    def runs(self, job: Job) -> bool:
        """Whether a job's process is still there."""
        child = self._children.get(job.id)
        if child is not None:
            return child.poll() is None
        began = _began(job.pid)
        return began is not None and job.began is not None and abs(began - job.began) < 1

    def progress(self, job: Job) -> Progress:
        """Return what a job has told so far."""
        found = self._progress.setdefault(job.id, Progress())
        events = self._folder / job.id / _EVENTS
        with self._turn, suppress(OSError), events.open("rb") as file:
            file.seek(found.offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break  # it is being written
                found.offset += len(line)
                with suppress(ValueError, KeyError, TypeError):
                    found.hear(json.loads(line))
        return found

    def ending(self, job: Job) -> Ending | None:
        """Return how a job ended; None: it still runs."""
        if self.runs(job):
            return None
        folder = self._folder / job.id
        document: dict[str, Any] = {}
        with suppress(OSError, ValueError):
            found = json.loads(read_text(folder / _DOCUMENT))
            document = found if isinstance(found, dict) else {}
        error = document.get("error")
        if error is not None:
            problems = tuple(Problem(one["message"], one.get("hint")) for one in error["problems"])
            is_stopped = error.get("exit_code") in STOPPED
            return Ending("stopped" if is_stopped else "failed", () if is_stopped else problems)
        if document:
            return Ending("done", document=document)
        last = self.said(job, lines=12)
        why = "it was killed, or failed without a message"
        words = Problem(f"{why}: {last[-1]}" if last else why, "start it again: it continues")
        return Ending("failed", (words,))

    def said(self, job: Job, *, lines: int) -> list[str]:
        """Return the last lines that a job said."""
        try:
            text = read_text(self._folder / job.id / _SAID, errors="replace")
        except OSError:
            return []
        return text.splitlines()[-lines:]

    def stop(self, job: Job) -> None:
        """Do what Ctrl-C does: a training saves a checkpoint; a second time it ends at once."""
        if self.runs(job):
            with suppress(psutil.Error):
                psutil.Process(job.pid).send_signal(signal.SIGINT)

    def _forget_old(self) -> None:
        """Remove what the oldest jobs told, beyond those that are kept."""
        over = [job for job in self.all() if not self.runs(job)]
        for job in over[_KEPT:]:
            shutil.rmtree(self._folder / job.id, ignore_errors=True)
            for known in (self._records, self._progress, self._children):
                known.pop(job.id, None)


def _began(pid: int) -> float | None:
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.Error:
        return None


def _read(path: Path) -> Job | None:
    try:
        said = json.loads(read_text(path))
        return Job(**{**said, "words": tuple(said["words"])})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def shown_command(words: Sequence[str]) -> str:
    """Return a command as it is pasted into a shell."""
    return shlex.join(["glance", *words])
