"""The base model teaches itself, for every family, by real SimpleTuner: `pytest -m families`.

The first one runs with every `pytest`.
"""

from pathlib import Path

import pytest
from real_distilling import (
    Distilled,
    check_batches,
    check_guidance,
    check_layers,
    check_loss,
    check_sampling,
    check_transformers_input,
    check_untrained_prediction,
    distil,
)

from glance.models.families import FAMILIES

pytestmark = pytest.mark.families
FIRST = ("flux",)
ALL = [
    name if name in FIRST else pytest.param(name, marks=pytest.mark.extended) for name in FAMILIES
]


@pytest.fixture(scope="module", params=ALL)
def distilled(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Distilled:
    """A run of `glance distill` on a family's tiny model."""
    return distil(request.param, tmp_path_factory.mktemp(f"{request.param}-distil"))


def test_each_step_learns_recorded_paths_at_the_phases_sigmas(distilled: Distilled) -> None:
    check_batches(distilled)


def test_the_recorded_state_reached_the_transformer(distilled: Distilled) -> None:
    check_transformers_input(distilled)


def test_the_transformer_was_told_the_recorded_guidance(distilled: Distilled) -> None:
    check_guidance(distilled)


def test_the_losss_target_is_the_velocity_to_the_next_state(distilled: Distilled) -> None:
    check_loss(distilled)


def test_the_untrained_model_predicts_what_it_is_sampled_with(distilled: Distilled) -> None:
    check_untrained_prediction(distilled)


def test_every_linear_layer_of_the_blocks_was_trained(distilled: Distilled) -> None:
    check_layers(distilled)


def test_the_pair_is_sampled_with_the_guidance_that_it_was_trained_for(
    distilled: Distilled,
) -> None:
    check_sampling(distilled)


@pytest.mark.extended
def test_each_size_is_learnt_from_its_own_recordings(tmp_path: Path) -> None:
    run = distil("flux", tmp_path, sizes=("64x64", "128x64"))

    check_transformers_input(run)
    check_loss(run)
    shapes = {tuple(batch.loss["target"].shape[1:]) for batch in run.batches}
    assert shapes == {(16, 8, 8), (16, 8, 16)}
    assert run.teacher["sizes"] == [[64, 64], [128, 64]]
