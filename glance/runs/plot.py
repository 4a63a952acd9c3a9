"""The losses of both phases as pictures and as text.

On a logarithmic scale: the timesteps of one list may differ thirtyfold in their loss.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from glance.core.canvas import UNICODE, Canvas, Glyphs, frame, label_rows, spread_labels
from glance.core.figure import COLOURS, GREY, drawing
from glance.runs.losses import Course

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LEAST: Final = (40, 5)  # characters across and lines; in less nothing can be read
_SIGNS: Final = "o^sDvP*X"  # one a timestep; of a longer list they are not told apart
_SPREAD: Final = 1.02  # a course that is flatter than that is drawn flat


def draw_losses(courses: Sequence[Course], path: Path) -> None:
    """Draw the loss over the steps, a panel a phase that has any, to a .png or .svg file.

    Every step is a faint point, in the sign of its timestep; the line is the mean of each round.

    Raises UsageError for another ending, InputError where the file cannot be written.
    """
    drawn = [course for course in courses if course.losses]
    with drawing(path, inches=(5.5 * max(1, len(drawn)), 4.8)) as figure:
        for place, course in enumerate(drawn, 1):
            _draw_course(figure.add_subplot(1, len(drawn), place), course)


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


def chart_course(
    course: Course, *, width: int = 78, height: int = 8, glyphs: Glyphs = UNICODE
) -> str:
    """Return the mean of each round as text: at most `width` characters across, `height` lines.

    `glyphs`: `choose_glyphs` of the stream's encoding. Less than 40 x 5 is taken as that. Empty
    for a course of less than two rounds' ends, which has no shape.
    """
    trend = course.trend
    if len(trend) < 2:
        return ""
    width, height = max(width, _LEAST[0]), max(height, _LEAST[1])
    low, high = _range([value for _, value in trend])
    first, last = course.losses[0].step, course.losses[-1].step
    labels = [(share, f"{low * (high / low) ** share:.3g}") for share in (1.0, 0.5, 0.0)]
    margin = max(len(label) for _, label in labels) + 2  # a space and the axis
    canvas = Canvas(width - margin, height - 2, glyphs)

    def across(step: float) -> float:
        return (step - first) / max(last - first, 1)

    canvas.line([(across(x), math.log(y / low) / math.log(high / low)) for x, y in trend])
    for row in course.resumptions:
        canvas.column(across(row.step), glyphs.boundary)
    rows = canvas.rows()
    starts = [(across(row.step), f"start {row.start}") for row in course.resumptions]
    ends = [(0.0, f"step {first}"), (1.0, str(last))]
    lines = frame(
        rows,
        glyphs,
        left=label_rows(len(rows), labels if len(rows) > 2 else labels[::2]),
        right=[""] * len(rows),
        below=spread_labels([*ends, *starts], len(rows[0])),
    )
    return "\n".join(lines)


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    middle = math.sqrt(low * high)
    return min(low, middle / _SPREAD), max(high, middle * _SPREAD)


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
