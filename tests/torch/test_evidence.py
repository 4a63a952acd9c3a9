"""What the benchmark samples in batches is what glance samples one by one."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.evidence.sampling import (
    Guidance,
    encode,
    sample_pair,
    sample_plain,
    sample_uncorrected,
)
from benchmarks.evidence.schedules import shifted_sigmas
from glance.sampling.plan import GenerationPlan, plan_generation
from glance.sampling.request import InferRequest

PROMPTS = ["a hill", "a sea", "a tree at night"]
SEEDS = [5, 6, 7]


@pytest.fixture
def plan(run_folder: Path) -> GenerationPlan:
    return plan_generation(
        InferRequest(prompts=("a sea",), run=run_folder, device="cpu", seeds=(6,))
    )


@pytest.fixture
def pipeline(plan: GenerationPlan) -> Any:
    from glance.sampling.generate import load_planned

    return load_planned(plan).pipeline


@pytest.mark.parametrize("adapted", [True, False])
def test_a_batch_holds_the_picture_that_infer_makes(
    plan: GenerationPlan, pipeline: Any, *, adapted: bool
) -> None:
    from glance.core.phase import Phase
    from glance.sampling.pipeline.sample import TwoPhase

    loras = tuple(Phase) if adapted else ()
    settings = plan.settings.model_copy(update={"loras": loras})
    sampler = TwoPhase(pipeline, plan.base.family, plan.schedule)
    alone = sampler.sample_one(settings).images[0].image
    prompts = encode(pipeline, PROMPTS, SEEDS, tokens=512)
    pictures = sample_pair(pipeline, prompts, plan.schedule, Guidance(3.5, 1.0), loras=loras)

    away = np.abs(pictures[1].astype(int) - np.asarray(alone))
    assert away.max() <= 1  # a batch may round differently
    assert (pictures[0] != pictures[1]).any()


def test_the_models_own_steps_are_the_shifted_ones(pipeline: Any) -> None:
    prompts = encode(pipeline, PROMPTS, SEEDS, tokens=64)

    theirs = sample_plain(pipeline, prompts, steps=4, guidance=3.5)
    ours = sample_plain(pipeline, prompts, steps=4, guidance=3.5, sigmas=shifted_sigmas(4))

    assert np.abs(theirs.astype(int) - ours).max() <= 1


def test_the_guides_way_is_another(plan: GenerationPlan, pipeline: Any) -> None:
    prompts = encode(pipeline, PROMPTS, SEEDS, tokens=64)
    guidance = Guidance(3.5, 1.0)

    right = sample_pair(pipeline, prompts, plan.schedule, guidance)
    theirs = sample_uncorrected(pipeline, prompts, plan.schedule, guidance)

    assert np.abs(right.astype(int) - theirs).mean() > 1
