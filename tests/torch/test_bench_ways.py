"""The ways to sample that the benchmark compares, on a tiny model: they do what they are named."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.inference.ways import Studio, by_diffusers, by_glance, by_guide, by_hand, fused
from benchmarks.models import make_model
from glance.core.device import Device, is_present

SIDE = 64


@pytest.fixture(scope="module", params=[Device.CPU, Device.CUDA])
def studio(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Studio:
    if not is_present(request.param):
        pytest.skip(f"there is no {request.param} here")
    folder = tmp_path_factory.mktemp("studio")
    make_model(folder, size="tiny", device=request.param)
    return Studio(folder, request.param.value, SIDE)


def pixels(path: Path) -> "np.ndarray[tuple[int, ...], np.dtype[np.int64]]":
    return np.asarray(Image.open(path)).astype(int)


def test_by_hand_is_what_glance_generates(studio: Studio) -> None:
    by_hand(studio)
    by_glance(studio)

    hand, glance = (pixels(studio.folder / f"{way}.png") for way in ("hand", "glance"))
    assert hand.std() > 1
    assert np.abs(hand - glance).max() <= (0 if studio.device == "cpu" else 2)


def test_fused_loras_are_the_same_to_rounding(studio: Studio) -> None:
    by_hand(studio)

    assert fused(studio)["fusing"] > 0
    hand, other = (np.load(studio.folder / f"{way}.npy") for way in ("hand", "fused"))
    assert np.abs(hand - other).max() < (1e-5 if studio.device == "cpu" else 0.1)


def test_the_guide_and_plain_diffusers_generate(studio: Studio) -> None:
    by_guide(studio)
    by_diffusers(studio, "slow", "fast", steps=2)

    for way in ("guide", "base"):
        assert pixels(studio.folder / f"{way}.png").shape == (SIDE, SIDE, 3)
