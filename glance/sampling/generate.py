"""Sample: load the model with both LoRAs, paint, and write each picture as soon as it is done."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glance.core.device import Device
from glance.core.errors import ModelNotFound, SetupError
from glance.core.events import Event, EventSink, Noted, PictureDone, SamplingStep, Warned
from glance.core.hub import check_access, fetch_telling, is_offline
from glance.core.phase import Phase
from glance.models.base import hub_models
from glance.models.families import Family
from glance.sampling.handover import KEY, latents_path, preview_path
from glance.sampling.pipeline.quiet import hush, importing
from glance.sampling.provenance.picture import write_picture
from glance.sampling.request import GenerationPlan, GenerationResult, PlannedPicture
from glance.sampling.settings import SampleSettings
from glance.sampling.workflow import describe_workflow

_PARTS = ("load", "encode", "slow", "fast", "decode")
"""What a sampling is made of, and timed by."""

if TYPE_CHECKING:
    from glance.sampling.pipeline.batches import Batch, Painted
    from glance.sampling.pipeline.glance_pipeline import GlancePipeline


def import_sampler(family: Family) -> None:
    """Import what sampling with a model of the family needs, beforehand: it takes seconds."""
    hush()
    with importing():
        import glance.sampling.pipeline.glance_pipeline  # noqa: F401
        from glance.sampling.pipeline.pipeline import find_class

        find_class(family)


def load_planned(plan: GenerationPlan, on_event: EventSink = lambda _: None) -> "GlancePipeline":
    """Return the plan's model with its LoRAs; raises what load_pipeline raises."""
    import_sampler(plan.family)
    from glance.sampling.pipeline.glance_pipeline import GlancePipeline
    from glance.sampling.pipeline.pipeline import Fit, load_pipeline

    fit = Fit(
        device=plan.device,
        dtype=plan.dtype,
        memory=plan.memory,
        quantize=plan.quantize,
        compiled=plan.compiled,
        pixels=plan.batch_size
        * max(one.settings.width * one.settings.height for one in plan.pictures),
    )
    loaded = load_pipeline(
        plan.family,
        plan.model,
        plan.loras,
        fit,
        transformer=plan.transformer,
        base_loras=plan.base_loras,
    )
    if plan.device is Device.CUDA:
        on_event(Noted(f"memory: {loaded.memory}"))
    return GlancePipeline(
        loaded.pipeline, family=plan.family, schedule=plan.schedule, switch=loaded.switch
    )


def run_generation(plan: GenerationPlan, on_event: EventSink) -> GenerationResult:
    """Load the model with both LoRAs, paint what is not there yet, write each picture.

    What is done stays, whatever happens to the rest. Raises ModelNotFound, LoraError,
    InferenceFailed, SetupError (a picture cannot be written).
    """
    for note in plan.notes:
        on_event(Noted(note))
    missing = []
    for number, one in enumerate(plan.pictures, 1):
        if one.is_done:
            on_event(_done(plan, number, was_there=True))
        else:
            missing.append((number, one))
    sigmas: Mapping[Phase, tuple[float, ...]]
    sigmas = {phase: plan.schedule.phase(phase).sigmas for phase in Phase}
    seconds = Counter(dict.fromkeys(_PARTS, 0.0))
    left = iter(missing)
    for batch in _paint(plan, [one.settings for _, one in missing], on_event):
        sigmas = batch.sigmas
        seconds.update(batch.seconds)
        for painted in batch.pictures:
            number, one = next(left)
            _write(one, painted, plan)
            on_event(_done(plan, number))
    return GenerationResult(plan.pictures, sigmas, seconds)


def _paint(
    plan: GenerationPlan, missing: Sequence[SampleSettings], on_event: EventSink
) -> Iterator["Batch"]:
    """Load what is needed and yield the pictures; nothing is loaded for none."""
    if not missing:
        return
    fetch_planned(plan, on_event)
    on_event(Noted(f"loading {plan.model}"))
    if plan.transformer is not None:
        on_event(Noted(f"its transformer is that of {plan.transformer}"))
    if plan.compiled:
        on_event(Noted("torch.compile builds the transformer at the first step: have patience"))
    import_sampler(plan.family)
    extras = _extras(plan)
    began = time.perf_counter()
    sampler = load_planned(plan, on_event)
    loading = {"load": time.perf_counter() - began}
    for batch in sampler.sample_each(missing, with_time_left(on_event), extras=extras):
        yield replace(batch, seconds={**loading, **batch.seconds})
        loading = {}


def fetch_planned(plan: GenerationPlan, on_event: EventSink) -> None:
    """Bring what is on the Hub into the cache, before anything slow is imported."""
    for model in hub_models(plan.model, family=plan.family, run=Path()):
        doubt = check_access(model)
        if doubt is not None and is_offline():
            raise ModelNotFound(doubt, hint="unset HF_HUB_OFFLINE, or give --model a folder")
        if doubt is not None:
            on_event(Warned(doubt, "check the connection, or give --model a folder"))
        fetch_telling(model, on_event)


def _done(plan: GenerationPlan, number: int, *, was_there: bool = False) -> PictureDone:
    one = plan.pictures[number - 1]
    total = len(plan.pictures)
    return PictureDone(str(one.output), number, total, one.settings.seed, was_there)


def with_time_left(on_event: EventSink) -> EventSink:
    """Return `on_event`, told at each step how long the rest of all pictures takes."""
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


def _extras(plan: GenerationPlan) -> Any:
    from glance.sampling.pipeline.handover import load_latents
    from glance.sampling.pipeline.two_phase import Extras

    start = None if plan.init_latents is None else load_latents(plan.init_latents)
    return Extras(previews=plan.save_phases, start=start, batch_size=plan.batch_size)


def _write(one: PlannedPicture, painted: "Painted", plan: GenerationPlan) -> None:
    record = one.record if plan.metadata else None
    if plan.save_latents:
        _write_latents(one, painted)
    if painted.preview is not None:
        write_picture(painted.preview, preview_path(one.output), None)
    workflow = describe_workflow(plan, one) if plan.metadata else None
    write_picture(painted.image, one.output, record, workflow=workflow)


def _write_latents(one: PlannedPicture, painted: "Painted") -> None:
    from glance.sampling.pipeline.handover import save_latents

    path = latents_path(one.output)
    try:
        save_latents(painted.latents, path, {KEY: one.record.model_dump_json()})
    except OSError as exc:
        raise SetupError(
            f"cannot write {path}: {exc.strerror or exc}", hint="give --output another path"
        ) from exc
