"""The small FLUX put together: the transformer, its inputs, sampling, and the pipeline's folder."""

import math
from itertools import pairwise
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
)
from text import WIDTH, Text
from torch import Tensor, nn

LATENT_CHANNELS = 16
HEADS, HEAD_SIZE = 4, 32
SHIFT = math.exp(0.5 + (16 - 256) * (1.15 - 0.5) / (4096 - 256))
"""FLUX's dynamic shift at 64x64, which is sixteen tokens."""


def build_transformer() -> FluxTransformer2DModel:
    """Return a fresh transformer whose blocks begin as the identity."""
    transformer = FluxTransformer2DModel(
        in_channels=LATENT_CHANNELS * 4,
        num_layers=2,
        num_single_layers=4,
        attention_head_dim=HEAD_SIZE,
        num_attention_heads=HEADS,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        guidance_embeds=True,
        axes_dims_rope=(8, 12, 12),
    )
    for name, module in transformer.named_modules():
        modulates = isinstance(module, nn.Linear) and ".norm" in name and name.endswith("linear")
        if modulates or name in ("proj_out", "norm_out.linear"):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    return transformer


def pack(latents: Tensor) -> Tensor:
    """Return (count, 16, 8, 8) latents as (count, 16, 64) tokens."""
    packed: Tensor = FluxPipeline._pack_latents(latents, len(latents), *latents.shape[1:])
    return packed


def unpack(tokens: Tensor) -> Tensor:
    """Return tokens as (count, 16, 8, 8) latents."""
    side = 2 * math.isqrt(tokens.shape[1])
    latents: Tensor = FluxPipeline._unpack_latents(tokens, side * 8, side * 8, 8)
    return latents


def predict(
    transformer: FluxTransformer2DModel,
    tokens: Tensor,
    sigmas: Tensor,
    text: tuple[Tensor, Tensor],
    guidance: Tensor,
) -> Tensor:
    """Return the velocity that the transformer sees."""
    side = math.isqrt(tokens.shape[1])
    hidden, pooled = text
    velocity: Tensor = transformer(
        hidden_states=tokens,
        timestep=sigmas,
        guidance=guidance,
        pooled_projections=pooled,
        encoder_hidden_states=hidden,
        txt_ids=torch.zeros(hidden.shape[1], 3),
        img_ids=FluxPipeline._prepare_latent_image_ids(1, side, side, "cpu", torch.float32),
        return_dict=False,
    )[0]
    return velocity


@torch.no_grad()
def sample(
    transformer: FluxTransformer2DModel,
    text: tuple[Tensor, Tensor],
    *,
    steps: int,
    guidance: float,
    seed: int,
) -> Tensor:
    """Return latents sampled with plain Euler steps on FLUX's shifted schedule."""
    count = len(text[0])
    noise = torch.randn(count, LATENT_CHANNELS, 8, 8, generator=torch.Generator().manual_seed(seed))
    tokens = pack(noise)
    plain = torch.linspace(1, 1 / steps, steps)
    sigmas = torch.cat([SHIFT * plain / (1 + (SHIFT - 1) * plain), torch.zeros(1)])
    for now, then in pairwise(sigmas):
        velocity = predict(
            transformer, tokens, now.expand(count), text, torch.full((count,), guidance)
        )
        tokens = tokens + (then - now) * velocity
    return unpack(tokens)


@torch.no_grad()
def decode(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Return pictures, (count, 64, 64, 3) bytes."""
    scaled = latents / vae.config.scaling_factor + vae.config.shift_factor
    pictures: Tensor = vae.decode(scaled).sample
    return ((pictures / 2 + 0.5).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1)


def write_pipeline(
    folder: Path, *, vae: AutoencoderKL, text: Text, transformer: FluxTransformer2DModel
) -> None:
    """Write everything in diffusers layout: codec and transformer in half precision.

    The text encoders are small and stay in float32: transformers loads what it finds, diffusers
    loads float32, and a pipeline loaded without a word about precision must agree with itself.
    """
    vae.register_to_config(_name_or_path="")  # where it lay while it was made
    pipeline = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(  # FLUX.1-dev's
            base_shift=0.5,
            max_shift=1.15,
            base_image_seq_len=256,
            max_image_seq_len=4096,
            shift=3.0,
            use_dynamic_shifting=True,
        ),
        vae=vae.half(),
        text_encoder=text.clip,
        tokenizer=text.clip_tokenizer,
        text_encoder_2=text.t5,
        tokenizer_2=text.t5_tokenizer,
        transformer=transformer.half(),
    )
    pipeline.save_pretrained(folder)
