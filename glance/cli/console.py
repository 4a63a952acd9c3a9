"""The only writer to the terminal: results to stdout, talk and progress to stderr.

With `--json` stdout holds one document, written at the end, whatever happened.
"""

import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from shutil import get_terminal_size
from typing import IO, TYPE_CHECKING, Any, ClassVar, Final, NamedTuple

from glance.core.errors import (
    GlanceError,
    InputError,
    Problem,
    SetupError,
    TrainingFailed,
    reason_of,
)
from glance.core.events import (
    CheckpointSaved,
    Event,
    EventSink,
    MemoryUsed,
    ModelFetched,
    Noted,
    Pace,
    PhaseFinished,
    PhaseSkipped,
    PhaseStarted,
    PictureDone,
    PreviewDone,
    SamplingStep,
    StageEntered,
    StepDone,
    TrainerSaid,
    Warned,
    format_duration,
)
from glance.core.tables import Rows

if TYPE_CHECKING:
    from rich.progress import TaskID

    from glance.core.plot import Terminal

_LINES: Final = 10  # for each thing, where nothing can move
_PICTURES: Final = 4  # are shown in the terminal


class _Progress(NamedTuple):
    """How far something is."""

    name: str
    done: int
    total: int
    words: str
    figures: str


_LONGEST_EVENT: Final = 65536  # bytes of a line that is looked at


