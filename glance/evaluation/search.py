"""Find the sigmas at which few steps end nearest to the base model's own many.

`glance schedule optimize`: follow the base model's trajectories for a few prompts, find the steps
by dynamic programming (sampling/pipeline/trajectory), write the schedule's file.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any, Final

from glance import __version__
from glance.core.errors import (
    InputError,
    Problem,
    ScheduleError,
    SettingsError,
    SetupError,
    reason_of,
)
from glance.core.events import EventSink, Noted, SamplingStep
from glance.core.files import require_writable
from glance.core.phase import Phase
from glance.evaluation.request import OptimizeRequest
from glance.models.base import BaseModel, fingerprint
from glance.sampling.generate import fetch_planned, load_planned, with_time_left
from glance.sampling.plan import GenerationPlan, plan_generation
from glance.sampling.request import InferRequest
from glance.sampling.settings import SampleSettings
from glance.schedule.file import Origin, ScheduleFile, keep_optimal
from glance.schedule.lists import MOST_STEPS, Schedule
from glance.schedule.options import OPTIMAL
from glance.schedule.shift import as_timestep, choose_steps, teacher_sigmas

if TYPE_CHECKING:
    from glance.sampling.pipeline.trajectory import Trajectory, Velocity, Way

_PROMPTS: Final = (
    "a lighthouse on a rocky coast at dusk, waves breaking below it",
    "a portrait photograph of an old fisherman with a grey beard, soft window light",
    "a bowl of ripe oranges on a blue tablecloth, oil painting",
    "a narrow street in an old town after rain, lanterns reflected on the cobblestones",
    "a red fox standing in fresh snow between birch trees",
    "a wooden desk with an open notebook, a cup of tea and a pair of glasses, seen from above",
    "a glass greenhouse full of tropical plants, morning mist",
    "a small spaceship landing on a desert planet with two moons, concept art",
)
"""Of various subjects and manners: what the trajectories of most images are like."""
_USUAL_STEPS: Final = 10
_LEAST: Final = 2  # a LoRA that is trained on one noise level alone is no phase of its own
_LEAST_SHARE: Final = 3  # nor is one for the last wisps of noise: a phase has a third of the steps


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizationPlan:
    """Everything decided: along which trajectories the steps are searched, and which may be."""

    generation: GenerationPlan
    """The base model alone, and an image a prompt."""
    images: tuple[SampleSettings, ...]
    sigmas: tuple[float, ...]
    """The base model's own, which the steps are chosen from."""
    allowed: tuple[tuple[Phase, ...], ...]
    """For each step the phases that it may belong to."""
    batch_size: int
    output: Path

    @property
    def forwards(self) -> int:
        """How many forward passes each prompt takes: trajectory, search, and three comparisons."""
        steps, places = len(self.allowed), len(self.sigmas) - len(self.allowed) + 1
        total = len(self.sigmas) + 1 + 3 * steps
        for before, phases in zip(self.allowed, self.allowed[1:], strict=False):
            from_slow = len(phases) if Phase.SLOW in before else 0
            from_fast = 1 if Phase.FAST in before else 0
            total += places * (from_slow + from_fast)
        return total


@dataclass(frozen=True, slots=True)
class OptimizedSchedule:
    """What was found, and where it lies."""

    schedule: Schedule
    origin: Origin
    path: Path
    seconds: float

    def summarise(self) -> Iterator[str]:
        """Yield lines for a person."""
        errors = ", ".join(f"{name} {error:.4f}" for name, error in self.origin.errors.items())
        yield (
            f"distance to the image of {self.origin.teacher_steps} steps, mean over "
            f"{len(self.origin.prompts)} prompts: {errors}"
        )
        yield f"use it: glance train --schedule {quote(str(self.path))}, or --schedule {OPTIMAL}"

    def to_json(self) -> dict[str, Any]:
        """Return what `glance schedule optimize --json` prints."""
        return {
            **self.schedule.to_json(),
            "file": str(self.path),
            "errors": dict(self.origin.errors),
            "seconds": round(self.seconds, 3),
        }


