"""The losses of each step, kept in a run's logs/ as CSV: one file a phase, one format, one reader.

`start,step,loss`: which start of the trainer, counted from 1 as in glance.json; the step, counted
from 1; its loss. The file only grows: what a resumed phase does again is replaced when reading.

The trainer takes the timesteps of the phase's list in turn (SimpleTuner's `round-robin`: step k
has the value at (k - 1) mod n, resumed or not), and the loss differs from one to the next by far
more than training changes it: losses are compared a whole round at a time.
"""

import math
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

from glance.core.errors import RunError
from glance.core.events import mean_of_round
from glance.core.files import open_file
from glance.core.phase import Phase
from glance.runs.folder import RunFolder
from glance.runs.manifest import Manifest

_HEADER: Final = "start,step,loss\n"
_MOST_STEPS: Final = 10**9
# options of --set with which a step is no longer the next timestep of the list
_UNTURNING: Final = frozenset({"flow_timesteps_mode", "gradient_accumulation_steps"})


@dataclass(frozen=True, slots=True)
class StepLoss:
    """The loss of one step, and which start of the trainer did it; both counted from 1."""

    start: int
    step: int
    loss: float

    def to_json(self) -> dict[str, int | float]:
        """Return what `glance runs show --json` says of it."""
        return {"start": self.start, "step": self.step, "loss": self.loss}


class LossLog:
    """Adds the losses of one start of a phase's trainer to the phase's file, each at once."""

    def __init__(self, path: Path, *, start: int) -> None:
        self._path = path
        self._start = start
        self._is_begun = False

    def note(self, step: int, loss: float) -> None:
        """Add one step. A file that cannot be written stops no training."""
        with suppress(OSError):
            if not self._is_begun:
                _make_sound(self._path)
                self._is_begun = True
            with self._path.open("a", encoding="ascii", newline="\n") as file:
                file.write(f"{self._start},{step},{loss!r}\n")


def read_losses(run: RunFolder, phase: Phase) -> tuple[StepLoss, ...]:
    """Return the losses on the way to the phase's newest state, by step; empty: none were kept.

    A start replaces all that earlier ones did from its first step on. Raises RunError for a file
    that cannot be read.
    """
    try:
        with open_file(run.losses(phase)) as file:
            text = file.read().decode("ascii", errors="replace")
    except FileNotFoundError:
        return ()
    except OSError as exc:
        raise RunError(
            f"{run.losses(phase)} cannot be read: {exc.strerror or exc}",
            hint="make it a file that you may read, or move it away",
        ) from exc
    lines = text.split("\n")[1:-1]  # after the last end of a line only half a one can stand
    way: list[StepLoss] = []
    for row in filter(None, map(_parse, lines)):
        if way and row.start != way[-1].start:
            way = [earlier for earlier in way if earlier.step < row.step]
        way.append(row)
    return tuple(sorted({row.step: row for row in way}.values(), key=lambda row: row.step))


@dataclass(frozen=True, slots=True)
class Course:
    """How the loss of one phase went: what is drawn of it."""

    phase: Phase
    timesteps: tuple[float, ...]
    """The phase's list (0-1000)."""
    losses: tuple[StepLoss, ...]
    """By step; empty: none were kept."""
    is_in_turn: bool = True
    """Whether each step trained on one timestep, the next one of the list."""

    def timestep(self, step: int) -> float | None:
        """Return the timestep (0-1000) that a step was trained on, None where that is not known."""
        return self.timesteps[(step - 1) % len(self.timesteps)] if self.is_in_turn else None

    @property
    def resumptions(self) -> tuple[StepLoss, ...]:
        """The first step that each later start of the trainer did."""
        return tuple(now for before, now in pairwise(self.losses) if now.start != before.start)

    @property
    def trend(self) -> tuple[tuple[float, float], ...]:
        """The mean over each whole round, at the middle of its steps; at every step."""
        size = len(self.timesteps)
        found = []
        for end in range(size, len(self.losses) + 1):
            window = self.losses[end - size : end]
            if window[-1].step - window[0].step == size - 1:  # none is missing between
                middle = (window[0].step + window[-1].step) / 2
                found.append((middle, mean_of_round([row.loss for row in window])))
        return tuple(found)

    @property
    def last(self) -> float | None:
        """The mean of the last whole round, None: there is none."""
        return self.trend[-1][1] if self.trend else None


def describe_course(course: Course) -> str:
    """Return in a line what the first and the last round lost, or what else is known."""
    if not course.losses:
        return "no losses of its steps are kept"
    trend = course.trend
    if not trend:
        return f"last loss {course.losses[-1].loss:.4g}, less than a round of steps"
    first, last = trend[0][1], trend[-1][1]
    change = f" ({last / first - 1:+.0%})" if len(trend) > 1 else ""
    return f"loss of a round: {first:.4g} at first, {last:.4g} at last{change}"


def read_courses(run: RunFolder, manifest: Manifest) -> tuple[Course, ...]:
    """Return how the loss of each phase went, slow first."""
    return tuple(read_course(run, manifest, phase) for phase in Phase)


def read_course(run: RunFolder, manifest: Manifest, phase: Phase) -> Course:
    """Return how the loss of one phase went."""
    is_in_turn = not _UNTURNING & manifest.settings.overrides.keys()
    timesteps = manifest.resolve_schedule().phase(phase).timesteps
    return Course(phase, timesteps, read_losses(run, phase), is_in_turn)


def last_loss(run: RunFolder, manifest: Manifest, phase: Phase) -> float | None:
    """Return the mean of the phase's last whole round; None where there is none to be read."""
    try:
        return read_course(run, manifest, phase).last
    except RunError:
        return None


def _parse(line: str) -> StepLoss | None:
    """Return one row, None for what is none: people edit files."""
    try:
        start, step, loss = line.split(",")
        row = StepLoss(int(start), int(step), float(loss))
    except ValueError:
        return None
    is_possible = 0 <= row.loss < math.inf and 0 < row.step <= _MOST_STEPS
    return row if is_possible else None


def _make_sound(path: Path) -> None:
    """Make the file with its header, or cut off the half line that a crash left; raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = path.read_bytes() if path.exists() else b""
    whole = content[: content.rfind(b"\n") + 1] or _HEADER.encode("ascii")
    if whole != content:
        path.write_bytes(whole)
