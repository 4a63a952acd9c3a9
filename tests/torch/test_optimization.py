"""The search for the few steps that end nearest to the base model's many."""

import json
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch

from glance.core.device import Device, Precision
from glance.core.phase import Phase
from glance.models.base import BaseModel
from glance.models.families import find_family
from glance.sampling.pipeline.glance_pipeline import GlancePipeline
from glance.sampling.pipeline.load import Fit, load_pipeline
from glance.sampling.pipeline.trajectory import Trajectory, VelocityField, distance, find_way, walk
from glance.sampling.settings import resolve_sample_settings

SLOW, FAST = (Phase.SLOW,), (Phase.FAST,)


def velocity(latents: torch.Tensor, sigma: float, phase: Phase) -> torch.Tensor:
    """The exact flow to pictures around -1 and 1; the slow phase is led towards them, as guided."""
    guidance, spread = (1.5 if phase is Phase.SLOW else 1.0), 0.4
    there = 1 - sigma
    variance = (there * spread) ** 2 + sigma**2
    side = torch.tanh(guidance * latents * there / variance)
    expected = side + there * spread**2 / variance * (latents - there * side)
    return (latents - expected) / sigma


@pytest.fixture
def teacher() -> Trajectory:
    """Twelve steps of sixteen prompts through it."""
    sigmas = tuple(1 - step / 12 for step in range(12))
    points = [torch.randn(16, 3, generator=torch.Generator().manual_seed(0))]
    for sigma, end in zip(sigmas, (*sigmas[1:], 0.0), strict=True):
        points.append(points[-1] + (end - sigma) * velocity(points[-1], sigma, Phase.SLOW))
    return Trajectory(sigmas, tuple(points))


def test_it_is_among_the_best_of_all_there_are(teacher: Trajectory) -> None:
    def error_of(places: tuple[int, ...]) -> float:
        sigmas = [teacher.sigmas[place] for place in places]
        return distance(walk(velocity, teacher, sigmas, 2), teacher.points[-1])

    way = find_way(velocity, teacher, (SLOW, SLOW, FAST, FAST))

    assert way.error == pytest.approx(error_of(way.places))
    assert way.phases == (Phase.SLOW, Phase.SLOW, Phase.FAST, Phase.FAST)
    errors = [error_of((0, *rest)) for rest in combinations(range(1, 12), 3)]
    worse = sum(error > way.error for error in errors)
    assert worse / len(errors) > 0.97


def test_the_split_is_found_where_it_is_free(teacher: Trajectory) -> None:
    free = find_way(velocity, teacher, (SLOW, tuple(Phase), tuple(Phase), FAST))

    fixed = [
        find_way(velocity, teacher, (SLOW,) * slow + (FAST,) * (4 - slow)) for slow in (1, 2, 3)
    ]
    assert free.error <= min(way.error for way in fixed) + 1e-6
    assert free.phases.index(Phase.FAST) == 3, "the teacher is guided as the slow phase"


def load(base: BaseModel) -> GlancePipeline:
    fit = Fit(device=Device.CPU, dtype=Precision.FP32)
    return GlancePipeline(load_pipeline(base, {}, fit).pipeline, family=base.family)


@pytest.mark.parametrize("family", ["flux", "sd3", "qwen_image", "flux2"])
def test_a_models_velocity_is_what_it_follows(family: str, tiny: Callable[[str], Path]) -> None:
    row = find_family(family)
    sampler = load(BaseModel(row, str(tiny(family))))
    pictures = [
        resolve_sample_settings(row, prompt=text, seed=seed, width=64, height=64, slow_guidance=3.0)
        for seed, text in enumerate(("a hill", "a long white wall by the sea"))
    ]
    passed: list[Phase] = []
    base = VelocityField(sampler, pictures, batch_size=2, on_forward=passed.append)

    teacher = base.follow([1.0, 0.7, 0.3])
    there = base.velocity(teacher.points[1], 0.7, Phase.SLOW)
    unguided = base.velocity(teacher.points[1], 0.7, Phase.FAST)

    stepped = teacher.points[1] + (0.3 - 0.7) * there
    assert torch.allclose(stepped, teacher.points[2], atol=1e-5)
    assert not torch.allclose(there, unguided, atol=1e-4), "each phase has its guidance"
    assert passed.count(Phase.SLOW) == 4 * passed.count(Phase.FAST), "prompts of unlike length"


def test_its_noise_is_that_of_sampling(tiny_flux: Path) -> None:
    row = find_family("flux")
    sampler = load(BaseModel(row, str(tiny_flux)))
    one = resolve_sample_settings(row, prompt="a hill", seed=3, width=64, height=64, loras=())
    base = VelocityField(sampler, [one], batch_size=1, on_forward=lambda _: None)

    slow = sampler.schedule.phase(Phase.SLOW)
    teacher = base.follow([*slow.sigmas, slow.end_sigma])

    (generated,) = sampler.sample_one(one).images
    assert torch.equal(teacher.points[len(slow.sigmas)], generated.latents)


OPTIMIZE = (
    *("schedule", "optimize", "--model", "model", "--size", "64x64", "--device", "cpu"),
    *("--prompt", "a hill", "--prompt", "a sea", "--teacher-steps", "10", "--steps", "4"),
)


def test_train_and_infer_take_what_it_finds(invoke: Callable, tiny_flux: Path, pair: Path) -> None:
    Path("model").symlink_to(tiny_flux)

    found = invoke(*OPTIMIZE, "--seed", "7", "--json").document

    errors = found["errors"]
    assert errors["optimal"] <= min(errors["auto"], errors["uniform"])
    same = ("--schedule", "optimal", "--model", "model", "--json")
    shown = invoke("schedule", *same, "--size", "64x64").document
    assert shown == {phase: found[phase] for phase in ("slow", "fast")}
    here = ("--device", "cpu", "--resolution", "64", "--dry-run")
    trained = invoke("train", "--image", pair, *same, *here).document
    assert trained["schedule"] == shown
    file = ("--schedule", found["file"], "--model", "model", "--json")
    assert invoke("train", "--image", pair, *file, *here).document["schedule"] == shown
    size = ("--width", "64", "--height", "64", "--no-lora", "--device", "cpu", "--dry-run")
    assert invoke("infer", "--prompt", "x", *same, *size).document["schedule"] == shown
    kept: dict[str, Any] = json.loads(Path("optimal-64x64-4.json").read_text())
    assert kept["origin"]["prompts"] == ["a hill", "a sea"]
    assert kept["origin"]["seeds"] == [7, 8]
    assert str(Path.cwd()) not in json.dumps(kept)


def test_a_place_that_cannot_be_written_does_not_lose_what_was_found(
    invoke: Callable, tiny_flux: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("model").symlink_to(tiny_flux)
    Path("state").write_text("no folder")
    monkeypatch.setenv("XDG_STATE_HOME", str(Path.cwd() / "state"))

    done = invoke(*OPTIMIZE, "--slow-steps", "1", "--output", "x.json")

    assert done.code == 3
    assert "the schedule is kept in x.json" in done.err
    kept = json.loads(Path("x.json").read_text())
    assert (len(kept["slow"]["timesteps"]), len(kept["fast"]["timesteps"])) == (1, 3)
