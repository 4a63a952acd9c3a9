"""`glance demo`: train, sample and compare on the small model of the package."""

from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from glance.cli._command import EventsOption, OpenOption, takes
from glance.cli.console import Console


@takes()
def demo(
    console: Console,
    *,
    output: Annotated[
        Path | None, typer.Option(help="Run folder of the demo. Default: runs/demo.")
    ] = None,
    steps: Annotated[
        int, typer.Option(min=1, max=1_000_000, help="Steps a phase, of both pairs.")
    ] = 60,
    events: EventsOption = None,
    opens: OpenOption = False,
) -> None:
    """Train, sample and compare on a bundled toy model (offline, CPU).

    Trains two pairs of LoRAs for the package's small FLUX with real SimpleTuner: one on an image,
    as the guide says, and one that the base model teaches itself. A sheet shows what each is worth,
    from the same noise: the base with 50 steps and with 4, the distilled pair with 4, the guide's
    with 10. The model generates small landscapes; a checker says what each image shows.

    Example: glance demo
    """
    from glance.batch.demo import run_demo

    with console.progress(events) as on_event:
        result = run_demo(output, steps=steps, on_event=on_event)
    run = quote(str(result.run.path))
    console.note(f'next:    glance infer --run {run} --prompt "a landscape at dawn"')
    console.note("the sheet to look at; its prompts were chosen because four steps fail there:")
    console.result(str(result.sheet))
    console.show([result.sheet], opens=opens)
    console.note("and on eight that were not chosen, which name all that an image shows:")
    console.result(result.report.verdict.sentence)
    console.document(result.to_json())
