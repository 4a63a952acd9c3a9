"""`glance check`: is this pair fit to train on?"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from glance.cli._command import takes
from glance.cli.console import Console
from glance.training.request import TrainRequest

if TYPE_CHECKING:
    from glance.training.plan import Pair

_PAIR = ("caption", "reference", "family", "model", "resolution", "crop")


@takes(TrainRequest, *_PAIR, image=Path())
def check(
    console: Console,
    request: TrainRequest,
    *,
    image: Annotated[Path, typer.Argument(help="The image to train on.")],
) -> None:
    """Check whether an image and its caption are fit to train on, and what is trained of it.

    Every problem is reported at once, each with its remedy.

    Example: glance check data/glance.png
    """
    from glance.training.plan import check_pair, tell_views

    pair = check_pair(replace(request, image=image))
    for warning in pair.warnings:
        console.warn(warning)
    for line in tell_views(pair.sample, pair.views):
        console.note(line)
    console.result(f"fit to train on: {image}, {pair.sample.width}x{pair.sample.height}")
    console.document(_describe(pair))


def _describe(pair: "Pair") -> dict[str, Any]:
    sample = pair.sample
    return {
        "image": str(sample.image),
        "caption": sample.caption,
        "reference": None if sample.reference is None else str(sample.reference),
        "width": sample.width,
        "height": sample.height,
        "pictures": [view.to_json() for view in pair.views],
        "sha256": sample.sha256,
        "warnings": [warning.message for warning in pair.warnings],
    }
