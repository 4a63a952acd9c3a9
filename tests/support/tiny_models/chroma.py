"""Chroma1, only narrow: FLUX.1 without CLIP and embedded guidance; padding is masked."""

from diffusers import ChromaPipeline, ChromaTransformer2DModel, FlowMatchEulerDiscreteScheduler

from tiny_models.parts import LATENT_CHANNELS, TEXT_WIDTH, t5, vae
from tiny_models.vocabularies import t5_tokenizer


def make() -> ChromaPipeline:
    return ChromaPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(
            # An assumption: Chroma1's own scheduler_config.json was not seen here.
            base_shift=0.5,
            max_shift=1.15,
            base_image_seq_len=256,
            max_image_seq_len=4096,
            shift=1.0,
            use_dynamic_shifting=False,
        ),
        vae=vae(scaling_factor=0.3611, shift_factor=0.1159),  # FLUX.1's VAE
        text_encoder=t5(),
        tokenizer=t5_tokenizer(),
        transformer=_transformer(),
    )


def _transformer() -> ChromaTransformer2DModel:
    return ChromaTransformer2DModel(
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
    ).eval()
