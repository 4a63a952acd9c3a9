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

    Trains both LoRAs of a tiny model with real SimpleTuner and samples a picture with them. The
    tiny model's weights are random, so its picture is noise: the demo shows that the line works,
    not how it looks.

    Example: glance demo
    """
    console = Console(as_json=as_json, quiet=quiet, verbose=verbose)
    from glance.demo import run_demo

    with console.progress(events) as on_event:
        result = run_demo(output, steps=steps, on_event=on_event)
    console.note(f"\nrun:     {result.run.path}\npicture:")
    console.result(str(result.generation.image))
    console.document(result.to_json())
