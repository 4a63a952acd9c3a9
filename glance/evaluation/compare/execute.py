"""Paint what the cache does not hold, measure it, and say what it says of the pair."""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import combinations
from statistics import fmean
from typing import TYPE_CHECKING, Any, Final

from glance.core.events import EventSink, Noted
from glance.evaluation.compare.cache import Cache
from glance.evaluation.compare.measure import LATENTS, Meter, root_mean_square
from glance.evaluation.compare.outputs import Report, write_report
from glance.evaluation.compare.paint import Painter
from glance.evaluation.compare.plan import plan_own
from glance.evaluation.compare.request import ComparisonPlan, Painting, PlannedRow, Variant
from glance.evaluation.compare.result import Cell, Comparison, Judge, Row
from glance.evaluation.compare.shelf import Shelf
from glance.evaluation.compare.summary import mean_of
from glance.evaluation.compare.verdict import judge, require_judged

if TYPE_CHECKING:
    from PIL.Image import Image

_COUNTS: Final = (*range(2, 13), 14, 16, 20, 25, 30, 40)
"""Numbers of steps that the base model is tried with: to find one of them takes four or five."""


def run_comparison(plan: ComparisonPlan, on_event: EventSink) -> Comparison:
    """Paint every variant of every row from the same noise; what was painted before is kept.

    Nothing is loaded where nothing is to be painted or measured. Raises SetupError for metrics
    whose networks cannot be had, before anything is painted, and what loading and sampling raise.
    """
    comparer = Comparer(plan, on_event)
    comparison = comparer.compare()
    comparer.close()
    return comparison


def foresee(plan: ComparisonPlan) -> dict[str, Any]:
    """Return what `glance compare --dry-run --json` prints: what is painted, what is there."""
    cache = Cache.of_user() if plan.is_cacheable else None
    wanted = {one.key: one for one in plan.paintings}
    missing = [one for key, one in wanted.items() if cache is None or not cache.holds(key)]
    return {
        "folder": str(plan.folder),
        "rows": [{"prompt": row.settings.prompt, "seed": row.settings.seed} for row in plan.rows],
        "variants": [one.label for one in plan.rows[0].paintings.values()],
        "pictures": len(wanted),
        "cached": len(wanted) - len(missing),
        "steps": sum(one.steps for one in missing),
        "finds_worth": plan.finds_worth,
    }


def compare_pair(
    plan: ComparisonPlan, on_event: EventSink, *, words: Judge | None = None
) -> Report:
    """Run the comparison, judge the pair by it, and write both into the plan's folder.

    The pair's worth in steps is looked for where the plan says so. `words` are said of each
    picture. Raises UsageError for a plan without a variant that a verdict needs, and what
    run_comparison and write_report raise.
    """
    require_judged(plan.variants)
    comparer = Comparer(plan, on_event)
    comparison = comparer.compare()
    verdict = judge(comparison, worth_steps=comparer.find_worth(comparison))
    comparer.close()
    shown = comparison if words is None else comparison.judged(words)
    report = write_report(plan, shown, verdict)
    if report.earlier is not None:
        on_event(Noted(f"the comparison that was there before is kept in {report.earlier}"))
    return report


class Comparer:
    """Paints and measures for one plan; the model is loaded once at most."""

    def __init__(self, plan: ComparisonPlan, on_event: EventSink) -> None:
        """Load nothing yet."""
        self._plan = plan
        self._on_event = on_event
        self._shelf = Shelf(Cache.of_user() if plan.is_cacheable else None, on_event)
        self._meter = Meter(plan.metrics, self._shelf)
        self._painter = Painter(plan.generation, on_event)

    def compare(self) -> Comparison:
        """Return every picture with its figures; see run_comparison."""
        for note in self._plan.generation.notes:
            self._on_event(Noted(note))
        self._meter.prepare(self._plan)
        images, seconds = self._fill_shelf(self._plan.paintings)
        rows = tuple(self._row(row, images, seconds) for row in self._plan.rows)
        return Comparison(rows, self._measure_variety())

    def find_worth(self, comparison: Comparison) -> int | None:
        """Return the fewest steps of the base model's own that end as near as the pair does.

        Near is the mean distance of the final latents to those of the teacher's steps, over all
        rows. Found by bisection over a list that is exact up to 12 steps: about 30 further forward
        passes a picture, through the same cache. None where the plan leaves it out.
        """
        pair = mean_of(comparison, Variant.BOTH, LATENTS)
        if not self._plan.finds_worth or pair is None:
            return None
        most = self._plan.teacher_steps
        counts = [count for count in _COUNTS if count < most]
        # the key must rise with the steps, and their distance falls
        place = bisect_left(counts, -pair.value, key=lambda count: -self._distance_of_base(count))
        return counts[place] if place < len(counts) else most

    def close(self) -> None:
        """Make room in the cache."""
        self._shelf.trim()

    def _distance_of_base(self, steps: int) -> float:
        """Return the mean distance of the base model's own `steps` to the teacher's."""
        pairs = [
            (plan_own(self._plan, row, steps), row.paintings[Variant.TEACHER].key)
            for row in self._plan.rows
        ]
        self._fill_shelf([one for one, key in pairs if not self._meter.knows(one.key, key)])
        return fmean(self._meter.distance(one.key, key) for one, key in pairs)

    def _fill_shelf(
        self, wanted: Sequence[Painting]
    ) -> tuple[Mapping[str, "Image"], Mapping[str, float]]:
        """Return all pictures, and the seconds of those that were painted now, by their keys."""
        by_key = {one.key: one for one in wanted}
        found = {key: self._shelf.find(key) for key in by_key}
        images = {key: image for key, image in found.items() if image is not None}
        seconds = {}
        for fresh in self._painter.paint([one for key, one in by_key.items() if key not in images]):
            key = fresh.painting.key
            self._shelf.keep(key, fresh.kept)
            images[key], seconds[key] = fresh.kept.image, fresh.seconds
        return images, seconds

    def _row(
        self, row: PlannedRow, images: Mapping[str, "Image"], seconds: Mapping[str, float]
    ) -> Row:
        cells = {
            variant: Cell(
                variant=variant,
                image=images[one.key],
                steps=one.steps,
                seconds=seconds.get(one.key),
                was_cached=one.key not in seconds,
                figures=self._meter.measure(row, variant, images),
            )
            for variant, one in row.paintings.items()
        }
        return Row(row.settings.prompt, row.settings.seed, cells)

    def _measure_variety(self) -> Mapping[Variant, float]:
        """Return Comparison.variety; one prompt's latents are in memory at a time."""
        prompts: dict[str, dict[int, PlannedRow]] = {}
        for row in self._plan.rows:
            alike = row.settings.model_dump_json(exclude={"seed"})
            prompts.setdefault(alike, {})[row.settings.seed] = row
        several = [list(seeds.values()) for seeds in prompts.values() if len(seeds) > 1]
        variants = {Variant.TEACHER, Variant.BOTH} if several else set[Variant]()
        return {
            variant: fmean(
                self._spread([row.paintings[variant].key for row in one]) for one in several
            )
            for variant in self._plan.variants
            if variant in variants
        }

    def _spread(self, keys: Sequence[str]) -> float:
        """Return the mean distance between two of the pictures."""
        latents = [self._shelf.read_latents(key) for key in keys]
        return fmean(root_mean_square(one, other) for one, other in combinations(latents, 2))
