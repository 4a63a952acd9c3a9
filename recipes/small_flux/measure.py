"""Measure a model on captions it never saw: each attribute, and all of a caption's together."""

import time
from collections import Counter

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from flux import decode, sample
from text import Text

from glance.evaluation.small_world.check import Verdict, check_picture
from glance.evaluation.small_world.world import describe, held_out_scenes


@torch.no_grad()
def measure(
    text: Text,
    transformer: FluxTransformer2DModel,
    vae: AutoencoderKL,
    *,
    guidance: float,
    count: int = 50,
    steps: int = 50,
    length: int | None = 128,
) -> dict[str, float]:
    """Return the share of held-out full captions met, by attribute and altogether."""
    start = time.monotonic()
    captions = [describe(scene) for scene in held_out_scenes(count)]
    verdicts = []
    for first in range(0, count, 50):
        batch = captions[first : first + 50]
        words = text.encode(batch, length=length)
        latents = sample(transformer, words, steps=steps, guidance=guidance, seed=first)
        pictures = decode(vae, latents).numpy()
        verdicts += [check_picture(p, c) for p, c in zip(pictures, batch, strict=True)]
    return {**summarise(verdicts), "count": count, "took": time.monotonic() - start}


def summarise(verdicts: list[Verdict]) -> dict[str, float]:
    """Return the share of true verdicts, by attribute and altogether."""
    right: Counter[str] = Counter()
    for verdict in verdicts:
        right.update(name for name, met in verdict.items() if met)
    shares = {name: right[name] / len(verdicts) for name in verdicts[0]}
    return {**shares, "all": sum(all(v.values()) for v in verdicts) / len(verdicts)}
