"""What steers a picture: strengths, negative prompts, lists, files of latents, and itself."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from plain_loops import FAST, SLOW, flux

from glance.core.errors import InputError
from glance.core.phase import Phase
from glance.sampling import generate as execute
from glance.sampling.generate import GenerationResult, load_planned, run_generation
from glance.sampling.pipeline.glance_pipeline import GlancePipeline
from glance.sampling.pipeline.sample import TwoPhase
from glance.sampling.plan import plan_generation
from glance.sampling.provenance import read_record
from glance.sampling.request import InferRequest
from glance.sampling.settings import resolve_sample_settings
from glance.schedule.options import ScheduleOptions

SIZE = {"width": 64, "height": 64}


@pytest.fixture(scope="module")
def sampler(tiny_flux: Path, loras: dict[str, Path]) -> GlancePipeline:
    files = {f"{phase}_lora": str(path) for phase, path in loras.items()}
    request = InferRequest(prompts=("x",), model=str(tiny_flux), device="cpu", **files)
    return load_planned(plan_generation(request))


@pytest.fixture
def infer(run_folder: Path, monkeypatch: pytest.MonkeyPatch, sampler: TwoPhase) -> Callable:
    """Infer from the made run; the model that is loaded already serves every schedule."""

    def load(plan: Any, *_: Any) -> GlancePipeline:
        return GlancePipeline(sampler.pipeline, schedule=plan.schedule)

    monkeypatch.setattr(execute, "load_planned", load)

    def run(**request: Any) -> GenerationResult:
        plan = plan_generation(InferRequest(**{"run": run_folder, "device": "cpu", **request}))
        return run_generation(plan, lambda _: None)

    return run


# --- guidance ------------------------------------------------------------------------------------


@torch.inference_mode()
def test_true_cfg_leads_away_from_the_negative_prompt_in_both_phases(
    sampler: GlancePipeline,
) -> None:
    settings = resolve_sample_settings(
        sampler.family, prompt="a hill", seed=3, negative_prompt="a sea", true_cfg=2.5, **SIZE
    )

    (generated,) = sampler.sample_one(settings).images

    x, with_ = flux.begin(sampler.pipeline, "a hill", torch.Generator("cpu").manual_seed(3))
    _, without = flux.begin(sampler.pipeline, "a sea", torch.Generator("cpu").manual_seed(3))
    sigmas = torch.tensor([timestep / 1000 for timestep in (*SLOW, FAST[0])])
    sampler.pipeline.set_adapters("slow")
    for now, then in pairwise(sigmas):
        away = without(x, now[None], 3.5)
        x = x + (then - now) * (away + 2.5 * (with_(x, now[None], 3.5) - away))
    assert torch.equal(generated.latents, x)


@pytest.mark.parametrize("name", ["slow_scale", "fast_scale"])
def test_each_strength_changes_the_picture_by_degrees(sampler: GlancePipeline, name: str) -> None:
    whole, half, none = (
        sampler("a hill", **SIZE, **{name: scale})[0].tobytes() for scale in (1.0, 0.5, 0.0)
    )

    assert len({whole, half, none}) == 3


def test_a_setting_that_there_is_not_is_a_bug_of_the_caller(sampler: GlancePipeline) -> None:
    with pytest.raises(TypeError, match="unknown setting 'guidance'; there are negative_prompt"):
        sampler("a hill", guidance=3.0)


# --- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".webp", ".jpg"])
def test_a_picture_is_generated_again_to_the_byte(infer: Callable, suffix: str) -> None:
    first = Path(f"first{suffix}")
    request = {"prompts": ("a hill",), "seeds": (3,), "slow_guidance": 2.0, "fast_scale": 0.5}
    infer(**request, schedule=ScheduleOptions(fast_timesteps="886.7053,400"), output=first)

    infer(run=None, from_image=first, output=Path(f"again{suffix}"))
    infer(run=None, from_image=first, seeds=(4,), output=Path(f"other{suffix}"))

    assert Path(f"again{suffix}").read_bytes() == first.read_bytes()
    assert Path(f"other{suffix}").read_bytes() != first.read_bytes()


def test_the_fast_phase_alone_goes_on_from_saved_latents(infer: Callable) -> None:
    whole = infer(prompts=("a hill",), seeds=(3,), save_latents=True).images[0]
    latents = whole.with_suffix(".latents.safetensors")

    result = infer(run=None, init_latents=latents, output=Path("rest.png"))

    assert Image.open("rest.png").tobytes() == Image.open(whole).tobytes()
    assert result.sigmas[Phase.SLOW] == ()
    assert read_record(Path("rest.png")).init_latents_sha256 is not None


def test_latents_of_nan_are_refused(infer: Callable) -> None:
    whole = infer(prompts=("a hill",), save_latents=True).images[0]
    latents = whole.with_suffix(".latents.safetensors")
    spoil(latents)

    with pytest.raises(InputError, match="holds NaN or infinity"):
        infer(run=None, init_latents=latents, output=Path("rest.png"))


def spoil(path: Path) -> None:
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    save_file({"latents": load_file(path)["latents"] * torch.nan}, path, metadata=metadata)


def test_previews_lie_beside_the_pictures(infer: Callable) -> None:
    result = infer(prompts=("a hill",), seeds=(1, 2), save_phases=True, output=Path("out"))

    assert sorted(path.name for path in Path("out").iterdir()) == [
        *("a-hill-1-slow.png", "a-hill-1.png", "a-hill-2-slow.png", "a-hill-2.png"),
    ]
    assert len(result.images) == 2


def test_without_metadata_a_picture_is_silent(infer: Callable) -> None:
    (path,) = infer(prompts=("a hill",), metadata=False, output=Path("x.png")).images

    assert Image.open(path).info == {}


def test_the_web_uis_text_is_in_the_picture(infer: Callable) -> None:
    (path,) = infer(prompts=("a hill",), seeds=(7,), output=Path("x.png")).images

    first, second = Image.open(path).info["parameters"].splitlines()
    assert first == "a hill"
    assert second.startswith("Steps: 10, Sampler: Euler, ")
    assert "Seed: 7, Size: 64x64" in second
