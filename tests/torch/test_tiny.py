import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from tiny_models import build_tiny

from glance.models.base import check_folder
from glance.models.families import FAMILIES, find_family

PIPELINES: Mapping[str, str] = {
    name: row.pipeline for name, row in FAMILIES.items() if not row.edits
}
every_family = pytest.mark.parametrize("family", PIPELINES)


def weights(folder: Path) -> bytes:
    return (folder / "transformer" / "diffusion_pytorch_model.safetensors").read_bytes()


@every_family
def test_the_same_seed_builds_the_same_model(family: str, tmp_path: Path) -> None:
    before = torch.get_rng_state()
    first = weights(build_tiny(family, tmp_path / "first", seed=1))
    assert torch.equal(torch.get_rng_state(), before), "random numbers are left alone"
    assert weights(build_tiny(family, tmp_path / "again", seed=1)) == first
    assert weights(build_tiny(family, tmp_path / "other", seed=2)) != first


def test_it_is_a_whole_flux(tiny_flux: Path) -> None:
    check_folder(tiny_flux, find_family("flux"))

    config = json.loads((tiny_flux / "transformer" / "config.json").read_text())
    assert (config["in_channels"], config["guidance_embeds"]) == (64, True)


@every_family
def test_it_is_small_and_generates_with_its_own_pipeline(family: str, tmp_path: Path) -> None:
    folder = build_tiny(family, tmp_path / "model", seed=1)
    assert sum(file.stat().st_size for file in folder.rglob("*")) < 2_000_000

    pipeline = load(family, folder)
    # 3 is real guidance, a negative prompt included, wherever a family knows it
    guidance = "true_cfg_scale" if family == "qwen_image" else "guidance_scale"
    image = pipeline(
        prompt="a red circle",
        width=64,
        height=64,
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(1),
        **{guidance: 3.0},
    ).images[0]

    assert image.size == (64, 64)
    assert np.asarray(image).std() > 5, "noise, and neither black nor grey"


def load(family: str, folder: Path) -> Any:
    """Load with the class that a real checkpoint is loaded with, which takes every part."""
    pipeline = getattr(diffusers, PIPELINES[family]).from_pretrained(folder)
    if family == "hidream":
        # it scales any size to the area of this one, in latent pixels: to a megapixel
        pipeline.default_sample_size = 8
    return pipeline
