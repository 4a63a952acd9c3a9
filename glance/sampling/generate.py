"""Generate what is planned: load the model with both LoRAs, write each image once it is done."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from glance.core.device import Device
from glance.core.errors import GlanceError, InferenceFailed, ModelNotFound, SetupError, reason_of
from glance.core.events import Event, EventSink, Noted, PictureDone, SamplingStep, Warned
from glance.core.hub import check_access, fetch_model, is_offline
from glance.core.phase import Phase
from glance.models.families import Family
from glance.models.lora.keys import Strength, read_file_strength
from glance.sampling.comfyui import Graph, Job, build_workflow, guess_model
from glance.sampling.images import PlannedImage
from glance.sampling.pipeline import hush, importing
from glance.sampling.plan import GenerationPlan
from glance.sampling.provenance import latents_path, preview_path, write_image

if TYPE_CHECKING:
    from glance.sampling.pipeline.glance_pipeline import GlancePipeline
    from glance.sampling.pipeline.sample import Batch, GeneratedImage

_PARTS: Final = ("load", "encode", "slow", "fast", "decode")
"""What a sampling is made of, and timed by."""


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """The images in the order they were asked for, and what generating them took, in seconds."""

    planned: tuple[PlannedImage, ...]
    sigmas: Mapping[Phase, tuple[float, ...]]
    seconds: Mapping[str, float]

    @property
    def images(self) -> tuple[Path, ...]:
        """Where they are."""
        return tuple(one.output for one in self.planned)

    def to_json(self) -> dict[str, Any]:
        """Return what `glance infer --json` prints."""
        return {
            "images": [str(path) for path in self.images],
            "seed": self.planned[0].settings.seed,
            "seeds": [one.settings.seed for one in self.planned],
            "sigmas": {phase.value: list(values) for phase, values in self.sigmas.items()},
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
        }


def run_generation(
    plan: GenerationPlan, on_event: EventSink, *, kept: "KeptModel | None" = None
) -> GenerationResult:
    """Load the model with both LoRAs, generate what is not there yet, write each image.

    What is done stays, whatever happens to the rest. A `kept` model serves this plan too, if it
    can. Raises ModelNotFound, LoraError, InferenceFailed, SetupError (an image cannot be written).
    """
    for note in plan.notes:
        on_event(Noted(note))

    def tell(number: int, one: PlannedImage, *, was_there: bool) -> None:
        seed, total = one.settings.seed, len(plan.images)
        on_event(PictureDone(str(one.output), number, total, seed, was_there))

    missing = []
    for number, one in enumerate(plan.images, 1):
        if one.is_done:
            tell(number, one, was_there=True)
        else:
            missing.append((number, one))
    sigmas: Mapping[Phase, tuple[float, ...]]
    sigmas = {phase: plan.schedule.phase(phase).sigmas for phase in Phase}
    seconds = Counter(dict.fromkeys(_PARTS, 0.0))
    left = iter(missing)
    wanted = [one for _, one in missing]
    for batch in _generate(plan, wanted, on_event, kept or KeptModel()):
        sigmas = batch.sigmas
        seconds.update(batch.seconds)
        for generated in batch.images:
            number, one = next(left)
            _write(one, generated, plan)
            tell(number, one, was_there=False)
    return GenerationResult(plan.images, sigmas, seconds)


def _generate(
    plan: GenerationPlan, missing: list[PlannedImage], on_event: EventSink, model: "KeptModel"
) -> Iterator["Batch"]:
    """Load what is needed and yield the images; nothing is loaded for none."""
    if not missing:
        return
    model.prepare(plan, on_event)
    from glance.sampling.pipeline.sample import load_latents

    start = None if plan.init_latents is None else load_latents(plan.init_latents)
    began = time.perf_counter()
    sampler = model.load(plan, on_event)
    loading = {"load": time.perf_counter() - began}
    batches = sampler.sample_each(
        [one.settings for one in missing],
        with_time_left(on_event),
        batch_size=plan.batch_size,
        previews=plan.save_phases,
        start=start,
    )
    for batch in batches:
        yield replace(batch, seconds={**loading, **batch.seconds})
        loading = {}


def fetch_planned(plan: GenerationPlan, on_event: EventSink) -> None:
    """Bring what is on the Hub into the cache, before anything slow is imported."""
    for model in plan.base.sampled_hub_models:
        doubt = check_access(model)
        if doubt is not None and is_offline():
            raise ModelNotFound(doubt, hint="unset HF_HUB_OFFLINE, or give --model a folder")
        if doubt is not None:
            on_event(Warned(doubt, "check the connection, or give --model a folder"))
        fetch_model(model, on_event)


def import_sampler(family: Family) -> None:
    """Import what sampling with a model of the family needs, beforehand: it takes seconds."""
    hush()
    with importing():
        import glance.sampling.pipeline.glance_pipeline  # noqa: F401
        from glance.sampling.pipeline.load import find_class

        find_class(family)


class KeptModel:
    """The base model of the last plan, kept for the next one: if it wants the same, only the pair's
    LoRAs are exchanged, and prompts that were encoded are not encoded again.

    One model is in memory at a time.
    """

    def __init__(self, plans: Sequence[GenerationPlan] = ()) -> None:
        """Load nothing yet; `plans` are those to come: memory is fitted to the largest image."""
        self._plans = plans
        self._wants: tuple[object, ...] | None = None
        self._sampler: GlancePipeline | None = None
        self._failures: dict[tuple[object, ...], GlanceError] = {}

    def prepare(self, plan: GenerationPlan, on_event: EventSink) -> None:
        """Do what precedes loading: fetch what is on the Hub, import what is needed.

        Raises ModelNotFound, and again what a plan that wanted the same model failed with.
        """
        if self._holds(plan):
            return
        if _wants(plan) in self._failures:
            raise self._failures[_wants(plan)]
        with self._remembering(plan):
            fetch_planned(plan, on_event)
        on_event(Noted(f"loading {plan.base.location}"))
        if plan.base.transformer is not None:
            on_event(Noted(f"its transformer is that of {plan.base.transformer}"))
        if plan.compiled:
            on_event(Noted("torch.compile builds the transformer at the first step: have patience"))
        import_sampler(plan.base.family)

    def load(self, plan: GenerationPlan, on_event: EventSink) -> "GlancePipeline":
        """Return the plan's model with its LoRAs; raises what load_pipeline raises."""
        if self._sampler is not None and self._holds(plan):
            from glance.sampling.pipeline.load import exchange_pair

            exchange_pair(self._sampler.pipeline, plan.loras, plan.quantize, plan.dtype)
            self._sampler.schedule = plan.schedule
            return self._sampler
        self.drop()
        alike = [one for one in self._plans if _wants(one) == _wants(plan)]
        with self._remembering(plan):
            self._sampler = load_planned(plan, on_event, beside=alike)
        if self._plans:
            from glance.sampling.pipeline.encodings import Encodings

            self._sampler.encodings = Encodings()
        self._wants = _wants(plan)
        return self._sampler

    def drop(self) -> None:
        """Give the memory back."""
        if self._sampler is not None:
            from glance.sampling.pipeline.memory import free_memory

            self._sampler = self._wants = None
            free_memory()

    @contextmanager
    def _remembering(self, plan: GenerationPlan) -> Iterator[None]:
        """Keep what a model cannot be had for: it takes a minute to find that out again."""
        try:
            yield
        except (ModelNotFound, InferenceFailed) as exc:
            self._failures[_wants(plan)] = exc
            raise

    def _holds(self, plan: GenerationPlan) -> bool:
        return self._wants == _wants(plan) and not plan.compiled


