"""Pictures, many at once: the steps of glance's sampling, batched for the sake of time.

A test holds one of these pictures to what `glance infer` makes of the same noise.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from glance.core.phase import Phase
from glance.sampling.pipeline.sample import VerbatimEulerScheduler
from glance.schedule.lists import PhaseSchedule, Schedule

Pictures = NDArray[np.uint8]
SIDE = 64
_BATCH = 50


class Guidance(NamedTuple):
    """The guidance scale of each phase."""

    slow: float
    fast: float


@dataclass(frozen=True, slots=True)
class Prompts:
    """Encoded captions, and the seed of each one's noise."""

    embeds: Any  # (captions, tokens, width)
    pooled: Any  # (captions, width)
    seeds: Sequence[int]

    def batches(self) -> list["Prompts"]:
        """Return them in portions that fit the memory."""
        starts = range(0, len(self.seeds), _BATCH)
        return [
            Prompts(
                self.embeds[start : start + _BATCH],
                self.pooled[start : start + _BATCH],
                self.seeds[start : start + _BATCH],
            )
            for start in starts
        ]


def encode(pipeline: Any, captions: Sequence[str], seeds: Sequence[int], *, tokens: int) -> Prompts:
    """Encode `captions`, T5 padded to `tokens`."""
    with torch.inference_mode():
        embeds, pooled, _ = pipeline.encode_prompt(list(captions), None, max_sequence_length=tokens)
    return Prompts(embeds, pooled, seeds)


def sample_plain(
    pipeline: Any,
    prompts: Prompts,
    *,
    steps: int,
    guidance: float,
    sigmas: Sequence[float] | None = None,
) -> Pictures:
    """Sample the base model: diffusers' own schedule, or `sigmas` exactly as given."""
    scheduler = pipeline.scheduler
    if sigmas is not None:
        scheduler = VerbatimEulerScheduler.ending_at(0.0, like=pipeline.scheduler)
    _adapt(pipeline, None)
    return np.concatenate(
        [
            _run(pipeline, batch, scheduler, guidance, sigmas=sigmas, num_inference_steps=steps)
            for batch in prompts.batches()
        ]
    )


def sample_pair(
    pipeline: Any,
    prompts: Prompts,
    schedule: Schedule,
    guidance: Guidance,
    *,
    loras: Sequence[Phase] = tuple(Phase),
) -> Pictures:
    """Sample along both lists, with the LoRAs of `loras`: what `glance infer` does."""

    def scheduler(phase: PhaseSchedule) -> Any:
        return VerbatimEulerScheduler.ending_at(phase.end_sigma, like=pipeline.scheduler)

    return _sample_phases(pipeline, prompts, schedule, guidance, scheduler, loras)


def sample_uncorrected(
    pipeline: Any, prompts: Prompts, schedule: Schedule, guidance: Guidance
) -> Pictures:
    """Sample as the guide's snippet does: both lists through diffusers' own scheduler.

    It shifts the given sigmas once more and appends a 0 to each list.
    """
    own = pipeline.scheduler
    return _sample_phases(pipeline, prompts, schedule, guidance, lambda _: own, tuple(Phase))


def _sample_phases(
    pipeline: Any,
    prompts: Prompts,
    schedule: Schedule,
    guidance: Guidance,
    scheduler: Any,
    loras: Sequence[Phase],
) -> Pictures:
    slow, fast = schedule.phase(Phase.SLOW), schedule.phase(Phase.FAST)
    pictures = []
    for batch in prompts.batches():
        _adapt(pipeline, Phase.SLOW if Phase.SLOW in loras else None)
        latents = _run(
            pipeline,
            batch,
            scheduler(slow),
            guidance.slow,
            sigmas=slow.sigmas,
            output_type="latent",
        )
        _adapt(pipeline, Phase.FAST if Phase.FAST in loras else None)
        pictures.append(
            _run(
                pipeline,
                batch,
                scheduler(fast),
                guidance.fast,
                sigmas=fast.sigmas,
                latents=latents,
            )
        )
    return np.concatenate(pictures)


def _run(pipeline: Any, batch: Prompts, scheduler: Any, guidance: float, **how: Any) -> Any:
    own = pipeline.scheduler
    pipeline.scheduler = scheduler
    try:
        with torch.inference_mode():
            images = pipeline(
                prompt_embeds=batch.embeds,
                pooled_prompt_embeds=batch.pooled,
                generator=[torch.Generator("cpu").manual_seed(seed) for seed in batch.seeds],
                guidance_scale=guidance,
                width=SIDE,
                height=SIDE,
                **{"output_type": "np", **_given(how)},
            ).images
    finally:
        pipeline.scheduler = own
    return images if how.get("output_type") == "latent" else (images * 255).round().astype(np.uint8)


def _given(how: dict[str, Any]) -> dict[str, Any]:
    """Leave out what was not given, and say the number of steps of a list."""
    given = {name: value for name, value in how.items() if value is not None}
    if "sigmas" in given:
        given["sigmas"] = list(given["sigmas"])
        given["num_inference_steps"] = len(given["sigmas"])
    return given


def _adapt(pipeline: Any, phase: Phase | None) -> None:
    if not pipeline.get_list_adapters():
        return
    if phase is None:
        pipeline.disable_lora()
    else:
        pipeline.enable_lora()
        pipeline.set_adapters(phase.value)