class Console:
    """One command's voice."""

    current: ClassVar["Console"]

    def __init__(
        self, *, as_json: bool = False, quiet: bool = False, verbose: bool = False
    ) -> None:
        """Become the voice of the running command."""
        self.as_json = as_json
        self.verbose = verbose
        self._quiet = quiet
        self._bars: _PlainBars | _MovingBars | None = None
        self._paces: defaultdict[str, Pace] = defaultdict(Pace)
        Console.current = self

    @property
    def terminal(self) -> "Terminal":
        """What a chart on stdout is made for."""
        from glance.core.plot import Terminal

        columns = get_terminal_size().columns
        return Terminal.of(sys.stdout.encoding, is_tty=sys.stdout.isatty(), columns=columns)

    def result(self, text: str) -> None:
        """Write what the command was run for; `--json` replaces it."""
        if not self.as_json:
            _write(sys.stdout, text)

    def document(self, content: Any) -> None:
        """Write the JSON document, if `--json` asked for one."""
        if self.as_json:
            _write(sys.stdout, json.dumps(content, indent=2))

    def plan(self, rows: Rows, document: Any) -> None:
        """Write what would be done: a table of words, or the JSON document."""
        table = list(rows)
        width = max(len(name) for name, _ in table)
        self.result("\n".join(f"{name.ljust(width)}  {text}".rstrip() for name, text in table))
        self.document(document)

    def show(self, paths: Sequence[Path], *, opens: bool = False) -> None:
        """Show pictures in the terminal, where it can, and with the viewer, if that is asked."""
        from glance.cli._viewer import Cells, draw, shows_pictures

        streams = (sys.stdout, sys.stderr)
        is_seen = not (self._quiet or self.as_json) and all(one.isatty() for one in streams)
        if is_seen and shows_pictures(os.environ):
            cells = Cells.of(sys.stderr.fileno())
            for drawn in (draw(path, cells, os.environ) for path in paths[:_PICTURES]):
                if drawn is not None:
                    self._say(drawn)
        if opens:
            self.open(paths)

    def open(self, paths: Sequence[Path]) -> None:
        """Open a file, or the folder of several, with the system's viewer; tell why it cannot."""
        from glance.cli._viewer import open_file

        target = paths[0] if len(paths) == 1 else paths[0].parent
        reason = open_file(target, os.environ)
        if reason is not None:
            self._say(f"--open {target}: {reason}")

    def note(self, text: str) -> None:
        """Say something in passing, unless `--quiet`."""
        if not self._quiet:
            self._say(text)

    def warn(self, problem: Problem) -> None:
        """Say what might go wrong, and what to do about it."""
        self.note(f"warning: {problem.message}")
        if problem.hint:
            self.note(f"  hint: {problem.hint}")

    def refuse(self, problems: Iterable[Problem]) -> None:
        """Say what is wrong, and its remedy, `--quiet` or not."""
        for problem in problems:
            self._say(f"error: {problem.message}")
            if problem.hint:
                self._say(f"  hint: {problem.hint}")

    def error(self, exc: GlanceError) -> None:
        """Say every problem with its remedy; with `--json`, on stdout too."""
        self.refuse(exc.problems)
        content: dict[str, Any] = {
            "exit_code": exc.exit_code,
            "problems": [item.to_json() for item in exc.problems],
        }
        if isinstance(exc, TrainingFailed):
            self._say_tail(exc)
            content |= {"log": str(exc.log), "returncode": exc.returncode, "tail": list(exc.tail)}
        with suppress(SetupError):  # stdout takes nothing
            self.document({"error": content})

    def stopped(self, exit_code: int) -> None:
        """Say that somebody ended it."""
        self._say("stopped: run the same command again to continue")
        problems = [{"message": "stopped"}]
        with suppress(SetupError):
            self.document({"error": {"exit_code": exit_code, "problems": problems}})

    def on_event(self, event: Event) -> None:
        """Show what long work tells."""
        self._note_pace(event)
        match event:
            case Noted(message):
                self.note(message)
            case Warned(message, hint):
                self.warn(Problem(message, hint))
            case StepDone() | ModelFetched() | SamplingStep():
                self._show(self._progress_of(event))
            case PictureDone():
                self._show_image(event)
            case PreviewDone(step, paths):
                self.note(f"preview after step {step}: {', '.join(paths)}")
            case TrainerSaid(_, line) if self.verbose:
                self.note(f"| {line}")
            case _:
                self._show_phase(event)

    def _show_phase(self, event: Event) -> None:
        match event:
            case PhaseStarted(phase, steps):
                self.note(f"{phase}: training {steps} steps")
            case PhaseSkipped(phase):
                self.note(f"{phase}: already done")
            case StageEntered(phase, label):
                self._end_bar(phase)
                self.note(f"{phase}: {label}")
            case CheckpointSaved(phase, path) if self.verbose:
                self.note(f"{phase}: saved {path}")
            case PhaseFinished(phase, lora, seconds):
                self._end_bar(phase)
                self.note(f"{phase}: done in {format_duration(seconds)}, {lora}")
            case _:
                pass

    def _show_image(self, event: PictureDone) -> None:
        if event.total > 1 or event.was_there:
            known = "is there already" if event.was_there else "is done"
            self.note(f"image {event.number} of {event.total} {known}")
        self.result(event.path)

    @contextmanager
    def progress(self, events: Path | None = None) -> Iterator[EventSink]:
        """Yield a sink that shows events and, if asked, logs them to the file `events`.

        The trainer's lines and its memory, most of what it tells, are logged with --verbose alone.
        A moving bar is gone at the end of the block, however that comes.
        """
        log = _EventLog(events) if events else None

        def sink(event: Event) -> None:
            self.on_event(event)
            is_logged = self.verbose or not isinstance(event, TrainerSaid | MemoryUsed)
            if log and is_logged and (problem := log.write(event)):
                self.warn(problem)

        try:
            yield sink
        finally:
            if self._bars:
                self._bars.close()
            if log:
                log.close()

    def _note_pace(self, event: Event) -> None:
        if isinstance(event, PhaseStarted | StepDone | MemoryUsed):
            self._paces[event.phase].note(event)

    def _progress_of(self, event: StepDone | ModelFetched | SamplingStep) -> _Progress:
        match event:
            case StepDone():
                words = f"step {event.step} of {event.steps}"
                figures = self._paces[event.phase].describe(event, drawn=self.moves)
                return _Progress(event.phase, event.step, event.steps, words, figures)
            case SamplingStep():
                words = f"step {event.step:,}/{event.steps:,}"
                if event.phase is not None:
                    words = f"{event.phase} phase, {words}"
                left = _time_left(event.eta_seconds)
                return _Progress(event.task, event.done, event.total, words, left)
            case ModelFetched():
                words = f"{event.bytes / 1e9:.1f} of {event.total_bytes / 1e9:.1f} GB fetched"
                left = _time_left(event.eta_seconds)
                return _Progress(event.model, event.bytes, event.total_bytes, words, left)

    @property
    def moves(self) -> bool:
        """Whether what is shown of progress may move: somebody looks at a terminal."""
        return sys.stderr.isatty() and not (self.verbose or self._quiet)

    def _show(self, progress: _Progress) -> None:
        if self._quiet:
            return
        if self._bars is None:
            self._bars = _MovingBars() if self.moves else _PlainBars(self.note)
        self._bars.show(progress)

    def _end_bar(self, name: str) -> None:
        if self._bars:
            self._bars.end(name)

    def _say_tail(self, exc: TrainingFailed) -> None:
        if exc.tail:
            self._say("the trainer's last lines:")
            for line in exc.tail:
                self._say(f"  | {line}")
        self._say(f"its whole log: {exc.log}")

    def _say(self, text: str) -> None:
        _write(sys.stderr, text)


