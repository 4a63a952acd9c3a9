"""Which schedule is asked for: a preset, one of the model's own, an optimised one, a file, lists.

What needs no base model is found here; `BaseModel.resolve_schedule` finds all of them.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Self

from glance.core.errors import Problem, ScheduleError, UsageError, reason_of
from glance.core.options import Flag, Group
from glance.schedule.lists import (
    DEFAULT_SCHEDULE,
    MOST_STEPS,
    PRESETS,
    ResolvedSchedule,
    Schedule,
    preset_name,
    replace_lists,
)
from glance.schedule.shift import (
    OWN_STEPS,
    TEACHER_STEPS,
    USUAL_STEPS,
    KnownShift,
    Spacing,
    as_timestep,
    depends_on_size,
    derive_schedule,
    teacher_sigmas,
)

AUTO: Final = "auto"
OWN: Final = "own"
OPTIMAL: Final = "optimal"
OF_ONE_SIZE: Final = (AUTO, OWN, OPTIMAL)
"""Schedules that are made for a model and an image size."""
_SHOWN: Final = 80  # characters of a name that is none


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleOptions:
    """--schedule and the flags that go with it, unchecked; travels whole from command to plan."""

    name: Annotated[
        str | None,
        Flag(
            "guide (SimpleTuner's one-sample list), paper (FLUX's), auto (some of the model's own "
            "50 steps), own (the steps diffusers itself would take), optimal (found by glance "
            "schedule optimize), or a .json file. Default: guide; distill: own; infer: what the "
            "pair was trained on.",
            Group.SCHEDULE,
            ("--schedule",),
        ),
    ] = None
    """None: what the command does without it."""
    slow_timesteps: Annotated[
        str | None,
        Flag(
            "List of the slow phase: timesteps (0-1000) or sigmas (0-1), comma-separated.",
            Group.SCHEDULE,
            kind="LIST",
            commas=True,
        ),
    ] = None
    fast_timesteps: Annotated[
        str | None, Flag("List of the fast phase.", Group.SCHEDULE, kind="LIST", commas=True)
    ] = None
    slow_steps: Annotated[
        int | None,
        Flag(
            "Steps of the slow phase, for auto, own, optimal. Default: 5; own: 2.", Group.SCHEDULE
        ),
    ] = None
    fast_steps: Annotated[
        int | None, Flag("Steps of the fast phase, likewise.", Group.SCHEDULE)
    ] = None
    teacher_steps: Annotated[
        int | None,
        Flag(
            "Steps of the base model's own schedule: what auto chooses from, and what distill "
            "records. Default: 50.",
            Group.ADVANCED,
        ),
    ] = None

    def __post_init__(self) -> None:
        if self.name is not None:
            object.__setattr__(self, "name", preset_name(self.name))

    @classmethod
    def of(cls, given: Self | str | None) -> Self:
        """Return options, or those that a plain name stands for."""
        return given if isinstance(given, cls) else cls(name=given)  # type: ignore[arg-type]

    @property
    def is_of_one_size(self) -> bool:
        """Whether the schedule is made for an image size."""
        return self.name in OF_ONE_SIZE

    @property
    def gives_steps(self) -> bool:
        """Whether a number of steps is asked for."""
        return (self.slow_steps, self.fast_steps, self.teacher_steps) != (None, None, None)

    def replace_lists(self, schedule: Schedule) -> Schedule:
        """Return `schedule` with either list replaced by the user's own.

        Raises ScheduleError: a list that does not parse, or a rule broken.
        """
        return replace_lists(
            schedule, slow_timesteps=self.slow_timesteps, fast_timesteps=self.fast_timesteps
        )


def refuse_steps(options: ScheduleOptions) -> None:
    """Raise UsageError for numbers of steps where the schedule's name decides them."""
    name = options.name or DEFAULT_SCHEDULE
    if name == AUTO:
        return
    decided = {
        OWN: "own, which has no other steps",
        OPTIMAL: "optimal, which was found with its own",
    }
    why = decided.get(name, f"{name}, whose lists are given")
    given = (
        *(("slow", options.slow_steps), ("fast", options.fast_steps)),
        ("teacher", options.teacher_steps),
    )
    for which, steps in given:
        if steps is not None and (which == "teacher" or name not in decided):
            raise UsageError(
                f"--{which}-steps {steps} does not go with --schedule {why}",
                hint=f"drop it, or use --schedule {AUTO}",
            )


