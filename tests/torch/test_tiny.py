import json
from pathlib import Path

import torch
from tiny_models import build_tiny

from glance.families import find_family
from glance.model import check_folder


def weights(folder: Path) -> bytes:
    return (folder / "transformer" / "diffusion_pytorch_model.safetensors").read_bytes()


def test_the_same_seed_builds_the_same_model(tiny_flux: Path, tmp_path: Path) -> None:
    assert weights(build_tiny("flux", tmp_path / "again", seed=1)) == weights(tiny_flux)
    assert weights(build_tiny("flux", tmp_path / "other", seed=2)) != weights(tiny_flux)


def test_building_leaves_the_random_state_alone(tmp_path: Path) -> None:
    before = torch.get_rng_state()

    build_tiny("flux", tmp_path / "model")

    assert torch.equal(torch.get_rng_state(), before)


def test_it_is_a_whole_flux_and_small(tiny_flux: Path) -> None:
    check_folder(tiny_flux, find_family("flux"))

    assert sum(file.stat().st_size for file in tiny_flux.rglob("*")) < 2_000_000
    config = json.loads((tiny_flux / "transformer" / "config.json").read_text())
    assert (config["in_channels"], config["guidance_embeds"]) == (64, True)
