"""`glance distill`: the base model teaches two LoRAs to take its many steps in few."""

from shlex import quote

from glance.cli._command import DryRunOption, EventsOption, takes
from glance.cli.console import Console
from glance.training.request import DistillRequest


@takes(DistillRequest)
def distill(
    console: Console,
    request: DistillRequest,
    *,
    dry_run: DryRunOption = False,
    events: EventsOption = None,
) -> None:
    """Let the base model teach itself: two LoRAs that take its 50 steps in few.

    It needs no image. The base model's own path from noise to image is recorded for some prompts,
    its guidance included, and SimpleTuner trains both LoRAs to take it in a few steps. At the end
    the pair is compared with the base model on prompts that it was not trained on. The same
    command again continues where it stopped.

    Examples:

    glance distill --model black-forest-labs/FLUX.1-dev --device cuda --dry-run

    glance distill --size 1024x1024 --size 832x1216 --device cuda --dry-run
    """
    from glance.training.distillation import plan_distillation

    plan = plan_distillation(request)
    if dry_run:
        for warning in plan.training.warnings:
            console.warn(warning)
        from glance.training.rows import distillation_rows

        console.plan(distillation_rows(plan), plan.to_json())
        return
    from glance.training.recording import run_distillation

    with console.progress(events) as on_event:
        result = run_distillation(plan, on_event)
    console.result(str(plan.run.path))
    for line in result.training.summarise():
        console.note(line)
    if result.training.previews is not None:
        console.show([result.training.previews])
    if result.report is not None:
        console.note(f"sheet: {result.report.sheet}")
        console.show([result.report.sheet])
        console.result(result.report.verdict.sentence)
    console.document(result.to_json())
    if result.training.manifest.is_finished:
        console.note(f'next: glance infer --run {quote(str(plan.run.path))} --prompt "..."')
