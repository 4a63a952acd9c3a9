"""What several families share: the noise, ways to guide, and the latents' way to the VAE."""

from collections.abc import Callable, Sequence
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


def in_two_passes(
    forward: Callable[..., Tensor],
    said: Sequence[Tensor],
    unsaid: Sequence[Tensor],
    *,
    keeps_length: bool = False,
) -> Velocity:
    """`keeps_length`: the guided velocity is as long as the unguided one."""

    def velocity(x: Tensor, sigma: Tensor, guidance: float) -> Tensor:
        with_ = forward(x, sigma, *said)
        if guidance <= 1:
            return with_
        without = forward(x, sigma, *unsaid)
        guided = without + guidance * (with_ - without)
        if not keeps_length:
            return guided
        return guided * (with_.norm(dim=-1, keepdim=True) / guided.norm(dim=-1, keepdim=True))

    return velocity


def in_one_pass(
    forward: Callable[..., Tensor],
    said: Sequence[Tensor],
    unsaid: Sequence[Tensor],
    *,
    batch_axes: Sequence[int] = (0, 0, 0),
) -> Velocity:
    """Both prompts in one batch, the negative one first."""

    def velocity(x: Tensor, sigma: Tensor, guidance: float) -> Tensor:
        if guidance <= 1:
            return forward(x, sigma, *said)
        both = (
            torch.cat(each, dim=axis)
            for *each, axis in zip(unsaid, said, batch_axes[: len(said)], strict=True)
        )
        without, with_ = forward(torch.cat([x, x]), sigma.expand(2), *both).chunk(2)
        return without + guidance * (with_ - without)

    return velocity


def unpacked(pipeline: Any, latents: Tensor) -> Tensor:
    return pipeline._unpack_latents(latents, SIDE, SIDE, pipeline.vae_scale_factor)


def unscaled(pipeline: Any, latents: Tensor) -> Tensor:
    config = pipeline.vae.config
    return latents / config.scaling_factor + config.shift_factor


def unpacked_unscaled(pipeline: Any, latents: Tensor) -> Tensor:
    return unscaled(pipeline, unpacked(pipeline, latents))


def unnormalised(pipeline: Any, latents: Tensor) -> Tensor:
    """Of a video VAE."""
    mean, std = mean_and_deviation(pipeline.vae)
    return latents / (1.0 / std) + mean  # as diffusers rounds it


def mean_and_deviation(video_vae: Any) -> tuple[Tensor, Tensor]:
    config = video_vae.config
    mean, std = (torch.tensor(each) for each in (config.latents_mean, config.latents_std))
    return mean.view(1, -1, 1, 1, 1), std.view(1, -1, 1, 1, 1)
