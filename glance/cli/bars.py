"""How far things are, on a terminal and in a log file: one bar or line each."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

if TYPE_CHECKING:
    from rich.progress import TaskID

_LINES: Final = 10  # for each thing, where nothing can move


class Progress(NamedTuple):
    """How far something is."""

    name: str
    done: int
    total: int
    words: str
    figures: str


class Bars(Protocol):
    """Shows how far several things are."""

    def show(self, progress: Progress) -> None:
        """Show one thing's news."""
        ...

    def end(self, name: str) -> None:
        """Show that thing no more."""
        ...

    def close(self) -> None:
        """Leave the terminal as it was."""
        ...


class PlainBars:
    """A line every tenth of the way: for log files and pipes."""

    def __init__(self, write: Callable[[str], None]) -> None:
        """Stand ready to write lines."""
        self._write = write
        self._shown: dict[str, int] = {}

    def show(self, progress: Progress) -> None:
        """See Bars."""
        name, done, total, words, figures = progress
        tenth = done * _LINES // total
        if tenth != self._shown.get(name, 0) or total <= _LINES:
            self._shown[name] = tenth
            self._write(f"{name}: {words}{figures}")

    def end(self, name: str) -> None:
        """See Bars."""
        self._shown.pop(name, None)

    def close(self) -> None:
        """See Bars: lines stay."""


class MovingBars:
    """rich's progress bars, imported only where something moves."""

    def __init__(self) -> None:
        """Show nothing yet."""
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

    def show(self, progress: Progress) -> None:
        """See Bars."""
        name, done, total, words, figures = progress
        if not self._tasks:
            self._progress.start()
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(name, total=total, words="", figures="")
        task = self._tasks[name]
        self._progress.update(task, completed=done, total=total, words=words, figures=figures)

    def end(self, name: str) -> None:
        """See Bars."""
        if name in self._tasks:
            self._progress.remove_task(self._tasks.pop(name))
            if not self._tasks:
                self._progress.stop()

    def close(self) -> None:
        """See Bars."""
        for name in tuple(self._tasks):
            self.end(name)