def _wants(plan: GenerationPlan) -> tuple[object, ...]:
    """Return all that decides which model is loaded, and how; the pair is exchanged."""
    extras = tuple(one.lora for one in plan.extra_loras.values())
    fit = (plan.device, plan.dtype, plan.memory, plan.quantize, plan.compiled, plan.batch_size)
    base = (plan.base.family.name, plan.base.location, plan.base.transformer)
    return (*base, extras, *fit)


def load_planned(
    plan: GenerationPlan,
    on_event: EventSink = lambda _: None,
    *,
    beside: Sequence[GenerationPlan] = (),
) -> "GlancePipeline":
    """Return the plan's model with its LoRAs; raises what load_pipeline raises.

    Plans `beside` it are to be sampled with the same model: their images count for its memory.
    """
    import_sampler(plan.base.family)
    from glance.sampling.pipeline.glance_pipeline import GlancePipeline
    from glance.sampling.pipeline.load import Fit, load_pipeline

    images = [image for one in (plan, *beside) for image in one.images]
    largest = max(one.settings.width * one.settings.height for one in images)
    fit = Fit(
        device=plan.device,
        dtype=plan.dtype,
        memory=plan.memory,
        quantize=plan.quantize,
        compiled=plan.compiled,
        pixels=plan.batch_size * largest,
    )
    extras = [one.lora for one in plan.extra_loras.values()]
    loaded = load_pipeline(plan.base, plan.loras, fit, extras=extras)
    if plan.device is Device.CUDA:
        on_event(Noted(f"memory: {loaded.memory}"))
        if getattr(loaded.pipeline.vae, "use_tiling", False):
            on_event(Noted("the image is decoded in tiles: whole it would not fit the card"))
    return GlancePipeline(
        loaded.pipeline, family=plan.base.family, schedule=plan.schedule, switch=loaded.switch
    )


