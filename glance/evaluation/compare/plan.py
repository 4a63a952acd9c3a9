"""Decide a comparison: the run, what is painted, under which keys. Loads no model."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from glance.core.errors import SettingsError, UsageError
from glance.core.files import require_writable
from glance.core.phase import Phase
from glance.evaluation.compare.keys import picture_key, sample_weights
from glance.evaluation.compare.request import (
    FEWEST,
    JUDGED,
    SHEET,
    CompareRequest,
    ComparisonPlan,
    Painting,
    PlannedRow,
    Variant,
)
from glance.models.base import is_small_model, recorded_model
from glance.models.families import find_family
from glance.runs.folder import RunFolder
from glance.runs.manifest import find_newest_run, load_manifest
from glance.runs.reading import read_caption
from glance.runs.settings import Teacher
from glance.sampling.plan import plan_generation
from glance.sampling.prompts.shipped import judging_prompts
from glance.sampling.request import MOST_PICTURES, GenerationPlan, InferRequest, PlannedPicture
from glance.sampling.settings import SampleSettings
from glance.schedule.lists import MOST_STEPS, Schedule

_JUDGED: Final = 16
_GUIDANCE: Final = ("slow_guidance", "fast_guidance")


def plan_comparison(request: CompareRequest) -> ComparisonPlan:
    """Check the request and decide the rest. Reads the run and its LoRAs, writes nothing.

    Raises what plan_generation raises; RunError too when the run's caption is wanted and gone.
    """
    if not 2 <= request.teacher_steps <= MOST_STEPS:
        raise SettingsError(
            f"--teacher-steps {request.teacher_steps}: a schedule has from 2 to {MOST_STEPS:,}",
            hint="use 50, or as many as the base model is usually given",
        )
    if not request.variants:
        raise UsageError("there is no variant to paint", hint="name one of Variant")
    run = RunFolder(request.run) if request.run is not None else find_newest_run()
    # without any run the planning below refuses, in the words of `glance infer`
    subject = _Subject((), Path()) if run is None else _find_subject(run, request)
    if run is not None:
        request = _guide_as_taught(request, load_manifest(run).settings.teacher)
    if request.output is not None:
        require_writable(request.output, "--output", as_folder=True)
    generation = plan_generation(_as_infer(request, subject))
    _require_few(generation, request)
    weights = sample_weights(generation)
    return ComparisonPlan(
        generation=generation,
        rows=tuple(
            _plan_row(one, request, generation.schedule, weights) for one in generation.pictures
        ),
        variants=tuple(dict.fromkeys(request.variants)),
        teacher_steps=request.teacher_steps,
        metrics=tuple(dict.fromkeys(request.metrics)),
        is_cacheable=_knows_its_model(generation),
        sample=subject.picture,
        folder=request.output or subject.folder,
        teacher_guidance=request.teacher_guidance,
        finds_worth=request.finds_worth
        and set(JUDGED) <= set(request.variants)
        and len(generation.pictures) >= FEWEST,
        weights=weights,
    )


def _require_few(generation: GenerationPlan, request: CompareRequest) -> None:
    """Raise SettingsError for more pictures than a comparison can hold: all are in memory."""
    rows, variants = len(generation.pictures), len(set(request.variants))
    if rows * variants > MOST_PICTURES:
        raise SettingsError(
            f"{rows:,} prompts and noises, each painted in {variants} ways: "
            f"{rows * variants:,} pictures in all, and one comparison makes at most "
            f"{MOST_PICTURES:,}",
            hint=f"give {MOST_PICTURES // variants:,} prompts and noises at most: more change "
            "no verdict",
        )


def plan_own(plan: ComparisonPlan, row: PlannedRow, steps: int) -> Painting:
    """Return the picture of the base model alone along its own schedule of so many steps."""
    guided = _guide_teacher(row.settings, plan.teacher_guidance)
    return _plan_painting(row.picture, Variant.TEACHER, guided, steps=steps, weights=plan.weights)


@dataclass(frozen=True, slots=True)
class _Subject:
    """What the run was trained on, as far as it is wanted, and where comparisons of it go."""

    prompts: tuple[str, ...]
    """What is painted unless something else is said: the sample's caption, or some prompts that a
    pair whose base model taught itself has not learnt from."""
    folder: Path
    picture: Path | None = None
    reference: Path | None = None


def _find_subject(run: RunFolder, request: CompareRequest) -> _Subject:
    manifest = load_manifest(run)
    sample, folder = manifest.sample, run.images / "compare"
    says = bool(request.prompts) or request.prompt_file is not None
    teacher = manifest.settings.teacher
    if sample is None and teacher is not None:
        model = recorded_model(
            manifest.settings.model, family=find_family(manifest.settings.family), run=run.path
        )
        ours = judging_prompts(2 * _JUDGED, world=is_small_model(model))
        strange = [prompt for prompt in ours if prompt not in teacher.prompts]
        return _Subject(tuple(strange[:_JUDGED]), folder)
    prompts = () if says else (read_caption(run, sample),)
    if sample is None:
        return _Subject(prompts, folder)
    picture = run.path / sample.image
    return _Subject(
        prompts,
        folder,
        picture=picture if picture.is_file() else None,
        reference=None if sample.reference is None else run.path / sample.reference,
    )


def _guide_as_taught(request: CompareRequest, teacher: Teacher | None) -> CompareRequest:
    """Guide the base as the pair's own teacher was, where it has one and nothing else was said.

    The pair may have learnt to do without; the base has not.
    """
    if teacher is None:
        return request
    base, many = request.base_guidance, request.teacher_guidance
    return replace(
        request,
        base_guidance=(teacher.guidance, teacher.guidance) if base is None else base,
        teacher_guidance=teacher.guidance if many is None else many,
    )


def _as_infer(request: CompareRequest, subject: _Subject) -> InferRequest:
    prompts = request.prompts or (() if request.prompt_file else subject.prompts)
    return InferRequest(
        run=request.run,
        prompts=prompts,
        prompt_file=request.prompt_file,
        seeds=request.seeds,
        count=request.count,
        reference=request.reference or subject.reference,
        base_loras=request.base_loras,
        device=request.device,
        memory=request.memory,
        quantize=request.quantize,
        batch_size=request.batch_size,
        output=None if request.output is None else request.output / SHEET,
        metadata=False,
    )


def _plan_row(
    one: PlannedPicture, request: CompareRequest, schedule: Schedule, weights: str
) -> PlannedRow:
    few = sum(len(schedule.phase(phase).timesteps) for phase in Phase)
    paintings = {}
    for variant in request.variants:
        steps, guided = few, dict[str, float]()
        if variant is Variant.TEACHER:
            steps = request.teacher_steps
            guided = _guide_teacher(one.settings, request.teacher_guidance)
        elif variant is Variant.BASE and request.base_guidance is not None:
            guided = dict(zip(_GUIDANCE, request.base_guidance, strict=True))
        paintings[variant] = _plan_painting(one, variant, guided, steps=steps, weights=weights)
    return PlannedRow(one, paintings)


def _guide_teacher(settings: SampleSettings, guidance: float | None) -> dict[str, float]:
    """Return all that phases may differ in, the same for both: the teacher has none."""
    used = settings.slow_guidance if guidance is None else guidance
    return {**dict.fromkeys(_GUIDANCE, used), "slow_scale": 1.0, "fast_scale": 1.0}


def _plan_painting(
    one: PlannedPicture, variant: Variant, guided: Mapping[str, float], *, steps: int, weights: str
) -> Painting:
    changes = {**guided, "loras": variant.loras}
    own_steps = steps if variant is Variant.TEACHER else None
    key = picture_key(one.record, changes, own_steps=own_steps, weights=weights)
    return Painting(variant, steps, one.settings.model_copy(update=changes), key)


def _knows_its_model(plan: GenerationPlan) -> bool:
    """Whether a model of the Hub is in its cache: only then is its commit known."""
    return not plan.pictures[0].record.base_revision.startswith("unknown")
