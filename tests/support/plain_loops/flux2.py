"""FLUX.2-dev: the transformer is told the guidance; noise and the VAE's norm are of 2x2 patches."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from plain_loops.parts import SIDE, Velocity


def begin(pipeline: Any, prompt: str, generator: torch.Generator) -> tuple[Tensor, Velocity]:
    text = pipeline.encode_prompt(prompt)
    latents, forward = start(pipeline, generator)

    def velocity(x: Tensor, sigma: Tensor, guidance: float) -> Tensor:
        return forward(x, sigma, *text, torch.tensor([guidance]))

    return latents, velocity


def start(pipeline: Any, generator: torch.Generator) -> tuple[Tensor, Callable[..., Tensor]]:
    """Return the noise and one pass of the transformer: klein's, too."""
    patches = torch.randn(1, 4 * 32, SIDE // 16, SIDE // 16, generator=generator)
    ids = pipeline._prepare_latent_ids(patches)

    def forward(
        x: Tensor, sigma: Tensor, embeds: Tensor, text_ids: Tensor, guidance: Tensor | None
    ) -> Tensor:
        return pipeline.transformer(
            hidden_states=x,
            timestep=sigma * 1000 / 1000,
            guidance=guidance,
            encoder_hidden_states=embeds,
            txt_ids=text_ids,
            img_ids=ids,
            return_dict=False,
        )[0]

    return pipeline._pack_latents(patches), forward


def end(pipeline: Any, latents: Tensor) -> Tensor:
    norm = pipeline.vae.bn
    patches = latents.permute(0, 2, 1).reshape(1, -1, SIDE // 16, SIDE // 16)
    mean, variance = (each.view(1, -1, 1, 1) for each in (norm.running_mean, norm.running_var))
    deviation = torch.sqrt(variance + pipeline.vae.config.batch_norm_eps)
    return pipeline._unpatchify_latents(patches * deviation + mean)
