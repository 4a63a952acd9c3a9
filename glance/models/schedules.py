"""Which schedule a name stands for: a preset, one of the model's own, an optimised one, a file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from glance.core.errors import Problem, ScheduleError, UsageError
from glance.models.base import fingerprint, read_model_json
from glance.models.families import Family
from glance.schedule.file import find_optimal, read_schedule_file
from glance.schedule.lists import PRESETS, Schedule, replace_lists, resolve_schedule
from glance.schedule.options import OPTIMAL
from glance.schedule.shift import (
    OWN_STEPS,
    TEACHER_STEPS,
    USUAL_STEPS,
    EmpiricalShift,
    KnownShift,
    depends_on_size,
    derive_schedule,
    own_schedule,
    read_shift,
)

AUTO_SCHEDULE: Final = "auto"
OWN_SCHEDULE: Final = "own"
OF_ONE_SIZE: Final = (AUTO_SCHEDULE, OWN_SCHEDULE, OPTIMAL)
"""Schedules that are made for a model and a picture size."""
SCHEDULE_NAMES: Final = (*PRESETS, *OF_ONE_SIZE)
_SHOWN: Final = 80  # characters of a name that is none
_CONFIG: Final = "scheduler/scheduler_config.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelsRequest:
    """What the user typed of the noise levels, unchecked."""

    name: str
    slow_timesteps: str | None = None
    fast_timesteps: str | None = None
    slow_steps: int | None = None
    fast_steps: int | None = None
    teacher_steps: int | None = None


@dataclass(frozen=True, slots=True)
class Subject:
    """What a derived schedule belongs to."""

    family: Family
    model: str
    """A Hub id, or a folder as it is found from here."""
    size: tuple[int, int]
    """Width and height in pixels."""


@dataclass(frozen=True, slots=True)
class ResolvedLevels:
    """A schedule, and where its numbers come from."""

    schedule: Schedule
    source: str
    doubts: tuple[Problem, ...] = ()


def resolve_levels(request: LevelsRequest, subject: Subject) -> ResolvedLevels:
    """Return what `request` stands for, its lists replaced by the user's own where given.

    Raises ScheduleError: an unknown name, a list that does not parse or breaks a rule, a file that
    cannot be used, a model whose schedule is not known; UsageError for numbers of steps where the
    name decides them.
    """
    named = _named(request, subject)
    schedule = replace_lists(
        named.schedule,
        slow_timesteps=request.slow_timesteps,
        fast_timesteps=request.fast_timesteps,
    )
    return named if schedule is named.schedule else ResolvedLevels(schedule, "yours", named.doubts)


def find_shift(family: Family, model: str) -> KnownShift:
    """Return a model's shift.

    It is what the model's scheduler config says, as diffusers reads it; of the family's default
    model it is what glance has recorded of that, and so, doubtfully, where a model's config cannot
    be read. FLUX.2's pipelines compute theirs, whatever the config says.

    Raises ScheduleError where neither is known, or the config cannot be used.
    """
    recorded = family.shift
    if isinstance(recorded, EmpiricalShift):
        return KnownShift(recorded, f"as {family.pipeline} computes it")
    if recorded is not None and model == family.default_model:
        return KnownShift(recorded, f"by the scheduler of {model}, as docs/families.md has it")
    config = read_model_json(model, _CONFIG)
    found = None if config is None else read_shift(config)
    if found is not None:
        return KnownShift(found, "by the model's scheduler config")
    why = "cannot be read" if config is None else "is not of a flow-matching Euler scheduler"
    if recorded is None:
        raise ScheduleError(
            f"model {model}: its {_CONFIG} {why}, and nobody here has seen the schedule of "
            f"{family.title}",
            hint="give --model a folder in diffusers layout, or lists of your own",
        )
    doubt = Problem(
        f"model {model}: its {_CONFIG} {why}, the usual shift of {family.title} is taken",
        "give lists of your own if this model was made for another",
    )
    return KnownShift(recorded, f"by the usual shift of {family.title}", (doubt,))


def _named(request: LevelsRequest, subject: Subject) -> ResolvedLevels:
    name = request.name
    if name == AUTO_SCHEDULE:
        return _derived(request, subject)
    if name == OWN_SCHEDULE:
        _refuse("--teacher-steps", request.teacher_steps, "own, which has no other steps")
        return _own(request, subject)
    if name == OPTIMAL:
        _refuse("--teacher-steps", request.teacher_steps, "optimal, which was found with its own")
        return _optimised(request, subject)
    given = (request.slow_steps, request.fast_steps, request.teacher_steps)
    for flag, value in zip(("--slow-steps", "--fast-steps", "--teacher-steps"), given, strict=True):
        _refuse(flag, value, f"{name}, whose lists are given")
    path = _find_file(name)
    if path is not None:
        return ResolvedLevels(read_schedule_file(path).resolve(path.stem), f"the file {path.name}")
    if name not in PRESETS:
        raise ScheduleError(
            f"schedule {name[:_SHOWN]!r} is not known",
            hint=f"choose one of: {', '.join(SCHEDULE_NAMES)}, or a .json file",
        )
    return ResolvedLevels(resolve_schedule(name), PRESETS[name].source)


def _find_file(name: str) -> Path | None:
    """Return the schedule's file, if that is what the name means; raise ScheduleError."""
    try:
        path = Path(name).expanduser()
        return path if name.endswith(".json") or path.is_file() else None
    except (OSError, ValueError, RuntimeError) as exc:  # too long; in the home of nobody
        if not name.endswith(".json"):
            return None
        reason = getattr(exc, "strerror", None) or exc
        raise ScheduleError(
            f"--schedule {name[:_SHOWN]}: {reason}", hint="give another file"
        ) from exc