def plan_optimization(request: OptimizeRequest) -> OptimizationPlan:
    """Check the request and decide the rest. Loads no model, writes nothing.

    Raises InputError with the problems of steps and output, SetupError where that cannot be
    written, ScheduleError for a model whose own schedule is not known, and what plan_generation
    raises.
    """
    allowed = _allow(request)
    base = BaseModel.resolve(request.model, family=request.family)
    width, height = request.size or (base.family.resolution,) * 2
    output = request.output or Path(f"{OPTIMAL}-{width}x{height}-{len(allowed)}.json")
    _check(request, base, output, len(allowed))
    shift, file = base.find_shift().shift, base.transformer
    generation = plan_generation(
        InferRequest(
            prompts=request.prompts or (() if request.prompt_file else _PROMPTS),
            prompt_file=request.prompt_file,
            loras=(),
            width=width,
            height=height,
            model=base.location if file is None else str(file),
            base=None if file is None else base.location,
            family=base.family.name,
            slow_guidance=request.slow_guidance,
            fast_guidance=request.fast_guidance,
            device=request.device,
            memory=request.memory,
            quantize=request.quantize,
            metadata=False,
        )
    )
    images = tuple(
        one.settings.model_copy(update={"seed": request.seed + number})
        for number, one in enumerate(generation.images)
    )
    alike = [one.model_dump(exclude={"prompt", "negative_prompt", "seed"}) for one in images]
    if strange := [number for number, one in enumerate(alike, 1) if one != alike[0]]:
        raise InputError(
            f"{request.prompt_file}: prompt {strange[0]} has settings of its own, and one schedule "
            "is searched for all",
            hint="leave the prompts alone in it; size and guidance are flags",
        )
    is_split = all(len(phases) == 1 for phases in allowed)
    if images[0].slow_guidance == images[0].fast_guidance and not is_split:
        # guided alike, where the fast phase begins changes no image: halves
        slow = len(allowed) // 2
        allowed = ((Phase.SLOW,),) * slow + ((Phase.FAST,),) * (len(allowed) - slow)
    return OptimizationPlan(
        generation=generation,
        images=images,
        sigmas=teacher_sigmas(
            shift, width, height, steps=request.teacher_steps, spacing=base.family.spacing
        ),
        allowed=allowed,
        batch_size=request.batch_size,
        output=output,
    )


def _allow(request: OptimizeRequest) -> tuple[tuple[Phase, ...], ...]:
    """Return for each step the phases that it may belong to: one, where the split is given."""
    slow, fast, steps = request.slow_steps, request.fast_steps, request.steps
    given = {"--steps": steps, "--slow-steps": slow, "--fast-steps": fast}
    problems = [
        Problem(
            f"{flag} {value}: a model knows {MOST_STEPS:,} noise levels, and few steps are "
            "searched among them",
            f"{flag} 5, for example",
        )
        for flag, value in given.items()
        if value is not None and value > MOST_STEPS
    ]
    if problems:  # a plan holds each step
        raise SettingsError(problems)
    if slow is not None and fast is not None:
        steps = slow + fast if steps is None else steps
    steps = _USUAL_STEPS if steps is None else steps
    if slow is not None or fast is not None:
        split = slow if slow is not None else steps - (fast or 0)
        rest = fast if fast is not None else steps - split
        if min(split, rest) < 1 or split + rest != steps:
            raise SettingsError(
                f"{split} slow and {rest} fast steps are not {steps} steps, at least one of each",
                hint="give --slow-steps and --fast-steps alone, or --steps and one of them",
            )
        return ((Phase.SLOW,),) * split + ((Phase.FAST,),) * rest
    if steps < 2:
        raise SettingsError(f"--steps {steps}: both phases need a step", hint="give --steps 2")
    return leave_free(steps)


