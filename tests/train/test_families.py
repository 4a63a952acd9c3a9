"""The whole line for every family: `pytest -m families`, which writes docs/proofs.json.

With every `pytest` FLUX is trained, by a file of its own, and Qwen-Image taught
(test_distill_families.py). The half minute is spared here that the public command takes.
"""

from pathlib import Path

import pytest
from real_training import check_layers, check_noise_levels, check_sampling, check_strength, train
from tiny_models import build_tiny, lend_parts

from glance.models.families import FAMILIES, find_family

pytestmark = [pytest.mark.families, pytest.mark.extended]


@pytest.fixture(scope="module", params=FAMILIES)
def trained(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    """A family and a run of `glance train` on its tiny model."""
    folder = tmp_path_factory.mktemp(request.param)
    model = build_tiny(request.param, folder / "model", seed=1)
    lend_parts(request.param, model)
    return request.param, train(request.param, model, folder, "--launcher", "direct")


def test_exactly_the_phases_noise_levels_reached_the_transformer(trained: tuple[str, Path]) -> None:
    check_noise_levels(*trained)


def test_the_layers_of_the_familys_row_were_trained(trained: tuple[str, Path]) -> None:
    check_layers(*trained)


@pytest.mark.parametrize("phase", ["slow", "fast"])
def test_the_lora_has_the_last_checkpoints_effect(trained: tuple[str, Path], phase: str) -> None:
    check_strength(trained[1], phase)


def test_sampling_with_both_equals_a_plain_loop(trained: tuple[str, Path]) -> None:
    check_sampling(*trained, guidance=(3.0, find_family(trained[0]).guidance.off))
