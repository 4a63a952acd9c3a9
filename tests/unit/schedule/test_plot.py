"""Schedules and losses in files and in the terminal: the data behind, and what the files say."""

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from glance.core.errors import InputError, SetupError
from glance.core.phase import Phase
from glance.core.plot import Terminal
from glance.runs.losses import Course, StepLoss, chart_course, describe_course, draw_losses
from glance.schedule.lists import PRESETS, Schedule
from glance.schedule.plot import chart_schedule, draw_schedule, schedule_points
from glance.schedule.shift import DynamicShift, teacher_sigmas

PAPER = PRESETS["paper"].schedule
TEACHER = teacher_sigmas(DynamicShift(), 1024, 1024)
SMALL = Schedule("small", (1000.0, 900.0), (600.0, 200.0))


def make_course(*losses: float, timesteps: tuple[float, ...] = (1000.0, 900.0)) -> Course:
    rows = tuple(StepLoss(1, step, loss) for step, loss in enumerate(losses, 1))
    return Course(Phase.SLOW, timesteps, rows)


def words(svg: Path) -> set[str]:
    tree = ElementTree.parse(svg)
    return {element.text or "" for element in tree.iter("{http://www.w3.org/2000/svg}text")}


def test_a_schedules_points_are_the_teachers_steps_with_their_sigmas() -> None:
    points = schedule_points(PAPER, TEACHER)

    places = {phase: [x for x, _ in points.phases[phase]] for phase in Phase}
    assert places[Phase.SLOW] == pytest.approx([0, 2, 4, 6, 8, 10], abs=1e-3)
    assert places[Phase.FAST] == pytest.approx([10, 20, 30, 40, 49, 50], abs=1e-3)
    assert points.phases[Phase.FAST][-1] == (50.0, 0.0)
    assert points.boundary[1] == pytest.approx(0.9266473)
    points = schedule_points(SMALL, (1.0, 0.8, 0.4))  # between two of them: on the line
    places = [[x for x, _ in points.phases[phase]] for phase in Phase]
    assert places == [pytest.approx([0, 0.5, 1.5]), pytest.approx([1.5, 2.5, 3])]


def test_without_a_teacher_the_schedules_own_steps_are_counted() -> None:
    points = schedule_points(SMALL, ())

    assert points.phases[Phase.SLOW] == ((0.0, 1.0), (1.0, 0.9), (2.0, 0.6))
    assert points.phases[Phase.FAST] == ((2.0, 0.6), (3.0, 0.2), (4.0, 0.0))
    assert (points.teacher, points.x_label) == ((), "steps done")


def test_an_svg_says_what_is_drawn() -> None:
    draw_schedule(PAPER, TEACHER, Path("x.svg"))

    assert words(Path("x.svg")) >= {
        *("schedule: paper", "slow: 5 steps", "fast: 5 steps", "the base model's own 50 steps"),
        *("steps done, of the base model's own 50", "timestep", "1000"),
        "fast begins at sigma 0.9266, timestep 926.6",
    }


