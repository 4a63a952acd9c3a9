"""Every family: two-phase sampling against a plain Euler loop that shares no code with glance."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import plain_loops
import pytest
import torch
from PIL import Image
from plain_loops import furthest
from tiny_models.adapters import make_loras

from glance.core.device import Device, Precision
from glance.core.phase import Phase
from glance.models.base import BaseModel
from glance.models.families import FAMILIES, Family, Negative, find_family
from glance.sampling.pipeline.adapters import ResidentLoras
from glance.sampling.pipeline.load import Fit, load_pipeline
from glance.sampling.pipeline.sample import (
    TwoPhase,
    VerbatimEulerScheduler,
    open_reference,
    shown_at_its_area,
)
from glance.sampling.settings import resolve_sample_settings
from glance.schedule.lists import PRESETS

PROMPT = "a lighthouse"


@dataclass(frozen=True)
class Ready:
    """A tiny model of one family with two LoRAs, loaded by glance and by hand."""

    family: Family
    model: Path
    loras: dict[str, Path]
    reference: Path | None
    sampler: TwoPhase

    def settings(self, **changes: Any) -> Any:
        usual = {"prompt": PROMPT, "seed": 3, "width": 64, "height": 64, "resolution": 64}
        usual["reference"] = self.reference
        return resolve_sample_settings(self.family, **{**usual, **changes})

    def guided(self, slow: float, fast: float) -> Any:
        return self.settings(slow_guidance=slow, fast_guidance=fast)

    @cached_property
    def whole(self) -> Any:
        """The image of `settings()`, generated alone."""
        return self.sampler.sample_one(self.settings()).images[0]

    @cached_property
    def plain(self) -> Any:
        return plain_loops.load(self.model, self.loras)


@pytest.fixture(scope="module", params=FAMILIES)
def ready(
    request: pytest.FixtureRequest,
    tiny: Callable[[str], Path],
    reference: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Ready:
    family = find_family(request.param)
    model = tiny(family.name)
    loras = make_loras(model, tmp_path_factory.mktemp(family.name))
    sampler = TwoPhase(load(family, model, loras), family, PRESETS["guide"].schedule)
    return Ready(family, model, loras, reference if family.edits else None, sampler)


def load(family: Family, model: Path, loras: dict[str, Path], dtype: str = "fp32") -> Any:
    fit, files = Fit(device=Device.CPU, dtype=Precision(dtype)), {one: loras[one] for one in Phase}
    return load_pipeline(BaseModel(family, str(model)), files, fit).pipeline


@pytest.mark.parametrize("is_guided", [True, False])
def test_two_phases_equal_a_plain_euler_loop(ready: Ready, *, is_guided: bool) -> None:
    off = ready.family.guidance.off
    guidance = (3.0, 2.0) if is_guided else (off, off)
    own = ready.sampler.pipeline.scheduler

    picture = ready.sampler.sample_one(ready.guided(*guidance)).images[0].image

    before = None if ready.reference is None else Image.open(ready.reference)
    asked = {"seed": 3, "guidance": guidance, "reference": before}
    plain = plain_loops.generate(ready.family.name, ready.plain, PROMPT, **asked)
    # which kernels multiply depends on the processor: with a reference two pixels may round apart
    assert furthest(picture, plain) <= (1 if ready.family.edits else 0)
    assert ready.sampler.pipeline.scheduler is own


def test_a_batch_with_previews_holds_the_picture_that_is_generated_alone(ready: Ready) -> None:
    wanted = [ready.settings(seed=seed) for seed in (3, 4)]

    batches = list(ready.sampler.sample_each(wanted, batch_size=2, previews=True))

    assert len(batches) == (2 if ready.family.edits else 1)
    first, second = (one for done in batches for one in done.images)
    assert furthest(first.image, ready.whole.image) <= 1  # a batch may round differently
    assert furthest(first.image, second.image) > 1
    assert first.preview.size == first.image.size


def test_the_fast_phase_goes_on_from_latents_that_were_handed_over(ready: Ready) -> None:
    (done,) = ready.sampler.sample_each([ready.settings()], start=ready.whole.latents)

    assert furthest(done.images[0].image, ready.whole.image) == 0
    assert done.sigmas[Phase.SLOW] == ()


def test_a_negative_prompt_is_encoded_where_it_is_guided_away_from(ready: Ready) -> None:
    row, strong = ready.family, {"slow_guidance": 4.0}
    if row.guidance.true_cfg is not None:
        strong = {"true_cfg": 2.0}
    elif row.text.negative is Negative.NONE:
        pytest.skip("it has no negative prompt")
    encoded = [
        ready.sampler._encode([ready.settings(negative_prompt=text, **strong)])[0]
        for text in ("", "blur")
    ]

    changed = {name for name in encoded[0] if not equal(*(one[name] for one in encoded))}

    assert changed
    assert all(name.startswith("negative_") for name in changed)


def test_two_phases_in_bf16_equal_one_uninterrupted_run_in_bf16(ready: Ready) -> None:
    sampler = ready.sampler
    pipeline = load(ready.family, ready.model, ready.loras, dtype="bf16")
    in_bf16 = TwoPhase(pipeline, ready.family, sampler.schedule, SlowLoraAlways())
    settings = ready.guided(3.0, 3.0)

    (generated,) = in_bf16.sample_one(settings).images

    assert pipeline.transformer.dtype is torch.bfloat16
    assert furthest(generated.image, generate_uninterrupted(in_bf16, settings)) == 0


class SlowLoraAlways(ResidentLoras):
    """One LoRA in both phases, so that a single call of the pipeline can do the same."""

    def use(self, pipeline: Any, phase: Phase, *, scale: float) -> None:
        super().use(pipeline, Phase.SLOW, scale=scale)


@torch.inference_mode()
def generate_uninterrupted(sampler: Any, settings: Any) -> Image.Image:
    """One call of diffusers' pipeline along all ten sigmas."""
    pipeline, reference = sampler.pipeline, open_reference(settings)
    pipeline.scheduler = VerbatimEulerScheduler.ending_at(0.0, like=pipeline.scheduler)
    ((_, call),) = sampler.prepare([settings], batch_size=1)
    sigmas = [sigma for phase in Phase for sigma in sampler.schedule.phase(phase).sigmas]
    sampler.loras.use(pipeline, Phase.SLOW, scale=1.0)
    with shown_at_its_area(pipeline, reference):
        return pipeline(
            **{**call, **sampler.guided(settings, Phase.SLOW)},
            **{"sigmas": sigmas, "num_inference_steps": len(sigmas)},
            generator=torch.Generator("cpu").manual_seed(settings.seed),
        ).images[0]


def equal(one: Any, other: Any) -> bool:
    """Whether two arguments of a pipeline are equal: tensors, or lists of them."""
    if isinstance(one, list):
        return all(map(equal, one, other))
    return one.shape == other.shape and torch.equal(one, other)
