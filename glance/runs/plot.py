"""The losses of both phases drawn.

On a logarithmic scale: the timesteps of one list may differ thirtyfold in their loss.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from glance.core.plot import COLOURS, GREY, Terminal, drawing
from glance.runs.losses import Course, describe_course

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SIGNS: Final = "o^sDvP*X"  # one a timestep; of a longer list they are not told apart
_SPREAD: Final = 1.02  # a course that is flatter than that is drawn flat


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