class _EventLog:
    """`--events FILE`: one JSON event a line, `-` for stdout."""

    def __init__(self, path: Path) -> None:
        """Open the file for appending; raise SetupError if that fails."""
        self._path = path
        self._file: IO[str] = sys.stdout
        self._is_lost = False
        if str(path) != "-":
            try:
                if not _holds_events(path):
                    raise InputError(
                        f"--events {path}: it holds something else than events, which are appended",
                        hint="give another file",
                    )
                self._file = path.open("a", encoding="utf-8")
            except OSError as exc:
                raise SetupError(
                    f"--events {path}: {reason_of(exc)}", hint="give a file you may write"
                ) from exc

    def write(self, event: Event) -> Problem | None:
        """Write one event at once: somebody may be following.

        A full disk ends no long work: returns what to say of it, once. A reader that has left does.
        """
        if self._is_lost:
            return None
        line = json.dumps({"time": round(time.time(), 3), **event.to_json()})
        try:
            _write(self._file, line)
        except BrokenPipeError:
            raise
        except OSError as exc:
            if self._file is sys.stdout:
                raise
            self._is_lost = True
            reason = reason_of(exc)
            return Problem(f"--events {self._path}: {reason}; no more is written there")
        return None

    def close(self) -> None:
        """Close the file."""
        if self._file is not sys.stdout:
            with suppress(OSError):  # what could not be written is tried again
                self._file.close()


def _time_left(eta_seconds: float | None) -> str:
    return "" if eta_seconds is None else f"  {format_duration(eta_seconds)} left"


def _holds_events(path: Path) -> bool:
    """Whether a file holds events, or nothing; what is no regular file is whoever reads it."""
    if not path.is_file():
        return True
    with path.open("rb") as file:
        first = file.readline(_LONGEST_EVENT)
    return not first or (first.startswith(b"{") and b'"event": ' in first)


def _write(stream: IO[str], text: str) -> None:
    """Write a line at once; what cannot be said on stderr stays unsaid and ends nothing.

    Raises SetupError where stdout cannot be written, BrokenPipeError where its reader has left.
    """
    try:
        stream.write(text + "\n")
        stream.flush()
    except BrokenPipeError:
        raise
    except OSError as exc:
        if stream is sys.stderr:
            return
        if stream is not sys.stdout:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # nor can the rest of it
        raise SetupError(
            f"the output cannot be written: {reason_of(exc)}", hint="send it elsewhere"
        ) from exc


Console.current = Console()


class _PlainBars:
    """A line every tenth of the way: for log files and pipes."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._shown: dict[str, int] = {}

    def show(self, progress: _Progress) -> None:
        name, done, total, words, figures = progress
        tenth = done * _LINES // total
        if tenth != self._shown.get(name, 0) or total <= _LINES:
            self._shown[name] = tenth
            self._write(f"{name}: {words}{figures}")

    def end(self, name: str) -> None:
        self._shown.pop(name, None)

    def close(self) -> None:
        pass  # lines stay


class _MovingBars:
    """rich's progress bars, imported only where something moves."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as RichProgress

        self._progress = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            TextColumn("{task.fields[words]}{task.fields[figures]}"),
            console=Console(stderr=True),
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}

    def show(self, progress: _Progress) -> None:
        name, done, total, words, figures = progress
        if not self._tasks:
            self._progress.start()
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(name, total=total, words="", figures="")
        task = self._tasks[name]
        self._progress.update(task, completed=done, total=total, words=words, figures=figures)

    def end(self, name: str) -> None:
        if name in self._tasks:
            self._progress.remove_task(self._tasks.pop(name))
            if not self._tasks:
                self._progress.stop()

    def close(self) -> None:
        for name in tuple(self._tasks):
            self.end(name)
