"""Compare a pair with its base model: the same noise through both. Request, plan and run.

`plan_comparison` decides what is sampled, and its keys in the cache; `run_comparison` samples
what the cache does not hold and measures it; `compare_pair` also judges and writes the report;
`try_pair` is what `glance train --compare` and `glance distill` end with.
"""

import time
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import batched, chain, combinations, groupby
from pathlib import Path
from shlex import quote
from statistics import fmean
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from glance.core.errors import GlanceError, InferenceFailed, Problem, SettingsError, UsageError
from glance.core.events import EventSink, Noted, format_duration
from glance.core.files import require_writable
from glance.core.phase import Phase
from glance.core.tables import Rows, continued, listed, short
from glance.evaluation.cache import CachedImage, ImageCache, image_key, sample_weights
from glance.evaluation.comparison import (
    FEWEST,
    Cell,
    Comparison,
    Judge,
    Latents,
    Likeness,
    Row,
    judge,
    require_judged,
    root_mean_square,
)
from glance.evaluation.report import SHEET, Report, write_report
from glance.evaluation.request import JUDGED, CompareRequest, Variant
from glance.models.base import BaseModel
from glance.models.families import find_family
from glance.runs.folder import RunFolder, writing
from glance.runs.manifest import Manifest, find_newest_run, load_manifest, read_caption
from glance.sampling.generate import fetch_planned, load_planned
from glance.sampling.images import PlannedImage
from glance.sampling.plan import GenerationPlan, extra_rows, plan_generation
from glance.sampling.prompts import judging_prompts
from glance.sampling.request import MOST_IMAGES, InferRequest
from glance.sampling.settings import SampleSettings
from glance.schedule.lists import MOST_STEPS

if TYPE_CHECKING:
    from glance.sampling.pipeline.glance_pipeline import GlancePipeline

NEUTRAL_PROMPT: Final = "a bowl of fruit on a wooden table"
_PROMPTS: Final = 16  # of a run's samples, or that a distilled one is judged on
_TRIED: Final = 4  # of a run's samples, at the end of its training
_GUIDANCE: Final = ("slow_guidance", "fast_guidance")
_COUNTS: Final = (*range(2, 13), 14, 16, 20, 25, 30, 40)
"""Numbers of steps that the base model is tried with: to find one of them takes four or five."""


@dataclass(frozen=True, slots=True)
class PlannedCell:
    """One image of some noise: how it is sampled, and its key in the cache."""

    variant: Variant
    steps: int
    """Forward passes; of TEACHER they follow the model's own schedule of as many steps."""
    settings: SampleSettings
    key: str

    @property
    def label(self) -> str:
        """How it is made, in words."""
        return self.variant.label(self.steps)


