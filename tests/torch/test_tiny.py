from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from tiny_models import build_tiny

from glance.models.families import FAMILIES


@pytest.mark.parametrize("family", [name for name, row in FAMILIES.items() if not row.edits])
def test_it_is_small_and_generates_with_its_own_pipeline(family: str, tmp_path: Path) -> None:
    folder = build_tiny(family, tmp_path / "model", seed=1)
    assert sum(file.stat().st_size for file in folder.rglob("*")) < 2_000_000

    pipeline = getattr(diffusers, FAMILIES[family].pipeline).from_pretrained(folder)
    if FAMILIES[family].has_fixed_area:
        pipeline.default_sample_size = 8  # latent pixels; it is a megapixel otherwise
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
