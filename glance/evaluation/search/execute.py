"""Search: follow the base model's trajectories, find the steps, write the file."""

import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from glance import __version__
from glance.core.errors import ScheduleError, SetupError
from glance.core.events import EventSink, Noted, SamplingStep
from glance.core.phase import Phase
from glance.evaluation.search.request import OptimizationPlan, OptimizedSchedule
from glance.models.base import fingerprint
from glance.sampling.generate import fetch_planned, import_sampler, load_planned, with_time_left
from glance.schedule.derive import choose_steps
from glance.schedule.file import OPTIMAL, Origin, ScheduleFile, keep_optimal
from glance.schedule.lists import Schedule
from glance.schedule.shift import as_timestep

if TYPE_CHECKING:
    from glance.sampling.pipeline.stepsizes import Velocity, Way
    from glance.sampling.pipeline.trajectories import Trajectory


def run_optimization(plan: OptimizationPlan, on_event: EventSink) -> OptimizedSchedule:
    """Follow the base model's trajectories, search the steps, write the file.

    Raises ModelNotFound, InferenceFailed, SetupError (the file cannot be written).
    """
    began = time.monotonic()
    for note in plan.generation.notes:
        on_event(Noted(note))
    fetch_planned(plan.generation, on_event)
    on_event(Noted(f"loading {plan.generation.model}"))
    import_sampler(plan.generation.family)
    from glance.sampling.pipeline.stepsizes import find_way
    from glance.sampling.pipeline.trajectories import BaseModel

    sampler = load_planned(plan.generation, on_event)
    model = BaseModel(
        sampler,
        plan.pictures,
        batch_size=plan.batch_size,
        on_forward=_Teller(plan, with_time_left(on_event)),
    )
    teacher = model.follow(plan.sigmas)
    way = find_way(model.velocity, teacher, plan.allowed)
    schedule, errors = _judge(model.velocity, teacher, way)
    file = ScheduleFile.of(schedule, _origin(plan, errors))
    _write(file, plan.output)
    return OptimizedSchedule(schedule, file, plan.output, time.monotonic() - began)


def _write(file: ScheduleFile, output: Path) -> None:
    """Write the file, and keep it for `--schedule optimal`: one that fails does not lose the other.

    Raises SetupError, which says where the schedule is all the same.
    """
    problems, kept = [], []
    for write, place in (
        (lambda: file.save(output), f"in {output}"),
        (lambda: keep_optimal(file), f"for --schedule {OPTIMAL}"),
    ):
        try:
            write()
        except OSError as exc:
            problems.append(f"cannot write {exc.filename or output}: {exc.strerror or exc}")
        else:
            kept.append(place)
    if problems:
        raise SetupError(
            "; ".join(problems),
            hint=f"the schedule is kept {kept[0]}" if kept else "free some space, and search again",
        )


class _Teller:
    """Counts forward passes, all batches of a pass together."""

    def __init__(self, plan: OptimizationPlan, on_event: EventSink) -> None:
        self._on_event = on_event
        batches = -(-len(plan.pictures) // plan.batch_size)
        self._total, self._done = plan.forwards * batches, 0

    def __call__(self, phase: Phase) -> None:
        self._done += 1
        total = max(self._total, self._done)  # prompts of unlike length make more batches
        self._on_event(SamplingStep(phase, self._done, total, self._done, total, task="searching"))


def _judge(
    velocity: "Velocity", teacher: "Trajectory", way: "Way"
) -> tuple[Schedule, dict[str, float]]:
    """Return the best schedule known, and the errors on these prompts.

    The search keeps one way a place and may miss what another list happens to hit: then that one is
    the best.
    """
    from glance.sampling.pipeline.stepsizes import distance, walk

    split, steps = way.phases.index(Phase.FAST), len(way.places)
    lists = {
        OPTIMAL: tuple(teacher.sigmas[place] for place in way.places),
        "uniform": tuple(1 - step / steps for step in range(steps)),
    }
    with suppress(ScheduleError):  # so many steps of one phase are not derived
        slow, fast = choose_steps(split, steps - split, len(teacher.sigmas))
        lists["auto"] = tuple(teacher.sigmas[place] for place in (*slow, *fast))
    errors = {
        name: distance(walk(velocity, teacher, sigmas, split), teacher.points[-1])
        for name, sigmas in lists.items()
    }
    best = min(lists, key=lambda name: errors[name])
    timesteps = tuple(map(as_timestep, lists[best]))
    rounded = {name: round(error, 5) for name, error in errors.items()}
    return Schedule(OPTIMAL, timesteps[:split], timesteps[split:]), {
        **rounded,
        OPTIMAL: rounded[best],
    }


def _origin(plan: OptimizationPlan, errors: Mapping[str, float]) -> Origin:
    first = plan.pictures[0]
    return Origin(
        family=plan.generation.family.name,
        model=fingerprint(plan.generation.model, run=Path()),
        width=first.width,
        height=first.height,
        slow_guidance=first.slow_guidance,
        fast_guidance=first.fast_guidance,
        teacher_steps=len(plan.sigmas),
        prompts=tuple(one.prompt for one in plan.pictures),
        seeds=tuple(one.seed for one in plan.pictures),
        errors=errors,
        glance=__version__,
        date=f"{datetime.now(UTC):%Y-%m-%d}",
    )
