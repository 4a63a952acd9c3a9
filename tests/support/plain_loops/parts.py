"""What several families share: the noise, and the latents' way to the VAE. No velocity is here."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

SIDE = 64
Velocity = Callable[[Tensor, Tensor, float], Tensor]
"""Of latents, a sigma (1,) and a guidance scale."""


def noise(generator: torch.Generator, *, channels: int = 16) -> Tensor:
    return torch.randn(1, channels, SIDE // 8, SIDE // 8, generator=generator)


def packed_noise(pipeline: Any, generator: torch.Generator) -> Tensor:
    """2x2 latent pixels to a token."""
    return pipeline._pack_latents(noise(generator), 1, 16, SIDE // 8, SIDE // 8)


def unpacked(pipeline: Any, latents: Tensor) -> Tensor:
    return pipeline._unpack_latents(latents, SIDE, SIDE, pipeline.vae_scale_factor)


def unscaled(pipeline: Any, latents: Tensor) -> Tensor:
    config = pipeline.vae.config
    return latents / config.scaling_factor + config.shift_factor


def unpacked_unscaled(pipeline: Any, latents: Tensor) -> Tensor:
    return unscaled(pipeline, unpacked(pipeline, latents))


def unnormalised(pipeline: Any, latents: Tensor) -> Tensor:
    """Of a video VAE."""
    config = pipeline.vae.config
    mean, std = (
        torch.tensor(values).view(1, -1, 1, 1, 1)
        for values in (config.latents_mean, config.latents_std)
    )
    return latents / (1.0 / std) + mean  # as diffusers rounds it
