"""What each pair of a sweep paints, beside the base model: figures and one sheet for all."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from statistics import fmean

from glance.compare import (
    Cell,
    CompareRequest,
    Comparison,
    Variant,
    plan_comparison,
    run_comparison,
)
from glance.events import EventSink, Noted
from glance.settings import DEFAULT_SCHEDULE
from glance.sweep.request import SHEET, VARIANTS, SweepPlan
from glance.sweep.result import Likeness, PointResult, SweepResult
from glance.sweep.sheet import MOST_STRIPS, Strip, save_strips
from glance.training.prepare import writing

Compared = Mapping[str, Comparison]
"""By the point's name."""


def add_pictures(plan: SweepPlan, result: SweepResult, on_event: EventSink) -> SweepResult:
    """Paint with every finished pair from the same noise; return the result with its figures.

    Writes the sheet. Raises what comparing raises, and SetupError where it cannot be written.
    """
    trained = [point for point in result.points if point.failure is None]
    if not trained:
        return result
    compared = {}
    for number, one in enumerate(trained, 1):
        name = one.point.name
        on_event(Noted(f"painting with point {number} of {len(trained)}: {name}"))
        request = CompareRequest(
            run=one.point.run.path,
            prompts=plan.prompts,
            seeds=plan.picture_seeds,
            variants=VARIANTS,
            device=plan.device,
        )
        compared[name] = run_comparison(plan_comparison(request), on_event)
    strips = tuple(_strips(trained, compared))
    if len(strips) > MOST_STRIPS:
        on_event(Noted(f"the sheet shows the first {MOST_STRIPS} of {len(strips)} rows"))
    path = plan.folder / SHEET
    first = trained[0].point.training
    sample = first.run.data / f"{first.pair.name}.png"
    with writing(plan.folder):
        save_strips(strips, columns=_columns(compared), sample=sample, path=path)
    points = tuple(_with_figures(point, compared) for point in result.points)
    return replace(result, points=points, sheet=path)


def _with_figures(one: PointResult, compared: Compared) -> PointResult:
    comparison = compared.get(one.point.name)
    if comparison is None:
        return one
    return replace(
        one,
        pair=_likeness(comparison, Variant.BOTH),
        base=_likeness(comparison, Variant.BASE),
    )


def _likeness(comparison: Comparison, variant: Variant) -> Likeness:
    cells = _cells(comparison, variant)
    return Likeness(
        ssim=_mean([cell.ssim for cell in cells]), psnr=_mean([cell.psnr for cell in cells])
    )


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _strips(trained: list[PointResult], compared: Compared) -> Iterator[Strip]:
    """Yield the base model's two rows, then a row a point."""
    usual = [p for p in trained if p.point.training.schedule.name == DEFAULT_SCHEDULE]
    shown = (usual or trained)[0].point
    comparison = compared[shown.name]
    teacher, base = (_cells(comparison, v) for v in (Variant.TEACHER, Variant.BASE))
    yield Strip(teacher[0].label, teacher)
    yield Strip(f"{base[0].label}, schedule {shown.training.schedule.name}", base)
    for one in trained:
        yield Strip(one.point.name, _cells(compared[one.point.name], Variant.BOTH))


def _cells(comparison: Comparison, variant: Variant) -> tuple[Cell, ...]:
    return tuple(row.cells[variant] for row in comparison.rows)


def _columns(compared: Compared) -> tuple[str, ...]:
    """Return what stands above each column: the prompt, and the seed where there are several."""
    rows = next(iter(compared.values())).rows
    has_seeds = len({row.seed for row in rows}) > 1
    return tuple(f"{row.prompt} (seed {row.seed})" if has_seeds else row.prompt for row in rows)
