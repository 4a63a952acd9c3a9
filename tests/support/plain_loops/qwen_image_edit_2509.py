"""Qwen-Image-Edit: as Qwen-Image, with the reference beside the prompt and beside the noise."""

from typing import Any

import torch
from PIL import Image
from torch import Tensor

from plain_loops.parts import SIDE, Velocity, mean_and_deviation, packed_noise
from plain_loops.qwen_image import end, guided

__all__ = ["begin", "end"]


def begin(
    pipeline: Any, prompt: str, generator: torch.Generator, reference: Image.Image
) -> tuple[Tensor, Velocity]:
    width, height = size_of(reference, area=384 * 384)
    small = [pipeline.image_processor.resize(reference, height, width)]
    said, unsaid = (pipeline.encode_prompt(text, image=small)[:1] for text in (prompt, ""))
    width, height = size_of(reference, area=SIDE * SIDE)
    tokens = encoded(pipeline, reference, width, height)
    velocity = guided(pipeline, said, unsaid, tokens, (1, height // 16, width // 16))
    return packed_noise(pipeline, generator), velocity


def size_of(picture: Image.Image, *, area: int) -> tuple[int, int]:
    """About that area in the picture's shape, in steps of 32 pixels."""
    ratio = picture.width / picture.height
    width = (area * ratio) ** 0.5
    return round(width / 32) * 32, round(width / ratio / 32) * 32


def encoded(pipeline: Any, picture: Image.Image, width: int, height: int) -> Tensor:
    pixels = pipeline.image_processor.preprocess(picture, height, width)[:, :, None]
    mean, std = mean_and_deviation(pipeline.vae)
    latents = (pipeline.vae.encode(pixels).latent_dist.mode() - mean) / std
    return pipeline._pack_latents(latents, 1, latents.shape[1], height // 8, width // 8)