def resolve_given(options: ScheduleOptions) -> ResolvedSchedule:
    """Return a preset or a file: what needs no base model.

    Raises ScheduleError: an unknown name, a file that cannot be used.
    """
    name = options.name or DEFAULT_SCHEDULE
    path = _find_file(name)
    if path is not None:
        from glance.schedule.file import read_schedule_file  # pydantic, which no --help needs

        schedule = read_schedule_file(path).resolve(path.stem)
        return ResolvedSchedule(schedule, f"the file {path.name}")
    if name not in PRESETS:
        raise ScheduleError(
            f"schedule {name[:_SHOWN]!r} is not known",
            hint=f"choose one of: {', '.join((*PRESETS, *OF_ONE_SIZE))}, or a .json file",
        )
    return PRESETS[name]


def resolve_derived(
    options: ScheduleOptions,
    known: KnownShift,
    size: tuple[int, int],
    *,
    title: str,
    spacing: Spacing,
) -> ResolvedSchedule:
    """Return `auto`, some of the base model's own steps, or `own`, what diffusers steps.

    The base model's family is called `title`. Raises ScheduleError for numbers of steps that
    cannot be.
    """
    at = f"{size[0]}x{size[1]}" if depends_on_size(known.shift) else "any size"
    usual = USUAL_STEPS if options.name == AUTO else OWN_STEPS
    slow = usual if options.slow_steps is None else options.slow_steps
    fast = usual if options.fast_steps is None else options.fast_steps
    if options.name == AUTO:
        teacher = TEACHER_STEPS if options.teacher_steps is None else options.teacher_steps
        schedule = derive_schedule(
            known.shift, size, slow_steps=slow, fast_steps=fast, teacher_steps=teacher
        )
        source = f"of {teacher} steps of {title} at {at}, {known.source}"
        return ResolvedSchedule(schedule, source, known.doubts)
    problems = [
        Problem(f"--{phase}-steps {wanted}: a phase has at least one step", "give 1 or more")
        for phase, wanted in (("slow", slow), ("fast", fast))
        if wanted < 1
    ]
    if slow + fast > MOST_STEPS:
        message = f"--slow-steps {slow} and --fast-steps {fast}: models know {MOST_STEPS}"
        hint = f"give at most {MOST_STEPS} together"
        problems.append(Problem(f"{message} noise levels", hint))
    if problems:
        raise ScheduleError(problems)
    sigmas = teacher_sigmas(known.shift, *size, steps=slow + fast, spacing=spacing)
    timesteps = tuple(map(as_timestep, sigmas))
    schedule = Schedule("own", timesteps[:slow], timesteps[slow:])
    asked = f"what diffusers steps when asked for {slow + fast} steps of {title} at {at}"
    return ResolvedSchedule(schedule, f"{asked}, {known.source}", known.doubts)


def resolve_optimal(
    options: ScheduleOptions, fingerprint: str, size: tuple[int, int]
) -> ResolvedSchedule:
    """Return `optimal`: the one that was kept for a base model; raises ScheduleError."""
    from glance.schedule.file import find_optimal

    found = find_optimal(
        fingerprint, size, slow_steps=options.slow_steps, fast_steps=options.fast_steps
    )
    assert found.origin is not None
    return ResolvedSchedule(
        found.resolve(OPTIMAL),
        f"optimised for this model at {size[0]}x{size[1]} on {len(found.origin.prompts)} prompts "
        f"against its {found.origin.teacher_steps} steps",
    )


def _find_file(name: str) -> Path | None:
    try:
        path = Path(name).expanduser()
        return path if name.endswith(".json") or path.is_file() else None
    except (
        OSError,
        ValueError,
        RuntimeError,
    ) as exc:  # too long; in the home folder of an unknown user
        if not name.endswith(".json"):
            return None
        reason = reason_of(exc)
        raise ScheduleError(
            f"--schedule {name[:_SHOWN]}: {reason}", hint="give another file"
        ) from exc
