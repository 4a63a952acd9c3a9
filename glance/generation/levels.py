"""Which noise levels are run: the user's, what the pair was trained on, or the guide's."""

from collections.abc import Sequence
from dataclasses import dataclass

from glance.errors import UsageError
from glance.families import Family
from glance.generation.request import InferRequest
from glance.schedule import Phase, Schedule, replace_lists, resolve_schedule
from glance.settings import DEFAULT_SCHEDULE, SampleSettings
from glance.shift import depends_on_size, reshift


@dataclass(frozen=True, slots=True)
class Levels:
    """The schedule to run, and what is to be said about it."""

    schedule: Schedule
    notes: tuple[str, ...] = ()


def decide_levels(
    request: InferRequest,
    trained: Schedule | None,
    *,
    family: Family,
    trained_side: int,
    pictures: Sequence[SampleSettings],
) -> Levels:
    """Return the user's own lists, else the trained ones, else the guide's.

    With `reshift` they are moved from the size that the pair was trained at, a square of
    `trained_side` pixels, to the pictures'. Raises ScheduleError, or UsageError when the pictures
    differ in size or the family's shift does not depend on it.
    """
    if request.schedule is not None or trained is None:
        base = resolve_schedule(request.schedule or DEFAULT_SCHEDULE)
    else:
        base = trained
    chosen = replace_lists(
        base, slow_timesteps=request.slow_timesteps, fast_timesteps=request.fast_timesteps
    )
    if request.reshift:
        return Levels(_move(chosen, family, trained_side, pictures))
    return Levels(chosen, _disagreement(chosen, trained, pictures))


def _move(
    schedule: Schedule, family: Family, side: int, pictures: Sequence[SampleSettings]
) -> Schedule:
    sizes = sorted({(one.width, one.height) for one in pictures})
    if len(sizes) > 1:
        shown = ", ".join(f"{width}x{height}" for width, height in sizes)
        raise UsageError(
            f"--reshift gives one schedule, and the pictures have several sizes: {shown}",
            hint="paint one size at a time",
        )
    if family.shift is None or not depends_on_size(family.shift):
        raise UsageError(
            f"--reshift: {family.title} has the same schedule at every size", hint="drop it"
        )
    return reshift(schedule, family.shift, made_for=(side, side), wanted=sizes[0])


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