def _derived(request: LevelsRequest, subject: Subject) -> ResolvedLevels:
    known = find_shift(subject.family, subject.model)
    teacher = TEACHER_STEPS if request.teacher_steps is None else request.teacher_steps
    schedule = derive_schedule(
        known.shift,
        subject.size,
        slow_steps=USUAL_STEPS if request.slow_steps is None else request.slow_steps,
        fast_steps=USUAL_STEPS if request.fast_steps is None else request.fast_steps,
        teacher_steps=teacher,
    )
    source = (
        f"of {teacher} steps of {subject.family.title} at {_at(subject, known)}, {known.source}"
    )
    return ResolvedLevels(schedule, source, known.doubts)


def _own(request: LevelsRequest, subject: Subject) -> ResolvedLevels:
    known = find_shift(subject.family, subject.model)
    slow_steps = OWN_STEPS if request.slow_steps is None else request.slow_steps
    fast_steps = OWN_STEPS if request.fast_steps is None else request.fast_steps
    schedule = own_schedule(
        known.shift,
        subject.size,
        slow_steps=slow_steps,
        fast_steps=fast_steps,
        spacing=subject.family.spacing,
    )
    source = (
        f"what diffusers steps when asked for {slow_steps + fast_steps} steps of "
        f"{subject.family.title} at {_at(subject, known)}, {known.source}"
    )
    return ResolvedLevels(schedule, source, known.doubts)


def _at(subject: Subject, known: KnownShift) -> str:
    width, height = subject.size
    return f"{width}x{height}" if depends_on_size(known.shift) else "any size"


def _optimised(request: LevelsRequest, subject: Subject) -> ResolvedLevels:
    key = fingerprint(subject.model, run=Path())
    found = find_optimal(
        key, subject.size, slow_steps=request.slow_steps, fast_steps=request.fast_steps
    )
    assert found.origin is not None
    return ResolvedLevels(
        found.resolve(OPTIMAL),
        f"optimised for this model at {subject.size[0]}x{subject.size[1]} on "
        f"{len(found.origin.prompts)} prompts against its {found.origin.teacher_steps} steps",
    )


def _refuse(flag: str, value: int | None, what: str) -> None:
    if value is not None:
        raise UsageError(
            f"{flag} {value} does not go with --schedule {what}",
            hint=f"drop it, or use --schedule {AUTO_SCHEDULE}",
        )