@dataclass(frozen=True, slots=True)
class PlannedRow:
    """One prompt and seed, and the images of it."""

    pair: PlannedImage
    cells: Mapping[Variant, PlannedCell]

    @property
    def settings(self) -> SampleSettings:
        """The pair's."""
        return self.pair.settings


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonPlan:
    """Everything decided: which images, how they are sampled, where the result goes."""

    generation: GenerationPlan
    """The model with both LoRAs, and an image a row."""
    request: CompareRequest
    """With what the run says where the user said nothing."""
    rows: tuple[PlannedRow, ...]
    is_cacheable: bool
    """Whether the keys say which base model it is: not while it has yet to be fetched."""
    sample: Path | None
    """The image that the pair was trained on, where the run holds it."""
    folder: Path
    finds_worth: bool
    weights: str
    """See cache.sample_weights."""

    @property
    def cells(self) -> tuple[PlannedCell, ...]:
        """Every image, row by row."""
        return tuple(one for row in self.rows for one in row.cells.values())


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
        raise UsageError("there is no variant to sample", hint="name one of Variant")
    run = RunFolder(request.run) if request.run is not None else find_newest_run()
    sample = None
    if run is not None:  # without any the planning below refuses, in the words of `glance infer`
        manifest = load_manifest(run)
        request = _fill_in(request, run, manifest)
        if manifest.sample is not None and (run.path / manifest.sample.image).is_file():
            sample = run.path / manifest.sample.image
    if request.output is not None:
        require_writable(request.output, "--output", as_folder=True)
    generation = plan_generation(
        InferRequest(
            run=request.run,
            prompts=request.prompts,
            prompt_file=request.prompt_file,
            seeds=request.seeds,
            count=request.count,
            reference=request.reference,
            extra_loras=request.extra_loras,
            device=request.device,
            memory=request.memory,
            quantize=request.quantize,
            batch_size=request.batch_size,
            output=None if request.output is None else request.output / SHEET,
            metadata=False,
        )
    )
    images, ways = len(generation.images), len(set(request.variants))
    if images * ways > MOST_IMAGES:  # all of them are in memory
        raise SettingsError(
            f"{images:,} prompts and noises, each sampled in {ways} ways: {images * ways:,} images "
            f"in all, and one comparison makes at most {MOST_IMAGES:,}",
            hint=f"give {MOST_IMAGES // ways:,} prompts and noises at most: more change no verdict",
        )
    weights = sample_weights(generation)
    steps = sum(len(generation.schedule.phase(phase).timesteps) for phase in Phase)
    styles = [Path(n).stem for n, one in generation.extra_loras.items() if one.asked.with_pair]
    name = "-".join(("compare", *styles))  # what the pair is worth by itself stays where it is
    return ComparisonPlan(
        generation=generation,
        request=request,
        rows=tuple(_plan_row(one, request, steps, weights) for one in generation.images),
        # a model of the Hub must be in its cache: only then is its commit known
        is_cacheable=not generation.images[0].record.base_revision.startswith("unknown"),
        sample=sample,
        folder=request.output or (Path() if run is None else run.images / name),
        finds_worth=request.finds_worth
        and set(JUDGED) <= set(request.variants)
        and len(generation.images) >= FEWEST,
        weights=weights,
    )


def plan_own(plan: ComparisonPlan, row: PlannedRow, steps: int) -> PlannedCell:
    """Return the image of the base model alone along its own schedule of so many steps."""
    guided = _guide_teacher(row.settings, plan.request.teacher_guidance)
    return _plan_cell(row.pair, Variant.TEACHER, guided, steps=steps, weights=plan.weights)


def _fill_in(request: CompareRequest, run: RunFolder, manifest: Manifest) -> CompareRequest:
    """Return the request with what the run says where the user said nothing.

    Prompts are the samples' captions, or some that a pair whose base model taught itself has not
    learnt from. Such a pair may have learnt to do without guidance; the base has not, and is
    guided as the pair's teacher was. Raises RunError where the caption is wanted and gone.
    """
    settings, sample, teacher = manifest.settings, manifest.sample, manifest.settings.teacher
    is_said = bool(request.prompts) or request.prompt_file is not None
    if sample is not None and sample.reference is not None and request.reference is None:
        request = replace(request, reference=run.path / sample.reference)
    if teacher is not None:
        if request.base_guidance is None:
            request = replace(request, base_guidance=(teacher.guidance, teacher.guidance))
        if request.teacher_guidance is None:
            request = replace(request, teacher_guidance=teacher.guidance)
    if is_said:
        return request
    if sample is not None or teacher is None:
        samples = manifest.samples[:_PROMPTS] or (None,)
        return replace(request, prompts=tuple(read_caption(run, one) for one in samples))
    base = BaseModel.recorded(
        settings.model, settings.transformer, family=settings.family, start=run.path
    )
    ours = judging_prompts(2 * _PROMPTS, world=base.is_packaged)
    strange = [prompt for prompt in ours if prompt not in teacher.prompts]
    return replace(request, prompts=tuple(strange[:_PROMPTS]))


def _plan_row(one: PlannedImage, request: CompareRequest, few: int, weights: str) -> PlannedRow:
    cells = {}
    for variant in request.variants:
        steps, guided = few, dict[str, float]()
        if variant is Variant.TEACHER:
            steps = request.teacher_steps
            guided = _guide_teacher(one.settings, request.teacher_guidance)
        elif variant is Variant.BASE and request.base_guidance is not None:
            guided = dict(zip(_GUIDANCE, request.base_guidance, strict=True))
        cells[variant] = _plan_cell(one, variant, guided, steps=steps, weights=weights)
    return PlannedRow(one, cells)


