"""`glance info`: what is this file, and what does it say of itself?"""

from pathlib import Path
from typing import Annotated

import typer

from glance.cli._command import takes
from glance.cli.console import Console


@takes()
def info(
    console: Console,
    *,
    path: Annotated[
        Path, typer.Argument(help="A LoRA of anybody's, a run folder, or an image of glance's.")
    ],
) -> None:
    """Inspect a LoRA, run or image: settings, hashes, metadata, problems.

    Of a LoRA: its keys, rank, scale, hashes and metadata; of a run: its settings, how far it is,
    its losses and what to do next; of an image: how it was made, and the command that makes it
    again.

    Example: glance info runs/glance
    """
    from glance.cli._description import describe

    found = describe(path, terminal=console.terminal)
    console.document(found.document)
    for line in found.lines:
        console.result(line)
