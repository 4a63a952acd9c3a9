"""Sample one image in two phases: slow LoRA, hand-over of the latents, fast LoRA.

One model, one prompt encoding, one forward pass a sigma, one decode.
"""

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from glance.diffusion.memory import explaining_lack_of_memory
from glance.diffusion.reference import (
    Reference,
    arrange_for_text,
    open_reference,
    shown_at_its_area,
)
from glance.diffusion.scheduler import VerbatimEulerScheduler
from glance.events import EventSink, StepDone
from glance.families import Family, Latents, Negative
from glance.schedule import Phase, PhaseSchedule, Schedule
from glance.settings import SampleSettings


@dataclass(frozen=True, slots=True)
class Sampled:
    """An image, the sigmas its schedulers ran, and what each part took."""

    image: Image.Image
    sigmas: Mapping[Phase, tuple[float, ...]]
    seconds: Mapping[str, float]


def sample_image(
    pipeline: Any,
    family: Family,
    schedule: Schedule,
    settings: SampleSettings,
    on_event: EventSink = lambda _: None,
    *,
    loras: Collection[Phase] = tuple(Phase),
) -> Sampled:
    """Run both phases on `pipeline`, whose adapters are named `slow` and `fast`.

    `loras` says in which phases its LoRA is used: without any it is the base model along the
    same sigmas, for comparison. The noise comes from a CPU generator, so that a seed means the
    same picture on every device. The pipeline's scheduler is put back afterwards. Raises
    InferenceFailed when memory does not suffice, SampleError when the reference is gone.
    """
    original = pipeline.scheduler
    reference = open_reference(settings)
    clock = _Clock()
    try:
        size = f"{settings.width}x{settings.height} pixels"
        with (
            torch.inference_mode(),
            explaining_lack_of_memory(size),
            shown_at_its_area(pipeline, reference),
        ):
            call = _call(pipeline, family, settings, reference)
            clock.lap("encode")
            slow = _run_phase(
                pipeline,
                {
                    **call,
                    family.guidance.argument: settings.slow_guidance,
                    "generator": torch.Generator("cpu").manual_seed(settings.seed),
                    "output_type": "latent",
                },
                Phase.SLOW,
                schedule.phase(Phase.SLOW),
                on_event,
                is_adapted=Phase.SLOW in loras,
            )
            clock.lap("slow")
            fast = _run_phase(
                pipeline,
                {
                    **call,
                    family.guidance.argument: settings.fast_guidance,
                    "latents": _handed_over(slow.latents, family, settings),
                    "output_type": "pil",
                },
                Phase.FAST,
                schedule.phase(Phase.FAST),
                on_event,
                is_adapted=Phase.FAST in loras,
            )
            clock.lap("fast", until=fast.last_step)
            clock.lap("decode")
    finally:
        pipeline.scheduler = original
    return Sampled(
        image=fast.images[0],
        sigmas={Phase.SLOW: slow.sigmas, Phase.FAST: fast.sigmas},
        seconds=clock.seconds,
    )


def sample_base(pipeline: Any, family: Family, settings: SampleSettings, *, steps: int) -> Sampled:
    """Sample with the base model alone, as diffusers does it: its own schedule of `steps`.

    The same seed starts from the same noise as in `sample_image`; the slow phase's guidance is
    used throughout.
    """
    reference = open_reference(settings)
    clock = _Clock()
    size = f"{settings.width}x{settings.height} pixels"
    with (
        torch.inference_mode(),
        explaining_lack_of_memory(size),
        shown_at_its_area(pipeline, reference),
    ):
        call = _call(pipeline, family, settings, reference)
        clock.lap("encode")
        _use_lora(pipeline, None)
        output = pipeline(
            **call,
            **{family.guidance.argument: settings.slow_guidance},
            generator=torch.Generator("cpu").manual_seed(settings.seed),
            num_inference_steps=steps,
        )
        clock.lap("base")
    return Sampled(image=output.images[0], sigmas={}, seconds=clock.seconds)