def leave_free(steps: int) -> tuple[tuple[Phase, ...], ...]:
    """Return for each step the phases that it may belong to, the split left to the search.

    Each phase has a third of the steps at least. Guided unlike the trajectory, the fast phase is
    best left out altogether: unbounded, the search gives it the two smallest steps there are.
    """
    least = max(min(_LEAST, steps // 2), steps // _LEAST_SHARE)
    free = (tuple(Phase),) * (steps - 2 * least)
    return ((Phase.SLOW,),) * least + free + ((Phase.FAST,),) * least


def _check(request: OptimizeRequest, base: BaseModel, output: Path, steps: int) -> None:
    require_writable(output, "--output")
    problems = []
    if output.exists():
        problems.append(Problem(f"{output} is there already", "give --output another name"))
    if not 2 * steps <= request.teacher_steps <= MOST_STEPS:
        problems.append(
            Problem(
                f"--teacher-steps {request.teacher_steps}: {steps} steps need a trajectory of at "
                f"least {2 * steps}, and a model knows {MOST_STEPS} noise levels",
                f"give --teacher-steps {max(50, 5 * steps)}",
            )
        )
    if base.family.edits:
        problems.append(
            Problem(
                f"{base.family.title} samples from a source image, which `schedule optimize` does "
                "not support",
                "use --schedule auto, the model's own",
            )
        )
    if problems:
        raise InputError(problems)


def run_optimization(plan: OptimizationPlan, on_event: EventSink) -> OptimizedSchedule:
    """Follow the base model's trajectories, search the steps, write the file.

    Raises ModelNotFound, InferenceFailed, SetupError (the file cannot be written).
    """
    began = time.monotonic()
    for note in plan.generation.notes:
        on_event(Noted(note))
    fetch_planned(plan.generation, on_event)
    on_event(Noted(f"loading {plan.generation.base.location}"))
    sampler = load_planned(plan.generation, on_event)
    from glance.sampling.pipeline.trajectory import VelocityField, find_way

    model = VelocityField(
        sampler,
        plan.images,
        batch_size=plan.batch_size,
        on_forward=_count_forwards(plan, with_time_left(on_event)),
    )
    teacher = model.follow(plan.sigmas)
    way = find_way(model.velocity, teacher, plan.allowed)
    schedule, errors = _judge(model.velocity, teacher, way)
    origin = _origin(plan, errors)
    _write(ScheduleFile.of(schedule, origin), plan.output)
    return OptimizedSchedule(schedule, origin, plan.output, time.monotonic() - began)


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
            problems.append(f"cannot write {exc.filename or output}: {reason_of(exc)}")
        else:
            kept.append(place)
    if problems:
        raise SetupError(
            "; ".join(problems),
            hint=f"the schedule is kept {kept[0]}" if kept else "free some space, and search again",
        )


def _count_forwards(plan: OptimizationPlan, on_event: EventSink) -> Callable[[Phase], None]:
    """Return what tells each forward pass, all batches of a pass together."""
    batches = -(-len(plan.images) // plan.batch_size)
    expected, done = plan.forwards * batches, 0

    def tell(phase: Phase) -> None:
        nonlocal done
        done += 1
        total = max(expected, done)  # prompts of unlike length make more batches
        on_event(SamplingStep(phase, done, total, done, total, task="searching"))

    return tell


def _judge(
    velocity: "Velocity", teacher: "Trajectory", way: "Way"
) -> tuple[Schedule, dict[str, float]]:
    """Return the best schedule known, and the errors on these prompts.

    The search keeps one way a place and may miss what another list happens to hit: then that one is
    the best.
    """
    from glance.sampling.pipeline.trajectory import distance, walk

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
    found = Schedule(OPTIMAL, timesteps[:split], timesteps[split:])
    return found, {**rounded, OPTIMAL: rounded[best]}


def _origin(plan: OptimizationPlan, errors: Mapping[str, float]) -> Origin:
    first = plan.images[0]
    return Origin(
        family=plan.generation.base.family.name,
        model=fingerprint(plan.generation.base.location),
        width=first.width,
        height=first.height,
        slow_guidance=first.slow_guidance,
        fast_guidance=first.fast_guidance,
        teacher_steps=len(plan.sigmas),
        prompts=tuple(one.prompt for one in plan.images),
        seeds=tuple(one.seed for one in plan.images),
        errors=errors,
        glance=__version__,
        date=f"{datetime.now(UTC):%Y-%m-%d}",
    )