def _guide_teacher(settings: SampleSettings, guidance: float | None) -> dict[str, float]:
    """Return all that phases may differ in, the same for both: the teacher has none."""
    used = settings.slow_guidance if guidance is None else guidance
    return {**dict.fromkeys(_GUIDANCE, used), "slow_scale": 1.0, "fast_scale": 1.0}


def _plan_cell(
    one: PlannedImage, variant: Variant, guided: Mapping[str, float], *, steps: int, weights: str
) -> PlannedCell:
    changes = {**guided, "loras": variant.loras}
    own_steps = steps if variant is Variant.TEACHER else None
    key = image_key(one.record, changes, own_steps=own_steps, weights=weights)
    return PlannedCell(variant, steps, one.settings.model_copy(update=changes), key)


def foresee(plan: ComparisonPlan) -> dict[str, Any]:
    """Return what `glance compare --dry-run --json` prints: what is sampled, what is there."""
    cache = ImageCache(is_used=plan.is_cacheable)
    wanted = {one.key: one for one in plan.cells}
    missing = [one for key, one in wanted.items() if not cache.holds(key)]
    return {
        "folder": str(plan.folder),
        "rows": [{"prompt": row.settings.prompt, "seed": row.settings.seed} for row in plan.rows],
        "variants": [one.label for one in plan.rows[0].cells.values()],
        "pictures": len(wanted),
        "cached": len(wanted) - len(missing),
        "steps": sum(one.steps for one in missing),
        "finds_worth": plan.finds_worth,
    }


def comparison_rows(plan: ComparisonPlan, facts: Mapping[str, Any]) -> Rows:
    """Yield what is sampled side by side, and how much of it is there already: `facts`."""
    yield "model", f"{plan.generation.base.shown} ({plan.generation.base.family.name})"
    for phase in Phase:
        yield f"{phase} LoRA", str(plan.generation.loras.get(phase, "none"))
    yield from extra_rows(plan.generation)
    yield from plan.generation.schedule.rows()
    first = plan.rows[0].cells.values()
    yield from continued("side by side", (one.label for one in first))
    prompts = list(dict.fromkeys(row.settings.prompt for row in plan.rows))
    yield from continued("prompts", listed([short(text) for text in prompts], most=3))
    yield "images", f"{facts['pictures']:,} in {len(plan.rows):,} rows, of prompts and noises"
    yield "", f"{facts['cached']:,} of them are in the cache; {facts['steps']:,} steps to go"
    if plan.finds_worth:
        yield "", "and about 30 steps an image for what the pair is worth, once for a model"
    yield "result", str(plan.folder)


def run_comparison(plan: ComparisonPlan, on_event: EventSink) -> Comparison:
    """Sample every variant of every row from the same noise, and measure them.

    No model is loaded where nothing is to be sampled. Raises SetupError for metrics whose networks
    cannot be had, before anything is sampled, and what loading and sampling raise.
    """
    comparer = _Comparer(plan, on_event)
    comparison = comparer.compare()
    comparer.cache.trim()
    return comparison


def compare_pair(
    plan: ComparisonPlan, on_event: EventSink, *, words: Judge | None = None
) -> Report:
    """Run the comparison, judge the pair by it, and write both into the plan's folder.

    The pair's worth in steps is looked for where the plan says so. `words` are said of each
    image. Raises UsageError for a plan without a variant that a verdict needs, and what
    run_comparison and write_report raise.
    """
    require_judged(plan.request.variants)
    comparer = _Comparer(plan, on_event)
    comparison = comparer.compare()
    verdict = judge(comparison, worth_steps=comparer.find_worth(comparison))
    comparer.cache.trim()
    report = write_report(
        comparison if words is None else comparison.judged(words),
        verdict,
        plan.folder,
        facts=describe_plan(plan),
        sample=plan.sample,
    )
    if report.earlier is not None:
        on_event(Noted(f"the comparison that was there before is kept in {report.earlier}"))
    return report


