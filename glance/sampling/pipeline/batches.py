"""Which pictures are painted together, and what comes of it.

Neighbours share a batch that differ in nothing but prompt and noise.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from glance.core.phase import Phase
from glance.sampling.pipeline.text import Encoded
from glance.sampling.settings import SampleSettings

Pictures = Sequence[tuple[SampleSettings, Encoded]]


@dataclass(frozen=True, slots=True)
class Painted:
    """One picture, and the latents that it came from."""

    settings: SampleSettings
    image: Image.Image
    latents: torch.Tensor
    """As they were handed over, (1, ...): see families.Latents. Of the base alone: empty."""
    final: torch.Tensor
    """At sigma 0, what was decoded: (1, ...) likewise, float32 on the CPU."""
    preview: Image.Image | None = None
    """What the model took the picture for at the hand-over, if that was asked for."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Pictures that were painted together, the sigmas that were run, and what each part took."""

    pictures: tuple[Painted, ...]
    sigmas: Mapping[Phase, tuple[float, ...]]
    seconds: Mapping[str, float]


def gather(
    pictures: Sequence[SampleSettings], encoded: Sequence[Encoded], limit: int
) -> Iterator[Pictures]:
    """Yield all pictures in their order, at most `limit` that can share a batch at a time."""
    batch: list[tuple[SampleSettings, Encoded]] = []
    for one in zip(pictures, encoded, strict=True):
        if batch and (len(batch) == limit or _likeness(*one) != _likeness(*batch[0])):
            yield batch
            batch = []
        batch.append(one)
    if batch:
        yield batch


def portions[T](items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Yield `items` in their order, `size` at a time; the last ones may be fewer."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def text_of(settings: SampleSettings) -> tuple[Any, ...]:
    """Return what decides a picture's encoded prompts: equal ones need encoding only once."""
    return (
        *(settings.prompt, settings.negative_prompt, settings.reference),
        *(settings.slow_guidance, settings.fast_guidance, settings.true_cfg),
    )


def _likeness(settings: SampleSettings, encoded: Encoded) -> tuple[Any, ...]:
    alike = settings.model_dump(exclude={"prompt", "negative_prompt", "seed"})
    return (*alike.values(), encoded.shape)
