"""Chroma1, only narrow: FLUX.1 without CLIP and embedded guidance; padding is masked."""

from diffusers import ChromaPipeline, ChromaTransformer2DModel

from tiny_models.parts import LATENT_CHANNELS, TEXT_WIDTH, scheduler, t5, vae
from tiny_models.vocabularies import t5_tokenizer


def make() -> ChromaPipeline:
    return ChromaPipeline(
        # An assumption: Chroma1's own scheduler_config.json was not seen here.
        scheduler=scheduler(shift=1.0, use_dynamic_shifting=False),
        vae=vae(),  # FLUX.1's
        text_encoder=t5(),
        tokenizer=t5_tokenizer(),
        transformer=ChromaTransformer2DModel(
            patch_size=1,
            in_channels=LATENT_CHANNELS * 4,  # 2x2 latent pixels are packed into one token
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=TEXT_WIDTH,
            axes_dims_rope=(4, 4, 8),  # sums to attention_head_dim
            approximator_num_channels=64,
            approximator_hidden_dim=32,
            approximator_layers=1,
        ).eval(),
    )