def try_pair(run: RunFolder, on_event: EventSink, request: CompareRequest | None = None) -> Report:
    """Compare a finished run's pair with its base model; report and verdict are kept in the run.

    Without a `request`, on the caption that it was trained on, and on a prompt that has nothing to
    do with it; a family that edits on the caption alone: another would not be of its reference.

    Raises InferenceFailed, which names the LoRAs, whatever the comparison failed at.
    """
    try:
        if request is None:
            manifest = load_manifest(run)
            edits = find_family(manifest.settings.family).edits
            captions = [read_caption(run, one) for one in manifest.samples[:_TRIED] or (None,)]
            request = CompareRequest(
                run=run.path,
                prompts=(*captions, *(() if edits else (NEUTRAL_PROMPT,))),
                variants=JUDGED,
                device=manifest.settings.device,
            )
        report = compare_pair(plan_comparison(request), on_event)
    except GlanceError as exc:
        loras = " and ".join(str(run.lora(phase)) for phase in Phase)
        done = Problem(
            f"both LoRAs are done: {loras}; comparing them with the base model failed",
            f"after fixing the problem below: glance compare --run {quote(str(run.path))}",
        )
        raise InferenceFailed((done, *exc.problems)) from exc
    verdict = {**report.verdict.to_json(), "sentence": report.verdict.sentence}
    with writing(run.path):
        load_manifest(run).model_copy(update={"verdict": verdict}).save(run)
    return report


def describe_plan(plan: ComparisonPlan) -> dict[str, Any]:
    """Return what all images have in common, for compare.json; no path, for it lies in a run."""
    record, base = plan.generation.images[0].record, plan.generation.base
    extras = [use.model_dump(exclude={"file"}) for use in record.extra_loras]
    return {
        "family": record.family,
        "model": base.location if base.folder is None else base.folder.name,
        "base_revision": record.base_revision,
        "loras": {use.phase.value: use.sha256 for use in record.loras},
        **({"extra_loras": extras} if extras else {}),
        "schedule": plan.generation.schedule.to_json(),
        "device": record.device.value,
        "dtype": record.dtype.value,
        "quantize": record.quantize,
    }


