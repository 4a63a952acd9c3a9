"""Pictures, many at once, by glance's own sampling, and in the guide's way."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from glance.core.phase import Phase
from glance.models.families import find_family
from glance.sampling.pipeline.sample import TwoPhase, noise_of
from glance.sampling.settings import SampleSettings, resolve_sample_settings
from glance.schedule.lists import PRESETS, Schedule

Pictures = NDArray[np.uint8]
SIDE: Final = 64
FLUX_TOKENS: Final = 512
"""What FLUX, and so glance, pads T5 to."""
_BATCH: Final = 50


class Guidance(NamedTuple):
    """The guidance scale of each phase."""

    slow: float
    fast: float


def images_of(
    captions: Sequence[str],
    guidance: Guidance,
    *,
    first_seed: int = 0,
    loras: Sequence[Phase] = tuple(Phase),
) -> list[SampleSettings]:
    """Return an image a caption, each from a noise of its own."""
    return [
        resolve_sample_settings(
            find_family("flux"),
            prompt=caption,
            seed=first_seed + number,
            slow_guidance=guidance.slow,
            fast_guidance=guidance.fast,
            loras=tuple(loras),
            width=SIDE,
            height=SIDE,
        )
        for number, caption in enumerate(captions)
    ]


def open_sampler(
    pipeline: Any, schedule: Schedule = PRESETS["guide"].schedule, *, tokens: int = FLUX_TOKENS
) -> TwoPhase:
    """Return glance's sampling with this pipeline; `tokens` is T5's padding."""
    family = find_family("flux")
    text = replace(family.text, arguments=MappingProxyType({"max_sequence_length": tokens}))
    return TwoPhase(pipeline, replace(family, text=text), schedule)


def sample(sampler: TwoPhase, images: Sequence[SampleSettings]) -> Pictures:
    """Sample along both lists, with the LoRAs that the images name: as `glance infer` does."""
    batches = sampler.sample_each(images, batch_size=_BATCH)
    return _stack(one.image for batch in batches for one in batch.images)


def sample_own(sampler: TwoPhase, images: Sequence[SampleSettings], *, steps: int) -> Pictures:
    """Sample the base model alone, along diffusers' own schedule."""
    batches = sampler.sample_base(images, steps=steps, batch_size=_BATCH)
    return _stack(one.image for batch in batches for one in batch.images)


def sample_uncorrected(sampler: TwoPhase, images: Sequence[SampleSettings]) -> Pictures:
    """Sample as the guide's snippet does: both lists through diffusers' own scheduler.

    It shifts the given sigmas once more and appends a 0 to each list.
    """
    pipeline, pictures = sampler.pipeline, list[Image.Image]()
    for settings, call in sampler.prepare(images, batch_size=_BATCH):
        start: dict[str, Any] = noise_of(settings)
        for phase, kind in ((Phase.SLOW, "latent"), (Phase.FAST, "pil")):
            sampler.loras.use(pipeline, phase, scale=1.0)
            sigmas = list(sampler.schedule.phase(phase).sigmas)
            how = {"sigmas": sigmas, "num_inference_steps": len(sigmas), "output_type": kind}
            with sampler.sampling():
                found = pipeline(**call, **start, **sampler.guided(settings[0], phase), **how)
            start = {"latents": found.images}
        pictures += found.images
    return _stack(pictures)


def _stack(pictures: Iterable[Image.Image]) -> Pictures:
    return np.stack([np.asarray(picture) for picture in pictures])
