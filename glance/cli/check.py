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


@takes(TrainRequest, *_PAIR)
def check(
    console: Console,
    request: TrainRequest,
    *,
    image: Annotated[
        list[Path], typer.Argument(help="The image to train on; several, or a folder of them.")
    ],
) -> None:
    """Check whether images and their captions are fit to train on, and what is trained of them.

    Every problem is reported at once, each with its remedy.

    Example: glance check data/glance.png
    """
    from glance.training.plan import check_pairs, tell_views

    pairs = check_pairs(replace(request, image=tuple(image)))
    for warning in dict.fromkeys(one for pair in pairs for one in pair.warnings):
        console.warn(warning)
    for pair in pairs:
        sample = pair.sample
        for line in tell_views(sample, pair.views):
            console.note(line)
        console.result(f"fit to train on: {sample.image}, {sample.width}x{sample.height}")
    found = [_describe(pair) for pair in pairs]
    console.document(found[0] if len(found) == 1 else {"samples": found})


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
