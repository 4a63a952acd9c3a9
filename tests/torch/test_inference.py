"""Two-phase sampling against a plain Euler loop that shares no code with glance."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxPipeline
from diffusers.pipelines.flux.pipeline_flux import FluxPipeline as _Flux
from plain_loops import sample

SLOW = [t / 1000.0 for t in (1000.0, 979.1915, 957.5157, 934.9171, 911.3354)]
FAST = [t / 1000.0 for t in (886.7053, 745.0728, 562.9505, 320.0802, 20.0)]
PROMPT = "a lighthouse"
SIDE = 64


def load_plainly(model: Path, loras: dict[str, Path]) -> FluxPipeline:
    pipeline = FluxPipeline.from_pretrained(model)
    for name, path in loras.items():
        pipeline.load_lora_weights(path.parent, weight_name=path.name, adapter_name=name)
    return pipeline


def decode_plainly(pipeline: FluxPipeline, latents: torch.Tensor) -> torch.Tensor:
    """Return what the VAE is given: the latents unpacked, unscaled and unshifted."""
    unpacked = _Flux._unpack_latents(latents, SIDE, SIDE, pipeline.vae_scale_factor)
    return unpacked / pipeline.vae.config.scaling_factor + pipeline.vae.config.shift_factor


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


@pytest.fixture
def sampled(tiny_flux: Path, loras: dict[str, Path]) -> dict[str, Any]:
    """One sampling by glance, with everything counted on the way."""
    from glance.core.device import Device, Precision
    from glance.core.phase import Phase
    from glance.models.base import BaseModel
    from glance.models.families import find_family
    from glance.sampling.pipeline.load import Fit, load_pipeline
    from glance.sampling.pipeline.sample import TwoPhase
    from glance.sampling.settings import resolve_sample_settings
    from glance.schedule.lists import PRESETS

    family = find_family("flux")
    fit = Fit(device=Device.CPU, dtype=Precision.FP32)
    pipeline, *_ = load_pipeline(
        BaseModel(family, str(tiny_flux)), {one: loras[one] for one in Phase}, fit
    )
    counts = {
        "forward": Counted(pipeline.transformer, "forward"),
        "encode": Counted(pipeline.text_encoder_2, "forward"),
        "decode": Counted(pipeline.vae, "decode"),
    }
    settings = resolve_sample_settings(family, prompt=PROMPT, seed=3, width=SIDE, height=SIDE)
    result = TwoPhase(pipeline, family, PRESETS["guide"].schedule).sample_one(settings)
    return {"result": result, "pipeline": pipeline, **counts}


def test_two_phases_equal_a_plain_euler_loop_to_the_bit(
    sampled: dict[str, Any], tiny_flux: Path, loras: dict[str, Path]
) -> None:
    plain = load_plainly(tiny_flux, loras)

    latents = sample("flux", plain, PROMPT, seed=3, guidance=(3.5, 1.0))

    assert torch.equal(sampled["decode"].given, decode_plainly(plain, latents))


def test_each_part_is_done_once_and_each_sigma_forwarded_once(sampled: dict[str, Any]) -> None:
    counted = {name: sampled[name].calls for name in ("encode", "forward", "decode")}

    assert counted == {"encode": 1, "forward": 10, "decode": 1}


def test_the_sigmas_reported_are_those_asked_for(sampled: dict[str, Any]) -> None:
    slow, fast = sampled["result"].sigmas.values()

    assert slow == pytest.approx(SLOW, abs=1e-7)
    assert fast == pytest.approx(FAST, abs=1e-7)


def test_the_pipelines_own_scheduler_is_put_back(sampled: dict[str, Any]) -> None:
    assert type(sampled["pipeline"].scheduler).__name__ == "FlowMatchEulerDiscreteScheduler"


def test_the_guides_snippet_does_not_run_the_trained_schedule(
    tiny_flux: Path, loras: dict[str, Path]
) -> None:
    pipeline = load_plainly(tiny_flux, loras)
    plain = sample("flux", pipeline, PROMPT, seed=3, guidance=(3.5, 1.0))
    generator = torch.Generator("cpu").manual_seed(3)
    common = {"prompt": PROMPT, "generator": generator, "width": SIDE, "height": SIDE}

    first = load_plainly(tiny_flux, {"slow": loras["slow"]})
    latents = first(**common, num_inference_steps=5, sigmas=SLOW, output_type="latent").images
    second = load_plainly(tiny_flux, {"fast": loras["fast"]})
    guides = second(
        **common,
        num_inference_steps=5,
        sigmas=FAST,
        latents=latents,
        guidance_scale=1.0,
        output_type="latent",
    ).images

    # (a) 0 is appended: the slow phase denoises to the end; (b) the list is shifted once more
    assert first.scheduler.sigmas[-1] == 0
    assert second.scheduler.sigmas[0] == pytest.approx(0.9253, abs=5e-4)
    assert (guides - plain).abs().mean() > 0.1 * plain.abs().mean()


@pytest.mark.parametrize("phase", ["slow", "fast"])
def test_both_adapters_change_the_picture(
    phase: str, sampled: dict[str, Any], tiny_flux: Path, loras: dict[str, Path]
) -> None:
    from glance.models.families import find_family
    from glance.sampling.pipeline.sample import TwoPhase
    from glance.sampling.settings import resolve_sample_settings
    from glance.schedule.lists import PRESETS

    family = find_family("flux")
    settings = resolve_sample_settings(family, prompt=PROMPT, seed=3, width=SIDE, height=SIDE)
    with_both = sampled["decode"].given
    pipeline = sampled["pipeline"]
    for name, weight in pipeline.transformer.named_parameters():
        if f"lora_B.{phase}" in name:
            weight.data.zero_()

    TwoPhase(pipeline, family, PRESETS["guide"].schedule).sample_one(settings)

    assert not torch.equal(sampled["decode"].given, with_both)


def test_a_lora_is_loaded_at_scale_one(sampled: dict[str, Any]) -> None:
    scales = {
        tuple(module.scaling.items())
        for module in sampled["pipeline"].transformer.modules()
        if hasattr(module, "scaling")
    }

    assert scales == {(("slow", 1.0), ("fast", 1.0))}
