"""`glance check`: is this pair fit to train on?"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from glance.cli._options import (
    CaptionOption,
    FamilyOption,
    JsonOption,
    QuietOption,
    ReferenceOption,
    VerboseOption,
)
from glance.console import Console
from glance.families import find_family

if TYPE_CHECKING:
    from glance.sample import Sample


def check(
    image: Annotated[Path, typer.Argument(help="The picture to train on.")],
    caption: CaptionOption = None,
    reference: ReferenceOption = None,
    family: FamilyOption = "flux",
    resolution: Annotated[
        int | None,
        typer.Option(min=64, help="Training resolution. Default: as in train."),
    ] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Say whether a picture and its caption are fit to train on.

    Every problem is reported at once, each with its remedy.

    Example: glance check data/glance.png
    """
    console = Console(as_json=as_json, quiet=quiet, verbose=verbose)
    from glance.sample import fitting_area, load_sample

    row = find_family(family)
    found = load_sample(
        image,
        caption=caption,
        resolution=resolution or fitting_area(image, row.resolution),
        text_tokens=row.text.tokens,
        reference=reference,
        edits=row.edits,
    )
    for warning in found.warnings:
        console.warn(warning)
    assert found.sample is not None  # load_sample raises otherwise
    console.result(f"fit to train on: {image}, {found.sample.width}x{found.sample.height}")
    console.document(_describe(found.sample, [warning.message for warning in found.warnings]))


def _describe(sample: "Sample", warnings: list[str]) -> dict[str, Any]:
    return {
        "image": str(sample.image),
        "caption": sample.caption,
        "reference": None if sample.reference is None else str(sample.reference),
        "width": sample.width,
        "height": sample.height,
        "sha256": sample.sha256,
        "warnings": warnings,
    }
