"""Paint what the cache does not hold, measure it, and put the rows together."""

from collections.abc import Mapping

from glance.compare.cache import Cache, Kept
from glance.compare.measure import Meter
from glance.compare.paint import paint
from glance.compare.request import ComparisonPlan, PlannedRow
from glance.compare.result import Cell, Comparison, Row
from glance.compare.shelf import Shelf
from glance.events import EventSink, Noted


def run_comparison(plan: ComparisonPlan, on_event: EventSink) -> Comparison:
    """Paint every variant of every row from the same noise; what was painted before is kept.

    Nothing is loaded where nothing is to be painted or measured. Raises SetupError for metrics
    whose networks cannot be had, before anything is painted, and what loading and sampling raise.
    """
    for note in plan.generation.notes:
        on_event(Noted(note))
    shelf = Shelf(Cache.of_user() if plan.is_cacheable else None, on_event)
    meter = Meter(plan.metrics, shelf)
    meter.prepare(plan)
    found = {row.keys[variant]: shelf.find(row.keys[variant]) for row, variant in plan.cells()}
    known = {key: kept for key, kept in found.items() if kept is not None}
    wanted = {row.keys[v]: (row, v) for row, v in plan.cells() if row.keys[v] not in known}
    painted: dict[str, Kept] = {}
    for key, kept in paint(plan, wanted, on_event):
        shelf.keep(key, kept)
        painted[key] = kept
    rows = tuple(_row(plan, row, meter, known=known, painted=painted) for row in plan.rows)
    if painted:
        shelf.trim()
    return Comparison(rows)


def _row(
    plan: ComparisonPlan,
    row: PlannedRow,
    meter: Meter,
    *,
    known: Mapping[str, Kept],
    painted: Mapping[str, Kept],
) -> Row:
    pictures = {**known, **painted}
    cells = {}
    for variant in plan.variants:
        kept = pictures[row.keys[variant]]
        cells[variant] = Cell(
            variant=variant,
            image=kept.image,
            steps=plan.steps(variant),
            seconds=kept.seconds,
            was_cached=row.keys[variant] in known,
            figures=meter.measure(row, variant, pictures),
        )
    return Row(row.settings.prompt, row.settings.seed, cells)
