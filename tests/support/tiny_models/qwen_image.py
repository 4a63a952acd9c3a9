"""Qwen-Image, only narrow: a language model reads the caption, a video VAE makes the latents."""

from diffusers import QwenImagePipeline, QwenImageTransformer2DModel

from tiny_models.parts import LATENT_CHANNELS, TEXT_WIDTH, qwen2_5_vl, scheduler, video_vae
from tiny_models.vocabularies import qwen_tokenizer


def make(**transformer: bool) -> QwenImagePipeline:
    return QwenImagePipeline(
        # Qwen-Image's scheduler_config.json; SimpleTuner repeats it in qwen_image/model.py
        scheduler=scheduler(max_shift=0.9, max_image_seq_len=8192, shift=1.0, shift_terminal=0.02),
        vae=video_vae(),
        text_encoder=qwen2_5_vl(),
        tokenizer=qwen_tokenizer(),
        transformer=QwenImageTransformer2DModel(
            patch_size=2,
            in_channels=LATENT_CHANNELS * 4,  # 2x2 latent pixels are packed into one token
            out_channels=LATENT_CHANNELS,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=TEXT_WIDTH,
            axes_dims_rope=(4, 4, 8),  # sums to attention_head_dim
            **transformer,
        ).eval(),
    )
