"""Which noise levels are run: the user's, what the pair was trained on, or the guide's."""

from collections.abc import Sequence
from dataclasses import dataclass

from glance.core.errors import ScheduleError
from glance.core.phase import Phase
from glance.models.schedules import OF_ONE_SIZE, LevelsRequest, Subject, find_shift, resolve_levels
from glance.sampling.request import InferRequest
from glance.sampling.settings import SampleSettings
from glance.schedule.lists import DEFAULT_SCHEDULE, Schedule, replace_lists
from glance.schedule.shift import depends_on_size, reshift, shift_factor

_FELT = 0.05  # of the shift's factor: a difference of size that is worth a word


@dataclass(frozen=True, slots=True)
class Levels:
    """The schedule to run, and what is to be said about it."""

    schedule: Schedule
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Trained:
    """What a pair was trained on: its schedule, if anybody recorded it, and its area."""

    schedule: Schedule | None
    side: int | None = None
    """The area's root, in pixels; None: nobody knows."""


def decide_levels(
    request: InferRequest,
    trained: Trained,
    subject: Subject,
    pictures: Sequence[SampleSettings],
) -> Levels:
    """Return the user's own lists, else the trained ones, else the guide's.

    `subject.size` is the first picture's. With `reshift` the lists are moved from the trained size
    to the pictures'. Raises what resolve_levels raises, ScheduleError too when the pictures differ
    in size and the schedule depends on it, or none depends on the size that should be moved.
    """
    chosen, notes = _choose(request, trained, subject)
    if request.reshift:
        _require_one_size("--reshift", pictures)
        return Levels(_move(chosen, trained, subject), notes)
    if request.schedule in OF_ONE_SIZE:
        _require_one_size(f"--schedule {request.schedule}", pictures)
    return Levels(
        chosen,
        (
            *notes,
            *_disagreement(chosen, trained.schedule, pictures),
            *_other_size(chosen, trained, subject, pictures),
        ),
    )


def _choose(
    request: InferRequest, trained: Trained, subject: Subject
) -> tuple[Schedule, tuple[str, ...]]:
    asked_steps = (request.slow_steps, request.fast_steps, request.teacher_steps)
    says_steps = any(steps is not None for steps in asked_steps)
    if request.schedule is None and trained.schedule is not None and not says_steps:
        lists = replace_lists(
            trained.schedule,
            slow_timesteps=request.slow_timesteps,
            fast_timesteps=request.fast_timesteps,
        )
        return lists, ()
    resolved = resolve_levels(
        LevelsRequest(
            name=request.schedule or DEFAULT_SCHEDULE,
            slow_timesteps=request.slow_timesteps,
            fast_timesteps=request.fast_timesteps,
            slow_steps=request.slow_steps,
            fast_steps=request.fast_steps,
            teacher_steps=request.teacher_steps,
        ),
        subject,
    )
    return resolved.schedule, tuple(doubt.message for doubt in resolved.doubts)


def _require_one_size(flag: str, pictures: Sequence[SampleSettings]) -> None:
    sizes = sorted({(one.width, one.height) for one in pictures})
    if len(sizes) > 1:
        shown = ", ".join(f"{width}x{height}" for width, height in sizes)
        raise ScheduleError(
            f"{flag} gives one schedule, and the pictures have several sizes: {shown}",
            hint="paint one size at a time",
        )


def _move(schedule: Schedule, trained: Trained, subject: Subject) -> Schedule:
    shift = find_shift(subject.family, subject.model).shift
    if not depends_on_size(shift):
        raise ScheduleError(
            f"--reshift: {subject.family.title} has the same schedule at every size",
            hint="drop it",
        )
    side = trained.side or subject.family.resolution
    return reshift(schedule, shift, made_for=(side, side), wanted=subject.size)


def _other_size(
    schedule: Schedule, trained: Trained, subject: Subject, pictures: Sequence[SampleSettings]
) -> tuple[str, ...]:
    """Say what it changes to sample trained lists at another size."""
    side, has_loras = trained.side, any(one.loras for one in pictures)
    if side is None or not has_loras or schedule != trained.schedule:
        return ()
    try:
        shift = find_shift(subject.family, subject.model).shift
    except ScheduleError:  # nobody knows what would change
        return ()
    there, here = (shift_factor(shift, *size) for size in ((side, side), subject.size))
    if abs(here / there - 1) < _FELT:
        return ()
    width, height = subject.size
    more = "more" if here > there else "less"
    return (
        f"the pair was trained at {side}x{side}; at {width}x{height} the model itself stays "
        f"{more} in the noise (shift {here:.2f} instead of {there:.2f}). The trained timesteps are "
        "kept; --reshift moves them along, to levels that the LoRAs were not trained on",
    )


def _disagreement(
    schedule: Schedule, trained: Schedule | None, pictures: Sequence[SampleSettings]
) -> tuple[str, ...]:
    """Warn of LoRAs that will see noise levels which they were not trained on."""
    if trained is None:
        return ()
    used = {phase for one in pictures for phase in one.loras}
    strange = [
        phase for phase in Phase if phase in used and not _is_within(schedule, trained, phase)
    ]
    return tuple(
        f"the {phase} LoRA runs at timesteps {_shown(schedule, phase)}, "
        f"it was trained on {_shown(trained, phase)}"
        for phase in strange
    )


def _is_within(schedule: Schedule, trained: Schedule, phase: Phase) -> bool:
    return set(schedule.phase(phase).timesteps) <= set(trained.phase(phase).timesteps)


def _shown(schedule: Schedule, phase: Phase) -> str:
    return " ".join(f"{timestep:g}" for timestep in schedule.phase(phase).timesteps)
