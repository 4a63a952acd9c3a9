"""What the study of distilled pairs teaches lands nearer, and is loaded as it was saved."""

from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.evidence.distilled.recipes import CENTRE, Layers
from benchmarks.evidence.distilled.teaching import (
    GUIDANCE,
    TEACHER_SIGMAS,
    Model,
    Paths,
    schedule_of,
    teach,
)
from benchmarks.evidence.workshop import Workshop
from glance.runs.folder import RunFolder

SIGMAS = (*schedule_of("own-4").sigmas, 0.0)


def test_a_taught_pair_is_loaded_as_it_was_and_lands_nearer(
    tiny_flux: Path, tmp_path: Path
) -> None:
    shop, run = Workshop(tmp_path, tiny_flux), RunFolder(tmp_path / "run")
    model = Model(shop.load())
    text = model.encode(["a hill by the sea"])
    paths = Paths(model.follow(model.noise([3]), TEACHER_SIGMAS, text, GUIDANCE), text)
    recipe = replace(
        CENTRE, loose=1, steps=12, rank=4, alpha_per_rank=4, layers=Layers.ATTENTION, lands=True
    )
    noise, end = paths.points[0], paths.points[-1]
    base = model.follow(noise, SIGMAS, text, GUIDANCE)[-1]

    teach(model, recipe, paths)
    model.save(run)
    taught = model.sample(recipe, noise, text)
    loaded = Model(shop.load(run)).sample(recipe, noise, text)

    torch.testing.assert_close(loaded, taught, rtol=0, atol=1e-5)
    assert (taught - end).square().mean() < (base - end).square().mean()
