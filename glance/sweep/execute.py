"""Train the points of a sweep one after the other, then paint with each pair."""

from glance.errors import TrainingFailed
from glance.events import Event, EventSink, Noted, Warned
from glance.run import load_manifest
from glance.simpletuner.runner import Runner
from glance.sweep.request import PlannedPoint, SweepPlan
from glance.sweep.result import PointResult, SweepResult
from glance.training.execute import run_training
from glance.training.prepare import writing


def run_sweep(plan: SweepPlan, on_event: EventSink, *, runner: Runner | None = None) -> SweepResult:
    """Train what is not done of every point, and show all pairs on one sheet.

    A point that fails in training is kept in the result and does not stop the others. Whatever
    interrupts it, the same call continues. Raises what run_training raises but TrainingFailed,
    and what comparing raises; the LoRAs are done then, and sweep.json holds the rest.
    """
    once = _Once(on_event)
    result = SweepResult(plan.folder, (), plan.prompts, plan.picture_seeds)
    for number, point in enumerate(plan.points, 1):
        on_event(Noted(f"point {number} of {len(plan.points)}: {point.name}"))
        trained = _train(point, once, runner)
        if trained.failure is not None:
            hint = "the other points go on" if number < len(plan.points) else None
            on_event(Warned(str(trained.failure), hint))
        result = result.with_point(trained)
        with writing(plan.folder):
            result.save()
    if not plan.prompts:
        return result
    from glance.sweep.pictures import add_pictures

    result = add_pictures(plan, result, on_event)
    with writing(plan.folder):
        result.save()
    return result


def _train(point: PlannedPoint, on_event: EventSink, runner: Runner | None) -> PointResult:
    try:
        manifest = run_training(point.training, on_event, runner=runner).manifest
    except TrainingFailed as exc:
        failure = _named(exc, point)
        found = load_manifest(point.run) if point.run.manifest.is_file() else None
        return PointResult(point, found, failure)
    return PointResult(point, manifest)


def _named(failure: TrainingFailed, point: PlannedPoint) -> TrainingFailed:
    """Return the failure with the point's name before what is wrong."""
    first = failure.problems[0]
    return TrainingFailed(
        f"{point.name}: {first.message}",
        hint=first.hint,
        returncode=failure.returncode,
        log=failure.log,
        tail=failure.tail,
    )


class _Once:
    """Passes events on; a warning that many points share only the first time."""

    def __init__(self, sink: EventSink) -> None:
        self._sink = sink
        self._said: set[Event] = set()

    def __call__(self, event: Event) -> None:
        if isinstance(event, Warned):
            if event in self._said:
                return
            self._said.add(event)
        self._sink(event)