def with_time_left(on_event: EventSink) -> EventSink:
    """Return `on_event`, told at each step how long the rest of all images takes."""
    began: float | None = None
    first = 0

    def sink(event: Event) -> None:
        nonlocal began, first
        if not isinstance(event, SamplingStep):
            on_event(event)
        elif began is None:  # the first step warms up: the pace is that of the others
            began, first = time.monotonic(), event.done
            on_event(event)
        else:
            pace = (time.monotonic() - began) / max(1, event.done - first)
            on_event(replace(event, eta_seconds=pace * (event.total - event.done)))

    return sink


def _write(one: PlannedImage, generated: "GeneratedImage", plan: GenerationPlan) -> None:
    if plan.save_latents:
        from glance.sampling.pipeline.sample import save_latents

        path = latents_path(one.output)
        try:
            save_latents(generated.latents, path, one.record)
        except OSError as exc:
            raise SetupError(
                f"cannot write {path}: {reason_of(exc)}", hint="give --output another path"
            ) from exc
    if generated.preview is not None:
        write_image(generated.preview, preview_path(one.output), None)
    if plan.metadata:
        workflow = describe_workflow(plan, one)
        write_image(generated.image, one.output, one.record, workflow=workflow)
    else:
        write_image(generated.image, one.output, None)


def describe_workflow(plan: GenerationPlan, one: PlannedImage) -> Graph:
    """Return ComfyUI's workflow of one image; the LoRAs have the names that exports give them."""
    base, reference = plan.base, one.settings.reference
    scales = {}
    for phase in one.settings.loras:
        if phase in plan.loras:
            factor = unseen_factor(read_file_strength(plan.loras[phase]))
            scales[f"{phase}_scale"] = one.settings.scale(phase) * factor
    extras = {
        name: found.asked.strength * unseen_factor(found.facts.strength)
        for name, found in plan.extra_loras.items()
    }
    transformer = None if base.transformer is None else str(base.transformer)
    job = Job(
        family=base.family,
        model=guess_model(base.family, base.location, transformer),
        loras={phase: name for phase, name in plan.names.items() if phase in one.settings.loras},
        extra_loras=extras,
        schedule=plan.schedule,
        settings=one.settings.model_copy(update=scales),
        reference=None if reference is None else reference.name,
    )
    return build_workflow(job)


def unseen_factor(strength: Strength) -> float:
    """Return what ComfyUI has to be told of a LoRA's strength: it reads alpha from tensors alone.

    Where each layer has a factor of its own there is no number that says it.
    """
    factor = strength.factor
    return 1.0 if strength.is_in_tensors or factor is None else factor
