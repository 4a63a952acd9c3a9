"""Lumina-Image 2.0, only narrow: Gemma 2 reads, time runs from noise (0) to picture (1)."""

from diffusers import FlowMatchEulerDiscreteScheduler, Lumina2Pipeline, Lumina2Transformer2DModel

from tiny_models.parts import LATENT_CHANNELS, TEXT_WIDTH, gemma2, vae
from tiny_models.vocabularies import gemma_tokenizer


def make() -> Lumina2Pipeline:
    return Lumina2Pipeline(
        # From memory: Lumina-Image-2.0's own scheduler_config.json was not seen here.
        scheduler=FlowMatchEulerDiscreteScheduler(shift=6.0),
        vae=vae(),  # FLUX.1's
        text_encoder=gemma2(),
        tokenizer=gemma_tokenizer(),
        transformer=Lumina2Transformer2DModel(
            sample_size=128,
            patch_size=2,
            in_channels=LATENT_CHANNELS,
            hidden_size=36,
            num_layers=1,
            num_refiner_layers=1,
            num_attention_heads=3,  # grouped: three heads share one key
            num_kv_heads=1,
            multiple_of=16,
            axes_dim_rope=(4, 4, 4),  # sums to hidden_size / num_attention_heads
            axes_lens=(300, 512, 512),
            cap_feat_dim=TEXT_WIDTH,
        ).eval(),
    )
