"""Plans of sampling from a made run, and what sampling would leave of them."""

from pathlib import Path
from typing import Any

from PIL import Image

from glance.sampling.images import PlannedImage
from glance.sampling.plan import GenerationPlan, plan_generation
from glance.sampling.provenance import write_image
from glance.sampling.request import InferRequest


def plan(**request: Any) -> GenerationPlan:
    """Plan one image of a hill, but for what is asked."""
    return plan_generation(InferRequest(**{"prompts": ("A hill.",), **request}))


def pretend(image: PlannedImage) -> Path:
    """Leave what sampling would leave."""
    write_image(Image.new("RGB", (8, 8)), image.output, image.record)
    return image.output
