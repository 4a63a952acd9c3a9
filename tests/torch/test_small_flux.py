"""The shipped model: does it draw what a caption says? A floor under its quality."""

from collections import Counter
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glance.demo.check import check_picture
from glance.demo.draw import draw
from glance.demo.world import describe, held_out_scenes, read_caption

CAPTIONS = [describe(scene) for scene in held_out_scenes(20, seed=3)]


@pytest.fixture(scope="module")
def folder() -> Path:
    return Path(str(files("glance") / "assets/small-flux"))


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> Any:
    from glance.sampling.pipeline import hush

    hush()
    from diffusers import FluxPipeline

    pipeline = FluxPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def sample(pipeline: Any, captions: list[str], *, steps: int) -> np.ndarray:
    import torch

    pictures = pipeline(
        captions,
        width=64,
        height=64,
        num_inference_steps=steps,
        generator=torch.Generator().manual_seed(1),
        output_type="np",
    ).images
    return (pictures * 255).round().astype(np.uint8)


def test_it_draws_what_captions_it_never_saw_say(pipeline: Any) -> None:
    pictures = sample(pipeline, CAPTIONS, steps=10)

    verdicts = [check_picture(p, c) for p, c in zip(pictures, CAPTIONS, strict=True)]
    right = Counter(name for verdict in verdicts for name, met in verdict.items() if met)
    assert min(right.values()) >= 18, right  # of 20
    assert sum(all(verdict.values()) for verdict in verdicts) >= 17


def test_a_loose_caption_has_many_pictures(pipeline: Any) -> None:
    from glance.demo.check import read_picture

    pictures = sample(pipeline, ["a landscape at night"] * 8, steps=10)

    shown = [read_picture(picture) for picture in pictures]
    assert {facts["time"] for facts in shown} == {"night"}
    assert len({tuple(facts.items()) for facts in shown}) >= 3


def test_its_codec_keeps_what_the_checker_reads(pipeline: Any) -> None:
    import torch

    scenes = held_out_scenes(40, seed=4)
    drawn = torch.from_numpy(np.stack([draw(scene) for scene in scenes])).permute(0, 3, 1, 2)
    with torch.no_grad():
        latents = pipeline.vae.encode(drawn.float() / 127.5 - 1).latent_dist.mean
        rebuilt = pipeline.vae.decode(latents).sample
    pictures = ((rebuilt / 2 + 0.5).clamp(0, 1) * 255).byte().permute(0, 2, 3, 1).numpy()

    met = [
        all(check_picture(picture, describe(scene)).values())
        for picture, scene in zip(pictures, scenes, strict=True)
    ]
    assert sum(met) >= 39


def test_every_word_of_the_world_is_one_token(pipeline: Any) -> None:
    caption = CAPTIONS[0]

    assert len(pipeline.tokenizer(caption).input_ids) == len(caption.split()) + 2
    assert len(pipeline.tokenizer_2(caption).input_ids) == len(caption.split()) + 1
    assert len(read_caption(caption)) == 8


def test_it_is_small_enough_to_ship(folder: Path) -> None:
    assert sum(path.stat().st_size for path in folder.rglob("*")) <= 12_000_000
    assert "Apache-2.0" in (folder / "README.md").read_text(encoding="utf-8")
