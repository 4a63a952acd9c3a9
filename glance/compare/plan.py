"""Decide a comparison: the run, what is painted, under which keys. Loads no model."""

from dataclasses import dataclass
from pathlib import Path

from glance.compare.keys import picture_key, sample_weights
from glance.compare.request import SHEET, CompareRequest, ComparisonPlan, PlannedRow
from glance.errors import SettingsError, UsageError
from glance.generation.plan import plan_generation
from glance.generation.request import GenerationPlan, InferRequest, PlannedPicture
from glance.run import RunFolder, find_newest_run, load_manifest, read_caption


def plan_comparison(request: CompareRequest) -> ComparisonPlan:
    """Check the request and decide the rest. Reads the run and its LoRAs, writes nothing.

    Raises what plan_generation raises; RunError too when the run's caption is wanted and gone.
    """
    if request.teacher_steps < 2:
        raise SettingsError(
            f"--teacher-steps {request.teacher_steps}: a schedule has at least 2",
            hint="use 50, or as many as the base model is usually given",
        )
    if not request.variants:
        raise UsageError("there is no variant to paint", hint="name one of Variant")
    run = RunFolder(request.run) if request.run is not None else find_newest_run()
    # without any run the planning below refuses, in the words of `glance infer`
    subject = _Subject("", Path()) if run is None else _find_subject(run, request)
    generation = plan_generation(_as_infer(request, subject))
    weights = sample_weights(generation)
    return ComparisonPlan(
        generation=generation,
        rows=tuple(_plan_row(one, request, weights) for one in generation.pictures),
        variants=tuple(dict.fromkeys(request.variants)),
        teacher_steps=request.teacher_steps,
        metrics=tuple(dict.fromkeys(request.metrics)),
        is_cacheable=_knows_its_model(generation),
        sample=subject.picture,
        folder=request.output or subject.folder,
    )


@dataclass(frozen=True, slots=True)
class _Subject:
    """What the run was trained on, as far as it is wanted, and where comparisons of it go."""

    caption: str
    folder: Path
    picture: Path | None = None
    reference: Path | None = None


def _find_subject(run: RunFolder, request: CompareRequest) -> _Subject:
    sample = load_manifest(run).sample
    says = request.prompts or request.prompt_file
    if sample is None:
        return _Subject("" if says else read_caption(run, sample), run.images / "compare")
    picture = run.path / sample.image
    reference = None if sample.reference is None else run.path / sample.reference
    return _Subject(
        caption="" if says else read_caption(run, sample),
        folder=run.images / "compare",
        picture=picture if picture.is_file() else None,
        reference=reference,
    )


def _as_infer(request: CompareRequest, subject: _Subject) -> InferRequest:
    prompts = request.prompts or (() if request.prompt_file else (subject.caption,))
    return InferRequest(
        run=request.run,
        prompts=prompts,
        prompt_file=request.prompt_file,
        seeds=request.seeds,
        count=request.count,
        reference=subject.reference,
        device=request.device,
        memory=request.memory,
        quantize=request.quantize,
        output=None if request.output is None else request.output / SHEET,
        metadata=False,
    )


def _plan_row(one: PlannedPicture, request: CompareRequest, weights: str) -> PlannedRow:
    keys = {
        variant: picture_key(
            one.record, variant, teacher_steps=request.teacher_steps, weights=weights
        )
        for variant in request.variants
    }
    return PlannedRow(one.settings, keys)


def _knows_its_model(plan: GenerationPlan) -> bool:
    """Whether a model of the Hub is in its cache: only then is its commit known."""
    return not plan.pictures[0].record.base_revision.startswith("unknown")
