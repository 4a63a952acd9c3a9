"""FLUX.1-dev, only narrow: 16 latent channels, 2x2 packing, embedded guidance, dynamic shift."""

from diffusers import FluxPipeline, FluxTransformer2DModel

from tiny_models.parts import LATENT_CHANNELS, TEXT_WIDTH, clip, scheduler, t5, vae
from tiny_models.vocabularies import clip_tokenizer, t5_tokenizer


def make() -> FluxPipeline:
    return FluxPipeline(
        scheduler=scheduler(),
        vae=vae(),
        text_encoder=clip(),
        tokenizer=clip_tokenizer(),
        text_encoder_2=t5(),
        tokenizer_2=t5_tokenizer(),
        transformer=FluxTransformer2DModel(
            in_channels=LATENT_CHANNELS * 4,  # 2x2 latent pixels are packed into one token
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=TEXT_WIDTH,
            pooled_projection_dim=TEXT_WIDTH,
            guidance_embeds=True,
            axes_dims_rope=(4, 4, 8),  # sums to attention_head_dim
        ).eval(),
    )
