"""Every picture that the figures need: by the base model in many ways, and by every pair."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from benchmarks.evidence.observations import Observations, captions_of, observe
from benchmarks.evidence.pairs import LENGTHS, PUBLISHED, Recipe, Wording
from benchmarks.evidence.sampling import (
    FLUX_TOKENS,
    Guidance,
    Pictures,
    images_of,
    open_sampler,
    sample,
    sample_own,
    sample_uncorrected,
)
from benchmarks.evidence.schedules import LENGTHS as LISTS
from benchmarks.evidence.schedules import even
from benchmarks.evidence.workshop import Workshop
from glance.core.files import replacing
from glance.core.phase import Phase
from glance.sampling.pipeline import hush
from glance.schedule.lists import Schedule

TEACHER: Final = 50
STEPS: Final = (10, 6, 5, 4, 3, 2)
TEXT_TOKENS: Final = 64
"""T5's padding here, for the sake of time: FLUX's own is seven times as slow."""
GUIDANCES: Final = (Guidance(3.5, 1.0), Guidance(1.0, 1.0))


@dataclass(frozen=True)
class Bench:
    """One set of captions at one guidance, with the noise of each: what is paired with what."""

    shop: Workshop
    wording: Wording
    guidance: Guidance
    tokens: int = TEXT_TOKENS

    @property
    def folder(self) -> Path:
        """Where its observations lie."""
        name = f"{self.wording}-{self.guidance.slow}-{self.guidance.fast}-{self.tokens}"
        return self.shop.path / "observed" / name

    @property
    def is_wide(self) -> bool:
        """Whether it pads as FLUX does."""
        return self.tokens == FLUX_TOKENS

    def concerns(self, recipe: Recipe) -> bool:
        """Whether pairs of this recipe are measured on it."""
        if self.is_wide:
            return recipe == PUBLISHED
        return self.wording is Wording.LOOSE or recipe in LENGTHS

    @cached_property
    def captions(self) -> list[str]:
        """The captions; each one's place in the list is the seed of its noise."""
        return captions_of(self.wording)

    def sample(
        self, pipeline: Any, schedule: Schedule, *, loras: Sequence[Phase] = tuple(Phase)
    ) -> Pictures:
        """Sample the captions as `glance infer` does."""
        sampler = open_sampler(pipeline, schedule, tokens=self.tokens)
        return sample(sampler, images_of(self.captions, self.guidance, loras=loras))

    def sample_base(self, pipeline: Any, steps: int, *, is_even: bool = False) -> Pictures:
        """Sample the base model, guided as the slow phase: its own steps, or even ones."""
        guidance = Guidance(self.guidance.slow, self.guidance.slow)
        images = images_of(self.captions, guidance, loras=())
        if is_even:
            return sample(open_sampler(pipeline, even(steps), tokens=self.tokens), images)
        return sample_own(open_sampler(pipeline, tokens=self.tokens), images, steps=steps)

    def sample_uncorrected(self, pipeline: Any, schedule: Schedule) -> Pictures:
        """Sample the captions in the guide's way."""
        sampler = open_sampler(pipeline, schedule, tokens=self.tokens)
        return sample_uncorrected(sampler, images_of(self.captions, self.guidance))

    def reference(self) -> Pictures:
        """Return the base model's pictures with TEACHER steps, made earlier."""
        pictures: Pictures = np.load(self.folder / "reference.npy")
        return pictures

    def observe(self, name: str, make: Callable[[], Pictures] | None = None) -> Observations:
        """Return what is seen on the pictures of one way to sample, made if need be."""

        def missing() -> Pictures:
            raise FileNotFoundError(f"{self.folder}: nobody has sampled {name}")

        return observe(self.folder / f"{name}.json", make or missing, self.reference)


def benches(shop: Workshop) -> Iterator[Bench]:
    """Yield the sets of captions and guidances that are compared."""
    yield wide_bench(shop)  # the slowest first
    for wording in Wording:
        for guidance in GUIDANCES:
            yield Bench(shop, wording, guidance)


def wide_bench(shop: Workshop) -> Bench:
    """Return the one with FLUX's own padding, on which only the published pairs are measured."""
    return Bench(shop, Wording.LOOSE, GUIDANCES[0], tokens=FLUX_TOKENS)


def measure_base(bench: Bench) -> None:
    """Sample the base model with TEACHER steps, and with few in every way."""
    pipeline = bench.shop.load()
    keep_reference(bench, pipeline)
    bench.observe("base-50", bench.reference)
    for name in [PUBLISHED.schedule] if bench.is_wide else LISTS:
        bench.observe(f"base-{name}", partial(bench.sample, pipeline, LISTS[name], loras=()))
    for steps in () if bench.is_wide else STEPS:
        few = partial(bench.sample_base, pipeline, steps)
        bench.observe(f"base-shifted-{steps}", few)
        bench.observe(f"base-uniform-{steps}", partial(few, is_even=True))


def keep_reference(bench: Bench, pipeline: Any) -> None:
    """Sample the base model with TEACHER steps, if nobody has."""
    path = bench.folder / "reference.npy"
    if path.exists():
        return
    pictures = bench.sample_base(pipeline, TEACHER)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, pictures)


def measure_pair(shop: Workshop, recipe: Recipe, number: int) -> str:
    """Sample with one pair along the list it was trained on, and in the guide's way."""
    pipeline = shop.load(shop.run(recipe, number))
    schedule = LISTS[recipe.schedule]
    for bench in benches(shop):
        if not bench.concerns(recipe):
            continue
        name = f"{recipe.name}-{number}"
        bench.observe(f"pair-{name}", partial(bench.sample, pipeline, schedule))
        if recipe == PUBLISHED and not bench.is_wide:
            way = partial(bench.sample_uncorrected, pipeline, schedule)
            bench.observe(f"uncorrected-{name}", way)
    return f"{recipe.name}-{number}"


def measure_all(shop: Workshop, pairs: Sequence[tuple[Recipe, int]], *, jobs: int) -> None:
    """Make whatever pictures are missing."""
    with ProcessPoolExecutor(jobs, initializer=alone) as pool:
        list(pool.map(measure_base, benches(shop)))
        for name in pool.map(partial(_measure, shop), pairs):
            print(f"measured {name}", flush=True)  # noqa: T201 - a command's progress


def _measure(shop: Workshop, pair: tuple[Recipe, int]) -> str:
    return measure_pair(shop, *pair)


def alone() -> None:
    """Leave the other cores to the processes beside this one."""
    torch.set_num_threads(1)  # several run beside each other
    hush()
