"""From what was seen to figures: one plain dictionary, which is what gets committed."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.evidence.measuring import GUIDANCES, STEPS, TEXT_TOKENS, Bench, wide_bench
from benchmarks.evidence.observations import CAPTIONS
from benchmarks.evidence.pairs import (
    GENTLE,
    LENGTHS,
    PUBLISHED,
    QUESTIONS,
    SAMPLES,
    Recipe,
    Wording,
)
from benchmarks.evidence.sampling import Guidance
from benchmarks.evidence.schedules import LENGTHS as LISTS
from benchmarks.evidence.workshop import Workshop
from glance.evaluation.comparison import (
    Estimate,
    Values,
    estimate_difference,
    estimate_mean,
    estimate_ratio,
)

Figures = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Desk:
    """One bench's observations, as figures."""

    bench: Bench

    def base(self, name: str) -> Figures:
        """Return the figures of one way to sample the base model."""
        seen = self.bench.observe(f"base-{name}")
        met = seen.met(self.bench.captions)
        return {
            "met": shown(estimate_mean(met)),
            "loss": shown(estimate_difference(met, self._teacher)),
            "readable": shown(estimate_mean(seen.readable())),
            "distance": shown(estimate_mean(seen.distances())),
        }

    def pair(self, recipe: Recipe, way: str = "pair") -> Figures:
        """Return the figures of one recipe's pairs, against the base along the same sigmas."""
        captions = self.bench.captions
        base = self.bench.observe(f"base-{recipe.schedule}")
        seen = [self.bench.observe(f"{way}-{recipe.name}-{number}") for number in range(SAMPLES)]
        samples = [self.bench.shop.caption(recipe, number) for number in range(SAMPLES)]

        def rows(value: Callable[[int], Values]) -> Values:
            return np.concatenate([value(number) for number in range(SAMPLES)])

        met = rows(lambda number: seen[number].met(captions))
        figures = {
            "met": shown(estimate_mean(met)),
            "by_sample": [round(float(row.mean()), 4) for row in met],
            "base": shown(estimate_mean(base.met(captions))),
            "gain": shown(estimate_difference(met, base.met(captions))),
            "retention": shown(estimate_ratio(met, self._teacher)),
            "distance": shown(estimate_mean(rows(lambda n: seen[n].distances()))),
            "further": shown(
                estimate_difference(rows(lambda n: seen[n].distances()), base.distances())
            ),
        }
        if self.bench.wording is Wording.LOOSE:  # a full caption leaves nothing to be pulled
            figures["pull"] = shown(
                estimate_difference(
                    rows(lambda n: seen[n].pull(captions, samples[n])),
                    rows(lambda n: base.pull(captions, samples[n])),
                )
            )
        return figures

    @property
    def _teacher(self) -> Values:
        return self.bench.observe("base-50").met(self.bench.captions)


def find(shop: Workshop) -> Figures:
    """Return every figure of the report."""
    return {
        "captions": CAPTIONS,
        "samples": SAMPLES,
        "text_tokens": TEXT_TOKENS,
        "benches": {
            wording.value: {
                label(guidance): _of_bench(Bench(shop, wording, guidance)) for guidance in GUIDANCES
            }
            for wording in Wording
        },
        "padding": {
            str(bench.tokens): Desk(bench).pair(PUBLISHED)
            for bench in (Bench(shop, Wording.LOOSE, GUIDANCES[0]), wide_bench(shop))
        },
    }


def label(guidance: Guidance) -> str:
    """Return how tables call a guidance."""
    return f"{guidance.slow}/{guidance.fast}"


def base_ways() -> Iterable[str]:
    """Return how the base model was sampled, in the order of the table."""
    yield "50"
    for steps in STEPS:
        yield f"shifted-{steps}"
        yield f"uniform-{steps}"
    yield from LISTS


def _of_bench(bench: Bench) -> Figures:
    desk = Desk(bench)
    figures: Figures = {
        "base": {way: desk.base(way) for way in base_ways()},
        "pairs": {recipe.schedule: desk.pair(recipe) for recipe in LENGTHS},
        "uncorrected": desk.pair(PUBLISHED, "uncorrected"),
    }
    if bench.wording is Wording.LOOSE:
        figures["gentle"] = {recipe.schedule: desk.pair(recipe) for recipe in GENTLE}
        figures["questions"] = {
            question: {recipe.name: desk.pair(recipe) for recipe in recipes}
            for question, recipes in QUESTIONS.items()
        }
    return figures


def shown(estimate: Estimate) -> list[float]:
    """Return the value and the ends of its interval."""
    return [round(value, 4) for value in (estimate.value, estimate.low, estimate.high)]
