"""Krea 2, only narrow: twelve layers of a Qwen3-VL are read, and Qwen-Image's VAE."""

from diffusers import Krea2Pipeline, Krea2Transformer2DModel

from tiny_models.parts import LATENT_CHANNELS, qwen3_vl, scheduler, video_vae
from tiny_models.vocabularies import qwen_tokenizer

_TEXT_WIDTH = 16
_TEXT_LAYERS = 36  # twelve of them are read, up to the 35th


def make() -> Krea2Pipeline:
    return Krea2Pipeline(
        # What Krea2Pipeline falls back to, and diffusers' own tests use.
        scheduler=scheduler(max_image_seq_len=6400, shift=1.0),
        vae=video_vae(),
        text_encoder=qwen3_vl(width=_TEXT_WIDTH, layers=_TEXT_LAYERS),
        tokenizer=qwen_tokenizer(),
        transformer=Krea2Transformer2DModel(
            in_channels=LATENT_CHANNELS * 4,  # 2x2 latent pixels are packed into one token
            num_layers=1,
            attention_head_dim=16,
            num_attention_heads=4,
            num_key_value_heads=1,
            intermediate_size=64,
            timestep_embed_dim=32,
            text_hidden_dim=_TEXT_WIDTH,
            num_text_layers=12,
            text_num_attention_heads=2,
            text_num_key_value_heads=2,
            text_intermediate_size=32,
            num_layerwise_text_blocks=1,
            num_refiner_text_blocks=1,
            axes_dims_rope=(4, 4, 8),  # sums to attention_head_dim
        ).eval(),
    )
