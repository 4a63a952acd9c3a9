"""Plans of sampling from a made run, and what painting would leave of them."""

from pathlib import Path
from typing import Any

from PIL import Image

from glance.sampling.plan import plan_generation
from glance.sampling.provenance.picture import write_picture
from glance.sampling.request import GenerationPlan, InferRequest, PlannedPicture


def plan(**request: Any) -> GenerationPlan:
    """Plan one picture of a hill, but for what is asked."""
    return plan_generation(InferRequest(**{"prompts": ("A hill.",), **request}))


def paint(picture: PlannedPicture) -> Path:
    """Leave what painting would leave."""
    write_picture(Image.new("RGB", (8, 8)), picture.output, picture.record)
    return picture.output
