"""`glance compare`: what a pair is worth, on one sheet."""

from glance.cli._command import DryRunOption, EventsOption, OpenOption, takes
from glance.cli.console import Console
from glance.core.tables import format_table
from glance.evaluation.request import CompareRequest


@takes(CompareRequest)
def compare(
    console: Console,
    request: CompareRequest,
    *,
    dry_run: DryRunOption = False,
    events: EventsOption = None,
    opens: OpenOption = False,
) -> None:
    """Sample the same noise with the pair and without: does it help?

    On one sheet: the base model with 50 steps and along the pair's own sigmas, each LoRA alone,
    and both. Beside it, compare.json says how near each is to the 50 steps. Last
    comes one sentence: from 8 images on (prompts times noises) it says whether the pair ends
    nearer to the 50 steps than the base model along the same sigmas. What was sampled before is
    cached: another look loads no model.

    Examples:

    glance compare

    glance compare --run runs/glance --prompt "a harbour" --prompt "a forest" --count 4
    """
    from glance.evaluation.compare import compare_pair, comparison_rows, foresee, plan_comparison

    plan = plan_comparison(request)
    if dry_run:
        for note in plan.generation.notes:
            console.note(note)
        facts = foresee(plan)
        console.plan(comparison_rows(plan, facts), facts)
        return
    with console.progress(events) as on_event:
        report = compare_pair(plan, on_event)
    console.result(str(report.sheet))
    console.show([report.sheet], opens=opens)
    console.result(format_table(*report.comparison.tabulate()))
    console.result(report.verdict.sentence)
    console.document(report.to_json())
