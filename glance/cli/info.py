"""`glance info`: what is this file, and what does it say of itself?"""

from pathlib import Path
from typing import Annotated

import typer

from glance.cli._options import JsonOption, QuietOption, VerboseOption
from glance.cli.console import Console


def info(
    path: Annotated[
        Path, typer.Argument(help="A LoRA of anybody's, a run folder, or a picture of glance's.")
    ],
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Show all that a LoRA, a run or a picture says of itself, and what is wrong with it.

    Of a LoRA: its keys, rank, scale, hashes and metadata; of a run: its settings, how far it is
    and what to do next; of a picture: how it was made, and the command that makes it again.

    Example: glance info runs/glance
    """
    console = Console(as_json=as_json, quiet=quiet, verbose=verbose)
    from glance.interop.info.describe import describe

    found = describe(path)
    console.document(found.document)
    for line in found.lines:
        console.result(line)
