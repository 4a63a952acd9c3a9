"""What the study of pairs samples: as glance does, in the guide's way, and along own steps."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.evidence.sampling import (
    Guidance,
    images_of,
    open_sampler,
    sample,
    sample_own,
    sample_uncorrected,
)
from benchmarks.evidence.schedules import own
from glance.core.phase import Phase
from glance.sampling.generate import load_planned
from glance.sampling.plan import GenerationPlan, plan_generation
from glance.sampling.request import InferRequest

PROMPTS = ["a hill", "a sea", "a tree at night"]


@pytest.fixture
def plan(run_folder: Path) -> GenerationPlan:
    return plan_generation(
        InferRequest(prompts=("a sea",), run=run_folder, device="cpu", seeds=(6,))
    )


@pytest.fixture
def pipeline(plan: GenerationPlan) -> Any:
    return load_planned(plan).pipeline


@pytest.mark.parametrize("phases", [tuple(Phase), ()], ids=["adapted", "base"])
def test_a_batch_holds_what_infer_makes(plan: GenerationPlan, phases: tuple[Phase, ...]) -> None:
    settings = plan.settings.model_copy(update={"loras": phases})
    loaded = load_planned(plan)
    alone = loaded.sample_one(settings).images[0].image

    images = images_of(PROMPTS, Guidance(3.5, 1.0), first_seed=5, loras=phases)
    pictures = sample(open_sampler(loaded.pipeline, plan.schedule), images)

    away = np.abs(pictures[1].astype(int) - np.asarray(alone))
    assert away.max() <= 1  # a batch may round differently
    assert (pictures[0] != pictures[1]).any()


def test_the_models_own_steps_are_the_shifted_ones(pipeline: Any) -> None:
    images = images_of(PROMPTS, Guidance(3.5, 3.5), loras=())

    theirs = sample_own(open_sampler(pipeline, tokens=64), images, steps=4)
    ours = sample(open_sampler(pipeline, own(4), tokens=64), images)

    assert np.abs(theirs.astype(int) - ours).max() <= 1


def test_the_guides_way_is_another(plan: GenerationPlan, pipeline: Any) -> None:
    sampler = open_sampler(pipeline, plan.schedule, tokens=64)
    images = images_of(PROMPTS, Guidance(3.5, 1.0))

    right, theirs = sample(sampler, images), sample_uncorrected(sampler, images)

    assert np.abs(right.astype(int) - theirs).mean() > 1
