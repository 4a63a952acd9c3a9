"""Both lists from a base model's own schedule: some of the teacher's many steps, or its own few."""

from typing import Final

from glance.core.errors import Problem, ScheduleError
from glance.schedule.lists import MOST_STEPS, Schedule
from glance.schedule.shift import TEACHER_STEPS, Shift, Spacing, as_timestep, teacher_sigmas

USUAL_STEPS: Final = 5
"""Of each phase, as published."""
OWN_STEPS: Final = 2
"""Of each phase of the schedule `own`."""
_SLOW_SHARE: Final = 5  # the first fifth of the teacher's steps is the slow phase's
_CAN_SPARE_ONE: Final = 5


def derive_schedule(
    shift: Shift,
    size: tuple[int, int],
    *,
    slow_steps: int = USUAL_STEPS,
    fast_steps: int = USUAL_STEPS,
    teacher_steps: int = TEACHER_STEPS,
) -> Schedule:
    """Return the schedule `auto`: so many of the teacher's steps in each phase.

    `size` is width and height in pixels. Raises ScheduleError when the teacher has too few steps.
    """
    slow, fast = choose_steps(slow_steps, fast_steps, teacher_steps)
    sigmas = teacher_sigmas(shift, *size, steps=teacher_steps)
    return Schedule(
        "auto",
        tuple(as_timestep(sigmas[step]) for step in slow),
        tuple(as_timestep(sigmas[step]) for step in fast),
    )


def own_schedule(
    shift: Shift,
    size: tuple[int, int],
    *,
    slow_steps: int = OWN_STEPS,
    fast_steps: int = OWN_STEPS,
    spacing: Spacing,
) -> Schedule:
    """Return the schedule `own`: what diffusers steps when asked for as many as both phases have.

    `size` is width and height in pixels, `spacing` the family's. Raises ScheduleError for a phase
    without a step, and for more steps than there are noise levels.
    """
    steps = slow_steps + fast_steps
    problems = [
        Problem(f"--{phase}-steps {wanted}: a phase has at least one step", "give 1 or more")
        for phase, wanted in (("slow", slow_steps), ("fast", fast_steps))
        if wanted < 1
    ]
    if steps > MOST_STEPS:
        problems.append(
            Problem(
                f"--slow-steps {slow_steps} and --fast-steps {fast_steps}: models know "
                f"{MOST_STEPS} noise levels",
                f"give at most {MOST_STEPS} together",
            )
        )
    if problems:
        raise ScheduleError(problems)
    sigmas = teacher_sigmas(shift, *size, steps=steps, spacing=spacing)
    timesteps = tuple(map(as_timestep, sigmas))
    return Schedule("own", timesteps[:slow_steps], timesteps[slow_steps:])


def choose_steps(
    slow_steps: int, fast_steps: int, teacher_steps: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return which of the teacher's steps each phase takes, counted from 0.

    The slow phase spreads its steps evenly over the first fifth, the fast one over the rest, from
    its first to the very last: of 50 these are 1 3 5 7 9 | 11 21 31 41 50, counted from 1, the
    method's own (arXiv 2512.02899). A fast phase of fewer than five steps has none to spare for
    the very last, where hardly any noise is left (measured in docs/evidence.md): its steps are
    spread evenly up to the end of the last.

    Raises ScheduleError when the teacher has too few steps.
    """
    boundary = round(teacher_steps / _SLOW_SHARE)
    rest = teacher_steps - boundary
    problems = [
        Problem(
            f"--{phase}-steps {wanted}: the {phase} phase has {there} of the teacher's "
            f"{teacher_steps} steps to choose from",
            f"give --teacher-steps more, or --{phase}-steps {_within(there)}",
        )
        for phase, wanted, there in (("slow", slow_steps, boundary), ("fast", fast_steps, rest))
        if not 1 <= wanted <= there
    ]
    if teacher_steps > MOST_STEPS:
        problems = [
            Problem(
                f"--teacher-steps {teacher_steps}: models know {MOST_STEPS} noise levels",
                f"give at most {MOST_STEPS}",
            )
        ]
    if problems:
        raise ScheduleError(problems)
    slow = tuple(step * boundary // slow_steps for step in range(slow_steps))
    if fast_steps < _CAN_SPARE_ONE:
        return slow, tuple(boundary + step * rest // fast_steps for step in range(fast_steps))
    gaps = fast_steps - 1
    inner = tuple(boundary + step * rest // gaps for step in range(gaps))
    return slow, (*inner, teacher_steps - 1)


def _within(most: int) -> str:
    return "1" if most <= 1 else f"from 1 to {most}"
