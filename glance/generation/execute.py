"""Sample: load the model with both LoRAs, run both phases, write the picture."""

import time
from typing import Any

from glance.diffusion.quiet import hush
from glance.errors import SetupError
from glance.events import EventSink, Noted
from glance.families import Family
from glance.files import replacing
from glance.generation.request import GenerationPlan, GenerationResult


def import_sampler(family: Family) -> None:
    """Import what sampling with a model of the family needs, beforehand: it takes seconds."""
    hush()
    import glance.diffusion.inference  # noqa: F401
    from glance.diffusion.pipeline import find_class

    find_class(family)


def load_planned(plan: GenerationPlan) -> Any:
    """Return the plan's model with both LoRAs; raises what load_pipeline raises."""
    hush()
    from glance.diffusion.pipeline import load_pipeline

    return load_pipeline(
        plan.family,
        plan.model,
        plan.loras,
        device=plan.device,
        dtype=plan.dtype,
        transformer=plan.transformer,
    )


def run_generation(plan: GenerationPlan, on_event: EventSink) -> GenerationResult:
    """Load the model with both LoRAs, sample one image, write it.

    Raises ModelNotFound, LoraError, InferenceFailed, SetupError (the image cannot be written).
    """
    for note in plan.notes:
        on_event(Noted(note))
    on_event(Noted(f"loading {plan.model}"))
    if plan.transformer is not None:
        on_event(Noted(f"its transformer is that of {plan.transformer}"))
    hush()
    from glance.diffusion.inference import sample_image

    began = time.perf_counter()
    pipeline = load_planned(plan)
    load_seconds = time.perf_counter() - began
    sampled = sample_image(pipeline, plan.family, plan.schedule, plan.settings, on_event)
    try:
        with replacing(plan.output) as temporary:
            sampled.image.save(temporary)
    except OSError as exc:
        raise SetupError(
            f"cannot write {plan.output}: {exc.strerror or exc}",
            hint="give --output another path",
        ) from exc
    return GenerationResult(
        image=plan.output,
        seed=plan.settings.seed,
        sigmas=sampled.sigmas,
        seconds={"load": load_seconds, **sampled.seconds},
    )
