"""Two-phase sampling against a plain Euler loop that shares no code with glance."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxPipeline
from plain_loops import FAST, SLOW, flux, sample

from glance.core.device import Device, Precision
from glance.core.phase import Phase
from glance.models.base import BaseModel
from glance.models.families import find_family
from glance.sampling.pipeline.load import Fit, load_pipeline
from glance.sampling.pipeline.sample import TwoPhase
from glance.sampling.settings import resolve_sample_settings
from glance.schedule.lists import PRESETS

PROMPT = "a lighthouse"
SIDE = 64


def load_plainly(model: Path, loras: dict[str, Path]) -> FluxPipeline:
    pipeline = FluxPipeline.from_pretrained(model)
    for name, path in loras.items():
        pipeline.load_lora_weights(path.parent, weight_name=path.name, adapter_name=name)
    return pipeline


class Counted:
    """Counts the calls of a method and keeps what the last one was given."""

    def __init__(self, owner: Any, name: str) -> None:
        self.calls = 0
        self.given: Any = None
        original = getattr(owner, name)

        def counting(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            self.given = args[0] if args else None
            return original(*args, **kwargs)

        setattr(owner, name, counting)


def test_two_phases_equal_a_plain_euler_loop_to_the_bit_each_part_done_once(
    tiny_flux: Path, loras: dict[str, Path]
) -> None:
    family, fit = find_family("flux"), Fit(device=Device.CPU, dtype=Precision.FP32)
    files = {one: loras[one] for one in Phase}
    pipeline, *_ = load_pipeline(BaseModel(family, str(tiny_flux)), files, fit)
    own = pipeline.scheduler
    forward = Counted(pipeline.transformer, "forward")
    encode = Counted(pipeline.text_encoder_2, "forward")
    decode = Counted(pipeline.vae, "decode")
    settings = resolve_sample_settings(family, prompt=PROMPT, seed=3, width=SIDE, height=SIDE)

    result = TwoPhase(pipeline, family, PRESETS["guide"].schedule).sample_one(settings)

    plain = load_plainly(tiny_flux, loras)
    latents = sample("flux", plain, PROMPT, seed=3, guidance=(3.5, 1.0))
    assert torch.equal(result.images[0].final, latents)
    assert torch.equal(decode.given, flux.end(plain, latents))
    assert (encode.calls, forward.calls, decode.calls) == (1, 10, 1)
    assert pipeline.scheduler is own
    for phase, timesteps in zip(Phase, (SLOW, FAST), strict=True):
        asked = [step / 1000 for step in timesteps]
        assert result.sigmas[phase] == pytest.approx(asked, abs=1e-7)


def test_the_guides_snippet_does_not_run_the_trained_schedule(
    tiny_flux: Path, loras: dict[str, Path]
) -> None:
    pipeline = load_plainly(tiny_flux, loras)
    plain = sample("flux", pipeline, PROMPT, seed=3, guidance=(3.5, 1.0))
    slow, fast = ([step / 1000 for step in timesteps] for timesteps in (SLOW, FAST))
    common = {
        **{"prompt": PROMPT, "width": SIDE, "height": SIDE, "num_inference_steps": 5},
        **{"generator": torch.Generator("cpu").manual_seed(3), "output_type": "latent"},
    }

    first = load_plainly(tiny_flux, {"slow": loras["slow"]})
    latents = first(**common, sigmas=slow).images
    second = load_plainly(tiny_flux, {"fast": loras["fast"]})
    guides = second(**common, sigmas=fast, latents=latents, guidance_scale=1.0).images

    # (a) 0 is appended: the slow phase denoises to the end; (b) the list is shifted once more
    assert first.scheduler.sigmas[-1] == 0
    assert second.scheduler.sigmas[0] == pytest.approx(0.9253, abs=5e-4)
    assert (guides - plain).abs().mean() > 0.1 * plain.abs().mean()
