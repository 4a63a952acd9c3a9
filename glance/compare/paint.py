"""Paint the pictures that are missing, all with one load of the model."""

import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from glance.compare.cache import Kept
from glance.compare.request import ComparisonPlan, PlannedRow, Variant
from glance.events import EventSink, Noted
from glance.generation.execute import fetch_planned, import_sampler, load_planned
from glance.pace import format_duration
from glance.settings import SampleSettings

if TYPE_CHECKING:
    from glance.diffusion.glance_pipeline import GlancePipeline
    from glance.diffusion.two_phase import Batch

Wanted = Mapping[str, tuple[PlannedRow, Variant]]
"""By the picture's key."""


def paint(plan: ComparisonPlan, wanted: Wanted, on_event: EventSink) -> Iterator[tuple[str, Kept]]:
    """Yield each picture with its key as soon as it is done: the short ones, then the teacher's.

    Nothing is loaded for none. Raises what loading and sampling raise.
    """
    if not wanted:
        return
    fetch_planned(plan.generation, on_event)
    on_event(Noted(f"loading {plan.generation.model}"))
    import_sampler(plan.generation.family)
    sampler = load_planned(plan.generation, on_event)
    _paint_teacher(sampler, plan.rows[0].settings, steps=2)  # first calls are slow
    tell = _Teller(plan, wanted, on_event)
    short = {key: one for key, one in wanted.items() if one[1] is not Variant.TEACHER}
    settings = [row.settings_of(variant) for row, variant in short.values()]
    for key, batch in zip(short, sampler.sample_each(settings, on_event), strict=True):
        yield key, _kept(batch)
        tell(key)
    for key, (row, _) in wanted.items():
        if key not in short:
            yield key, _paint_teacher(sampler, row.settings, steps=plan.teacher_steps)
            tell(key)


class _Teller:
    """Says which picture is done, and how long the rest takes at the pace of those before."""

    def __init__(self, plan: ComparisonPlan, wanted: Wanted, on_event: EventSink) -> None:
        self._plan, self._wanted, self._on_event = plan, wanted, on_event
        self._began = time.monotonic()
        self._done: list[int] = []  # steps

    def __call__(self, key: str) -> None:
        row, variant = self._wanted[key]
        self._done.append(self._plan.steps(variant))
        total = sum(self._plan.steps(one) for _, one in self._wanted.values())
        pace = (time.monotonic() - self._began) / sum(self._done)
        left = format_duration(pace * (total - sum(self._done)))
        self._on_event(
            Noted(
                f"picture {len(self._done)} of {len(self._wanted)}: "
                f"{variant.label(self._plan.steps(variant))}, seed {row.settings.seed}, {left} left"
            )
        )


def _paint_teacher(sampler: "GlancePipeline", settings: SampleSettings, *, steps: int) -> Kept:
    (batch,) = sampler.sample_base([settings], steps=steps)
    return _kept(batch)


def _kept(batch: "Batch") -> Kept:
    """Return the picture; its prompt is encoded once for several, so that is not counted."""
    seconds = sum(value for part, value in batch.seconds.items() if part != "encode")
    return Kept(batch.pictures[0].image, seconds)