@pytest.mark.parametrize("name", ["x.png", "x.SVG"])
def test_the_same_data_give_the_same_bytes_whatever_matplotlib_is_told_to_do(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import matplotlib

    drawn = []
    for folder in ("one", "two"):
        draw_schedule(SMALL, (), Path(folder, name))
        draw_losses([make_course(2.0, 1.0, 1.5)], Path(folder, f"losses-{name}"))
        drawn.append([path.read_bytes() for path in sorted(Path(folder).iterdir())])
        monkeypatch.setitem(matplotlib.rcParams, "lines.linewidth", 9.0)

    assert drawn[0] == drawn[1]
    assert str(Path.cwd()).encode() not in b"".join(drawn[0])
    assert matplotlib.rcParams["lines.linewidth"] == 9.0


def test_what_cannot_be_drawn_is_refused_and_nothing_is_left() -> None:
    for name, said in (("x.jpg", ".jpg"), ("x", "no ending")):
        with pytest.raises(InputError, match=f"--plot .*: {said} is no kind") as refused:
            draw_schedule(SMALL, (), Path(name))
        assert refused.value.problems[0].hint == "end it with one of .png, .svg"
    Path("x.png").mkdir()
    with pytest.raises(SetupError, match=r"--plot .*x\.png: Is a directory"):
        draw_schedule(SMALL, (), Path("x.png"))
    assert [path.name for path in Path().iterdir()] == ["x.png"]


def test_a_schedule_is_drawn_in_the_terminal() -> None:
    chart = chart_schedule(PAPER, TEACHER, Terminal(60)).splitlines()

    assert "".join(chart[:-2]).count("F") == 5
    assert any("⠢" in line for line in chart)
    assert chart[-3].strip() == "steps done, of the base model's own 50"
    assert chart[-2] == "S slow, F fast; the curve is the base model's"


def test_plain_ascii_will_do() -> None:
    chart = chart_schedule(SMALL, (), Terminal(44, is_unicode=False)).splitlines()

    assert chart[0] == "                      sigma"
    assert chart[2:4] == [
        "   1+S                  |                  |",
        "    | ********S         |                  |",
    ]
    assert chart[7] == "    |                 **F                  |"
    assert chart[14] == "   0+                   |             *****|"
    assert chart[-3].strip() == "steps done"
    assert chart[-2:] == ["S slow, F fast", "fast begins at sigma 0.6, timestep 600"]


@pytest.mark.parametrize("width", [40, 100])
def test_a_chart_keeps_to_its_size(width: int) -> None:
    schedule = chart_schedule(PAPER, (), Terminal(width)).splitlines()
    course = chart_course(make_course(*range(1, 9)), Terminal(width), height=8).splitlines()

    assert (len(schedule), len(course)) == (20, 8)
    assert max(map(len, schedule[:-2] + course)) <= width


@pytest.mark.parametrize(
    ("encoding", "kind", "is_unicode"),
    [
        ("utf-8", "xterm", True),
        ("utf-8", "dumb", False),
        *((encoding, "xterm", False) for encoding in ("ascii", "latin-1", None, "no such")),
    ],
)
def test_a_chart_is_made_of_what_the_terminal_can_show(
    encoding: str | None, kind: str, is_unicode: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", kind)
    monkeypatch.delenv("NO_COLOR", raising=False)
    seen, piped = (Terminal.of(encoding, is_tty=own, columns=70) for own in (True, False))
    monkeypatch.setenv("NO_COLOR", "1")
    refused = Terminal.of(encoding, is_tty=True, columns=70)

    charts = [chart_schedule(SMALL, (), one) for one in (seen, piped, refused)]

    assert seen == Terminal(70, is_unicode=is_unicode, has_colours=kind != "dumb")
    assert [chart.isascii() for chart in charts] == [not is_unicode] * 3
    assert ["\x1b[" in chart for chart in charts] == [kind != "dumb", False, False]


def test_the_trend_of_losses_is_blind_to_the_levels_of_their_timesteps() -> None:
    course = make_course(1.0, 0.01, 1.0, 0.01, 0.5, 0.005)

    assert [x for x, _ in course.trend] == [1.5, 2.5, 3.5, 4.5, 5.5]
    assert [y for _, y in course.trend] == pytest.approx([0.1, 0.1, 0.1, 0.1 / 2**0.5, 0.05])
    assert describe_course(course) == "loss of a round: 0.1 at first, 0.05 at last (-50%)"
    rows = tuple(StepLoss(1, step, 1.0) for step in (1, 2, 4, 5))
    gap = Course(Phase.SLOW, (900.0, 800.0), rows)
    assert [x for x, _ in gap.trend] == [1.5, 4.5], "a round that lacks a step has no mean"


def test_a_course_is_drawn_in_the_terminal() -> None:
    rows = [StepLoss(1 if step < 5 else 2, step, 8 / step) for step in range(1, 11)]
    course = Course(Phase.FAST, (800.0,), tuple(rows))

    lines = chart_course(course, Terminal(44, is_unicode=False), height=8).splitlines()

    labels = [line.partition("+")[0].strip() for line in lines]
    assert [label for label in labels if label[:1].isdigit()] == ["8", "2.53", "0.8"]
    assert [words for words in lines[-1].split("  ") if words] == ["step 1", "start 2", "10"]
    again = ["|" in line[10:-1] for line in lines[1:-2]]  # where the trainer started again
    assert again.count(False) <= 1  # behind the curve


def test_too_few_steps_have_no_shape() -> None:
    assert chart_course(make_course(0.5), Terminal(), height=8) == ""
    assert describe_course(make_course(0.5)) == "last loss 0.5, less than a round of steps"
    assert describe_course(make_course()) == "no losses of its steps are kept"


def test_flat_and_vanished_losses_can_be_drawn() -> None:
    for course in (make_course(0.5, 0.5, 0.5), make_course(0.0, 0.0, 0.0)):
        assert chart_course(course, Terminal(), height=5)
        draw_losses([course], Path("x.png"))


def test_drawn_losses_name_their_timesteps_and_their_starts() -> None:
    rows = (StepLoss(1, 1, 0.5), StepLoss(1, 2, 0.4), StepLoss(2, 3, 0.3))
    slow = Course(Phase.SLOW, (1000.0, 979.1915), rows)
    fast = Course(Phase.FAST, (800.0, 20.0), rows, is_in_turn=False)

    draw_losses([slow, fast], Path("x.svg"))

    said = words(Path("x.svg"))
    assert said >= {"timestep 1000", "timestep 979.2", "mean of each round", "start 2", "a step"}
    assert "timestep 800" not in said
    assert "slow: loss of a round: 0.4472 at first, 0.3464 at last (-23%)" in said


def test_nothing_that_draws_is_loaded_before_it_is_needed() -> None:
    script = (
        "import sys, glance.core.plot, glance.schedule.plot, glance.runs.losses\n"
        "import glance.cli._command\n"
        "sys.exit('matplotlib' in sys.modules or 'plotext' in sys.modules)"
    )

    done = subprocess.run([sys.executable, "-c", script], check=False)

    assert done.returncode == 0