class _Comparer:
    """Samples and measures for one plan; the model is loaded once at most."""

    def __init__(self, plan: ComparisonPlan, on_event: EventSink) -> None:
        self.cache = ImageCache(on_event, is_used=plan.is_cacheable)
        self._plan = plan
        self._on_event = on_event
        self._sampler: GlancePipeline | None = None
        self._latents: dict[str, Latents] = {}  # of the plan's images, by key

    def compare(self) -> Comparison:
        """Return every image with its figures; see run_comparison."""
        plan = self._plan
        for note in plan.generation.notes:
            self._on_event(Noted(note))
        has_teacher = Variant.TEACHER in plan.request.variants
        likeness = Likeness(plan.request.metrics) if has_teacher else None
        images, seconds = {}, {}
        for one, made, took in self._obtain(plan.cells):
            images[one.key], self._latents[one.key] = made.image, made.latents
            if took is not None:
                seconds[one.key] = took

        def measure(row: PlannedRow, one: PlannedCell) -> dict[str, float]:
            if likeness is None or one.variant is Variant.TEACHER:
                return {}
            teacher = row.cells[Variant.TEACHER].key
            distance = root_mean_square(self._latents[one.key], self._latents[teacher])
            return {"latents": distance, **likeness.measure(images[one.key], images[teacher])}

        rows = tuple(
            Row(
                row.settings.prompt,
                row.settings.seed,
                {
                    variant: Cell(
                        variant=variant,
                        image=images[one.key],
                        steps=one.steps,
                        seconds=seconds.get(one.key),
                        was_cached=one.key not in seconds,
                        figures=measure(row, one),
                    )
                    for variant, one in row.cells.items()
                },
            )
            for row in plan.rows
        )
        return Comparison(rows, self._measure_variety())

    def find_worth(self, comparison: Comparison) -> int | None:
        """Return the fewest steps of the base model's own that end as near as the pair does.

        Near is the mean distance of the final latents to those of the teacher's steps, over all
        rows. Found by bisection over a list that is exact up to 12 steps: about 30 further forward
        passes an image, through the same cache. None where the plan leaves it out.
        """
        pair = comparison.mean(Variant.BOTH, "latents")
        if not self._plan.finds_worth or pair is None:
            return None

        def own_distance(steps: int) -> float:
            own = [plan_own(self._plan, row, steps) for row in self._plan.rows]
            latents = {one.key: made.latents for one, made, _ in self._obtain(own)}
            return fmean(
                root_mean_square(latents[one.key], self._latents[row.cells[Variant.TEACHER].key])
                for one, row in zip(own, self._plan.rows, strict=True)
            )

        most = self._plan.request.teacher_steps
        counts = [count for count in _COUNTS if count < most]
        # the key must rise with the steps, and their distance falls
        place = bisect_left(counts, -pair.value, key=lambda count: -own_distance(count))
        return counts[place] if place < len(counts) else most

    def _measure_variety(self) -> Mapping[Variant, float]:
        """Return Comparison.variety."""
        prompts: dict[str, dict[int, PlannedRow]] = {}
        for row in self._plan.rows:
            alike = row.settings.model_dump_json(exclude={"seed"})
            prompts.setdefault(alike, {})[row.settings.seed] = row
        several = [list(seeds.values()) for seeds in prompts.values() if len(seeds) > 1]

        def spread(rows: Sequence[PlannedRow], variant: Variant) -> float:
            latents = [self._latents[row.cells[variant].key] for row in rows]
            return fmean(root_mean_square(one, other) for one, other in combinations(latents, 2))

        variants = (Variant.TEACHER, Variant.BOTH) if several else ()
        return {
            variant: fmean(spread(rows, variant) for rows in several)
            for variant in self._plan.rows[0].cells
            if variant in variants
        }

    def _obtain(
        self, wanted: Sequence[PlannedCell]
    ) -> Iterator[tuple[PlannedCell, CachedImage, float | None]]:
        """Yield each image, from the cache, or sampled now and then with its seconds."""
        missing = []
        for one in {one.key: one for one in wanted}.values():
            found = self.cache.find(one.key)
            if found is None:
                missing.append(one)
            else:
                yield one, found, None
        for one, made, seconds in self._sample(missing):
            self.cache.keep(one.key, made)
            yield one, made, seconds

    def _sample(
        self, wanted: Sequence[PlannedCell]
    ) -> Iterator[tuple[PlannedCell, CachedImage, float]]:
        """Yield each image as soon as it is done: along the pair's sigmas, then the others.

        Row by row, so that what is timed side by side was sampled side by side. The seconds are
        those of denoising and decoding: a prompt is encoded once for several. Raises what loading
        and sampling raise.
        """
        if not wanted:
            return
        size, teacher = self._plan.generation.batch_size, Variant.TEACHER
        short = list(_in_batches([one for one in wanted if one.variant is not teacher], size))
        own = [one for one in wanted if one.variant is teacher]
        sampler = self._load(wanted[0])
        batches = chain(
            sampler.sample_each([one.settings for one in short], self._on_event, batch_size=size),
            *(
                sampler.sample_base([one.settings for one in some], steps=steps, batch_size=size)
                for steps, some in groupby(own, key=lambda one: one.steps)
            ),
        )
        left = iter((*short, *own))
        began, done, total = time.monotonic(), 0, sum(one.steps for one in wanted)
        number = 0
        for batch in batches:
            took = sum(value for part, value in batch.seconds.items() if part != "encode")
            for made in batch.images:
                one = next(left)
                latents = made.final.numpy().astype(np.float16)
                yield one, CachedImage(made.image, latents), took / len(batch.images)
                number, done = number + 1, done + one.steps
                pace = (time.monotonic() - began) / done
                self._on_event(
                    Noted(
                        f"image {number} of {len(wanted)}: {one.label}, seed {one.settings.seed}, "
                        f"{format_duration(pace * (total - done))} left"
                    )
                )

    def _load(self, first: PlannedCell) -> "GlancePipeline":
        if self._sampler is None:
            generation = self._plan.generation
            fetch_planned(generation, self._on_event)
            self._on_event(Noted(f"loading {generation.base.location}"))
            self._sampler = load_planned(generation, self._on_event)
            for _ in self._sampler.sample_base([first.settings], steps=2):
                pass  # first calls are slow
        return self._sampler


def _in_batches(images: Sequence[PlannedCell], size: int) -> Iterator[PlannedCell]:
    """Yield the images of `size` rows at a time, those of one variant together."""
    variants = {one.variant for one in images}
    for some in batched(images, size * max(1, len(variants))):
        yield from sorted(some, key=lambda one: list(Variant).index(one.variant))