@dataclass(frozen=True, slots=True)
class _PhaseResult:
    images: Any  # a list of pictures, after the fast phase
    latents: Any  # as the family packs them: see families.Latents
    sigmas: tuple[float, ...]
    last_step: float


def _call(
    pipeline: Any, family: Family, settings: SampleSettings, reference: Reference | None
) -> dict[str, Any]:
    """Return what both phases are given: the encoded prompt, the size, what is edited."""
    if family.has_fixed_area:
        # a little more than the area, so that rounding down does not lose a row of pixels
        side = (settings.width * settings.height) ** 0.5 * (1 + 1e-6)
        pipeline.default_sample_size = side / pipeline.vae_scale_factor
    size = {"width": settings.width, "height": settings.height}
    images = {} if reference is None else {"image": [reference.picture]}
    prompt = _encode(pipeline, family, settings, reference)
    return {**prompt, **size, **images, **family.sampling_options}


def _encode(
    pipeline: Any, family: Family, settings: SampleSettings, reference: Reference | None
) -> dict[str, Any]:
    """Encode the prompt once, and the empty one if needed, under the pipeline's names."""

    seen = {} if reference is None else {"image": [arrange_for_text(pipeline, reference)]}

    def encode(prompt: str) -> dict[str, Any]:
        outputs = pipeline.encode_prompt(
            prompt=prompt, device=pipeline._execution_device, **seen, **family.text.arguments
        )
        named = zip(family.text.outputs, outputs, strict=True)
        return {name: _as_mask(name, value) for name, value in named if name is not None}

    def _as_mask(name: str, value: Any) -> Any:
        is_mask = family.text.has_bool_masks and name.endswith("attention_mask")
        return value.bool() if is_mask else value

    call = encode(settings.prompt)
    strongest = max(settings.slow_guidance, settings.fast_guidance)
    if family.text.negative is Negative.APART and strongest > family.guidance.off:
        call |= {f"negative_{name}": value for name, value in encode("").items()}
    return call


def _handed_over(latents: Any, family: Family, settings: SampleSettings) -> Any:
    """Return what one call's last callback was given in the shape that the next call takes."""
    if family.latents is not Latents.TOKENS_FROM_GRID:
        return latents
    rows, columns = settings.height // 16, settings.width // 16
    return latents.permute(0, 2, 1).reshape(1, -1, rows, columns)


def _run_phase(
    pipeline: Any,
    call: Mapping[str, Any],
    phase: Phase,
    schedule: PhaseSchedule,
    on_event: EventSink,
    *,
    is_adapted: bool,
) -> _PhaseResult:
    pipeline.scheduler = VerbatimEulerScheduler.ending_at(
        schedule.end_sigma, like=pipeline.scheduler
    )
    _use_lora(pipeline, phase if is_adapted else None)
    steps = len(schedule.sigmas)
    last_step, latents = 0.0, None

    def on_step(_: Any, step: int, __: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        nonlocal last_step, latents
        last_step, latents = _finished(), tensors["latents"]
        on_event(StepDone(phase, step + 1, steps, None, None))
        return tensors

    output = pipeline(
        **call,
        sigmas=list(schedule.sigmas),
        num_inference_steps=steps,
        callback_on_step_end=on_step,
    )
    # float32's own shortest digits: 0.9791915, not the double next to it
    used = tuple(float(str(sigma)) for sigma in pipeline.scheduler.sigmas[:-1].cpu().numpy())
    return _PhaseResult(output.images, latents, used, last_step)


def _use_lora(pipeline: Any, phase: Phase | None) -> None:
    if phase is None:
        pipeline.disable_lora()
    else:
        pipeline.enable_lora()
        pipeline.set_adapters(phase.value)


class _Clock:
    """Laps of one piece of work, in seconds."""

    def __init__(self) -> None:
        self._since = _finished()
        self.seconds: dict[str, float] = {}

    def lap(self, name: str, *, until: float | None = None) -> None:
        end = _finished() if until is None else until
        self.seconds[name] = end - self._since
        self._since = end


def _finished() -> float:
    """Return the time once the accelerator has done what was asked of it."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
