"""The schedule `own` is what each family's diffusers pipeline steps, given a number of steps."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tiny_models import build_tiny

from glance.models.base import BaseModel
from glance.models.families import FAMILIES, find_family
from glance.schedule.options import ScheduleOptions

SIZE = (96, 64)


@pytest.fixture(scope="module", params=FAMILIES)
def generated(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path, Any]:
    """A family's name, a tiny model of it, and diffusers' pipeline of that."""
    import diffusers

    model = build_tiny(request.param, tmp_path_factory.mktemp(request.param) / "model", seed=1)
    pipeline = getattr(diffusers, find_family(request.param).pipeline).from_pretrained(model)
    if find_family(request.param).has_fixed_area:
        pipeline.default_sample_size = 8  # latent pixels; it is a megapixel otherwise
    return request.param, model, pipeline


@pytest.mark.parametrize("phases", [(1, 1), (2, 2), (5, 5)], ids=lambda phases: str(sum(phases)))
def test_it_is_what_the_pipeline_steps(
    generated: tuple[str, Path, Any], phases: tuple[int, int]
) -> None:
    name, model, pipeline = generated
    slow, fast = phases

    stepped = step(pipeline, slow + fast, edits=find_family(name).edits)

    base = BaseModel(find_family(name), str(model))
    options = ScheduleOptions(name="own", slow_steps=slow, fast_steps=fast)
    own = base.resolve_schedule(options, SIZE).schedule
    assert len(own.slow_timesteps) == slow
    assert (*own.slow_timesteps, *own.fast_timesteps) == pytest.approx(stepped, abs=1e-4)


def step(pipeline: Any, steps: int, *, edits: bool) -> list[float]:
    """Return the timesteps (0-1000) that a call with nothing but a number of steps goes along."""
    from glance.sampling.pipeline.sample import Reference, shown_at_its_area

    width, height = SIZE
    reference = Reference(Image.new("RGB", SIZE), area=width * height) if edits else None
    pipeline.set_progress_bar_config(disable=True)
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
