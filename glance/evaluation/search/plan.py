"""Decide a search: prompts, trajectories, and the phases that each step may belong to."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from glance.core.errors import InputError, Problem, SettingsError
from glance.core.files import require_writable
from glance.core.phase import Phase
from glance.evaluation.search.request import OptimizationPlan, OptimizeRequest
from glance.models.schedules import find_shift
from glance.sampling.plan import plan_generation
from glance.sampling.request import InferRequest
from glance.sampling.settings import SampleSettings
from glance.schedule.file import OPTIMAL
from glance.schedule.lists import MOST_STEPS
from glance.schedule.shift import teacher_sigmas

PROMPTS: Final = (
    "a lighthouse on a rocky coast at dusk, waves breaking below it",
    "a portrait photograph of an old fisherman with a grey beard, soft window light",
    "a bowl of ripe oranges on a blue tablecloth, oil painting",
    "a narrow street in an old town after rain, lanterns reflected on the cobblestones",
    "a red fox standing in fresh snow between birch trees",
    "a wooden desk with an open notebook, a cup of tea and a pair of glasses, seen from above",
    "a glass greenhouse full of tropical plants, morning mist",
    "a small spaceship landing on a desert planet with two moons, concept art",
)
"""Of various subjects and manners: what the trajectories of most pictures are like."""
USUAL_STEPS: Final = 10
_LEAST: Final = 2  # a LoRA that is trained on one noise level alone is no phase of its own
_LEAST_SHARE: Final = 3  # nor is one for the last wisps of noise: a phase has a third of the steps


def plan_optimization(request: OptimizeRequest) -> OptimizationPlan:
    """Check the request and decide the rest. Loads no model, writes nothing.

    Raises InputError with the problems of steps and output, SetupError where that cannot be
    written, ScheduleError for a model whose own schedule is not known, and what plan_generation
    raises.
    """
    allowed = _allow(request)
    output = request.output or Path(
        f"{OPTIMAL}-{request.size[0]}x{request.size[1]}-{len(allowed)}.json"
    )
    _check(request, output, len(allowed))
    shift = find_shift(request.family, request.model).shift
    generation = plan_generation(
        InferRequest(
            prompts=request.prompts or (() if request.prompt_file else PROMPTS),
            prompt_file=request.prompt_file,
            loras=(),
            width=request.size[0],
            height=request.size[1],
            model=request.model,
            family=request.family.name,
            slow_guidance=request.slow_guidance,
            fast_guidance=request.fast_guidance,
            device=request.device,
            memory=request.memory,
            quantize=request.quantize,
            metadata=False,
        )
    )
    pictures = tuple(
        one.settings.model_copy(update={"seed": request.seed + number})
        for number, one in enumerate(generation.pictures)
    )
    _require_alike(pictures, request.prompt_file)
    guided = {pictures[0].slow_guidance, pictures[0].fast_guidance}
    return OptimizationPlan(
        generation=generation,
        pictures=pictures,
        sigmas=teacher_sigmas(shift, *request.size, steps=request.teacher_steps),
        allowed=_halve(allowed) if len(guided) == 1 else allowed,
        batch_size=request.batch_size,
        output=output,
    )


def _allow(request: OptimizeRequest) -> tuple[tuple[Phase, ...], ...]:
    """Return for each step the phases that it may belong to: one, where the split is given."""
    slow, fast, steps = request.slow_steps, request.fast_steps, request.steps
    _require_few_steps(request)
    if slow is not None and fast is not None:
        steps = slow + fast if steps is None else steps
    steps = USUAL_STEPS if steps is None else steps
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


def _require_few_steps(request: OptimizeRequest) -> None:
    """Raise SettingsError for more steps than noise levels: a plan holds each of them."""
    given = {
        "--steps": request.steps,
        "--slow-steps": request.slow_steps,
        "--fast-steps": request.fast_steps,
    }
    problems = [
        Problem(
            f"{flag} {value}: a model knows {MOST_STEPS:,} noise levels, and few steps are "
            "searched among them",
            f"{flag} 5, for example",
        )
        for flag, value in given.items()
        if value is not None and value > MOST_STEPS
    ]
    if problems:
        raise SettingsError(problems)


def leave_free(steps: int) -> tuple[tuple[Phase, ...], ...]:
    """Return for each step the phases that it may belong to, the split left to the search.

    Each phase has a third of the steps at least. Guided unlike the trajectory, the fast phase is
    best left out altogether: unbounded, the search gives it the two smallest steps there are.
    """
    least = max(min(_LEAST, steps // 2), steps // _LEAST_SHARE)
    free = (tuple(Phase),) * (steps - 2 * least)
    return ((Phase.SLOW,),) * least + free + ((Phase.FAST,),) * least


def _halve(allowed: Sequence[tuple[Phase, ...]]) -> tuple[tuple[Phase, ...], ...]:
    """Return halves where the split is free: both phases guided alike, it changes no picture."""
    if all(len(phases) == 1 for phases in allowed):
        return tuple(allowed)
    slow = len(allowed) // 2
    return ((Phase.SLOW,),) * slow + ((Phase.FAST,),) * (len(allowed) - slow)


def _require_alike(pictures: Sequence[SampleSettings], prompt_file: Path | None) -> None:
    """Raise InputError where lines of a prompt file ask for sizes or guidance of their own."""
    alike = [one.model_dump(exclude={"prompt", "negative_prompt", "seed"}) for one in pictures]
    strange = [number for number, one in enumerate(alike, 1) if one != alike[0]]
    if strange:
        raise InputError(
            f"{prompt_file}: prompt {strange[0]} has settings of its own, and one schedule is "
            "searched for all",
            hint="leave the prompts alone in it; size and guidance are flags",
        )


def _check(request: OptimizeRequest, output: Path, steps: int) -> None:
    require_writable(output, "--output")
    problems = []
    if output.exists():
        problems.append(Problem(f"{output} is there already", "give --output another name"))
    if not 2 * steps <= request.teacher_steps <= 1000:
        problems.append(
            Problem(
                f"--teacher-steps {request.teacher_steps}: {steps} steps need a trajectory of at "
                f"least {2 * steps}, and a model knows 1000 noise levels",
                f"give --teacher-steps {max(50, 5 * steps)}",
            )
        )
    if request.family.edits:
        problems.append(
            Problem(
                f"{request.family.title} paints from a reference, along which nobody searches yet",
                "use --schedule auto, the model's own",
            )
        )
    if problems:
        raise InputError(problems)
