"""Tiny models, their pipelines and a run that looks trained, for several files of tests."""

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from PIL import Image


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Each family's tiny model, built once; what it borrows is in the tests' Hub."""
    from tiny_models import build_tiny, lend_parts

    @cache
    def build(family: str) -> Path:
        model = build_tiny(family, tmp_path_factory.mktemp(family) / "model", seed=1)
        lend_parts(family, model)
        return model

    return build


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What families that edit are shown."""
    path = tmp_path_factory.mktemp("reference") / "before.png"
    Image.radial_gradient("L").resize((128, 64)).convert("RGB").save(path)
    return path


@pytest.fixture
def run_folder(tiny_flux: Path, loras: dict[str, Path], tmp_path: Path) -> Path:
    """A finished run, as `glance train` leaves it, without having trained it."""
    from fakes.pairs import write_run

    from glance.core.phase import Phase

    run = write_run(tmp_path / "work/runs/made", model="model", rank=4)
    shutil.copytree(tiny_flux, run.model)
    for phase, path in loras.items():
        shutil.copy(path, run.lora(Phase(phase)))
    return run.path


@pytest.fixture(scope="module")
def sampler(tiny_flux: Path, loras: dict[str, Path]) -> Any:
    """The tiny model with both LoRAs, as `glance infer` loads it."""
    from glance.sampling.generate import load_planned
    from glance.sampling.plan import plan_generation
    from glance.sampling.request import InferRequest

    files = {f"{phase}_lora": str(path) for phase, path in loras.items()}
    request = InferRequest(prompts=("x",), model=str(tiny_flux), device="cpu", **files)
    return load_planned(plan_generation(request))


@pytest.fixture
def plan(run_folder: Path, monkeypatch: pytest.MonkeyPatch, sampler: Any) -> Callable[..., Any]:
    """Plan for the made run; the model that is loaded already serves all of them."""
    from glance.sampling import generate
    from glance.sampling.pipeline.glance_pipeline import GlancePipeline
    from glance.sampling.plan import plan_generation
    from glance.sampling.request import InferRequest

    def load(planned: Any, *_: Any, **__: Any) -> GlancePipeline:
        return GlancePipeline(sampler.pipeline, schedule=planned.schedule)

    monkeypatch.setattr(generate, "load_planned", load)
    return lambda **asked: plan_generation(
        InferRequest(**{"run": run_folder, "device": "cpu", "prompts": ("a hill",), **asked})
    )
