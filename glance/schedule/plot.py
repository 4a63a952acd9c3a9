"""A schedule drawn: the noise levels of both phases on the base model's own curve."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from glance.core.phase import Phase
from glance.core.plot import COLOURS, GREY, MARKERS, Terminal, drawing
from glance.schedule.lists import MAX_TIMESTEP, Schedule

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_HEIGHT: Final = 18  # lines of a chart
_LEVELS: Final = (1.0, 0.75, 0.5, 0.25, 0.0)
_LETTERS: Final = {Phase.SLOW: ("S", "blue"), Phase.FAST: ("F", "orange")}

type Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class SchedulePoints:
    """What is drawn of a schedule: points of x (0 to `last_x`) and sigma (1 to 0)."""

    phases: Mapping[Phase, tuple[Point, ...]]
    """Each with the point that it ends at."""
    teacher: tuple[Point, ...]
    """The base model's own curve, the final 0 with it; empty where none is known."""
    x_label: str

    @property
    def last_x(self) -> float:
        """Where both end, at sigma 0."""
        return self.phases[Phase.FAST][-1][0]

    @property
    def boundary(self) -> Point:
        """Where the fast LoRA takes over from the slow one."""
        return self.phases[Phase.FAST][0]


def schedule_points(schedule: Schedule, teacher: Sequence[float]) -> SchedulePoints:
    """Return the points of a schedule beside those of the base model's own `teacher` sigmas.

    `teacher`: N sigmas (0-1), strictly downwards from 1 without the final 0, or empty. With one,
    x counts its steps: a point stands where the teacher's curve, straight between its steps, has
    that point's sigma. Without one, x counts the schedule's own.
    """
    curve = tuple((float(step), sigma) for step, sigma in enumerate((*teacher, 0.0)))
    phases: dict[Phase, tuple[Point, ...]] = {}
    done = 0
    for phase in Phase:
        part = schedule.phase(phase)
        sigmas = (*part.sigmas, part.end_sigma)
        phases[phase] = tuple(
            (_steps_done(curve, sigma) if teacher else float(done + place), sigma)
            for place, sigma in enumerate(sigmas)
        )
        done += len(part.sigmas)
    label = f"steps done, of the base model's own {len(teacher)}" if teacher else "steps done"
    return SchedulePoints(phases, curve if teacher else (), label)


def draw_schedule(schedule: Schedule, teacher: Sequence[float], path: Path) -> None:
    """Draw the sigmas of both phases over the steps, to a .png or .svg file.

    `teacher`: the base model's own sigmas, from 1 downwards without the final 0, or empty.

    Raises InputError for another ending, SetupError where the file cannot be written.
    """
    points = schedule_points(schedule, teacher)
    with drawing(path, inches=(8.0, 4.8)) as figure:
        axes = figure.add_subplot()
        _draw_curves(axes, points)
        _draw_boundary(axes, points)
        axes.set_title(f"schedule: {schedule.name}")
        axes.set_xlabel(points.x_label)
        axes.set_ylabel("sigma (1: pure noise, 0: the image)")
        axes.set_xlim(-0.02 * points.last_x, 1.02 * points.last_x)
        axes.set_ylim(-0.03, 1.03)
        _add_timesteps(axes)
        axes.grid(alpha=0.25)
        axes.legend(loc="lower left", framealpha=0.9)


def chart_schedule(schedule: Schedule, teacher: Sequence[float], terminal: Terminal) -> str:
    """Return the same for a terminal."""
    points = schedule_points(schedule, teacher)
    joined = (*points.phases[Phase.SLOW], *points.phases[Phase.FAST][1:])

    def draw(plot: Any) -> None:
        curve = points.teacher or joined
        plot.plot(*_columns(curve), marker=terminal.line, color="gray")
        plot.vline(points.boundary[0], "gray")
        for phase, (letter, colour) in _LETTERS.items():
            plot.scatter(*_columns(points.phases[phase][:-1]), marker=letter, color=colour)
        plot.ylim(0, 1)
        plot.yticks(_LEVELS, [f"{level:g}" for level in _LEVELS])
        steps = range(0, round(points.last_x) + 1, math.ceil(points.last_x / 10))
        plot.xticks(list(steps), list(map(str, steps)))
        plot.title("sigma")
        plot.xlabel(points.x_label)

    own = "; the curve is the base model's" if points.teacher else ""
    legend = f"S slow, F fast{own}\n{_say_boundary(points)}"
    return f"{terminal.chart(draw, height=_HEIGHT)}\n{legend}"


def _columns(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _say_boundary(points: SchedulePoints) -> str:
    sigma = points.boundary[1]
    return f"fast begins at sigma {sigma:.4g}, timestep {sigma * MAX_TIMESTEP:.4g}"


def _draw_curves(axes: "Axes", points: SchedulePoints) -> None:
    if points.teacher:
        label = f"the base model's own {len(points.teacher) - 1} steps"
        axes.plot(*_columns(points.teacher), color=GREY, linewidth=1, label=label)
    for phase in Phase:
        count = len(points.phases[phase]) - 1
        axes.plot(
            *_columns(points.phases[phase]),
            color=COLOURS[phase],
            marker=MARKERS[phase],
            markevery=range(count),  # the last is the other's first, or the end
            linewidth=2,
            label=f"{phase}: {count} {'step' if count == 1 else 'steps'}",
        )


def _add_timesteps(axes: "Axes") -> None:
    """Give the right-hand side an axis of timesteps (0-1000)."""
    import numpy as np

    right = axes.secondary_yaxis(
        "right",
        functions=(
            lambda sigma: np.asarray(sigma, float) * MAX_TIMESTEP,
            lambda timestep: np.asarray(timestep, float) / MAX_TIMESTEP,
        ),
    )
    right.set_ylabel("timestep")


def _draw_boundary(axes: "Axes", points: SchedulePoints) -> None:
    x, _ = points.boundary
    axes.axvline(x, color=GREY, linestyle="--", linewidth=1)
    is_left = x <= points.last_x / 2
    axes.annotate(  # where no curve is: above it on its right, below it on its left
        _say_boundary(points),
        (x, 1.0 if is_left else 0.3),
        xytext=(6 if is_left else -6, 0),
        textcoords="offset points",
        horizontalalignment="left" if is_left else "right",
        verticalalignment="center",
    )


def _steps_done(curve: Sequence[Point], sigma: float) -> float:
    """Return how many steps along the curve, straight between its points, have that sigma."""
    for (x, higher), (_, lower) in pairwise(curve):
        if sigma >= lower:
            return x + max(0.0, (higher - sigma) / (higher - lower))
    return curve[-1][0]
