"""`glance demo`: the whole line, offline, on the CPU."""

from pathlib import Path
from typing import Annotated

import typer

from glance.cli._options import EventsOption, JsonOption, QuietOption, VerboseOption
from glance.console import Console


def demo(
    output: Annotated[
        Path | None, typer.Option(help="Run folder of the demo. Default: runs/demo.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Training steps a phase.")] = 60,
    events: EventsOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Run the whole line, offline and on the CPU.

    Trains both LoRAs of the package's small FLUX with real SimpleTuner, then shows on one sheet
    what they are worth: the base model with 50 steps and with 10, each LoRA alone, and both, from
    the same noise. The model paints small landscapes; a checker says what each picture shows.

    Example: glance demo
    """
    console = Console(as_json=as_json, quiet=quiet, verbose=verbose)
    from glance.demo import VAGUE_PROMPT, run_demo

    with console.progress(events) as on_event:
        result = run_demo(output, steps=steps, on_event=on_event)
    console.note(f'next:    glance infer --run {result.run.path} --prompt "{VAGUE_PROMPT}"')
    console.note("the sheet to look at:")
    console.result(str(result.report.sheet))
    console.result(result.report.verdict.sentence)
    console.document(result.to_json())
