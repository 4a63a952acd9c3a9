"""The schedule `own` is what each family's diffusers pipeline steps, given a number of steps."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
from PIL import Image

from glance.models.base import BaseModel
from glance.models.families import FAMILIES, find_family
from glance.sampling.pipeline.sample import Reference, shown_at_its_area
from glance.schedule.options import ScheduleOptions

SIZE = (96, 64)


@pytest.fixture(scope="module", params=FAMILIES)
def generated(request: pytest.FixtureRequest, tiny: Callable[[str], Path]) -> tuple[BaseModel, Any]:
    """A family's tiny model, and diffusers' pipeline of it."""
    base = BaseModel(find_family(request.param), str(tiny(request.param)))
    pipeline = getattr(diffusers, base.family.pipeline).from_pretrained(base.location)
    if base.family.has_fixed_area:
        pipeline.default_sample_size = 8  # latent pixels; it is a megapixel otherwise
    pipeline.set_progress_bar_config(disable=True)
    return base, pipeline


@pytest.mark.parametrize("phases", [(1, 1), (2, 2), (5, 5)], ids=lambda phases: str(sum(phases)))
def test_the_pipeline_steps_it(generated: tuple[BaseModel, Any], phases: tuple[int, int]) -> None:
    base, pipeline = generated
    slow, fast = phases

    stepped = step(pipeline, slow + fast, edits=base.family.edits)

    options = ScheduleOptions(name="own", slow_steps=slow, fast_steps=fast)
    own = base.resolve_schedule(options, SIZE).schedule
    assert len(own.slow_timesteps) == slow
    assert (*own.slow_timesteps, *own.fast_timesteps) == pytest.approx(stepped, abs=1e-4)


def step(pipeline: Any, steps: int, *, edits: bool) -> list[float]:
    """Return the timesteps (0-1000) that a call with nothing but a number of steps goes along."""
    width, height = SIZE
    reference = Reference(Image.new("RGB", SIZE), area=width * height) if edits else None
    with shown_at_its_area(pipeline, reference):
        pipeline(
            prompt="a lighthouse",
            width=width,
            height=height,
            num_inference_steps=steps,
            output_type="latent",
            **({} if reference is None else {"image": reference.picture}),
        )
    sigmas = pipeline.scheduler.sigmas.tolist()
    assert (len(sigmas), sigmas[-1]) == (steps + 1, 0)
    return [sigma * 1000 for sigma in sigmas[:-1]]
