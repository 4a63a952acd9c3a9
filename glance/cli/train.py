"""`glance train`: from one image and its caption to two LoRAs."""

from shlex import quote
from typing import TYPE_CHECKING

from glance.cli._command import DryRunOption, EventsOption, takes
from glance.cli.console import Console
from glance.core.events import EventSink, Noted
from glance.training.request import TrainRequest

if TYPE_CHECKING:
    from glance.evaluation.report import Report
    from glance.training.execute import TrainingResult


@takes(TrainRequest)
def train(
    console: Console,
    request: TrainRequest,
    *,
    dry_run: DryRunOption = False,
    events: EventsOption = None,
) -> None:
    """Train the slow and the fast LoRA with SimpleTuner.

    Everything lands in a run folder. The same command again, or --resume RUN alone, continues where
    it stopped and skips what is done; with more --steps a finished run goes on to them. Ctrl-C
    stops at the next checkpoint, a second one at once.

    Examples:

    glance train --image data/glance.png

    glance train --image data/glance.png --device cuda --dry-run
    """
    from glance.training.plan import plan_training

    plan = plan_training(request)
    if dry_run:
        for warning in plan.warnings:
            console.warn(warning)
        from glance.training.rows import training_rows

        console.plan(training_rows(plan), plan.to_json())
        return
    from glance.training.execute import run_training

    with console.progress(events) as on_event:
        result = run_training(plan, on_event)
        console.result(str(result.run.path))
        for line in result.summarise():
            console.note(line)
        report = _try_pair(result, on_event) if request.compares else None
    if result.previews is not None:
        console.show([result.previews])
    compared = {} if report is None else {"comparison": report.to_json()}
    console.document({**result.to_json(), **compared})
    if report is not None:
        console.note(f"sheet: {report.sheet}")
        console.show([report.sheet])
        console.result(report.verdict.sentence)
    if result.manifest.is_finished:
        edited = " --source-image x.png" if plan.reference else ""
        path = quote(str(result.run.path))
        console.note(f'next: glance infer --run {path} --prompt "..."{edited}')
        console.note("fewer steps, with a gain that can be measured: glance distill --help")


def _try_pair(result: "TrainingResult", on_event: EventSink) -> "Report | None":
    """Compare the pair with its base model; None while a phase is still to be trained."""
    if not result.manifest.is_finished:
        on_event(Noted("there is no pair to compare yet: one phase is still to be trained"))
        return None
    from glance.evaluation.compare import try_pair

    return try_pair(result.run, on_event)
