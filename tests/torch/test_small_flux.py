"""The shipped model: does it draw what a caption says? A floor under its quality."""

from collections import Counter
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline

from glance.evaluation.small_world.check import check_picture, read_picture
from glance.evaluation.small_world.world import describe, held_out_scenes

FOLDER = Path(str(files("glance") / "assets/small-flux"))
CAPTIONS = [describe(scene) for scene in held_out_scenes(10, seed=3)]


@pytest.fixture(scope="module")
def pipeline() -> Any:
    pipeline = FluxPipeline.from_pretrained(FOLDER)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def sample(pipeline: Any, captions: list[str]) -> np.ndarray:
    size, steps = {"width": 64, "height": 64}, {"num_inference_steps": 10}
    seed = torch.Generator().manual_seed(1)
    pictures = pipeline(captions, **size, **steps, generator=seed, output_type="np").images
    return (pictures * 255).round().astype(np.uint8)


def test_it_draws_what_captions_it_never_saw_say(pipeline: Any) -> None:
    pictures = sample(pipeline, CAPTIONS)

    verdicts = [check_picture(p, c) for p, c in zip(pictures, CAPTIONS, strict=True)]
    right = Counter(name for verdict in verdicts for name, met in verdict.items() if met)
    assert min(right.values()) >= 9, right  # of 10
    assert sum(all(verdict.values()) for verdict in verdicts) >= 8


def test_a_loose_caption_has_many_pictures(pipeline: Any) -> None:
    pictures = sample(pipeline, ["a landscape at night"] * 6)

    shown = [read_picture(picture) for picture in pictures]
    assert {facts["time"] for facts in shown} == {"night"}
    assert len({tuple(facts.items()) for facts in shown}) >= 3


def test_it_is_small_enough_to_ship() -> None:
    assert sum(path.stat().st_size for path in FOLDER.rglob("*")) <= 12_000_000
    assert "Apache-2.0" in (FOLDER / "README.md").read_text(encoding="utf-8")
