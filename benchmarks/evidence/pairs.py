"""Which pairs are trained: one frozen description each, and the questions they answer."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from benchmarks.evidence.schedules import COMPARED

SAMPLES: Final = 3
"""Training samples; every recipe is trained once on each."""
FEW: Final = 4
"""Samples of a pair that is trained on a few at once."""


class Source(StrEnum):
    """Where the training picture comes from."""

    DRAWN = "drawn"  # by the world: what a photograph is to a real model
    SAMPLED = "sampled"  # by the base model itself, 50 steps


class Wording(StrEnum):
    """How much of the picture its caption names."""

    FULL = "full"
    LOOSE = "loose"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How one pair is trained; the defaults are the method's published settings."""

    schedule: str = "seed-10"
    source: Source = Source.DRAWN
    wording: Wording = Wording.FULL
    rank: int = 16
    alpha_per_rank: int = 4
    learning_rate: float = 5e-4
    steps: int = 60
    order: str = "round-robin"
    samples: int = 1

    @property
    def name(self) -> str:
        """What differs from the published settings: a file name, and a row's label."""
        return "-".join([self.schedule, *(f"{key}={value}" for key, value in self.changes.items())])

    @property
    def changes(self) -> dict[str, object]:
        """The fields that are not the published ones, the schedule left out."""
        values = ((field.name, getattr(self, field.name), field.default) for field in fields(self))
        return {
            name: value
            for name, value, default in values
            if name != "schedule" and value != default
        }


PUBLISHED: Final = Recipe()
JUDGED_ON: Final = "seed-4"
"""Four steps of the guide's list: here this base loses quality, so here a pair could help."""

LENGTHS: Final = tuple(
    replace(PUBLISHED, schedule=name)
    for name in ("seed-10", "own-10", "seed-6", "own-6", "seed-4", "own-4", "own-2")
)
GENTLE: Final = tuple(
    replace(PUBLISHED, schedule=name, rank=4, learning_rate=1e-4) for name in ("seed-10", "seed-4")
)
"""What the answers below advise for the small model, measured in its turn."""
_CENTRE: Final = replace(PUBLISHED, schedule=JUDGED_ON)
QUESTIONS: Final[Mapping[str, tuple[Recipe, ...]]] = MappingProxyType(
    {
        "learning rate": tuple(
            replace(_CENTRE, learning_rate=rate) for rate in (5e-5, 1e-4, 2e-4, 5e-4, 1e-3)
        ),
        "picture and caption": tuple(
            replace(_CENTRE, source=source, wording=wording)
            for source in Source
            for wording in Wording
        ),
        "alpha": tuple(replace(_CENTRE, alpha_per_rank=times) for times in (1, 4)),
        "rank": tuple(replace(_CENTRE, rank=rank) for rank in (4, 8, 16, 32)),
        "steps": tuple(replace(_CENTRE, steps=steps) for steps in (60, 120, 240)),
        "order of the list": tuple(
            replace(_CENTRE, order=order) for order in ("round-robin", "fixed-list")
        ),
        "samples": tuple(replace(_CENTRE, samples=count) for count in (1, FEW)),
    }
)
"""Each varies one thing around the published settings, on the list judged on."""


LISTS: Final = tuple(replace(PUBLISHED, schedule=name) for name in (*COMPARED, "free-10"))
"""The published settings on every list that is compared."""


def all_pairs() -> Iterator[tuple[Recipe, int]]:
    """Yield every pair to train, once: the recipe and the number of its training sample."""
    yield from _on_each_sample(
        (*LENGTHS, *GENTLE, *(one for group in QUESTIONS.values() for one in group))
    )


def pairs_of_lists() -> Iterator[tuple[Recipe, int]]:
    """Yield the pairs that the comparison of lists needs."""
    yield from _on_each_sample(LISTS)


def _on_each_sample(recipes: Iterable[Recipe]) -> Iterator[tuple[Recipe, int]]:
    for recipe in dict.fromkeys(recipes):
        for number in range(SAMPLES):
            yield recipe, number
