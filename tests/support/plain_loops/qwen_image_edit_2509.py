"""Qwen-Image-Edit: as Qwen-Image, with the reference beside the prompt and beside the noise."""

from typing import Any

import torch
from PIL import Image
from torch import Tensor

from plain_loops.parts import SIDE, Velocity, packed_noise
from plain_loops.qwen_image import end

__all__ = ["begin", "end"]


def begin(
    pipeline: Any, prompt: str, generator: torch.Generator, reference: Image.Image
) -> tuple[Tensor, Velocity]:
    width, height = size_of(reference, area=384 * 384)
    small = [pipeline.image_processor.resize(reference, height, width)]
    embeds, _ = pipeline.encode_prompt(prompt, image=small)
    negative, _ = pipeline.encode_prompt("", image=small)
    width, height = size_of(reference, area=SIDE * SIDE)
    tokens = encoded(pipeline, reference, width, height)
    shapes = [[(1, SIDE // 16, SIDE // 16), (1, height // 16, width // 16)]]

    def velocity(x: Tensor, sigma: Tensor, guidance: float) -> Tensor:
        with_ = forward(x, sigma, embeds)
        if guidance <= 1:
            return with_
        without = forward(x, sigma, negative)
        guided = without + guidance * (with_ - without)
        return guided * (with_.norm(dim=-1, keepdim=True) / guided.norm(dim=-1, keepdim=True))

    def forward(x: Tensor, sigma: Tensor, embeds: Tensor) -> Tensor:
        return pipeline.transformer(
            hidden_states=torch.cat([x, tokens], dim=1),
            timestep=sigma,
            encoder_hidden_states=embeds,
            img_shapes=shapes,
            return_dict=False,
        )[0][:, : x.shape[1]]

    return packed_noise(pipeline, generator), velocity


def size_of(picture: Image.Image, *, area: int) -> tuple[int, int]:
    """About that area in the picture's shape, in steps of 32 pixels."""
    ratio = picture.width / picture.height
    width = (area * ratio) ** 0.5
    return round(width / 32) * 32, round(width / ratio / 32) * 32


def encoded(pipeline: Any, picture: Image.Image, width: int, height: int) -> Tensor:
    pixels = pipeline.image_processor.preprocess(picture, height, width)[:, :, None]
    config = pipeline.vae.config
    mean, std = (
        torch.tensor(values).view(1, -1, 1, 1, 1)
        for values in (config.latents_mean, config.latents_std)
    )
    latents = (pipeline.vae.encode(pixels).latent_dist.mode() - mean) / std
    return pipeline._pack_latents(latents, 1, latents.shape[1], height // 8, width // 8)
