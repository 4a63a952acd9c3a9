"""Stable Diffusion 3.5, only narrow: three text encoders, unpacked latents, static shift 3."""

from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)

from tiny_models.parts import LATENT_CHANNELS, TEXT_WIDTH, clip_with_projection, t5, vae
from tiny_models.vocabularies import clip_tokenizer, t5_tokenizer


def make() -> StableDiffusion3Pipeline:
    return StableDiffusion3Pipeline(
        # SD3.5's scheduler_config.json
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(scaling_factor=1.5305, shift_factor=0.0609),  # SD3.5's vae/config.json
        text_encoder=clip_with_projection(),
        tokenizer=clip_tokenizer(),
        text_encoder_2=clip_with_projection(),
        tokenizer_2=clip_tokenizer(),
        text_encoder_3=t5(width=2 * TEXT_WIDTH),
        tokenizer_3=t5_tokenizer(),
        transformer=SD3Transformer2DModel(
            sample_size=128,
            patch_size=2,
            in_channels=LATENT_CHANNELS,
            out_channels=LATENT_CHANNELS,
            num_layers=2,  # the last block of an MM-DiT has no output for the text
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=2
            * TEXT_WIDTH,  # T5's width; both CLIPs beside each other are padded
            caption_projection_dim=32,
            pooled_projection_dim=2 * TEXT_WIDTH,
            pos_embed_max_size=32,  # a table of places that would outweigh the rest
            dual_attention_layers=(0,),  # 3.5's: some of the first blocks
            qk_norm="rms_norm",  # 3.5's
        ).eval(),
    )
