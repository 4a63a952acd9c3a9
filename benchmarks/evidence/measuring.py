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
    Guidance,
    Pictures,
    Prompts,
    encode,
    sample_pair,
    sample_plain,
    sample_uncorrected,
)
from benchmarks.evidence.schedules import LENGTHS as LISTS
from benchmarks.evidence.schedules import uniform_sigmas
from benchmarks.evidence.workshop import Workshop
from glance.core.files import replacing
from glance.sampling.pipeline import hush

TEACHER: Final = 50
STEPS: Final = (10, 6, 5, 4, 3, 2)
TEXT_TOKENS: Final = 64
"""T5's padding here, for the sake of time."""
FLUX_TOKENS: Final = 512
"""What FLUX, and so glance, pads to: seven times as slow."""
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

    def prompts(self, pipeline: Any) -> Prompts:
        """Encode the captions."""
        return encode(pipeline, self.captions, range(len(self.captions)), tokens=self.tokens)

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
    prompts = bench.prompts(pipeline)
    plain = partial(sample_plain, pipeline, prompts, guidance=bench.guidance.slow)
    keep_reference(bench, pipeline, prompts)
    bench.observe("base-50", bench.reference)
    for name in [PUBLISHED.schedule] if bench.is_wide else LISTS:
        along = partial(sample_pair, pipeline, prompts, LISTS[name], bench.guidance, loras=())
        bench.observe(f"base-{name}", along)
    if bench.is_wide:
        return
    for steps in STEPS:
        bench.observe(f"base-shifted-{steps}", partial(plain, steps=steps))
        sigmas = uniform_sigmas(steps)
        bench.observe(f"base-uniform-{steps}", partial(plain, steps=steps, sigmas=sigmas))


def keep_reference(bench: Bench, pipeline: Any, prompts: Prompts) -> None:
    """Sample the base model with TEACHER steps, if nobody has."""
    path = bench.folder / "reference.npy"
    if path.exists():
        return
    pictures = sample_plain(pipeline, prompts, guidance=bench.guidance.slow, steps=TEACHER)
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
        ways: dict[str, Callable[..., Pictures]] = {"pair": sample_pair}
        if recipe == PUBLISHED and not bench.is_wide:
            ways["uncorrected"] = sample_uncorrected
        prompts = bench.prompts(pipeline)
        for name, sample in ways.items():
            make = partial(sample, pipeline, prompts, schedule, bench.guidance)
            bench.observe(f"{name}-{recipe.name}-{number}", make)
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
