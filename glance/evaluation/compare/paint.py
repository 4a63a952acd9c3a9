"""Paint the pictures that are missing, all with one load of the model."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import batched, groupby
from typing import TYPE_CHECKING

import numpy as np

from glance.core.events import EventSink, Noted
from glance.core.pace import format_duration
from glance.evaluation.compare.cache import Kept
from glance.evaluation.compare.request import Painting, Variant
from glance.sampling.generate import fetch_planned, import_sampler, load_planned
from glance.sampling.request import GenerationPlan

if TYPE_CHECKING:
    from glance.sampling.pipeline.batches import Batch
    from glance.sampling.pipeline.glance_pipeline import GlancePipeline


@dataclass(frozen=True, slots=True)
class Fresh:
    """A picture that was painted just now."""

    painting: Painting
    kept: Kept
    seconds: float
    """Of denoising and decoding; its prompt is encoded once for several, so that is left out."""


class Painter:
    """Loads the model with both LoRAs when the first picture is asked for, and keeps it."""

    def __init__(self, plan: GenerationPlan, on_event: EventSink) -> None:
        """Take the model, how it is loaded, and how many pictures are painted at once."""
        self._plan = plan
        self._on_event = on_event
        self._sampler: GlancePipeline | None = None

    def paint(self, wanted: Sequence[Painting]) -> Iterator[Fresh]:
        """Yield each picture as soon as it is done: along the pair's sigmas, then the others.

        Row by row, so that what is timed side by side was painted side by side. Nothing is loaded
        for none. Raises what loading and sampling raise.
        """
        if not wanted:
            return
        own = [one for one in wanted if one.variant is Variant.TEACHER]
        short = list(
            _in_batches(
                [one for one in wanted if one.variant is not Variant.TEACHER], self._batch_size
            )
        )
        sampler = self._load(wanted[0])
        tell = _Teller(wanted, self._on_event)
        from glance.sampling.pipeline.two_phase import Extras

        batches = sampler.sample_each(
            [one.settings for one in short],
            self._on_event,
            extras=Extras(batch_size=self._batch_size),
        )
        yield from tell(short, batches)
        for steps, some in groupby(own, key=lambda one: one.steps):
            paintings = list(some)
            batches = sampler.sample_base(
                [one.settings for one in paintings], steps=steps, batch_size=self._batch_size
            )
            yield from tell(paintings, batches)

    @property
    def _batch_size(self) -> int:
        return self._plan.batch_size

    def _load(self, first: Painting) -> "GlancePipeline":
        if self._sampler is None:
            fetch_planned(self._plan, self._on_event)
            self._on_event(Noted(f"loading {self._plan.model}"))
            import_sampler(self._plan.family)
            self._sampler = load_planned(self._plan, self._on_event)
            for _ in self._sampler.sample_base([first.settings], steps=2):
                pass  # first calls are slow
        return self._sampler


def _in_batches(paintings: Sequence[Painting], size: int) -> Iterator[Painting]:
    """Yield the pictures of `size` rows at a time, those of one variant together."""
    variants = {one.variant for one in paintings}
    for some in batched(paintings, size * max(1, len(variants))):
        yield from sorted(some, key=lambda one: list(Variant).index(one.variant))


class _Teller:
    """Says which picture is done, and how long the rest takes at the pace of those before."""

    def __init__(self, wanted: Sequence[Painting], on_event: EventSink) -> None:
        self._count, self._on_event = len(wanted), on_event
        self._total = sum(one.steps for one in wanted)
        self._began = time.monotonic()
        self._done: list[int] = []  # steps

    def __call__(
        self, paintings: Sequence[Painting], batches: Iterator["Batch"]
    ) -> Iterator[Fresh]:
        """Yield what the batches hold; a picture is said when it has been taken over."""
        left = iter(paintings)
        for batch in batches:
            count = len(batch.pictures)
            seconds = sum(value for part, value in batch.seconds.items() if part != "encode")
            for painted in batch.pictures:
                painting = next(left)
                kept = Kept(painted.image, painted.final.numpy().astype(np.float16))
                yield Fresh(painting, kept, seconds / count)
                self._say(painting)

    def _say(self, painting: Painting) -> None:
        self._done.append(painting.steps)
        pace = (time.monotonic() - self._began) / sum(self._done)
        left = format_duration(pace * (self._total - sum(self._done)))
        self._on_event(
            Noted(
                f"picture {len(self._done)} of {self._count}: {painting.label}, "
                f"seed {painting.settings.seed}, {left} left"
            )
        )
