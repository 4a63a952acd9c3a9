"""`glance compare`: what a pair is worth, on one sheet."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from glance.cli._options import (
    DeviceChoice,
    DeviceOption,
    EventsOption,
    JsonOption,
    MemoryOption,
    QuietOption,
    VerboseOption,
)
from glance.cli._plans import comparison_rows, show_plan
from glance.cli.console import Console, format_table
from glance.core.device import Memory, Quantize


class MetricChoice(StrEnum):
    """--metric."""

    LPIPS = "lpips"


def compare(
    run: Annotated[
        Path | None,
        typer.Option(help="Run folder. Default: the newest finished one in runs/."),
    ] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option(help="Prompt; repeatable. Default: the caption.", show_default=False),
    ] = None,
    prompt_file: Annotated[
        Path | None,
        typer.Option(help="A prompt a line; or .jsonl, .json: objects with prompt, seed, ..."),
    ] = None,
    seed: Annotated[
        list[int] | None, typer.Option(help="Seed of the noise; repeatable. Default: 0.")
    ] = None,
    count: Annotated[
        int | None, typer.Option(min=1, help="Noises a prompt: the seed, the next one, ...")
    ] = None,
    teacher_steps: Annotated[
        int, typer.Option(help="Steps of the base model that all is compared with.")
    ] = 50,
    device: DeviceOption = DeviceChoice.AUTO,
    memory: MemoryOption = Memory.AUTO,
    quantize: Annotated[
        Quantize | None, typer.Option(help="The base model's weights, smaller.")
    ] = None,
    metric: Annotated[
        list[MetricChoice] | None,
        typer.Option(help="A further figure, whose network is fetched once; repeatable."),
    ] = None,
    no_worth: Annotated[
        bool,
        typer.Option(
            "--no-worth",
            help="Don't look for how many of the base's own steps the pair is worth: about 30 "
            "further forward passes an image, once for a model; from 8 images on.",
        ),
    ] = False,
    batch_size: Annotated[
        int,
        typer.Option(min=1, max=64, help="Images at once; fewer where memory is short."),
    ] = 1,
    output: Annotated[
        Path | None,
        typer.Option(help="Folder of the result. Default: images/compare of the run."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be sampled, load nothing.")
    ] = False,
    events: EventsOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
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
    console = Console(as_json=as_json, quiet=quiet, verbose=verbose)

    from glance.evaluation.compare import CompareRequest, compare_pair, foresee, plan_comparison
    from glance.evaluation.measure import Metric

    plan = plan_comparison(
        CompareRequest(
            run=run,
            prompts=tuple(prompt or ()),
            prompt_file=prompt_file,
            seeds=tuple(seed or (0,)),
            count=count,
            teacher_steps=teacher_steps,
            device=device.value,
            memory=memory,
            quantize=quantize,
            metrics=tuple(Metric(one.value) for one in metric or ()),
            output=output,
            finds_worth=not no_worth,
            batch_size=batch_size,
        )
    )
    if dry_run:
        for note in plan.generation.notes:
            console.note(note)
        facts = foresee(plan)
        show_plan(console, comparison_rows(plan, facts), facts)
        return
    with console.progress(events) as on_event:
        report = compare_pair(plan, on_event)
    console.result(str(report.sheet))
    console.result(format_table(*report.comparison.tabulate()))
    console.result(report.verdict.sentence)
    console.document(report.to_json())
