"""What the study of distilled pairs teaches is what `glance distill` has SimpleTuner learn."""

from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest
import torch
from fakes.foundation import make_foundation, prepare
from fakes.foundation import teach as teach_simpletuner
from safetensors.torch import save_file

from benchmarks.evidence.distilled.recipes import CENTRE, Layers
from benchmarks.evidence.distilled.teaching import (
    GUIDANCE,
    TEACHER_SIGMAS,
    Lesson,
    Model,
    Paths,
    schedule_of,
    teach,
)
from benchmarks.evidence.measuring import TEXT_TOKENS
from benchmarks.evidence.workshop import Workshop
from glance.models.families import find_family
from glance.runs.folder import RunFolder
from glance.sampling.pipeline.glance_pipeline import GlancePipeline
from glance.sampling.pipeline.trajectory import as_grid, record_paths
from glance.sampling.settings import resolve_sample_settings

PROMPT, SEED = "a hill by the sea", 3
SIGMAS = (*schedule_of("own-4").sigmas, 0.0)


@pytest.fixture
def shop(tiny_flux: Path, tmp_path: Path) -> Workshop:
    return Workshop(tmp_path, tiny_flux)


@pytest.fixture
def model(shop: Workshop) -> Model:
    return Model(shop.load())


@pytest.fixture
def paths(model: Model) -> Paths:
    text = model.encode([PROMPT])
    return Paths(model.follow(model.noise([SEED]), TEACHER_SIGMAS, text, GUIDANCE), text)


def test_states_and_targets_are_those_of_the_module_in_the_trainer(
    model: Model, paths: Paths, tmp_path: Path
) -> None:
    family = find_family("flux")
    arguments = MappingProxyType({"max_sequence_length": TEXT_TOKENS})
    brief = replace(family, text=replace(family.text, arguments=arguments))
    picture = resolve_sample_settings(family, prompt=PROMPT, seed=SEED, width=64, height=64)
    (recorded,) = record_paths(
        GlancePipeline(model.pipeline, family=brief),
        [picture],
        teacher=TEACHER_SIGMAS[:-1],
        kept=SIGMAS,
        batch_size=1,
    )
    save_file({"states": recorded.states}, tmp_path / "a.safetensors")
    foundation = make_foundation()
    teach_simpletuner(foundation, tmp_path, sigmas=SIGMAS)

    states = torch.stack([paths.at(sigma) for sigma in SIGMAS])
    lesson = Lesson.to(states[1:], states[:-1], SIGMAS)

    for place in range(4):
        latents = torch.randn(1, *recorded.states.shape[1:])
        batch = prepare(
            foundation, SIGMAS[place], batch={"filepaths": ["a.png"], "latents": latents}
        )
        for ours, theirs in (
            (lesson.states[place], batch["noisy_latents"]),
            (lesson.targets[place], batch["target"]),
        ):
            torch.testing.assert_close(as_grid(ours, family, 64, 64), theirs, rtol=0, atol=1e-4)


def test_a_step_of_the_target_lands_on_the_wanted_state(paths: Paths) -> None:
    states = torch.stack([paths.at(sigma) for sigma in SIGMAS])

    lesson = Lesson.to(states[1:], states[:-1], SIGMAS)

    landed = lesson.states - lesson.lengths.view(-1, 1, 1, 1) * lesson.targets
    torch.testing.assert_close(landed, states[1:], rtol=0, atol=1e-5)


def test_a_taught_pair_is_loaded_as_it_was_and_lands_nearer(
    shop: Workshop, model: Model, paths: Paths, tmp_path: Path
) -> None:
    recipe = replace(
        CENTRE, loose=1, steps=12, rank=4, alpha_per_rank=4, layers=Layers.ATTENTION, lands=True
    )
    noise, end = paths.points[0], paths.points[-1]
    base = model.follow(noise, SIGMAS, paths.text, GUIDANCE)[-1]
    run = RunFolder(tmp_path / "run")

    teach(model, recipe, paths)
    model.save(run)
    taught = model.sample(recipe, noise, paths.text)
    loaded = Model(shop.load(run)).sample(recipe, noise, paths.text)

    torch.testing.assert_close(loaded, taught, rtol=0, atol=1e-5)
    assert (taught - end).square().mean() < (base - end).square().mean()
