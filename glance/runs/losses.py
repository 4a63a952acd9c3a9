"""The losses of each step: kept in a run's logs/ as CSV, a file a phase; read, and drawn.

`start,step,loss`: which start of the trainer, counted from 1 as in glance.json; the step, counted
from 1; its loss. The file only grows: what a resumed phase does again is replaced when reading.

The trainer takes the timesteps of the phase's list in turn (SimpleTuner's `round-robin`: step k
has the value at (k - 1) mod n, resumed or not), and the loss differs from one to the next by far
more than training changes it: losses are compared a whole round at a time.
"""

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from glance.core.errors import RunError, reason_of
from glance.core.events import mean_of_round
from glance.core.files import open_file
from glance.core.phase import Phase
from glance.core.plot import COLOURS, GREY, Terminal, drawing
from glance.runs.folder import RunFolder
from glance.runs.manifest import Manifest

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_HEADER: Final = "start,step,loss\n"
_MOST_STEPS: Final = 10**9
_SIGNS: Final = "o^sDvP*X"  # one a timestep; of a longer list they are not told apart
_SPREAD: Final = 1.02  # a course that is flatter than that is drawn flat
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
            f"{run.losses(phase)} cannot be read: {reason_of(exc)}",
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


def draw_losses(courses: Sequence[Course], path: Path) -> None:
    """Draw the loss over the steps, a panel a phase that has any, to a .png or .svg file.

    Every step is a faint point, in the sign of its timestep; the line is the mean of each round.

    Raises InputError for another ending, SetupError where the file cannot be written.
    """
    drawn = [course for course in courses if course.losses]
    with drawing(path, inches=(5.5 * max(1, len(drawn)), 4.8)) as figure:
        for place, course in enumerate(drawn, 1):
            _draw_course(figure.add_subplot(1, len(drawn), place), course)


def chart_course(course: Course, terminal: Terminal, *, height: int) -> str:
    """Return the mean of each round for a terminal, in `height` lines.

    Empty for a course of less than two rounds' ends, which has no shape.
    """
    if len(course.trend) < 2:
        return ""
    steps, means = zip(*course.trend, strict=True)
    middle = math.sqrt(min(means) * max(means))
    low, high = min(*means, middle / _SPREAD), max(*means, middle * _SPREAD)
    ticks = [low, middle, high] if height > 5 else [low, high]
    first, last = course.losses[0].step, course.losses[-1].step
    starts = {row.step: f"start {row.start}" for row in course.resumptions}

    def draw(plot: Any) -> None:
        plot.plot(steps, [math.log(mean) for mean in means], marker=terminal.line, color="blue")
        for step in starts:
            plot.vline(step, "gray")
        plot.xlim(first, max(last, first + 1))
        plot.ylim(math.log(low), math.log(high))
        plot.yticks([math.log(tick) for tick in ticks], [f"{tick:.3g}" for tick in ticks])
        labels = {first: f"step {first}", **starts, last: str(last)}
        plot.xticks(list(labels), list(labels.values()))

    return terminal.chart(draw, height=height)


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


def _draw_course(axes: "Axes", course: Course) -> None:
    colour = COLOURS[course.phase]
    tells_apart = course.is_in_turn and 1 < len(course.timesteps) <= len(_SIGNS)
    groups = course.timesteps if tells_apart else (None,)
    for timestep, sign in zip(groups, _SIGNS, strict=False):
        rows = [row for row in course.losses if timestep in (None, course.timestep(row.step))]
        axes.plot(
            [row.step for row in rows],
            [row.loss for row in rows],
            sign,
            color=colour,
            markersize=4,
            alpha=0.45,
            label="a step" if timestep is None else f"timestep {timestep:.4g}",
        )
    trend = course.trend
    if trend:
        xs, ys = zip(*trend, strict=True)
        label = "mean of each round" if len(course.timesteps) > 1 else "the same, joined"
        axes.plot(xs, ys, "-" if len(xs) > 1 else "_", color="black", linewidth=2, label=label)
    for row in course.resumptions:
        axes.axvline(row.step - 0.5, color=GREY, linestyle=":")
        axes.annotate(
            f"start {row.start}",
            (row.step - 0.5, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(3, -10),
            textcoords="offset points",
        )
    _label(axes, course)


def _label(axes: "Axes", course: Course) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_title(f"{course.phase}: {describe_course(course)}", fontsize="medium")
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.25)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=3, fontsize="small")
