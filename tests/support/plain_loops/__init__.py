"""Two-phase sampling written out by hand: x += (next sigma - sigma) * velocity.

It shares no code with glance, and of diffusers uses only the models and their packing. Pipelines
carry the adapters `slow` and `fast`. One module a family: `begin` returns the noise and the
velocity, guidance included, and takes the reference of a family that edits; `end` returns the
latents as the VAE takes them.
"""

from collections.abc import Mapping, Sequence
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from plain_loops.parts import SIDE as SIDE
from plain_loops.parts import Velocity

SLOW = (1000.0, 979.1915, 957.5157, 934.9171, 911.3354)
FAST = (886.7053, 745.0728, 562.9505, 320.0802, 20.0)
FAMILIES = tuple(module.name for module in iter_modules(__path__) if module.name != "parts")


@torch.inference_mode()
def generate(family: str, pipeline: Any, prompt: str, **options: Any) -> Any:
    """Return the image that plain Euler steps make of the seed's noise; options as for `sample`."""
    return decode(family, pipeline, sample(family, pipeline, prompt, **options))


@torch.inference_mode()
def decode(family: str, pipeline: Any, latents: Tensor) -> Any:
    """Return the picture of latents as the family packs them."""
    decoded = pipeline.vae.decode(_loop(family).end(pipeline, latents), return_dict=False)[0]
    if decoded.ndim == 5:  # a video VAE's: one frame
        decoded = decoded[:, :, 0]
    return pipeline.image_processor.postprocess(decoded, output_type="pil")[0]


@torch.inference_mode()
def sample(
    family: str,
    pipeline: Any,
    prompt: str,
    *,
    seed: int,
    guidance: tuple[float, float],
    timesteps: tuple[Sequence[float], Sequence[float]] = (SLOW, FAST),
    reference: Image.Image | None = None,
    beside: Mapping[str, float] | None = None,
) -> Tensor:
    """Return the latents, as the family packs them. `guidance` and `timesteps` are the phases'.

    `beside`: further adapters in both phases, with their strengths.
    """
    further = beside or {}
    x, velocity = begin(family, pipeline, prompt, seed=seed, reference=reference)
    slow, fast = timesteps
    sigmas = torch.tensor([timestep / 1000 for timestep in (*slow, *fast, 0.0)])
    for step, (now, then) in enumerate(pairwise(sigmas)):
        is_slow = step < len(slow)
        names = ["slow" if is_slow else "fast", *further]
        pipeline.set_adapters(names, [1.0, *further.values()])
        x = x + (then - now) * velocity(x, now[None], guidance[0] if is_slow else guidance[1])
    return x


@torch.inference_mode()
def follow(
    family: str,
    pipeline: Any,
    prompt: str,
    *,
    seed: int,
    guidance: float,
    sigmas: Sequence[float],
    reference: Image.Image | None = None,
) -> list[Tensor]:
    """Return what the model without adapters passes at each of `sigmas` and at 0, packed."""
    x, velocity = begin(family, pipeline, prompt, seed=seed, reference=reference)
    passed = [x]
    for now, then in pairwise(torch.tensor([*sigmas, 0.0])):
        x = x + (then - now) * velocity(x, now[None], guidance)
        passed.append(x)
    return passed


@torch.inference_mode()
def begin(
    family: str, pipeline: Any, prompt: str, *, seed: int, reference: Image.Image | None = None
) -> tuple[Tensor, Velocity]:
    """Return the seed's noise, packed, and the velocity of `prompt`."""
    generator = torch.Generator("cpu").manual_seed(seed)
    more = () if reference is None else (reference,)
    noise, velocity = _loop(family).begin(pipeline, prompt, generator, *more)
    return noise, velocity


def load(model: Path, loras: dict[str, Path]) -> Any:
    """Return the pipeline as diffusers loads it, with a LoRA a phase."""
    from diffusers import DiffusionPipeline

    pipeline = DiffusionPipeline.from_pretrained(model)
    for name, path in loras.items():
        pipeline.load_lora_weights(path.parent, weight_name=path.name, adapter_name=name)
    return pipeline


def furthest(one: Image.Image, other: Image.Image) -> int:
    """Return the largest difference of two images, in grey levels of 255."""
    assert one.size == other.size
    return int(np.abs(np.asarray(one).astype(int) - np.asarray(other)).max())


def _loop(family: str) -> Any:
    return import_module(f"plain_loops.{family}")
